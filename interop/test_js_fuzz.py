"""The same messages to Python and to JavaScript: both answer the same, but for what DEVIATIONS.md says.

``make explore`` and ``make soak`` play more sequences, others each time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import hypothesis
import pytest
import pytest_asyncio
from effort import EXPLORE, examples

from interop.agents import Agent
from interop.fuzz import pinned
from interop.fuzz.ends import JavaScript, Python
from interop.fuzz.messages import sequences
from interop.fuzz.rules import ROWS
from interop.fuzz.session import Difference, Say, Session, Step
from interop.peers import LIBRARIES

PAGE = Path(__file__).parent / "DEVIATIONS.md"
SEQUENCES = examples(400)
AGAINST = ["plain-4", "ws-wrapper", *(name for name in LIBRARIES if name == "ws-wrapper-4")]


@asynccontextmanager
async def listening(library: str) -> AsyncGenerator[JavaScript]:
    """An agent of its own, since it tells of each call."""
    async with Agent.start(library) as agent:
        await agent.call("set", calls=True)
        yield JavaScript(agent, (await agent.call("listen", path="/ws"))["url"])
        assert agent.logs == []


class Sides:
    """A peer of JavaScript and one of Python (or another of JavaScript), for one sequence after the other."""

    def __init__(self, library: str, js: JavaScript, other: Python | JavaScript) -> None:
        self.version = 3 if library == "ws-wrapper" else 4
        self._js = js
        self._other = other
        self.said: Counter[str] = Counter()
        self.used: set[str] = set()

    async def play(self, steps: list[Step]) -> None:
        async with self._js.end() as js, self._other.end() as other:
            session = Session(js, other, ruled=isinstance(self._other, Python))
            await session.play(steps)
        self.said += session.said
        self.used |= session.used


@pytest_asyncio.fixture(loop_scope="session", params=AGAINST)
async def sides(request: pytest.FixtureRequest) -> AsyncGenerator[Sides]:
    logging.getLogger("wsrpc").setLevel(logging.CRITICAL)  # handlers fail all the time, on purpose
    try:
        async with AsyncExitStack() as stack:
            js = await stack.enter_async_context(listening(request.param))
            python = await stack.enter_async_context(Python.served(anonymous=request.param != "ws-wrapper"))
            yield Sides(request.param, js, python)
    finally:
        logging.getLogger("wsrpc").setLevel(logging.NOTSET)


def by_hand(version: int) -> list[tuple[str, list[Step]]]:
    return [*pinned.BOTH.items(), *(pinned.FOUR.items() if version == 4 else ())]


@pytest.mark.asyncio(loop_scope="session")
async def test_by_hand(sides: Sides) -> None:
    for row, steps in by_hand(sides.version):
        sides.used.clear()
        await sides.play(steps)
        assert row not in ROWS or row in sides.used or sides.version == 3, f"{row}: JavaScript does the same"


@pytest.mark.timeout(3600 if EXPLORE else 60)
@pytest.mark.asyncio(loop_scope="session")
async def test_generated(sides: Sides) -> None:
    loop = asyncio.get_running_loop()

    @hypothesis.settings(
        max_examples=SEQUENCES,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(sequences(sides.version))
    def sequence(steps: list[Step]) -> None:
        asyncio.run_coroutine_threadsafe(sides.play(steps), loop).result()

    await asyncio.to_thread(sequence)
    assert sides.said["messages"] > 10 * SEQUENCES
    print(f"{sides.said['messages']} messages in {SEQUENCES} sequences")


def test_each_rule_has_its_row_and_is_used() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()

    assert [row for row in ROWS if not any(line.startswith((f"| {row} |", f"- **{row}.**")) for line in lines)] == []
    assert {row for row, _ in by_hand(4)} >= ROWS


@pytest.mark.asyncio(loop_scope="session")
async def test_a_difference_is_noticed(sides: Sides) -> None:
    """Without the rules, these are differences."""
    async with sides._js.end() as js, sides._other.end() as python:
        with pytest.raises(Difference, match="null"):
            await Session(js, python, ruled=False).play(
                [Say('{"i":21,"a":["log",1]}'), Say('{"i":0,"a":["args",null]}')]
            )


@pytest.mark.asyncio(loop_scope="session")
async def test_what_plays_ws_wrapper_plays_it_well() -> None:
    """Where the library is not installed, the stand-in is compared with itself: equals do not differ."""
    library = "ws-wrapper-4" if "ws-wrapper-4" in LIBRARIES else "plain-4"
    async with listening(library) as real, listening("plain-4") as played:
        sides = Sides(library, real, played)
        for _, steps in by_hand(4):
            await sides.play(steps)

"""wsrpc does what ws-wrapper 4.3.1 was recorded to do, frame by frame, or interop/DEVIATIONS.md explains it."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from vectors.conformance.mirror import Mirror, idle
from vectors.conformance.replay import Mismatch, replay
from vectors.conformance.scenario import Scenario, deviating, load, parsed

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "interop" / "DEVIATIONS.md"

RECORDED = load(HERE / "data")
FURTHER = load(HERE / "data" / "further")
"""More sessions of channels and streams, which DEVIATIONS.md does not name one by one."""

DEVIATIONS = json.loads((HERE / "deviations.json").read_text("utf-8"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recorded" in metafunc.fixturenames:
        given = metafunc.config.getoption("--vectors", default=None)
        scenarios = RECORDED + FURTHER if given is None else load(Path(given))
        metafunc.parametrize("recorded", scenarios, ids=lambda recorded: recorded.name)


async def test_scenario(recorded: Scenario) -> None:
    expected = deviating(recorded, DEVIATIONS.get(recorded.name, {}))

    await replay(expected)

    if recorded.name in DEVIATIONS:  # and that is still needed
        with pytest.raises(Mismatch):
            await replay(replace(recorded, opens=expected.opens))

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_whatever_javascript_sends_is_a_message(recorded: Scenario) -> None:
    """Nothing that a conforming peer sends counts as malformed, which closes connections."""
    if recorded.tags - {"pair"}:  # odd, or JavaScript's own
        return
    mirror = Mirror({**recorded.stimuli[0].value, "socket": "open"}, frozenset())
    operations = [stimulus.value for stimulus in recorded.stimuli if stimulus.kind == "do"]
    raw = {operation["data"] for operation in operations if operation["op"] == "send_raw"}
    sent = [step["sent"] for stimulus in recorded.stimuli for step in stimulus.reactions if "sent" in step]
    messages = [text for text in sent if text not in raw]
    try:
        for text in messages:
            mirror.feed(None, text)
        await idle()

        assert mirror.peer.connected
        assert mirror.peer.ignored["foreign"] == 0
        assert mirror.peer.ignored["malformed"] == 0
        # Unpaired surrogates are the one thing that JavaScript sends and Python does not read.
        assert mirror.peer.ignored["unreadable"] == sum(map(has_lone_surrogate, messages))
    finally:
        await mirror.finish()


def has_lone_surrogate(message: str) -> bool:
    return re.search(r"[\ud800-\udfff]", json.dumps(parsed(message), ensure_ascii=False)) is not None


def test_whatever_is_played_otherwise_is_explained() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    titles = {row.split("|")[1].strip() for row in rows}
    named = {name for row in rows for name in re.findall(r"`([a-z]+/[a-z0-9/-]+)`", row)}

    assert named == {scenario.name for scenario in RECORDED} & DEVIATIONS.keys()
    assert {row for deviation in DEVIATIONS.values() for row in deviation["rows"]} <= titles
    assert [name for name, deviation in DEVIATIONS.items() if not deviation["rows"] and name not in named] == []
    assert DEVIATIONS.keys() <= {scenario.name for scenario in RECORDED + FURTHER}


def test_enough_is_replayed() -> None:
    """No scenario is left out by mistake: the numbers are those of the recordings that come with the tests."""
    assert (len(RECORDED), len(FURTHER)) == (159, 145)

"""The conformance kit, with wsrpc in both roles, and with servers that make mistakes.

interop/test_conformance.py has other implementations.
"""

from __future__ import annotations

import asyncio
import json
import re
import runpy
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from programs import PYTHON, ROOT, listening, start
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from scripts.conformance_rows import TABLE, table
from wsrpc import Server
from wsrpc.conformance import _command
from wsrpc.conformance._command import dialing, play_all
from wsrpc.conformance._rows import load

UNDER_TEST = ROOT / "examples" / "conformance" / "under_test.py"
KIT = [*PYTHON, "-m", "wsrpc.conformance"]
PATIENT = ["--timeout", "20"]
"""Rows that hold are not held up by it."""
ROWS = load()

Message = dict[str, Any]
Mistake = Callable[[Message], Message | None]


def test_the_table_is_what_the_recordings_give() -> None:
    assert table() == TABLE.read_text("utf-8"), "run python -m scripts.conformance_rows"


def test_each_row_has_a_name_of_its_own_and_a_section_of_the_protocol() -> None:
    protocol = (ROOT / "docs" / "reference" / "protocol.md").read_text("utf-8")
    sections = {found.lower().replace(" ", "-") for found in re.findall(r"^## (.*)", protocol, re.MULTILINE)}
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert {row.page.removeprefix("protocol.md#") for row in ROWS} <= sections


# ---------------------------------------------------------------- wsrpc


async def play(*words: str) -> tuple[int | None, str, str]:
    """The exit code of the kit, and what it prints to stdout and stderr."""
    process = await start(*KIT, *words)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_a_server_with_wsrpc_passes() -> None:
    async with listening(await start(*PYTHON, str(UNDER_TEST), "0")) as url:
        code, out, err = await play(url, *PATIENT, "-v", "--without", "streams", "values")
        assert (code, err) == (0, ""), out
        assert "ok      channels/named-send (protocol.md#messages)\n" in out
        assert "streams      not played\n" in out and "channels     3 of 3\n" in out


async def test_a_client_with_wsrpc_passes() -> None:
    kit = await start(*KIT, "--listen", "127.0.0.1:0", "--json", *PATIENT)
    assert kit.stderr is not None
    url = (await kit.stderr.readline()).decode().split()[-1]
    client = await start(*PYTHON, str(UNDER_TEST), url)
    out, _ = await kit.communicate()
    assert await client.wait() == 0
    assert [row for row in json.loads(out) if not row["held"]] == []
    assert kit.returncode == 0 and len(json.loads(out)) == len(ROWS)


async def test_what_cannot_be_played() -> None:
    code, out, err = await play("ws://127.0.0.1:1")
    assert (code, out) == (2, "") and err.startswith("no row was played: ")
    async with Server().listen("127.0.0.1", 0) as listener:
        code, out, err = await play(listener.url)
    assert (code, out) == (2, "") and "the handlers of the kit are not registered: after " in err
    for words in ([], ["ws://127.0.0.1:1", "--listen", "127.0.0.1:0"]):
        code, out, err = await play(*words)
        assert (code, out) == (2, "") and "a URL or --listen is needed" in err


async def test_a_peer_that_is_lost_fails_the_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    [(_, failure)] = await play_all(ROWS[:1], dialing("ws://127.0.0.1:1"), 1, at_once=1)
    assert str(failure).startswith("after another row expected a connection, received ")
    monkeypatch.setattr(_command, "WAITING", 0)
    async with _command.listening("127.0.0.1", 0) as accepted:
        outcomes = await play_all(ROWS[:2], accepted, 1, at_once=1)
    assert [str(failure) for _, failure in outcomes] == [
        "after another row expected a connection, received no client has dialed in 0 s"
    ] * 2


# ---------------------------------------------------------------- mistakes


def event(message: Message) -> Any:
    return message["a"][0] if isinstance(message.get("a"), list) and message["a"] else None


def read(text: str) -> Message | None:
    """The message, or None if it is none."""
    try:
        message = json.loads(text)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def dropping(condition: Callable[[Message], Any]) -> Mistake:
    return lambda message: None if condition(message) else message


def without(key: str, condition: Callable[[Message], Any] = lambda message: True) -> Mistake:
    return lambda message: {name: value for name, value in message.items() if name != key or not condition(message)}


SENT: dict[str, tuple[Mistake, str]] = {
    "loses results that are false": (without("d", lambda m: not m.get("d")), r'< .*"d":(0|""|false|{}|\[\])}'),
    "has no flags": (without("_"), r'< .*"_":1'),
    "has texts of its own": (
        lambda m: {**m, "e": {"message": "wrong"}} if "e" in m else m,
        r'< {"i":\d+,"e":(?!{"message":"\*"|"\*")',
    ),
    "cancels nothing": (dropping(lambda m: "i" in m and "x" in m), r'< {"i":"\$.*"x":'),
    "aborts nothing": (dropping(lambda m: "h" in m and "x" in m), r'< .*"h":.*"x":'),
    "answers on the main channel": (without("c"), r'< .*"c":"room"'),
    "never ends a stream": (dropping(lambda m: event(m) == "next" and m["a"][1].get("done")), r'< .*"done":true'),
    "never starts": (dropping(lambda m: event(m) == "start"), r'< .*"start"'),
}
"""Mistakes in what a server sends, and the lines of the rows that notice them."""
RECEIVED: dict[str, tuple[Mistake, str]] = {
    "reads foreign messages": (without("ws-wrapper"), r'> .*"ws-wrapper":false'),
    "reads no cancellations": (dropping(lambda m: "i" in m and "x" in m), r'< {"i":"\$.*"x":'),
    "reads no aborts": (
        dropping(lambda m: "h" in m and "x" in m),
        r'> .*"echo","closed"|> .*"x":{"message":"failed"|> {"h":7,"x":"a"}',
    ),
    "knows no named channels": (without("c"), r'< .*"c":"room"'),
    "confirms no items": (without("i", lambda m: event(m) == "next"), r'> {"i":\d+,"h".*"next"'),
}
"""Mistakes in what it reads."""


@asynccontextmanager
async def changing(url: str, sent: Mistake | None, received: Mistake | None) -> AsyncGenerator[str]:
    """A proxy that changes what the server sends and receives."""

    async def pump(source: Any, target: Any, mistake: Mistake | None) -> None:
        try:
            async for text in source:
                message = read(text) if mistake is not None else None
                if mistake is None or message is None:
                    await target.send(text)
                elif (changed := mistake(message)) is not None:
                    await target.send(json.dumps(changed))
        except ConnectionClosed:
            pass
        await target.close()

    async def accept(link: ServerConnection) -> None:
        async with connect(url, compression=None) as server:
            await asyncio.gather(pump(link, server, received), pump(server, link, sent))

    async with serve(accept, "127.0.0.1", 0, compression=None) as proxy:
        yield f"ws://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("mistake", [*SENT, *RECEIVED])
async def test_a_mistake_fails_its_rows_and_no_others(mistake: str) -> None:
    blocks = [f"= {block}" for name in ("recorded.txt", "added.txt") for block in _blocks(name)]
    wrong, lines = {**SENT, **RECEIVED}[mistake]
    wanted = {_name(block) for block in blocks if re.search(f"^(?:{lines})", block, re.MULTILINE)}
    server = Server()
    server.on("open", runpy.run_path(str(UNDER_TEST))["speak"])
    both = (wrong, None) if mistake in SENT else (None, wrong)
    async with server.listen("127.0.0.1", 0) as listener, changing(listener.url, *both) as url:
        outcomes = await play_all(ROWS, dialing(url), 0.5, at_once=30)
        failed = {row.name for row, failure in outcomes if failure is not None}
        assert wanted <= failed, wanted - failed
        # Others may have been too slow.
        again = await play_all([row for row in ROWS if row.name in failed - wanted], dialing(url), 20, at_once=8)
        assert [(row.name, str(failure)) for row, failure in again if failure is not None] == []


def _blocks(name: str) -> list[str]:
    return TABLE.with_name(name).read_text("utf-8").split("\n= ")[1:]


def _name(block: str) -> str:
    return block.splitlines()[0].partition(": ")[2]

"""`wsrpc listen`."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import Process
from datetime import datetime
from typing import Any

import pytest
from command_process import end, round_trips, serving, start
from programs import free_port

from wsrpc import Server
from wsrpc.testing import FaultProxy


async def event(process: Process) -> dict[str, Any]:
    """The next line that a listener prints."""
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(await process.stdout.readline())
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    return line


async def test_events_of_some_channels_and_names() -> None:
    async with serving() as played:
        arguments = ["said", "left", "--channel", "a", "--channel", "b", "--take", "2"]
        process = await start("listen", played.url, *arguments)
        peer = await played.peers.get()
        for channel, name in (("a", "joined"), ("c", "said"), ("a", "said"), ("b", "left"), ("b", "said")):
            await peer.of(channel).emit(name)
        ended = await end(process)
        assert (ended.code, ended.err) == (0, "")
        found = [json.loads(line) for line in ended.out.splitlines()]
        assert [(line["channel"], line["event"]) for line in found] == [("a", "said"), ("b", "left")]


async def test_large_events_that_nobody_reads_are_dropped() -> None:
    """The bytes that wait are bounded, not only the events."""
    async with serving() as played:
        process = await start("listen", played.url, "--take", "40")
        assert process.stdout is not None and process.stderr is not None
        peer = await played.peers.get()
        for _ in range(40):
            await peer.emit("said", "x" * 1_000_000)
        await round_trips(peer)  # all have come
        reading = asyncio.create_task(process.stdout.read())
        assert b" events were dropped, because the output is read too slowly" in await process.stderr.readline()
        process.terminate()
        assert 10 < (await reading).count(b"\n") < 20
        await process.wait()


async def test_it_comes_back() -> None:
    port = free_port()
    server = Server()
    peers: asyncio.Queue[Any] = asyncio.Queue()
    server.on("open", peers.put_nowait)
    async with server.listen("127.0.0.1", port):
        process = await start("listen", f"ws://127.0.0.1:{port}", "--take", "2")
        await (await peers.get()).emit("first", 1, "two")
        assert await event(process) == {"channel": None, "event": "first", "args": [1, "two"]}
    server = Server()
    server.on("open", peers.put_nowait)
    async with server.listen("127.0.0.1", port):
        await (await peers.get()).of("chat").emit("close")
        assert await event(process) == {"channel": "chat", "event": "close", "args": []}
        code, _, err = await end(process)
    lost, back = err.splitlines()
    assert code == 0
    assert lost == "wsrpc: the connection was lost (1012 the server is closing); reconnecting"
    assert back.startswith("wsrpc: reconnected after ") and back.endswith("may be missing")


async def test_nothing_is_missed_where_the_session_goes_on() -> None:
    async with serving() as played, FaultProxy(played.url) as proxy:
        process = await start("listen", proxy.url, "--take", "2")
        peer = await played.peers.get()
        await round_trips(peer)
        await peer.emit("first")
        assert (await event(process))["event"] == "first"
        proxy.drop()
        await peer.emit("second")
        code, out, err = await end(process)
        assert code == 0 and json.loads(out)["event"] == "second"
        assert err == "" or err.endswith("; nothing was missed\n")


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        (1012, "restart", "could not connect: the server at '{}' refused the connection with HTTP 401: log in"),
        (1008, "go away", "there is no connection (1008 go away); nothing was sent"),
    ],
)
async def test_it_ends_where_coming_back_is_of_no_use(code: int, reason: str, said: str) -> None:
    async with serving() as played:
        process = await start("listen", played.url)
        peer = await played.peers.get()
        played.server.on_handshake(lambda handshake: handshake.reject(401, "log in"))
        await peer.close(code, reason)
        ended = await end(process)
        said = f"wsrpc: {said.format(played.url)}"
        assert ended[:2] == (3, "") and ended.err.splitlines()[-1].startswith(said)

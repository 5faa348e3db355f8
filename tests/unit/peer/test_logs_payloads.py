"""`log_payloads=`: each message is one bounded line of the log, and what is secret is the user's to hide."""

from __future__ import annotations

import asyncio
import logging
import re
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import Client, RpcError, Server
from wsrpc.testing import ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")

SECRET = "s3cr3t-of-mine"


@pytest.fixture(autouse=True)
def _debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "wsrpc")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]


def echoing(**options: Any) -> Server:
    server = Server(**options)
    server.on("echo", lambda value: value)
    return server


async def test_each_message_is_a_line_that_says_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(log_payloads=True, extensions=False)
    server.of("chat").on("say", len)
    server.on("count", lambda up_to: iter(range(up_to)))

    @server.on("refuse")
    def refuse(why: str) -> None:
        raise RpcError(why)

    async with asyncio.timeout(0.1):
        async with connect(server) as client:
            [peer] = server.peers
            await client.emit("nobody handles this", 1, [2, {"three": None}])
            assert await client.of("chat").request("say", "hi") == 2
            with pytest.raises(RpcError):
                await client.request("refuse", "not you")
            assert [n async for n in client.stream("count", 2)] == [0, 1]
        await peer.wait_closed()
    said = [re.sub(r"#\d+", "#N", line) for line in lines(caplog)]
    assert said[0].endswith("bytes that are no event, request or response")  # the client's `hello`
    assert said[1:6] == [
        "received event nobody handles this (1, [2, {'three': None}])",
        "received request chat:say #N ('hi')",
        "sent response chat:say #N (2)",
        "received request refuse #N ('not you')",
        "sent rejection refuse #N ({'message': 'not you'})",
    ]
    assert "sent channel count #N ()" in said
    assert "sent request count/next #N ({'value': 1, 'done': False})" in said
    records = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert {record.peer for record in records} == {peer.id}  # type: ignore[attr-defined]


async def test_what_redact_gives_is_shown_instead(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[tuple[str, str, list[Any]]] = []

    def redact(direction: str, event: str, args: Sequence[Any]) -> Any:
        asked.append((direction, event, list(args)))
        return ["***"] if event == "login" else args

    server, client = echoing(log_payloads=redact), Client(log_payloads=redact)
    server.on("login", lambda name, password: {"token": password})
    async with connect(server, client=client):
        assert await client.request("login", "Ada", SECRET) == {"token": SECRET}
        assert await client.request("echo", "open") == "open"
    assert SECRET not in caplog.text
    assert "request login" in caplog.text and "response login" in caplog.text and "('***')" in caplog.text
    assert "('open')" in caplog.text
    assert ("out", "login", [{"token": SECRET}]) in asked


async def test_a_redact_that_fails_shows_nothing_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def redact(direction: str, event: str, args: Sequence[Any]) -> Any:
        raise KeyError(args)

    async with connect(echoing(log_payloads=redact)) as client:
        assert await client.request("echo", SECRET) == SECRET
        assert SECRET not in caplog.text and "(… redact failed: KeyError)" in caplog.text
        caplog.set_level(logging.INFO, "wsrpc")
        caplog.clear()
        assert await client.request("echo", SECRET) == SECRET
        assert caplog.text == "", "above DEBUG nothing is decoded or logged"


async def test_what_belongs_to_nothing_that_is_known_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    server, line = Server(log_payloads=lambda direction, event, args: args), ScriptedTransport()
    await server.accept(line)
    line.feed({"i": 77, "d": SECRET}, {"i": 79, "x": SECRET}, {"h": 80, "a": ["next", SECRET]}, {"a": SECRET})
    line.feed({"ws-wrapper": False, "a": ["x", SECRET]}, [SECRET], SECRET, SECRET.encode())
    assert SECRET not in caplog.text
    assert "received response ? #77 (…)" in lines(caplog)
    assert "received event ?/next (…)" in lines(caplog)
    line.feed({"h": 7, "c": "admin", "a": ["wipe"]})
    [shown] = [text for text in lines(caplog) if "wipe" in text]
    assert "admin" not in shown, "the name of a channel does not count beside an anonymous channel"
    await server.close()


async def test_a_line_is_bounded_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    deep: Any = "deep"
    for _ in range(30):
        deep = [deep]
    values = ["x" * 100_000, list(range(10_000)), {str(n): n for n in range(10_000)}, deep, b"y" * 100_000, "a\nb"]
    async with connect(echoing(log_payloads=True)) as client:
        for value in values:
            await client.request("echo", value)
        await client.emit("e" * 200, *["z" * 1000] * 50)
        await client.emit("line\nbreak")
        await settled()
    assert len(lines(caplog)) >= 2 * len(values) + 2
    assert all(len(line) < 800 and line.isprintable() for line in lines(caplog))


async def test_what_is_not_to_be_decoded_is_not_decoded_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    server, line = Server(log_payloads=True), ScriptedTransport()
    await server.accept(line)
    payload = '{"i":1,"a":["e"' + ",[]" * 400_000 + "]}"
    tracemalloc.start()
    try:
        line.feed(payload)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(payload), "decoding it takes 60 times as much"
    finally:
        tracemalloc.stop()
    assert any(f"received {len(payload)} bytes that are no event" in text for text in lines(caplog))
    await server.close()

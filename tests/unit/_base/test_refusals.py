"""Mistakes of the user that are refused at once, with words that say what to do, before anything is sent."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
from pathlib import Path
from typing import Any, Never

import pytest
from core_driver import Driven, messages, turns

from wsrpc import Client, Limits, Peer, Router, Server
from wsrpc.testing import MemoryTransport, connect, memory_transports

# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("make", [Server, Client])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limits": 5}, "limits= takes a wsrpc.Limits"),
        ({"limits": {"running": 5}}, "limits= takes a wsrpc.Limits"),
        ({"codec": "json"}, "codec= takes a codec"),
    ],
)
def test_settings_of_another_kind(make: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make(**options)


@pytest.mark.parametrize("reconnect", [5, True, 0.5, {"initial": 1}])
def test_reconnect_of_another_kind(reconnect: Any) -> None:
    with pytest.raises(TypeError, match=r"reconnect= takes a wsrpc\.Reconnect or None"):
        Client("ws://localhost/", reconnect=reconnect)


@pytest.mark.parametrize("seconds", [-1, math.nan])
def test_a_connect_timeout_that_is_none(seconds: float) -> None:
    with pytest.raises(ValueError, match="connect_timeout= is a number of seconds, more than 0, or None for no limit"):
        Client("ws://localhost/", connect_timeout=seconds)


def test_a_tls_context_goes_with_wss() -> None:
    with pytest.raises(ValueError, match="wss://"):
        Client("ws://localhost/", ssl=ssl.create_default_context())
    Client("wss://localhost/", ssl=ssl.create_default_context())


async def test_a_tls_context_with_ws_is_not_tried_again() -> None:
    asked = 0

    def url() -> str:
        nonlocal asked
        asked += 1
        return "ws://127.0.0.1:1/"

    client = Client(url, ssl=ssl.create_default_context())
    async with asyncio.timeout(8):
        with pytest.raises(ValueError, match="wss://"):
            await client.connect()
    assert asked == 1
    await client.close()


@pytest.mark.parametrize("path", ["ws", "ws/", ""])
def test_a_path_begins_with_a_slash(path: str) -> None:
    with pytest.raises(ValueError, match=f"a path begins with a slash, got {path!r}"):
        Server().listen(path=path)
    with pytest.raises(ValueError, match="slash"):
        Server().run(path=path)


def test_origins_are_a_list() -> None:
    with pytest.raises(TypeError, match=r"origins=\['https://a\.b'\]"):
        Server(origins="https://a.b")


async def test_a_socket_or_a_path_of_one_not_both(tmp_path: Path) -> None:
    with socket.socket() as given, pytest.raises(ValueError, match="sock= or unix="):
        Server().listen(sock=given, unix=str(tmp_path / "socket"))


@pytest.mark.parametrize("field", ["waiting", "offline"])
def test_what_is_kept_may_be_nothing_but_not_less(field: str) -> None:
    assert getattr(Limits(**{field: 0}), field) == 0
    with pytest.raises(ValueError, match=f"Limits.{field} must be at least 0, got -1"):
        Limits(**{field: -1})


@pytest.mark.parametrize("field", ["timeout", "open_handlers", "close_timeout", "ping_interval", "ping_timeout"])
@pytest.mark.parametrize("value", [0, 0.0, -1, float("nan")])
def test_a_duration_is_more_than_nothing(field: str, value: float) -> None:
    wrong: dict[str, Any] = {field: value}
    right: dict[str, Any] = {field: 0.2}
    with pytest.raises(ValueError, match=f"Limits.{field} is a duration of more than 0 seconds"):
        Limits(**wrong)
    assert getattr(Limits(**right), field) == 0.2


# ---------------------------------------------------------------- requests and events


@pytest.mark.parametrize("timeout", [float("nan"), -1, -0.001, float("-inf")])
async def test_a_timeout_that_is_none(timeout: float) -> None:
    d = Driven()
    with pytest.raises(ValueError, match="timeout= is a number of seconds"):
        await d.peer.request("e", timeout=timeout)
    assert d.take() == []
    d.assert_empty()
    # Others' timeouts still work.
    task, _ = await d.asks("slow", timeout=5)
    d.clock.advance(5)
    with pytest.raises(TimeoutError):
        await task


async def test_a_timeout_in_text_sends_nothing() -> None:
    d = Driven()
    with pytest.raises((TypeError, ValueError)):
        await d.peer.request("e", timeout="5")  # type: ignore[call-overload]
    assert d.take() == []
    d.assert_empty()


class Unknown:
    """A class that nobody can convert to."""


@pytest.mark.parametrize("returns", ["Unknown", Never, Unknown, list[Unknown], 5, Peer])
@pytest.mark.parametrize("connected", [True, False])
async def test_returns_that_is_no_type_is_refused_before_anything_is_sent(returns: Any, connected: bool) -> None:
    server = Server()
    ran: list[str] = []
    server.on("work", lambda: ran.append("work"))
    async with asyncio.timeout(8):
        if connected:
            async with connect(server) as client:
                assert isinstance(client.peer.transport, MemoryTransport)
                sent = client.peer.transport.sent
                with pytest.raises(TypeError):
                    await client.request("work", returns=returns)
                assert client.peer.transport.sent == sent
                assert client.peer.pending == 0
                assert await client.request("work") is None
                assert ran == ["work"]
        else:
            client = Client("ws://127.0.0.1:1/")
            with pytest.raises(TypeError):
                await client.request("work", returns=returns)
            assert client.peer.pending == 0
            await client.close()
        await server.close()


@pytest.mark.parametrize("target", ["server", "channel"])
async def test_keyword_arguments_to_an_emit_to_all_are_explained(target: str) -> None:
    server = Server()
    async with asyncio.timeout(8):
        async with connect(server) as client:
            client.on("hi", lambda *args: pytest.fail("sent"))
            emit = server.emit if target == "server" else server.of("room").emit
            with pytest.raises(TypeError) as caught:
                await emit("hi", text="hello", skp=None)  # type: ignore[arg-type]
            words = str(caught.value)
            assert "text" in words and "hi" in words
            assert "unexpected keyword argument" not in words
            await turns()
        await server.close()


# ---------------------------------------------------------------- registering


@pytest.mark.parametrize("event", ["open", "connect", "close", "disconnect", "error", "message"])
@pytest.mark.parametrize("options", [{"thread": True}, {"ordered": True}, {"lax": True}, {"lax": False}])
def test_options_that_do_not_apply_to_lifecycle_events(event: str, options: dict[str, Any]) -> None:
    for target in (Server(), Client(), Router()):
        with pytest.raises(TypeError, match=f"'{event}' reports on the connection"):
            target.on(event, lambda: None, **options)
    # On a channel that is an ordinary name.
    Server().of("room").on(event, lambda: None, thread=True)


@pytest.mark.parametrize("event", ["open", "close", "error", "message"])
async def test_a_second_lifecycle_handler_from_elsewhere_warns(event: str, caplog: pytest.LogCaptureFixture) -> None:
    def one() -> None:
        pass

    def two() -> None:
        pass

    server = Server()
    server.on(event, one)
    server.on(event, one)
    assert messages(caplog) == []
    server.on(event, two)
    [text] = messages(caplog)
    lines = [function.__code__.co_firstlineno for function in (one, two)]
    assert f"'{event}'" in text
    assert text.index(f"{__file__}:{lines[0]}") < text.index(f"{__file__}:{lines[1]}")
    assert caplog.records[0].levelno == logging.WARNING
    caplog.clear()
    server.on(event, None)
    server.on(event, one)
    server.once(event, two)  # for the next one only: it replaces nothing
    assert messages(caplog) == []


async def test_a_server_channel_tells_whether_it_is_closed_and_why() -> None:
    server = Server()
    room = server.of("room")
    assert (room.closed, room.close_reason) == (False, None)
    room.close("bored")
    room.close("again")
    assert (room.closed, room.close_reason) == (True, "bored")
    assert not server.of("room").closed


async def test_open_on_a_server_and_on_its_peer_are_two() -> None:
    server = Server()
    seen: list[str] = []
    server.on("close", lambda: seen.append("server"))
    async with asyncio.timeout(8):
        async with connect(server):
            (peer,) = server.peers
            peer.on("close", lambda: seen.append("peer"))
        assert seen == ["server", "peer"]
        await server.close()


# ---------------------------------------------------------------- cancelling Server.emit


async def test_a_cancelled_emit_to_all_has_sent_nothing_and_leaves_nothing() -> None:
    limits = Limits(high_water=1000)
    server = Server(limits=limits)
    heard: list[Any] = []
    client = Client(limits=limits)
    client.on("e", heard.append)
    async with asyncio.timeout(8):
        ours, theirs = memory_transports(limits=limits)
        await asyncio.gather(server.accept(theirs), client.bind(ours))
        theirs.hold()
        await server.emit("e", "x" * 2000)  # now the line is full
        before = asyncio.all_tasks()
        emitting = asyncio.create_task(server.emit("e", "cancelled"))
        await turns(3)
        assert not emitting.done()
        emitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await emitting
        await turns()
        assert asyncio.all_tasks() == before
        theirs.release()
        await turns()
        await server.emit("e", "after")
        await turns()
        assert heard == ["x" * 2000, "after"]
        await client.close()
        await server.close()

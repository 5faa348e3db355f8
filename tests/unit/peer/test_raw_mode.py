"""`on_raw` and `send_raw`: what is no protocol message, beside the protocol."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost, Context, Limits, MessageTooBig, Peer, QueueFull, Server
from wsrpc.codecs import JsonCodec
from wsrpc.testing import ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")

FOREIGN: list[Any] = ["hello", "", b"\x00\x81", b"", '[1,{"a":2}]', '{"type":"hello"}', ' {"i":"x","y":1}', '{"a":[1]}']
FOREIGN += ['{"ws-wrapper":false,"x":1}', '{"a":["x"],"i":-5}', '{"broken', '{"a":["x"],"c":7}']


@asynccontextmanager
async def scripted(server: Server) -> AsyncIterator[tuple[Peer, ScriptedTransport]]:
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    yield peer, transport
    await server.close()


@pytest.mark.parametrize("registered", [True, False])
async def test_a_function_gets_what_is_not_protocol_in_order_and_without_one_it_is_counted(registered: bool) -> None:
    server, got = Server(), list[Any]()
    if registered:
        server.on_raw(lambda peer, message: got.append(message))
    server.on("add", lambda a, b: a + b)
    async with scripted(server) as (peer, transport):
        transport.feed(*FOREIGN, '{"a":["add",1,2],"i":1}')
        assert got == (FOREIGN if registered else []) and (not peer.ignored) is registered
        transport.expect({"i": 1, "d": 3})
        got.clear()
        transport.feed('{"i":5,"d":1}', '{"i":7,"x":null}', '{"ws-wrapper":false,"wsrpc":{"t":"newer"}}')
        transport.feed('{"ws-wrapper":false,"wsrpc":{"t":"credit","h":1,"n":1,"bytes":1}}')
        assert got == [], "the protocol knows these"


async def test_an_async_function_has_one_message_of_a_peer_at_a_time_and_what_waits_is_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, log, go = Server(limits=Limits(running=2, waiting=3)), list[str](), asyncio.Semaphore(0)

    @server.on_raw
    async def raw(peer: Peer, message: str) -> None:
        log.append(f"{message} begins")
        await go.acquire()
        log.append(f"{message} ends")

    async with scripted(server) as (peer, transport):
        transport.feed(*map(str, range(10)))
        assert peer.ignored == {"event dropped, too many wait": 5}
        for _ in range(5):
            go.release()
        await turns_until(lambda: len(log) == 10)
        assert log == [f"{n} {what}" for n in range(5) for what in ("begins", "ends")]
    assert "messages wait already" in caplog.text


async def test_what_it_raises_goes_to_error_handlers_and_the_log(caplog: pytest.LogCaptureFixture) -> None:
    server, errors = Server(), list[BaseException]()
    server.on("error", lambda peer, error: errors.append(error))

    @server.on_raw
    async def raw(peer: Peer, message: str | bytes) -> None:
        raise KeyError("here")

    async with scripted(server) as (_, transport):
        transport.feed("hi")
        await turns_until(lambda: errors and "a raw message" in caplog.text)
        assert isinstance(errors[0], KeyError)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        transport.feed("hi \ud800")  # encoded as it is, which is not UTF-8
        await turns_until(lambda: transport.closed)
        assert transport.closed is not None and transport.closed.code == 1007


async def test_middleware_sees_raw_messages_and_a_peers_own_function_goes_before_the_servers() -> None:
    server, got = Server(), list[Any]()

    @server.use
    async def guard(ctx: Context, call_next: Any) -> Any:
        got.append((ctx.event, ctx.args, ctx.id, ctx.channel_name))
        return await call_next(ctx)

    server.on_raw(lambda peer, message: got.append("server"))
    async with scripted(server) as (peer, transport):
        transport.feed("one")
        await turns_until(lambda: len(got) == 2)
        peer.on_raw(lambda peer, message: got.append("peer"))
        transport.feed("two")
        await turns_until(lambda: len(got) == 4)
    assert got == [("", ("one",), None, None), "server", ("", ("two",), None, None), "peer"]


@pytest.mark.parametrize("function", [None, 5, lambda: None, lambda message: None, lambda a, b, c: None])
def test_what_cannot_be_called_so_is_refused(function: Any) -> None:
    with pytest.raises(TypeError, match="on_raw"):
        Server().on_raw(function)


# ---------------------------------------------------------------- sending


async def test_text_binary_and_json_travel_both_ways_between_wsrpc_peers() -> None:
    server, client = Server(codec=JsonCodec(enc_hook=str)), Client()
    got: list[Any] = []

    @server.on_raw
    async def echo(peer: Peer, message: str | bytes) -> None:
        await peer.send_raw(message)

    client.on_raw(lambda peer, message: got.append(message))
    async with connect(server, client=client):
        messages: list[str | bytes] = ["grüße", b"\x80\x81", "", b"", b"\xde\x00\x00"]
        for message in messages:
            await client.send_raw(message)
        client.send_raw_nowait("last")
        await client.send_json({"to": [1, None]})
        await turns_until(lambda: len(got) == 7)
        assert got == [*messages, "last", '{"to":[1,null]}']
        got.clear()
        await server.peers[0].send_json({"path": Path("a")})
        await server.send_json("all")
        await turns_until(lambda: len(got) == 2)
        assert got == ['{"path":"a"}', '"all"']
        with pytest.raises(TypeError):
            await client.send_json(object())


async def test_binary_is_refused_where_it_would_be_taken_for_messagepack() -> None:
    server, client, got = Server(), Client(), list[Any]()

    async def refuses(send: Callable[[bytes], Awaitable[None]]) -> None:
        with pytest.raises(ValueError, match=r"binary messages are MessagePack.*use on_raw here"):
            await send(b"\x80")

    await refuses(client.send_raw)  # nobody knows to whom it will go

    @client.on("open")
    async def too_early(peer: Peer) -> None:
        await refuses(peer.send_raw)  # the server may have read the hello by then
        peer.on_raw(lambda peer, message: got.append(message))

    async with connect(server, client=client):
        [peer] = server.peers
        for send in (client.send_raw, peer.send_raw):
            await refuses(send)
        await client.send_raw("text")
        await turns_until(lambda: peer.ignored["foreign"])
        await server.send_raw("text")
        await turns_until(lambda: got)
    assert got == ["text"], "a function that comes after the hello gets nothing of the protocol"


async def test_offline_it_waits_in_order_with_events_or_is_refused() -> None:
    server, client, log = Server(), Client(limits=Limits(offline=4)), list[Any]()
    client.on_raw(lambda peer, message: None)
    server.on_raw(lambda peer, message: log.append(message))
    server.on("event", log.append)
    with pytest.raises(ConnectionLost) as caught:
        await client.send_raw("refused", offline="fail")
    assert caught.value.outcome == "not_sent"
    with pytest.raises(ConnectionLost):
        client.send_raw_nowait("refused", offline="fail")
    await client.send_raw("one")
    await client.emit("event", "two")
    client.send_raw_nowait(b"three")
    await client.send_raw("four")
    with pytest.raises(QueueFull):
        client.send_raw_nowait("five")
    async with connect(server, client=client):
        await turns_until(lambda: len(log) == 4)
    assert log == ["one", "two", b"three", "four"]


@pytest.mark.parametrize(("message", "error"), [(5, TypeError), ("\ud800", ValueError), ("x" * 1001, MessageTooBig)])
async def test_what_cannot_be_sent_is_refused(message: Any, error: type[Exception]) -> None:
    server = Server(limits=Limits(message_bytes=1000))
    server.on("hi", lambda: None)
    async with connect(server) as client:
        await client.request("hi")
        with pytest.raises(error):
            await client.send_raw(message)
        with pytest.raises(error):
            client.send_raw_nowait(message)

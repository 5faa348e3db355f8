"""`on_raw` and `send_raw`: what is no protocol message, beside the protocol."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost, Context, Limits, MessageTooBig, Peer, QueueFull, Server, current_peer
from wsrpc.codecs import MsgpackCodec
from wsrpc.testing import ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")

FOREIGN: list[Any] = ["hello", "", b"\x00\x81", b"", '[1,{"a":2}]', '{"type":"hello"}', ' {"i":"x","y":1}', '{"a":[1]}']
FOREIGN += ['{"ws-wrapper":false,"x":1}', '{"a":["x"],"i":-5}', '{"broken', '{"a":["x"],"c":7}']


async def scripted(server: Server) -> tuple[Peer, ScriptedTransport]:
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    return peer, transport


async def test_a_function_gets_what_is_not_protocol_in_order_and_it_is_not_counted() -> None:
    server = Server()
    got: list[Any] = []

    @server.on_raw
    def raw(peer: Peer, message: str | bytes) -> None:
        assert current_peer() is peer
        got.append(message)

    server.on("add", lambda a, b: a + b)
    peer, transport = await scripted(server)
    transport.feed(*FOREIGN, '{"a":["add",1,2],"i":1}')
    assert got == FOREIGN
    transport.expect({"i": 1, "d": 3})
    assert not peer.ignored
    await server.close()


async def test_without_a_function_it_is_ignored_and_counted() -> None:
    server = Server()
    peer, transport = await scripted(server)
    transport.feed("hello", b"\x00", '{"type":"hello"}')
    assert peer.ignored == {"foreign": 3}
    await server.close()


async def test_what_the_protocol_knows_and_what_wsrpc_says_is_not_raw() -> None:
    server = Server()
    got: list[Any] = []
    server.on_raw(lambda peer, message: got.append(message))
    _, transport = await scripted(server)
    transport.feed('{"i":5,"d":1}', '{"i":7,"x":null}', '{"ws-wrapper":false,"wsrpc":{"t":"newer"}}')
    transport.feed('{"ws-wrapper":false,"wsrpc":{"t":"credit","h":1,"n":1,"bytes":1}}')
    assert got == []
    await server.close()


async def test_json_both_ways() -> None:
    server = Server(enc_hook=lambda value: str(value))
    got: list[Any] = []
    server.on_raw(lambda peer, message: got.append(message))
    heard: list[Any] = []
    plain = Client()
    plain.on_raw(lambda peer, message: heard.append(message))
    async with connect(server, client=plain):
        [peer] = server.peers
        await plain.send_json({"to": [1, None]})
        await peer.send_json({"path": Path("a")})
        await server.send_json("all")
        await turns_until(lambda: got and len(heard) == 2)
        with pytest.raises(TypeError):
            await plain.send_json(object())
    assert got == ['{"to":[1,null]}']
    assert heard == ['{"path":"a"}', '"all"']


async def test_a_function_that_comes_after_the_hello_gets_nothing_of_the_protocol() -> None:
    """Both sides have said by then that binary messages are MessagePack."""
    server = Server()
    server.on("add", lambda a, b: a + b)
    got: list[Any] = []
    client = Client()
    client.on("open", lambda peer: peer.on_raw(lambda peer, message: got.append(message)))
    async with connect(server, client=client):
        assert await client.request("add", 1, 2) == 3
        with pytest.raises(ValueError, match="binary messages are MessagePack"):
            await client.send_raw(b"bytes")
        await server.send_raw("text")
        assert await client.request("add", 1, 2) == 3
    assert got == ["text"]


@pytest.mark.parametrize("codec", [None, MsgpackCodec()])
async def test_text_that_is_not_utf8_closes_the_connection(codec: Any) -> None:
    server = Server(codec=codec)
    server.on_raw(lambda peer, message: None)
    _, transport = await scripted(server)
    assert transport._receiver is not None
    transport._receiver.receive(b"hi \xff", True)
    await turns_until(lambda: transport.closed)
    assert transport.closed is not None
    assert transport.closed.code == 1007
    await server.close()


async def test_an_async_function_has_one_message_of_a_peer_at_a_time() -> None:
    server = Server()
    log: list[str] = []
    go_on: dict[str, asyncio.Event] = {name: asyncio.Event() for name in ("one", "two")}

    @server.on_raw
    async def raw(peer: Peer, message: str) -> None:
        log.append(f"{message} begins")
        await go_on[message].wait()
        log.append(f"{message} ends")

    _, transport = await scripted(server)
    transport.feed("one", "two")
    go_on["two"].set()
    await turns_until(lambda: log)
    assert log == ["one begins"]
    go_on["one"].set()
    await turns_until(lambda: len(log) == 4)
    assert log == ["one begins", "one ends", "two begins", "two ends"]
    await server.close()


async def test_what_waits_is_bounded_as_events_are(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=Limits(running=2, waiting=3))
    go_on = asyncio.Event()
    got: list[str] = []

    @server.on_raw
    async def raw(peer: Peer, message: str) -> None:
        await go_on.wait()
        got.append(message)

    peer, transport = await scripted(server)
    transport.feed(*map(str, range(10)))
    assert peer.ignored == {"event dropped, too many wait": 5}
    go_on.set()
    await turns_until(lambda: len(got) == 5)
    assert got == ["0", "1", "2", "3", "4"]
    assert "messages wait already" in caplog.text
    await server.close()


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_it_raises_goes_to_error_handlers_and_the_log(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    errors: list[BaseException] = []
    server.on("error", lambda peer, error: errors.append(error))
    if is_async:

        @server.on_raw
        async def raw(peer: Peer, message: str | bytes) -> None:
            raise KeyError("here")
    else:

        @server.on_raw
        def plain(peer: Peer, message: str | bytes) -> None:
            raise KeyError("here")

    _, transport = await scripted(server)
    transport.feed("hi")
    await turns_until(lambda: errors)
    assert isinstance(errors[0], KeyError)
    await turns_until(lambda: "a raw message" in caplog.text)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert transport.closed is None
    await server.close()


async def test_middleware_sees_raw_messages_without_an_event() -> None:
    server = Server()
    seen: list[Any] = []

    @server.use
    async def guard(ctx: Context, call_next: Any) -> Any:
        seen.append((ctx.event, ctx.args, ctx.id, ctx.channel_name))
        return await call_next(ctx)

    got: list[Any] = []
    server.on_raw(lambda peer, message: got.append(message))
    _, transport = await scripted(server)
    transport.feed("hi")
    await turns_until(lambda: got)
    assert seen == [("", ("hi",), None, None)]
    await server.close()


async def test_a_peer_s_own_function_goes_before_the_server_s() -> None:
    server = Server()
    got: list[str] = []
    server.on_raw(lambda peer, message: got.append(f"server {message}"))
    peer, transport = await scripted(server)
    transport.feed("one")
    peer.on_raw(lambda peer, message: got.append(f"peer {message}"))
    transport.feed("two")
    assert got == ["server one", "peer two"]
    await server.close()


@pytest.mark.parametrize("function", [None, 5, lambda: None, lambda message: None, lambda a, b, c: None])
def test_what_cannot_be_called_so_is_refused(function: Any) -> None:
    for registrar in (Server(), Client()):
        with pytest.raises(TypeError, match="on_raw"):
            registrar.on_raw(function)


# ---------------------------------------------------------------- sending


async def test_raw_messages_travel_both_ways_between_wsrpc_peers_binary_too() -> None:
    server, client = Server(), Client()
    got: list[Any] = []

    @server.on_raw
    async def echo(peer: Peer, message: str | bytes) -> None:
        await peer.send_raw(message)

    client.on_raw(lambda peer, message: got.append(message))
    server.on("data", lambda: b"\x00")
    async with connect(server, client=client):
        assert await client.request("data", returns=bytes) == b"\x00"
        messages: list[str | bytes] = ["grüße", b"\x80\x81", "", b"", b"\xde\x00\x00"]
        for message in messages:
            await client.send_raw(message)
        client.send_raw_nowait("last")
        await turns_until(lambda: len(got) == 6)
        assert got == [*messages, "last"]


async def test_binary_is_refused_where_it_would_be_taken_for_messagepack() -> None:
    server = Server()
    server.on("add", lambda a, b: a + b)
    client = Client()
    with pytest.raises(ValueError, match="use on_raw here"):
        await client.send_raw(b"\x80")  # nobody knows to whom it will go

    @client.on("open")
    async def too_early(peer: Peer) -> None:
        with pytest.raises(ValueError, match="use on_raw here"):
            await peer.send_raw(b"\x80")  # the server may have read the hello by then

    async with connect(server, client=client):
        assert await client.request("add", 1, 2) == 3
        with pytest.raises(ValueError, match="use on_raw here"):
            await client.send_raw(b"\x80")
        with pytest.raises(ValueError, match="use on_raw here"):
            await server.peers[0].send_raw(b"\x80")
        await client.send_raw("text")
        [peer] = server.peers
        await turns_until(lambda: peer.ignored["foreign"])


async def test_binary_is_free_where_one_side_takes_raw_messages_or_nothing_is_agreed() -> None:
    log: list[Any] = []
    server = Server()
    server.on_raw(lambda peer, message: log.append(message))
    server.on("add", lambda a, b: a + b)
    async with connect(server) as client:
        assert await client.request("add", 1, 2) == 3  # now it knows
        await client.send_raw(b"\x80")
        await turns_until(lambda: len(log) == 1)
    plain = Client(extensions=False)
    await plain.send_raw(b"\x81")
    async with connect(server, client=plain):
        await turns_until(lambda: log == [b"\x80", b"\x81"])


async def test_raw_messages_are_in_order_with_the_others() -> None:
    server = Server()
    log: list[Any] = []
    server.on_raw(lambda peer, message: log.append(message))
    server.on("event", lambda number: log.append(number))
    async with connect(server) as client:
        for number in range(50):
            await client.emit("event", number)
            await client.send_raw(str(number))
        await turns_until(lambda: len(log) == 100)
    assert log == [each for number in range(50) for each in (number, str(number))]


async def test_while_open_handlers_run_it_waits_its_turn() -> None:
    server, client = Server(), Client()
    log: list[Any] = []
    server.on_raw(lambda peer, message: log.append(message))
    server.on("event", lambda text: log.append(text))
    go_on = asyncio.Event()

    @client.on("open")
    async def opened(peer: Peer) -> None:
        await peer.send_raw("from open")
        await go_on.wait()

    async with asyncio.timeout(8):
        tasks: list[Any] = []

        async def meanwhile() -> None:
            await turns_until(lambda: log == ["from open"])
            tasks.append(asyncio.create_task(client.emit("event", "one")))
            tasks.append(asyncio.create_task(client.send_raw("two")))
            tasks.append(asyncio.create_task(client.emit("event", "three")))
            await asyncio.sleep(0)
            client.send_raw_nowait("four")
            assert log == ["from open"]
            go_on.set()

        waiting = asyncio.create_task(meanwhile())
        async with connect(server, client=client):
            await waiting
            await asyncio.gather(*tasks)
            await turns_until(lambda: len(log) == 5)
    assert log == ["from open", "one", "two", "three", "four"]


async def test_offline_it_waits_in_order_with_events_or_is_refused() -> None:
    server, client = Server(), Client(limits=Limits(offline=4))
    client.on_raw(lambda peer, message: None)
    log: list[Any] = []
    server.on_raw(lambda peer, message: log.append(message))
    server.on("event", lambda text: log.append(text))
    with pytest.raises(ConnectionLost) as caught:
        await client.send_raw("refused", offline="fail")
    assert caught.value.outcome == "not_sent"
    with pytest.raises(ConnectionLost):
        client.send_raw_nowait("refused", offline="fail")
    with pytest.raises(ValueError, match="offline="):
        await client.send_raw("refused", offline="sometimes")  # type: ignore[arg-type]
    await client.send_raw("one")
    await client.emit("event", "two")
    client.send_raw_nowait(b"three")
    await client.send_raw("four")
    with pytest.raises(QueueFull):
        client.send_raw_nowait("five")
    async with connect(server, client=client):
        await turns_until(lambda: len(log) == 4)
    assert log == ["one", "two", b"three", "four"]


async def test_a_full_connection_is_waited_for_and_nowait_says_so_at_the_cap() -> None:
    server = Server(limits=Limits(hard_cap=1000))
    peer, transport = await scripted(server)
    transport.pause()
    transport.unsent = 990
    sending = asyncio.create_task(peer.send_raw("waits"))
    await asyncio.sleep(0)
    peer.send_raw_nowait("x" * 10)
    with pytest.raises(QueueFull, match="hard_cap=1000"):
        peer.send_raw_nowait("x" * 11)
    assert not sending.done()
    transport.unsent = 0
    transport.resume()
    await sending
    assert [payload for payload, _ in transport._sent] == [b"x" * 10, b"waits"]
    lost = asyncio.create_task(peer.send_raw("lost"))
    transport.pause()
    await asyncio.sleep(0)
    transport.lose()
    with pytest.raises(ConnectionLost):
        await lost
    await server.close()


async def test_more_than_the_other_side_takes_is_refused() -> None:
    server = Server(limits=Limits(message=1000))
    server.on("hi", lambda: None)
    async with connect(server) as client:
        await client.request("hi")
        with pytest.raises(MessageTooBig):
            await client.send_raw("x" * 1001)


@pytest.mark.parametrize(
    ("message", "error"), [(5, TypeError), (None, TypeError), (["a"], TypeError), ("\ud800", ValueError)]
)
async def test_what_is_no_message_is_refused(message: Any, error: type[Exception]) -> None:
    async with connect(Server()) as client:
        with pytest.raises(error):
            await client.send_raw(message)
        with pytest.raises(error):
            client.send_raw_nowait(message)


async def test_another_thread_is_refused() -> None:
    async with connect(Server()) as client:
        with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(client.send_raw_nowait, "hi")

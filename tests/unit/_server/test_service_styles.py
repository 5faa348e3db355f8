"""Services that have the whole connection, and what `add_service` refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_serving
from raw_websocket import BINARY, CLOSE, TEXT

import wsrpc
from wsrpc import CloseInfo, Handshake, Limits, Peer, RpcError, Server, Service
from wsrpc.testing import ScriptedTransport, connect
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


class Loop(Service):
    closed: list[CloseInfo]

    def __init__(self, closed: list[CloseInfo]) -> None:
        self.closed = closed

    async def on_open(self) -> None:
        await self.connection.send("welcome")

    async def serve(self, connection: RawConnection) -> None:
        assert connection is self.connection
        async for message in connection:
            if message == "fail":
                raise KeyError("secret")
            if message == "leave":
                return
            await connection.send(message)

    def on_close(self, info: CloseInfo) -> None:
        self.closed.append(info)

    def on_message(self, message: str) -> None:
        raise AssertionError("serve goes before it")

    on_json = on_message


@pytest.mark.parametrize(("last", "code"), [("leave", 1000), ("fail", 1011)])
async def test_serve_has_the_connection(last: str, code: int) -> None:
    closed: list[CloseInfo] = []
    server = Server()
    server.add_service(Loop, lambda connection: Loop(closed))
    async with raw_serving(server=server) as (_, raw):
        assert (await raw.next_frame()).payload == b"welcome"
        await raw.send(raw.frame(BINARY, b"\x00"), raw.frame(TEXT, last))
        assert (await raw.next_frame()).payload == b"\x00"
        assert (await raw.next_of(CLOSE)).code == code
        await raw.send(raw.close_frame(code))
        raw.drop()
        await turns_until(lambda: closed)
    assert (closed[0].code, len(closed)) == (code, 1)


async def test_a_factory_that_refuses_and_on_open_that_raises_close_a_raw_connection() -> None:
    told: list[str] = []

    class Gate(Service):
        def on_open(self) -> None:
            raise RpcError("members only")

        async def serve(self, connection: RawConnection) -> None:
            told.append("serve")

        def on_close(self, info: CloseInfo) -> None:
            told.append(info.reason)

    def refuse(connection: RawConnection) -> Gate:
        raise KeyError(connection.info.path)

    for make, code in ((Gate, 1008), (refuse, 1011)):
        server = Server()
        server.add_service(Gate, make)
        async with raw_serving(server=server) as (_, raw):
            assert (await raw.next_of(CLOSE)).code == code
            raw.drop()
    assert told == ["members only"]


async def test_on_json_gets_every_message_decoded_and_converted_in_order() -> None:
    got: list[Any] = []

    class Move(wsrpc.Service):
        async def on_json(self, value: dict[str, list[int]]) -> None:
            await asyncio.sleep(0)
            got.append(value)
            await self.peer.send_raw("ok")

        def on_message(self, message: str) -> None:
            raise AssertionError("on_json goes before it")

    server = Server()
    server.add_service(Move)
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    transport.feed('{"a":[1]}', '{"i":[2],"x":[]}', b'{"b":[]}', '{"a":["text"]}', "[]", "{broken")
    await turns_until(lambda: len(got) == 3)
    assert got == [{"a": [1]}, {"i": [2], "x": []}, {"b": []}]
    assert peer.ignored["malformed"] == 1
    assert [payload for payload, _ in transport._sent] == [b"ok"] * 3
    assert server.peers == (peer,)
    await server.close()


async def test_too_much_that_is_not_json_closes_the_connection() -> None:
    class Json(Service):
        def on_json(self, value: Any) -> None: ...

    server = Server()
    server.add_service(Json)
    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed("[" * 100_000, *["no"] * 10)
    await turns_until(lambda: transport.closed)
    assert transport.closed is not None
    assert transport.closed.code == 1007
    await server.close()


@pytest.mark.parametrize("text", ["[" * 5 + "]" * 5, '{"a":' * 5 + "1" + "}" * 5, "[[[[[]]]],[]]", "[" * 500])
async def test_on_json_gets_nothing_that_is_nested_too_deep(text: str) -> None:
    got: list[Any] = []

    class Json(Service):
        def on_json(self, value: Any) -> None:
            got.append(value)

    server = Server(limits=Limits(depth=4))
    server.add_service(Json)
    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed("[[[[]]]]", '["[[[[[[[["]', text, "1")
    await turns_until(lambda: transport.closed)
    assert transport.closed is not None and transport.closed.code == 1007
    assert got == [[[[[]]]], ["[[[[[[[["]]
    await server.close()


async def test_on_message_gets_text_and_bytes_and_what_looks_like_protocol() -> None:
    got: list[Any] = []

    class Sink(Service):
        def on_open(self) -> None:
            got.append("open")

        def on_message(self, message: str | bytes) -> None:
            got.append(message)

        def on_close(self, info: CloseInfo) -> None:
            got.append(info.code)

    server = Server()
    server.add_service(Sink)
    transport = ScriptedTransport()
    await server.accept(transport)
    messages = ['{"a":["add",1],"i":1}', b"\x81\xa1a\x91\xa1x", "", '{"i":1,"d":2}', '{"x":1}', "hi"]
    transport.feed(*messages, '{"ws-wrapper":false,"wsrpc":{"t":"hello","v":1,"features":[],"limits":{}}}')
    assert got == ["open", *messages]
    assert transport.take() == []
    transport.lose()
    await turns_until(lambda: 1006 in got)
    await server.close()


# ---------------------------------------------------------------- what is refused


class Talk(Service):
    @wsrpc.method
    def say(self, text: str) -> None: ...


class Other(Service):
    @wsrpc.method("say")
    def shout(self, text: str) -> None: ...


class Sink(Service):
    def on_message(self, message: str | bytes) -> None: ...


class Json(Service):
    def on_json(self, value: Any) -> None: ...


class Mixed(Sink):
    @wsrpc.method
    def say(self, text: str) -> None: ...


class Reserved(Service):
    @wsrpc.method
    def close(self) -> None: ...


class Twice(Service):
    @wsrpc.method("say")
    def one(self) -> None: ...

    @wsrpc.method("say")
    def two(self) -> None: ...


class Selfless(Service):
    @wsrpc.method
    def say() -> None:  # type: ignore[misc]
        ...


class Broken(Service):
    @wsrpc.method
    def fine(self) -> None: ...

    @wsrpc.method
    def say(self, *args: str, text: str) -> None: ...


class Hidden(Talk):
    say = None  # type: ignore[assignment]


class Greedy(Service):
    def __init__(self, a: int, b: int) -> None: ...


class Forgotten(Service):
    def say(self, text: str) -> None: ...


class Sits(Service):
    def serve(self, connection: RawConnection) -> None: ...


class Connects(Talk):
    def on_connect(self, request: object) -> None: ...


class Shakes(Talk):
    async def on_handshake(self, handshake: Handshake) -> None: ...


class Disconnects(Talk):
    on_disconnect = Service.on_close


class ClosesAsGo(Talk):
    async def on_close(self, was_clean: bool, code: int, reason: str) -> None:  # type: ignore[override]
        ...


class ClosesWithoutInfo(Talk):
    def on_close(self) -> None:  # type: ignore[override]
        ...


class OpensWithRequest(Sink):
    def on_open(self, request: object) -> None:  # type: ignore[override]
        ...


class OpensLazily(Talk):
    async def on_open(self) -> AsyncGenerator[None]:  # type: ignore[override]
        yield


class MessageAndError(Service):
    def on_message(self, message: str, error: object) -> None: ...


class JsonAndError(Service):
    def on_json(self, value: object, error: object) -> None: ...


class JsonWithoutValue(Service):
    def on_json(self) -> None: ...


class JsonLazily(Service):
    async def on_json(self, value: object) -> AsyncGenerator[None]:
        yield


class ServesNothing(Service):
    async def serve(self) -> None: ...


class NamesHandlers(Service):
    @wsrpc.method
    def on_connect(self, text: str) -> None: ...

    @wsrpc.method("on_disconnect")
    def goes(self, text: str) -> None: ...


def untyped(peer: Peer):  # type: ignore[no-untyped-def]
    return Talk()


def wrong(peer: Peer) -> str:
    return ""


@pytest.mark.parametrize(
    ("service", "error", "text"),
    [
        (5, TypeError, "add_service takes a subclass of wsrpc.Service"),
        (str, TypeError, "add_service takes a subclass of wsrpc.Service"),
        (Service, TypeError, "Service does nothing"),
        (untyped, TypeError, r"Annotate what it returns .* or call add_service\(Class, factory\)"),
        (wrong, TypeError, "subclass of wsrpc.Service, or a factory of one; got <class 'str'>"),
        (Mixed, TypeError, "Mixed.on_message gets every message"),
        (Reserved, ValueError, "Reserved.close: 'close' is reserved on the main channel"),
        (Twice, ValueError, "Twice.two and Twice.one are both for the event 'say'"),
        (Selfless, TypeError, "a method takes self first"),
        (Broken, TypeError, "Broken.say.*'text'"),
        (Hidden, TypeError, "Hidden.say is a handler in a base class, and here None"),
        (Greedy, TypeError, r"add_service: the function is called with \(peer\), but .*Greedy.* takes \(a: 'int'"),
        (Forgotten, TypeError, "Forgotten does nothing: put @wsrpc.method on its handlers"),
        (Sits, TypeError, "Sits.serve must be async"),
        (Connects, TypeError, "Connects.on_connect would never be called: Server.on_handshake decides before"),
        (Shakes, TypeError, "Shakes.on_handshake would never be called: use Server.on_handshake"),
        (Disconnects, TypeError, r"Disconnects.on_disconnect would never be called: on_close\(self, info\) is called"),
        (ClosesAsGo, TypeError, r"ClosesAsGo.on_close.* called with \(self, info\), but .* takes \(self, was_clean: "),
        (ClosesWithoutInfo, TypeError, r"ClosesWithoutInfo.on_close is called with \(self, info\), but takes \(self\)"),
        (
            OpensWithRequest,
            TypeError,
            r"OpensWithRequest.on_open.* called with \(self\), but .* takes \(self, request: ",
        ),
        (OpensLazily, TypeError, "OpensLazily.on_open takes a function without a `yield`"),
        (MessageAndError, TypeError, r"MessageAndError.on_message.* called with \(self, message\), but .* error: "),
        (
            JsonAndError,
            TypeError,
            r"JsonAndError.on_json is called with \(self, value\), but takes \(self, value: .* error",
        ),
        (JsonWithoutValue, TypeError, r"JsonWithoutValue.on_json is called with \(self, value\), but takes \(self\)"),
        (JsonLazily, TypeError, "JsonLazily.on_json takes a function without a `yield`"),
        (
            ServesNothing,
            TypeError,
            r"ServesNothing.serve is called with|ServesNothing.serve.* called with \(self, connection",
        ),
    ],
)
def test_what_add_service_refuses(service: Any, error: type[Exception], text: str) -> None:
    server = Server()
    with pytest.raises(error, match=text):
        server.add_service(service)
    server.add_service(Talk)  # nothing of it is left


def test_what_cannot_be_together() -> None:
    server = Server()
    server.on("say", lambda text: None)
    for service in (Talk, Other):
        with pytest.raises(ValueError, match=r"'say' has a handler already, .*test_service_styles"):
            server.add_service(service)
    server.add_service(Talk, channel="talk")
    with pytest.raises(ValueError, match="has a handler already"):
        server.add_service(Other, channel="talk")
    for first, second in ((Talk, Sink), (Sink, Talk), (Sink, Loop), (Loop, Sink), (Talk, Loop)):
        server = Server()
        server.add_service(first)
        with pytest.raises(ValueError, match="cannot serve the same connections"):
            server.add_service(second)
    server = Server()
    serve: Any = Loop.serve
    server.serve_raw(serve)
    with pytest.raises(ValueError, match="serves every connection of this server already"):
        server.add_service(Loop, lambda: Loop([]))
    server = Server()
    server.on_raw(lambda peer, message: None)
    with pytest.raises(ValueError, match="but the server has an on_raw function"):
        server.add_service(Sink)
    server = Server()
    server.add_service(Sink)
    with pytest.raises(ValueError, match=r"Sink\.on_message gets every message, so .* would never be called"):
        server.on_raw(lambda peer, message: None)
    with pytest.raises(ValueError, match="it has no channel"):
        Server().add_service(Sink, channel="talk")


def test_handlers_may_have_the_names_of_what_is_never_called() -> None:
    Server().add_service(NamesHandlers)


async def quiet(connection: RawConnection) -> None: ...


NEVER_CALLED: dict[str, Callable[[Server], object]] = {
    "on": lambda server: server.on("say", lambda text: None),
    "once": lambda server: server.once("say", lambda text: None),
    "on a channel": lambda server: server.of("talk").on("say", lambda text: None),
    "allow=": lambda server: server.room("prices", allow=lambda peer: True),
    "on_join": lambda server: server.on_join(lambda peer, room: True),
    "offer_description": lambda server: server.offer_description(),
}
NEVER_CALLED_ON_RAW_CONNECTIONS: dict[str, Callable[[Server], object]] = {
    "open": lambda server: server.on("open", lambda peer: None),
    "use": lambda server: server.use(middleware),
}


async def middleware(ctx: wsrpc.Context, call_next: wsrpc.CallNext) -> Any:
    return await call_next(ctx)


@pytest.mark.parametrize("call", NEVER_CALLED | NEVER_CALLED_ON_RAW_CONNECTIONS)
@pytest.mark.parametrize("style", ["serve_raw", "serve", "on_message", "on_json"])
def test_what_nothing_would_call_is_refused_whichever_comes_first(style: str, call: str) -> None:
    def serve(server: Server) -> None:
        if style == "serve_raw":
            server.serve_raw(quiet)
        else:
            server.add_service({"serve": Loop, "on_message": Sink, "on_json": Json}[style], lambda: None)

    register = (NEVER_CALLED | NEVER_CALLED_ON_RAW_CONNECTIONS)[call]
    if call not in NEVER_CALLED and style in ("on_message", "on_json"):  # these have a peer
        server = Server()
        serve(server)
        register(server)
        return
    for first, second in ((serve, register), (register, serve)):
        server = Server()
        first(server)
        with pytest.raises(ValueError, match=r"gets every message, so .*(would never be called|nothing would call)"):
            second(server)


async def test_what_a_peer_of_such_a_service_would_never_call_is_refused() -> None:
    server = Server()
    server.add_service(Sink)
    async with connect(server):
        [peer] = server.peers
        with pytest.raises(ValueError, match=r"Sink\.on_message gets every message"):
            peer.on("say", lambda text: None)
        peer.on("close", lambda peer: None)


async def test_a_service_is_added_before_there_are_connections() -> None:
    server = Server()
    async with connect(server):
        for call in (lambda: server.add_service(Talk), lambda: server.serve_raw(quiet)):
            with pytest.raises(RuntimeError, match="is for connections that come later, and there are some"):
                call()
    server.add_service(Talk)
    server = Server()
    server.add_service(Loop, lambda: Loop([]))
    async with raw_serving(server=server) as (_, raw):
        await raw.next_frame()
        with pytest.raises(RuntimeError, match="is for connections that come later"):
            server.add_service(Talk)


@pytest.mark.parametrize("thing", [5, staticmethod(print), property(print), print])
def test_method_is_for_plain_methods(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"@wsrpc.method decorates plain methods"):
        wsrpc.method(thing)


async def test_add_service_is_a_decorator_and_leaves_the_class_as_it_is() -> None:
    server = Server()

    @server.add_service
    class Local(Service):
        @wsrpc.method
        def say(self, text: str) -> str:
            return text

    assert Local().say("hi") == "hi"

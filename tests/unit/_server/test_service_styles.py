"""Services that have the whole connection, and what `add_service` refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_serving
from raw_websocket import BINARY, CLOSE, TEXT

import wsrpc
from wsrpc import CloseInfo, Limits, Peer, RawConnection, RpcError, Server, Service
from wsrpc.testing import ScriptedTransport

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


def untyped(peer: Peer):  # type: ignore[no-untyped-def]
    return Talk()


def wrong(peer: Peer) -> str:
    return ""


@pytest.mark.parametrize(
    ("service", "error", "text"),
    [
        (5, TypeError, "add_service takes a subclass of wsrpc.Service"),
        (str, TypeError, "add_service takes a subclass of wsrpc.Service"),
        (Service, TypeError, "add_service takes a subclass of wsrpc.Service"),
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
    with pytest.raises(ValueError, match="a service's on_message takes every message"):
        server.on_raw(lambda peer, message: None)
    with pytest.raises(ValueError, match="it has no channel"):
        Server().add_service(Sink, channel="talk")


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

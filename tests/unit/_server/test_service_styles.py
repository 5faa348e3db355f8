"""Services that have the whole connection, and what `add_service` refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from socket import socket
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_serving
from raw_websocket import BINARY, CLOSE, TEXT

import wsrpc
from wsrpc import CloseInfo, Limits, Peer, Server, Service
from wsrpc.testing import ScriptedTransport
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


class Move(Service):
    def __init__(self, got: list[Any]) -> None:
        self.got = got

    async def on_json(self, value: dict[str, list[int]]) -> None:
        await asyncio.sleep(0)
        self.got.append(value)
        await self.connection.send(b"ok")

    def on_message(self, message: str) -> None:
        raise AssertionError("on_json goes before it")

    def on_close(self, info: CloseInfo) -> None:
        self.got.append(info)


NOT_ACCEPTED: list[tuple[Any, str]] = [
    ("{broken", "JSON is malformed: "),
    (b"\xff", "JSON is malformed: "),
    ("[]", "Expected `object`, got `array`"),
    ('{"a":["text"]}', "Expected `int`, got `str` - at `$[...][0]`"),
    (f'{{"a":{"[" * 9}{"]" * 9}}}', "expected JSON within the limits, got JSON that is nested more than 4 deep"),
    (f'{{"a":[{"1," * 5000}1]}}', "expected JSON within the limits, got more than 1000 values"),
]


@pytest.mark.parametrize(("wrong", "reason"), NOT_ACCEPTED)
async def test_on_json_gets_every_message_decoded_and_converted_in_order_until_one_is_not_accepted(
    wrong: str | bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[Any] = []
    server = Server(limits=Limits(depth=4, values=1000))
    server.add_service(Move, lambda: Move(got))
    transport = ScriptedTransport()
    assert await server.accept(transport) in server.raw_connections
    transport.feed('{"a":[1]}', '{"i":[2],"x":[]}', b'{"b":[]}', wrong, '{"late":[]}')
    await turns_until(lambda: len(got) == 4)
    assert transport.closed is not None and transport.closed.code == 1007
    assert transport.closed.reason.startswith(reason) and transport.closed.reason in caplog.text
    assert got == [{"a": [1]}, {"i": [2], "x": []}, {"b": []}, transport.closed]
    transport.expect(b"ok", b"ok", b"ok")
    await server.close()


class Base(Service):
    """Does what a subclass is to do."""

    def on_json(self, value: list[int]) -> object:
        raise NotImplementedError


class Later(Base):
    async def on_json(self, value: list[int]) -> None:
        raise NotImplementedError


class SumsNow(Base):
    def on_json(self, value: list[int]) -> object:
        return self.connection.send_json(sum(value))


class SumsLater(Later):
    async def on_json(self, value: list[int]) -> None:
        await self.connection.send_json(sum(value))


class Text(Service):
    async def on_message(self, message: str | bytes) -> None:
        raise NotImplementedError


class SumsText(Text):
    async def on_message(self, message: str | bytes) -> None:
        await self.connection.send_json(sum(json.loads(message)))


OVERRIDES: list[tuple[type[Service], type[Service]]] = [(Base, SumsNow), (Later, SumsLater), (Text, SumsText)]


@pytest.mark.parametrize(("base", "derived"), OVERRIDES)
async def test_each_style_runs_the_method_of_the_object(base: type[Service], derived: type[Service]) -> None:
    """`on_json` ran that of the class that was added."""
    server = Server()
    server.add_service(base, lambda: derived())
    async with raw_serving(server=server) as (_, raw):
        await raw.send(raw.frame(TEXT, "[1,2,3]"))
        assert (await raw.next_frame()).payload == b"6"


class Both(Text):
    def on_json(self, value: object) -> None: ...


async def test_an_object_of_a_subclass_that_has_another_style_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.add_service(Text, lambda: Both())
    await server.accept(transport := ScriptedTransport())
    await turns_until(lambda: transport.closed)
    assert transport.closed is not None and transport.closed.code == 1011
    assert "whether a method is async: on_message, on_json. Pass that class to add_service" in caplog.text
    await server.close()


async def test_on_message_gets_text_and_bytes_and_what_looks_like_protocol() -> None:
    got: list[Any] = []

    class Everything(Service):
        def on_message(self, message: str | bytes) -> None:
            got.append(message)

    server = Server()
    server.add_service(Everything)
    transport = ScriptedTransport()
    await server.accept(transport)
    messages = ['{"a":["add",1],"i":1}', b"\x81\xa1a\x91\xa1x", "", '{"i":1,"d":2}', '{"x":1}', "hi"]
    transport.feed(*messages)
    await turns_until(lambda: got == messages)
    transport.expect()
    await server.close()


@pytest.mark.parametrize("style", ["on_json", "on_message"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [(KeyError("secret"), 1011, "internal error"), (wsrpc.RpcError("no such move"), 1008, "no such move")],
)
async def test_an_exception_ends_the_connection(
    style: str, is_async: bool, error: Exception, code: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was logged, and the connection went on, as if the message had been handled."""
    got: list[Any] = []

    def handle(self: object, message: object) -> None:
        got.append(message)
        raise error

    async def handle_later(self: object, message: object) -> None:
        handle(self, message)

    cls = service(
        Service, **{style: handle_later if is_async else handle}, on_close=lambda self, info: got.append(info)
    )
    server = Server()
    server.add_service(cls)
    await server.accept(transport := ScriptedTransport())
    transport.feed("1", "2")
    await turns_until(lambda: len(got) == 2)
    assert got == [1 if style == "on_json" else "1", CloseInfo(code, reason, was_clean=True, user_closed=True)]
    assert ("secret" in caplog.text) is (code == 1011), "with its traceback"
    await server.close()


async def test_no_message_is_handled_after_the_service_has_closed() -> None:
    got: list[Any] = []

    class Leaves(Service):
        async def on_message(self, message: str | bytes) -> None:
            got.append(message)
            await self.connection.close(4000)

    server = Server()
    server.add_service(Leaves)
    await server.accept(transport := ScriptedTransport())
    transport.feed("1", "2")
    await turns_until(lambda: not server.raw_connections)
    assert got == ["1"]
    await server.close()


# ---------------------------------------------------------------- what is refused


class Talk(Service):
    @wsrpc.method
    def say(self, text: str) -> None: ...


class Sink(Service):
    def on_message(self, message: str | bytes) -> None: ...


class Json(Service):
    def on_json(self, value: Any) -> None: ...


async def lazily(self: Any, *args: Any) -> AsyncGenerator[None]:
    yield


def selfless() -> None: ...


def print_it(value: object) -> None: ...


def takes_a_socket(self: object, value: socket) -> None: ...


def untyped(peer: Peer):  # type: ignore[no-untyped-def]
    return Talk()


def service(base: type[Service] = Talk, **members: Any) -> type[Service]:
    """A class with other members than its base."""
    return type("Odd", (base,), members)


def say(name: str) -> Any:
    """A method that is a handler."""

    def method(self: object) -> None: ...

    return wsrpc.method(name)(method)


WRONG: list[tuple[Any, str]] = [
    (str, "add_service takes a subclass of wsrpc.Service"),
    (Service, "Service does nothing"),
    (untyped, r"Annotate what it returns .* or call add_service\(Class, factory\)"),
    (
        service(Sink, say=Talk.say),
        r"Odd.on_message gets .*Talk.say\. Leave out on_message, or put the handlers",
    ),
    (service(Json, say=Talk.say), "Odd.on_json gets every message"),
    (service(Service, on_json=staticmethod(print_it)), r"print_it.*: it is called with \(self, value\)"),
    (service(Service, on_json=takes_a_socket), r"values from the wire cannot be converted to socket"),
    (service(one=wsrpc.method(selfless)), "a method takes self first"),
    (service(say=None), "Odd.say is a handler in a base class, and here None"),
    (service(__init__=lambda self, a, b: None), r"add_service: the function is called with \(peer\), but .*Odd"),
    (service(Service, serve=lambda self, connection: None), "Odd.serve must be async"),
    (service(on_connect=print), "Odd.on_connect would never be called: Server.on_handshake decides before"),
    (service(on_close=lambda self, was_clean, code, reason: None), r"Odd.on_close.* called with \(self, info\)"),
    (service(on_open=lazily), "Odd.on_open takes a function without a `yield`"),
    (service(Service, on_json=lambda self: None), r" called with \(self, value\), but takes \(self\)"),
    (service(close=say("close")), "say.*method: 'close' is reserved on the main channel"),
    (service(one=say("say")), "method and Talk.say are both for the event 'say'"),
]


@pytest.mark.parametrize(("added", "text"), WRONG)
def test_what_add_service_refuses(added: Any, text: str) -> None:
    server = Server()
    with pytest.raises((TypeError, ValueError), match=text):
        server.add_service(added)
    server.add_service(Talk)  # nothing of it is left


async def quiet(connection: RawConnection) -> None: ...


Register = Callable[[Server], object]


def adds(cls: type[Service], **options: Any) -> Register:
    return lambda server: server.add_service(cls, lambda: None, **options)


def serve_raw(server: Server) -> object:
    return server.serve_raw(quiet)


def on_say(server: Server) -> object:
    return server.on("say", lambda text: None)


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (on_say, adds(Talk), r"'say' has a handler already, .*test_service_styles"),
        (adds(Talk, channel="talk"), adds(Talk, channel="talk"), "has a handler already"),
        (adds(Talk), adds(Sink), r"on_message serves every connection, and Talk serves them already: use another"),
        (adds(Talk), serve_raw, r"^quiet serves every connection, and Talk serves them already: use another"),
        (serve_raw, adds(Loop), "^quiet serves every connection"),
        (serve_raw, adds(Talk), "^quiet serves every connection"),
        (adds(Json), serve_raw, r"^Json\.on_json serves every connection"),
        (adds(Json), adds(Sink), r"^Json\.on_json serves every connection"),
        (lambda server: None, adds(Sink, channel="talk"), "it has no channel"),
    ],
)
def test_what_cannot_be_together(first: Register, second: Register, text: str) -> None:
    server = Server()
    first(server)
    with pytest.raises(ValueError, match=text):
        second(server)


async def middleware(ctx: wsrpc.Context, call_next: wsrpc.CallNext) -> Any:
    return await call_next(ctx)


NEVER_CALLED: dict[str, Register] = {
    "on": on_say,
    "an error handler": lambda server: server.on("error", lambda peer, error: None),
    "on_detach": lambda server: server.on_detach(lambda peer, info: None),
    "use": lambda server: server.use(middleware),
    "allow=": lambda server: server.room("prices", allow=lambda peer: True),
    "on_join": lambda server: server.on_join(lambda peer, room: True),
    "offer_description": lambda server: server.offer_description(),
}
STYLES = {"serve_raw": serve_raw, "serve": adds(Loop), "on_message": adds(Sink), "on_json": adds(Json)}


@pytest.mark.parametrize("call", NEVER_CALLED)
@pytest.mark.parametrize("style", STYLES)
def test_what_nothing_would_call_is_refused_whichever_comes_first(style: str, call: str) -> None:
    serve, register = STYLES[style], NEVER_CALLED[call]
    for first, second in ((serve, register), (register, serve)):
        server = Server()
        first(server)
        with pytest.raises(ValueError, match=r"gets every message, so .*(would never be called|nothing would call)"):
            second(server)


@pytest.mark.parametrize("call", [adds(Talk), serve_raw])
async def test_a_service_is_added_before_there_are_connections(call: Register) -> None:
    server = Server()
    await server.accept(ScriptedTransport())
    with pytest.raises(RuntimeError, match="is for connections that come later, and there are some"):
        call(server)
    await server.close()

"""Services that have the whole connection, and what `add_service` refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_serving
from raw_websocket import BINARY, CLOSE, TEXT

import wsrpc
from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Peer, Server, Service
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
        await self.peer.send_raw(b"ok")

    def on_message(self, message: str) -> None:
        raise AssertionError("on_json goes before it")


async def test_on_json_gets_every_message_decoded_and_converted_in_order() -> None:
    got: list[Any] = []
    server = Server()
    server.add_service(Move, lambda: Move(got))
    errors: list[str] = []
    server.on("error", lambda peer, error: errors.append(str(error)))
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    transport.feed('{"a":[1]}', '{"i":[2],"x":[]}', b'{"b":[]}', '{"a":["text"]}', "[]", "{broken")
    await turns_until(lambda: len(errors) == 3)
    assert got == [{"a": [1]}, {"i": [2], "x": []}, {"b": []}]
    assert errors[-2] == "handler: argument 'value' (1st): expected object, got array"
    assert errors[-1].startswith("ignored a message that is not JSON")
    assert peer.ignored["malformed"] == 1
    transport.expect(b"ok", b"ok", b"ok")
    assert server.peers == (peer,)
    await server.close()


@pytest.mark.parametrize("is_async", [False, True])
async def test_errors_of_on_json_are_told_in_order(is_async: bool) -> None:
    """What is not JSON was told before the messages before it, if an async method handled those."""
    told: list[object] = []

    class Numbers(Service):
        def on_json(self, value: int) -> None:
            told.append(value)

    class AsyncNumbers(Service):
        async def on_json(self, value: int) -> None:
            await asyncio.sleep(0)
            told.append(value)

    server = Server()
    server.add_service(AsyncNumbers if is_async else Numbers)
    server.on("error", lambda peer, error: told.append(type(error).__name__))
    transport = ScriptedTransport()
    await server.accept(transport)
    for messages in (["{", "1", "{", "2", '"two"', "{", "{", "3"], ["{"]):
        transport.feed(*messages)
    await turns_until(lambda: len(told) == 9)
    wrong = "ProtocolError"
    assert told == [wrong, 1, wrong, 2, "BadArguments", wrong, wrong, 3, wrong]
    await server.close()


@pytest.mark.parametrize("messages", [["[[[[[]]]],[]]", "1"], ["[" * 100_000, *["no"] * 10]])
async def test_too_much_that_is_not_json_or_nested_too_deep_closes_the_connection(messages: list[str]) -> None:
    got: list[Any] = []

    class Nested(Service):
        def on_json(self, value: Any) -> None:
            got.append(value)

    server = Server(limits=Limits(depth=4))
    server.add_service(Nested)
    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed("[[[[]]]]", '["[[[[[[[["]', *messages)
    await turns_until(lambda: transport.closed)
    assert transport.closed is not None and transport.closed.code == 1007
    assert got == [[[[[]]]], ["[[[[[[[["]]
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
        return self.peer.send_json(sum(value))


class SumsLater(Later):
    async def on_json(self, value: list[int]) -> None:
        await self.peer.send_json(sum(value))


class Text(Service):
    async def on_message(self, message: str | bytes) -> None:
        raise NotImplementedError


class SumsText(Text):
    async def on_message(self, message: str | bytes) -> None:
        await self.peer.send_json(sum(json.loads(message)))


OVERRIDES: list[tuple[type[Service], type[Service]]] = [(Base, SumsNow), (Later, SumsLater), (Text, SumsText)]


@pytest.mark.parametrize(("base", "derived"), OVERRIDES)
@pytest.mark.parametrize("extensions", [True, False])
async def test_each_style_runs_the_method_of_the_object_and_gets_no_hello(
    base: type[Service], derived: type[Service], extensions: bool
) -> None:
    """`on_json` ran that of the class that was added, and got what a client of wsrpc says to a server of wsrpc."""
    server = Server()
    server.add_service(base, lambda: derived())
    told: list[object] = []
    server.on("error", lambda peer, error: told.append(error))
    server.on("message", lambda peer, message: told.append(bytes(message.payload)))
    answers = asyncio.Queue[object]()
    async with server.listen() as listener, Client(listener.url, extensions=extensions) as client:
        client.on_raw(lambda peer, message: answers.put_nowait(message))
        await client.send_json([1, 2, 3])
        assert await answers.get() == "6"
        [peer] = server.peers
        assert (told, peer.ignored) == ([b"[1,2,3]"], {})


class Both(Text):
    def on_json(self, value: object) -> None: ...


class NotAsync(Later):
    def on_json(self, value: list[int]) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("base", "derived", "names"), [(Text, Both, "on_message, on_json"), (Later, NotAsync, "on_json")]
)
async def test_an_object_of_a_subclass_that_has_another_style_is_refused(
    base: type[Service], derived: type[Service], names: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    server.add_service(base, lambda: derived())
    with pytest.raises(ConnectionLost):
        await server.accept(ScriptedTransport())
    await turns_until(lambda: server.peers == ())
    assert f"whether a method is async: {names}. Pass that class to add_service" in caplog.text


async def test_on_message_gets_text_and_bytes_and_what_looks_like_protocol() -> None:
    got: list[Any] = []

    class Everything(Service):
        def on_message(self, message: str | bytes) -> None:
            got.append(message)

    server = Server()
    server.add_service(Everything)
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    messages = ['{"a":["add",1],"i":1}', b"\x81\xa1a\x91\xa1x", "", '{"i":1,"d":2}', '{"x":1}', "hi"]
    transport.feed(*messages, '{"ws-wrapper":false,"wsrpc":{"t":"hello","v":1,"features":[],"limits":{}}}')
    assert got == messages
    transport.expect()
    assert isinstance(peer, Peer)
    with pytest.raises(ValueError, match=r"Everything\.on_message gets every message"):
        peer.on("say", lambda text: None)
    await server.close()


@pytest.mark.parametrize("ends", [False, True])
async def test_an_error_handler_may_end_the_connection_of_a_service_that_raises(ends: bool) -> None:
    class Raises(Service):
        async def on_json(self, value: object) -> None:
            raise KeyError("secret")

    server = Server()
    server.add_service(Raises)
    told: list[type[BaseException]] = []

    @server.on("error")
    async def error(peer: Peer, error: BaseException) -> None:
        told.append(type(error))
        if ends:
            await peer.close(1011, "internal error")

    await server.accept(transport := ScriptedTransport())
    transport.feed("1")
    await turns_until(lambda: told == [KeyError])
    assert transport.closed == (CloseInfo(1011, "internal error", was_clean=True) if ends else None)
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
    (service(Sink, say=Talk.say), "Odd.on_message gets every message"),
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


def on_raw(server: Server) -> object:
    return server.on_raw(lambda peer, message: None)


def on_say(server: Server) -> object:
    return server.on("say", lambda text: None)


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (on_say, adds(Talk), r"'say' has a handler already, .*test_service_styles"),
        (adds(Talk, channel="talk"), adds(Talk, channel="talk"), "has a handler already"),
        (adds(Talk), adds(Sink), "cannot serve the same connections"),
        (serve_raw, adds(Loop), "^<function quiet .* serves every connection"),
        (adds(Json), serve_raw, "^serve_raw serves .*Json serves them"),
        (on_raw, adds(Sink), "but the server has an on_raw function"),
        (adds(Sink), on_raw, r"Sink\.on_message gets every message, so .* would never be called"),
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
    allowed = call == "use" and style in ("on_message", "on_json")  # these have a peer
    for first, second in ((serve, register), (register, serve)):
        server = Server()
        first(server)
        if allowed:
            second(server)
        else:
            with pytest.raises(
                ValueError, match=r"gets every message, so .*(would never be called|nothing would call)"
            ):
                second(server)


@pytest.mark.parametrize("call", [adds(Talk), serve_raw])
async def test_a_service_is_added_before_there_are_connections(call: Register) -> None:
    server = Server()
    await server.accept(ScriptedTransport())
    with pytest.raises(RuntimeError, match="is for connections that come later, and there are some"):
        call(server)
    await server.close()

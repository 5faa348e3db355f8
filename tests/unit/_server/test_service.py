"""`Service`: methods as handlers, or a whole connection, and one object for each connection.

Who does not get past a factory or `on_open`, and what `add_service` refuses.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from socket import socket
from typing import Any, NoReturn, Protocol

import pytest
from core_driver import messages
from waiting import settled, until

import wsrpc
from wsrpc import CloseInfo, Context, Handshake, Limits, Peer, Router, Server, Service, current_peer
from wsrpc.errors import BadArguments, ConnectionLost, RpcError, UnknownEvent
from wsrpc.testing import ScriptedTransport, connect
from wsrpc.types import RawConnection


def offering(*added: Any, **limits: Any) -> tuple[Server, ScriptedTransport]:
    """A server with a service, and a transport to connect to it."""
    server = Server(limits=Limits(**limits))
    server.add_service(*added)
    return server, ScriptedTransport()


class Desk(Service):
    """All that methods can be."""

    def __init__(self) -> None:
        self.count = 0

    @wsrpc.method
    def add(self, a: int, b: int = 1) -> int:
        self.count += 1
        return a + b

    @wsrpc.method("total")
    async def how_many(self) -> int:
        await asyncio.sleep(0)
        return self.count

    @wsrpc.method
    def moved(self, *by: int, ctx: Context) -> list[Any]:
        assert ctx.peer is self.peer is current_peer()
        return [sum(by), ctx.event]

    def not_exposed(self) -> None:
        raise AssertionError


async def test_methods_are_handlers_with_all_that_handlers_have() -> None:
    server, _ = offering(Desk)
    async with connect(server) as client, connect(server) as other:
        assert await client.request("add", 1, 2) == 3
        assert await client.request("total") == 1
        assert await client.request("moved", 2, 3) == [5, "moved"]
        with pytest.raises(BadArguments, match="'a'"):
            await client.request("add", "one")
        for name in ("not_exposed", "how_many", "on_open", "__init__", "peer"):
            with pytest.raises(UnknownEvent):
                await client.request(name)
        assert await other.request("total") == 0, "each connection has an object of its own"


# ---------------------------------------------------------------- factories


class Chat(Service):
    def __init__(self, peer: Peer) -> None:
        self.user = peer.state["user"]

    @wsrpc.method
    def who(self) -> str:
        return f"{self.user} at {self.peer.info.path}"


async def make(peer: Peer) -> Chat:
    await asyncio.sleep(0)
    return Chat(peer)


@pytest.mark.parametrize("added", [(Chat,), (make,), (Chat, lambda peer: Chat(peer))])
async def test_a_factory_gets_the_peer_with_its_handshake(added: tuple[Any, ...]) -> None:
    server, _ = offering(*added)
    async with connect(server, path="/here", state={"user": "ada"}) as client:
        assert await client.request("who") == "ada at /here"


async def cancelled() -> None:
    """What waits for a task that somebody else has cancelled."""
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


def never() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def fail() -> None:
    raise KeyError("no database")


def refuse() -> NoReturn:
    raise RpcError("not today")


def refuse_in_a_group() -> NoReturn:
    raise BaseExceptionGroup("tasks", [asyncio.CancelledError(), RpcError("not today")])


FAILURES = [
    (fail, 1011, "internal error", "no database"),
    (cancelled, 1011, "internal error", "CancelledError"),
    (refuse, 1008, "not today", None),
    (refuse_in_a_group, 1008, "not today", None),
]


@pytest.mark.parametrize(
    ("factory", "code", "reason", "logged"),
    [*FAILURES, (lambda: "a chat", 1011, "internal error", "returned 'a chat'")],
)
async def test_a_factory_that_fails_refuses_the_connection(
    factory: Any, code: int, reason: str, logged: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    server, transport = offering(Chat, factory)
    with pytest.raises(ConnectionLost):
        await server.accept(transport)
    assert transport.closed == CloseInfo(code, reason, was_clean=True)
    await until(lambda: server.peers == ())
    assert bool(messages(caplog)) is (logged is not None)
    assert logged is None or (logged in caplog.text and "the factory of Chat " in caplog.text)


class Tools(Desk):
    """Overrides handlers, without decorators."""

    def add(self, a: int, b: int = 1) -> int:
        return super().add(a, b) * 10

    async def how_many(self) -> int:
        return 10


class Adder(Protocol):
    async def add(self, a: int, b: int = 1) -> int: ...


@pytest.mark.parametrize("options", [{}, {"implements": Adder}], ids=["marked", "implementing"])
@pytest.mark.parametrize("added", [(Tools,), (Desk, Tools)], ids=["a subclass", "a factory"])
async def test_a_class_inherits_handlers_and_no_other_handler_takes_their_place(added: Any, options: Any) -> None:
    """A factory may return an object of a subclass: the methods of the class that was added ran on it."""
    server, router = Server(), Router()
    server.add_service(*added, channel="side", **options)
    router.on("add", print)
    for register in (lambda: server.of("side").on("add", print), lambda: server.include(router, channel="side")):
        with pytest.raises(ValueError, match=r"^'add' is a method of a service, .*: take another name for "):
            register()
    async with connect(server) as client:
        side = client.of("side")
        assert [await side.request("add", 2), await side.request("total")] == [30, 10]
        assert await side.request("moved", 2, 3) == [5, "moved"]
        with pytest.raises(BadArguments, match="'a'"):
            await side.request("add", "two")
    server.of("side").on("add", None)
    server.of("side").on("add", lambda: "that was removed")


@wsrpc.method
def more(self: object) -> None: ...


async def add_later(self: object, a: int, b: int = 1) -> int:
    return a + b


async def take(self: object, message: object) -> None: ...


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"more": more}, "returned a Odd, which adds handlers, or .*: more. Pass that class to add_service"),
        ({"add": add_later}, "changes options or whether a method is async: add. Pass"),
        ({"on_message": take}, ": on_message. Pass"),
        ({"add": property(lambda self: None)}, "Odd.add is a handler in a base class, and here <property"),
        ({"on_close": lambda self: None}, r"Odd.on_close is called with \(self, info\)"),
    ],
)
async def test_what_a_subclass_changes_that_add_service_has_not_seen_refuses_the_connection(
    members: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd = type("Odd", (Desk,), members)
    server, _ = offering(Desk, lambda: odd())
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            await server.accept(ScriptedTransport())
    await until(lambda: server.peers == ())
    for record in caplog.records:
        assert record.exc_info is not None and re.search(text, str(record.exc_info[1]))
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("how", "code"), [("too long", "1011"), ("the server closes", "1012"), ("cancelled", None)])
async def test_a_factory_that_never_ends_lets_nobody_in_and_holds_up_nobody(
    how: str, code: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    server, transport = offering(Chat, never, open_timeout=30.0 if how == "too long" else 3600.0)
    accepting = asyncio.create_task(server.accept(transport))
    await asyncio.sleep(0)
    if how == "cancelled":
        accepting.cancel()
    elif how == "the server closes":
        await server.close()
    with pytest.raises(asyncio.CancelledError if code is None else ConnectionLost, match=code):
        await accepting
    assert transport.closed is not None
    assert bool(messages(caplog)) is (how == "too long")


@pytest.mark.parametrize("admits", [True, False])
async def test_credentials_that_expire_while_a_factory_runs_close_the_connection(admits: bool) -> None:
    """A peer that is refused does not wait for the time at which its credentials expire."""
    server, made = Server(), list[weakref.ref[Peer]]()

    async def factory(peer: Peer) -> Living:
        made.append(weakref.ref(peer))
        await asyncio.sleep(0)
        return Living([]) if admits else refuse()

    server.add_service(factory)
    handshake, transport = Handshake("/", {}), ScriptedTransport()
    handshake.expires = time.time() + (0 if admits else 3600)
    with suppress(ConnectionLost):
        await server.accept(transport, handshake)
    await until(lambda: server.stats().closed)
    code, reason = (4411, "the credentials have expired") if admits else (1008, "not today")
    assert transport.closed == CloseInfo(code, reason, was_clean=True) and server.stats().closed == {code: 1}
    del transport
    await until(lambda: gc.collect(1) >= 0 and made[0]() is None)


@pytest.mark.parametrize("raw", [False, True])
async def test_an_object_serves_one_connection(raw: bool, caplog: pytest.LogCaptureFixture) -> None:
    server, transport, shared = Server(), ScriptedTransport(), Serves([]) if raw else Logs([])
    server.add_service(type(shared), lambda: shared)
    await server.accept(ScriptedTransport())
    with suppress(ConnectionLost):
        await server.accept(transport)
    await until(lambda: transport.closed)
    assert transport.closed == CloseInfo(1011, "internal error", was_clean=True)
    assert f"the factory of {type(shared).__qualname__} returned an object that serves <" in caplog.text
    await server.close()


# ---------------------------------------------------------------- on_open


class Serves(Service):
    """Notes what happens to it, and has the whole connection."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    async def serve(self, connection: RawConnection) -> None:
        self.log.append("serve")

    def on_close(self, info: CloseInfo) -> None:
        self.log.append((info.code, info.reason, info.user_closed))


class Logs(Serves):
    """Notes what happens to it, and has events."""

    serve = None  # type: ignore[assignment]

    @wsrpc.method
    def act(self) -> list[Any]:
        self.log.append("act")
        return self.log


class Living(Logs):
    async def on_open(self) -> None:
        await asyncio.sleep(0)
        assert self.peer.connected
        self.log.append("open")

    async def on_close(self, info: CloseInfo) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().on_close(info)


@pytest.mark.parametrize("by_handler", [False, True])
async def test_open_comes_before_what_arrives_and_close_once_at_the_end(by_handler: bool) -> None:
    """Neither is called if an ``open`` handler has closed the connection."""
    log: list[Any] = []
    server, _ = offering(Living, lambda: Living(log))
    if by_handler:
        server.on("open", lambda peer: peer.close(4002, "elsewhere"))
    async with connect(server) as client:
        if by_handler:
            await client.peer.wait_closed()
        else:
            assert await client.request("act") == ["open", "act"]
            await client.close(4001, "bye")
    await until(lambda: not server.peers)
    await server.close()
    assert log == ([] if by_handler else ["open", "act", (4001, "bye", False)])


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(("guard", "code", "reason", "logged"), FAILURES)
async def test_on_open_that_raises_closes_the_connection_and_nothing_is_looked_at(
    guard: Any, code: int, reason: str, logged: str | None, raw: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[Any] = []
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def on_open(self: Logs) -> None:
        entered.set()
        await go_on.wait()
        await (guard() or asyncio.sleep(0))

    server = Server()
    cls = type("Gate", (Serves if raw else Logs,), {"on_open": on_open})
    server.add_service(cls, lambda: cls(log))
    if not raw:  # which no other service may share
        server.add_service(Living, lambda: Living(log), channel="behind")
    transport = ScriptedTransport()
    accepting = asyncio.create_task(server.accept(transport))
    await entered.wait()
    transport.feed({"a": ["act"]}, {"a": ["act"], "i": 1})
    go_on.set()
    await accepting
    await until(lambda: log)
    await server.close()
    assert transport.closed == CloseInfo(code, reason, was_clean=True)
    assert log == [(code, reason, False)]  # nobody has called close()
    said = messages(caplog, logging.ERROR)
    assert len(said) == (logged is not None)
    assert logged is None or (logged in caplog.text and (raw or "'open', Gate.on_open" in said[0]))


async def test_a_drop_while_on_open_runs_cancels_it_and_then_on_close_is_called() -> None:
    log: list[Any] = []

    class Waits(Logs):
        async def on_open(self) -> None:
            self.log.append("on_open")
            try:
                await never()
            finally:
                await settled()
                self.log.append("on_open ends")

    server, transport = offering(Waits, lambda: Waits(log))
    accepting = asyncio.create_task(server.accept(transport))
    await until(lambda: log)
    [peer] = server.peers
    transport.feed({"a": ["act"]}, {"a": ["act"], "i": 1})
    transport.lose()
    await accepting
    await until(lambda: len(log) == 3)
    assert [*log[:2], log[2][0]] == ["on_open", "on_open ends", 1006]  # it might have refused the client
    assert peer.ignored == {"dropped at the end": 2}
    await server.close()


# ---------------------------------------------------------------- on_close


class InTurn(Service):
    """Handles one message at a time, each when the test lets it."""

    def __init__(self, log: list[str], go_on: asyncio.Event) -> None:
        self.log = log
        self.go_on = go_on

    async def on_message(self, message: Any) -> None:
        self.log.append(f"{message} begins")
        await self.go_on.wait()
        await asyncio.sleep(0)
        self.log.append(f"{message} ends")

    async def on_close(self, info: CloseInfo) -> None:
        self.log.append("on_close")
        await settled()
        self.log.append("saved")


class InTurnEvents(InTurn):
    on_message = None  # type: ignore[assignment]

    @wsrpc.method(ordered=True)
    async def handle(self, name: str) -> None:
        await InTurn.on_message(self, name)


@pytest.mark.parametrize(("cls", "message"), [(InTurn, "{}"), (InTurnEvents, '{{"a":["handle","{}"]}}')])
@pytest.mark.parametrize("running", [1, 1024])
@pytest.mark.parametrize("how", ["drops", "the server closes", "a handler never ends"])
async def test_on_close_comes_after_what_had_arrived(cls: type[InTurn], message: str, running: int, how: str) -> None:
    log: list[str] = []
    go_on = asyncio.Event()
    server, transport = offering(
        cls, lambda: cls(log, go_on), running=running, close_timeout=0.01 if how == "a handler never ends" else 5.0
    )
    peer = await server.accept(transport)
    transport.feed(*(message.format(name) for name in "abc"))
    await until(lambda: log)
    if how == "drops":
        transport.lose()
        await peer.wait_closed()  # does not wait for handlers
        await settled()
        assert log == ["a begins"] and server.peers == ()
        go_on.set()
        await until(lambda: "saved" in log)
        assert log == [*[f"{name} {what}" for name in "abc" for what in ("begins", "ends")], "on_close", "saved"]
        return
    closing = asyncio.create_task(server.close())
    if how == "the server closes":
        await until(lambda: transport.closed)
        go_on.set()
        await closing  # waits for what has started and for `on_close`
        assert log == ["a begins", "a ends", "on_close", "saved"]
    else:
        await closing
        assert log[:2] == ["a begins", "on_close"] and not [line for line in log if "ends" in line]


@pytest.mark.parametrize("closes", ["the server", "the connection"])
async def test_a_handler_that_goes_before_on_close_may_close_and_wait(closes: str) -> None:
    """Also while messages wait for their turn behind it: closing waited for these until `close_timeout`."""
    log: list[str] = []
    server, transport = Server(limits=Limits(close_timeout=3600.0)), ScriptedTransport()

    class Leaves(Service):
        @wsrpc.method(ordered=True)
        async def leave(self, name: str) -> None:
            await (server.close(drain_timeout=3600) if closes == "the server" else self.peer.close(4000))
            await self.peer.wait_closed()
            log.append(name)

        async def on_close(self, info: CloseInfo) -> None:
            await asyncio.sleep(0)
            log.append("on_close")

    server.add_service(Leaves)
    await server.accept(transport)
    async with asyncio.timeout(0.1):
        transport.feed(*({"a": ["leave", name]} for name in "abc"))
        await until(lambda: transport.closed)
        await server.close()
        await until(lambda: len(log) == 2)
    assert log == (["on_close", "a"] if closes == "the server" else ["a", "on_close"])


async def test_on_close_that_raises_is_logged_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []

    class Raises(Service):
        def on_close(self, info: CloseInfo) -> None:
            told.append(-info.code)
            raise KeyError

    server, _ = offering(Logs, lambda: Logs(told))
    server.add_service(Raises)
    async with connect(server):
        pass
    await until(lambda: len(told) == 2)
    assert told == [-1000, (1000, "", False)] and "Raises.on_close" in messages(caplog)[0]


# ---------------------------------------------------------------- services that have the whole connection


class Loop(Service):
    on_message = on_json = print  # `serve` goes before them

    def __init__(self, closed: list[CloseInfo]) -> None:
        self.closed = closed

    async def on_open(self) -> None:
        await self.connection.send(b"welcome")

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


@pytest.mark.parametrize(("last", "code"), [("leave", 1000), ("fail", 1011)])
async def test_serve_has_the_connection(last: str, code: int) -> None:
    closed: list[CloseInfo] = []
    server, transport = offering(Loop, lambda connection: Loop(closed))
    await server.accept(transport)
    transport.feed(b"\x00", last)
    await until(lambda: closed)
    assert transport.closed is not None and transport.closed.code == code
    assert [info.code for info in closed] == [code]
    transport.expect(b"welcome", b"\x00")
    await server.close()


class Move(Service):
    on_message = print  # `on_json` goes before it

    def __init__(self, got: list[Any]) -> None:
        self.got = got

    async def on_json(self, value: dict[str, list[int]]) -> None:
        await asyncio.sleep(0)
        self.got.append(value)
        await self.connection.send(b"ok")

    def on_close(self, info: CloseInfo) -> None:
        self.got.append(info)


class Moves(Move):
    async def on_json(self, value: dict[str, list[int]]) -> None:
        await super().on_json(value | {"in": [1]})


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
    """That of a subclass, if the factory returns such an object: that of the class that was added ran."""
    got: list[Any] = []
    server, transport = offering(Move, lambda: Moves(got), depth=4, values=1000)
    assert await server.accept(transport) in server.raw_connections
    transport.feed('{"a":[1]}', '{"i":[2],"x":[]}', b'{"b":[]}', wrong, '{"late":[]}')
    await until(lambda: len(got) == 4)
    assert transport.closed is not None and transport.closed.code == 1007
    assert transport.closed.reason.startswith(reason) and transport.closed.reason in caplog.text
    assert got == [{"a": [1], "in": [1]}, {"i": [2], "x": [], "in": [1]}, {"b": [], "in": [1]}, transport.closed]
    transport.expect(b"ok", b"ok", b"ok")
    await server.close()


async def test_on_message_gets_text_and_bytes_and_what_looks_like_protocol() -> None:
    """Until the service closes the connection."""
    got: list[Any] = []

    class Everything(Service):
        async def on_message(self, message: str | bytes) -> None:
            got.append(message)
            if message == "hi":
                await self.connection.close(4000)

    server, transport = offering(Everything)
    await server.accept(transport)
    messages = ['{"a":["add",1],"i":1}', b"\x81\xa1a\x91\xa1x", "", '{"i":1,"d":2}', '{"x":1}', "hi"]
    transport.feed(*messages, "late")
    await until(lambda: not server.raw_connections)
    assert got == messages
    transport.expect()
    await server.close()


@pytest.mark.parametrize("style", ["on_json", "on_message"])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("code", "reason"), [(1011, "internal error"), (1008, "no such move")])
async def test_an_exception_ends_the_connection(
    style: str, is_async: bool, code: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was logged, and the connection went on, as if the message had been handled."""
    got: list[Any] = []

    def handle(self: object, message: object) -> None:
        got.append(message)
        raise KeyError("secret") if code == 1011 else wsrpc.RpcError("no such move")

    async def handle_later(self: object, message: object) -> None:
        handle(self, message)

    handles = handle_later if is_async else handle
    server, transport = offering(service(Service, **{style: handles}, on_close=lambda self, info: got.append(info)))
    await server.accept(transport)
    transport.feed("1", "2")
    await until(lambda: len(got) == 2)
    assert got == [1 if style == "on_json" else "1", CloseInfo(code, reason, was_clean=True)]
    assert ("secret" in caplog.text) is (code == 1011), "with its traceback"
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


def takes_a_socket(self: object, value: socket) -> None: ...


def untyped(peer: Peer):  # type: ignore[no-untyped-def]
    return Talk()


def service(base: type[Service] = Talk, **members: Any) -> type[Service]:
    """A class with other members than its base."""
    return type("Odd", (base,), members)


WRONG: list[tuple[Any, str]] = [
    (str, "add_service takes a subclass of wsrpc.Service"),
    (Service, "Service does nothing"),
    (untyped, r"Annotate what it returns .* or call add_service\(Class, factory\)"),
    (service(Sink, say=Talk.say), r"Odd.on_message gets .*Talk.say\. Leave out on_message, or put the handlers"),
    (service(Service, on_json=staticmethod(len)), r"len.*: it is called with \(self, value\)"),
    (service(Service, on_json=takes_a_socket), r"values from the wire cannot be converted to socket"),
    (service(one=wsrpc.method(lambda: None)), "a method takes self first"),
    (service(__init__=lambda self, a, b: None), r"add_service: the function is called with \(peer\), but .*Odd"),
    (service(Service, serve=lambda self, connection: None), "Odd.serve must be async"),
    (service(on_connect=print), "Odd.on_connect would never be called: Server.on_handshake decides before"),
    (service(on_close=lambda self, was_clean, code, reason: None), r"Odd.on_close.* called with \(self, info\)"),
    (service(on_open=lazily), "Odd.on_open takes a function without a `yield`"),
    (service(close=wsrpc.method("close")(lambda self: None)), "lambda>: 'close' is reserved on the main channel"),
    (service(one=wsrpc.method("say")(lambda self: None)), "lambda> and Talk.say are both for the event 'say'"),
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
        (on_say, adds(Talk), r"'say' has a handler already, .*test_service"),
        (adds(Talk, channel="talk"), adds(Talk, channel="talk"), "has a handler already"),
        (adds(Talk), adds(Sink), r"on_message serves every connection, and Talk serves them already: use another"),
        (adds(Talk), serve_raw, r"^quiet serves every connection, and Talk serves them already: use another"),
        (serve_raw, adds(Talk), "^quiet serves every connection"),
        (adds(Json), serve_raw, r"^Json\.on_json serves every connection"),
        (lambda server: None, adds(Sink, channel="talk"), "it has no channel"),
    ],
)
def test_what_cannot_be_together(first: Register, second: Register, text: str) -> None:
    server = Server()
    first(server)
    with pytest.raises(ValueError, match=text):
        second(server)


NEVER_CALLED: dict[str, Register] = {
    "on": on_say,
    "an error handler": lambda server: server.on("error", lambda peer, error: None),
    "on_detach": lambda server: server.on_detach(lambda peer, info: None),
    "use": lambda server: server.use(lambda ctx, call_next: call_next(ctx)),
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

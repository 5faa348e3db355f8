"""`Service`: methods as handlers, one object for each connection, and who does not get past a factory or `on_open`."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn, Protocol

import pytest
from core_driver import messages, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

import wsrpc
from wsrpc import (
    BadArguments,
    CloseInfo,
    ConnectionLost,
    Context,
    Handshake,
    Limits,
    Peer,
    Router,
    RpcError,
    Server,
    Service,
    UnknownEvent,
    current_peer,
)
from wsrpc.testing import ScriptedTransport, connect
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


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

    @wsrpc.method("inThread", thread=True)
    def in_thread(self, value: int) -> bool:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return value == 7

    def not_exposed(self) -> None:
        raise AssertionError


async def test_methods_are_handlers_with_all_that_handlers_have() -> None:
    server = Server()
    server.add_service(Desk)
    async with connect(server) as client, connect(server) as other:
        assert await client.request("add", 1, 2) == 3
        assert await client.request("total") == 1
        assert await client.request("moved", 2, 3) == [5, "moved"]
        assert await client.request("inThread", 7) is True
        with pytest.raises(BadArguments, match="'a'"):
            await client.request("add", "one")
        for name in ("not_exposed", "how_many", "on_open", "__init__", "peer"):
            with pytest.raises(UnknownEvent):
                await client.request(name)
        assert await other.request("total") == 0, "each connection has an object of its own"


class Better(Desk):
    def add(self, a: int, b: int = 1) -> int:
        return 100 + super().add(a, b)

    @wsrpc.method("open")
    async def how_many(self) -> int:
        return -1


async def test_a_class_inherits_handlers_and_no_other_handler_takes_their_place() -> None:
    server = Server()
    server.add_service(Better, channel="side")  # where "open" is an ordinary name
    server.add_service(Desk)
    router = Router()
    router.on("add", print)
    for register in (
        lambda: server.on("add", lambda: None),
        lambda: server.of("side").on("add", lambda: None),
        lambda: server.include(router),
    ):
        with pytest.raises(ValueError, match=r"^'add' is a method of a service, .*: take another name for "):
            register()
    async with connect(server) as client:
        side = client.of("side")
        assert await client.request("add", 1, 2) == await side.request("add", 1, 2) - 100 == 3
        assert await side.request("open") == -1
        with pytest.raises(UnknownEvent):
            await side.request("total")
    server.on("add", None)
    server.on("add", lambda: "that was removed")


# ---------------------------------------------------------------- factories


class Serving(Service):
    """Has the whole connection."""

    async def serve(self, connection: RawConnection) -> None:
        await connection.receive()


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
    server = Server()
    server.add_service(*added)
    async with connect(server, path="/here", state={"user": "ada"}) as client:
        assert await client.request("who") == "ada at /here"


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def cancelled() -> None:
    """What waits for a task that somebody else has cancelled."""
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


def fail() -> None:
    raise KeyError("no database")


def refuse() -> NoReturn:
    raise RpcError("not today")


def refuse_in_a_group() -> NoReturn:
    raise BaseExceptionGroup("tasks", [asyncio.CancelledError(), RpcError("not today")])


FAILURES = [
    pytest.param(fail, 1011, "internal error", "no database", id="raises"),
    pytest.param(cancelled, 1011, "internal error", "CancelledError", id="by a CancelledError of something else"),
    pytest.param(refuse, 1008, "not today", None, id="says why"),
    pytest.param(refuse_in_a_group, 1008, "not today", None, id="says why in a group"),
]


@pytest.mark.parametrize(
    ("factory", "code", "reason", "logged"),
    [*FAILURES, pytest.param(lambda: "a chat", 1011, "internal error", "returned 'a chat'", id="another thing")],
)
async def test_a_factory_that_fails_refuses_the_connection(
    factory: Any, code: int, reason: str, logged: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    server.add_service(Chat, factory)
    transport = ScriptedTransport()
    with pytest.raises(ConnectionLost):
        await server.accept(transport)
    assert transport.closed == CloseInfo(code, reason, was_clean=True)
    await turns_until(lambda: server.peers == ())
    assert bool(messages(caplog)) is (logged is not None)
    assert logged is None or (logged in caplog.text and "the factory of Chat " in caplog.text)


class Tools(Desk):
    """Overrides handlers, without decorators, and uses what it adds."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 10

    def add(self, a: int, b: int = 1) -> int:
        return super().add(a, b) * self.step

    async def how_many(self) -> int:
        return self.step

    def in_thread(self, value: int) -> bool:
        return super().in_thread(value) and threading.current_thread() is not threading.main_thread()

    def on_open(self) -> None:
        self.peer.state["by"] = "Tools"

    def not_exposed(self) -> None: ...


class Adder(Protocol):
    async def add(self, a: int, b: int = 1) -> int: ...


@pytest.mark.parametrize("options", [{}, {"implements": Adder}], ids=["marked", "implementing"])
async def test_a_factory_may_return_an_object_of_a_subclass_whose_methods_are_called(options: Any) -> None:
    """Those of the class that was added ran, on the object of the subclass."""
    server = Server()
    server.add_service(Desk, lambda peer: Tools() if peer.info.path == "/tools" else Desk(), **options)
    async with connect(server, path="/tools") as tools, connect(server) as plain:
        assert [await client.request("add", 2) for client in (tools, plain)] == [30, 3]
        assert [await client.request("total") for client in (tools, plain)] == [10, 1]
        assert [await client.request("moved", 2, 3) for client in (tools, plain)] == [[5, "moved"]] * 2
        assert [await client.request("inThread", 7) for client in (tools, plain)] == [True, True]
        with pytest.raises(BadArguments, match="'a'"):
            await tools.request("add", "two")
        assert [peer.state.get("by") for peer in server.peers] == ["Tools", None]


@wsrpc.method
def more(self: object) -> None: ...


@wsrpc.method("sum")
def renamed(self: object, a: int, b: int = 1) -> int:
    return a + b


@wsrpc.method(thread=True)
def add_in_a_thread(self: object, a: int, b: int = 1) -> int:
    return a + b


async def add_later(self: object, a: int, b: int = 1) -> int:
    return a + b


async def take(self: object, message: object) -> None: ...


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"more": more}, "returned a Odd, which adds handlers, or .*: more. Pass that class to add_service"),
        ({"add": renamed}, ": add, sum. Pass"),
        ({"add": add_in_a_thread}, ": add. Pass"),
        ({"add": add_later}, "changes options or whether a method is async: add. Pass"),
        ({"on_message": take}, ": on_message. Pass"),
        ({"add": property(lambda self: None)}, "Odd.add is a handler in a base class, and here <property"),
        ({"add": staticmethod(lambda a, b=1: a)}, "Odd.add is a handler in a base class, and here <staticmethod"),
        ({"on_close": lambda self: None}, r"Odd.on_close is called with \(self, info\)"),
        ({"on_connect": lambda self: None}, "Odd.on_connect would never be called"),
    ],
)
async def test_what_a_subclass_changes_that_add_service_has_not_seen_refuses_the_connection(
    members: dict[str, Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    odd = type("Odd", (Desk,), members)
    server = Server()
    server.add_service(Desk, lambda: odd())
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            await server.accept(ScriptedTransport())
    await turns_until(lambda: server.peers == ())
    for record in caplog.records:
        assert record.exc_info is not None and re.search(text, str(record.exc_info[1]))
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("how", "code"), [("too long", "1011"), ("the server closes", "1012"), ("cancelled", None)])
async def test_a_factory_that_never_ends_lets_nobody_in_and_holds_up_nobody(
    how: str, code: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(limits=Limits(open_timeout=0.01 if how == "too long" else 3600.0))
    server.add_service(Chat, never)
    transport = ScriptedTransport()
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
    server = Server()
    made: list[weakref.ref[Peer]] = []

    async def factory(peer: Peer) -> Living:
        made.append(weakref.ref(peer))
        await asyncio.sleep(0)
        return Living([]) if admits else refuse()

    server.add_service(factory)
    handshake, transport = Handshake("/", {}), ScriptedTransport()
    handshake.expires = time.time() + (0 if admits else 3600)
    with suppress(ConnectionLost):
        await server.accept(transport, handshake)
    await turns_until(lambda: server.stats().closed)
    code, reason = (4411, "the credentials have expired") if admits else (1008, "not today")
    assert transport.closed == CloseInfo(code, reason, was_clean=True)
    assert server.stats().closed == {code: 1}
    del transport
    await turns_until(lambda: gc.collect() >= 0 and made[0]() is None)


@pytest.mark.parametrize("cls", [Desk, Serving])
async def test_an_object_serves_one_connection(cls: type[Service], caplog: pytest.LogCaptureFixture) -> None:
    shared = cls()
    server = Server()
    server.add_service(cls, lambda: shared)
    await server.accept(ScriptedTransport())
    with suppress(ConnectionLost):
        await server.accept(transport := ScriptedTransport())
    await turns_until(lambda: transport.closed)
    assert transport.closed == CloseInfo(1011, "internal error", was_clean=True)
    assert f"the factory of {cls.__qualname__} returned an object that serves <" in caplog.text
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


async def test_open_comes_before_what_arrives_and_close_once_at_the_end() -> None:
    log: list[Any] = []
    server = Server()
    server.add_service(Living, lambda: Living(log))
    async with connect(server) as client:
        assert await client.request("act") == ["open", "act"]
        await client.close(4001, "bye")
    await turns_until(lambda: len(log) == 3)
    await server.close()
    assert log[2:] == [(4001, "bye", False)]


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
    await turns_until(lambda: log)
    await server.close()
    assert transport.closed == CloseInfo(code, reason, was_clean=True)
    assert log == [(code, reason, True)]
    said = messages(caplog, logging.ERROR)
    assert len(said) == (logged is not None)
    assert logged is None or (logged in caplog.text and (raw or "'open', Gate.on_open" in said[0]))


async def test_on_open_is_not_called_when_an_open_handler_has_closed_the_connection() -> None:
    log: list[Any] = []
    server = Server()
    server.add_service(Living, lambda: Living(log))

    @server.on("open")
    async def opened(peer: Peer) -> None:
        await peer.close(4002, "elsewhere")
        await turns(1)

    await server.accept(transport := ScriptedTransport())
    await turns_until(lambda: transport.closed)
    await server.close()
    assert log == []


async def test_a_drop_while_on_open_runs_cancels_it_and_then_on_close_is_called() -> None:
    log: list[Any] = []

    class Waits(Logs):
        async def on_open(self) -> None:
            self.log.append("on_open")
            try:
                await never()
            finally:
                await turns(20)
                self.log.append("on_open ends")

    server = Server()
    server.add_service(Waits, lambda: Waits(log))
    transport = ScriptedTransport()
    accepting = asyncio.create_task(server.accept(transport))
    await turns_until(lambda: log)
    [peer] = server.peers
    transport.feed({"a": ["act"]}, {"a": ["act"], "i": 1})
    transport.lose()
    await accepting
    await turns_until(lambda: len(log) == 3)
    assert [*log[:2], log[2][0]] == ["on_open", "on_open ends", 1006]  # it might have refused the client
    assert peer.ignored == {"dropped at the end": 2}
    await server.close()


# ---------------------------------------------------------------- on_close


class InTurn(Service):
    """Handles one message at a time, each when the test lets it."""

    def __init__(self, log: list[str], go_on: asyncio.Event) -> None:
        self.log = log
        self.go_on = go_on

    async def handle(self, name: str) -> None:
        self.log.append(f"{name} begins")
        await self.go_on.wait()
        await asyncio.sleep(0)
        self.log.append(f"{name} ends")

    async def on_close(self, info: CloseInfo) -> None:
        self.log.append("on_close")
        await turns(20)
        self.log.append("saved")


class InTurnMessages(InTurn):
    on_message = InTurn.handle


class InTurnEvents(InTurn):
    @wsrpc.method(ordered=True)
    async def handle(self, name: str) -> None:
        await super().handle(name)


@pytest.mark.parametrize(("cls", "message"), [(InTurnMessages, "{}"), (InTurnEvents, '{{"a":["handle","{}"]}}')])
@pytest.mark.parametrize("running", [1, 1024])
@pytest.mark.parametrize("how", ["drops", "the server closes", "a handler never ends"])
async def test_on_close_comes_after_what_had_arrived(cls: type[InTurn], message: str, running: int, how: str) -> None:
    log: list[str] = []
    go_on = asyncio.Event()
    server = Server(limits=Limits(running=running, close_timeout=0.01 if how == "a handler never ends" else 5.0))
    server.add_service(cls, lambda: cls(log, go_on))
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    transport.feed(*(message.format(name) for name in "abc"))
    await turns_until(lambda: log)
    if how == "drops":
        transport.lose()
        await peer.wait_closed()  # does not wait for handlers
        await turns()
        assert log == ["a begins"] and server.peers == ()
        go_on.set()
        await turns_until(lambda: "saved" in log)
        assert log == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends", "on_close", "saved"]
        return
    closing = asyncio.create_task(server.close())
    if how == "the server closes":
        await turns_until(lambda: transport.closed)
        go_on.set()
    await closing  # waits for what has started and for `on_close`
    if how == "the server closes":
        assert log == ["a begins", "a ends", "on_close", "saved"]
    else:
        assert log[:2] == ["a begins", "on_close"] and not [line for line in log if "ends" in line]


@pytest.mark.parametrize(
    ("close", "ends"),
    [
        (lambda peer: peer.server.close(drain_timeout=3600), ["on_close", "a"]),
        (lambda peer: peer.close(4000), ["a", "on_close"]),
    ],
    ids=["the server", "the connection"],
)
async def test_a_handler_that_goes_before_on_close_may_close_and_wait(
    close: Callable[[Peer], Awaitable[None]], ends: list[str]
) -> None:
    """Also while messages wait for their turn behind it: closing waited for these until `close_timeout`."""
    log: list[str] = []

    class Leaves(Service):
        @wsrpc.method(ordered=True)
        async def leave(self, name: str) -> None:
            await close(self.peer)
            await self.peer.wait_closed()
            log.append(name)

        async def on_close(self, info: CloseInfo) -> None:
            await asyncio.sleep(0)
            log.append("on_close")

    server = Server(limits=Limits(close_timeout=3600.0))
    server.add_service(Leaves)
    transport = ScriptedTransport()
    await server.accept(transport)
    async with asyncio.timeout(8):
        transport.feed(*(f'{{"a":["leave","{name}"]}}' for name in "abc"))
        await turns_until(lambda: transport.closed)
        await server.close()
        await turns_until(lambda: len(log) == 2)
    assert log == ends


async def test_on_close_that_raises_is_logged_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []

    class Raises(Service):
        def on_close(self, info: CloseInfo) -> None:
            told.append(-info.code)
            raise KeyError

    server = Server()
    server.add_service(Logs, lambda: Logs(told))
    server.add_service(Raises)
    async with connect(server):
        pass
    await turns_until(lambda: len(told) == 2)
    assert told == [-1000, (1000, "", False)]
    assert ["Raises.on_close" in text for text in messages(caplog)] == [True]

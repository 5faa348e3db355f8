"""`Service`: methods as handlers, one object for each connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_serving
from raw_websocket import CLOSE

import wsrpc
from wsrpc import (
    BadArguments,
    Client,
    CloseInfo,
    ConnectionLost,
    Context,
    HandlerFailed,
    Handshake,
    Limits,
    Peer,
    RemoteError,
    RpcError,
    Server,
    Service,
    UnknownEvent,
    current_peer,
)
from wsrpc.testing import ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


@dataclass
class Point:
    x: int
    y: int = 0


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
    def moved(self, point: Point, *by: int, ctx: Context) -> list[Any]:
        assert ctx.peer is self.peer is current_peer()
        return [point.x + sum(by), point.y, ctx.event]

    @wsrpc.method
    async def count_to(self, peer: Peer, last: int) -> AsyncIterator[int]:
        assert peer is self.peer
        for number in range(last):
            yield number

    @wsrpc.method
    async def sum_up(self, numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    @wsrpc.method(lax=True)
    def number(self, value: int) -> int:
        return value

    @wsrpc.method("inThread", thread=True)
    def in_thread(self) -> bool:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return True
        return False

    @wsrpc.method()
    def fail(self) -> None:
        raise KeyError("secret")

    def not_exposed(self) -> None:
        raise AssertionError


async def test_methods_are_handlers_with_all_that_handlers_have() -> None:
    server = Server()
    server.add_service(Desk)
    async with connect(server) as client:
        assert await client.request("add", 1, 2) == 3
        assert await client.request("add", 1) == 2
        assert await client.request("total") == 2
        assert await client.request("moved", {"x": 1}, 2, 3) == [6, 0, "moved"]
        assert [number async for number in client.stream("count_to", 3)] == [0, 1, 2]
        assert await client.request("sum_up", send=[1, 2, 3]) == 6
        assert await client.request("number", "7") == 7
        assert await client.request("inThread") is True
        with pytest.raises(BadArguments, match="'a'"):
            await client.request("add", "one")
        with pytest.raises(BadArguments):
            await client.request("total", 5)
        with pytest.raises(HandlerFailed):
            await client.request("fail")
        for name in ("not_exposed", "how_many", "on_open", "__init__", "peer"):
            with pytest.raises(UnknownEvent):
                await client.request(name)


async def test_each_connection_has_an_object_of_its_own() -> None:
    server = Server()
    server.add_service(Desk)
    async with connect(server) as one, connect(server) as two:
        await one.request("add", 1)
        assert (await one.request("total"), await two.request("total")) == (1, 0)


async def test_ordered_methods_run_one_after_another_for_each_connection() -> None:
    log: list[str] = []

    class Slow(Service):
        @wsrpc.method(ordered=True)
        async def work(self, name: str) -> None:
            log.append(f"{name} begins")
            await asyncio.sleep(0)
            log.append(f"{name} ends")

    server = Server()
    server.add_service(Slow)
    async with connect(server) as client:
        await asyncio.gather(client.request("work", "a"), client.request("work", "b"))
    assert log == ["a begins", "a ends", "b begins", "b ends"]


async def test_methods_on_a_channel_and_several_services() -> None:
    class Echo(Service):
        @wsrpc.method
        def add(self, text: str) -> str:
            return text

        @wsrpc.method("open")
        def opened(self) -> str:
            return "an ordinary name on a channel"

    server = Server()
    server.add_service(Desk)
    server.add_service(Echo, channel="echo")
    server.on("plain", lambda: "too")
    async with connect(server) as client:
        assert await client.request("add", 1) == 2
        assert await client.of("echo").request("add", "hi") == "hi"
        assert await client.of("echo").request("open") == "an ordinary name on a channel"
        assert await client.request("plain") == "too"


async def test_a_subclass_inherits_handlers_and_may_override_them() -> None:
    class Better(Desk):
        def add(self, a: int, b: int = 1) -> int:
            return 100 + super().add(a, b)

        @wsrpc.method("count")
        async def how_many(self) -> int:
            return -1

    server = Server()
    server.add_service(Better)
    async with connect(server) as client:
        assert await client.request("add", 1, 2) == 103
        assert await client.request("count") == -1
        with pytest.raises(UnknownEvent):
            await client.request("total")


async def test_middleware_runs_around_methods() -> None:
    server = Server()
    server.add_service(Desk)

    @server.use
    async def double(ctx: Context, call_next: Any) -> Any:
        return 2 * await call_next(ctx)

    async with connect(server) as client:
        assert await client.request("add", 1, 2) == 6


async def test_nothing_is_introspected_when_a_connection_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.add_service(Desk)
    for name in ("signature", "getmembers", "getattr_static"):
        monkeypatch.setattr(f"inspect.{name}", None)
    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed({"a": ["add", 1, 2], "i": 1})
    transport.expect({"i": 1, "d": 3})
    monkeypatch.undo()
    await server.close()


# ---------------------------------------------------------------- factories


class Chat(Service):
    def __init__(self, database: dict[str, str], user: str) -> None:
        self.database = database
        self.user = user

    @wsrpc.method
    def get(self, key: str) -> str:
        return f"{self.user}: {self.database[key]}"


@pytest.mark.parametrize("style", ["class", "annotated", "async", "lambda"])
async def test_a_factory_gets_the_peer_with_its_handshake(style: str) -> None:
    database = {"a": "1"}
    server = Server()

    @server.on_handshake
    def admit(handshake: Handshake) -> None:
        handshake.state["user"] = "ada"

    def make(peer: Peer) -> Chat:
        assert peer.info.path == "/here"
        return Chat(database, peer.state["user"])

    async def make_async(peer: Peer) -> Chat:
        await asyncio.sleep(0)
        return make(peer)

    class Own(Chat):
        def __init__(self, peer: Peer) -> None:
            super().__init__(database, peer.state["user"])

    if style == "class":
        server.add_service(Own)
    elif style == "lambda":
        server.add_service(Chat, lambda peer: make(peer))
    else:
        server.add_service(make if style == "annotated" else make_async)
    async with connect(server, path="/here") as client:
        assert await client.request("get", "a") == "ada: 1"


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_factory_that_fails_refuses_the_connection(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    def fail(peer: Peer) -> Chat:
        raise KeyError("no database")

    async def fail_async(peer: Peer) -> Chat:
        await asyncio.sleep(0)
        raise KeyError("no database")

    server = Server()
    server.add_service(fail_async if is_async else fail)
    transport = ScriptedTransport()
    with pytest.raises(ConnectionLost, match="1011"):
        await server.accept(transport)
    assert transport.closed == CloseInfo(1011, "internal error", was_clean=True)
    assert server.peers == ()
    assert "the factory of Chat failed" in caplog.text
    assert "KeyError" in caplog.text


async def test_a_factory_may_say_why_and_over_a_socket() -> None:
    def refuse(peer: Peer) -> Chat:
        raise RpcError("not today")

    server = Server()
    server.add_service(refuse)
    async with raw_serving(server=server) as (_, raw):
        frame = await raw.next_of(CLOSE)
        assert (frame.code, frame.reason) == (1008, "not today")
        raw.drop()


async def test_a_factory_that_takes_too_long_or_makes_something_else(caplog: pytest.LogCaptureFixture) -> None:
    async def hang(peer: Peer) -> Chat:
        await asyncio.Event().wait()
        raise AssertionError

    server = Server(limits=Limits(open_handlers=0.01))
    server.add_service(hang)
    with pytest.raises(ConnectionLost, match="1011"):
        await server.accept(ScriptedTransport())
    server = Server()
    server.add_service(Chat, lambda: "a chat")
    with pytest.raises(ConnectionLost, match="1011"):
        await server.accept(ScriptedTransport())
    assert "the factory of Chat returned 'a chat'" in caplog.text


async def test_a_server_that_closes_meanwhile_lets_nobody_in() -> None:
    go_on = asyncio.Event()

    async def wait(peer: Peer) -> Chat:
        await go_on.wait()
        return Chat({}, "")

    server = Server()
    server.add_service(wait)
    transport = ScriptedTransport()
    accepting = asyncio.create_task(server.accept(transport))
    await asyncio.sleep(0)
    await server.close()
    go_on.set()
    with pytest.raises(ConnectionLost, match="1012"):
        await accepting
    assert transport.closed is not None
    transport = ScriptedTransport()
    server = Server()
    server.add_service(wait)
    go_on.clear()
    accepting = asyncio.create_task(server.accept(transport))
    await asyncio.sleep(0)
    accepting.cancel()
    await asyncio.wait([accepting])
    assert transport.closed is not None


# ---------------------------------------------------------------- the connection's life


class Living(Service):
    """Notes what it is told."""

    log: list[Any]

    def __init__(self) -> None:
        self.log = []

    async def on_open(self) -> None:
        self.log.append("open")
        await asyncio.sleep(0)
        self.log.append("opened")

    async def on_close(self, info: CloseInfo) -> None:
        self.log.append((info.code, info.reason, info.was_clean, info.user_closed))

    @wsrpc.method
    def ask(self) -> list[Any]:
        self.log.append("ask")
        return self.log


async def test_open_comes_before_what_arrives_and_close_once_at_the_end() -> None:
    server = Server()
    living = Living()
    server.add_service(Living, lambda: living)
    async with connect(server) as client:
        assert await client.request("ask") == ["open", "opened", "ask"]
        await client.close(4001, "bye")
    await turns_until(lambda: len(living.log) == 4)
    await server.close()
    assert living.log[3:] == [(4001, "bye", True, False)]


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

    def on_close(self, info: CloseInfo) -> None:
        self.log.append("on_close")


class InTurnMessages(InTurn):
    async def on_message(self, message: str) -> None:
        await self.handle(message)


class InTurnJson(InTurn):
    async def on_json(self, value: str) -> None:
        await self.handle(value)


class InTurnEvents(InTurn):
    @wsrpc.method(ordered=True)
    async def handle(self, name: str) -> None:
        await super().handle(name)


IN_TURN = [(InTurnMessages, "{}"), (InTurnJson, '"{}"'), (InTurnEvents, '{{"a":["handle","{}"]}}')]
ALL_ENDED = ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends", "on_close"]


@pytest.mark.parametrize(("cls", "message"), IN_TURN)
@pytest.mark.parametrize("running", [1, 1024])
async def test_on_close_comes_after_what_had_arrived(cls: type[InTurn], message: str, running: int) -> None:
    log: list[str] = []
    go_on = asyncio.Event()
    server = Server(limits=Limits(running=running))
    server.add_service(cls, lambda: cls(log, go_on))
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    transport.feed(*(message.format(name) for name in "abc"))
    transport.lose()
    await peer.wait_closed()  # does not wait for handlers
    await turns()
    assert log == ["a begins"] and server.peers == ()
    go_on.set()
    await turns_until(lambda: "on_close" in log)
    await turns()
    assert log == ALL_ENDED
    await server.close()


@pytest.mark.parametrize(("cls", "message"), IN_TURN)
async def test_closing_the_server_waits_for_what_has_started_and_for_on_close(cls: type[InTurn], message: str) -> None:
    log: list[str] = []
    go_on = asyncio.Event()
    server = Server()
    server.add_service(cls, lambda: cls(log, go_on))
    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed(*(message.format(name) for name in "abc"))
    closing = asyncio.create_task(server.close())
    await turns_until(lambda: transport.closed)
    go_on.set()
    await closing
    assert log == ["a begins", "a ends", "on_close"]


@pytest.mark.parametrize(("cls", "message"), IN_TURN)
async def test_on_close_is_called_although_a_handler_never_ends(cls: type[InTurn], message: str) -> None:
    log: list[str] = []
    server = Server(limits=Limits(close_timeout=0.01))
    server.add_service(cls, lambda: cls(log, asyncio.Event()))
    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed(*(message.format(name) for name in "abc"))
    await turns_until(lambda: log)
    await server.close()
    assert log[0] == "a begins" and log[-1] == "on_close"
    assert not [line for line in log if "ends" in line]


async def test_a_handler_that_goes_before_on_close_may_close_the_server() -> None:
    log: list[str] = []

    class Stops(Service):
        async def on_message(self, message: str) -> None:
            await self.server.close()
            log.append("closed")

        async def on_close(self, info: CloseInfo) -> None:
            await asyncio.sleep(0)
            log.append("on_close")

    server = Server()
    server.add_service(Stops)
    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed("stop")
    await server.serve_forever()
    await turns_until(lambda: "closed" in log)
    assert log == ["on_close", "closed"]


async def test_a_handler_that_goes_before_on_close_may_close_and_wait() -> None:
    log: list[str] = []

    class Leaves(Service):
        async def on_message(self, message: str) -> None:
            await self.peer.close(4000, message)
            await self.peer.wait_closed()
            log.append(message)

        def on_close(self, info: CloseInfo) -> None:
            log.append("on_close")

    server = Server()
    server.add_service(Leaves)
    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed("a", "b")
    await turns_until(lambda: "on_close" in log)
    await server.close()
    assert log == ["a", "on_close"]


async def test_both_may_be_plain_functions_and_the_peer_is_there() -> None:
    log: list[Any] = []

    class Plain(Service):
        def on_open(self) -> None:
            log.append(self.peer.connected)
            self.peer.emit_nowait("welcome")

        def on_close(self, info: CloseInfo) -> None:
            log.append(info.code)

    server = Server()
    server.add_service(Plain)
    client = Client()
    client.on("welcome", lambda: log.append("welcome"))
    async with connect(server, client=client):
        await turns_until(lambda: "welcome" in log)
    await turns_until(lambda: 1000 in log)
    assert log == [True, "welcome", 1000]


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [(KeyError("secret"), 1011, "internal error"), (RpcError("members only"), 1008, "members only")],
)
async def test_on_open_that_raises_closes_the_connection_and_nothing_is_looked_at(
    error: Exception, code: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[Any] = []
    go_on = asyncio.Event()

    class Gate(Service):
        async def on_open(self) -> None:
            await go_on.wait()
            raise error

        def on_close(self, info: CloseInfo) -> None:
            log.append((info.code, info.reason))

        @wsrpc.method
        def act(self) -> None:
            log.append("act")

    class Behind(Service):
        def on_open(self) -> None:
            log.append("open")

        def on_close(self, info: CloseInfo) -> None:
            log.append("close")

    server = Server()
    server.add_service(Gate)
    server.add_service(Behind)
    transport = ScriptedTransport()
    accepting = asyncio.create_task(server.accept(transport))
    await turns_until(lambda: transport._receiver)
    transport.feed({"a": ["act"]}, {"a": ["act"], "i": 1})
    go_on.set()
    await accepting
    await turns_until(lambda: log)
    await server.close()
    assert transport.closed == CloseInfo(code, reason, was_clean=True)
    assert log == [(code, reason)]
    assert bool([record for record in caplog.records if record.levelno >= logging.ERROR]) is (code == 1011)


async def test_a_drop_while_on_open_runs_cancels_it_and_then_on_close_is_called() -> None:
    log: list[str] = []

    class Waits(Service):
        async def on_open(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await turns(20)
                log.append("on_open ends")

        async def on_close(self, info: CloseInfo) -> None:
            log.append(f"on_close {info.code}")

        @wsrpc.method
        def act(self) -> None:
            log.append("act")

    server = Server()
    server.add_service(Waits)
    transport = ScriptedTransport()
    accepting = asyncio.create_task(server.accept(transport))
    await turns_until(lambda: transport._receiver)
    [peer] = server.peers
    await asyncio.sleep(0)
    transport.feed({"a": ["act"]}, {"a": ["act"], "i": 1})
    transport.lose()
    await accepting
    await turns_until(lambda: len(log) == 2)
    assert log == ["on_open ends", "on_close 1006"]  # it might have refused the client
    assert peer.ignored == {"dropped at the end": 2}
    await server.close()


async def test_on_open_is_not_called_when_an_open_handler_has_closed_the_connection() -> None:
    log: list[str] = []

    class Notes(Service):
        async def on_open(self) -> None:
            log.append("on_open")

        async def on_close(self, info: CloseInfo) -> None:
            log.append("on_close")

    server = Server()
    server.add_service(Notes)

    @server.on("open")
    async def open(peer: Peer) -> None:
        await peer.close(4002)
        log.append("closed")

    with suppress(ConnectionLost):
        async with connect(server) as client:
            await client.peer.wait_closed()
    await turns_until(lambda: "closed" in log)
    await server.close()
    assert log == ["closed"]


async def test_on_open_may_close_the_connection_itself() -> None:
    closes: list[CloseInfo] = []

    class Turns(Service):
        async def on_open(self) -> None:
            await self.peer.close(4002, "elsewhere")

        async def on_close(self, info: CloseInfo) -> None:
            closes.append(info)

    server = Server()
    server.add_service(Turns)
    transport = ScriptedTransport()
    await server.accept(transport)
    await turns_until(lambda: closes)
    assert (closes[0].code, closes[0].user_closed) == (4002, True)
    await server.close()


async def test_on_close_that_raises_is_logged_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    class First(Service):
        def on_close(self, info: CloseInfo) -> None:
            told.append("first")

    class Second(Service):
        def on_close(self, info: CloseInfo) -> None:
            raise KeyError("second")

    server = Server()
    server.add_service(First)
    server.add_service(Second)
    async with connect(server):
        pass
    await turns_until(lambda: told)
    assert "Second.on_close" in caplog.text
    await server.close()


async def test_closing_the_server_waits_for_on_close() -> None:
    done: list[bool] = []

    class Saves(Service):
        async def on_close(self, info: CloseInfo) -> None:
            await turns(20)
            done.append(True)

    server = Server()
    server.add_service(Saves)
    await server.accept(ScriptedTransport())
    await server.close()
    assert done == [True]


async def test_an_error_of_a_method_reaches_the_caller() -> None:
    class Refuses(Service):
        @wsrpc.method
        async def act(self) -> None:
            raise RpcError("no", code="nope")

    server = Server()
    server.add_service(Refuses)
    async with connect(server) as client:
        with pytest.raises(RemoteError, match="no") as caught:
            await client.request("act")
        assert caught.value.code == "nope"

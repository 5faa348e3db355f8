"""`Server.serve_raw`: rooms and broadcasts of raw connections, and a connection's whole life."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from core_driver import Blocked, messages
from recorder import Recorder
from waiting import settled, until

from wsrpc import (
    CloseInfo,
    ConnectionLost,
    Handshake,
    KeepLatest,
    Limits,
    QueueFull,
    RequestTimeout,
    RpcError,
    Server,
    Service,
)
from wsrpc.testing import Line, ScriptedTransport, memory_transports
from wsrpc.types import EmitReport, RawConnection

LIMITS = Limits(high_water_bytes=1000, hard_cap_bytes=32_000, close_timeout=1.0, ping_interval=None, rooms=2)


class Guest(Recorder):
    """The other end of a raw connection in memory."""

    connection: RawConnection

    def __init__(self) -> None:
        super().__init__()
        self.transport, self.line = memory_transports(limits=LIMITS)
        self.transport.start(self)

    @property
    def heard(self) -> list[str | bytes]:
        return [payload.decode() if text else payload for payload, text in self.messages]


@asynccontextmanager
async def guests(count: int, server: Server) -> AsyncGenerator[list[Guest]]:
    """So many raw connections of a server, whose function waits until they end."""
    started = asyncio.Semaphore(0)

    @server.serve_raw
    async def wait(connection: RawConnection) -> None:
        started.release()
        await connection.wait_closed()

    found = [Guest() for _ in range(count)]
    for guest in found:
        connection = await server.accept(guest.line)
        assert isinstance(connection, RawConnection)
        guest.connection = connection
        await started.acquire()
    yield found
    for guest in found:
        guest.line.release()
    await server.close()


async def heard_by_all(found: list[Guest], last: str) -> list[list[str | bytes]]:
    await until(lambda: all(last in guest.heard for guest in found))
    return [guest.heard for guest in found]


async def test_messages_to_one_to_a_room_and_to_all() -> None:
    server = Server(limits=LIMITS)
    async with guests(3, server) as found:
        first, second, third = (guest.connection for guest in found)
        room = server.room("lobby")
        for connection in (first, second, second):  # no more than once
            room.add(connection)
        assert first.rooms == (room,) and server.rooms == (room,)
        assert await room.send_raw("hello") == EmitReport(2)
        assert await room.send_raw(b"\x00", skip=first) == EmitReport(1)
        assert await room.send_raw("nobody", skip=room) == EmitReport(0)
        assert await room.send_json({"to": ["the room"]}) == EmitReport(2)
        assert await server.send_json("not you", skip=[second, third]) == EmitReport(1)
        await third.send_json(7)
        assert await server.send_raw("all") == EmitReport(3)
        assert await heard_by_all(found, "all") == [
            ["hello", '{"to":["the room"]}', '"not you"', "all"],
            ["hello", b"\x00", '{"to":["the room"]}', "all"],
            ["7", "all"],
        ]
        assert (await room.members()).others == len(room) == 2


async def test_an_event_fails_for_each_of_them_and_strangers_are_refused() -> None:
    server = Server(limits=LIMITS)
    wrong: Any
    async with guests(2, server) as found:
        rooms = [server.room(name) for name in ("a", "b")]
        for guest in found:
            for room in rooms:
                room.add(guest.connection)
            with pytest.raises(RpcError, match="in 2 rooms already"):
                server.room("c").add(guest.connection)
        for report in (await server.emit("say", "hi"), rooms[0].emit_nowait("say"), await rooms[0].of("x").emit("say")):
            assert (report.sent, report.skipped) == (0, 0)
            assert [error.peer for error in report.errors] == [guest.connection for guest in found]
            assert "use send_raw or send_json" in str(report.errors[0])
        with pytest.raises(RequestTimeout):
            await rooms[0].request("say", within=0.01)
        assert len(rooms[0]) == 2  # they are as good as before
        for wrong, other in ((found[0], server), (found[0].connection, Server())):
            with pytest.raises(ValueError, match="is not a peer of this room's server"):
                other.room("a").add(wrong)
        with pytest.raises(TypeError, match="skip= takes"):
            await server.send_raw("x", skip=cast("Any", [5]))


@pytest.mark.parametrize(("admits", "stays"), [(True, True), (False, True), (True, False)])
async def test_nothing_is_sent_to_a_connection_before_the_factory_of_its_service_admits_it(
    admits: bool, stays: bool
) -> None:
    server = Server(limits=LIMITS)
    vip = server.room("vip")
    asked, decide = asyncio.Event(), asyncio.Event()

    class Vip(Service):
        def on_open(self) -> None:
            vip.add(self.connection)

        async def on_message(self, message: str | bytes) -> None: ...

    async def make() -> Vip:
        asked.set()
        await decide.wait()
        if not admits:
            raise RpcError("not a VIP")
        return Vip()

    server.add_service(Vip, make)
    guest = Guest()
    accepting = asyncio.create_task(server.accept(guest.line))
    await asked.wait()
    assert await vip.send_raw("secret") == await server.send_raw("secret") == EmitReport(0)
    if not stays:
        guest.transport.abort()
        await settled()
    decide.set()
    await accepting
    if not stays:
        await until(lambda: not server.raw_connections)
        assert await server.send_raw("hello") == EmitReport(0)
    elif admits:
        await until(lambda: len(vip))
        assert await vip.send_raw("hello") == EmitReport(1)
        await until(lambda: guest.heard == ["hello"])
    else:
        await until(lambda: guest.lost and not (server.raw_connections or server.peers))
        assert (guest.heard, server.rooms) == ([], ())
        assert guest.lost is not None and guest.lost.code == 1008
    await server.close()


async def test_membership_ends_with_the_connection_although_its_function_goes_on() -> None:
    server, guest, seen, go_on = Server(limits=LIMITS), Guest(), list[Any](), asyncio.Event()
    lobby = server.room("lobby")

    class Talk(Service):
        async def serve(self, connection: RawConnection) -> None:
            lobby.add(connection)
            await connection.wait_closed()
            seen.append((len(lobby), connection.rooms))
            await go_on.wait()

        def on_close(self, info: CloseInfo) -> None:
            seen.append(self.connection.rooms)
            with pytest.raises(ConnectionLost):
                lobby.add(self.connection)

    server.add_service(Talk)
    await server.accept(guest.line)
    await until(lambda: len(lobby))
    guest.transport.abort()
    await until(lambda: seen)
    assert len(server.raw_connections) == 1 and await server.send_raw("nobody") == EmitReport(0)
    go_on.set()
    await until(lambda: len(seen) == 2)
    assert seen == [(0, (lobby,)), (lobby,)]
    await server.close()


# ---------------------------------------------------------------- a message in pieces


class Slowly:
    """A message in pieces, of which the second comes when the test lets it."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[str]:
        yield "one "
        self.begun.set()
        await self.go_on.wait()
        yield "message"


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_broadcast_never_comes_between_the_pieces_of_a_message(breaks: bool) -> None:
    """A message that is broken off takes the broadcasts with it."""
    server = Server(limits=LIMITS)
    async with guests(2, server) as found:
        slowly, guest = Slowly(), found[0]
        sending = asyncio.create_task(guest.connection.send(slowly))
        await slowly.begun.wait()
        for text in ("a", "b"):
            assert await server.send_raw(text) == EmitReport(2)
        if breaks:
            sending.cancel()
            await asyncio.wait({sending})
            assert (await server.send_raw("c")).sent == 1
            await until(lambda: guest.lost)
            assert guest.lost is not None and (guest.lost.code, guest.heard) == (1011, [])
            return
        after = asyncio.create_task(guest.connection.send("after"))
        slowly.go_on.set()
        await asyncio.gather(sending, after)
        assert await heard_by_all([guest], "after") == [["one message", "a", "b", "after"]]
        assert found[1].heard == ["a", "b"]


# ---------------------------------------------------------------- slow readers


@pytest.mark.parametrize("midway", [False, True])
async def test_a_slow_reader_is_closed_at_the_hard_cap(midway: bool) -> None:
    server = Server(limits=LIMITS)
    async with guests(3, server) as found:
        slow, slowly = found[0], Slowly()
        slow.line.hold()
        sending = asyncio.create_task(slow.connection.send(slowly if midway else "whole"))
        if midway:
            await slowly.begun.wait()
        await server.send_raw("x" * 25_000)
        report = await server.send_raw("x" * 10_000)
        [error] = report.errors
        assert (report.sent, error.peer) == (2, slow.connection) and isinstance(error.__cause__, QueueFull)
        slow.line.release()
        slowly.go_on.set()
        assert await slow.connection.wait_closed() == CloseInfo(4408, "slow consumer", was_clean=True)
        await asyncio.gather(sending, return_exceptions=True)


POLICIES: list[tuple[Any, list[int]]] = [("drop_newest", [0, 1, 2]), ("drop_oldest", [7, 8, 9])]


@pytest.mark.parametrize(("slow", "kept"), [*POLICIES, (KeepLatest(lambda text: text[0] in "02468"), [8, 9])])
async def test_the_policies_drop_what_a_slow_reader_cannot_get(slow: Any, kept: list[int]) -> None:
    server = Server(limits=LIMITS, slow=slow)
    async with guests(3, server) as found:
        reader = found[0]
        reader.line.hold()
        await server.send_raw("z" * 2000)
        reports = [await server.send_raw(f"{number}" + "x" * 400) for number in range(10)]
        assert all(report.errors == () and report.sent + report.skipped == 3 for report in reports)
        assert server.stats().skipped_broadcasts == 10 - len(kept)
        reader.line.release()
        await until(lambda: len(reader.heard) > len(kept))
        await server.send_raw("end")
        [heard, *others] = await heard_by_all(found, "end")
        assert [text[:1] for text in heard] == ["z", *(str(number) for number in kept), "e"]
        assert all(len(each) == 12 for each in others)


# ---------------------------------------------------------------- a connection's whole life


async def test_credentials_that_expire_close_the_connection() -> None:
    server, ended = Server(), list[CloseInfo | None]()

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.expires = time.time() + 3600
        handshake.state["user"] = "ada"

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        assert connection.state == {"user": "ada"}
        assert server.raw_connections == (connection,) and server.peers == ()
        async for _ in connection:
            pytest.fail("a message came late")
        ended.append(connection.ended)
        with pytest.raises(ConnectionLost, match="the credentials have expired"):
            await connection.send("late")

    guest = Recorder.of(await Line(server).dial("ws://server/"))
    await asyncio.sleep(3590)
    assert server.raw_connections and guest.lost is None
    await asyncio.sleep(20)
    assert server.raw_connections == () and guest.lost is not None
    assert (guest.lost.code, guest.lost.reason) == (4411, "the credentials have expired")
    assert [(info.code, info.user_closed) for info in ended if info] == [(4411, False)]


async def test_a_connection_that_has_ended_is_not_kept_until_its_credentials_expire() -> None:
    server, seen = Server(), list[weakref.ref[RawConnection]]()
    server.on_handshake(lambda handshake: setattr(handshake, "expires", time.time() + 3600))

    @server.serve_raw
    async def note(connection: RawConnection) -> None:
        seen.append(weakref.ref(connection))

    Recorder.of(await Line(server).dial("ws://server/"))
    await until(lambda: seen and server.raw_connections == ())
    await asyncio.sleep(60)
    gc.collect(1)
    assert seen[0]() is None


@pytest.mark.parametrize("code", [4001, 1006, None])
async def test_that_the_connection_has_ended_is_no_failure(code: int | None, caplog: pytest.LogCaptureFixture) -> None:
    """Closing what is over does not change how it ended. That another connection was lost is one."""
    infos, server, transport = list[CloseInfo | None](), Server(), ScriptedTransport()

    @server.serve_raw
    async def read(connection: RawConnection) -> None:
        if code is None:
            raise ConnectionLost(1006, "elsewhere")
        await connection.wait_closed()
        await connection.close(4000, "mine")
        infos.append(connection.ended)
        async with asyncio.TaskGroup() as group:
            group.create_task(connection.send("a"))
            group.create_task(connection.receive())

    await server.accept(transport)
    if code is not None:
        transport.lose(CloseInfo(code, "theirs", was_clean=code == 4001))
    await until(lambda: server.raw_connections == ())
    if code is None:
        assert transport.closed == CloseInfo(1011, "internal error", was_clean=True) and "elsewhere" in caplog.text
    else:
        assert [(info.code, info.user_closed) for info in infos if info] == [(code, False)]
        assert messages(caplog) == []


# ---------------------------------------------------------------- how the server ends


@pytest.mark.parametrize(
    ("drain", "then", "code"), [(0, "goes on", 1012), (60, "ends", 1000), (0, "closes the server", 1012)]
)
async def test_closing_the_server(drain: float, then: str, code: int) -> None:
    """It waits for the functions, for `close_timeout`, and a drain lets them finish."""
    server, work, guest = Server(limits=LIMITS), Blocked(), Guest()

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        await work()
        if then == "closes the server":
            await server.close(drain)
        await asyncio.sleep(0.1)

    await server.accept(guest.line)
    await until(lambda: work.started)
    closing = asyncio.create_task(server.serve_forever() if "closes" in then else server.close(drain))
    await settled()
    assert not closing.done()
    if then != "goes on":
        work.go.set()
    await closing
    assert guest.lost is not None and guest.lost.code == code
    assert (len(work.finished), len(work.cancelled)) == ((0, 1) if then == "goes on" else (1, 0))
    await until(lambda: server.raw_connections == (), limit=0.11)


@pytest.mark.parametrize("function", [None, lambda connection: None])
def test_it_takes_an_async_function(function: Any) -> None:
    with pytest.raises(TypeError, match="serve_raw takes an async function"):
        Server().serve_raw(function)

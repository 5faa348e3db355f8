"""Rooms and broadcasts of raw connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_serving

from wsrpc import CloseInfo, ConnectionLost, KeepLatest, Limits, QueueFull, Room, RpcError, Server, Service
from wsrpc.cluster import Cluster
from wsrpc.testing import MemoryEngine, MemoryTransport, connect, memory_transports
from wsrpc.transport import ConnectionInfo
from wsrpc.types import EmitReport, RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


class Plain:
    """The other end of a raw connection in memory: writes down what arrives."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.heard: list[str | bytes] = []
        self.ended: CloseInfo | None = None
        self.lost = asyncio.Event()
        self._parts = b""
        transport.start(self)

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        self.heard.append(payload.decode() if text else bytes(payload))

    def receive_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        self._parts += payload
        if last:
            whole, self._parts = self._parts, b""
            self.receive(whole, text)

    def connection_lost(self, info: CloseInfo, /) -> None:
        self.ended = info
        self.lost.set()

    def read_ended(self) -> None: ...
    def pause_sending(self) -> None: ...
    def resume_sending(self) -> None: ...


class Guest:
    """A client and the connection that the server has with it."""

    def __init__(self, plain: Plain, connection: RawConnection, line: MemoryTransport) -> None:
        self.plain = plain
        self.connection = connection
        self.line = line


LIMITS = Limits(high_water=1000, hard_cap=100_000, behind=2000, close_timeout=1.0, ping_interval=None, rooms=2)


@asynccontextmanager
async def guests(count: int, server: Server, *paths: str) -> AsyncGenerator[list[Guest]]:
    """So many raw connections of a server, whose function reads until they end."""
    started = asyncio.Semaphore(0)

    @server.serve_raw
    async def read(connection: RawConnection) -> None:
        started.release()
        async for _ in connection:
            pass

    found: list[Guest] = []
    for number in range(count):
        ours, theirs = memory_transports(limits=LIMITS, path=paths[number] if paths else "/")
        connection = await server.accept(theirs)
        assert isinstance(connection, RawConnection)
        found.append(Guest(Plain(ours), connection, theirs))
        await started.acquire()
    yield found
    for guest in found:
        guest.line.release()
    await server.close()


async def heard_by_all(found: list[Guest], last: str) -> list[list[str | bytes]]:
    await turns_until(lambda: all(last in guest.plain.heard for guest in found))
    return [guest.plain.heard for guest in found]


async def test_messages_to_one_to_a_room_and_to_all() -> None:
    server = Server(limits=LIMITS)
    async with guests(3, server) as found:
        first, second, third = (guest.connection for guest in found)
        room = server.room("lobby")
        room.add(first)
        room.add(second)
        room.add(second)  # no more than once
        assert len(room) == 2 and [*room] == [first, second] and first in room and third not in room
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
        room.discard(second)
        room.discard(second)
        assert [*room] == [first] and second.rooms == ()
        assert (await room.members()).others == 1


async def test_an_event_fails_for_each_of_them() -> None:
    server = Server(limits=LIMITS)
    async with guests(2, server) as found:
        room = server.room("lobby")
        for guest in found:
            room.add(guest.connection)
        for report in (
            await server.emit("say", "hi"),
            await room.emit("say", "hi"),
            room.emit_nowait("say", "hi"),
            await room.of("side").emit("say", "hi"),
        ):
            assert (report.sent, report.dropped) == (0, 0)
            assert [error.peer for error in report.errors] == [guest.connection for guest in found]
            assert "use send_raw or send_json" in str(report.errors[0])
        assert len(room) == 2  # they are as good as before


async def test_each_connection_in_the_room_of_its_path() -> None:
    server = Server(limits=LIMITS, room_from=lambda info: info.path)
    async with guests(3, server, "/a", "/b", "/a") as found:
        first, second, third = (guest.connection for guest in found)
        assert first.home_room is third.home_room is server.room("/a")
        assert [*first.home_room] == [first, third]
        assert await second.home_room.send_raw("b") == EmitReport(1)
        await server.send_raw("end")
        assert await heard_by_all(found, "end") == [["end"], ["b", "end"], ["end"]]
    server = Server(limits=LIMITS)
    async with guests(1, server) as [guest]:
        with pytest.raises(RuntimeError, match=r"no home room: give one by Server\(room_from=\.\.\.\)"):
            assert guest.connection.home_room


async def test_a_room_from_that_fails_serves_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def no_room(info: ConnectionInfo) -> str:
        raise KeyError("secret")

    room_from: Any
    for room_from in (no_room, lambda info: 5):
        server = Server(limits=LIMITS, room_from=room_from)
        served: list[RawConnection] = []

        @server.serve_raw
        async def serve(connection: RawConnection, served: list[RawConnection] = served) -> None:
            served.append(connection)

        ours, theirs = memory_transports(limits=LIMITS)
        plain = Plain(ours)
        await server.accept(theirs)
        await plain.lost.wait()
        assert plain.ended is not None and plain.ended.code == 1011
        await server.close()
        assert served == [] and server.raw_connections == () and server.rooms == ()
        assert await server.send_raw("nobody") == EmitReport(0)
    assert "secret" in caplog.text


@pytest.mark.parametrize("without_protocol", [True, False])
async def test_a_room_from_that_refuses_a_connection_says_why(
    without_protocol: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(info: ConnectionInfo) -> str:
        raise RpcError("no such document")

    server = Server(limits=LIMITS, room_from=refuse)
    if without_protocol:
        server.serve_raw(unreachable)
    ours, theirs = memory_transports(limits=LIMITS)
    plain = Plain(ours)
    with nullcontext() if without_protocol else pytest.raises(ConnectionLost):
        await server.accept(theirs)
    await plain.lost.wait()
    assert plain.ended is not None and (plain.ended.code, plain.ended.reason) == (1008, "no such document")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await server.close()


async def unreachable(connection: RawConnection) -> None:
    pytest.fail("it must not be served")


@pytest.mark.parametrize("admits", [True, False])
@pytest.mark.parametrize("without_protocol", [True, False])
async def test_nothing_is_sent_to_a_connection_before_the_factory_of_its_service_admits_it(
    without_protocol: bool, admits: bool
) -> None:
    server = Server(limits=LIMITS, room_from=lambda info: "vip")
    asked, decide, served = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Raw(Service):
        async def serve(self, connection: RawConnection) -> None:
            assert connection.home_room is server.room("vip")
            served.set()
            await connection.wait_closed()

    class Messages(Service):
        def on_open(self) -> None:
            served.set()

        async def on_message(self, message: str | bytes) -> None: ...

    cls = Raw if without_protocol else Messages

    async def make() -> Service:
        asked.set()
        await decide.wait()
        if not admits:
            raise RpcError("not a VIP")
        return cls()

    server.add_service(cls, make)
    ours, theirs = memory_transports(limits=LIMITS)
    plain = Plain(ours)
    accepting = asyncio.create_task(server.accept(theirs))
    await asked.wait()
    room = server.room("vip")
    assert len(room) == 0
    assert await room.send_raw("secret") == await server.send_raw("secret") == EmitReport(0)
    decide.set()
    await asyncio.wait({accepting})
    if admits:
        await served.wait()
        assert await room.send_raw("hello") == EmitReport(1)
        await turns_until(lambda: plain.heard == ["hello"])
    else:
        await plain.lost.wait()
        assert plain.heard == [] and plain.ended is not None and plain.ended.code == 1008
        assert (accepting.exception() is None) is without_protocol
    await server.close()


async def test_a_connection_that_ends_while_its_factory_runs_is_in_no_room() -> None:
    server = Server(limits=LIMITS, room_from=lambda info: "vip")
    asked, decide, served = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Talk(Service):
        async def serve(self, connection: RawConnection) -> None:
            assert len(server.room("vip")) == 0 and connection.rooms == (server.room("vip"),)
            served.set()

    async def make() -> Talk:
        asked.set()
        await decide.wait()
        return Talk()

    server.add_service(Talk, make)
    ours, theirs = memory_transports(limits=LIMITS)
    connection = await server.accept(theirs)
    assert isinstance(connection, RawConnection)
    await asked.wait()
    ours.abort()
    await connection.wait_closed()
    decide.set()
    await served.wait()
    assert await server.send_raw("nobody") == EmitReport(0)
    await turns_until(lambda: server.raw_connections == ())
    assert server.rooms == ()
    await server.close()


async def test_membership_ends_with_the_connection_although_its_function_goes_on() -> None:
    server = Server(limits=LIMITS)
    seen: list[Any] = []
    go_on = asyncio.Event()

    class Talk(Service):
        async def serve(self, connection: RawConnection) -> None:
            server.room("lobby").add(connection)
            await connection.wait_closed()
            seen.append((len(server.room("lobby")), [room.name for room in connection.rooms]))
            await go_on.wait()

        def on_close(self, info: CloseInfo) -> None:
            seen.append([room.name for room in self.connection.rooms])
            with pytest.raises(ConnectionLost):
                server.room("lobby").add(self.connection)

    server.add_service(Talk)
    ours, theirs = memory_transports(limits=LIMITS)
    await server.accept(theirs)
    room = server.room("lobby")
    await turns_until(lambda: len(room))
    ours.abort()
    await turns_until(lambda: seen)
    assert len(server.raw_connections) == 1
    assert await server.send_raw("nobody") == EmitReport(0)
    go_on.set()
    await turns_until(lambda: len(seen) == 2)
    assert seen == [(0, ["lobby"]), ["lobby"]]
    await server.close()


async def test_limits_and_strangers() -> None:
    server, other = Server(limits=LIMITS), Server()
    async with guests(1, server) as [guest]:
        for name in ("a", "b"):
            server.room(name).add(guest.connection)
        with pytest.raises(RpcError, match="in 2 rooms already"):
            server.room("c").add(guest.connection)
        wrong: Any
        for wrong in (guest.plain, None):
            with pytest.raises(ValueError, match="is not a peer of this room's server"):
                server.room("a").add(wrong)
        with pytest.raises(ValueError, match="is not a peer of this room's server"):
            other.room("a").add(guest.connection)
        with pytest.raises(TypeError, match="skip= takes"):
            await server.send_raw("x", skip=wrong_skip())


def wrong_skip() -> Any:
    return [5]


async def test_a_broadcast_never_comes_between_the_pieces_of_a_message() -> None:
    server = Server(limits=LIMITS)
    async with guests(2, server) as found:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[str]:
            yield "one "
            begun.set()
            await go_on.wait()
            yield "message"

        sending = asyncio.create_task(found[0].connection.send(slowly()))
        await begun.wait()
        after = asyncio.create_task(found[0].connection.send("after"))
        for text in ("a", "b"):
            assert await server.send_raw(text) == EmitReport(2)
        go_on.set()
        await asyncio.gather(sending, after)
        assert await heard_by_all(found[:1], "after") == [["one message", "a", "b", "after"]]
        assert found[1].plain.heard == ["a", "b"]


@pytest.mark.parametrize("code", [1000, 1011])
async def test_a_message_that_is_broken_off_takes_the_broadcasts_with_it(code: int) -> None:
    server = Server(limits=LIMITS)
    async with guests(1, server) as [guest]:
        begun = asyncio.Event()

        async def never_ends() -> AsyncIterator[str]:
            yield "one "
            begun.set()
            await asyncio.Event().wait()

        sending = asyncio.create_task(guest.connection.send(never_ends()))
        await begun.wait()
        assert await server.send_raw("a") == EmitReport(1)
        if code == 1000:
            await guest.connection.close()
        sending.cancel()
        await asyncio.wait({sending})
        assert (await server.send_raw("b")).sent == 0
        await turns_until(lambda: guest.plain.ended)
        assert guest.plain.ended is not None and guest.plain.ended.code == code
        assert guest.plain.heard == []


# ---------------------------------------------------------------- slow readers


@pytest.mark.parametrize("midway", [False, True])
async def test_a_slow_reader_is_closed_at_the_hard_cap(midway: bool, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)
    async with guests(3, server) as found:
        slow = found[0]
        slow.line.hold()
        async with asyncio.TaskGroup() as group:
            if midway:
                begun = asyncio.Event()
                group.create_task(suppressed(slow.connection.send(endless(begun))))
                await begun.wait()
            reports: list[EmitReport] = []
            while not reports or not reports[-1].errors:
                reports.append(await server.send_raw("x" * 10_000))
                await asyncio.sleep(0)
            assert 9 <= len(reports) <= 11
            assert {(report.sent, report.dropped) for report in reports[:-1]} == {(3, 0)}
            [error] = reports[-1].errors
            assert error.peer is slow.connection and isinstance(error.__cause__, QueueFull)
            assert await server.send_raw("next") == EmitReport(2)
            slow.line.release()
        assert await slow.connection.wait_closed() == CloseInfo(4408, "slow consumer", was_clean=True)
        assert [record.levelname for record in caplog.records if "slow consumer" in record.getMessage()] == ["WARNING"]


async def suppressed(sending: Awaitable[object]) -> None:
    with suppress(ConnectionLost):
        await sending


async def endless(begun: asyncio.Event) -> AsyncIterator[str]:
    while True:
        yield "piece"
        begun.set()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("slow", "kept"),
    [
        ("drop_newest", [0, 1, 2]),
        ("drop_oldest", [7, 8, 9]),
        (KeepLatest(lambda text: text[0] in "02468"), [8, 9]),
    ],
)
async def test_the_policies_drop_what_a_slow_reader_cannot_get(slow: Any, kept: list[int]) -> None:
    server = Server(limits=LIMITS, slow=slow)
    async with guests(3, server) as found:
        reader = found[0]
        reader.line.hold()
        await server.send_raw("z" * 2000)
        texts = [f"{number}" + "x" * 400 for number in range(10)]
        reports = [await server.send_raw(text) for text in texts]
        assert all(report.errors == () and report.sent + report.dropped == 3 for report in reports)
        dropped = 10 - len(kept)
        assert server.stats().dropped == dropped
        reader.line.release()
        await turns_until(lambda: len(reader.plain.heard) > len(kept))
        await server.send_raw("end")
        [heard, *others] = await heard_by_all(found, "end")
        assert [text[:1] for text in heard] == ["z", *(str(number) for number in kept), "e"]
        assert all(len(each) == 12 for each in others)
        reader.plain.transport.abort()
        await turns_until(lambda: len(server.raw_connections) == 2)
        assert server.stats().dropped == dropped  # also when it has left


async def test_one_that_reads_is_never_closed_however_much_is_sent() -> None:
    server = Server(limits=LIMITS)
    async with guests(1, server) as [guest]:
        for _ in range(100):
            assert await server.send_raw("x" * 5_000) == EmitReport(1)
        assert not guest.connection.closed


@pytest.mark.parametrize("slow", ["drop_oldest", KeepLatest()])
@pytest.mark.parametrize("by", ["user", "server"])
async def test_closing_sends_the_broadcasts_that_wait_and_refuses_later_ones(slow: Any, by: str) -> None:
    server = Server(limits=Limits(high_water=1000, close_timeout=8.0), slow=slow)

    async def serve(connection: RawConnection) -> None:
        await connection.wait_closed()

    async with raw_serving(serve, server=server) as (_, raw):
        await turns_until(lambda: len(server.raw_connections))
        [connection] = server.raw_connections
        server.room("lobby").add(connection)
        sending = asyncio.create_task(connection.send(b"x" * 20_000_000))  # more than sockets hold: it does not read
        await turns_until(lambda: server.stats().slow)
        assert await server.send_raw("waits") == EmitReport(1)
        closing = asyncio.create_task(connection.close(4001, "enough") if by == "user" else server.close())
        await turns_until(lambda: connection.closed)
        report = await server.send_raw("late")
        assert (report.sent, [error.peer for error in report.errors]) == (0, [connection])
        with pytest.raises(ConnectionLost) as caught:
            await connection.send("late, too")
        assert (caught.value.code, caught.value.outcome) == (4001 if by == "user" else 1012, "not_sent")
        with pytest.raises(ConnectionLost):
            server.room("other").add(connection)
        frames = [await raw.next_frame() for _ in range(3)]
        assert [len(frames[0].payload), frames[1].payload, frames[2].code] == [20_000_000, b"waits", caught.value.code]
        await raw.send(raw.close_frame(1000))
        raw.drop()
        await asyncio.gather(sending, closing)


async def test_the_end_forgets_what_waits() -> None:
    server = Server(limits=LIMITS, slow="drop_oldest")
    async with guests(1, server) as [guest]:
        guest.line.hold()
        for _ in range(3):
            await server.send_raw("x" * 2000)
        guest.plain.transport.abort()
        await turns_until(lambda: guest.connection.ended)
        assert await server.send_raw("nobody") == EmitReport(0)


# ---------------------------------------------------------------- a cluster


async def test_rooms_of_a_cluster_reach_raw_connections_of_other_processes() -> None:
    engine = MemoryEngine()
    plain_server = Server(limits=LIMITS, cluster=Cluster(engine, name="shop"))
    server = Server(cluster=Cluster(engine, name="shop"))
    async with guests(1, plain_server) as [guest], connect(server):
        plain_server.room("lobby").add(guest.connection)
        [peer] = server.peers
        room = server.room("lobby")
        room.add(peer)
        await reaches(room, "{}", others=1)
        await room.send_json({"from": "afar"})
        await heard_by_all([guest], '{"from":"afar"}')
        assert (await room.members()).others == 2
        plain_server.room("lobby").discard(guest.connection)
        await reaches(room, "nobody", others=0)
    await server.close()


async def reaches(room: Room, text: str, others: int) -> None:
    """Send until the room has members in so many other processes."""
    for _ in range(1000):
        if len((await room.send_raw(text)).nodes) == others:
            return
        await asyncio.sleep(0)
    pytest.fail("the other process never heard of it")

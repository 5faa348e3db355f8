"""Who reads too slowly: what becomes of what is emitted to many, by the policy of the server or the room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from audience import Ear, audience, line_of
from core_driver import messages, start
from leftovers import nothing_left as nothing_left
from peers_inside import out_of, slow_reader_of
from waiting import settled, until

from wsrpc import KeepLatest, Limits, Peer, Server
from wsrpc._core.sending.session_writer import SessionWriter
from wsrpc._server import broadcast
from wsrpc.testing import MemoryTransport
from wsrpc.types import EmitReport

pytestmark = pytest.mark.usefixtures("nothing_left")

ENTRY = 256
"""What a waiting message counts besides its bytes."""
LIMITS = Limits(high_water_bytes=1024, hard_cap_bytes=160 * (ENTRY + 100), close_timeout=0.2, ping_interval=None)


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that emitting waits for a line is not what is tested here."""
    monkeypatch.setattr(broadcast, "SLOW_READERS_TIMEOUT", 0.0)


def word(number: int) -> str:
    """Text that makes 100 bytes of a message to "say" in JSON, in MessagePack a few less."""
    return f"{number:084}"


@asynccontextmanager
async def one_slow(**options: Any) -> AsyncGenerator[tuple[Server, Ear, Peer, MemoryTransport]]:
    """A server whose one peer has stopped reading, with a full line."""
    server = Server(limits=LIMITS, **options)
    async with audience(server, 1, LIMITS) as [(ear, peer)]:
        line = line_of(peer)
        line.hold()
        peer.emit_nowait("say", "x" * 2000)
        assert peer.skipped_broadcasts == 0
        yield server, ear, peer, line
        line.release()


async def numbers_sent(emit: Any, count: int) -> list[tuple[int, int]]:
    """Emit so many; what was sent and what was dropped of each."""
    reports = [await emit("say", word(number)) for number in range(count)]
    assert all(report.errors == () for report in reports)
    return [(report.sent, report.skipped) for report in reports]


@pytest.mark.parametrize(
    ("slow", "sent", "heard"),
    [
        ("close", [(1, 0)] * 20, range(20)),
        ("drop_newest", [(1, 0)] * 10 + [(0, 1)] * 10, range(10)),
        ("drop_oldest", [(1, 0)] * 20, range(10, 20)),
        # Each is where the first of its kind was, so that one that changes all the time gets its turn, too.
        (KeepLatest(lambda text: int(text) % 3), [(1, 0)] * 20, [18, 19, 17]),
        (None, [(1, 0)] * 20, range(20)),
    ],
    ids=["close", "drop_newest", "drop_oldest", "keep latest", "from the log"],
)
async def test_what_a_slow_reader_gets(slow: Any, sent: Any, heard: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with one_slow() as (server, ear, peer, line):
        room = server.room("lobby", keep=60) if slow is None else server.room("lobby", slow=slow)
        room.add(peer)
        await settled()
        assert await numbers_sent(room.emit, 20) == sent
        assert {peer.skipped_broadcasts, server.stats().skipped_broadcasts} == {20 - len(heard)}
        assert peer.connected and peer.stats().slow
        line.release()
        await until(lambda: not line.unsent)
        await (room if slow is None else peer).emit("say", "end")  # it follows what comes from the log
        words = [await ear.heard.get() for _ in range(len(heard) + 2)]
        assert words == ["x" * 2000, *map(word, heard), "end"]
        if slow not in ("close", None):
            [text] = messages(caplog)
            assert text.startswith("reads too slowly: until its connection has drained, broadcasts are ")
            line.hold()  # another episode is another line in the log
            peer.emit_nowait("say", "x" * 2000)
            assert (await room.emit("say", "1".zfill(4000))).sent == 1, "one may be larger than all that may wait"
            await numbers_sent(room.emit, 12)
            assert len(messages(caplog)) == 2


@pytest.mark.parametrize("keep", [None, 60], ids=["", "kept"])
async def test_what_waits_for_slow_readers_has_the_arguments_of_its_call(keep: float | None) -> None:
    async with one_slow() as (server, ear, peer, line):
        room = server.room("lobby", keep=keep)
        room.add(peer)
        await settled()
        value = ["said"]
        emitting, wrong = start(room.emit("say", value)), start(room.emit("say", [object()]))
        await asyncio.sleep(0)
        value.append("later")
        assert emitting.done() == (keep is not None) and isinstance(wrong.exception(), TypeError)
        line.release()
        await emitting
        assert [await ear.heard.get(), await ear.heard.get()] == ["x" * 2000, ["said"]]


async def test_a_message_of_a_close_room_is_sent_after_all_that_waited_for_the_peer() -> None:
    async with one_slow() as (server, ear, peer, line):
        feed, orders = server.room("feed", slow="drop_oldest"), server.room("orders", slow="close")
        feed.add(peer)
        orders.add(peer)
        await numbers_sent(feed.emit, 10)
        assert await orders.emit("say", "order") == EmitReport(1)
        await numbers_sent(feed.emit, 10)  # those before no longer count against `Limits.behind_bytes`
        assert peer.skipped_broadcasts == 0
        line.release()
        heard = [await ear.heard.get() for _ in range(22)]
        assert heard == ["x" * 2000, *map(word, range(10)), "order", *map(word, range(10))]


async def test_keep_latest_keeps_events_channels_and_rooms_apart() -> None:
    async with one_slow(slow=KeepLatest()) as (server, ear, peer, line):
        one, other = server.room("one"), server.room("other")
        for room in (one, other):
            room.add(peer)
        ear.client.on("tell", lambda text: ear.heard.put_nowait(f"told {text}"))
        for number in range(3):
            await server.emit("say", f"{number}")
            await one.emit("say", f"one {number}")
            await one.emit("tell", f"one {number}")
            await one.of("side").emit("say", f"one {number}")
            await other.emit("say", f"other {number}")
        assert peer.skipped_broadcasts == 10
        line.release()
        await peer.emit("say", "end")
        words = [await ear.heard.get() for _ in range(7)]
        assert words[1:] == ["2", "one 2", "told one 2", "side one 2", "other 2", "end"]


async def test_a_key_function_that_fails_shows_before_anybody_is_slow() -> None:
    wrong: Any
    for wrong in (KeepLatest, "latest"):
        with pytest.raises(ValueError, match="slow= is"):
            Server(slow=wrong)
    for wrong in (3, numbers_sent):
        with pytest.raises(TypeError, match="plain function"):
            KeepLatest(wrong)
    wrong = lambda text: [text]  # noqa: E731
    server = Server(slow=KeepLatest(wrong))
    with pytest.raises(TypeError, match=r"the key of KeepLatest must be hashable, .*; got \["):
        await server.emit("say", "x")
    with pytest.raises(TypeError, match="positional argument"):
        await server.emit("say")
    assert (await Server(slow=KeepLatest(len)).send_raw(b"x")).sent == 0  # a raw message is its only argument


async def test_what_waits_is_bounded_however_small_it_is() -> None:
    async with one_slow(slow="drop_oldest") as (server, _, peer, _):
        for _ in range(1000):
            await server.emit("")
        assert out_of(peer).slow_reader is not None
        assert len(slow_reader_of(peer)) == LIMITS.behind_bytes // ENTRY
        # One message waits even if it is larger than all.
        assert (await server.emit("say", "z" * 50_000)).sent == 1
        assert len(slow_reader_of(peer)) == 1


async def test_the_latest_that_does_not_fit_in_the_place_of_the_one_before_is_reported_as_dropped() -> None:
    async with one_slow(slow=KeepLatest(lambda text: text[0])) as (server, ear, peer, line):
        for text in ("a", "b"):
            assert await server.emit("say", text) == EmitReport(1)
        report = await server.emit("say", "a" * LIMITS.behind_bytes)
        assert (report.sent, report.skipped) == (0, 1)
        assert peer.skipped_broadcasts == 2  # and the one before it
        line.release()
        assert [await ear.heard.get() for _ in range(2)] == ["x" * 2000, "b"]


async def test_what_waits_leaves_before_the_close_frame() -> None:
    async with one_slow(slow="drop_oldest") as (server, ear, peer, _):
        await numbers_sent(server.emit, 3)
        await peer.close()
        assert [await ear.heard.get() for _ in range(4)] == ["x" * 2000, *map(word, range(3))]


# ---------------------------------------------------------------- for whom emitting waits


@pytest.mark.parametrize(("slow", "times"), [("close", 3), ("drop_oldest", 1)])
async def test_where_most_are_behind_the_sender_waits_each_time_rather_than_close_them(
    slow: Any, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(limits=LIMITS, slow=slow)
    async with audience(server, 3, LIMITS) as pairs:
        lines = [line_of(peer) for _, peer in pairs]
        outs, wait_room, drains = [out_of(peer) for _, peer in pairs], SessionWriter.wait_room, [0] * len(lines)

        def counted(writer: SessionWriter) -> Awaitable[None]:  # its task may begin too late to be counted
            drains[outs.index(writer)] += 1
            return wait_room(writer)

        async def emit_three(text: str) -> list[int]:
            for _ in range(3):
                await server.emit("say", text)
                await until(lambda: not lines[2].unsent)
            return drains

        monkeypatch.setattr(SessionWriter, "wait_room", counted)
        for line in lines[:2]:
            line.hold()
        await server.emit("say", "x" * 2000)
        await until(lambda: not lines[2].unsent)
        assert await emit_three("y") == [times, times, 0]
        lines[0].release()
        await until(lambda: not lines[0].unsent)
        assert await emit_three("z") == [times, times, 0], "one of three holds up nobody"
        lines[1].release()
        await until(lambda: not lines[1].unsent)
        lines[1].hold()
        assert await emit_three("x" * 2000) == [times, times + 1, 0], "it had drained: it gets its time again, once"
        lines[1].release()

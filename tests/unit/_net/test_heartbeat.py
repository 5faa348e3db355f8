"""`wsrpc._net.heartbeat`: when it pings, what it takes as an answer, when it drops a connection."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from wsrpc import Limits
from wsrpc._net.heartbeat import BUFFERED_BYTES, Heartbeat, StallWatch

LIMITS = Limits(ping_interval=10.0, ping_timeout=4.0, stall_timeout=3.0)
CLOSELY = 0.5


class Line:
    """A line with a buffer, of which the other side takes what the test says."""

    def __init__(self) -> None:
        self.time = asyncio.get_running_loop().time
        self.pinged = asyncio.Event()
        self.written = 0
        self.taken = 0
        self.full = False
        self.pings: list[tuple[float, bytes]] = []
        self.dropped: tuple[float, int, str] | None = None

    def backlog(self) -> int:
        return self.written - self.taken

    def send(self, size: int) -> None:
        self.written += size
        if not self.full:
            self.taken = self.written

    def take(self, size: int) -> None:
        self.taken = min(self.written, self.taken + size)

    def send_ping(self, payload: bytes) -> None:
        self.pings.append((self.time(), payload))
        self.pinged.set()
        self.send(6 + len(payload))

    def drop(self, code: int, reason: str) -> None:
        assert self.dropped is None
        self.dropped = (self.time(), code, reason)


class Arriving:
    """What comes in."""

    def __init__(self, *, partial: bool = True) -> None:
        self.bytes = 1_000_000
        self.largest = 4 * 1024 * 1024
        self.partial = partial


def beating(
    limits: Limits = LIMITS, incoming: Arriving | None = None, waits: Callable[[], bool] | None = None
) -> tuple[Line, Heartbeat]:
    line = Line()
    heartbeat = Heartbeat(line, asyncio.get_running_loop(), limits, incoming)
    if waits is not None:
        heartbeat.ping_sooner(waits)
    heartbeat.start()
    return line, heartbeat


async def to_ping(line: Line) -> bytes:
    """Wait for the next ping, and return its payload."""
    line.pinged.clear()
    await line.pinged.wait()
    return line.pings[-1][1]


async def test_intervals_are_shortened_by_up_to_a_tenth_each_its_own_way() -> None:
    """Connections that were opened together ping at other times, many of them together in one turn."""
    step, first = 1 / 32, set()

    async def play() -> None:
        line, heartbeat = beating()
        for _ in range(3):
            heartbeat.pong(await to_ping(line))
        times = [when for when, _ in line.pings]
        assert 9.0 - step <= times[0] <= 10.0 and all(when % step == 0 for when in times)
        assert times == pytest.approx([times[0] * number for number in (1, 2, 3)], abs=2 * step)
        first.add(times[0])

    await asyncio.gather(*(play() for _ in range(50)))
    assert 10 < len(first) <= 33


@pytest.mark.parametrize(("interval", "pings"), [(math.inf, 0), (1e308, 0), (1e-320, 1)])
async def test_any_interval_is_possible(interval: float, pings: int) -> None:
    line, _ = beating(LIMITS.replace(ping_interval=interval))
    await asyncio.sleep(1)
    assert len(line.pings) == pings


SOONER = {
    "something waits": (True, True, 0.1, 0, 5, 5),
    "nothing waits": (False, True, 0.1, 0, 20, 20),
    "the session does not survive": (True, False, 0.1, 0, 20, 20),
    "a far network": (True, True, 3.0, 0, 5, 12),
    "bytes arrive": (True, True, 0.1, 8, 5, 13),
    "bytes of one direction arrive": (True, True, 0.1, 100, 5, 20),
}
"""Whether something waits, whether the session survives, the seconds that a response took, and those in which bytes
arrive after the last ping. Then the seconds between two pings, and those from the last one to the drop."""


@pytest.mark.parametrize("case", SOONER)
async def test_a_dead_connection_is_noticed_sooner_while_something_waits(case: str) -> None:
    """After each handover of a device, its calls waited for 40 seconds."""
    waits, survives, round_trip, arrive, interval, patience = SOONER[case]
    incoming = Arriving(partial=False)
    line, heartbeat = beating(Limits(), incoming, lambda: waits)
    if survives:
        heartbeat.session_survives()
    for _ in range(4):
        payload = await to_ping(line)
        await asyncio.sleep(round_trip)
        heartbeat.pong(payload)
    first, last = line.pings[-2][0], line.pings[-1][0]
    assert 0.89 * interval <= last - first <= interval + 0.1
    await to_ping(line)
    last = line.pings[-1][0]
    while line.dropped is None:
        if line.time() < last + arrive:
            incoming.bytes += 1
        await asyncio.sleep(0.25)
    assert line.dropped[0] - last == pytest.approx(patience, abs=1)
    assert len(line.pings) == 5


@pytest.mark.parametrize("full", [False, True])
async def test_without_an_answer_a_connection_is_dropped_on_which_nothing_moves(full: bool) -> None:
    """The ping leaves although the connection is full."""
    line, _ = beating()
    line.full = full
    line.send(100_000)
    await to_ping(line)
    assert line.backlog() == (100_014 if full else 0)
    await asyncio.sleep(100)
    assert line.dropped is not None
    when, code, reason = line.dropped
    assert when == pytest.approx(line.pings[0][0] + 4) and when <= 14
    assert (code, reason) == (1011, "no response to a ping within 4 s")
    assert len(line.pings) == 1


@pytest.mark.parametrize("wrong", [b"", b"hello", None])
async def test_another_payload_is_no_answer(wrong: bytes | None) -> None:
    """Nor is that of an earlier ping."""
    line, heartbeat = beating()
    earlier = await to_ping(line)
    for answer in (wrong or b"", earlier, earlier):
        heartbeat.pong(answer)
    assert await to_ping(line) != earlier
    heartbeat.pong(earlier if wrong is None else wrong)
    await asyncio.sleep(4)
    assert line.dropped is not None


@pytest.mark.parametrize("answers", [True, False])
async def test_a_slow_reader_is_not_dropped_before_it_has_had_time_to_answer(answers: bool) -> None:
    line, heartbeat = beating()
    line.full = True
    line.send(100_000)
    payload = await to_ping(line)
    for _ in range(100):  # the ping is behind what takes 300 s
        await asyncio.sleep(3)
        line.take(1000)
    line.take(14)
    await asyncio.sleep(3)
    assert line.dropped is None and line.backlog() == 0
    if answers:
        heartbeat.pong(payload)
        assert await to_ping(line) != payload, "it goes on as ever"
    else:
        await asyncio.sleep(1 + CLOSELY)
        assert line.dropped is not None


@pytest.mark.parametrize("moves", [True, False])
async def test_what_was_written_after_the_ping_may_keep_the_answer_back(moves: bool) -> None:
    line, _ = beating()
    await to_ping(line)
    await asyncio.sleep(3.9)
    line.full = True
    line.send(100_000)
    await asyncio.sleep(0.2)
    assert line.dropped is None
    if moves:
        line.take(50_000)
    await asyncio.sleep(CLOSELY)
    assert (line.dropped is None) is moves


async def test_a_connection_that_takes_ever_more_and_answers_nothing_is_dropped() -> None:
    """So does a proxy that has lost the server; a reader so slow would have come to the ping by then."""
    line, _ = beating()
    line.full = True
    line.send(100_000)
    await to_ping(line)
    line.send(1000 * BUFFERED_BYTES)
    for _ in range(16):  # what is before the ping, then as much as buffers may hold
        await asyncio.sleep(3)
        assert line.dropped is None
        line.take(100_014 + BUFFERED_BYTES // 16)
    passed = line.time()
    while line.dropped is None:
        assert line.time() < passed + 4 + CLOSELY
        await asyncio.sleep(0.1)
        line.take(BUFFERED_BYTES // 16)
    assert line.dropped[1] == 1011


OFTEN = LIMITS.replace(ping_interval=3.0)
"""Its pings are closer together than its timeout."""


@pytest.mark.parametrize("limits", [LIMITS, OFTEN], ids=["interval > timeout", "interval < timeout"])
async def test_a_frame_that_arrives_slowly_keeps_the_connection_until_it_stops(limits: Limits) -> None:
    """The answer is behind it."""
    incoming = Arriving()
    line, heartbeat = beating(limits, incoming)
    payload = await to_ping(line)
    for _ in range(100):
        await asyncio.sleep(CLOSELY)
        incoming.bytes += 1
    assert line.dropped is None and len(line.pings) == 1
    incoming.partial = False
    heartbeat.pong(payload)
    assert await to_ping(line) != payload, "it goes on as ever"
    incoming.partial = True
    for _ in range(100):
        await asyncio.sleep(CLOSELY)
        incoming.bytes += 1
    stopped = line.time()
    assert line.dropped is None
    await asyncio.sleep(100)
    assert line.dropped is not None
    assert stopped + 4 - CLOSELY <= line.dropped[0] <= stopped + 4 + CLOSELY


@pytest.mark.parametrize("limits", [LIMITS, OFTEN], ids=["interval > timeout", "interval < timeout"])
@pytest.mark.parametrize("what", ["whole frames", "a frame that has stopped", "nothing"])
async def test_what_else_arrives_keeps_no_connection(limits: Limits, what: str) -> None:
    incoming = Arriving(partial=what == "a frame that has stopped")
    line, _ = beating(limits, incoming)
    await to_ping(line)
    while line.dropped is None:
        incoming.bytes += 1000 if what == "whole frames" else 0
        await asyncio.sleep(0.1)
    assert line.dropped[0] == pytest.approx(line.pings[0][0] + 4)


@pytest.mark.parametrize("limits", [LIMITS, OFTEN], ids=["interval > timeout", "interval < timeout"])
async def test_acknowledged_messages_keep_the_connection_until_they_stop(limits: Limits) -> None:
    line, heartbeat = beating(limits)
    heartbeat.acknowledged()
    await to_ping(line)
    for _ in range(10):
        await asyncio.sleep(3.9)
        heartbeat.acknowledged()
    stopped = line.time()
    assert line.dropped is None and len(line.pings) == 1
    await asyncio.sleep(100)
    assert line.dropped is not None
    assert line.dropped[0] == pytest.approx(stopped + 4)


async def test_a_connection_that_brings_ever_more_and_no_answer_is_dropped() -> None:
    """One direction is dead: an answer would have come by then."""
    incoming = Arriving()
    line, _ = beating(LIMITS, incoming)
    await to_ping(line)
    begun = incoming.bytes
    while line.dropped is None:
        incoming.bytes += 100_000
        await asyncio.sleep(CLOSELY)
    enough = BUFFERED_BYTES + incoming.largest + 100_000 * 4 / CLOSELY
    assert enough - 200_000 <= incoming.bytes - begun <= enough + 200_000


async def test_without_a_timeout_pings_only_keep_the_connection_open_and_without_an_interval_there_are_none() -> None:
    line, _ = beating(LIMITS.replace(ping_timeout=None))
    line.full = True
    await asyncio.sleep(2000)
    assert line.dropped is None and 200 <= len(line.pings) <= 223
    line, _ = beating(LIMITS.replace(ping_interval=None))
    await asyncio.sleep(2000)
    assert line.dropped is None and not line.pings


# ---------------------------------------------------------------- a full line


def watching(limits: Limits) -> tuple[Line, StallWatch]:
    line = Line()
    line.full = True
    watch = StallWatch(line, asyncio.get_running_loop(), limits)
    watch.start()
    line.send(100_000)
    return line, watch


LATER = LIMITS.replace(stall_timeout=60.0)


@pytest.mark.parametrize(
    ("limits", "expected"), [(LIMITS, 3.0), (LATER, 14.0), (LATER.replace(ping_interval=None), 60.0)]
)
async def test_a_full_connection_that_does_not_move_is_dropped(limits: Limits, expected: float) -> None:
    """Writing more is no progress."""
    line, watch = watching(limits)
    watch.stop()
    watch.stop()
    await asyncio.sleep(1000)
    assert line.dropped is None
    watch.start()
    begun = line.time()
    while line.dropped is None:
        line.send(1000)
        await asyncio.sleep(0.5)
    when, *why = line.dropped
    assert when - begun == pytest.approx(expected)
    assert why == [1006, f"nothing could be written for {expected:g} s"]


async def test_a_full_connection_that_moves_is_not_dropped_before_it_stops() -> None:
    line, _ = watching(LIMITS)
    for _ in range(30):
        line.take(1)
        await asyncio.sleep(2.9)
    stopped = line.time() - 2.9
    assert line.dropped is None
    await asyncio.sleep(100)
    assert line.dropped is not None
    assert stopped + 3 <= line.dropped[0] <= stopped + 3 + CLOSELY

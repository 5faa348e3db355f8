"""Testing applications, and peers, without a network.

`connect` gives a client that is connected in memory to a server; `pair` two peers that are connected to each
other. Both are real: every message that one sends is encoded, carried and decoded as over a WebSocket.
`ScriptedTransport` plays the other side from a script. `Clock` is time under the test's control.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from itertools import count
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ._close import CloseCode, CloseInfo, check_close
from ._codec import Codec
from ._lifecycle import Closers
from ._scheduler import LoopScheduler, Scheduler, Timer
from ._settings import make_settings
from .client import Client
from .errors import ConnectionLost
from .limits import Limits
from .peer import Peer
from .server import Server
from .transport import ConnectionInfo, Receiver

__all__ = ["Clock", "MemoryTransport", "ScriptedTransport", "connect", "memory_transports", "pair"]


# ---------------------------------------------------------------- in memory


class MemoryTransport:
    """One end of a connection in memory; `memory_transports` makes both.

    What one turn of the event loop sends arrives together, as one read, in a later turn. ``sent`` counts
    messages. `hold` and `release` make the other side stop reading and go on.
    """

    def __init__(self, info: ConnectionInfo, limits: Limits) -> None:
        self.info = info
        self.sent = 0
        self._high_water = limits.high_water
        self._largest = limits.message
        self._other: MemoryTransport
        self._receiver: Receiver | None = None
        self._loop = asyncio.get_running_loop()
        self._out: deque[tuple[bytes, bool]] = deque()
        self._unsent = 0
        self._paused = False
        self._held = False
        self._scheduled = False
        self._drained: list[asyncio.Future[None]] = []
        self._closing = False
        self._ended: CloseInfo | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()

    @property
    def unsent(self) -> int:
        return self._unsent

    def start(self, receiver: Receiver, /) -> None:
        self._receiver = receiver
        if self._paused:
            receiver.pause_sending()
        self._other._deliver()
        if self._ended is not None:
            self._loop.call_soon(receiver.connection_lost, self._ended)

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self._closing or self._ended is not None:
            ended = self._ended or CloseInfo(CloseCode.ABNORMAL, "closing")
            raise ConnectionLost(ended.code, ended.reason, "not_sent")
        self.sent += 1
        self._out.append((payload, text))
        self._unsent += len(payload)
        if self._unsent > self._high_water and not self._paused:
            self._paused = True
            if self._receiver is not None:
                self._receiver.pause_sending()
        self._schedule()

    def flush(self) -> None:
        """Nothing: what was sent arrives in the next turn."""

    async def drain(self) -> None:
        if self._paused and self._ended is None:
            waiter = self._loop.create_future()
            self._drained.append(waiter)
            await waiter

    async def close(self, code: int = 1000, reason: str = "") -> None:
        check_close(code, reason)
        self.close_soon(code, reason)
        await asyncio.shield(self._over)

    def close_soon(self, code: int, reason: str) -> None:
        """Begin to close, without waiting for the end."""
        if not self._closing and self._ended is None:
            self._closing = True
            self._loop.call_soon(self._finish, CloseInfo(code, reason, was_clean=True))

    def abort(self) -> None:
        if self._ended is None:
            self._out.clear()
            self._loop.call_soon(self._finish, CloseInfo(CloseCode.ABNORMAL, "aborted"))

    def hold(self) -> None:
        """Let nothing that this end sends arrive, until `release`: the other side has stopped reading."""
        self._held = True

    def release(self) -> None:
        """Let it arrive again."""
        self._held = False
        self._schedule()

    def _schedule(self) -> None:
        if self._out and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        receiver = self._other._receiver
        if self._held or receiver is None or not self._out:
            return
        batch, self._out = self._out, deque()
        self._unsent = 0
        for payload, text in batch:
            if len(payload) > self._other._largest:
                self._other.close_soon(CloseCode.MESSAGE_TOO_BIG, f"more than {self._other._largest} bytes")
                break
            receiver.receive(payload, text)
        receiver.read_ended()
        if self._paused and self._unsent <= self._high_water // 4:
            self._paused = False
            for waiter in self._drained:
                if not waiter.done():
                    waiter.set_result(None)
            self._drained.clear()
            if self._receiver is not None and self._ended is None:
                self._receiver.resume_sending()

    def _finish(self, info: CloseInfo) -> None:
        if self._ended is not None:
            return
        if info.was_clean:
            self._held = False
            self._deliver()
        for end in (self, self._other):
            end._end(info)

    def _end(self, info: CloseInfo) -> None:
        if self._ended is not None:
            return
        self._ended = info
        if not info.was_clean:
            self._out.clear()
            self._unsent = 0
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()
        if not self._over.done():
            self._over.set_result(None)
        if self._receiver is not None:
            self._receiver.connection_lost(info)


def memory_transports(
    *,
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    other: Limits | None = None,
) -> tuple[MemoryTransport, MemoryTransport]:
    """Two ends of one connection in memory, the dialing one first; ``path`` may have a query.

    ``limits`` are those of both, or with ``other`` of the dialing one.
    """
    url = urlsplit(path)
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    info = ConnectionInfo(
        path=url.path,
        query=MappingProxyType(dict(parse_qsl(url.query, keep_blank_values=True))),
        headers=MappingProxyType(lower),
        origin=lower.get("origin"),
    )
    limits = limits or Limits()
    left, right = MemoryTransport(info, limits), MemoryTransport(info, other or limits)
    left._other, right._other = right, left
    return left, right


@asynccontextmanager
async def pair(
    *,
    codec: Codec | None = None,
    limits: Limits | None = None,
    clock: Clock | None = None,
    extensions: bool = True,
) -> AsyncGenerator[tuple[Peer, Peer]]:
    """Two peers that are connected in memory, the dialing one first; leaving the block closes them.

    Register handlers inside the block, before anything is sent. ``extensions=False`` makes plain ws-wrapper peers
    of them.
    """
    settings = make_settings(limits, codec, None, extensions=extensions)
    scheduler: Scheduler = clock or LoopScheduler()
    left = Peer(settings, dialer=True, loop=scheduler)
    right = Peer(settings, dialer=False, loop=scheduler)
    ends = memory_transports(limits=settings.limits)
    left.bind(ends[0])
    right.bind(ends[1])
    try:
        yield left, right
    finally:
        await left.close()
        for peer in (left, right):
            await peer._join(settings.limits.close_timeout, Closers())


@asynccontextmanager
async def connect(
    server: Server, *, path: str = "/", headers: Mapping[str, str] | None = None, client: Client | None = None
) -> AsyncGenerator[Client]:
    """A client that is connected to ``server`` in memory; leaving the block closes it.

    Pass a ``client`` that has handlers already, or register them on what you get. One with a URL would dial that
    after a drop, so pass one without.
    """
    if client is None:
        client = Client(codec=server._settings.codec)
    ours, theirs = memory_transports(path=path, headers=headers, limits=client._limits, other=server._limits)
    accepting = asyncio.get_running_loop().create_task(server.accept(theirs))
    try:
        await client.bind(ours)
        peer = await accepting
        try:
            yield client
        finally:
            await client.close()
            await peer._join(server._limits.close_timeout, Closers())
    finally:
        if not accepting.done():
            accepting.cancel()


# ---------------------------------------------------------------- from a script


class ScriptedTransport:
    """A transport whose other side is the test: `feed` what it says, `expect` what it must hear.

    Everything happens inside the calls: a peer on it can be driven without the event loop turning.
    """

    def __init__(self, info: ConnectionInfo | None = None) -> None:
        self.info = info or ConnectionInfo()
        self.unsent = 0
        self.closed: CloseInfo | None = None
        self._receiver: Receiver | None = None
        self._sent: deque[tuple[bytes, bool]] = deque()

    # The contract.

    def start(self, receiver: Receiver, /) -> None:
        self._receiver = receiver
        if self.closed is not None:
            receiver.connection_lost(self.closed)

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self.closed is not None:
            raise ConnectionLost(self.closed.code, self.closed.reason, "not_sent")
        self._sent.append((payload, text))

    def flush(self) -> None:
        """Nothing: what was sent is there to be taken."""

    async def drain(self) -> None:
        return None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        check_close(code, reason)
        self.lose(CloseInfo(code, reason, was_clean=True))

    def abort(self) -> None:
        self.lose(CloseInfo(CloseCode.ABNORMAL, "aborted"))

    # The script.

    def feed(self, *messages: Any) -> None:
        """Let messages arrive in one read: text or bytes as they are, anything else as JSON text."""
        assert self._receiver is not None, "no peer is bound to this transport"
        for message in messages:
            if isinstance(message, bytes):
                self._receiver.receive(message, False)
            else:
                text = message if isinstance(message, str) else json.dumps(message)
                self._receiver.receive(text.encode("utf-8", "surrogatepass"), True)
        self._receiver.read_ended()

    def take(self) -> list[Any]:
        """What was sent since the last time: text messages as decoded JSON, binary ones as bytes."""
        taken = [json.loads(payload) if text else payload for payload, text in self._sent]
        self._sent.clear()
        return taken

    def expect(self, *messages: Any) -> None:
        """Assert that exactly ``messages`` were sent since the last time, in order."""
        sent = self.take()
        if sent != list(messages):
            raise AssertionError(f"expected {list(messages)!r} to be sent, got {sent!r}")

    def pause(self) -> None:
        """Tell the peer that the line is full."""
        assert self._receiver is not None
        self._receiver.pause_sending()

    def resume(self) -> None:
        """Tell the peer that the line has drained."""
        assert self._receiver is not None
        self._receiver.resume_sending()

    def lose(self, info: CloseInfo | None = None) -> None:
        """End the connection, by default without a Close frame."""
        if self.closed is None:
            self.closed = info or CloseInfo(CloseCode.ABNORMAL, "dropped")
            if self._receiver is not None:
                self._receiver.connection_lost(self.closed)


# ---------------------------------------------------------------- time


class Clock:
    """Time that stands still until `advance`; pass it to `pair`, or to a peer in place of the event loop.

    Futures and tasks are those of the running loop, so only deadlines are under its control.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._order = count()
        self._timers: list[tuple[float, int, _ClockTimer]] = []
        self._real = LoopScheduler()

    def time(self) -> float:
        """The clock's time, in seconds."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        timer = _ClockTimer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self._real.call_soon(callback)

    def create_future(self) -> asyncio.Future[Any]:
        return self._real.create_future()

    def spawn(self, coroutine: Coroutine[Any, Any, None], /) -> asyncio.Task[None]:
        return self._real.spawn(coroutine)

    def advance(self, seconds: float) -> None:
        """Let time pass: timers that fall due run here, in order, each at its own time."""
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            if not timer.cancelled:
                timer.callback()
        self._now = until

    @property
    def next_deadline(self) -> float | None:
        """When the next timer falls due; None if there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None


class _ClockTimer:
    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

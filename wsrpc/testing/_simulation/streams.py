"""`StreamTransport`: one end of a simulated TCP connection, as an asyncio transport."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from .paths import FAST, Path
from .processes import Process

READ_BYTES = 256 * 1024
"""Bytes that asyncio reads at once."""
HIGH, LOW = 64 * 1024, 16 * 1024
"""asyncio's limits for the bytes that wait to be written."""
SEGMENT, LARGE_SEGMENT = 4 * 1024, 64 * 1024
"""Bytes that travel together, at most, on a slow path, if that takes no second, and on a fast one."""
AHEAD = 0.25
"""Seconds for which bytes may be on their way to a slow path."""
BYTES_ACKED = 120
"""Offset of the number of acknowledged bytes in Linux's ``tcp_info``."""


class Pipe:
    """One direction of a connection: bytes that are written at one end, and arrive at the other in order.

    Args:
        window: bytes that are on their way or wait to be read, at most.
    """

    def __init__(self, source: StreamTransport, sink: StreamTransport, path: Path, window: int) -> None:
        self.source, self.sink, self.path, self.window = source, sink, path, window
        self.unsent = bytearray()
        """What was written and has not left."""
        self.in_flight = 0
        """Bytes that were sent and are not acknowledged yet."""
        self.acknowledged = 0
        self.ending = self._ended = False
        """Whether the end of the stream was requested, and whether it was sent."""
        self.lost = False
        """Whether all data are dropped silently, because a router has forgotten the connection."""
        self.carries: float = inf
        """Bytes after which the connection breaks."""
        self._free_at = self._last_arrival = 0.0
        self._pumps = False
        """Whether `pump` will be called again."""

    @property
    def backlog(self) -> int:
        """Bytes for which the operating system has no room. It holds others for a path that is slow."""
        return max(0, len(self.unsent) + self.in_flight - self.window)

    def pump(self) -> None:
        """Send as much as the window allows and the path carries soon. (Its rate may change.)"""
        now = self.path.events.now
        while self.carries and self.unsent and (room := self.window - self.in_flight) > 0:
            if self._free_at > now + AHEAD:
                self._pump_at(self._free_at)
                return
            segment = min(SEGMENT, self.path.rate) if self.path.rate < FAST else LARGE_SEGMENT
            size = int(min(len(self.unsent), room, segment, self.carries))
            data = bytes(self.unsent[:size])
            del self.unsent[:size]
            self.in_flight += size
            self._travel(size, partial(self.sink.arrived, data))
            self.carries -= size
            if not self.carries:
                self._travel(0, self.hang_up)
                return
        if self.ending and not (self.unsent or self._ended):
            self._ended = True
            self._travel(0, self.sink.arrived_end)

    def _pump_at(self, when: float) -> None:
        if not self._pumps:
            self._pumps = True
            self.path.events.at(when, self._pump_again)

    def _pump_again(self) -> None:
        self._pumps = False
        self.pump()
        self.source.left()

    def _travel(self, size: int, arrive: Callable[[], object]) -> None:
        self._free_at = max(self.path.events.now, self._free_at) + size / self.path.rate
        self._last_arrival = self.send(arrive, max(self._free_at + self.path.latency, self._last_arrival))

    def send(self, arrive: Callable[[], object], not_before: float = 0.0) -> float:
        """Schedule an arrival at the other end, unless the connection is lost by then."""
        return self.path.travel(lambda: self.lost or arrive(), not_before=not_before)

    def hang_up(self) -> None:
        """Reset the connection at both ends now."""
        for end in (self.source, self.sink):
            end.hang_up()

    def reset(self) -> None:
        """Reset the connection at the other end, after all data that were sent."""
        self.send(self.sink.hang_up, self._last_arrival)

    def read(self, size: int) -> None:
        """Acknowledge what was read at the other end. The acknowledgement goes the other way."""
        self.sink.out.send(partial(self._read, size))

    def _read(self, size: int) -> None:
        self.in_flight -= size
        self.acknowledged += size
        self.pump()
        self.source.left()


class SimulatedSocket:
    """What a program may ask a socket that listens, or that of a connection."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP

    def __init__(self, name: Any, other_name: Any = None, transport: StreamTransport | None = None) -> None:
        self._name, self._other_name, self._transport = name, other_name, transport

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *args: Any) -> None:
        """Accept each option."""

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        if self._transport is None or (level, option) != (socket.IPPROTO_TCP, socket.TCP_INFO):
            return b"" if size else 0
        acked = self._transport.out.acknowledged
        return (bytes(BYTES_ACKED) + acked.to_bytes(8, sys.byteorder))[:size]

    def getsockname(self) -> Any:
        return self._name

    def getpeername(self) -> Any:
        return self._other_name


class StreamTransport(asyncio.Transport):
    """One end of a connection.

    Args:
        drop: called when the connection is over here.
    """

    out: Pipe
    into: Pipe

    def __init__(self, process: Process, name: Any, other_name: Any, drop: Callable[[], object]) -> None:
        super().__init__({"socket": SimulatedSocket(name, other_name, self), "sockname": name, "peername": other_name})
        self.process = process
        self._life = process.life
        self._protocol: Any = None
        self._drop = drop
        self._early: list[Callable[[], object]] = []
        """Callbacks from the time before `start`."""
        self._received: deque[bytes] = deque()
        self._other_ended = False
        self._scheduled = False
        self._reading = True
        self._closing = False
        self._over = False
        """Whether ``connection_lost`` was scheduled."""
        self._writing_paused = False
        self._high, self._low = HIGH, LOW

    @property
    def is_alive(self) -> bool:
        """Whether its process has not ended since."""
        return self.process.alive and self.process.life == self._life

    def start(self, protocol: Any) -> None:
        """Pass the connection to its protocol, and then run the early callbacks."""
        self._protocol = protocol
        protocol.connection_made(self)
        early, self._early = self._early, []
        for callback in early:
            self.process.call(callback, self._life, self)

    def _soon(self, callback: Callable[[], object]) -> None:
        if self._protocol is None:
            self._early.append(callback)
        else:
            self.process.call(callback, self._life, self)

    # ------------------------------------------------------------ the network's side

    def arrived(self, data: bytes) -> None:
        if not self.is_alive or self._closing:
            self.out.reset()  # nobody reads this
            return
        self._received.append(data)
        self._schedule()

    def arrived_end(self) -> None:
        self._other_ended = True
        if self.is_alive:
            self._schedule()

    def hang_up(self) -> None:
        """Note that the other end has reset the connection."""
        if self.is_alive and not self._over:
            self._end(ConnectionResetError("Connection reset by peer"))

    def left(self) -> None:
        """Note that bytes were acknowledged, and others have left."""
        if self._writing_paused and self.out.backlog <= self._low and self.is_alive:
            self._writing_paused = False
            self._soon(self._resume_writing)
        if self._closing and not self.out.backlog:
            self._finish(None)

    def _resume_writing(self) -> None:
        if not self._over:
            self._protocol.resume_writing()

    def _schedule(self) -> None:
        if not self._scheduled and self._reading and (self._received or self._other_ended):
            self._scheduled = True
            self._soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if not self._reading or self._closing:
            return
        if self._received:
            data = self._received.popleft()
            while self._received and len(data) + len(self._received[0]) <= READ_BYTES:
                data += self._received.popleft()
            self.into.read(len(data))
            self._schedule()
            self._protocol.data_received(data)
        elif self._other_ended:
            self._reading = False
            if not self._protocol.eof_received():
                self.close()

    # ------------------------------------------------------------ the program's side

    def write(self, data: Any) -> None:
        if self._over or self.out.ending:
            return
        self.out.unsent += data
        self.out.pump()
        if self.out.backlog > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.out.ending = True
        self.out.pump()

    def close(self) -> None:
        if self._closing:
            return
        self._closing, self._reading = True, False
        self.write_eof()
        if not self.out.backlog:
            self._finish(None)

    def abort(self) -> None:
        if not self._over:
            self.out.reset()
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        self.out.unsent.clear()
        self._closing, self._reading = True, False
        self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        if not self._over:
            self._over = True
            self._drop()
            self._soon(lambda: self._protocol.connection_lost(error))

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._closing:
            self._reading = True
            self._schedule()

    def is_reading(self) -> bool:
        return self._reading

    def get_write_buffer_size(self) -> int:
        return self.out.backlog

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = HIGH if high is None else high
        self._low = self._high // 4 if low is None else low

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

"""`ProxiedConnection`: one connection through a `FaultProxy`. It has two sockets, each a `ProxySocket`."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import random
from typing import Any, Literal, TypeAlias

if sys.platform == "linux":
    from fcntl import ioctl

SIOCOUTQNSD = 0x894B
"""Linux: number of bytes in a TCP socket that were not sent. (Python has no name for it.)"""

PIECE = 1448
"""Bytes that a slow link passes on together: what a packet in an Ethernet network holds."""

KERNEL_BUFFER = 16 * 1024
"""Size of the kernel's buffers of each socket, in bytes. By default, they hold megabytes, which hides a rate."""

LINGER_ZERO = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def tcp_socket(family: int = socket.AF_INET) -> socket.socket:
    """Return a TCP socket with small buffers. The sockets that it accepts have these, too."""
    # With the protocol, asyncio turns Nagle's algorithm off for accepted sockets, so small pieces are sent at once.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER)
    if sys.platform == "linux":  # whose buffer of a sender is for ten packets at first; loopback's have 64 KiB
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, PIECE)
    sock.setblocking(False)
    return sock


def bound_socket(port: int) -> socket.socket:
    """Return a TCP socket that is bound to a loopback port. 0 is a free port. Several sockets can share a port."""
    sock = tcp_socket()
    try:
        for option in ("SO_REUSEADDR", "SO_REUSEPORT"):  # which of the two is needed depends on the system
            if hasattr(socket, option):
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        sock.bind(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


async def connected_socket(host: str, port: int, family: int = socket.AF_INET) -> socket.socket:
    """Return a TCP socket that is connected to a host, by IPv4 if possible, otherwise by IPv6."""
    sock = tcp_socket(family)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except BaseException as exc:
        sock.close()
        if family == socket.AF_INET6 or not isinstance(exc, OSError):
            raise
        return await connected_socket(host, port, socket.AF_INET6)
    return sock


def reset_when_closed(transport: asyncio.Transport) -> None:
    """Make a socket send a RST when it is closed. Unsent bytes are then dropped."""
    sock = transport.get_extra_info("socket")
    with suppress(OSError):  # closed already; or broken by the remote end, where some systems refuse this
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)


def unsent(transport: asyncio.Transport) -> int:
    """Return the number of written bytes that were not sent. Bytes in the kernel are included only on Linux."""
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock.fileno() < 0:
        return waiting
    kept: int = struct.unpack("i", ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4)))[0]
    return waiting + kept


Direction: TypeAlias = Literal["up", "down"]
"""``"up"`` is towards the server, ``"down"`` towards the client."""


class Cut:
    """One block of `FaultProxy.cut_after`."""

    def __init__(self, count: int) -> None:
        self.count = count


class Slow:
    """One block of `FaultProxy.slow` in one direction: a link that all connections share."""

    def __init__(self, rate: float, latency: float, jitter: float, buffer: float) -> None:
        self.latency = latency
        self._rate, self._jitter, self._buffer = rate, jitter, buffer
        self._sent_at = 0.0
        """When the link has sent all bytes that it was given."""

    def due(self, now: float, size: int) -> float:
        """Give bytes to the link, and return when they reach its other end."""
        self._sent_at = max(now, self._sent_at) + size / self._rate
        return self._sent_at + self.latency + self._jitter * random()

    @property
    def room_at(self) -> float:
        """When no more than ``buffer`` bytes wait."""
        return self._sent_at - self._buffer / self._rate


class Troubles:
    """Troubles of one direction, for all connections. Each block that is entered adds an entry to one of the lists."""

    def __init__(self) -> None:
        self.passed = 0
        """Number of bytes that were passed on, for all connections."""
        self.silences: list[None] = []
        self.stalls: list[None] = []
        self.cuts: list[Cut] = []
        self.slows: list[Slow] = []
        self.time_outs: list[tuple[float, float]] = []
        """Limits of `FaultProxy.time_out`: seconds since the last byte, and since the connection was opened."""


FIN, RESET = b"", None
"""Entries besides bytes: the normal end of a direction, and the reset of the connection."""

LARGEST_TRANSIT = 10_000
"""Pieces in transit in one direction at which reading stops, as if TCP's window were full: at most some 15 MB."""


class ProxiedConnection:
    """A TCP connection from a client to the proxy, and one from the proxy to the server.

    Args:
        sock: the socket of the client, accepted.
        address: host and port of the server.
        troubles: of each direction.
        ended: called when both connections are over.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: tuple[str, int],
        troubles: Mapping[Direction, Troubles],
        ended: Callable[[ProxiedConnection], None],
    ) -> None:
        self.ends = {direction: ProxySocket(self, each) for direction, each in troubles.items()}
        """The sockets, by the direction of the bytes that they read."""
        self.client, self.server = self.ends["up"], self.ends["down"]
        self.client.other, self.server.other = self.server, self.client
        self._ended = ended
        self.opened_at = self.active_at = asyncio.get_running_loop().time()
        """When the client connected, and when the last bytes were passed on."""
        self.connected = False
        """Whether the server was reached."""
        self.broken = False
        """Whether `reset` was called."""
        self.closing = False
        """Whether `close` was called."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect(sock, address))
        self._connecting.add_done_callback(lambda task: self.lost())

    async def _connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self.client, sock)
        latencies = (max((slow.latency for slow in end.troubles.slows), default=0.0) for end in self.ends.values())
        await asyncio.sleep(sum(latencies))  # the handshake of TCP takes a round trip
        if not self.broken:
            try:
                # Not `create_connection`: uvloop's leaves a socket open if it is reset at once.
                await loop.connect_accepted_socket(lambda: self.server, await connected_socket(*address))
            except OSError:
                self.reset()

    def made(self, end: ProxySocket) -> None:
        """Record that a socket is connected."""
        if self.broken:
            end.reset()
            return
        self.connected = end is self.server
        self.client.update()
        self.server.update()

    def lost(self) -> None:
        """Report the end of the connection if neither socket is connected, and none will be."""
        # uvloop does not call `connection_lost` of the transport for which a cancelled task waits.
        ends = () if self._connecting.cancelled() else (self.client, self.server)
        if self._connecting.done() and all(end.transport is None for end in ends):
            for end in ends:
                end.stop_timer()
            self._ended(self)

    def reset(self) -> None:
        """Reset both connections: each side gets a RST, the server if it was reached."""
        self.broken = True
        for end in (self.client, self.server):
            end.reset()

    def abandon(self) -> None:
        """Reset both connections now, without waiting until the server is reached."""
        self.reset()
        if self.client.transport is not None:  # else it is not dialing, and will not
            self._connecting.cancel()

    def close(self) -> None:
        """Close both connections normally, after the passed bytes were sent."""
        self.closing = True
        for end in (self.client, self.server):
            if end.transport is not None:
                end.transport.close()


class ProxySocket(asyncio.Protocol):
    """One of the two sockets. It passes the bytes that it reads to the other socket, if the troubles allow this."""

    other: ProxySocket

    def __init__(self, connection: ProxiedConnection, troubles: Troubles) -> None:
        self._connection = connection
        self.troubles = troubles
        self._loop = asyncio.get_running_loop()
        self._transit: deque[tuple[bytes | None, dict[Slow, float]]] = deque()
        """Bytes that were read and cannot be passed on yet, with the time at which each slow link lets them through."""
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self._lossy = False
        """Whether bytes from this socket were dropped during a silence."""
        self._passed = 0
        """Number of bytes that were passed on."""
        self._cuts = {cut: cut.count for cut in troubles.cuts}
        """The cuts of this direction, each with the number of bytes after which it cuts."""
        self._cut_at = min(self._cuts.values(), default=None)
        self._over = False
        """Whether the connection will be reset."""
        self._finished = False
        """Whether the other socket got a FIN."""
        self._paused = False
        """Whether this socket has no more room."""
        self._reading = True

    # ------------------------------------------------------------ the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tcp: Any = transport  # asyncio's annotation says less than it passes, and uvloop's have other base classes
        self.transport = tcp
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        # uvloop reads before the server is reached: it ignores `pause_reading` within `connection_made`.
        if not (self.troubles.stalls or self.troubles.slows or self._transit) and self._connection.connected:
            self._pass(data)  # in this turn: a turn more, and `drop` would lose what has arrived without a proxy
        else:
            self._add(*(data[start : start + PIECE] for start in range(0, len(data), PIECE)))

    def eof_received(self) -> bool:
        self._add(FIN)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._add(RESET)
        self._connection.lost()

    def pause_writing(self) -> None:
        self._paused = True
        self.other.update()

    def resume_writing(self) -> None:
        self._paused = False
        self._loop.call_soon(self._resumed)  # asyncio would end a transport twice that is reset within this call

    def _resumed(self) -> None:
        if not self._paused:
            self.other.update()

    def reset(self) -> None:
        """Reset the connection: the remote end of the socket gets a RST."""
        self._over = True
        self._transit.clear()
        self.stop_timer()
        if self.transport is not None:
            reset_when_closed(self.transport)
            self.transport.abort()

    # ------------------------------------------------------------ to the other socket

    def troubles_changed(self) -> None:
        """Apply the present troubles."""
        if self._lossy and not self.troubles.silences:
            self._connection.reset()
            return
        self._cuts = {cut: self._cuts.get(cut, self._passed + cut.count) for cut in self.troubles.cuts}
        self._cut_at = min(self._cuts.values(), default=None)
        self.update()

    def update(self) -> None:
        """Pass on bytes, and pause or resume reading, as the troubles allow now."""
        if self._over:
            return
        self.stop_timer()
        now = self._loop.time()
        line = self._connection
        ends = [min(line.active_at + idle, line.opened_at + life) for idle, life in self.troubles.time_outs]
        if min(ends, default=math.inf) <= now:
            line.reset()
        while self._due() <= now:
            piece, _ = self._transit.popleft()
            if piece:
                self._pass(piece)
            else:
                self._pass_end(piece)
        self._cut_if_due()
        if self._over:
            return
        self._read_or_not()
        times = (*ends, self._due(), *(slow.room_at for slow in self.troubles.slows))
        if later := [time for time in times if now < time < math.inf]:
            self._timer = self._loop.call_at(min(later), self.update)

    def _add(self, *pieces: bytes | None) -> None:
        now = self._loop.time()
        for piece in pieces:
            times = {slow: slow.due(now, len(piece or b"")) for slow in self.troubles.slows}
            self._transit.append((piece, times))
        self.update()

    def _due(self) -> float:
        """Return when the next bytes in transit pass. Infinity if there are none, or if they have to wait."""
        if not self._transit or self._over or not self._may_pass():
            return math.inf
        _, times = self._transit[0]
        return max((times.get(slow, 0.0) for slow in self.troubles.slows), default=0.0)

    def _may_pass(self) -> bool:
        room = not self.other._paused or self._finished or bool(self.troubles.silences)
        return room and self._connection.connected and not self.troubles.stalls

    def _read_or_not(self) -> None:
        reading = not self._over and self._may_pass() and len(self._transit) < LARGEST_TRANSIT
        reading = reading and all(slow.room_at <= self._loop.time() for slow in self.troubles.slows)
        if reading is not self._reading and self.transport is not None:
            self._reading = reading
            if reading:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _pass(self, data: bytes) -> None:
        if self._finished or self._over:
            return
        if self.troubles.silences:
            self._lossy = True
            return
        self._connection.active_at = self._loop.time()
        if self._cut_at is not None:
            data = data[: self._cut_at - self._passed]
        self._passed += len(data)
        self.troubles.passed += len(data)
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.write(data)
        self._cut_if_due()

    def _pass_end(self, piece: bytes | None) -> None:
        if self.troubles.silences:
            self._lossy = True
        elif piece is RESET:
            if not self._connection.closing:
                self._connection.reset()
        elif not self._finished:
            self._finished = True
            if self.other.transport is not None:
                with suppress(OSError):  # broken already: `connection_lost` follows in the next turn
                    self.other.transport.write_eof()
            if self.other._finished:
                self._connection.close()

    def _cut_if_due(self) -> None:
        if self._cut_at is not None and self._passed >= self._cut_at and self._connection.connected and not self._over:
            self._over = True
            self.stop_timer()
            self._read_or_not()
            self._reset_when_sent()

    def _reset_when_sent(self) -> None:
        """Reset the connections when the passed bytes were sent, because a RST drops unsent bytes."""
        if self.other.transport is not None and unsent(self.other.transport):
            self._timer = self._loop.call_later(0.001, self._reset_when_sent)
        else:
            self._connection.reset()

    def stop_timer(self) -> None:
        """Do nothing more at a later time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

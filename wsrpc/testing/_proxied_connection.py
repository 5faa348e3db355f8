"""`ProxiedConnection`: one connection through a `FaultProxy`. It has two sockets, each a `ProxySocket`."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeAlias

if sys.platform == "linux":
    from fcntl import ioctl

SIOCOUTQNSD = 0x894B
"""Linux: number of bytes in a TCP socket that were not sent. (Python has no name for it.)"""

LINGER_ZERO = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def bound_socket(port: int) -> socket.socket:
    """Return a TCP socket that is bound to a loopback port. 0 is a free port. Several sockets can share a port."""
    # With the protocol, asyncio turns Nagle's algorithm off for accepted sockets, so small pieces are sent at once.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        for option in ("SO_REUSEADDR", "SO_REUSEPORT"):  # which of the two is needed depends on the system
            if hasattr(socket, option):
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        sock.bind(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
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


class Troubles:
    """Troubles of one direction, for all connections. Each block that is entered adds an entry to one of the lists."""

    def __init__(self) -> None:
        self.passed = 0
        """Number of bytes that were passed on, for all connections."""
        self.silences: list[None] = []
        self.stalls: list[None] = []
        self.cuts: list[Cut] = []


FIN, RESET = b"", None
"""Entries besides bytes: the normal end of a direction, and the reset of the connection."""

LARGEST_TRANSIT = 256 * 1024
"""Maximum bytes in transit in one direction. Above this number, reading stops."""


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
        self.ends: dict[Direction, ProxySocket] = {
            direction: ProxySocket(self, direction, each) for direction, each in troubles.items()
        }
        """The sockets, by the direction of the bytes that they read."""
        self._ended = ended
        self.connected = False
        """Whether the server was reached."""
        self.broken = False
        """Whether `reset` was called."""
        self.closing = False
        """Whether `close` was called."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect(sock, address))
        self._connecting.add_done_callback(lambda task: self.lost())

    @property
    def client(self) -> ProxySocket:
        """The socket of the client."""
        return self.ends["up"]

    @property
    def server(self) -> ProxySocket:
        """The socket of the server."""
        return self.ends["down"]

    async def _connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self.client, sock)
        if not self.broken:
            try:
                await loop.create_connection(lambda: self.server, *address)
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

    def __init__(self, connection: ProxiedConnection, direction: Direction, troubles: Troubles) -> None:
        self._connection = connection
        self._other: Direction = "down" if direction == "up" else "up"
        self._troubles = troubles
        self._transit: deque[bytes | None] = deque()
        """Bytes that were read and cannot be passed on yet."""
        self._transit_size = 0
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
        self._full = False
        """Whether the other socket has no more room."""
        self._reading = True

    @property
    def other(self) -> ProxySocket:
        return self._connection.ends[self._other]

    # ------------------------------------------------------------ the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tcp: Any = transport  # asyncio's annotation says less than it passes, and uvloop's have other base classes
        self.transport = tcp
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        # uvloop reads before the server is reached: it ignores `pause_reading` within `connection_made`.
        if not self._troubles.stalls and not self._transit and self._connection.connected:
            self._pass(data)  # in this turn: a turn more, and `drop` would lose what has arrived without a proxy
        else:
            self._add(data)

    def eof_received(self) -> bool:
        self.finish()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._add(RESET)
        self._connection.lost()

    def pause_writing(self) -> None:
        self.other.other_filled(True)

    def resume_writing(self) -> None:
        self.other.other_filled(False)

    def reset(self) -> None:
        """Reset the connection: the remote end of the socket gets a RST."""
        self._over = True
        self._transit.clear()
        self._transit_size = 0
        self._stop_timer()
        if self.transport is not None:
            reset_when_closed(self.transport)
            self.transport.abort()

    def finish(self) -> None:
        """End this direction after the bytes in transit. Later bytes are dropped."""
        self._add(FIN)

    # ------------------------------------------------------------ to the other socket

    def other_filled(self, full: bool) -> None:
        """Record whether the other socket has no more room, and call `update`."""
        self._full = full
        self.update()

    def troubles_changed(self) -> None:
        """Apply the present troubles."""
        if self._lossy and not self._troubles.silences:
            self._connection.reset()
            return
        self._cuts = {cut: self._cuts.get(cut, self._passed + cut.count) for cut in self._troubles.cuts}
        self._cut_at = min(self._cuts.values(), default=None)
        self.update()

    def update(self) -> None:
        """Pass on bytes, and pause or resume reading, as the troubles allow now."""
        if self._over:
            return
        self._stop_timer()
        while self._transit and self._may_pass():
            piece = self._transit.popleft()
            if piece:
                self._transit_size -= len(piece)
                self._pass(piece)
            else:
                self._pass_end(piece)
            if self._over:
                return
        self._cut_if_due()
        self._read_or_not()

    def _add(self, piece: bytes | None) -> None:
        if not self._over:
            self._transit.append(piece)
            self._transit_size += len(piece or b"")
            self.update()

    def _may_pass(self) -> bool:
        if self._troubles.stalls or not self._connection.connected:
            return False
        return not self._full or self._finished or bool(self._troubles.silences)

    def _read_or_not(self) -> None:
        reading = not self._over and self._may_pass() and self._transit_size < LARGEST_TRANSIT
        if reading is not self._reading and self.transport is not None:
            self._reading = reading
            if reading:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _pass(self, data: bytes) -> None:
        if self._finished or self._over:
            return
        if self._troubles.silences:
            self._lossy = True
            return
        if self._cut_at is not None:
            data = data[: self._cut_at - self._passed]
        self._passed += len(data)
        self._troubles.passed += len(data)
        if self.other.transport is not None:
            self.other.transport.write(data)
        self._cut_if_due()

    def _pass_end(self, piece: bytes | None) -> None:
        if self._troubles.silences:
            self._lossy = True
        elif piece is RESET:
            if not self._connection.closing:
                self._connection.reset()
        elif not self._finished:
            self._finished = True
            if self.other.transport is not None:
                with suppress(OSError):  # broken already, which `connection_lost` tells in the next turn
                    self.other.transport.write_eof()
            if self.other._finished:
                self._connection.close()

    def _cut_if_due(self) -> None:
        if self._cut_at is not None and self._passed >= self._cut_at and self._connection.connected and not self._over:
            self._over = True
            self._stop_timer()
            self._read_or_not()
            self._reset_when_sent()

    def _reset_when_sent(self) -> None:
        """Reset the connections when the passed bytes were sent, because a RST drops unsent bytes."""
        if self.other.transport is not None and unsent(self.other.transport):
            self._timer = asyncio.get_running_loop().call_later(0.001, self._reset_when_sent)
        else:
            self._connection.reset()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

"""A TCP proxy that causes network trouble on demand."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from operator import index
from typing import Literal, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from .._net.dialing.urls import check_url
from ._proxied_connection import Cut, Direction, ProxiedConnection, Slow, Troubles, bound_socket

T = TypeVar("T")

Trouble: TypeAlias = AbstractAsyncContextManager[None]
"""Lasts for its ``async with`` block."""

BACKLOG = 1024
"""Connections that may wait to be accepted."""

DIRECTIONS: tuple[Direction, ...] = ("up", "down")


class FaultProxy:
    """TCP proxy that causes network trouble on demand. It listens on a free loopback port.

    Inside ``async with FaultProxy(listener.url) as proxy``, pass ``proxy.url`` to your clients instead of the server's
    URL. At the end of this block, all connections are reset.

    `drop` causes trouble once. Use the other methods with ``async with``: the trouble continues until the end of the
    block. All methods except `drop` also affect connections that are opened during the block. The
    blocks can be nested. The direction ``"up"`` is towards the server, and ``"down"`` is towards the client.

    The proxy passes on bytes unchanged and does not decrypt them. It therefore also works with ``wss://``, and the
    server's certificate stays valid. You can use each proxy in only one block. On Windows, the proxy needs asyncio's
    ``SelectorEventLoop``.

    Args:
        target: the URL of the server, ``ws://`` or ``wss://``.

    Raises:
        ValueError: ``target`` is not a ``ws://`` or ``wss://`` URL.
    """

    def __init__(self, target: str) -> None:
        check_url(target, tls=False)
        parts = urlsplit(target)
        if not parts.hostname:
            raise ValueError(f"the URL has no host: {target!r}")
        self._target = parts
        self._address = parts.hostname, parts.port or (80 if parts.scheme == "ws" else 443)
        self._troubles: dict[Direction, Troubles] = {direction: Troubles() for direction in DIRECTIONS}
        self._connections: set[ProxiedConnection] = set()
        self._state: Literal["new", "open", "closed"] = "new"
        self._port = 0
        self._keeper: socket.socket | None = None
        """Keeps the port while nothing listens at it."""
        self._listening: socket.socket | None = None
        """None while connections are refused."""
        self._refusing = 0
        """Number of `refuse` blocks."""
        self._one_ended: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ properties

    @property
    def port(self) -> int:
        """The TCP port that clients dial."""
        if not self._port:
            raise RuntimeError("this proxy does not listen yet: use `async with FaultProxy(...) as proxy`")
        return self._port

    @property
    def url(self) -> str:
        """The target's URL with the host and port of the proxy.

        If the target's host is ``localhost``, the URL keeps this name, because the server's certificate contains it.
        """
        user, at, _ = self._target.netloc.rpartition("@")
        host = "localhost" if self._target.hostname == "localhost" else "127.0.0.1"
        return self._target._replace(netloc=f"{user}{at}{host}:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """The number of current connections, including those that `silence` has left half open."""
        return sum(not connection.broken for connection in self._connections)

    @property
    def bytes_up(self) -> int:
        """The total number of bytes that were passed to the server."""
        return self._troubles["up"].passed

    @property
    def bytes_down(self) -> int:
        """The total number of bytes that were passed to clients."""
        return self._troubles["down"].passed

    def __repr__(self) -> str:
        host, port = self._address
        return f"<FaultProxy {self._state} to {host}:{port}, {self.connections} connections>"

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a FaultProxy can be entered once; make a new one")
        keeper = self._keeper = bound_socket(0)
        self._port = keeper.getsockname()[1]
        try:
            self._listen()
        except OSError:
            keeper.close()
            raise
        self._state = "open"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._state = "closed"
        if self._keeper is not None:
            self._keeper.close()
        self._stop_listening()
        for connection in list(self._connections):
            connection.abandon()
        while self._connections:
            self._one_ended = asyncio.get_running_loop().create_future()
            await self._one_ended

    # asyncio.Server leaves a socket open if it is closed a turn after it has accepted one, so this does without.

    def _listen(self) -> None:
        self._listening = bound_socket(self._port)
        self._listening.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            self._connections.add(ProxiedConnection(sock, self._address, self._troubles, self._ended))

    def _ended(self, connection: ProxiedConnection) -> None:
        self._connections.discard(connection)
        waiter = self._one_ended
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _reset_all(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    # ------------------------------------------------------------ a trouble of one moment

    def drop(self) -> None:
        """Reset the current connections. Both sides get an RST, and bytes in transit are lost.

        Raises:
            RuntimeError: called outside the ``async with`` block of the proxy. The other methods raise this error, too.
        """
        self._check_listening()
        self._reset_all()

    # ------------------------------------------------------------ troubles that last for a block

    def cut(self) -> Trouble:
        """Reset the current connections, and refuse new connections."""
        self._check_listening()
        return self._refuse(self._reset_all)

    def refuse(self) -> Trouble:
        """Refuse new connections, as if nothing were listening on the port. The current connections continue."""
        self._check_listening()
        return self._refuse()

    def cut_after(self, count: int, direction: Direction) -> Trouble:
        """Reset each connection when exactly ``count`` more bytes have passed in ``direction``.

        With 0, the connection is reset immediately. The reset waits until the bytes have been sent, so a reader that
        has stopped reading delays the reset. (On systems other than Linux, the reset waits only until the proxy's own
        buffer is empty, and a slow reader may get fewer bytes.)

        Raises:
            ValueError, TypeError: ``direction`` is not ``"up"`` or ``"down"``, or ``count`` is negative or not an
                integer.
        """
        if index(count) < 0:
            raise ValueError(f"a number of bytes is not negative, got {count!r}")
        return self._lasting(self._one(direction), lambda on: on.cuts, lambda: Cut(count))

    def silence(self, direction: Direction | None = None) -> Trouble:
        """Read and discard all bytes, on current and new connections. The end of a connection is not passed on either.

        At the end of the block, connections on which anything was discarded are reset, because they cannot continue.

        Args:
            direction: the direction that is silent. None for both directions.

        Raises:
            ValueError: ``direction`` is not ``"up"`` or ``"down"``.
        """
        return self._lasting(self._one_or_both(direction), lambda on: on.silences, lambda: None)

    def stall(self, direction: Direction | None = None) -> Trouble:
        """Stop reading, so that the sender's buffers fill.

        Nothing is lost. At the end of the block, the proxy starts reading again.

        Args:
            direction: the direction that stalls. None for both directions.

        Raises:
            ValueError: ``direction`` is not ``"up"`` or ``"down"``.
        """
        return self._lasting(self._one_or_both(direction), lambda on: on.stalls, lambda: None)

    def slow(
        self,
        direction: Direction | None = None,
        *,
        rate: float | None = None,
        latency: float = 0.0,
        jitter: float = 0.0,
        buffer: int = 64 * 1024,
    ) -> Trouble:
        """Pass on bytes as a slow network does, in pieces that are as large as a packet.

        In each direction, all connections share one link. The bytes of each connection keep their order. Before the
        proxy connects to the server, it waits for one round trip, as the handshake of TCP does. Of nested blocks, the
        slowest counts. At the end of the block, the bytes in transit are passed on at once.

        Args:
            direction: the direction that is slow. None for both directions.
            rate: bytes per second. None for no limit.
            latency: seconds that each byte takes, in addition to the time that it waits for the rate.
            jitter: seconds that a piece takes longer, at most. Each piece takes a random part of them, from `random`.
            buffer: bytes that may wait for the rate. While there are more, the proxy does not read, so that the
                sender's buffers fill. ``5 * rate`` is a queue of 5 seconds. The buffers of the kernel add some 30 KiB
                for each connection.

        Raises:
            ValueError: ``direction`` is not ``"up"`` or ``"down"``, ``rate`` is not positive, or another number is
                negative.
        """
        directions = self._one_or_both(direction)
        if not ((rate is None or rate > 0) and min(latency, jitter, buffer) >= 0):
            raise ValueError(
                f"rate is positive, the others are not negative: {rate=}, {latency=}, {jitter=}, {buffer=}"
            )
        return self._lasting(directions, lambda on: on.slows, lambda: Slow(rate or math.inf, latency, jitter, buffer))

    def time_out(self, idle: float | None = None, life: float | None = None) -> Trouble:
        """Reset the connections that are idle or open for too long, as gateways do.

        Args:
            idle: seconds without a byte in either direction. None for no limit.
            life: seconds since the client connected. None for no limit.

        Raises:
            ValueError: a number is negative.
        """
        self._check_listening()
        limits = (math.inf if idle is None else idle, math.inf if life is None else life)
        if not min(limits) >= 0:
            raise ValueError(f"seconds are not negative, got {idle=}, {life=}")
        return self._lasting(DIRECTIONS, lambda on: on.time_outs, lambda: limits)

    # ------------------------------------------------------------ parts of these

    def _check_listening(self) -> None:
        if self._state != "open":
            raise RuntimeError("this proxy does not listen: use `async with FaultProxy(...) as proxy`")

    def _one(self, direction: Direction) -> tuple[Direction]:
        self._check_listening()
        if direction not in DIRECTIONS:
            raise ValueError(f'a direction is "up" (to the server) or "down" (to the client), got {direction!r}')
        return (direction,)

    def _one_or_both(self, direction: Direction | None) -> tuple[Direction, ...]:
        if direction is not None:
            return self._one(direction)
        self._check_listening()
        return DIRECTIONS

    @asynccontextmanager
    async def _lasting(
        self, directions: tuple[Direction, ...], troubles: Callable[[Troubles], list[T]], make: Callable[[], T]
    ) -> AsyncGenerator[None]:
        added = [(troubles(self._troubles[direction]), make()) for direction in directions]
        for entries, trouble in added:
            entries.append(trouble)
        self._troubles_changed(directions)
        try:
            yield
        finally:
            for entries, trouble in added:
                entries.remove(trouble)
            self._troubles_changed(directions)

    @asynccontextmanager
    async def _refuse(self, then: Callable[[], None] = lambda: None) -> AsyncGenerator[None]:
        self._refusing += 1
        self._stop_listening()
        try:
            then()
            yield
        finally:
            self._refusing -= 1
            if not self._refusing and self._state == "open":
                self._listen()

    def _troubles_changed(self, directions: tuple[Direction, ...]) -> None:
        for connection in list(self._connections):
            for direction in directions:
                connection.ends[direction].troubles_changed()

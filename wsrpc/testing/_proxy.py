"""A TCP proxy that causes network trouble on demand."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from operator import index
from typing import Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from .._transports.urls import check_url
from ._proxied import ProxiedConnection
from ._proxy_port import ProxyPort
from ._troubles import Cut, Direction, Troubles

__all__ = ["FaultProxy"]

T = TypeVar("T")

Trouble: TypeAlias = AbstractAsyncContextManager[None]
"""Lasts for its ``async with`` block."""

DIRECTIONS: tuple[Direction, ...] = ("up", "down")


class FaultProxy:
    """A TCP proxy on a free loopback port, in front of a server, that causes network trouble on demand.

    ``async with FaultProxy(listener.url) as proxy:`` listens; clients dial `url` instead of the server's. Each method
    that returns a trouble is for ``async with``: the trouble lasts for the block, also for connections that come
    meanwhile. Troubles can be nested. ``"up"`` is towards the server, ``"down"`` towards the client. Leaving the
    proxy's own block resets all connections.

    Bytes are passed on unchanged, so ``wss://`` works as well: certificates are valid, and nothing is decrypted. You
    can enter a proxy once. On Windows it needs asyncio's ``SelectorEventLoop``.

    Args:
        target: the server's URL, ``ws://`` or ``wss://``.
        seed: of the jitter of `delay`; the same seed draws the same numbers.

    Raises:
        ValueError: the target is not such a URL.
    """

    def __init__(self, target: str, *, seed: int | None = None) -> None:
        check_url(target, tls=False)
        parts = urlsplit(target)
        if not parts.hostname:
            raise ValueError(f"the URL has no host: {target!r}")
        self._target = parts
        self._framed = parts.scheme == "ws"
        self._address = parts.hostname, parts.port or (80 if self._framed else 443)
        jitter = random.Random(seed)
        self._troubles: dict[Direction, Troubles] = {direction: Troubles(jitter) for direction in DIRECTIONS}
        self._port = ProxyPort(
            lambda sock, ended: ProxiedConnection(sock, self._address, self._troubles, ended, framed=self._framed)
        )

    # ------------------------------------------------------------ properties

    @property
    def port(self) -> int:
        """The TCP port that clients dial."""
        if not self._port.number:
            raise RuntimeError("this proxy does not listen yet: use `async with FaultProxy(...) as proxy`")
        return self._port.number

    @property
    def url(self) -> str:
        """The target's URL with the proxy's host and port; ``localhost`` stays, because certificates name it."""
        user, at, _ = self._target.netloc.rpartition("@")
        host = "localhost" if self._target.hostname == "localhost" else "127.0.0.1"
        return self._target._replace(netloc=f"{user}{at}{host}:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """Number of present connections, including those that `silence` has left half open."""
        return sum(not connection.broken for connection in self._port.connections)

    @property
    def bytes_up(self) -> int:
        """Bytes that were passed to the server since the beginning."""
        return self._troubles["up"].passed

    @property
    def bytes_down(self) -> int:
        """Bytes that were passed to clients since the beginning."""
        return self._troubles["down"].passed

    def __repr__(self) -> str:
        host, port = self._address
        return f"<FaultProxy {self._port.state} to {host}:{port}, {self.connections} connections>"

    async def __aenter__(self) -> Self:
        self._port.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._port.close()

    # ------------------------------------------------------------ a trouble of one moment

    def drop(self) -> None:
        """Reset the present connections: both sides get a RST, and what was on its way is lost.

        Raises:
            RuntimeError: outside of the proxy's block; so do all methods below.
        """
        self._check_listening()
        self._port.reset_all()

    # ------------------------------------------------------------ troubles that last for a block

    def cut(self) -> Trouble:
        """Reset the present connections and refuse new ones."""
        self._check_listening()
        return self._port.cut()

    def refuse(self) -> Trouble:
        """Refuse new connections, as if nothing listened at the port; the present ones go on."""
        self._check_listening()
        return self._port.refuse()

    def cut_after(self, count: int, direction: Direction) -> Trouble:
        """Reset each connection when exactly ``count`` more bytes have passed in that direction.

        The reset waits until they were sent, so a reader that has stopped delays it. (Outside Linux it waits for the
        proxy's own buffer only, and a slow reader may get fewer bytes.) With 0 it comes at once.

        Raises:
            ValueError, TypeError: not a direction, or ``count`` is not a number of bytes.
        """
        if index(count) < 0:
            raise ValueError(f"a number of bytes is not negative, got {count!r}")
        return self._lasting(self._one(direction), lambda on: on.cuts, Cut(count))

    def mid_frame(self, direction: Direction) -> Trouble:
        """Reset each connection in the middle of the next WebSocket frame that has a payload, of whatever kind.

        What comes before that frame passes, including the opening handshake of a new connection.

        Raises:
            ValueError: not a direction, or the target is ``wss://``, where frames are not visible.
        """
        if not self._framed:
            raise ValueError("mid_frame() needs a ws:// target: inside TLS it is not visible where frames begin")
        return self._lasting(self._one(direction), lambda on: on.mid_frames, None)

    def silence(self, direction: Direction | None = None) -> Trouble:
        """Read what is sent, and lose it, including the end of a connection. New connections are silent, too.

        When the block ends, connections that have lost something are reset, because they could not go on. Without a
        direction both are silent.

        Raises:
            ValueError: not a direction.
        """
        return self._lasting(self._one_or_both(direction), lambda on: on.silences, None)

    def stall(self, direction: Direction | None = None) -> Trouble:
        """Read nothing, so that the sender's buffers fill. Nothing is lost; the flow resumes when the block ends.

        Without a direction both are stalled.

        Raises:
            ValueError: not a direction.
        """
        return self._lasting(self._one_or_both(direction), lambda on: on.stalls, None)

    def delay(self, seconds: float, jitter: float = 0.0) -> Trouble:
        """Delay each piece by ``seconds`` and up to ``jitter`` seconds more, in order, in both directions.

        At most 256 KiB are on their way in one direction of a connection. They arrive when the block ends.

        Raises:
            ValueError: a negative number of seconds.
        """
        for number in (seconds, jitter):
            if not 0 <= number < inf:
                raise ValueError(f"a number of seconds is not negative, got {number!r}")
        return self._lasting(self._one_or_both(None), lambda on: on.delays, (seconds, jitter))

    def slow(self, bytes_per_second: float) -> Trouble:
        """Bound the rate of each connection in each direction. Of nested blocks the slowest applies.

        Raises:
            ValueError: not more than 0; for that see `stall`.
        """
        if not 0 < bytes_per_second < inf:
            raise ValueError(f"a rate is more than 0 bytes per second, got {bytes_per_second!r}")
        return self._lasting(self._one_or_both(None), lambda on: on.rates, bytes_per_second)

    def half_close(self, direction: Direction) -> Trouble:
        """End one direction of the present connections, with a FIN after what was sent; the other one goes on.

        What is sent in that direction afterwards is lost. When the block ends, these connections are reset. New
        connections are not affected.

        Raises:
            ValueError: not a direction.
        """
        self._one(direction)
        return self._half_close(direction)

    # ------------------------------------------------------------ parts of these

    def _check_listening(self) -> None:
        if self._port.state != "open":
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
        self, directions: tuple[Direction, ...], troubles: Callable[[Troubles], list[T]], trouble: T
    ) -> AsyncGenerator[None]:
        for direction in directions:
            troubles(self._troubles[direction]).append(trouble)
        self._troubles_changed(directions)
        try:
            yield
        finally:
            for direction in directions:
                troubles(self._troubles[direction]).remove(trouble)
            self._troubles_changed(directions)

    def _troubles_changed(self, directions: tuple[Direction, ...]) -> None:
        for connection in list(self._port.connections):
            for direction in directions:
                connection.ends[direction].troubles_changed()

    @asynccontextmanager
    async def _half_close(self, direction: Direction) -> AsyncGenerator[None]:
        connections = list(self._port.connections)
        for connection in connections:
            connection.ends[direction].finish()
        try:
            yield
        finally:
            for connection in connections:
                connection.reset()

"""A TCP proxy that makes trouble when told to."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf
from operator import index
from types import TracebackType
from typing import Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from .._transports.urls import check_url
from ._gate import Gate
from ._line import Line
from ._way import Cut, Direction, Way

__all__ = ["FaultProxy"]

T = TypeVar("T")

Trouble: TypeAlias = AbstractAsyncContextManager[None]
"""Lasts for its ``async with`` block."""

DIRECTIONS: tuple[Direction, ...] = ("up", "down")


class FaultProxy:
    """A TCP proxy on a free loopback port, in front of a server, that makes trouble when told to.

    ``async with FaultProxy(listener.url) as proxy:`` listens; `url` is where clients dial instead. Each method that
    gives a trouble is for ``async with``: the trouble lasts for the block, for connections that come meanwhile, too,
    and troubles can be nested. ``"up"`` is towards the server, ``"down"`` towards the client. Leaving the proxy's own
    block resets what is left.

    Bytes are passed on as they are, so ``wss://`` works as well: certificates hold, and nothing is decrypted. A proxy
    can be entered once. On Windows it needs asyncio's ``SelectorEventLoop``.

    Args:
        target: the server's URL, ``ws://`` or ``wss://``.
        seed: for the jitter of `delay`; the same seed draws the same numbers.

    Raises:
        ValueError: the target is no such URL.
    """

    def __init__(self, target: str, *, seed: int | None = None) -> None:
        check_url(target, tls=False)
        parts = urlsplit(target)
        if not parts.hostname:
            raise ValueError(f"the URL names no host: {target!r}")
        self._target = parts
        self._framed = parts.scheme == "ws"
        self._address = parts.hostname, parts.port or (80 if self._framed else 443)
        jitter = random.Random(seed)
        self._ways: dict[Direction, Way] = {direction: Way(jitter) for direction in DIRECTIONS}
        self._gate = Gate(lambda sock, ended: Line(sock, self._address, self._ways, ended, framed=self._framed))

    # ------------------------------------------------------------ what it is

    @property
    def port(self) -> int:
        """The TCP port that clients dial."""
        if not self._gate.port:
            raise RuntimeError("this proxy does not listen yet: use `async with FaultProxy(...) as proxy`")
        return self._gate.port

    @property
    def url(self) -> str:
        """The target's URL with the proxy's host and port; ``localhost`` stays, because certificates name it."""
        user, at, _ = self._target.netloc.rpartition("@")
        host = "localhost" if self._target.hostname == "localhost" else "127.0.0.1"
        return self._target._replace(netloc=f"{user}{at}{host}:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """How many connections go through it at present; one that silence has left half open counts."""
        return sum(not line.broken for line in self._gate.lines)

    @property
    def bytes_up(self) -> int:
        """How many bytes were handed on to the server since the beginning."""
        return self._ways["up"].passed

    @property
    def bytes_down(self) -> int:
        """How many bytes were handed on to clients since the beginning."""
        return self._ways["down"].passed

    def __repr__(self) -> str:
        host, port = self._address
        return f"<FaultProxy {self._gate.state} to {host}:{port}, {self.connections} connections>"

    async def __aenter__(self) -> Self:
        self._gate.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._gate.close()

    # ------------------------------------------------------------ once

    def drop(self) -> None:
        """Reset the connections that there are: both sides get a RST, what was on its way is gone.

        Raises:
            RuntimeError: outside of the proxy's block, as all that follow.
        """
        self._check_listening()
        self._gate.reset_all()

    # ------------------------------------------------------------ for a block

    def cut(self) -> Trouble:
        """The line is down: the present connections are reset, and new ones refused."""
        self._check_listening()
        return self._cut()

    def refuse(self) -> Trouble:
        """New connections are refused, as if nothing listened at the port; the present ones go on."""
        self._check_listening()
        return self._refuse()

    def cut_after(self, count: int, direction: Direction) -> Trouble:
        """Each connection is reset when exactly ``count`` more bytes have passed in that direction.

        The reset waits until they have left, so a reader that stands still puts it off. (Outside Linux it waits for
        the proxy's own buffer only, and a slow reader may get fewer.) With 0 it comes at once.

        Raises:
            ValueError, TypeError: the direction is none, or ``count`` no number of bytes.
        """
        if index(count) < 0:
            raise ValueError(f"a number of bytes is not negative, got {count!r}")
        return self._lasting(self._one(direction), lambda way: way.cuts, Cut(count))

    def mid_frame(self, direction: Direction) -> Trouble:
        """Each connection is reset in the middle of the next WebSocket frame that has a payload, of whatever kind.

        What comes before it passes, the opening handshake of a new connection, too.

        Raises:
            ValueError: the direction is none, or the target is ``wss://``, where nobody can tell frames.
        """
        if not self._framed:
            raise ValueError("mid_frame() needs a ws:// target: inside TLS nobody can tell where frames begin")
        return self._lasting(self._one(direction), lambda way: way.mid_frames, None)

    def silence(self, direction: Direction | None = None) -> Trouble:
        """What is sent is read, and lost; also that a side has ended its connection. New connections are silent, too.

        When the block ends, connections that have lost something are reset: they could not go on. Without a
        direction it is silent in both.

        Raises:
            ValueError: the direction is none.
        """
        return self._lasting(self._one_or_both(direction), lambda way: way.silences, None)

    def stall(self, direction: Direction | None = None) -> Trouble:
        """Nothing is read, so the sender's buffers fill. Nothing is lost either: it goes on when the block ends.

        Without a direction both are stalled.

        Raises:
            ValueError: the direction is none.
        """
        return self._lasting(self._one_or_both(direction), lambda way: way.stalls, None)

    def delay(self, seconds: float, jitter: float = 0.0) -> Trouble:
        """Each piece arrives later, by ``seconds`` and up to ``jitter`` more, in order, both ways.

        At most 256 KiB are on their way in one direction of a connection. When the block ends, they arrive.

        Raises:
            ValueError: a negative number of seconds.
        """
        for number in (seconds, jitter):
            if not 0 <= number < inf:
                raise ValueError(f"a number of seconds is not negative, got {number!r}")
        return self._lasting(self._one_or_both(None), lambda way: way.delays, (seconds, jitter))

    def slow(self, bytes_per_second: float) -> Trouble:
        """Each connection carries that much in each direction; of nested blocks the slowest counts.

        Raises:
            ValueError: not more than 0; see `stall`.
        """
        if not 0 < bytes_per_second < inf:
            raise ValueError(f"a rate is more than 0 bytes per second, got {bytes_per_second!r}")
        return self._lasting(self._one_or_both(None), lambda way: way.rates, bytes_per_second)

    def half_close(self, direction: Direction) -> Trouble:
        """The present connections end in one direction, with a FIN after what was sent; the other goes on.

        What is sent in that direction afterwards is lost. When the block ends, these connections are reset.
        New ones are whole.

        Raises:
            ValueError: the direction is none.
        """
        self._one(direction)
        return self._half_close(direction)

    # ------------------------------------------------------------ how

    def _check_listening(self) -> None:
        if self._gate.state != "open":
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
        self, directions: tuple[Direction, ...], troubles: Callable[[Way], list[T]], trouble: T
    ) -> AsyncGenerator[None]:
        for direction in directions:
            troubles(self._ways[direction]).append(trouble)
        self._troubles_changed(directions)
        try:
            yield
        finally:
            for direction in directions:
                troubles(self._ways[direction]).remove(trouble)
            self._troubles_changed(directions)

    def _troubles_changed(self, directions: tuple[Direction, ...]) -> None:
        for line in list(self._gate.lines):
            for direction in directions:
                line.ends[direction].troubles_changed()

    @asynccontextmanager
    async def _cut(self) -> AsyncGenerator[None]:
        with self._gate.refuse():
            self._gate.reset_all()
            yield

    @asynccontextmanager
    async def _refuse(self) -> AsyncGenerator[None]:
        with self._gate.refuse():
            yield

    @asynccontextmanager
    async def _half_close(self, direction: Direction) -> AsyncGenerator[None]:
        lines = list(self._gate.lines)
        for line in lines:
            line.ends[direction].finish()
        try:
            yield
        finally:
            for line in lines:
                line.reset()

"""Connections in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import parse_qsl, urlsplit

from .._base.closing import CloseCode, CloseInfo, check_close
from ..errors import ConnectionLost
from ..limits import Limits
from ..transport import ConnectionInfo, Receiver

__all__ = ["MemoryTransport", "memory_transports"]


class MemoryTransport:
    """One end of a connection in memory; `memory_transports` makes both.

    What one turn of the event loop sends arrives together, as one read, in a later turn. ``sent`` counts
    messages. `hold` and `release` make the other side stop reading and go on.
    """

    def __init__(self, info: ConnectionInfo, limits: Limits) -> None:
        self.info = info
        self.sent = 0
        self._high_water = limits.high_water
        self.largest = limits.message
        self._other: MemoryTransport
        self._receiver: Receiver | None = None
        self._loop = asyncio.get_running_loop()
        self._out: deque[tuple[bytes, bool, bool | None]] = deque()
        """What is on its way: text or not; whether a piece is the last, None for a whole message."""
        self._unsent = 0
        self._paused = False
        self._held = False
        self._scheduled = False
        self._drained: list[asyncio.Future[None]] = []
        self._parts: list[bytes] = []
        """Of a message that arrives in pieces, for a receiver that takes none."""
        self._receiving = True
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
        self._check_open()
        self.sent += 1
        self._send(payload, text, None)

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        self._check_open()
        self.sent += last
        self._send(payload, text, last)

    def _send(self, payload: bytes, text: bool, last: bool | None) -> None:
        self._out.append((payload, text, last))
        self._unsent += len(payload)
        if self._unsent > self._high_water and not self._paused:
            self._paused = True
            if self._receiver is not None:
                self._receiver.pause_sending()
        self._schedule()

    def _check_open(self) -> None:
        if self._closing or self._ended is not None:
            ended = self._ended or CloseInfo(CloseCode.ABNORMAL, "closing")
            raise ConnectionLost(ended.code, ended.reason, "not_sent")

    def flush(self) -> None:
        """Nothing: what was sent arrives in the next turn."""

    async def drain(self) -> None:
        if self._paused and self._ended is None:
            waiter = self._loop.create_future()
            self._drained.append(waiter)
            await waiter

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        self.close_soon(check_close(code, reason), reason)
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

    def pause_receiving(self) -> None:
        self._receiving = False

    def resume_receiving(self) -> None:
        self._receiving = True
        self._other._schedule()

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
        if self._held or receiver is None or not (self._out and self._other._receiving):
            return
        batch, self._out = self._out, deque()
        self._unsent = 0
        while batch:
            if not self._other._arrived(*batch.popleft()):
                break
            if batch and not self._other._receiving:
                self._out.extendleft(reversed(batch))
                self._unsent += sum(len(payload) for payload, _, _ in batch)
                break
        receiver.read_ended()
        if self._paused and self._unsent <= self._high_water // 4:
            self._paused = False
            for waiter in self._drained:
                if not waiter.done():
                    waiter.set_result(None)
            self._drained.clear()
            if self._receiver is not None and self._ended is None:
                self._receiver.resume_sending()

    def _arrived(self, payload: bytes, text: bool, last: bool | None) -> bool:
        """Hand on a message or a piece of one; False if it is too large, and that was the last."""
        receiver = self._receiver
        assert receiver is not None
        receive_piece = None if last is None else getattr(receiver, "receive_piece", None)
        if last is not None and receive_piece is None:
            self._parts.append(payload)
            payload = b"".join(self._parts)
            self._parts = [] if last else [payload]
        if len(payload) > self.largest:
            self.close_soon(CloseCode.MESSAGE_TOO_BIG, f"more than {self.largest} bytes")
            return False
        if receive_piece is not None:
            receive_piece(payload, text, last)
        elif last is not False:
            receiver.receive(payload, text)
        return True

    def _finish(self, info: CloseInfo) -> None:
        if self._ended is not None:
            return
        if info.was_clean:
            self._held, self._other._receiving = False, True
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

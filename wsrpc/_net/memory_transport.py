"""Connections in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Literal

from .._base.closing import CloseCode, CloseInfo, check_close
from ..errors import ConnectionLost
from ..headers import any_case
from ..limits import Limits
from ..transport import ConnectionInfo, Receiver


class MemoryTransport:
    """One end of an in-memory connection. `memory_transports` creates both ends.

    Messages that are sent in one turn (iteration) of the event loop arrive together, as one read, in a later turn.
    ``sent`` is the number of messages that were sent. `hold` simulates a remote peer that stops reading, and `release`
    a remote peer that starts reading again.
    """

    _other: MemoryTransport

    def __init__(self, info: ConnectionInfo, limits: Limits, other: MemoryTransport | None = None) -> None:
        self.info = info
        self.sent = 0
        self.largest = limits.message_bytes
        self._high_water = limits.high_water_bytes
        self._receiver: Receiver | None = None
        self._out: deque[tuple[bytes, bool, bool | None]] = deque()
        """Messages on their way: payload; whether it is text; whether a piece is the last, None for a whole message."""
        self._unsent = 0
        self._room = asyncio.Event()
        self._room.set()
        self._held = False
        self._scheduled = False
        self._parts: list[bytes] = []
        """Pieces of an arriving message, for a receiver that takes whole messages only."""
        self._receiving = True
        self._gets_rest = False
        """Whether the other end has closed the connection, so that all that is left arrives, even in a pause."""
        self._state: Literal["open", "closing", "aborted"] = "open"
        self._over: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
        if other is not None:
            self._other, other._other = other, self

    @property
    def unsent(self) -> int:
        return self._unsent

    def start(self, receiver: Receiver, /) -> None:
        self._receiver = receiver
        if not self._room.is_set():
            receiver.pause_sending()
        self._other._deliver()
        if self._over.done():
            self._over.get_loop().call_soon(receiver.connection_lost, self._over.result())

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
        if self._unsent > self._high_water and self._room.is_set():
            self._room.clear()
            if self._receiver is not None:
                self._receiver.pause_sending()
        self._schedule()

    def _check_open(self) -> None:
        if self._over.done():
            info = self._over.result()
            raise ConnectionLost(info.code, info.reason, "not_sent")
        if self._state != "open":
            raise ConnectionLost(CloseCode.ABNORMAL, "closing", "not_sent")

    def flush(self) -> None:
        """Do nothing, because messages always arrive in the next turn of the event loop."""

    async def drain(self) -> None:
        await self._room.wait()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        self.close_soon(check_close(code, reason), reason)
        await asyncio.shield(self._over)

    def close_soon(self, code: int, reason: str) -> None:
        """Start closing the connection, and return without waiting for its end."""
        if self._state == "open" and not self._over.done():
            self._state = "closing"
            self._over.get_loop().call_soon(self._finish, CloseInfo(code, reason, was_clean=True))

    def abort(self) -> None:
        if not self._over.done():
            self._drop_unsent()
            self._over.get_loop().call_soon(self._finish, CloseInfo(CloseCode.ABNORMAL, "aborted"))

    def vanish(self) -> None:
        """Drop this end of the connection without a Close frame. The other end does not notice."""
        if not self._over.done():
            self._drop_unsent()
            self._over.get_loop().call_soon(self._end, CloseInfo(CloseCode.ABNORMAL, "vanished"))

    def _drop_unsent(self) -> None:
        """Drop what is on its way, and accept nothing more: what is sent after a gap must not arrive."""
        self._state = "aborted"
        self._out.clear()

    def pause_receiving(self) -> None:
        self._receiving = self._gets_rest

    def resume_receiving(self) -> None:
        self._receiving = True
        self._other._schedule()

    @property
    def _dropped(self) -> bool:
        """Whether the connection ends or has ended here without a Close frame, so that nothing more arrives."""
        return self._state == "aborted" or (self._over.done() and not self._over.result().was_clean)

    def hold(self) -> None:
        """Hold back everything that this end sends until `release`, as if the remote peer had stopped reading."""
        self._held = True

    def release(self) -> None:
        """Deliver the messages that were held back, and let further messages arrive."""
        self._held = False
        self._schedule()

    def __repr__(self) -> str:
        state = "closed" if self._over.done() else "open" if self._state == "open" else "closing"
        return f"<MemoryTransport {state} unsent={self._unsent}>"

    def _schedule(self) -> None:
        if self._out and not self._scheduled:
            self._scheduled = True
            self._over.get_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        receiver = self._other._receiver
        if self._held or receiver is None or not (self._out and self._other._receiving) or self._other._dropped:
            return
        batch, self._out = self._out, deque()
        self._unsent = 0
        while batch:
            if not self._other._arrived(*batch.popleft()) or self._other._state == "aborted":
                break
            if batch and not self._other._receiving:
                self._out.extendleft(reversed(batch))
                self._unsent += sum(len(payload) for payload, _, _ in batch)
                break
        receiver.read_ended()
        if not self._room.is_set() and self._unsent <= self._high_water // 4:
            self._room.set()
            if self._receiver is not None and not self._over.done():
                self._receiver.resume_sending()

    def _arrived(self, payload: bytes, text: bool, last: bool | None) -> bool:
        """Deliver a message or a piece of one. Returns False if it is too large, and nothing more may arrive."""
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
        if self._over.done():
            return
        if info.was_clean:
            self._held = False
            self._other._receiving = self._other._gets_rest = True
            self._deliver()
        for end in (self, self._other):
            end._end(info)

    def _end(self, info: CloseInfo) -> None:
        if self._over.done():
            return
        self._over.set_result(info)
        if not info.was_clean:
            self._out.clear()
            self._unsent = 0
        self._room.set()
        if self._receiver is not None:
            self._receiver.connection_lost(info)


def memory_transports(
    *,
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    other: Limits | None = None,
) -> tuple[MemoryTransport, MemoryTransport]:
    """Create both ends of an in-memory connection, and return ``(dialing, accepting)``.

    Args:
        path: the path of the request. It can include a query.
        headers: the headers of the request.
        limits: the limits of both ends, or only of the dialing end if ``other`` is given.
        other: the limits of the accepting end.
    """
    given = any_case(headers)
    info = ConnectionInfo(target=path, headers=given, origin=given.get("origin"))
    limits = limits or Limits()
    return transports_for(info, limits, other or limits)


def transports_for(info: ConnectionInfo, limits: Limits, other: Limits) -> tuple[MemoryTransport, MemoryTransport]:
    """Make both ends of a connection with that information, the dialing one first."""
    left = MemoryTransport(info, limits)
    return left, MemoryTransport(info, other, left)

"""`AsgiOutput`: the outgoing half of a WebSocket of an ASGI server. `ConnectionEnd`: how the connection ends."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wsrpc import CloseCode, CloseInfo, Limits
from wsrpc.adapting import Backpressure, Delivery

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

MESSAGE_OVERHEAD = 2
"""Bytes that a message counts for besides its payload, so that empty messages count, too."""
MESSAGES_PER_TURN = 256
"""Number of messages that are written before other tasks run."""


class ConnectionEnd:
    """State of a connection, from open to closed, and how the connection ended."""

    __slots__ = ("_over", "_timer", "broken", "close_sent", "closing", "dropped", "failure", "info")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended."""
        self.info: CloseInfo | None = None
        """How the connection ended. None if it has not ended."""
        self.closing: tuple[int, str] | None = None
        """Code and reason with which this side closes."""
        self.close_sent = False
        self.broken: Exception | None = None
        """The exception of ``send()``."""
        self.dropped = False
        """Whether the connection ends without waiting for the client."""
        self.failure: Exception | None = None
        """The exception that `AsgiTransport.run` will raise."""

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self.closing is None and self.broken is None and not self.dropped and self.info is None

    @property
    def state(self) -> str:
        if self.info is not None:
            return "closed"
        return "open" if self.is_open else "broken" if self.broken is not None else "closing"

    @property
    def code(self) -> tuple[int, str]:
        """Code and reason with which the connection ends, as far as is known."""
        if self.info is not None:
            return self.info.code, self.info.reason
        return self.closing or (CloseCode.ABNORMAL, str(self.broken or ""))

    @property
    def close_due(self) -> bool:
        """Whether a Close frame must be sent after the messages."""
        return self.closing is not None and not self.close_sent

    def start_closing(self, code: int, reason: str) -> bool:
        """Record that this side closes. Return False if it closes already, or if the connection is over."""
        if self.closing is not None or self.info is not None:
            return False
        self.closing = (int(code), reason)
        return True

    def drop(self) -> bool:
        """Record that the connection is dropped. Return False if it was dropped before, or is over."""
        if self.dropped or self.info is not None:
            return False
        self.dropped = True
        return True

    def expect(self, seconds: float, overdue: Callable[[], None]) -> None:
        """Call ``overdue`` if the connection is not over in time. Later calls have no effect."""
        if self._timer is None and self.info is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, overdue)

    def finish(self, info: CloseInfo) -> None:
        """Record that the connection is over."""
        self.info = info
        self.broken = None  # its traceback refers to this object
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._over.set_result(None)

    async def wait(self) -> None:
        """Wait until the connection is over."""
        await asyncio.shield(self._over)

    def fail(self, exc: Exception) -> None:
        """Let `AsgiTransport.run` raise ``exc``, unless the connection is over."""
        if self.info is None:
            self.failure = exc

    def reported(self, event: Event) -> CloseInfo:
        """Return how the connection ended. Use the report of the ASGI server as far as it can be trusted."""
        code, reason = int(event.get("code") or CloseCode.NO_STATUS), event.get("reason")
        if self.closing is not None and self.close_sent:
            return CloseInfo(*self.closing, was_clean=code != CloseCode.ABNORMAL)
        if reason is None and "reason" not in event:
            # After a Close frame, uvicorn always reports a reason, which may be None or empty. Without a reason, it
            # reports 1005 for a drop, and 1012 when uvicorn shuts down and does not wait for an answer.
            if code == CloseCode.NO_STATUS:
                code = CloseCode.ABNORMAL
            return CloseInfo(code, "", was_clean=code not in (CloseCode.ABNORMAL, CloseCode.SERVICE_RESTART))
        return CloseInfo(code, reason or "", was_clean=code != CloseCode.ABNORMAL)


class AsgiOutput(ABC):
    """Outgoing half of a connection: the messages that wait for ``send()``, and the task that calls it."""

    __slots__ = (
        "_backpressure",
        "_delivery",
        "_end",
        "_limits",
        "_messages",
        "_pieces",
        "_send_event",
        "_sent",
        "_writer",
        "_writing",
        "unsent",
        "written",
    )

    def __init__(self, send: Send, limits: Limits) -> None:
        self._send_event = send
        self._limits = limits
        self._delivery = Delivery(_keep_reading)
        self._backpressure = Backpressure(self._delivery, limits)
        self._end = ConnectionEnd()
        self._messages: list[tuple[bytes, bool]] = []
        self._pieces: list[bytes] | None = None
        """Pieces of a message that is sent in pieces, until the last piece."""
        self._writing = False
        self._writer: asyncio.Task[None] | None = None
        """The task that writes. None if there is no such task."""
        self._sent = 0
        """Number of added messages."""
        self.written = 0
        """Number of added bytes."""
        self.unsent = 0
        """Bytes of the messages for which ``send()`` has not returned."""

    def backlog(self) -> int:
        return self.unsent

    @abstractmethod
    def drop(self, code: int, reason: str) -> None:
        """End the connection now, as far as ASGI allows."""

    @abstractmethod
    def _send_failed(self, exc: Exception) -> None:
        """Called when ``send()`` raised an exception. Most likely ``receive()`` will report the connection's end."""

    def _add(self, payload: bytes, text: bool, *, in_read: bool) -> None:
        """Add a message. If it is sent ``in_read``, the next `flush` or `_write` writes it, otherwise a task does."""
        size = len(payload) + MESSAGE_OVERHEAD
        self._sent += 1
        self._messages.append((payload, text))
        self.written += size
        self.unsent += size
        if not in_read:
            self.flush()
        if self.unsent > self._limits.high_water_bytes and not self._backpressure.full:
            self._backpressure.filled(self)

    def flush(self) -> None:
        """Write the added messages, and then the Close frame if it is due, in a task."""
        if (self._messages or self._end.close_due) and self._may_write:
            self._writing = True
            self._writer = asyncio.get_running_loop().create_task(self._write())

    @property
    def _may_write(self) -> bool:
        return not self._writing and self._end.broken is None and self._end.info is None

    async def drain(self) -> None:
        await self._backpressure.drain()

    def _stop_writing(self) -> None:
        """Drop the messages that were not written, because the connection is over."""
        self._messages = []
        self.unsent = 0
        self._backpressure.end()

    async def _write(self) -> None:
        """Write the waiting messages, and then the Close frame if it is due."""
        send, end, count = self._send_event, self._end, 0
        self._writing = True
        self._writer = asyncio.current_task()
        try:
            while self._messages:
                messages, self._messages = self._messages, []
                for payload, text in messages:
                    if text:
                        await send({"type": "websocket.send", "text": payload.decode()})
                    else:
                        await send({"type": "websocket.send", "bytes": payload})
                    if end.info is not None:  # the connection ended meanwhile
                        return
                    self._count_written(len(payload) + MESSAGE_OVERHEAD)
                    count += 1
                    if count % MESSAGES_PER_TURN == 0:
                        await asyncio.sleep(0)
            if end.closing is not None and not end.close_sent:
                code, reason = end.closing
                end.close_sent = True
                await send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception as exc:
            self._send_failed(exc)
        finally:
            self._writing = False
            self._writer = None
        self.flush()  # the transport may have begun to close while the last message was written

    def _count_written(self, size: int) -> None:
        """Count a message of that size as written."""
        self.unsent -= size
        if self._backpressure.full and self.unsent <= self._limits.high_water_bytes // 4:
            self._backpressure.has_room()


def _keep_reading() -> None:
    """Continue to read although a message must be kept. (`AsgiTransport` counts the bytes of kept messages.)"""

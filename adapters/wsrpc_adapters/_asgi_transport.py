"""`AsgiTransport`: a transport on a WebSocket of an ASGI server.

ASGI shows neither reads nor writes, so both are inferred. A *read* is the messages that ``receive()`` returns without
waiting. The read ends when ``receive()`` has to wait. A message counts as *unsent* until ``send()`` has returned for
it. A ``send()`` that waits is the only sign that there is no room. Messages must be received meanwhile, so ``send()``
runs in a task that lives while there is something to write.

The task of the application reads. If a read had exactly one message, the next read most likely has one message, too.
The answers to this message are then written by the task that reads, because a task for them would cost as much as the
message. If ``send()`` has to wait (uvicorn's waits only when there is no room), the task continues to write, and
another task reads. So each call of ``receive()`` and ``send()`` starts and ends in the same task. Middlewares with
timeouts of their own need this.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wsrpc import CloseCode, CloseInfo, ConnectionLost, Limits
from wsrpc._net.loop_budget import loop_budget_of
from wsrpc.adapting import Delivery, StallWatch, check_close
from wsrpc.transport import ConnectionInfo, Receiver, Traffic

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

FRAME = 2
"""Bytes that a message counts for besides its payload, so that empty messages count, too."""
BURST = 256
"""Number of messages that are written before other tasks run."""
AT_ONCE = 64
"""Number of messages that are read together before they spend the `LoopBudget`."""


class _ConnectionEnd:
    """State of a connection, from open to closed, and how the connection ended."""

    __slots__ = ("_over", "_timer", "broken", "close_sent", "closing", "dropped", "failure", "info")

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] | None = None
        """Done when the connection has ended. None while nobody waits."""
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
        if self._over is not None:
            self._over.set_result(None)

    async def wait(self) -> None:
        """Wait until the connection is over."""
        if self.info is None:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
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


class _AsgiOutput(ABC):
    """Outgoing half of a connection: the messages that wait for ``send()``, and the task that calls it."""

    __slots__ = (
        "_end",
        "_full",
        "_limits",
        "_messages",
        "_pieces",
        "_room",
        "_send_event",
        "_sent",
        "_unsent",
        "_writer",
        "_writing",
        "_written",
    )

    def __init__(self, send: Send, limits: Limits) -> None:
        self._send_event = send
        self._limits = limits
        self._end = _ConnectionEnd()
        self._messages: list[tuple[bytes, bool]] = []
        self._pieces: list[bytes] | None = None
        """Pieces of a message that is sent in pieces, until the last piece."""
        self._writing = False
        self._writer: asyncio.Task[None] | None = None
        """The task that writes. None if there is no such task."""
        self._sent = 0
        """Number of added messages."""
        self._written = 0
        """Number of added bytes."""
        self._unsent = 0
        """Bytes of the messages for which ``send()`` has not returned."""
        self._full = False
        """Whether more bytes than the high-water mark are unsent."""
        self._room: asyncio.Future[None] | None = None
        """Done when there is room again. None while nobody waits."""

    @abstractmethod
    def _filled(self) -> None:
        """Called when there is no more room."""

    @abstractmethod
    def _has_room(self) -> None:
        """Called when there is room again."""

    @abstractmethod
    def _send_failed(self, exc: Exception) -> None:
        """Called when ``send()`` raised an exception. Most likely ``receive()`` will report the connection's end."""

    def _add(self, payload: bytes, text: bool, *, in_read: bool) -> None:
        """Add a message. If it is sent ``in_read``, the next `flush` or `_write` writes it, otherwise a task does."""
        size = len(payload) + FRAME
        self._sent += 1
        self._messages.append((payload, text))
        self._written += size
        self._unsent += size
        if not in_read:
            self.flush()
        if self._unsent > self._limits.high_water_bytes and not self._full:
            self._full = True
            self._filled()

    def flush(self) -> None:
        """Write the added messages, and then the Close frame if it is due, in a task."""
        if (self._messages or self._end.close_due) and self._may_write:
            self._writing = True
            self._writer = asyncio.get_running_loop().create_task(self._write())

    @property
    def _may_write(self) -> bool:
        return not self._writing and self._end.broken is None and self._end.info is None

    async def drain(self) -> None:
        if self._full and self._end.info is None:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    def _wake_drained(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)

    def _stop_writing(self) -> None:
        """Drop the messages that were not written, because the connection is over."""
        self._messages = []
        self._unsent = 0
        self._wake_drained()

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
                    self._count_written(len(payload) + FRAME)
                    count += 1
                    if count % BURST == 0:
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
        self._unsent -= size
        if self._full and self._unsent <= self._limits.high_water_bytes // 4:
            self._full = False
            self._wake_drained()
            self._has_room()


class AsgiTransport(_AsgiOutput):
    """Transport of one accepted WebSocket. `run` receives its messages."""

    __slots__ = (
        "_application",
        "_delivery",
        "_early_size",
        "_in_read",
        "_loop",
        "_next_event",
        "_opening",
        "_paused",
        "_reader",
        "_received",
        "_receiving",
        "_single",
        "_stall_watch",
        "_watching",
        "info",
        "largest",
    )

    def __init__(self, receive: Receive, send: Send, info: ConnectionInfo, limits: Limits) -> None:
        super().__init__(send, limits)
        self.info = info
        self.largest = limits.message_bytes
        self._next_event = receive
        self._loop = asyncio.get_running_loop()
        self._delivery = Delivery(_keep_reading)
        self._stall_watch: StallWatch | None = None
        """None while there is room."""
        self._application: asyncio.Task[Any] | None = None
        """The task of the application, while it reads, or writes after a read."""
        self._reader: asyncio.Task[Any] | None = None
        """The task that reads."""
        self._opening: asyncio.Task[None] | None = None
        """Task that accepts the connection. None if nothing has to be awaited for that."""
        self._receiving = True
        """Whether the user wants to receive; see `pause_receiving`."""
        self._early_size = 0
        """Bytes of the messages that are kept until `start`."""
        self._paused: asyncio.Future[None] | None = None
        """Done when reading may continue; see `_is_paused`."""
        self._in_read = 0
        """Number of messages of the present read."""
        self._watching: asyncio.Handle | None = None
        """Calls `_receive_waits` in the next turn. (One call for each read, because one for each message would take a
        tenth of the time of a small request.)"""
        self._single = False
        """Whether the last read had exactly one message."""
        self._received = 0
        """Number of received messages."""

    async def run(self, rest: Awaitable[None] | None) -> None:
        """Carry messages. Return when the connection is over.

        Args:
            rest: the rest of accepting the connection, if there is any. Messages are carried meanwhile.

        Raises:
            Exception: what ``rest``, ``receive()`` or ``send()`` raised, unless it only means that the client has left.
        """
        self._application = self._reader = asyncio.current_task()
        try:
            if rest is not None:
                self._opening = self._loop.create_task(self._open(rest))
            await self._read()
            self._application = None
            await self._end.wait()
        except asyncio.CancelledError:
            application = self._application
            if application is None or self._end.info is None:
                raise
            application.uncancel()  # `_finish` has cancelled it
        finally:
            self._application = None
            # For example, the ASGI server has cancelled the application. Then the connection cannot be used any more.
            self._finish(CloseInfo(CloseCode.ABNORMAL, "the ASGI server stopped the application"))
            present, ours = asyncio.current_task(), (self._reader, self._writer, self._opening)
            tasks = [task for task in ours if task is not None and task is not present]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
        if self._end.failure is not None:
            raise self._end.failure

    async def _open(self, rest: Awaitable[None]) -> None:
        try:
            await rest
        except Exception as exc:
            self._end.fail(exc)
            self.drop(CloseCode.ABNORMAL, str(exc))

    # ------------------------------------------------------------ the contract

    @property
    def unsent(self) -> int:
        return self._unsent

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._received, self._sent, None, None)

    def start(self, receiver: Receiver, /) -> None:
        if self._full:
            receiver.pause_sending()
        self._in_read += 1  # as if the kept messages had just arrived
        self._delivery.start(receiver)
        self._early_size = 0
        self._read_ended()
        if self._end.info is not None:
            # The connection ended before there was a receiver. Report the end soon, not inside this call.
            self._loop.call_soon(receiver.connection_lost, self._end.info)
        self._release()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        self._check_open()
        self._add(payload, text, in_read=self._in_read > 0)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        check_close(code, reason)
        # In ASGI, a close without a code has the code 1000.
        self._start_close(CloseCode.NORMAL if code is None else code, reason)
        await self._end.wait()

    def abort(self) -> None:
        self.drop(CloseCode.ABNORMAL, "aborted")

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        self._check_open()
        pieces = self._pieces = self._pieces or []
        pieces.append(payload)
        if last:
            self._pieces = None
            self.send(b"".join(pieces), text)

    def pause_receiving(self) -> None:
        self._receiving = False

    def resume_receiving(self) -> None:
        self._receiving = True
        self._release()

    def __repr__(self) -> str:
        paused = "" if self._receiving else " receiving paused"
        return f"<AsgiTransport {self._end.state} {self.info.remote} unsent={self.unsent}{paused}>"

    # ------------------------------------------------------------ what StallWatch uses

    @property
    def written(self) -> int:
        return self._written

    def backlog(self) -> int:
        return self._unsent

    def drop(self, code: int, reason: str) -> None:
        """End the connection now, as far as ASGI allows: the application returns, and the ASGI server disconnects."""
        if self._end.drop():
            self._delivery.ignore_rest()
            self._loop.call_soon(self._finish, CloseInfo(*(self._end.closing or (code, reason))))

    # ------------------------------------------------------------ reading

    async def _read(self) -> None:
        began = self._loop.time()
        try:
            while self._end.info is None:
                if self._single and self._in_read == 1 and self._messages and self._may_write:
                    waiting = self._loop.call_soon(self._read_elsewhere)
                    await self._write()
                    if self._reader is not asyncio.current_task():
                        return
                    waiting.cancel()
                if self._in_read >= AT_ONCE:
                    await self._wait_for_budget(self._loop.time() - began)
                while self._is_paused():
                    self._read_ended()
                    self._paused = self._loop.create_future()
                    await self._paused
                if self._watching is None:
                    self._watching = self._loop.call_soon(self._receive_waits)
                event = await self._next_event()
                if self._in_read == 0:
                    began = self._loop.time()
                self._in_read += 1
                if event["type"] == "websocket.receive":
                    text = event.get("text")
                    if text is None:
                        self._deliver(event["bytes"], False)
                    else:
                        self._deliver(text.encode(), True)
                    if self._full:
                        self._keep_read_open()
                        await asyncio.sleep(0)  # answers to messages that are read without waiting need time to leave
                elif event["type"] == "websocket.disconnect":
                    self._read_ended()
                    self._finish(self._end.reported(event))
                    return
        except Exception as exc:
            self._end.fail(exc)
            self.drop(CloseCode.ABNORMAL, str(exc))

    def _receive_waits(self) -> None:
        """End the read: ``receive()`` has not returned in the turn of the event loop in which it was called."""
        self._watching = None
        self._read_ended()

    def _keep_read_open(self) -> None:
        """Do not end the read in the next turn: it is not ``receive()`` that waits."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()

    def _read_elsewhere(self) -> None:
        """Read in another task, because ``send()`` has to wait."""
        if self._end.info is None:
            self._reader = self._loop.create_task(self._read())

    async def _wait_for_budget(self, seconds: float) -> None:
        """Wait until the `LoopBudget` allows more reading, after messages that took ``seconds`` to handle."""
        turns = loop_budget_of(self._loop)
        self._read_ended()
        if not turns.spend(seconds):
            turn = asyncio.Event()
            turns.wait(seconds, turn.set)
            await turn.wait()

    def _is_paused(self) -> bool:
        """Whether reading is paused."""
        if self._end.closing is not None or self._end.broken is not None:
            return False  # the end of the connection must be read
        return not self._receiving or self._early_size > self._limits.high_water_bytes

    def _release(self) -> None:
        if self._paused is not None and not self._paused.done():
            self._paused.set_result(None)

    def _deliver(self, payload: bytes, text: bool) -> None:
        if self._end.dropped or (self._end.closing is not None and self._end.closing[0] == CloseCode.MESSAGE_TOO_BIG):
            return
        self._received += 1
        if len(payload) > self.largest:
            self._start_close(CloseCode.MESSAGE_TOO_BIG, f"{len(payload)} bytes, the limit is {self.largest}")
        else:
            if self._delivery.receiver is None:
                self._early_size += len(payload) + FRAME
            self._delivery.receive(payload, text)

    def _read_ended(self) -> None:
        self._single = self._in_read == 1
        if self._in_read:
            self._in_read = 0
            if self._delivery.receiver is not None and self._end.info is None:
                self._delivery.receiver.read_ended()
            self.flush()

    # ------------------------------------------------------------ what _AsgiOutput reports

    def _filled(self) -> None:
        self._stall_watch = StallWatch(self, self._loop, self._limits)
        self._stall_watch.start()
        if self._delivery.receiver is not None:
            self._delivery.receiver.pause_sending()

    def _has_room(self) -> None:
        self._stop_watch()
        if self._delivery.receiver is not None and self._end.info is None:
            self._delivery.receiver.resume_sending()

    def _stop_watch(self) -> None:
        watch, self._stall_watch = self._stall_watch, None
        if watch is not None:
            watch.stop()

    def _send_failed(self, exc: Exception) -> None:
        self._end.broken = exc
        self._expect_end()
        self._release()

    # ------------------------------------------------------------ the end

    def _check_open(self) -> None:
        if not self._end.is_open:
            raise ConnectionLost(*self._end.code, "not_sent")

    def _start_close(self, code: int, reason: str) -> None:
        if self._end.start_closing(code, reason):
            self._expect_end()
            self.flush()
            self._release()

    def _expect_end(self) -> None:
        """Drop the connection if it is not over within `Limits.close_timeout`."""
        self._end.expect(self._limits.close_timeout, self._overdue)

    def _overdue(self) -> None:
        if self._end.broken is not None and not isinstance(self._end.broken, OSError):
            self._end.fail(self._end.broken)
        self.drop(*self._end.code)

    def _finish(self, info: CloseInfo) -> None:
        if self._end.info is None:
            self._stop_watch()
            self._end.finish(info)
            self._stop_writing()
            if self._delivery.receiver is not None:
                self._delivery.receiver.connection_lost(info)
            self._delivery.stop()  # otherwise a circle of references would wait for the garbage collector
            if self._application is not None and self._application is not asyncio.current_task():
                self._application.cancel()  # `run` returns


def _keep_reading() -> None:
    """Continue to read although a message must be kept. (`AsgiTransport` counts the bytes of kept messages.)"""

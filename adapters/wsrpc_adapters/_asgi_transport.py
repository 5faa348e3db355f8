"""AsgiTransport: a WebSocket of an ASGI server as a transport.

ASGI shows neither reads nor writes, so both are inferred. A *read* is the messages that ``receive()`` returns without
waiting; it ends when ``receive()`` begins to wait. A message counts as *unsent* until ``send()`` has returned for it,
and a ``send()`` that waits is the only sign that there is no room. ``receive()`` must go on meanwhile, so ``send()``
runs in a task that lives while there is something to write.

Where a read brought one message, the next read most likely does, too. What that causes is then written by the task that
reads; a task for it would cost as much as the message. If ``send()`` has to wait, which uvicorn's does only when there
is no room, that task goes on writing, and another one reads. So no call of ``receive()`` or ``send()`` begins in one
task and ends in another, which middlewares with timeouts of their own would not survive.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from wsrpc import CloseCode, CloseInfo, ConnectionLost, Limits
from wsrpc._transports.fairness import turns_of
from wsrpc.adapting import Delivery, StallWatch, check_close
from wsrpc.transport import ConnectionInfo, Receiver, Traffic

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

FRAME = 2
"""Bytes that a message counts for beside its payload, so that empty messages count, too."""
BURST = 256
"""Messages that are written without giving way to other tasks."""
AT_ONCE = 64
"""Messages that are read at once before they take a place in the turn, see `wsrpc._transports.fairness`."""


class AsgiTransport:
    """One WebSocket that was accepted; `run` carries its messages."""

    def __init__(self, receive: Receive, send: Send, info: ConnectionInfo, limits: Limits) -> None:
        self.info = info
        self.largest = limits.message
        self._next_event = receive
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._delivery = Delivery(lambda: None)
        self._end = _End()
        self._output = _Output(self, self._end, send, limits)
        self._stall_watch = StallWatch(self, self._loop, limits)
        self._reader: asyncio.Task[None] | None = None
        """The task that reads."""
        self._receiving = True
        """Whether the user wants to receive; see `pause_receiving`."""
        self._early_size = 0
        """Bytes of the messages that are kept until `start`."""
        self._held: asyncio.Future[None] | None = None
        """Done when reading may go on; see `_is_held`."""
        self._in_read = 0
        """Messages of the present read."""
        self._single = False
        """Whether the read before brought one message."""
        self._received = 0
        """Messages that were received."""

    async def run(self, accepted: Callable[[AsgiTransport], Awaitable[object]]) -> None:
        """Call ``accepted`` with this transport and carry messages; returns when the connection is over.

        Raises:
            Exception: what ``receive()`` or ``send()`` raised, unless it only means that the client has left.
        """
        self._reader = self._loop.create_task(self._read())
        try:
            await accepted(self)
            await asyncio.shield(self._end.over)
        finally:
            # If the ASGI server cancels the application, for instance, the connection is as good as lost.
            self._finish(CloseInfo(CloseCode.ABNORMAL, "the ASGI server stopped the application"))
            tasks = [task for task in (self._reader, self._output.task) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if self._end.failure is not None:
            raise self._end.failure

    # ------------------------------------------------------------ the contract

    @property
    def unsent(self) -> int:
        return self._output.unsent

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._received, self._output.sent, None, None)

    def start(self, receiver: Receiver, /) -> None:
        if self._output.full:
            receiver.pause_sending()
        self._in_read += 1  # as if what was kept had just come
        self._delivery.start(receiver)
        self._early_size = 0
        self._read_ended()
        if self._end.info is not None:
            # It ended before there was a receiver: report that soon, not inside this call.
            self._loop.call_soon(receiver.connection_lost, self._end.info)
        self._release()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        self._check_open()
        self._output.add(payload, text, held=self._in_read > 0)

    def flush(self) -> None:
        self._output.flush()

    async def drain(self) -> None:
        if self._output.full and self._end.info is None:
            await self._output.drained()

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        check_close(code, reason)
        # In ASGI a close without a code is one with 1000.
        self._begin_close(CloseCode.NORMAL if code is None else code, reason)
        await asyncio.shield(self._end.over)

    def abort(self) -> None:
        self.drop(CloseCode.ABNORMAL, "aborted")

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        self._check_open()
        self._output.pieces.append(payload)
        if last:
            whole = b"".join(self._output.pieces)
            self._output.pieces.clear()
            self.send(whole, text)

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
        return self._output.written

    def backlog(self) -> int:
        return self._output.unsent

    def drop(self, code: int, reason: str) -> None:
        """End the connection now, as far as ASGI allows: the application returns, and the server does the rest."""
        if self._end.drop():
            self._delivery.ignore_rest()
            self._loop.call_soon(self._finish, CloseInfo(*(self._end.closing or (code, reason))))

    # ------------------------------------------------------------ reading

    async def _read(self) -> None:
        began, output = self._loop.time(), self._output
        try:
            while True:
                if self._single and self._in_read == 1 and output.waits:
                    waiting = self._loop.call_soon(self._read_elsewhere)
                    await output.write()
                    if self._reader is not asyncio.current_task():
                        return
                    waiting.cancel()
                if self._in_read >= AT_ONCE:
                    await self._take_turn(self._loop.time() - began)
                while self._is_held():
                    self._read_ended()
                    self._held = self._loop.create_future()
                    await self._held
                waiting = self._loop.call_soon(self._read_ended)
                event = await self._next_event()
                waiting.cancel()
                if self._in_read == 0:
                    began = self._loop.time()
                self._in_read += 1
                if event["type"] == "websocket.receive":
                    text = event.get("text")
                    if text is None:
                        self._deliver(event["bytes"], False)
                    else:
                        self._deliver(text.encode(), True)
                    if output.full:
                        await asyncio.sleep(0)  # answers to messages that are read without waiting need time to leave
                elif event["type"] == "websocket.disconnect":
                    self._read_ended()
                    self._finish(self._end.reported(event))
                    return
        except Exception as exc:
            self._end.fail(exc)
            self.drop(CloseCode.ABNORMAL, str(exc))

    def _read_elsewhere(self) -> None:
        """Let another task read: ``send()`` has to wait."""
        if self._end.info is None:
            self._reader = self._loop.create_task(self._read())

    async def _take_turn(self, seconds: float) -> None:
        """Wait until there is a turn for reading on, after messages that took ``seconds`` to handle."""
        turns = turns_of(self._loop)
        self._read_ended()
        if not turns.take(seconds):
            turn = asyncio.Event()
            turns.wait(seconds, turn.set)
            await turn.wait()

    def _is_held(self) -> bool:
        """Whether nothing may be read now."""
        if self._end.closing is not None or self._end.broken is not None:
            return False  # the end has to be seen
        return not self._receiving or self._early_size > self._limits.high_water

    def _release(self) -> None:
        if self._held is not None and not self._held.done():
            self._held.set_result(None)

    def _deliver(self, payload: bytes, text: bool) -> None:
        if self._end.dropped or (self._end.closing is not None and self._end.closing[0] == CloseCode.MESSAGE_TOO_BIG):
            return
        self._received += 1
        if len(payload) > self.largest:
            self._begin_close(CloseCode.MESSAGE_TOO_BIG, f"{len(payload)} bytes, the limit is {self.largest}")
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
            self._output.flush()

    # ------------------------------------------------------------ what _Output reports

    def pause_sending(self) -> None:
        self._stall_watch.start()
        if self._delivery.receiver is not None:
            self._delivery.receiver.pause_sending()

    def resume_sending(self) -> None:
        self._stall_watch.stop()
        if self._delivery.receiver is not None and self._end.info is None:
            self._delivery.receiver.resume_sending()

    def send_failed(self, exc: Exception) -> None:
        """``send()`` raised: most likely the client has left, and ``receive()`` is about to say how."""
        self._end.broken = exc
        self._expect_end()
        self._release()

    # ------------------------------------------------------------ the end

    def _check_open(self) -> None:
        if not self._end.is_open:
            raise ConnectionLost(*self._end.code, "not_sent")

    def _begin_close(self, code: int, reason: str) -> None:
        if self._end.begin(code, reason):
            self._expect_end()
            self._output.flush()
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
            self._stall_watch.stop()
            self._end.finish(info)
            self._output.stop()
            if self._delivery.receiver is not None:
                self._delivery.receiver.connection_lost(info)


class _End:
    """State of a connection, from open to closed, and what is reported of its end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.info: CloseInfo | None = None
        """How the connection ended; None if it has not."""
        self.over: asyncio.Future[None] = self._loop.create_future()
        """Done when there is ``info``."""
        self.closing: tuple[int, str] | None = None
        """Code and reason with which this side closes."""
        self.close_sent = False
        self.broken: Exception | None = None
        """What ``send()`` raised."""
        self.dropped = False
        """Whether the connection ends without waiting for the client."""
        self.failure: Exception | None = None
        """What `AsgiTransport.run` is to raise."""

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

    def begin(self, code: int, reason: str) -> bool:
        """Note that this side closes. Return False if it does already, or if the connection is over."""
        if self.closing is not None or self.info is not None:
            return False
        self.closing = (int(code), reason)
        return True

    def drop(self) -> bool:
        """Note that the connection ends without waiting for the client. Return False if it does already, or is over."""
        if self.dropped or self.info is not None:
            return False
        self.dropped = True
        return True

    def expect(self, seconds: float, overdue: Callable[[], None]) -> None:
        """Call ``overdue`` if the connection is not over in time. Later calls have no effect."""
        if self._timer is None and self.info is None:
            self._timer = self._loop.call_later(seconds, overdue)

    def finish(self, info: CloseInfo) -> None:
        """Note that the connection is over."""
        self.info = info
        if self._timer is not None:
            self._timer.cancel()
        if not self.over.done():  # its task may have been cancelled
            self.over.set_result(None)

    def fail(self, exc: Exception) -> None:
        """Let `AsgiTransport.run` raise ``exc``, unless the connection is over."""
        if self.info is None:
            self.failure = exc

    def reported(self, event: Event) -> CloseInfo:
        """Return how the connection ended, as far as what the ASGI server reports can be trusted."""
        code, reason = int(event.get("code") or CloseCode.NO_STATUS), event.get("reason")
        if self.closing is not None and self.close_sent:
            return CloseInfo(*self.closing, was_clean=code != CloseCode.ABNORMAL)
        if reason is None and "reason" not in event:
            # uvicorn gives a reason, if only None or an empty one, where there was a Close frame. Without one it
            # reports 1005 for a drop, and 1012 when it shuts down itself and does not wait for an answer.
            if code == CloseCode.NO_STATUS:
                code = CloseCode.ABNORMAL
            return CloseInfo(code, "", was_clean=code not in (CloseCode.ABNORMAL, CloseCode.SERVICE_RESTART))
        return CloseInfo(code, reason or "", was_clean=code != CloseCode.ABNORMAL)


class _Output:
    """Messages that wait for ``send()``, and the task that calls it."""

    def __init__(self, transport: AsgiTransport, end: _End, send: Send, limits: Limits) -> None:
        self._transport = transport
        self._end = end
        self._send_event = send
        self._high_water = limits.high_water
        self._messages: deque[tuple[bytes, bool]] = deque()
        self.pieces: list[bytes] = []
        """Pieces of a message that is sent in pieces, until the last one."""
        self._writing = False
        self.task: asyncio.Task[None] | None = None
        """The task that writes, if there is one."""
        self.sent = 0
        """Messages that were added."""
        self.written = 0
        """Bytes that were added."""
        self.unsent = 0
        """Bytes of those for which ``send()`` has not returned."""
        self.full = False
        """Whether more than the high-water mark is unsent."""
        self._drained: list[asyncio.Future[None]] = []

    def add(self, payload: bytes, text: bool, *, held: bool) -> None:
        """Add a message. If it is ``held``, the next `flush` or `write` writes it, otherwise a task does."""
        size = len(payload) + FRAME
        self.sent += 1
        self._messages.append((payload, text))
        self.written += size
        self.unsent += size
        if not held:
            self.flush()
        if self.unsent > self._high_water and not self.full:
            self.full = True
            self._transport.pause_sending()

    def flush(self) -> None:
        """Write the messages that were added, and then the Close frame if it is due, in a task."""
        close_due = self._end.closing is not None and not self._end.close_sent
        broken = self._end.broken is not None or self._end.info is not None
        if not self._writing and (self._messages or close_due) and not broken:
            self._writing = True
            self.task = asyncio.get_running_loop().create_task(self.write())

    async def drained(self) -> None:
        """Wait until there is room, or the connection is over."""
        waiter = asyncio.get_running_loop().create_future()
        self._drained.append(waiter)
        await waiter

    def stop(self) -> None:
        """Forget what was not written: the connection is over."""
        self._messages.clear()
        self.unsent = 0
        self._wake_drained()

    @property
    def waits(self) -> bool:
        """Whether there are messages that nothing writes yet."""
        return bool(self._messages) and not self._writing and self._end.broken is None and self._end.info is None

    async def write(self) -> None:
        """Write the messages that wait, and then the Close frame if it is due."""
        messages, send, end, written = self._messages, self._send_event, self._end, 0
        self._writing = True
        self.task = asyncio.current_task()
        try:
            while messages:
                payload, text = messages[0]
                if text:
                    await send({"type": "websocket.send", "text": payload.decode()})
                else:
                    await send({"type": "websocket.send", "bytes": payload})
                if not messages:  # the connection ended meanwhile
                    return
                self._left()
                written += 1
                if written % BURST == 0:
                    await asyncio.sleep(0)
            if end.closing is not None and not end.close_sent:
                code, reason = end.closing
                end.close_sent = True
                await send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception as exc:
            self._transport.send_failed(exc)
        finally:
            self._writing = False
            self.task = None
        self.flush()  # the transport may have begun to close while the last message was written

    def _left(self) -> None:
        """Count the first message as written."""
        payload, _ = self._messages.popleft()
        self.unsent -= len(payload) + FRAME
        if self.full and self.unsent <= self._high_water // 4:
            self.full = False
            self._wake_drained()
            self._transport.resume_sending()

    def _wake_drained(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

"""AsgiTransport: a WebSocket of an ASGI server as a transport.

ASGI shows neither reads nor writes, so both are inferred. A *read* is the messages that ``receive()`` returns without
waiting; it ends when ``receive()`` begins to wait. A message counts as *unsent* until ``send()`` has returned for it,
and a ``send()`` that waits is the only sign that there is no room. ``receive()`` must go on meanwhile, so ``send()``
runs in a task that lives while there is something to write.

Where a read brought one message, the next read most likely does, too. What that causes is then written at once, by the
task that reads; a task for it would cost as much as the message. If ``send()`` has to wait, which uvicorn's does only
when there is no room, that task goes on writing, and another one reads. So no call of ``receive()`` or ``send()``
begins in one task and ends in another, which middlewares with timeouts of their own would not survive.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from types import coroutine
from typing import Any

from wsrpc import CloseCode, CloseInfo, ConnectionLost, Limits
from wsrpc.adapting import StallWatch, check_close, turns_of
from wsrpc.transport import ConnectionInfo, Receiver, Traffic

from ._ending import Ending

__all__ = ["AsgiTransport", "Event", "Receive", "Send"]

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

FRAME = 2
"""Bytes that a message counts for beside its payload, so that empty messages count, too."""
PIECE = 32 * 1024
"""Bytes that are gathered at most before they are written."""
EAGER = sys.version_info >= (3, 12)
"""Whether a task can take its first step at once."""
BURST = 256
"""Messages that are written without giving way to other tasks."""
AT_ONCE = 64
"""Messages that are read at once before they take a place in the turn, see `wsrpc.adapting.turns_of`."""


class AsgiTransport:
    """One WebSocket that was accepted; `run` carries its messages."""

    def __init__(self, receive: Receive, send: Send, info: ConnectionInfo, limits: Limits) -> None:
        self.info = info
        self.largest = limits.message
        self._next_event = receive
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._end = _AsgiEnding()
        self._output = _Output(self, self._end, send, limits)
        self._stall_watch = StallWatch(self, self._loop, limits)
        self._early: list[tuple[bytes, bool]] = []
        """Messages that arrived before `start`."""
        self._early_size = 0
        self._reader: asyncio.Task[None] | None = None
        """The task that reads."""
        self._receiving = True
        """Whether the user wants to receive; see `pause_receiving`."""
        self._held: asyncio.Future[None] | None = None
        """Done when reading may go on; see `_is_held`."""
        self._reading = False
        """Whether the receiver has got messages of the present read."""
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
        self._receiver = receiver
        if self._output.full:
            receiver.pause_sending()
        early, self._early = self._early, []
        self._reading = True
        for payload, text in early:
            if not self._end.dropped:
                receiver.receive(payload, text)
        self._reading = False
        receiver.read_ended()
        self._output.flush()
        if self._end.info is not None:
            # It ended before there was a receiver: report that soon, not inside this call.
            self._loop.call_soon(receiver.connection_lost, self._end.info)
        self._release()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        self._check_open()
        self._output.add(payload, text, reading=self._reading)

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
            self._loop.call_soon(self._finish, CloseInfo(*(self._end.closing or (code, reason))))

    # ------------------------------------------------------------ reading

    async def _read(self) -> None:
        at_once, began, output = 0, self._loop.time(), self._output
        single = False  # whether the read before brought one message
        try:
            while True:
                if single and at_once == 0 and output.waits:
                    waits = output.write_at_once()
                    if waits is not None:
                        self._reader = self._loop.create_task(self._read())
                        await output.write_on(*waits)
                        return
                if at_once == AT_ONCE:
                    await self._take_turn(self._loop.time() - began)
                    at_once, began = 0, self._loop.time()
                while self._is_held():
                    self._held = self._loop.create_future()
                    await self._held
                waiting = self._next_event().__await__()
                try:
                    step = next(waiting)
                except StopIteration as stop:
                    event = stop.value
                    at_once += 1
                else:
                    self._read_ended()
                    single = at_once == 0
                    event = await resume(waiting, step)
                    at_once, began = 0, self._loop.time()
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

    async def _take_turn(self, seconds: float) -> None:
        """Wait until there is a turn for reading on, after messages that took ``seconds`` to handle."""
        turns = turns_of(self._loop)
        if not turns.take(seconds):
            self._read_ended()
            turn = asyncio.Event()
            turns.wait(seconds, turn.set)
            await turn.wait()

    def _is_held(self) -> bool:
        """Whether nothing may be read now."""
        if self._end.closing is not None or self._end.broken is not None:
            return False  # the end has to be seen
        return not self._receiving or (self._receiver is None and self._early_size > self._limits.high_water)

    def _release(self) -> None:
        if self._held is not None and not self._held.done():
            self._held.set_result(None)

    def _deliver(self, payload: bytes, text: bool) -> None:
        if self._end.dropped or (self._end.closing is not None and self._end.closing[0] == CloseCode.MESSAGE_TOO_BIG):
            return
        self._received += 1
        if len(payload) > self.largest:
            self._begin_close(CloseCode.MESSAGE_TOO_BIG, f"{len(payload)} bytes, the limit is {self.largest}")
        elif self._receiver is not None:
            self._reading = True
            self._receiver.receive(payload, text)
        else:
            self._early.append((payload, text))
            self._early_size += len(payload) + FRAME

    def _read_ended(self) -> None:
        if self._reading:
            self._reading = False
            if self._receiver is not None and self._end.info is None:
                self._receiver.read_ended()
            self._output.flush()

    # ------------------------------------------------------------ what _Output reports

    def pause_sending(self) -> None:
        self._stall_watch.start()
        if self._receiver is not None:
            self._receiver.pause_sending()

    def resume_sending(self) -> None:
        self._stall_watch.stop()
        if self._receiver is not None and self._end.info is None:
            self._receiver.resume_sending()

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
            if self._receiver is not None:
                self._receiver.connection_lost(info)


class _AsgiEnding(Ending):
    """State of a connection, from open to closed, and what is reported of its end."""

    def __init__(self) -> None:
        super().__init__()
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

    def __init__(self, transport: AsgiTransport, end: _AsgiEnding, send: Send, limits: Limits) -> None:
        self._transport = transport
        self._end = end
        self._send_event = send
        self._high_water = limits.high_water
        self._messages: deque[tuple[bytes, bool]] = deque()
        self.pieces: list[bytes] = []
        """Pieces of a message that is sent in pieces, until the last one."""
        self._gathered = 0
        """Bytes that were added since the last `flush`."""
        self._scheduled = False
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

    def add(self, payload: bytes, text: bool, *, reading: bool) -> None:
        size = len(payload) + FRAME
        self.sent += 1
        self._messages.append((payload, text))
        self.written += size
        self.unsent += size
        self._gathered += size
        if self._gathered >= PIECE or not (reading or EAGER):
            self.flush()
        elif not reading and not self._scheduled and not self._writing:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn_ended)
        if self.unsent > self._high_water and not self.full:
            self.full = True
            self._transport.pause_sending()

    def flush(self) -> None:
        """Write the messages that were added, and then the Close frame if it is due."""
        self._gathered = 0
        close_due = self._end.closing is not None and not self._end.close_sent
        broken = self._end.broken is not None or self._end.info is not None
        if not self._writing and (self._messages or close_due) and not broken:
            self._writing = True
            task = spawn(self._write(), asyncio.get_running_loop())
            if not task.done():
                self.task = task

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

    def _turn_ended(self) -> None:
        self._scheduled = False
        self.flush()

    @property
    def waits(self) -> bool:
        """Whether there are messages that nothing writes yet."""
        return bool(self._messages) and not self._writing and self._end.broken is None and self._end.info is None

    def write_at_once(self) -> tuple[Generator[Any, Any, Any], Any] | None:
        """Write the messages that wait without a task, as long as ``send()`` does not wait; `flush` is the general way.

        Returns:
            None if all are written, or a ``send()`` that waits, as arguments of `write_on`.
        """
        self._gathered = 0
        self._writing = True
        messages, send = self._messages, self._send_event
        try:
            while messages:
                sending = send(event_of(*messages[0])).__await__()
                try:
                    step = next(sending)
                except StopIteration:
                    self._left()
                else:
                    return sending, step
        except Exception as exc:
            self._transport.send_failed(exc)
        self._writing = False
        return None

    async def write_on(self, sending: Generator[Any, Any, Any], step: Any) -> None:
        """Go on with a ``send()`` that waits, then write the rest."""
        self.task = asyncio.current_task()
        await self._write(resume(sending, step))

    async def _write(self, first: Awaitable[Any] | None = None) -> None:
        """Write the messages that wait, and then the Close frame if it is due. ``first`` sends the first message."""
        messages, send, end, written = self._messages, self._send_event, self._end, 0
        try:
            while messages:
                await (send(event_of(*messages[0])) if first is None else first)
                first = None
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


def event_of(payload: bytes, text: bool) -> Event:
    if text:
        return {"type": "websocket.send", "text": payload.decode()}
    return {"type": "websocket.send", "bytes": payload}


def spawn(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """Make a task that takes its first step at once where Python can, so that it need not cost a turn of the loop."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)


@coroutine
def resume(waiting: Generator[Any, Any, Any], step: Any) -> Generator[Any, Any, Any]:
    """Await ``waiting``, which has taken its first step and yielded ``step``."""
    try:
        while True:
            try:
                sent = yield step
            except BaseException as exc:
                step = waiting.throw(exc)
            else:
                step = waiting.send(sent)
    except StopIteration as stop:
        return stop.value

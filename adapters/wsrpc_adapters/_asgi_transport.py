"""A WebSocket of an ASGI server as a transport: events in, events out.

ASGI shows neither reads nor writes, so both are inferred. A *read* is what ``receive()`` gives without waiting: when it
begins to wait, the read is over. A message counts as *unsent* until ``send()`` has returned for it, and that a
``send()`` waits is the only sign that the line is full. ``send()`` runs in a task that lives while there is something
to write, since it may wait, and ``receive()`` must go on meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from functools import partial
from types import coroutine
from typing import Any

from wsrpc import CloseCode, CloseInfo, ConnectionInfo, ConnectionLost, Limits, Receiver, Traffic
from wsrpc.adapting import StallWatch, check_close, turns_of

__all__ = ["AsgiTransport", "Event", "Receive", "Send"]

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

FRAME = 2
"""Bytes, besides its payload, that a message counts for: an empty one counts, too."""
PIECE = 32 * 1024
"""Bytes that are gathered at most before they are written."""
EAGER = sys.version_info >= (3, 12)
"""Whether a task can take its first step at once."""
BURST = 256
"""Messages that are written without a turn for others."""
AT_ONCE = 64
"""Messages that are read at once before they take a place in the turn, see `wsrpc.adapting.turns_of`."""


class AsgiTransport:
    """One WebSocket that was accepted; `run` carries its messages."""

    def __init__(self, receive: Receive, send: Send, info: ConnectionInfo, limits: Limits) -> None:
        self.info = info
        self.largest = limits.message
        self._next_event = receive
        self._send_event = send
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        # In.
        self._early: list[tuple[bytes, bool]] = []
        self._early_size = 0
        self._receiving_paused = False
        self._held: asyncio.Future[None] | None = None
        self._reading = False
        self._received = 0
        self._turns = turns_of(self._loop)
        # Out.
        self._out: deque[tuple[bytes, bool]] = deque()
        self._parts: list[bytes] = []
        self._sent = 0
        self._handed = 0
        self._unsent = 0
        self._gathered = 0
        self._flush_scheduled = False
        self._writing = False
        self._writer: asyncio.Task[None] | None = None
        self._full = False
        self._drained: list[asyncio.Future[None]] = []
        self._stall = StallWatch(self, self._loop, limits)
        # The end.
        self._closing: tuple[int, str] | None = None
        self._close_sent = False
        self._broken: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._dropped = False
        self._failure: Exception | None = None
        self._ended: CloseInfo | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()

    async def run(self, accepted: Callable[[AsgiTransport], Awaitable[object]]) -> None:
        """Call ``accepted`` with this transport and carry messages; returns when the connection is over.

        Raises:
            Exception: what ``receive()`` or ``send()`` raised, if it is more than that the client has left.
        """
        reading = self._loop.create_task(self._read())
        try:
            await accepted(self)
            await asyncio.shield(self._over)
        finally:
            # Here the application is left, cancelled by its server for instance: then the line is as good as lost.
            self._end(CloseInfo(CloseCode.ABNORMAL, "the ASGI server stopped the application"))
            tasks = [task for task in (reading, self._writer) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------ the contract

    @property
    def unsent(self) -> int:
        return self._unsent

    @property
    def traffic(self) -> Traffic:
        return Traffic(self._received, self._sent, None, None)

    def start(self, receiver: Receiver, /) -> None:
        self._receiver = receiver
        if self._full:
            receiver.pause_sending()
        early, self._early = self._early, []
        self._reading = True
        for payload, text in early:
            receiver.receive(payload, text)
        self._reading = False
        receiver.read_ended()
        self._write_soon()
        if self._ended is not None:
            # It ended before anybody listened: say so soon, not inside this call.
            self._loop.call_soon(receiver.connection_lost, self._ended)
        self._release()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        self._check_open()
        size = len(payload) + FRAME
        self._sent += 1
        self._out.append((payload, text))
        self._handed += size
        self._unsent += size
        self._gathered += size
        if self._gathered >= PIECE or not (self._reading or EAGER):
            self._write_soon()
        elif not self._reading and not self._flush_scheduled and not self._writing:
            self._flush_scheduled = True
            self._loop.call_soon(self._turn_ended)
        if self._unsent > self._limits.high_water and not self._full:
            self._full = True
            self._stall.start()
            if self._receiver is not None:
                self._receiver.pause_sending()

    def flush(self) -> None:
        self._write_soon()

    async def drain(self) -> None:
        if self._full and self._ended is None:
            waiter = self._loop.create_future()
            self._drained.append(waiter)
            await waiter

    async def close(self, code: int = 1000, reason: str = "") -> None:
        check_close(code, reason)
        self._begin_close(code, reason)
        await asyncio.shield(self._over)

    def abort(self) -> None:
        self.drop(CloseCode.ABNORMAL, "aborted")

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        self._check_open()
        self._parts.append(payload)
        if last:
            whole = b"".join(self._parts)
            self._parts.clear()
            self.send(whole, text)

    def pause_receiving(self) -> None:
        self._receiving_paused = True

    def resume_receiving(self) -> None:
        self._receiving_paused = False
        self._release()

    # ------------------------------------------------------------ in

    async def _read(self) -> None:
        at_once, began = 0, self._loop.time()
        try:
            while True:
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
                    event = await go_on(waiting, step)
                    at_once, began = 0, self._loop.time()
                if event["type"] == "websocket.receive":
                    text = event.get("text")
                    if text is None:
                        self._deliver(event["bytes"], False)
                    else:
                        self._deliver(text.encode(), True)
                    if self._full:
                        await asyncio.sleep(0)  # what is read at once may cause more than is to be kept
                elif event["type"] == "websocket.disconnect":
                    self._read_ended()
                    self._end(self._how_it_ended(event))
                    return
        except Exception as exc:
            self._fail(exc)

    async def _take_turn(self, seconds: float) -> None:
        """Read on when there is a place for what took so long."""
        if not self._turns.take(seconds):
            self._read_ended()
            turn = self._loop.create_future()
            self._turns.wait(seconds, partial(_let_go_on, turn))
            await turn

    def _is_held(self) -> bool:
        if self._closing is not None or self._broken is not None:
            return False  # the end has to be seen
        return self._receiving_paused or (self._receiver is None and self._early_size > self._limits.high_water)

    def _release(self) -> None:
        if self._held is not None and not self._held.done():
            self._held.set_result(None)

    def _deliver(self, payload: bytes, text: bool) -> None:
        if self._dropped or (self._closing is not None and self._closing[0] == CloseCode.MESSAGE_TOO_BIG):
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
            if self._receiver is not None and self._ended is None:
                self._receiver.read_ended()
            self._write_soon()

    # ------------------------------------------------------------ out

    def _check_open(self) -> None:
        if self._closing is not None or self._broken is not None or self._dropped or self._ended is not None:
            raise ConnectionLost(*self._code(), "not_sent")

    def _turn_ended(self) -> None:
        self._flush_scheduled = False
        self._write_soon()

    def _write_soon(self) -> None:
        """Write what was gathered: now, or in the next turn, with what is sent until then."""
        self._gathered = 0
        closing = self._closing is not None and not self._close_sent
        if not self._writing and (self._out or closing) and self._broken is None and self._ended is None:
            self._writing = True
            task = spawn(self._write(), self._loop)
            if not task.done():
                self._writer = task

    async def _write(self) -> None:
        out, send, written = self._out, self._send_event, 0
        try:
            while out:
                payload, text = out[0]
                if text:
                    await send({"type": "websocket.send", "text": payload.decode()})
                else:
                    await send({"type": "websocket.send", "bytes": payload})
                if not out:  # dropped meanwhile
                    return
                out.popleft()
                self._unsent -= len(payload) + FRAME
                if self._full and self._unsent <= self._limits.high_water // 4:
                    self._has_room()
                written += 1
                if written % BURST == 0:
                    await asyncio.sleep(0)
            if self._closing is not None and not self._close_sent:
                self._close_sent = True
                code, reason = self._closing
                await send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception as exc:
            self._break(exc)
        finally:
            self._writing = False
            self._writer = None
        self._write_soon()  # somebody may have begun to close while the last message was written

    def _has_room(self) -> None:
        self._full = False
        self._stall.stop()
        self._wake_drained()
        if self._receiver is not None and self._ended is None:
            self._receiver.resume_sending()

    def _wake_drained(self) -> None:
        for waiter in self._drained:
            if not waiter.done():
                waiter.set_result(None)
        self._drained.clear()

    # What `StallWatch` looks at.

    @property
    def written(self) -> int:
        return self._handed

    def backlog(self) -> int:
        return self._unsent

    def drop(self, code: int, reason: str) -> None:
        """End the connection now, as far as ASGI lets us: the application returns, and the server does the rest."""
        if self._ended is None and not self._dropped:
            self._dropped = True
            self._loop.call_soon(self._end, CloseInfo(*(self._closing or (code, reason))))

    # ------------------------------------------------------------ the end

    def _begin_close(self, code: int, reason: str) -> None:
        if self._closing is None and self._ended is None:
            self._closing = (int(code), reason)
            self._end_later()
            self._write_soon()
            self._release()

    def _break(self, exc: Exception) -> None:
        """``send()`` failed: the client has left, most likely, and ``receive()`` is about to say how."""
        self._broken = exc
        self._end_later()
        self._release()

    def _end_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._limits.close_timeout, self._overdue)

    def _overdue(self) -> None:
        if self._broken is not None and not isinstance(self._broken, OSError):
            self._failure = self._broken
        self.drop(*self._code())

    def _fail(self, exc: Exception) -> None:
        if self._ended is None:
            self._failure = exc
            self.drop(CloseCode.ABNORMAL, str(exc))

    def _code(self) -> tuple[int, str]:
        if self._ended is not None:
            return self._ended.code, self._ended.reason
        return self._closing or (CloseCode.ABNORMAL, str(self._broken or ""))

    def _how_it_ended(self, event: Event) -> CloseInfo:
        """What the server says of the end, as far as it can be believed."""
        code, reason = int(event.get("code") or CloseCode.NO_STATUS), event.get("reason")
        if self._closing is not None and self._close_sent:
            return CloseInfo(*self._closing, was_clean=code != CloseCode.ABNORMAL)
        if reason is None and "reason" not in event:
            # uvicorn knows a reason, if only None or an empty one, where there was a Close frame. Without one it says
            # 1005 of a drop, and 1012 when it shuts down itself and waits for no answer.
            if code == CloseCode.NO_STATUS:
                code = CloseCode.ABNORMAL
            return CloseInfo(code, "", was_clean=code not in (CloseCode.ABNORMAL, CloseCode.SERVICE_RESTART))
        return CloseInfo(code, reason or "", was_clean=code != CloseCode.ABNORMAL)

    def _end(self, info: CloseInfo) -> None:
        if self._ended is not None:
            return
        self._ended = info
        self._stall.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._out.clear()
        self._unsent = 0
        self._wake_drained()
        if not self._over.done():
            self._over.set_result(None)
        if self._receiver is not None:
            self._receiver.connection_lost(info)

    def __repr__(self) -> str:
        states = {"closed": self._ended, "broken": self._broken, "closing": self._closing}
        state = next((name for name, since in states.items() if since is not None), "open")
        return f"<AsgiTransport {state} {self.info.remote}>"


def _let_go_on(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def spawn(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
    """A task that takes its first step at once where it can, so that what does not wait costs no turn of the loop."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)


@coroutine
def go_on(waiting: Generator[Any, Any, Any], step: Any) -> Generator[Any, Any, Any]:
    """Await what has taken its first step, which yielded ``step``."""
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

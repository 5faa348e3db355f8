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
from collections.abc import Awaitable
from typing import Any

from wsrpc import CloseCode, CloseInfo, ConnectionLost, Limits
from wsrpc.adapting import check_close, loop_budget_of
from wsrpc.transport import ConnectionInfo, Receiver, Traffic

from ._asgi_output import MESSAGE_OVERHEAD, AsgiOutput, Receive, Send

MESSAGES_PER_READ = 64
"""Number of messages that are read together before they spend the `LoopBudget`."""


class AsgiTransport(AsgiOutput):
    """Transport of one accepted WebSocket. `run` receives its messages."""

    __slots__ = (
        "_application",
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
    def traffic(self) -> Traffic:
        return Traffic(self._received, self._sent, None, None)

    def start(self, receiver: Receiver, /) -> None:
        if self._backpressure.full:
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
                if self._in_read >= MESSAGES_PER_READ:
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
                    if self._backpressure.full:
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
                self._early_size += len(payload) + MESSAGE_OVERHEAD
            self._delivery.receive(payload, text)

    def _read_ended(self) -> None:
        self._single = self._in_read == 1
        if self._in_read:
            self._in_read = 0
            if self._delivery.receiver is not None and self._end.info is None:
                self._delivery.receiver.read_ended()
            self.flush()

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
            self._end.finish(info)
            self._stop_writing()
            if self._delivery.receiver is not None:
                self._delivery.receiver.connection_lost(info)
            self._delivery.stop()  # otherwise a circle of references would wait for the garbage collector
            if self._application is not None and self._application is not asyncio.current_task():
                self._application.cancel()  # `run` returns

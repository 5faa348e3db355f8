"""`EngineTransport`: a connection between two nodes, over an engine that may lose messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct

from ..._base.closing import CloseCode, CloseInfo, check_close
from ...errors import ConnectionLost
from ...transport import ConnectionInfo, Receiver
from .engine_link import EngineLink
from .transport_buffers import MessageBatch, ReceiveBuffer, SendBuffer, Window
from .wire import Close, Data, Mark, Reset

HIGH_WATER = 64 * 1024
"""Number of unsent bytes of the engine above which senders wait."""

CLIENT_WINDOW = 128 * 1024
"""For a client's connection: number of bytes that the other node has not passed on, above which senders wait. The
engine keeps them. So that no client fills the engine, its node reads from it no faster than the other node."""

MARK, MARK_OF_CLIENT = 0.1, 0.5
"""Seconds after which a side reports the number of its sent messages. Otherwise the loss of the last messages would not
be noticed. There may be many connections of clients, whose reports would be a large part of the traffic."""

BEATS = 5
"""Number of beats at which a side repeats its report after the last message, or that it has ended the connection. They
take longer than a lease."""


class Ending(Struct, eq=False):
    """The end of a connection, or its close by this side."""

    info: CloseInfo
    message: Close | Reset | None = None
    """The message by which this side has ended the connection. None if it has sent none."""
    repeats_left: int = BEATS
    """Number of beats at which the message is still repeated after the end."""


class EngineTransport:
    """One end of a connection between two nodes. It is a `wsrpc.transport.Transport`.

    Each side numbers its messages. If a message is missing, the connection ends on both sides without a Close frame.
    The session then resumes on another connection, and resends the lost messages. Only whole messages can be sent. A
    message that is larger than the engine accepts travels in pieces.

    Between two nodes, `close` ends a connection at once. For the connection of a client, it waits until the other node
    confirms that this one has ended, too, which takes at most as long as without a node in between; see
    `Limits.close_timeout`. A node that is silent ends the wait.

    Args:
        conn: the name of the connection.
        node: the other node. This name is also the path of ``info``.
        largest: maximum bytes of a message to the engine, and of a received message until ``largest`` is set.
        ended: a function that is called when the connection is over.
    """

    def __init__(
        self, conn: str, node: str, engine: EngineLink, largest: int, ended: Callable[[EngineTransport], None]
    ) -> None:
        self.info = ConnectionInfo(target=f"/{node}")
        self.conn = conn
        self.node = node
        self.largest = largest
        self._engine = engine
        self._ended = ended
        self._receiver: Receiver | None = None
        self._incoming = ReceiveBuffer()
        """It keeps messages that arrive before `start`, or while receiving is paused."""
        self._outgoing = SendBuffer(largest)
        self.window = Window()
        self.carries_client = False
        """Whether it carries the messages of a client."""
        self._mark_scheduled = False
        self._reports_left = 0
        """Number of beats at which this side still reports."""
        self.ending: Ending | None = None
        """None while the connection is open. If it carries a client, this side may have closed it before the end."""
        self._crowded: asyncio.Task[None] | None = None
        """Task that waits until there is room. None while there is room."""
        self._over: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()

    def carry_client(self) -> None:
        """Carry the messages of a client, of which at most `CLIENT_WINDOW` bytes may be unread. Both sides call it."""
        self.carries_client = True
        self.window.size = CLIENT_WINDOW

    # ------------------------------------------------------------ out

    @property
    def unsent(self) -> int:
        # What the other node has above the window counts, too: a client that does not read must not fill its memory.
        return self._outgoing.batch.size + int(max(self._engine.unsent, self.window.unread - self.window.size))

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self.ending is not None:
            raise ConnectionLost(self.ending.info.code, self.ending.info.reason, "not_sent")
        outgoing = self._outgoing
        while len(payload) > outgoing.largest:
            self.flush()
            outgoing.batch.add(payload[: outgoing.largest], text)
            outgoing.batch.more = True
            self.flush()
            payload = payload[outgoing.largest :]
        if not outgoing.fits(len(payload)):
            self.flush()
        if not outgoing.batch.messages:
            self._over.get_loop().call_soon(self.flush)
        outgoing.batch.add(payload, text)

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        raise NotImplementedError("connections between nodes carry whole messages")

    def flush(self) -> None:
        outgoing = self._outgoing
        if not outgoing.batch.messages or self._over.done():
            return
        batch, outgoing.batch = outgoing.batch, MessageBatch()
        data = Data(self.conn, outgoing.published + 1, batch.messages, batch.binary, batch.more)
        outgoing.published += len(batch.messages)
        self.window.add(sum(map(len, batch.messages)))
        self._reports_left = BEATS
        if not self._mark_scheduled:
            self._mark_scheduled = True
            self._over.get_loop().call_later(MARK_OF_CLIENT if self.carries_client else MARK, self._report)
        if not self._carry(data) or self._crowded is not None:
            return
        if self._engine.unsent > HIGH_WATER or self.window.unread > self.window.size:
            self._crowded = self._over.get_loop().create_task(self._make_room())
            if self._receiver is not None:
                self._receiver.pause_sending()

    def _carry(self, message: Data | Mark | Close) -> bool:
        try:
            self._engine.publish(self.node, message)
        except ConnectionLost as exc:
            self.reset(exc.reason)
            return False
        return True

    async def _make_room(self) -> None:
        await self._engine.drain()
        await self.window.wait_room()
        self._crowded = None
        if self._receiver is not None and not self._over.done():
            self._receiver.resume_sending()

    def beat(self) -> None:
        """Repeat the report, or that this side has closed the connection, because the message may be lost, too."""
        if self.ending is not None:
            self.repeat_end()
        elif self._reports_left:
            self._reports_left -= 1
            self._report()

    def _report(self) -> None:
        """Report the number of sent messages, so that the loss of the last messages is noticed."""
        self._mark_scheduled = False
        if self.ending is None:
            self.window.reported = self.window.passed_on
            self._carry(Mark(self.conn, self._outgoing.published, self.window.passed_on))

    async def drain(self) -> None:
        crowded = self._crowded
        if crowded is not None:
            await asyncio.wait((crowded, self._over), return_when=asyncio.FIRST_COMPLETED)

    # ------------------------------------------------------------ in

    def start(self, receiver: Receiver, /) -> None:
        self._receiver = receiver
        if self._crowded is not None:
            receiver.pause_sending()
        self._deliver()
        if self._over.done():
            self._over.get_loop().call_soon(self._report_end)

    def received(self, data: Data) -> None:
        """Handle messages of the other side."""
        if self.ending is not None:
            return
        incoming = self._incoming
        if data.seq != incoming.count + 1:
            self.reset(incoming.lost(data.seq - 1) or f"message {data.seq} came twice")
            return
        incoming.add(data)
        if sum(map(len, incoming.pieces)) > self.largest:
            self._close(CloseCode.MESSAGE_TOO_BIG, f"more than {self.largest} bytes")
        else:
            self._deliver()

    def marked(self, mark: Mark) -> None:
        """Handle a report of the other side. Reset the connection if messages are missing."""
        self.window.was_reported(mark.read)
        if self.ending is None and (lost := self._incoming.lost(mark.seq)):
            self.reset(lost)

    def closed(self, close: Close) -> None:
        """End the connection, because the other side has closed it."""
        if lost := self._incoming.lost(close.seq):
            self.reset(lost)
        self.end(CloseInfo(close.code, close.reason, was_clean=True))

    @property
    def _active_receiver(self) -> Receiver | None:
        """The receiver, unless receiving is paused. After the end it gets the rest, whether it pauses or not."""
        return None if self._incoming.is_paused and not self._over.done() else self._receiver

    def _deliver(self) -> None:
        messages = self._incoming.messages
        while messages and (receiver := self._active_receiver) is not None:
            while messages and self._active_receiver is receiver:  # `receive` may change each of them
                payload, text = messages.popleft()
                if len(payload) > self.largest:
                    messages.clear()
                    self._close(CloseCode.MESSAGE_TOO_BIG, f"{len(payload)} bytes")
                    return
                receiver.receive(payload, text)
                self.window.passed_on += len(payload)
                self._reports_left = BEATS
            receiver.read_ended()
            if self.window.is_due:
                self._report()

    def pause_receiving(self) -> None:
        self._incoming.is_paused = True

    def resume_receiving(self) -> None:
        if self._incoming.is_paused:
            self._incoming.is_paused = False
            self._over.get_loop().call_soon(self._deliver)

    # ------------------------------------------------------------ the end

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        self._close(check_close(code, reason), reason)
        await asyncio.shield(self._over)

    def _close(self, code: int, reason: str) -> None:
        if self.ending is None:
            self.flush()
            close = Close(self.conn, self._outgoing.published, code, reason)
            if self._carry(close):
                # The connection of a client has not ended yet, and may end before its node gets this.
                info = CloseInfo(code, reason, was_clean=not self.carries_client)
                self.ending = Ending(info, close)
                if info.was_clean:
                    self.end(info)

    def abort(self) -> None:
        self.reset("aborted")

    def reset(self, reason: str) -> None:
        """End the connection on both sides, without a Close frame."""
        if not self._over.done():
            info = CloseInfo(CloseCode.ABNORMAL, reason) if self.ending is None else self.ending.info
            self.ending = Ending(info, Reset(self.conn, reason))
            self.repeat_end()
            self.end(info)

    def repeat_end(self) -> bool:
        """Tell the other side again that the connection is over. Return whether that may be needed once more."""
        ending = self.ending
        if ending is None or ending.message is None:
            return False
        self._engine.try_publish(self.node, ending.message)
        ending.repeats_left -= 1
        return ending.repeats_left > 0

    def end(self, info: CloseInfo) -> None:
        """End the connection on this side. After a clean end, received messages are still delivered. Idempotent."""
        if self._over.done():
            return
        self.ending = self.ending or Ending(info)
        info = self.ending.info
        self._over.set_result(info)
        self.window.end()
        self._outgoing.batch = MessageBatch()  # its end may be repeated for some time
        self._incoming.pieces.clear()
        self._ended(self)
        if info.was_clean:
            self._deliver()
        else:
            self._incoming.messages.clear()
        self._over.get_loop().call_soon(self._report_end)

    def _report_end(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_lost(self._over.result())

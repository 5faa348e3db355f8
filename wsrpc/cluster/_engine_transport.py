"""`EngineTransport`: a connection between two nodes, over an engine that may lose messages."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from .._base.closing import CloseCode, CloseInfo, check_close
from ..errors import ConnectionLost
from ..transport import ConnectionInfo, Receiver
from ._engine_link import EngineLink
from ._wire import Close, Data, Mark, Reset

SLICE = 32 * 1024
"""Maximum bytes of a batch of messages, unless one message is larger or the engine accepts less."""

AROUND_EACH = 10
"""Maximum bytes that a batch adds to each message: the length, and the number of a binary message."""

HIGH_WATER = 64 * 1024
"""Number of unsent bytes of the engine above which senders wait."""

WINDOW = 128 * 1024
"""For a client's connection: number of bytes that the other node has not passed on, above which senders wait. The
engine keeps them. So that no client fills the engine, its node reads from it no faster than the other node."""

MARK, MARK_OF_CLIENT = 0.1, 0.5
"""Seconds after which a side reports the number of its sent messages. Otherwise the loss of the last messages would not
be noticed. There may be many connections of clients, whose reports would be a large part of the traffic."""


MARKS = 5
"""Number of beats at which a side repeats its report after the last message, or that it has ended the connection. They
take longer than a lease."""


class Batch:
    """Messages that are published together."""

    __slots__ = ("binary", "messages", "more", "size")

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.binary: list[int] = []
        """The indices of the binary messages."""
        self.more = False
        """Whether the last message continues in the next batch."""
        self.size = 0
        """Bytes of all messages, with `AROUND_EACH` for each."""

    def add(self, payload: bytes, text: bool) -> None:
        if not text:
            self.binary.append(len(self.messages))
        self.messages.append(payload)
        self.size += len(payload) + AROUND_EACH


class Incoming:
    """What the other side has sent, until the receiver gets it."""

    __slots__ = ("count", "messages", "pieces")

    def __init__(self) -> None:
        self.count = 0
        """Number of messages and pieces that have arrived."""
        self.messages: deque[tuple[bytes, bool]] = deque()
        """Whole messages, each with whether it is text."""
        self.pieces: list[bytes] = []
        """Pieces of a message of which more will arrive."""

    def add(self, data: Data) -> None:
        self.count += len(data.messages)
        messages, binary = data.messages, set(data.binary)
        if self.pieces or data.more:
            self.pieces.append(messages[0])
            if data.more:
                return  # a piece of which more will arrive travels alone
            messages[0] = b"".join(self.pieces)
            self.pieces.clear()
        self.messages.extend((payload, index not in binary) for index, payload in enumerate(messages))


class Window:
    """How many bytes each side of a connection has sent, and how many of them the other side has passed on."""

    __slots__ = ("passed_on", "reported", "sent", "size", "unread")

    def __init__(self) -> None:
        self.size = math.inf
        """Number of bytes that the other side has not passed on, above which senders wait."""
        self.sent = 0
        self.unread = 0
        """Bytes sent that the other side has not passed on, as far as is known."""
        self.passed_on = 0
        """Bytes that the receiver has got."""
        self.reported = 0
        """What the other side was told of these."""

    def add(self, size: int) -> None:
        self.sent += size
        self.unread += size

    @property
    def is_due(self) -> bool:
        """Whether the other side should be told what was passed on."""
        return self.passed_on - self.reported > self.size / 4


class EngineTransport:
    """One end of a connection between two nodes. It is a `wsrpc.transport.Transport`.

    Each side numbers its messages. If a message is missing, the connection ends on both sides without a Close frame.
    The session then resumes on another connection, and resends the lost messages. Only whole messages can be sent. A
    message that is larger than the engine accepts travels in pieces.

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
        self._incoming = Incoming()
        """It keeps messages that arrive before `start`, or while receiving is paused."""
        self._paused = False
        self._piece = largest
        self._batch = Batch()
        self._sent = 0
        """Number of published messages and pieces."""
        self.window = Window()
        """For the connection of a client, both sides set its size to `WINDOW`."""
        self._marked = asyncio.Event()
        """Set when the other side has reported, and at the end."""
        self._mark_scheduled = False
        self._marks_left = 0
        """Number of beats at which this side still reports, or repeats its last words."""
        self.last_words: Close | Reset | None = None
        """What this side has told the other one to end the connection. None if it has told nothing."""
        self._crowded: asyncio.Task[None] | None = None
        """Task that waits until there is room. None while there is room."""
        self._over: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()

    # ------------------------------------------------------------ out

    @property
    def unsent(self) -> int:
        # What the other node has above the window counts, too: a client that does not read must not fill its memory.
        return self._batch.size + int(max(self._engine.unsent, self.window.unread - self.window.size))

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self._over.done():
            info = self._over.result()
            raise ConnectionLost(info.code, info.reason, "not_sent")
        while len(payload) > self._piece:
            self.flush()
            self._batch.add(payload[: self._piece], text)
            self._batch.more = True
            self.flush()
            payload = payload[self._piece :]
        if self._batch.size + len(payload) > min(
            SLICE, self._piece
        ):  # so that a message of the largest size travels alone
            self.flush()
        if not self._batch.messages:
            self._over.get_loop().call_soon(self.flush)
        self._batch.add(payload, text)

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        raise NotImplementedError("connections between nodes carry whole messages")

    def flush(self) -> None:
        if not self._batch.messages or self._over.done():
            return
        batch, self._batch = self._batch, Batch()
        data = Data(self.conn, self._sent + 1, batch.messages, batch.binary, batch.more)
        self._sent += len(batch.messages)
        self.window.add(sum(map(len, batch.messages)))
        self._marks_left = MARKS
        if not self._mark_scheduled:
            self._mark_scheduled = True
            self._over.get_loop().call_later(MARK if self.window.size == math.inf else MARK_OF_CLIENT, self.mark)
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
        while self.window.unread > self.window.size / 2 and not self._over.done():
            self._marked.clear()
            await self._marked.wait()
        self._crowded = None
        if self._receiver is not None and not self._over.done():
            self._receiver.resume_sending()

    def mark(self) -> None:
        """Report the number of sent messages, so that the loss of the last messages is noticed."""
        self._mark_scheduled = False
        self._report()

    def beat(self) -> None:
        """Repeat the report at a beat of the node, because a report may be lost, too."""
        if self._marks_left:
            self._marks_left -= 1
            self._report()

    def _report(self) -> None:
        if not self._over.done():
            self.window.reported = self.window.passed_on
            self._carry(Mark(self.conn, self._sent, self.window.passed_on))

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
        if self._over.done():
            return
        incoming = self._incoming
        if data.seq != incoming.count + 1:
            self.reset(f"messages {incoming.count + 1} to {data.seq - 1} were lost")
            return
        incoming.add(data)
        if sum(map(len, incoming.pieces)) > self.largest:
            self._close(CloseCode.MESSAGE_TOO_BIG, f"more than {self.largest} bytes")
        else:
            self._deliver()

    def marked(self, mark: Mark) -> None:
        """Handle a report of the other side. Reset the connection if messages are missing."""
        self.window.unread = self.window.sent - mark.read
        self._marked.set()
        self._check_received(mark.seq)

    def _check_received(self, seq: int) -> None:
        if seq > self._incoming.count:
            self.reset(f"messages {self._incoming.count + 1} to {seq} were lost")

    def closed(self, close: Close) -> None:
        """End the connection, because the other side has closed it."""
        self._check_received(close.seq)
        self.end(CloseInfo(close.code, close.reason, was_clean=True))

    @property
    def _active_receiver(self) -> Receiver | None:
        """The receiver, unless receiving is paused. After the end it gets the rest, whether it pauses or not."""
        return None if self._paused and not self._over.done() else self._receiver

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
                self._marks_left = MARKS
            receiver.read_ended()
            if self.window.is_due:
                self._report()

    def pause_receiving(self) -> None:
        self._paused = True

    def resume_receiving(self) -> None:
        if self._paused:
            self._paused = False
            self._over.get_loop().call_soon(self._deliver)

    # ------------------------------------------------------------ the end

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        self._close(check_close(code, reason), reason)

    def _close(self, code: int, reason: str) -> None:
        if not self._over.done():
            self.flush()
            close = Close(self.conn, self._sent, code, reason)
            if self._carry(close):
                self.last_words = close
                # The connection of a client may end before its node gets this.
                self.end(CloseInfo(code, reason, was_clean=self.window.size == math.inf))

    def abort(self) -> None:
        self.reset("aborted")

    def reset(self, reason: str) -> None:
        """End the connection on both sides, without a Close frame."""
        if not self._over.done():
            self.last_words = Reset(self.conn, reason)
            self._engine.try_publish(self.node, self.last_words)
            self.end(CloseInfo(CloseCode.ABNORMAL, reason))

    def repeat_end(self) -> bool:
        """Tell the other side again that the connection is over. Return whether that may be needed once more."""
        assert self.last_words is not None
        self._engine.try_publish(self.node, self.last_words)
        self._marks_left -= 1
        return self._marks_left > 0

    def end(self, info: CloseInfo) -> None:
        """End the connection on this side. After a clean end, received messages are still delivered. Idempotent."""
        if self._over.done():
            return
        self._over.set_result(info)
        self._marked.set()
        self._marks_left = MARKS
        self._batch = Batch()  # its end may be repeated for some time
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

"""The messages of a session that can resume: those sent, which are kept until they have arrived, and those received.

This is the only place where messages are counted. What leaves passes through `ReplayBuffer.through` just before the
transport gets it, and what arrives through `Acknowledger.through` just before it is decoded. So whatever sends
(replies, broadcasts, raw messages, credit) is counted and kept without knowing of it.

Both sides count the same messages: a side's own from its welcome on, or from its ``ack n: 0``. The control messages in
`UNCOUNTED` are not counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from .._base.scheduler import Timer, Timers
from .._protocol.control import Ack, write_control
from ..limits import Limits

__all__ = ["Acknowledger", "Mismatch", "ReplayBuffer"]

ACK_MESSAGES = 64
ACK_BYTES = 64 * 1024
"""So much is acknowledged as soon as it has arrived. It is little compared with what the remote peer may keep."""
ACK_SECONDS = 1.0
"""After this time anything is acknowledged. An idle connection has no timer."""

Send = Callable[[bytes, bool], None]
Receive = Callable[[bytes | bytearray, bool], None]


class Mismatch(Exception):
    """The two sides have counted differently, so messages would be lost or doubled. The text says how."""


class ReplayBuffer:
    """The messages that this side has sent in one session, of which it keeps those that may not have arrived.

    Args:
        limits: ``replay`` and ``replay_messages`` say when it is full. What cannot wait may take ``hard_cap`` more.
        room_changed: called when it becomes full, and when there is room again.
        overflowed: called when it holds more than that. Then nothing may be kept any more.
    """

    __slots__ = (
        "_cap",
        "_kept",
        "_limit",
        "_most",
        "_overflowed",
        "_room",
        "_room_changed",
        "arrived",
        "arrived_bytes",
        "forgets",
        "full",
        "size",
        "write",
    )

    def __init__(self, limits: Limits, room_changed: Callable[[], None], overflowed: Callable[[], None]) -> None:
        self._limit = limits.replay
        self._most = limits.replay_messages
        self._cap = limits.replay + limits.hard_cap
        self._room_changed = room_changed
        self._overflowed = overflowed
        self._room: asyncio.Future[None] | None = None
        """Done when it is full no more. None unless something waits for that."""
        self._kept: deque[tuple[bytes, bool]] = deque()
        self.size = 0
        """Bytes of the messages that are kept."""
        self.arrived = 0
        """How many messages the remote peer has acknowledged, and their bytes. The kept ones follow after these."""
        self.arrived_bytes = 0
        self.write: Send = _no_link
        """Sends on the present connection without counting."""
        self.full = False
        """Whether as much is kept as may be. Then senders wait that can."""
        self.forgets = False
        """Whether nothing is kept any more, see `forget`."""

    def __len__(self) -> int:
        return len(self._kept)

    def through(self, send: Send) -> Send:
        """Return a function that counts and keeps a message, then passes it to ``send``.

        If ``send`` refuses a message, it is neither counted nor kept.
        """
        kept = self._kept
        self.write = send

        def send_counted(payload: bytes, text: bool = True, /) -> None:
            send(payload, text)
            kept.append((payload, text))
            self.size = size = self.size + len(payload)
            if size >= self._limit or len(kept) >= self._most:
                self._is_full(size)

        return send_counted

    def _is_full(self, size: int) -> None:
        if self.forgets:  # what was being sent at the time of `forget` still comes here
            self._kept.clear()
            self.size = 0
        elif size > self._cap and len(self._kept) > 1:
            self._overflowed()
        elif not self.full:
            self.full = True
            self._room_changed()

    def acknowledge(self, n: int, size: int) -> None:
        """Throw away the first ``n`` messages of the session, which have ``size`` bytes in all: they have arrived.

        Raises:
            Mismatch: that cannot be.
        """
        new = n - self.arrived
        if not 0 <= new <= len(self._kept):
            raise Mismatch(f"{n} messages acknowledged, of which {self.arrived} before, but {self.sent} sent")
        kept, arrived = self._kept, 0
        for _ in range(new):
            arrived += len(kept.popleft()[0])
        self.arrived, self.arrived_bytes = n, self.arrived_bytes + arrived
        self.size -= arrived
        if size != self.arrived_bytes:
            raise Mismatch(f"{size} bytes acknowledged in {n} messages, which had {self.arrived_bytes}")
        if self.size < self._limit and len(kept) < self._most:
            self._has_room()

    def forget(self) -> None:
        """Keep nothing any more: the session ends with its connection."""
        self.forgets = True
        self._kept.clear()
        self.size = 0
        self._has_room()

    def _has_room(self) -> None:
        if self.full:
            self.full = False
            if self._room is not None:
                self._room.set_result(None)
                self._room = None
            self._room_changed()

    async def drain(self) -> None:
        """Wait until it is not full. Cancelling is safe."""
        if self.full:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    @property
    def sent(self) -> int:
        """How many messages were sent in all."""
        return self.arrived + len(self._kept)

    def again(self) -> Iterable[tuple[bytes, bool]]:
        """Return the messages that have not arrived, and whether each is text, in order."""
        return tuple(self._kept)


class Acknowledger:
    """Counts the messages that have arrived in one session, and acknowledges them.

    Args:
        tell: sends an acknowledgement. Nothing happens if there is no connection.
    """

    __slots__ = ("_loop", "_tell", "_timer", "_told", "_told_bytes", "bytes", "n")

    def __init__(self, loop: Timers, tell: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._tell = tell
        self.n = 0
        self.bytes = 0
        self._told = 0
        self._told_bytes = 0
        self._timer: Timer | None = None
        """Runs while something has arrived that is not acknowledged."""

    def through(self, receive: Receive) -> Receive:
        """Return a function that counts a message, passes it to ``receive``, and acknowledges now and then."""

        def receive_counted(payload: bytes | bytearray, text: bool, /) -> None:
            size = len(payload)
            self.n += 1
            self.bytes += size
            receive(payload, text)
            if self.n - self._told >= ACK_MESSAGES or self.bytes - self._told_bytes >= ACK_BYTES:
                self.acknowledge()
            elif self._timer is None and self.n != self._told:
                self._timer = self._loop.call_at(self._loop.time() + ACK_SECONDS, self._acknowledge_late)

        return receive_counted

    def leave_out(self, size: int) -> None:
        """Take back the counting of the message of ``size`` bytes that is being received: it is not counted."""
        self.n -= 1
        self.bytes -= size

    def acknowledge(self) -> None:
        """Tell the remote peer how much has arrived."""
        self._told, self._told_bytes = self.n, self.bytes
        self._tell(write_control(Ack(self.n, self.bytes)))

    def note_told(self) -> None:
        """Note that the remote peer has just been told otherwise, as when the session resumes."""
        self._told, self._told_bytes = self.n, self.bytes

    def stop(self) -> None:
        """Acknowledge nothing more: the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _acknowledge_late(self) -> None:
        self._timer = None
        if self.n != self._told:
            self.acknowledge()


def _no_link(payload: bytes, text: bool, /) -> None:
    raise AssertionError("a session counts from its first connection on")

"""Frames of a connection that HTTP requests carry: `FramesOut` has those that wait to be sent, `FramesIn` parses.

A frame is a byte with the kind, four bytes with the length, and the payload. A message that is longer than
`LARGEST_FRAME` travels in several frames, of which all but the last have the bit `MORE`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from struct import Struct

TRANSPORT, CONNECTION, NUMBER = "wsrpc-transport", "wsrpc-connection", "wsrpc-number"
"""Names of headers: how the response carries what is sent, the id of a connection, and the number of a request."""
NO_ROOM = 425
"""Status of the response to a POST that must be sent again. (Proxies answer 503 or 429 themselves.)"""
FRAME_HEAD = Struct(">BI")
"""The kind of a frame, and the length of its payload."""
TEXT, BINARY, CLOSE, PING, PONG, OPENED, NOTHING = range(7)
"""Kinds of frames. `OPENED` is the first one of a server, with the id of the connection. `NOTHING` shows that the
connection works."""
MORE = 0x80
"""Bit of the kind of a data frame: the message continues in the next data frame."""
LARGEST_FRAME = 32 * 1024
"""Maximum bytes of the payload of a frame, and about those of the first body that carries what is sent."""
LARGEST_POST = 256 * 1024
"""About the maximum bytes of a later body: they double while bodies go through quickly. (nginx accepts 1 MiB.)"""
QUICK_POST = 1.0
"""Seconds within which such a body has gone through. While a body is on its way, nothing shows that it moves."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    return FRAME_HEAD.pack(kind, len(payload)) + payload


async def happens(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event. Return whether it has happened in time."""
    if not event.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
    return event.is_set()


class FramesOut:
    """Frames that no carrier has popped, and those of the body that a carrier is sending."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        """Set while something waits to be sent, and at the end."""
        self.unconfirmed = 0
        """Bytes of the frames that have not been carried."""
        self.written = 0
        """Number of bytes that were added."""
        self.messages = 0
        """Number of messages that were added."""
        self.body_limit = LARGEST_FRAME
        """About the maximum bytes of the next body."""
        self._waiting: deque[bytes] = deque()
        self._body = 0
        """Bytes of the frames in the body."""
        self._popped_at = 0.0
        self._pong: bytes | None = None
        """The answer to the last ping. Earlier ones need no answer."""

    @property
    def unsent(self) -> int:
        """Bytes of the frames that no carrier has popped."""
        return self.unconfirmed - self._body

    @property
    def empty(self) -> bool:
        """Whether no frame waits."""
        return not self._waiting

    def add(self, kind: int, payload: bytes = b"") -> None:
        """Add a frame."""
        data = frame(kind, payload)
        self._waiting.append(data)
        self.unconfirmed += len(data)
        self.written += len(data)
        self.ready.set()

    def add_message(self, payload: bytes, text: bool, last: bool) -> None:
        """Add the frames of a message, or of a piece of one."""
        kind, at = TEXT if text else BINARY, 0
        self.messages += last
        while len(payload) - at > LARGEST_FRAME:
            self.add(kind | MORE, payload[at : at + LARGEST_FRAME])
            at += LARGEST_FRAME
        self.add(kind if last else kind | MORE, payload[at:] if at else payload)

    def answer(self, ping: bytes) -> None:
        """Answer a ping."""
        self._pong = ping
        self.ready.set()

    def pop(self, now: float) -> bytes:
        """Return the next body."""
        self._popped_at = now
        popped = [] if self._pong is None else [frame(PONG, self._pong)]
        self._pong = None
        while self._waiting and self._body < self.body_limit:
            popped.append(self._waiting.popleft())
            self._body += len(popped[-1])
        if not self._waiting:
            self.ready.clear()
        return b"".join(popped)

    def carried(self, now: float) -> None:
        """Record that the body was sent."""
        if now - self._popped_at > QUICK_POST:
            self.body_limit = max(self.body_limit // 2, LARGEST_FRAME)
        elif self._body >= self.body_limit:
            self.body_limit = min(self.body_limit * 2, LARGEST_POST)
        self.unconfirmed -= self._body
        self._body = 0

    def end(self) -> None:
        """Drop all frames, because the connection has ended."""
        self._waiting.clear()
        self.unconfirmed = self._body = 0
        self.ready.set()


class FrameTooLong(Exception):
    """A frame has more than `LARGEST_FRAME` bytes."""


class FramesIn:
    """Splits the bytes that arrive into frames."""

    def __init__(self) -> None:
        self.read = 0
        """Number of bytes that have arrived."""
        self.messages = 0
        """Number of messages that have arrived; counted by the transport."""
        self._rest = b""
        """The part of a frame that has arrived."""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield the kind and the payload of each frame that is complete.

        Raises:
            FrameTooLong: what has arrived is not from wsrpc.
        """
        self.read += len(data)
        data, at = self._rest + data, 0
        self._rest = b""
        while len(data) - at >= FRAME_HEAD.size:
            kind, size = FRAME_HEAD.unpack_from(data, at)
            if size > LARGEST_FRAME:
                raise FrameTooLong(f"a frame with {size} bytes")
            if len(data) - at < FRAME_HEAD.size + size:
                break
            at += FRAME_HEAD.size + size
            yield kind, data[at - size : at]
        self._rest = data[at:]

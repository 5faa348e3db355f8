"""Plain data frames: whole messages, unfragmented and without extensions (RFC 6455, section 5.2).

The `websockets` library builds and parses frames of every kind, through several generators and an object for each.
Plain data frames are nearly all of the traffic, so transports build them with a `FrameWriter` and parse them with a
`FrameReader`; the library handles every other frame. That saves most of the cost of receiving a small message, and a
fifth of the cost of a small request.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from struct import Struct

from ..transport import Receiver
from .fairness import Loop

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiler was at hand when the library was installed
    from websockets.utils import apply_mask

__all__ = ["FrameReader", "FrameWriter"]

TEXT, BINARY = 0x81, 0x82  # with FIN, without extensions
PONG = 0x8A
MASKED = 0x80

MASKS = 64
"""Masking keys that are made at once, of random bytes of the operating system."""

LEAST = 2
"""Bytes that every message counts for beside its payload, so that empty ones count, too. No frame is smaller."""

FIRST_PIECE, FIRST_OF_CLIENT, LARGEST_PIECE = 1024, 512, 32 * 1024
"""Bytes that are written together. A burst begins with a small piece, so that the remote peer can start while this one
continues. Each further piece is twice as large, up to the size above which joining costs more than another write.
(Two Python peers with 64 requests pending: 1.9 times the rate of one piece per read, because neither waits for the
other.)

A client takes longer to make its requests than a server takes to answer them, and its first piece is half as large: of
64 small requests 1,024 bytes are 54, and the server would begin only when the client has nearly finished."""


_unpack_masks = Struct("4s" * MASKS).unpack


class FrameWriter(ABC):
    """Builds data frames and writes them together: those that one read caused, or that one turn of the loop sent.

    A base class for the outgoing half of a connection. The subclass implements `write`, which writes what `take`
    returns. A client's frames are masked, each with four fresh random bytes.

    Set ``held`` when a read begins, and call `release` when it has ended: frames that are added meanwhile are written
    at the latest by `release`. Other frames are written at the end of the present turn of the event loop.
    """

    __slots__ = (
        "_first_piece",
        "_frames",
        "_loop",
        "_masked",
        "_masks",
        "_parts",
        "_piece",
        "_scheduled",
        "_sent",
        "held",
        "unwritten",
    )

    def __init__(self, loop: Loop, *, masked: bool) -> None:
        self._loop = loop
        self._masked = masked
        self._masks: list[bytes] = []
        self._frames: list[bytes] = []
        self._parts = 3 if masked else 2
        """Number of entries that a frame has in ``_frames``."""
        self.held = False
        """Whether frames are kept back until `release`. (An attribute because a call for each read costs 1 %.)"""
        self._scheduled = False
        self._first_piece = self._piece = FIRST_OF_CLIENT if masked else FIRST_PIECE
        self._sent = 0
        """Messages that were taken for writing; those in ``_frames`` are counted when they are taken."""
        self.unwritten = 0
        """Bytes that were added and not written."""

    @abstractmethod
    def write(self) -> None:
        """Write what `take` returns, and anything else that is due."""

    @property
    def sent(self) -> int:
        """Messages that were added since the connection began."""
        return self._sent + len(self._frames) // self._parts

    def add(self, payload: bytes, text: bool) -> None:
        """Add a message; writes a piece if that is full."""
        # The hot path of every message: it costs no further Python call while a read is handled.
        size = len(payload)
        frames = self._frames
        if self._masked:
            if not self._masks:
                self._masks.extend(_unpack_masks(os.urandom(4 * MASKS)))
            mask = self._masks.pop()
            if size < 126:
                frames.append(_MASKED_TEXT[size] if text else _MASKED_BINARY[size])
            else:
                frames.append(_long_header(TEXT if text else BINARY, size, MASKED))
            frames.append(mask)
            frames.append(apply_mask(payload, mask))
        else:
            if size < 126:
                frames.append(_SHORT_TEXT[size] if text else _SHORT_BINARY[size])
            else:
                frames.append(_long_header(TEXT if text else BINARY, size, 0))
            frames.append(payload)
        self.unwritten = unwritten = self.unwritten + size + LEAST
        if unwritten >= self._piece:
            self._piece = min(2 * self._piece, LARGEST_PIECE)
            self.write()
        elif not (self.held or self._scheduled):
            self._schedule()

    def added(self, size: int, messages: int = 1) -> None:
        """Count a frame of ``size`` bytes that the library has built, and that `write` will write."""
        self._sent += messages
        self.unwritten += size + LEAST
        if self.unwritten >= self._piece:
            self._piece = min(2 * self._piece, LARGEST_PIECE)
            self.write()
        elif not (self.held or self._scheduled):
            self._schedule()

    def count(self, messages: int) -> None:
        """Count messages that were not written by `write`."""
        self._sent += messages

    def take(self) -> bytes:
        """Return the frames that were added since the last call."""
        self.unwritten = 0
        frames = self._frames
        self._sent += len(frames) // self._parts
        data = b"".join(frames)
        frames.clear()
        return data

    def release(self, *, in_burst: bool = False) -> None:
        """Write what was kept back. In a burst the next piece is a large one again: the remote peer has begun already,
        and small writes would only cost. (64 echoes of 1 KiB: 10 µs each instead of 12.)"""
        self.held = False
        if not in_burst:
            self._piece = self._first_piece
        if self.unwritten:
            self.write()

    def flush(self) -> None:
        """Write now what was added."""
        if self.unwritten:
            self.write()

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._turn_ended)

    def _turn_ended(self) -> None:
        self._scheduled = False
        self._piece = self._first_piece
        if self.unwritten:
            self.write()


class FrameReader:
    """Parses plain data frames. Frames for a server are masked; ``largest`` is the largest message that it accepts.

    Any other frame, and everything after it, is left to the library, which judges it.
    """

    __slots__ = ("_masked", "_rest", "between_frames", "bytes", "largest", "messages", "missing")

    def __init__(self, *, masked: bool, largest: int) -> None:
        self._masked = MASKED if masked else 0
        self._rest: bytes | bytearray = b""
        self.largest = largest
        self.bytes = 0
        """Bytes that the connection has received; counted by the transport."""
        self.messages = 0
        """Messages that the connection has received; the transport adds those that the library parsed."""
        self.missing = 0
        """Bytes that a half-received message still lacks, as far as its size is known."""
        self.between_frames = False
        """Whether the library has parsed all that it was given, so that frames need not pass through it."""

    def feed(self, data: bytes, receiver: Receiver) -> bytes | bytearray:
        """Pass the messages in ``data`` to ``receiver``. Returns everything from the first frame on that is not plain.

        The beginning of a plain frame is kept until the rest of it arrives.
        """
        masked, largest = self._masked, self.largest
        head = 6 if masked else 2
        buffer: bytes | bytearray = data
        if self._rest:
            buffer = self.take_rest()
            buffer += data
        position, end = 0, len(buffer)
        count, plain = 0, True
        while end - position >= head:
            first = buffer[position]
            size = buffer[position + 1] ^ masked
            start = position + head
            if (first != TEXT and first != BINARY) or size >= MASKED:
                plain = False
                break
            if size >= 126:
                more = 2 if size == 126 else 8
                if end - start < more:
                    break
                size = int.from_bytes(buffer[position + 2 : position + 2 + more], "big")
                start += more
            if size > largest:
                plain = False
                break
            after = start + size
            if after > end:
                self.missing = after - end
                break
            payload = buffer[start:after]
            if masked:
                payload = apply_mask(payload, buffer[start - 4 : start])
            count += 1
            receiver.receive(payload, first == TEXT)  # looked up each time: the receiver may have changed meanwhile
            position = after
        self.messages += count
        if not plain:
            return buffer[position:] if position else buffer
        if position < end:
            self._rest = buffer if position == 0 and isinstance(buffer, bytearray) else bytearray(buffer[position:])
        return b""

    def only_pong(self, data: bytes) -> bytes | None:
        """Return the payload of a pong if ``data`` is one pong and nothing else, as on every idle connection."""
        size = data[1] ^ self._masked if len(data) > 1 else MASKED
        if data[0] != PONG or size >= 126 or len(data) != (6 if self._masked else 2) + size:
            return None
        return apply_mask(data[6:], data[2:6]) if self._masked else data[2:]

    def take_rest(self) -> bytearray:
        """Return the beginning of a frame that was kept, for the library to continue with."""
        rest, self._rest = self._rest, b""
        self.missing = 0
        return rest if isinstance(rest, bytearray) else bytearray(rest)


def _long_header(first: int, size: int, masked: int) -> bytes:
    if size < 65536:
        return bytes((first, masked | 126)) + size.to_bytes(2, "big")
    return bytes((first, masked | 127)) + size.to_bytes(8, "big")


_SHORT_TEXT = [bytes((TEXT, size)) for size in range(126)]
_SHORT_BINARY = [bytes((BINARY, size)) for size in range(126)]
_MASKED_TEXT = [bytes((TEXT, MASKED | size)) for size in range(126)]
_MASKED_BINARY = [bytes((BINARY, MASKED | size)) for size in range(126)]

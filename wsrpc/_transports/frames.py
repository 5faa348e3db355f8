"""Plain data frames: whole messages, unfragmented and without extensions (RFC 6455, section 5.2).

The `websockets` library builds and parses frames of every kind, through several generators and an object for each.
Plain data frames are nearly all of the traffic, so transports build them with a `FrameWriter` and parse them with a
`FrameReader`; the library judges and answers every other frame. That saves most of the cost of receiving a small
message, and a fifth of the cost of a small request.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from struct import Struct
from typing import Any, Protocol
from weakref import WeakKeyDictionary, proxy

from .._base.closing import CloseCode
from .fairness import Loop

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiler was at hand when the library was installed
    from websockets.utils import apply_mask

__all__ = ["FrameReader", "FrameWriter"]

TEXT, BINARY = 0x81, 0x82  # with FIN, without extensions
PONG = 0x8A
OPCODES = frozenset({0, 1, 2, 8, 9, 10})
CONTROL = 0x08
MASKED = 0x80

MASKS = 64
"""Masking keys that are made at once, of random bytes of the operating system."""

LEAST = 2
"""Bytes that every message counts for beside its payload, so that empty ones count, too. No frame is smaller."""

COPIED = 4096
"""Bytes of the smallest payload that is not copied once more. (A view costs as much as copying 2 KiB.)"""

FIRST_PIECE, FIRST_OF_CLIENT, LARGEST_PIECE = 1024, 512, 32 * 1024
"""Bytes that are written together. A burst begins with a small piece, so that the remote peer can start while this one
continues. Each further piece is twice as large, up to the size above which joining costs more than another write.
(Two Python peers with 64 requests pending: 1.9 times the rate of one piece per read, because neither waits for the
other.)

A client takes longer to make its requests than a server takes to answer them, and its first piece is half as large: of
64 small requests 1,024 bytes are 54, and the server would begin only when the client has nearly finished."""


_unpack_masks = Struct("4s" * MASKS).unpack


# The block is freed at once, and that is its use. glibc returns free memory at the end of the heap to the operating
# system, by default from 128 KiB on, which is less than one large message takes. So each message got fresh pages, which
# took a quarter of the time of an echo of 64 KiB, and nearly half of one of 1 MiB. Freeing a block that was mapped
# makes glibc keep twice its size (mallopt(3), M_MMAP_THRESHOLD), unless the user has set these parameters. Elsewhere it
# does nothing.
bytes(4 * 1024 * 1024)


class TurnEnd:
    """Writers that write at the end of the present turn of one event loop: one callback for all of them.

    A broadcast to a thousand connections would otherwise schedule a thousand callbacks, which costs a fifth of it.
    """

    __slots__ = ("_loop", "_scheduled", "_writers")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._scheduled = False
        self._writers: deque[FrameWriter] = deque()

    def add(self, writer: FrameWriter) -> None:
        """Call ``writer.turn_ended()`` at the end of the turn."""
        self._writers.append(writer)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._loop.call_soon(self._ended)
        self._scheduled = True  # only now: in another thread asyncio's debug mode refuses the call

    def _ended(self) -> None:
        self._scheduled = False
        writers = self._writers
        try:
            for _ in range(len(writers)):  # those that are added meanwhile belong to the next turn
                writers.popleft().turn_ended()
        finally:
            if writers and not self._scheduled:  # one has raised: the others write all the same
                self._schedule()


_turn_ends: WeakKeyDictionary[Any, TurnEnd] = WeakKeyDictionary()


def turn_end_of(loop: Loop) -> TurnEnd:
    """Return the `TurnEnd` of ``loop``, which all its connections share."""
    end = _turn_ends.get(loop)
    if end is None:
        weak: Any = proxy(loop)  # a reference would keep the loop alive
        end = _turn_ends[loop] = TurnEnd(weak)
    return end


class FrameWriter(ABC):
    """Builds data frames, and writes all frames that are added in one read, or in one turn of the event loop, together.

    Base class for the outgoing half of a connection. The subclass implements `write`, which writes the bytes that
    `take` returns. The frames of a client are masked, each with four new random bytes.

    Set ``held`` when a read begins, and call `release` when the read has been handled. Frames that are added meanwhile
    are written by `release` at the latest. Other frames are written at the end of the current turn of the event loop.
    """

    __slots__ = (
        "_first_piece",
        "_frames",
        "_masked",
        "_masks",
        "_parts",
        "_piece",
        "_scheduled",
        "_sent",
        "_turn_end",
        "diverts",
        "held",
        "unwritten",
    )

    def __init__(self, loop: Loop, *, masked: bool) -> None:
        self._turn_end = turn_end_of(loop)
        self._masked = masked
        self._masks: list[bytes] = []
        self._frames: list[bytes] = []
        self._parts = 3 if masked else 2
        """Number of entries that a frame has in ``_frames``."""
        self.held = False
        """Whether frames are kept back until `release`. (This is an attribute, because a method call for each read
        would cost 1 %.)"""
        self.diverts = False
        """Whether `add` passes messages to `divert`. The subclass then has to implement `divert`."""
        self._scheduled = False
        self._first_piece = self._piece = FIRST_OF_CLIENT if masked else FIRST_PIECE
        self._sent = 0
        """Messages that were taken for writing; those in ``_frames`` are counted when they are taken."""
        self.unwritten = 0
        """The number of bytes that were added but not written."""

    @abstractmethod
    def write(self) -> None:
        """Write the bytes that `take` or `take_parts` returns, and any other bytes that have to be written."""

    @property
    def sent(self) -> int:
        """The total number of messages that were added."""
        return self._sent + len(self._frames) // self._parts

    def add(self, payload: bytes, text: bool = True, /) -> None:
        """Add a message. If enough bytes for one piece are waiting, write them. Raises the exceptions of `divert`."""
        # The hot path of every message: it costs no further Python call while a read is handled.
        if self.diverts:
            self.divert(payload, text)
            return
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

    def divert(self, payload: bytes, text: bool) -> None:
        """Handle a message for which no frame can be built, for example because the connection has ended."""
        raise NotImplementedError

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
        """Return the frames that were added since the last call, as one bytes object."""
        self.unwritten = 0
        frames = self._frames
        self._sent += len(frames) // self._parts
        data = b"".join(frames)
        frames.clear()
        return data

    def take_parts(self) -> list[bytes]:
        """Return the frames that were added since the last call, as a list of their parts.

        For large frames, this is less work than `take`, if the parts can be written separately.
        """
        self.unwritten = 0
        frames, self._frames = self._frames, []
        self._sent += len(frames) // self._parts
        return frames

    def release(self, *, in_burst: bool = False) -> None:
        """Write the frames that were kept back.

        With ``in_burst``, the next piece is not made small. The remote peer is still handling the previous piece, so
        small writes would only cost time. (64 echoes of 1 KiB: 10 µs for each echo instead of 12 µs.)
        """
        self.held = False
        if not in_burst:
            self._piece = self._first_piece
        if self.unwritten:
            self.write()

    def flush(self) -> None:
        """Write all added frames immediately."""
        if self.unwritten:
            self.write()

    def _schedule(self) -> None:
        self._scheduled = True
        self._turn_end.add(self)

    def turn_ended(self) -> None:
        """Write the frames that were added in a turn of the event loop, at the end of the turn."""
        self._scheduled = False
        self._piece = self._first_piece
        if self.unwritten:
            self.write()


class Sink(Protocol):
    """Takes the messages: a `Receiver`, or `Delivery` until there is a receiver."""

    def receive(self, payload: bytes | bytearray, text: bool, /) -> object: ...


class OtherFrames(Protocol):
    """What takes the frames that are not plain: the transport, which asks the library."""

    def frame(self, data: bytes, /) -> None:
        """Handle a frame; or, if its header is invalid, what there is of it."""

    def pong(self, payload: bytes, /) -> None:
        """Handle the payload of a pong."""

    def refuse(self, code: CloseCode, reason: str, /) -> None:
        """Close the connection because of a frame that is too large to be read."""

    def too_big(self, size: int, /) -> None:
        """Close the connection because of a data frame with ``size`` bytes, more than `FrameReader.largest`."""


class FrameReader:
    """Splits what arrives into frames, and delivers plain messages. Frames for a server are masked.

    Every other frame is passed on when it is complete, so that a library which parses it never keeps a part of one.
    """

    __slots__ = ("_masked", "_missing", "_rest", "bytes", "largest", "messages", "plain", "stopped")

    def __init__(self, *, masked: bool, bytes: int = 0) -> None:
        self._masked = MASKED if masked else 0
        self._rest: bytearray | None = None
        """The beginning of a frame whose rest has not arrived."""
        self._missing = 0
        """Bytes that this frame still lacks, as far as its size is known."""
        self.largest = 0
        """Maximum number of bytes of the next data frame."""
        self.plain = True
        """Whether a data frame can be a whole message: there is no compression, and none of a message has arrived."""
        self.bytes = bytes
        """Bytes that the connection has received; counted by the transport."""
        self.messages = 0
        """Messages that the connection has received; the transport adds those that the library parsed."""
        self.stopped = False
        """Whether everything else that arrives is ignored."""

    def ignore_rest(self) -> None:
        """Pass nothing on any more, not even from the present read: the connection is over."""
        self.stopped = True
        self.plain = False

    def feed(self, data: bytes, sink: Sink, others: OtherFrames) -> None:
        """Pass the messages in ``data`` to ``sink``, and all other frames to ``others``.

        The beginning of a frame is kept until the rest of it arrives.
        """
        if self.stopped:
            return
        masked = self._masked
        head = 6 if masked else 2
        buffer = data if self._rest is None else self._with_rest(data)
        position, end = 0, len(buffer)
        count = 0
        kinds, largest = (_IS_TEXT if self.plain else _NONE_IS_TEXT), self.largest
        while True:
            # Not the condition of the loop: Python 3.11 specializes only comparisons that decide about a jump forward.
            start = position + head
            if start > end and (end - position < 2 or self._is_valid(buffer, position)):
                break
            text = kinds[buffer[position]]
            size = buffer[position + 1] ^ masked
            if text is None or size >= 126:
                if not self._is_valid(buffer, position):
                    others.frame(bytes(buffer[position:]))
                    position = end
                    break
                if size >= 126:
                    if buffer[position] & CONTROL:
                        others.refuse(CloseCode.PROTOCOL_ERROR, "control frame too long")
                        position = end
                        break
                    start += 2 if size == 126 else 8
                    if end < start:
                        break
                    if size == 126:
                        size = buffer[position + 2] << 8 | buffer[position + 3]
                    else:
                        size = int.from_bytes(buffer[position + 2 : position + 10], "big")
            after = start + size
            if size > largest and not buffer[position] & CONTROL:
                others.too_big(size)
                position = end
                break
            if after > end:
                self._missing = after - end
                break
            if text is None:
                if buffer[position] == PONG:
                    pong = bytes(buffer[start:after])
                    others.pong(apply_mask(pong, buffer[start - 4 : start]) if masked else pong)
                else:
                    others.frame(bytes(buffer[position:after]))
                    kinds, largest = (_IS_TEXT if self.plain else _NONE_IS_TEXT), self.largest
            else:
                if size < COPIED:
                    payload = buffer[start:after]
                    if masked:
                        payload = apply_mask(payload, buffer[start - 4 : start])
                else:
                    view = memoryview(buffer)[start:after]
                    payload = apply_mask(view, buffer[start - 4 : start]) if masked else bytes(view)
                count += 1
                receive = sink.receive  # looked up each time: the receiver may have changed meanwhile
                receive(payload, text)
            position = after
            if self.stopped:
                position = end
                break
        self.messages += count
        if position < end:
            self._rest = bytearray(memoryview(buffer)[position:])

    def _is_valid(self, buffer: bytes | bytearray, position: int) -> bool:
        """Whether a frame at ``position`` has a known opcode, and is masked if it has to be."""
        return buffer[position] & 0x0F in OPCODES and buffer[position + 1] & MASKED == self._masked

    def only_message(self, data: bytes) -> bytes | None:
        """Return the payload if ``data`` is one short message and nothing else, as from many clients that say little.

        `feed` would deliver the same message. Returns None for everything else, which `feed` takes.
        """
        size = len(data) - (6 if self._masked else 2)
        if (
            size < 0
            or size >= 126
            or data[1] != self._masked | size
            or ((first := data[0]) != TEXT and first != BINARY)
            or self._rest
            or not self.plain
            or size > self.largest
        ):
            return None
        self.messages += 1
        return apply_mask(data[6:], data[2:6]) if self._masked else data[2:]

    def _with_rest(self, data: bytes) -> bytes | bytearray:
        """Return what was kept with ``data`` behind it; nothing while the frame is still not complete."""
        rest, self._rest = self._rest, None
        assert rest is not None
        if len(data) < self._missing:
            self._missing -= len(data)
            rest += data
            self._rest = rest
            return b""
        self._missing = 0
        if len(rest) < COPIED:
            return b"".join((rest, data))  # parts of bytes are read in half the time of parts of a bytearray
        rest += data
        return rest


def _long_header(first: int, size: int, masked: int) -> bytes:
    return _MIDDLE(first, masked | 126, size) if size < 65536 else _LARGE(first, masked | 127, size)


_MIDDLE, _LARGE = Struct("!BBH").pack, Struct("!BBQ").pack


_IS_TEXT: list[bool | None] = [None] * 256
"""By the first byte of a frame: whether the message is text; None if it is no plain message."""
_IS_TEXT[TEXT], _IS_TEXT[BINARY] = True, False
_NONE_IS_TEXT: list[bool | None] = [None] * 256

_SHORT_TEXT = [bytes((TEXT, size)) for size in range(126)]
_SHORT_BINARY = [bytes((BINARY, size)) for size in range(126)]
_MASKED_TEXT = [bytes((TEXT, MASKED | size)) for size in range(126)]
_MASKED_BINARY = [bytes((BINARY, MASKED | size)) for size in range(126)]

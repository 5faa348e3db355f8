"""Frames (RFC 6455, section 5.2): `FrameWriter` builds them, and `FrameReader` parses them.

The `websockets` library builds and parses each frame with several generators and an object. Without them, receiving a
small message takes a fraction of the time, and a small request takes a fifth less.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from struct import Struct
from typing import Protocol

from .._base.closing import CloseCode
from .loop_budget import Loop, shared

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiler was at hand when the library was installed
    from websockets.utils import apply_mask

FIN, RESERVED = 0x80, 0x70
TEXT, BINARY = 0x81, 0x82  # whole messages: with FIN, without extensions
CLOSE, PING, PONG = 0x88, 0x89, 0x8A
OPCODES = frozenset({0, 1, 2, 8, 9, 10})
CONTROL = 0x08
MASKED = 0x80

MASKS = 64
"""Number of masking keys that are made together, from random bytes of the operating system."""

FRAME_OVERHEAD = 2
"""Bytes that every message counts for besides its payload, so that empty messages count, too. No frame is smaller."""

COPIED = 4096
"""Minimum bytes of a payload for which a memoryview avoids a copy. (A memoryview costs as much as copying 2 KiB.)"""

FIRST_PIECE, FIRST_OF_CLIENT, LARGEST_PIECE = 1024, 512, 32 * 1024
"""Bytes that are written together. A burst begins with a small piece, so that the remote peer can start while this one
continues. Each further piece is twice as large, up to the size above which joining costs more than another write.
(Two Python peers with 64 requests pending: 1.9 times the rate of one piece per read, because neither waits for the
other.)

A client takes longer to make its requests than a server takes to answer them, and its first piece is half as large: of
64 small requests 1,024 bytes are 54, and the server would begin only when the client has nearly finished."""


_unpack_masks = Struct("4s" * MASKS).unpack


# This block is freed at once, to change a setting of glibc, as docs/explanation/performance.md says. By default, glibc
# returns free memory at the end of the heap to the operating system if it is more than 128 KiB, which is less than one
# large message needs. So each one got fresh pages, which took 38 % of the CPU time of a server that echoes 1 MiB (2 %
# for 64 KiB). When a mapped block is freed, glibc keeps up to twice its size from then on (mallopt(3),
# M_MMAP_THRESHOLD), unless the user has set these parameters. With other C libraries this statement has no effect.
bytes(4 * 1024 * 1024)


class TurnEnd:
    """The writers that write at the end of the event loop's present turn, with one callback for all of them.

    With one callback for each connection, a broadcast to a thousand connections would take a fifth more time.
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
            for _ in range(len(writers)):  # writers that are added meanwhile belong to the next turn
                writers.popleft().turn_ended()
        finally:
            if writers and not self._scheduled:  # a writer has raised an exception: the others still write
                self._schedule()


class FrameWriter(ABC):
    """Builds frames, and writes all frames that are added in one read, or in one turn of the event loop, together.

    Base class for the outgoing half of a connection. The subclass implements `write`, which writes the bytes that
    `pop_frames` returns. The frames of a client are masked, each with four new random bytes.

    Set ``in_read`` when a read begins, and call `release` when it has been handled. Frames that are added meanwhile
    are written by `release` at the latest. Other frames are written at the end of the current turn of the event loop.
    """

    def __init__(self, loop: Loop, *, masked: bool) -> None:
        self._turn_end = shared(loop, TurnEnd)
        self._masked = MASKED if masked else 0
        self._masks: list[bytes] = []
        self._frames: list[bytes] = []
        self._parts = 3 if masked else 2
        """Number of entries that a frame has in ``_frames``."""
        self.in_read = False
        """Whether frames are kept back until `release`. (This is an attribute, because a method call for each read
        would cost 1 %.)"""
        self.diverts = False
        """Whether `add` passes messages to `divert`. The subclass then has to implement `divert`."""
        self._scheduled = False
        self._first_piece = self._piece = FIRST_OF_CLIENT if masked else FIRST_PIECE
        self._sent = 0
        """Messages that were taken for writing, less the frames in ``_frames`` that do not end a message."""
        self.unwritten = 0
        """The number of bytes that were added but not written."""

    @abstractmethod
    def write(self) -> None:
        """Write the bytes that `pop_frames` returns, and any other bytes that have to be written."""

    @property
    def sent(self) -> int:
        """The total number of messages that were added."""
        return self._sent + len(self._frames) // self._parts

    def add(self, payload: bytes, text: bool = True, /) -> None:
        """Add a message. If enough bytes for one piece are waiting, write them. Raises the exceptions of `divert`."""
        # Fast path of `add_frame` for whole messages. It makes no further Python call while a read is handled. (With
        # it, a broadcast to 200 connections takes a tenth less time.)
        if self.diverts:
            self.divert(payload, text)
            return
        size = len(payload)
        frames = self._frames
        heads = _TEXT_HEADS if text else _BINARY_HEADS
        if self._masked:
            if not self._masks:
                self._masks.extend(_unpack_masks(os.urandom(4 * MASKS)))
            mask = self._masks.pop()
            frames.append(heads[MASKED | size] if size < 126 else _header(TEXT if text else BINARY, MASKED, size))
            frames.append(mask)
            frames.append(apply_mask(payload, mask))
        else:
            frames.append(heads[size] if size < 126 else _header(TEXT if text else BINARY, 0, size))
            frames.append(payload)
        self.unwritten = unwritten = self.unwritten + size + FRAME_OVERHEAD
        if unwritten >= self._piece:
            self._write_piece()
        elif not (self.in_read or self._scheduled):
            self._schedule()

    def add_frame(self, first: int, payload: bytes) -> None:
        """Add a frame of any kind. Its ``first`` byte consists of FIN, the reserved bits and the opcode."""
        self._frames.append(_header(first, self._masked, len(payload)))
        if self._masked:
            mask = os.urandom(4)
            self._frames += mask, apply_mask(payload, mask)
        else:
            self._frames.append(payload)
        if first < FIN or first & CONTROL:
            self._sent -= 1  # it does not end a message
        self.unwritten += len(payload) + FRAME_OVERHEAD
        if self.unwritten >= self._piece:
            self._write_piece()
        elif not (self.in_read or self._scheduled):
            self._schedule()

    def _write_piece(self) -> None:
        self._piece = min(2 * self._piece, LARGEST_PIECE)
        self.write()

    def _schedule(self) -> None:
        self._scheduled = True
        self._turn_end.add(self)

    def divert(self, payload: bytes, text: bool) -> None:
        """Handle a message that is not to be added as it is, for example because the connection has ended."""
        raise NotImplementedError

    def pop_frames(self) -> bytes:
        """Return the frames that were added since the last call, as one bytes object."""
        self.unwritten = 0
        frames = self._frames
        self._sent += len(frames) // self._parts
        data = b"".join(frames)
        frames.clear()
        return data

    def release(self, *, in_burst: bool = False) -> None:
        """Write the frames that were kept back.

        With ``in_burst``, the next piece is not made small. The remote peer is still handling the previous piece, so
        small writes would only cost time.
        """
        self.in_read = False
        if not in_burst:
            self._piece = self._first_piece
        if self.unwritten:
            self.write()

    def flush(self) -> None:
        """Write all added frames immediately."""
        if self.unwritten:
            self.write()

    def turn_ended(self) -> None:
        """Write the frames that were added in a turn of the event loop, at the end of the turn."""
        self._scheduled = False
        self._piece = self._first_piece
        if self.unwritten:
            self.write()


class Sink(Protocol):
    """Gets the messages: a `Receiver`, or `Delivery` until there is a receiver."""

    def receive(self, payload: bytes | bytearray, text: bool, /) -> object: ...


class OtherFrames(Protocol):
    """Handles the frames that are not whole messages, and violations of the protocol. The transport implements this."""

    def frame(self, first: int, payload: bytes, /) -> None:
        """Handle a frame. Its ``first`` byte consists of FIN, the reserved bits and the opcode."""

    def finish(self, code: CloseCode, reason: str, /) -> None:
        """Close the connection because of a frame that breaks the rules."""

    def too_big(self, size: int, /) -> None:
        """Close the connection because of a data frame with ``size`` bytes, more than `FrameReader.largest`."""


class FrameReader:
    """Splits received bytes into frames, and delivers plain messages. Frames for a server are masked.

    A plain message is a single frame without extensions, as nearly all messages are.
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

    @property
    def partial(self) -> bool:
        """Whether the beginning of a frame has arrived, and the rest of it has not."""
        return self._rest is not None

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
            if start > end and (end - position < 2 or self._violation(buffer, position) is None):
                break
            text = kinds[buffer[position]]
            size = buffer[position + 1] ^ masked
            if text is None or size >= 126:
                if (violation := self._violation(buffer, position)) is not None:
                    others.finish(CloseCode.PROTOCOL_ERROR, violation)
                    break
                if size >= 126:
                    start += 2 if size == 126 else 8
                    if end < start:
                        break
                    if size == 126:
                        size = buffer[position + 2] << 8 | buffer[position + 3]
                        shortest = size >= 126
                    else:
                        size = int.from_bytes(buffer[position + 2 : position + 10], "big")
                        shortest = 65536 <= size < 2**63
                    if not shortest:
                        others.finish(CloseCode.PROTOCOL_ERROR, "invalid payload length")
                        break
            after = start + size
            if size > largest and not buffer[position] & CONTROL:
                others.too_big(size)
                break
            if after > end:
                self._missing = after - end
                break
            if size < COPIED:
                payload = buffer[start:after]
                if masked:
                    payload = apply_mask(payload, buffer[start - 4 : start])
            else:
                view = memoryview(buffer)[start:after]
                payload = apply_mask(view, buffer[start - 4 : start]) if masked else bytes(view)
            if text is None:
                others.frame(buffer[position], bytes(payload))
                kinds, largest = (_IS_TEXT if self.plain else _NONE_IS_TEXT), self.largest
            else:
                count += 1
                receive = sink.receive  # looked up each time: the receiver may have changed meanwhile
                receive(payload, text)
            position = after
            if self.stopped:
                break
        self.messages += count
        if position < end and not self.stopped:
            self._rest = bytearray(memoryview(buffer)[position:])

    def _violation(self, buffer: bytes | bytearray, position: int) -> str | None:
        """Return the rule that the first two bytes of the frame at ``position`` break. None if they break no rule."""
        first, second = buffer[position], buffer[position + 1]
        if first & 0x0F not in OPCODES:
            return "invalid opcode"
        if second & MASKED != self._masked:
            return "incorrect masking"
        if first & CONTROL and second & 0x7F > 125:
            return "control frame too long"
        return None

    def _with_rest(self, data: bytes) -> bytes | bytearray:
        """Return the kept bytes followed by ``data``. Return nothing while the frame is not complete."""
        rest, self._rest = self._rest, None
        assert rest is not None
        if len(data) < self._missing:
            self._missing -= len(data)
            rest += data
            self._rest = rest
            return b""
        self._missing = 0
        if len(rest) < COPIED:
            return b"".join((rest, data))  # slices of bytes are faster than slices of a bytearray
        rest += data
        return rest


def _header(first: int, masked: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, masked | size))
    return _MIDDLE(first, masked | 126, size) if size < 65536 else _LARGE(first, masked | 127, size)


_MIDDLE, _LARGE = Struct("!BBH").pack, Struct("!BBQ").pack

_TEXT_HEADS, _BINARY_HEADS = ([bytes((first, second)) for second in range(256)] for first in (TEXT, BINARY))
"""Headers of small messages, by the second byte."""

_IS_TEXT: list[bool | None] = [None] * 256
"""For the first byte of a frame: whether the message is text. None if the frame is not a plain message."""
_IS_TEXT[TEXT], _IS_TEXT[BINARY] = True, False
_NONE_IS_TEXT: list[bool | None] = [None] * 256

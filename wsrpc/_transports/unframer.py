"""Taking plain data frames apart (RFC 6455, section 5.2): whole messages, unfragmented, nearly all there is.

The `websockets` library parses frames of every kind, through several generators and an object for each; for small
messages that is most of what receiving one costs. Whatever is not plain is left to the library, which judges it.
"""

from __future__ import annotations

from ..transport import Receiver
from .frames import apply_mask

__all__ = ["Unframer"]

TEXT, BINARY = 0x81, 0x82  # with FIN, without extensions
PONG = 0x8A
MASKED = 0x80


class Unframer:
    """Takes frames as far as they are plain. A server's are ``masked``; ``largest`` bounds a message."""

    __slots__ = ("_masked", "_rest", "largest", "messages", "missing")

    def __init__(self, *, masked: bool, largest: int) -> None:
        self._masked = MASKED if masked else 0
        self.largest = largest
        self.messages = 0
        """How many there were."""
        self._rest: bytes | bytearray = b""
        self.missing = 0
        """Bytes of the message that is half there which have not come yet, as far as is known."""

    def feed(self, data: bytes, receiver: Receiver) -> bytes | bytearray:
        """Hand the messages in ``data`` to ``receiver``. Returns everything from the first frame on that is not plain.

        The beginning of a plain one is kept until the rest of it arrives.
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
            receiver.receive(payload, first == TEXT)  # looked up each time: it may have been detached meanwhile
            position = after
        self.messages += count
        if not plain:
            return buffer[position:] if position else buffer
        if position < end:
            self._rest = buffer if position == 0 and isinstance(buffer, bytearray) else bytearray(buffer[position:])
        return b""

    def only_pong(self, data: bytes) -> bytes | None:
        """The payload of a pong, if ``data`` is one and nothing else: all that an idle connection brings."""
        size = data[1] ^ self._masked if len(data) > 1 else MASKED
        if data[0] != PONG or size >= 126 or len(data) != (6 if self._masked else 2) + size:
            return None
        return apply_mask(data[6:], data[2:6]) if self._masked else data[2:]

    def take_rest(self) -> bytearray:
        """What was kept, for the library to go on with."""
        rest, self._rest = self._rest, b""
        self.missing = 0
        return rest if isinstance(rest, bytearray) else bytearray(rest)

"""Boundaries of the WebSocket frames in a stream of bytes."""

from __future__ import annotations

LONGEST_HEAD = 64 * 1024
"""Bytes of an HTTP head, above which the stream is taken for something else."""


class FrameBoundaries:
    """Follows one direction of a connection from its first byte: an HTTP head, then frames. Keeps no payload.

    A stream that is not a WebSocket's (a refused handshake, or anything but HTTP) has no frames.
    """

    def __init__(self) -> None:
        self._begun = bytearray()  # of an HTTP head, or of a frame's header
        self._is_websocket: bool | None = None  # None in the HTTP head
        self._left = 0  # bytes of the present frame's payload

    def feed(self, data: bytes) -> int | None:
        """Follow the next bytes.

        Returns:
            Position of the middle of the first payload that begins in ``data``, counted from the start of ``data``. It
            may lie behind the end of ``data``. None if no payload begins there.
        """
        at = self._end_of_head(data) if self._is_websocket is None else 0
        if not self._is_websocket:
            return None
        size = len(data)
        middle: int | None = None
        while size - at > self._left:
            at += self._left
            self._left = 0
            missing = self._header_size() - len(self._begun)
            piece = data[at : at + missing]
            self._begun += piece
            at += len(piece)
            if len(self._begun) == self._header_size():
                self._left = self._payload_size()
                self._begun.clear()
                if middle is None and self._left:
                    middle = at + self._left // 2
        self._left -= size - at
        return middle

    def _end_of_head(self, data: bytes) -> int:
        """Position in ``data`` at which the HTTP head ends, or the end of ``data``."""
        before = len(self._begun)
        self._begun += data
        head, end, _ = self._begun.partition(b"\r\n\r\n")
        if end:
            self._is_websocket = not head.startswith(b"HTTP/") or head[:12].endswith(b" 101")
        elif len(head) > LONGEST_HEAD:
            self._is_websocket = False
        else:
            return len(data)
        self._begun.clear()
        return len(head) + len(end) - before

    def _header_size(self) -> int:
        """Bytes of the present frame's header, as far as is known from its first two bytes."""
        if len(self._begun) < 2:
            return 2
        second = self._begun[1]
        return 2 + {126: 2, 127: 8}.get(second & 0x7F, 0) + (4 if second & 0x80 else 0)

    def _payload_size(self) -> int:
        size = self._begun[1] & 0x7F
        if size < 126:
            return size
        return int.from_bytes(self._begun[2:4] if size == 126 else self._begun[2:10], "big")

"""Head: the end of the head of an HTTP request or response, in what arrives piece by piece."""

from __future__ import annotations

__all__ = ["Head"]

END = b"\r\n\r\n"


class Head:
    """Splits what arrives on a connection into the head of a request or response, and what comes behind it."""

    __slots__ = ("_last", "complete", "size")

    def __init__(self) -> None:
        self._last = b""
        """The last bytes that arrived, which may be the beginning of `END`."""
        self.complete = False
        self.size = 0
        """Bytes of the head that have arrived."""

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the part of ``data`` that belongs to the head, and the rest."""
        if self.complete:
            return b"", data
        known = self._last + data
        end = known.find(END)
        self.complete = end >= 0
        size = end + len(END) - len(self._last) if self.complete else len(data)
        self._last = known[1 - len(END) :]
        self.size += size
        return data[:size], data[size:]

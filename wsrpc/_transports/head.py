"""Head: the end of the head of an HTTP request or response, in what arrives piece by piece; and its headers."""

from __future__ import annotations

from websockets.datastructures import Headers

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


def latin_1_headers(headers: Headers) -> Headers:
    """Return the headers that the `websockets` library has parsed, decoded as Latin-1.

    Before version 17, the library turns bytes that are not ASCII into halves of surrogate pairs.
    """
    pairs = list(headers.raw_items())
    if all(value.isascii() for _, value in pairs):
        return headers
    return Headers([(name, value.encode("latin-1", "surrogateescape").decode("latin-1")) for name, value in pairs])

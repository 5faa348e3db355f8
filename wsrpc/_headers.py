"""Headers of a request, as a mapping of text to text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from websockets.datastructures import Headers

__all__ = ["JoinedHeaders"]


class JoinedHeaders(Mapping[str, str]):
    """Each header of the library's once, in lower case, with all its values.

    A view: a server keeps it for each connection, beside the library's own.
    """

    __slots__ = ("_headers",)

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        values = self._headers.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)

    def __repr__(self) -> str:
        return repr(dict(self))

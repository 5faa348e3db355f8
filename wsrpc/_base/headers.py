"""What libraries say of a request, as wsrpc says it: headers as text to text, addresses as host and port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from websockets.datastructures import Headers

__all__ = ["JoinedHeaders", "address", "joined_headers"]


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


def joined_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Each header once, in lower case, with all its values, of a mapping whose ``items()`` may name one twice.

    Values are text in Latin-1, each character of it one byte of the header, whichever library read them: some decode
    UTF-8, and what is not UTF-8 to halves of surrogate pairs, which nothing can write.
    """
    joined: dict[str, str] = {}
    for name, value in headers.items():
        if not value.isascii():
            value = value.encode("utf-8", "surrogateescape").decode("latin-1")
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def address(name: Any) -> tuple[str, int] | None:
    """Host and port of what a library or the event loop calls an address, if it has them."""
    return (name[0], name[1]) if name.__class__ is tuple and len(name) >= 2 else None

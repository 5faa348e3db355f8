"""Target, headers and addresses of a request, converted from the types of other libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

from websockets.datastructures import Headers

__all__ = ["JoinedHeaders", "address", "joined_headers", "split_target"]


NO_QUERY: Mapping[str, str] = MappingProxyType({})


class JoinedHeaders(Mapping[str, str]):
    """View of the headers of the `websockets` library: each once, in lower case, with all its values.

    It copies nothing, because a server keeps it for each connection beside the library's own object.
    """

    __slots__ = ("_headers",)

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        values = self._headers.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def get(self, name: str, default: Any = None) -> Any:  # that of Mapping raises and catches where there is none
        values = self._headers.get_all(name)
        return ", ".join(values) if values else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)

    def __repr__(self) -> str:
        return repr(dict(self))


def joined_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with lower-case names and joined values. ``headers.items()`` can contain a name several times.

    The values are strings decoded as Latin-1, in which each character is one byte of the header, regardless of the
    library. (Some libraries decode headers as UTF-8, and turn bytes that are not UTF-8 into halves of surrogate pairs,
    which cannot be encoded again.)
    """
    joined: dict[str, str] = {}
    for name, value in headers.items():
        if not value.isascii():
            value = value.encode("utf-8", "surrogateescape").decode("latin-1")
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def split_target(target: str) -> tuple[str, Mapping[str, str]]:
    """Return the path of a request's target, and the values of its query by name."""
    path, _, query = target.partition("?")
    return path, MappingProxyType(dict(parse_qsl(query, keep_blank_values=True))) if query else NO_QUERY


def address(name: Any) -> tuple[str, int] | None:
    """Return the host and port from an address of the event loop, or None if the address has none."""
    return (name[0], name[1]) if name.__class__ is tuple and len(name) >= 2 else None

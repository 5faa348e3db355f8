"""Target, headers and addresses of a request, converted from the types of other libraries."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from websockets.datastructures import Headers as LibraryHeaders

from ..headers import Headers, Query

VISIBLE = re.compile("[!-~]*")
NO_QUERY = Query()


class HeadersView(Headers):
    """View of the headers of the `websockets` library. Both ignore the case of names.

    It copies nothing, because a server keeps it for each connection beside the library's own object.
    """

    __slots__ = ()

    def __init__(self, headers: LibraryHeaders) -> None:
        self._values = headers

    def get_all(self, name: str) -> list[str]:
        return list(self._values.get_all(name))

    def __getitem__(self, name: str) -> str:
        values = self._values.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def get(self, name: str, default: Any = None) -> Any:  # `Mapping.get` would raise and catch an exception
        values = self._values.get_all(name)
        return ", ".join(values) if values else default


def joined_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers as `Handshake` has them: names ignore case, and the values of a repeated header are joined.

    ``headers.items()`` can contain a name several times. The values are strings decoded as Latin-1, in which each
    character is one byte of the header, regardless of the library. (Some libraries decode headers as UTF-8, and turn
    bytes that are not UTF-8 into halves of surrogate pairs, which cannot be encoded again.)
    """
    return Headers([(name, _as_latin_1(value)) for name, value in headers.items()])


def _as_latin_1(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")


def refusal_headers(headers: Headers) -> list[tuple[str, str]]:
    """Return the headers of a refusal that has ``headers``, without the headers that the HTTP server adds."""
    pairs = [pair for pair in headers.pairs() if pair[0] not in ("connection", "content-length")]
    return pairs if "content-type" in headers else [("content-type", "text/plain; charset=utf-8"), *pairs]


def visible_target(target: str) -> str:
    """Return the target of a request with all characters percent-encoded that are not visible ASCII characters.

    Some HTTP libraries accept such bytes, and decode those that are not UTF-8 as halves of surrogate pairs.
    """
    if VISIBLE.fullmatch(target):
        return target
    return quote(target.encode("utf-8", "surrogateescape"), safe=string.punctuation)


def split_target(target: str) -> tuple[str, str, Query]:
    """Return the target of a request in visible characters, its decoded path, and its query."""
    target = visible_target(target)
    path, _, query = target.partition("?")
    return target, unquote(path) if "%" in path else path, Query(query) if query else NO_QUERY


def path_of(target: str) -> str:
    """Return the path of a request's target, decoded."""
    return split_target(target)[1]


def address(name: Any) -> tuple[str, int] | None:
    """Return the host and port from an address of the event loop, or None if the address has none."""
    return (name[0], name[1]) if name.__class__ is tuple and len(name) >= 2 else None

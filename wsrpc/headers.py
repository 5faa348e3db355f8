"""Headers of a request or a response, and the parameters of a query: mappings in which a name can be repeated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, TypeAlias, cast
from urllib.parse import parse_qs

__all__ = ["Headers", "Query", "ResponseHeaders"]

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""Regular expression that matches a valid header value (RFC 9110, sections 5.1 and 5.5)."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Headers(Mapping[str, str]):
    """Headers of a request or a response. Names ignore case, and are in lower case.

    The values of a repeated header are joined with commas. `get_all` returns each value.
    """

    __slots__ = ("_values",)

    _values: Any
    """The values by the name in lower case."""

    def __init__(self, headers: HeadersLike = NO_HEADERS) -> None:
        self._values = {}
        for name, value in _pairs_of(headers):
            if not isinstance(name, str):
                raise TypeError(f"the name of a header is text, got {name!r}")
            self._values.setdefault(name.lower(), []).append(value)

    def get_all(self, name: str) -> list[str]:
        """Return all values of a header, or an empty list."""
        return list(self._values.get(name.lower(), ()))

    def pairs(self) -> list[tuple[str, str]]:
        """Return the names and values. A repeated header has a pair for each value."""
        return [(name, value) for name in self for value in self.get_all(name)]

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._values[name.lower()])

    def get(self, name: str, default: Any = None) -> Any:  # `Mapping.get` would raise and catch an exception
        values = self._values.get(name.lower())
        return ", ".join(values) if values else default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        given = cast("Any", other)
        return len(self) == len(given) and all(name in self and self[name] == value for name, value in given.items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(dict(self))


class ResponseHeaders(Headers, MutableMapping[str, str]):
    """Headers that a user's function adds to a response. Each header was checked."""

    __slots__ = ()

    def __init__(self, headers: HeadersLike = NO_HEADERS) -> None:
        super().__init__()
        for name, value in _pairs_of(headers):
            self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Add a header, and keep the headers of the same name, for example another ``Set-Cookie``."""
        check_response_header(name, value)
        self._values.setdefault(name.lower(), []).append(value)

    def __setitem__(self, name: str, value: str) -> None:
        check_response_header(name, value)
        self._values[name.lower()] = [value]

    def __delitem__(self, name: str) -> None:
        del self._values[name.lower()]

    def __or__(self, headers: HeadersLike) -> ResponseHeaders:
        both = ResponseHeaders(headers)
        for name in self.keys() - both.keys():
            both._values[name] = self.get_all(name)
        return both


HeadersLike: TypeAlias = Mapping[str, str] | list[tuple[str, str]]
"""Headers that you pass to wsrpc. In a list of pairs, a name can be repeated."""


class Query(Mapping[str, str]):
    """Parameters of the query of a request. If a name is repeated, the last value counts. `get_all` returns all values.

    Args:
        text: the query, percent-encoded, without the question mark.
    """

    __slots__ = ("_values",)

    def __init__(self, text: str = "") -> None:
        self._values = parse_qs(text, keep_blank_values=True)

    def get_all(self, name: str) -> list[str]:
        """Return all values of a parameter, or an empty list."""
        return list(self._values.get(name, ()))

    def __getitem__(self, name: str) -> str:
        return self._values[name][-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(dict(self))


def any_case(headers: HeadersLike | None) -> Headers:
    """Return ``headers`` if their names ignore case already, or a copy whose names ignore case."""
    return headers if isinstance(headers, Headers) else Headers(NO_HEADERS if headers is None else headers)


def _pairs_of(headers: HeadersLike) -> Iterable[tuple[Any, str]]:
    value: Any = headers
    if isinstance(value, Headers):
        return value.pairs()
    if isinstance(value, Mapping):
        return cast("Mapping[str, str]", value).items()
    if isinstance(value, list):
        pairs = cast("list[tuple[str, str]]", value)
        if all(isinstance(cast("Any", pair), tuple) and len(pair) == 2 for pair in pairs):
            return pairs
    shown = "a list of something else" if isinstance(value, list) else type(value).__name__
    raise TypeError(f"headers are a mapping of names to values, or a list of pairs of a name and a value, got {shown}")


def check_header(name: object, value: object) -> None:
    """Check that a header can be sent. Error messages do not include the value, because it may be a secret.

    Raises:
        TypeError, ValueError: the header cannot be sent. The error message says why.
    """
    if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
        raise ValueError(f"the name of a header is a word such as 'X-Served-By', got {name!r}")
    if not isinstance(value, str):
        raise TypeError(f"the header {name!r} must be text, got {type(value).__name__}")
    if not HEADER_VALUE.fullmatch(value):
        raise ValueError(f"the header {name!r} has a character that cannot be sent, such as a line break")


def check_response_header(name: object, value: object) -> None:
    """Check that a header of a response can be sent: make the checks of `check_header`, and check for ASCII.

    Some libraries would send other characters as UTF-8, others as Latin-1.

    Raises:
        TypeError, ValueError: the header cannot be sent. The error message says why.
    """
    check_header(name, value)
    if not str(value).isascii():
        raise ValueError(f"the header {name!r} has a character that cannot be sent in a response: it is not ASCII")

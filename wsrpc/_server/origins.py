"""Which pages may connect: a browser says in ``Origin`` from which site the page is that asks for a connection."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from .._base.logs import LogBudget, address_text
from ..errors import HandshakeRejected, short
from ..handshake import Handshake

__all__ = ["ANY_ORIGIN", "OriginRule", "Origins"]


class _AnyOrigin:
    def __repr__(self) -> str:
        return "ANY_ORIGIN"


ANY_ORIGIN: Final = _AnyOrigin()
"""``Server(origins=ANY_ORIGIN)``: pages of any site may connect, with their visitors' cookies."""

Origins = Iterable[str] | Callable[[Handshake], object] | _AnyOrigin
"""What may be in a browser's ``Origin`` besides the server's own host: a list, a function that decides, or anything."""

DEFAULT_PORTS = {"http": 80, "https": 443}

WEB = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@:,\[\]\\]+)(?::(\d{1,5}))?")
"""What a browser sends for a page of the web: scheme, host, port unless it is the scheme's own."""
OTHER = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*://[^\s/?#,]*")
"""Of an extension or an application."""


class OriginRule:
    """Says of a request with an ``Origin`` whether it may go on. Without one it is no browser's, and may.

    Raises:
        TypeError, ValueError: ``origins`` is nothing that decides.
    """

    def __init__(self, origins: Origins, budget: LogBudget) -> None:
        self._budget = budget
        self.allows_any = isinstance(origins, _AnyOrigin)
        self._function: Callable[[Handshake], object] | None = None
        self._listed: frozenset[str] = frozenset()
        if isinstance(origins, _AnyOrigin):
            return
        if isinstance(origins, str):
            raise TypeError(f"origins is a list of origins, got text: origins=[{origins!r}]")
        if callable(origins):
            if any(map(inspect.iscoroutinefunction, (origins, type(origins).__call__))):
                raise TypeError("origins= takes a plain function, not an async one; on_handshake may be async")
            self._function = origins
        elif not isinstance(cast("Any", origins), Iterable):
            raise TypeError(f"origins= is a list, a function of the handshake, or ANY_ORIGIN; got {origins!r}")
        else:
            self._listed = frozenset(map(_listed, origins))

    def check(self, handshake: Handshake) -> None:
        """Let it pass.

        Raises:
            HandshakeRejected: with 403, which the log explains.
            Exception: of the user's function.
        """
        origin = handshake.origin
        if origin is None or self.allows_any:
            return
        if self._function is not None:
            said = self._function(handshake)
            if inspect.isawaitable(said):  # which is true, whatever it would say
                if inspect.iscoroutine(said):
                    said.close()
                raise TypeError(
                    "the function of origins= returns an awaitable: on_handshake may be async, this may not"
                )
            if said:
                return
            self._warn(handshake, "as the function of origins= says")
        else:
            clear = _canonical(origin)
            if clear is not None and (clear in self._listed or _is_own(clear, handshake)):
                return
            self._warn(
                handshake, "it is malformed" if clear is None else f"to allow it: Server(origins=[{short(origin)}])"
            )
        raise HandshakeRejected(403, "this origin is not allowed\n")

    def _warn(self, handshake: Handshake, why: str) -> None:
        origin = short(handshake.origin)
        about = {"origin": origin[1:-1], "remote": address_text(handshake.remote)}
        self._budget.log(logging.WARNING, "refused the origin %s; %s", origin, why, extra=about)


def _listed(origin: Any) -> str:
    clear = _canonical(origin) if isinstance(origin, str) else None
    if clear is None:
        hint = "; origins=ANY_ORIGIN allows all" if origin == "*" else ""
        raise ValueError(
            f"an origin is written as browsers send it, such as 'https://example.com' or 'http://localhost:3000', "
            f"without a path; got {origin!r}{hint}"
        )
    return clear


def _canonical(origin: str) -> str | None:
    """In lower case, without the scheme's own port; None if it is none."""
    origin = origin.lower()
    if found := WEB.fullmatch(origin):
        scheme, host, port = found[1], found[2], int(found[3] or DEFAULT_PORTS[found[1]])
        return f"{scheme}://{host}" if port == DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"
    return origin if origin == "null" or OTHER.fullmatch(origin) else None


def _is_own(origin: str, handshake: Handshake) -> bool:
    """Whether the page comes from the host and port that it connects to."""
    scheme = origin.partition("://")[0]
    if scheme not in DEFAULT_PORTS or (handshake.secure and scheme != "https"):
        return False  # a page that came without TLS may be anybody's on the way
    # Where TLS ends before us, which we need not know, the host names no port, and it is that of the page's scheme.
    return _canonical(f"{scheme}://{handshake.host}") == origin

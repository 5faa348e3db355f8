"""Origins that may connect: the header ``Origin`` of a browser's request names the site of the page that makes it.

Browsers send it with each WebSocket and each POST, but not with a GET to the page's own host. They send
``Sec-Fetch-Site`` only to hosts with TLS, and to ``localhost``. No page can set these headers, or ``Host``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import copy
from ipaddress import ip_address
from typing import Any, Final, cast

from ..._base.logs import LogBudget, address_text
from ..._base.misuse import check_has_run, check_no_yield
from ..._core.handlers.callables import is_async
from ...errors import HandshakeRejected, short
from ...handshake import REFUSED_HEADER, Handshake


class _AnyOrigin:
    def __repr__(self) -> str:
        return "ANY_ORIGIN"


ANY_ORIGIN: Final = _AnyOrigin()
"""Value for ``Server(origins=ANY_ORIGIN)``. Pages on any website can then connect, and browsers also send the user's
cookies."""

Origins = Iterable[str] | Callable[[Handshake], object] | _AnyOrigin
"""Origins that may connect besides the server's own host: a list, a function that decides, or `ANY_ORIGIN`."""

DEFAULT_PORTS = {"http": 80, "https": 443}

OWN_SITES = ("same-origin", "none")
"""Values of ``Sec-Fetch-Site`` if the page is of the own host, or the user has typed the URL."""
NO_ORIGIN = "a GET without Origin needs another Host, or the header 'Sec-Fetch-Site: none', which no page can set\n"

WEB = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@:,\[\]\\]+)(?::(\d{1,5}))?")
"""The origin of a web page: scheme, host, and the port unless it is the scheme's default."""
OTHER_SCHEME = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]*://[^\s/?#,]*")
"""The origin of a browser extension or an application."""


def readable_by(origin: str) -> list[tuple[str, str]]:
    """Return the headers with which a page may read a response. ``origin`` is that of the request, or empty."""
    if not origin:
        return []
    headers = [("access-control-allow-origin", origin), ("access-control-allow-credentials", "true")]
    return [*headers, ("access-control-expose-headers", f"retry-after, {REFUSED_HEADER}"), ("vary", "origin")]


class OriginRule:
    """Decides which origins may connect. If a browser may have left the origin out, the implied one is checked.

    Args:
        knows_proxies: whether the user has listed the proxies that decide `Handshake.secure`.

    Raises:
        TypeError, ValueError: ``origins`` is not valid.
    """

    def __init__(self, origins: Origins, budget: LogBudget, *, knows_proxies: bool) -> None:
        self._budget = budget
        self._knows_proxies = knows_proxies
        self.allows_any = isinstance(origins, _AnyOrigin)
        self._function: Callable[[Handshake], object] | None = None
        self._listed: frozenset[str] = frozenset()
        if isinstance(origins, _AnyOrigin):
            return
        if isinstance(origins, str):
            raise TypeError(f"origins= takes a list of origins, got text: use origins=[{origins!r}]")
        if callable(origins):
            if is_async(origins):
                raise TypeError("origins= takes a plain function, not an async one; on_handshake may be async")
            check_no_yield("origins=", origins)
            self._function = origins
        elif not isinstance(cast("Any", origins), Iterable):
            raise TypeError(f"origins= takes a list, a function of the handshake, or ANY_ORIGIN; got {origins!r}")
        else:
            self._listed = frozenset(map(_listed, origins))

    def check(self, handshake: Handshake) -> None:
        """Check the origin of a request.

        Raises:
            HandshakeRejected: the origin may not connect. The status is 403, and a warning in the log says why.
            Exception: the exception of the user's function.
        """
        origin, body = handshake.origin, "this origin is not allowed\n"
        if self.allows_any or (origin is None and handshake.names_origin):
            return
        if origin is None:
            if (origin := self._implied_origin(handshake)) is None:
                return
            handshake, body = copy(handshake), NO_ORIGIN
            handshake.origin = origin
        if self._function is not None:
            allowed = self._function(handshake)
            check_has_run("the function of origins=, which must not be async,", allowed)
            if allowed:
                return
            why = "the function of origins= refused it"
        else:
            clear, own = _canonical(origin), _own_origins(handshake.host, handshake.secure)
            if clear is not None and (clear in self._listed or (clear in own and _names_server(clear))):
                return
            why = _why_refused(origin, clear)
        about = {"origin": short(origin)[1:-1], "remote": address_text(handshake.remote)}
        if self._budget.is_new(short(origin), handshake.remote and handshake.remote[0]):
            self._budget.log(logging.WARNING, "refused the origin %s; %s", short(origin), why, fields=about)
        raise HandshakeRejected(403, body)

    def _implied_origin(self, handshake: Handshake) -> str | None:
        """Return the origin that a browser may have left out. None if it is certain that it is allowed."""
        site = handshake.headers.get("sec-fetch-site")
        if site is not None:
            return None if site in OWN_SITES else "null"
        # A page can set this header in a GET, and uvicorn believes it of this machine.
        is_secure = handshake.secure and (self._knows_proxies or "x-forwarded-proto" not in handshake.headers)
        own = _own_origins(handshake.host, is_secure)
        return None if _names_server(own[0]) else next((each for each in own if each in self._listed), own[0])


def _why_refused(origin: str, clear: str | None) -> str:
    if clear is None:
        return "it is malformed"
    if clear == "null":  # not with the line to paste, which would allow every site
        return "a page of any site can send it, from a sandboxed frame, and so do pages from local files"
    return f"to allow it: Server(origins=[{short(origin)}])"


def _listed(origin: Any) -> str:
    clear = _canonical(origin) if isinstance(origin, str) else None
    if clear is None or "*" in clear or clear.startswith(("ws:", "wss:")):
        hint = "; origins=ANY_ORIGIN allows all" if origin == "*" else ""
        raise ValueError(
            f"an origin must look as browsers send it, without a path, such as 'https://example.com' or "
            f"'http://localhost:3000'; got {origin!r}{hint}"
        )
    return clear


def _canonical(origin: str) -> str | None:
    """Return ``origin`` in lower case, without the scheme's default port. None if ``origin`` is not an origin."""
    origin = origin.lower()
    if found := WEB.fullmatch(origin):
        scheme, host, port = found[1], found[2], int(found[3] or DEFAULT_PORTS[found[1]])
        return f"{scheme}://{host}" if port == DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"
    return origin if origin == "null" or OTHER_SCHEME.fullmatch(origin) else None


def _own_origins(host: str, is_secure: bool) -> list[str]:
    """Return the origins of the pages that were loaded from the host and port to which they connect."""
    # An attacker on the network may have changed a page that was loaded without TLS.
    # If a proxy terminates TLS, the header Host has no port. The port is then that of the page's scheme.
    found = [f"{scheme}://{host}" for scheme in (("https",) if is_secure else ("http", "https"))]
    return [_canonical(each) or each for each in found]


def _names_server(origin: str) -> bool:
    """Whether a page with the host of the request comes from this server, and not from an attack by DNS rebinding.

    The owner of a name can serve a page, and then make the name resolve to this server. For the browser, both are the
    same host. With TLS this attack fails: the browser checks that the certificate is for the name, and refuses
    connections without TLS from a page that was loaded with TLS. The attack also fails for IP addresses and for
    ``localhost``, because no DNS server of an attacker resolves them.
    """
    if origin.startswith("https:"):
        return True
    host = re.sub(r"^http://|\.?(:\d+)?$", "", origin)
    with suppress(ValueError):
        return bool(ip_address(host.strip("[]")))
    return f".{host}".endswith(".localhost")

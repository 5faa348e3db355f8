"""Checks of the URLs, proxies and Unix sockets that a client dials."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PROXY_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})

PROXIES_FOR = {
    "ws": ("ws", "socks", "https", "http"),
    "wss": ("wss", "socks", "https"),
    "http": ("http", "ws", "socks", "https"),
    "https": ("https", "wss", "socks"),
}
"""Schemes of the proxies in the environment, of which the first is used."""

CONTROL_CHARACTERS = re.compile(r"[\x00-\x20\x7f]")
"""Characters that would end the request line, or add a header."""

LONGEST_SHOWN = 200


class BadOption(ValueError):
    """Error for an option of a client with which no attempt to connect can succeed."""


class BadURL(BadOption):
    """Error for a URL with which no attempt to connect can succeed."""


def shown_url(url: object) -> str:
    """Return ``url`` for an error or a log, without its user information and query, which may be secrets."""
    if not isinstance(url, str):
        return type(url).__name__
    scheme, separator, _ = url.partition("://")
    text = re.split(r"[?#]", url, maxsplit=1)
    if "@" in url:  # A password may contain any character, so only a URL that can be read in one way is shown.
        user, _, rest = text[0].removeprefix(f"{scheme}://").partition("@")
        if not separator or url.count("@") > 1 or "/" in user or not rest:
            return repr(f"{scheme[:10]}://…") if separator else repr("…")
        text[0] = f"{scheme[:10]}://…@{rest}"
    kept = text[0][:LONGEST_SHOWN]
    return repr(kept if kept == text[0] and len(text) == 1 else f"{kept}…")


def check_url(url: object, *, tls: bool) -> None:
    """Refuse a URL that cannot be dialed; ``tls``: whether there is a TLS context.

    Raises:
        BadURL: the URL is not valid. The error message says why.
    """
    if not isinstance(url, str) or not url.startswith(("ws://", "wss://")):
        raise BadURL(f"a URL begins with ws:// or wss:// and names a host, got {shown_url(url)}")
    if CONTROL_CHARACTERS.search(url):
        raise BadURL(f"a URL has no spaces or control characters: percent-encode them, in {shown_url(url)}")
    _check_parts(url, "a URL")
    if "," in urlsplit(url).netloc:
        raise BadURL(f"a URL names one host: give several URLs as a list, got {shown_url(url)}")
    if urlsplit(url).fragment:
        raise BadURL(f"the URL of a WebSocket has no #fragment: remove it, from {shown_url(url)}")
    if tls and url.startswith("ws://"):
        raise BadURL(f"ssl= goes with a wss:// URL, got {shown_url(url)}")


def check_proxy(proxy: object) -> None:
    """Check that ``proxy`` is the URL of a proxy, True or None.

    Raises:
        BadURL: ``proxy`` is something else. The error message says what is expected.
    """
    if proxy is None or isinstance(proxy, bool):
        return
    if not isinstance(proxy, str) or proxy.partition("://")[0].lower() not in PROXY_SCHEMES or "://" not in proxy:
        schemes = ", ".join(sorted(PROXY_SCHEMES))
        raise BadURL(f"proxy= is a URL whose scheme is one of {schemes}; or True, or None; got {shown_url(proxy)}")
    _check_parts(proxy, "a proxy's URL")


def check_unix_sockets(loop: asyncio.AbstractEventLoop) -> None:
    """Raise `BadURL` if the event loop has no Unix sockets. (The event loop's own error has no text.)"""
    if type(loop).create_unix_connection is asyncio.AbstractEventLoop.create_unix_connection:
        raise BadURL("unix= needs Unix sockets, which asyncio does not have on Windows: use a host and a port")


def check_unix(path: Any, proxy: object) -> None:
    """Refuse a value that is not the path of a Unix socket, and a path together with a proxy.

    Raises:
        TypeError, ValueError: the value is not valid. The error message says why.
    """
    if path is None:
        return
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"unix= is the path of a Unix socket, got {type(path).__name__}")
    if not os.fspath(path):
        raise ValueError("unix= is the path of a Unix socket, got an empty one")
    if isinstance(proxy, str):
        raise ValueError("give unix= or proxy=, not both: a Unix socket is not reached through a proxy")


def proxy_for(url: str, proxy: str | bool | None) -> tuple[str | None, str]:
    """Return the proxy that ``proxy`` names for ``url``, and a text for errors that shows it without its password.

    True stands for the proxy of the environment or of the system. For a WebSocket, the rules are those of the
    `websockets` library. For a URL of HTTP, the proxy for HTTP comes first.

    Raises:
        BadURL: the environment or the system contains something other than the URL of a proxy.
    """
    if proxy is not True:
        return shown_proxy(proxy or None, "proxy=")
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme in ("wss", "https") else 80)
    if proxy_bypass(f"{parts.hostname}:{port}"):
        return None, ""
    proxies = getproxies()
    found = next((scheme for scheme in PROXIES_FOR[parts.scheme] if proxies.get(scheme)), "")
    through = proxies.get(found)
    if through and found == "socks" and through.startswith("http://"):  # some operating systems write it so
        through = through.replace("http://", "socks5h://", 1)
    return shown_proxy(through, found)


def shown_proxy(proxy: str | None, source: str) -> tuple[str | None, str]:
    """Return ``proxy`` and a text that shows it without its password. ``source`` is the option or the scheme it is for.

    Raises:
        BadURL: it is not the URL of a proxy.
    """
    if not proxy:
        return None, ""
    check_proxy(proxy)
    # As for `getproxies`, the name in lower case comes first.
    variables = [name for name in sorted(os.environ, reverse=True) if name.lower() == f"{source}_proxy"]
    scheme, _, rest = proxy.partition("://")
    return proxy, f"{scheme}://{rest.rpartition('@')[2]}, which {(*variables, source)[0]} names"


def _check_parts(url: str, what: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if the port is not a number from 0 to 65535
        host = parts.hostname
        if host is not None:
            host.encode("ascii" if host.isascii() else "idna")
    except ValueError:  # the new error does not quote the URL: the part that looks like a port may be a password
        raise BadURL(
            f"{what} has a host and a port of at most 65535 after ://, such as example.com:8080; this one does not"
        ) from None
    if not host:
        raise BadURL(f"{what} names a host, got {shown_url(url)}")

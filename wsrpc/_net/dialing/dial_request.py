"""DialRequest: the request that opens a connection, and `dial_within`, which all dialing functions share."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar, cast
from urllib.parse import unquote, urlsplit

from ..._base.names import StrPath
from ...errors import HandshakeRejected, one_line
from ...headers import HEADER_NAME, check_header
from .urls import BadOption, check_proxy, check_unix, check_url, shown_url

T = TypeVar("T")

# Notes for refusals, by their status.
HINTS = {
    404: "are host and path right?",
    414: "the URL is too long",
    426: "does a proxy block WebSocket? connections over HTTP need python-wsrpc[aiohttp]",
    431: "a header is too long, such as a cookie",
}


class DialRequest:
    """Request of an opening handshake, made from the arguments of a `Dial` function.

    ``url`` does not include user information. ``headers`` contains the user information as HTTP Basic authentication,
    unless the argument ``headers`` already had an Authorization header. ``proxy`` is None for a Unix socket, because a
    proxy of the environment is for hosts. All values have been checked, so that no library has to quote them in an
    error. A `Dial` function may set ``through`` to a text that names the proxy which it uses, without its password:
    errors quote it. After each step, such as the TLS handshake, it may call ``restart_timeout``: on a far network, all
    steps take longer than the time after which a dead server is given up.

    Args:
        url: as for `dial`.
        headers: as for `dial`.
        subprotocols: as for `dial`.
        proxy: as for `dial`.
        tls: whether there is a TLS context. With a TLS context, a ``ws://`` URL raises `BadURL`.
        unix: the path of a Unix socket to connect to. No proxy is used.

    Raises:
        BadURL: no attempt can succeed with the URL or the proxy.
        TypeError, ValueError: a header or a subprotocol cannot be sent. The error message does not quote the value.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] | None = None,
        proxy: str | bool | None = None,
        tls: bool = False,
        unix: StrPath | None = None,
    ) -> None:
        check_url(url, tls=tls)
        check_proxy(proxy)
        check_unix(unix, proxy)
        check_subprotocols(subprotocols)
        self.headers: Mapping[str, str] = {name: str(value) for name, value in (headers or {}).items()}
        for name, value in self.headers.items():
            check_header(name, value)
        self.subprotocols: Sequence[str] = list(subprotocols or ())
        self.url = url
        self.unix = unix
        self.proxy = proxy if unix is None else None
        self.through = ""
        self.restart_timeout: Callable[[], None]
        user, at, _ = urlsplit(url).netloc.rpartition("@")
        if at:
            self.url = url.replace(f"{user}@", "", 1)
            if "authorization" not in map(str.lower, self.headers):
                self.headers = {"Authorization": _basic(user), **self.headers}

    def __repr__(self) -> str:
        return f"<DialRequest {shown_url(self.url)}>"


async def dial_within(seconds: float, request: DialRequest, attempt: Callable[[DialRequest], Awaitable[T]]) -> T:
    """Call ``attempt`` with ``request``, for at most ``seconds``. Errors get notes with the likely cause and the proxy.

    ``attempt`` must not follow redirects: the server of another origin could get credentials and the session's token.
    It raises `HandshakeRejected`, with ``headers``, for each response with a status other than 101.

    Raises:
        HandshakeRejected: the status of the response is not 101.
        TimeoutError: the call took longer than ``seconds``.
        Exception: any other exception of ``attempt``.
    """
    limit, loop = asyncio.timeout(seconds), asyncio.get_running_loop()
    request.restart_timeout = lambda: limit.reschedule(loop.time() + seconds)
    try:
        async with limit:
            return await attempt(request)
    except Exception as exc:
        if isinstance(exc, HandshakeRejected):
            if location := exc.headers.get("location"):
                exc.add_note(f"it redirects to {shown_url(location)}; redirects are not followed: give the URL to dial")
            elif hint := HINTS.get(exc.status):
                # `Server.listen` sends no Server header: a name is that of another server, or of a proxy.
                name = one_line(exc.headers.get("server", "a server without a name"), 100)
                exc.add_note(f"{name} answered at {shown_url(request.url)}: {hint}")
        if limit.expired() and isinstance(exc, TimeoutError):
            exc.args = (f"no response to the opening handshake within open_timeout={seconds:g} s",)
        if request.through and not isinstance(exc, BadOption):  # whose text may not quote the proxy
            exc.add_note(f"dialed through the proxy {request.through}")
        raise


def check_subprotocols(names: object) -> None:
    """Refuse subprotocols that cannot be offered.

    Raises:
        TypeError, ValueError: a name is not valid. The error message does not quote it, because it may be a token.
    """
    if names is None:
        return
    if isinstance(names, str | bytes) or not isinstance(names, Sequence):
        raise TypeError(f"subprotocols= is a list of names, got {type(names).__name__}")
    offered = cast("Sequence[object]", names)
    for index, name in enumerate(offered):
        if not isinstance(name, str):
            raise TypeError(f"subprotocols[{index}] is text, got {type(name).__name__}")
        if not HEADER_NAME.fullmatch(name):
            raise ValueError(
                f"subprotocols[{index}] has a character that cannot be sent: use letters, digits and "
                "!#$%&'*+-.^_`|~ (base64url without its padding '=', for a token)"
            )


def _basic(user_information: str) -> str:
    user, _, password = user_information.partition(":")
    return "Basic " + b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()

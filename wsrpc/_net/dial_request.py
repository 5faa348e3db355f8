"""DialRequest: the request that opens a connection, and the rule for redirects, which all dialing functions share."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TypeVar, cast
from urllib.parse import unquote, urljoin, urlsplit

from .._base.logs import logger
from .._base.names import StrPath
from ..errors import HandshakeRejected, one_line, redirect_not_followed
from ..handshake import RESUME_HEADER, has_token
from ..headers import HEADER_NAME, check_header
from .urls import BadOption, BadURL, check_proxy, check_unix, check_url, shown_url

T = TypeVar("T")

REDIRECTS = frozenset({301, 302, 303, 307, 308})

MAX_REDIRECTS = 10
"""The `websockets` library, aiohttp and Go's ``net/http`` follow as many."""

HOST_AND_PORT = re.compile(r"([0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
"""Host and port in a Location header. Libraries parse unusual values differently, and might dial another host than the
checked host."""

DEFAULT_PORTS = {"ws": 80, "wss": 443}

# Notes for refusals, by their status.
HINTS = {404: "are host and path right?", 414: "the URL is too long", 431: "a header is too long, such as a cookie"}

OTHER_ORIGINS: ContextVar[list[str] | None] = ContextVar("OTHER_ORIGINS", default=None)
"""A client's list of the URLs at other origins to which it was redirected. A `Dial` function cannot return them: it
returns only the transport, which a function of the user may wrap."""


class DialRequest:
    """Request of an opening handshake, made from the arguments of a `Dial` function.

    ``url`` does not include user information. ``headers`` contains the user information as HTTP Basic authentication,
    unless the argument ``headers`` already had an Authorization header. All values have been checked, so that no
    library has to quote them in an error. A `Dial` function may set ``through`` to a text that names the proxy which
    it uses, without its password: errors quote it.

    Args:
        url: as for `dial`.
        headers: as for `dial`.
        subprotocols: as for `dial`.
        proxy: as for `dial`.
        tls: whether there is a TLS context. With a TLS context, a ``ws://`` URL raises `BadURL`.
        unix: the path of a Unix socket to connect to. No proxy is used, and redirects to another origin are not
            followed, because the other origin is not at this socket.
        may_leave_origin: whether redirects to another origin are followed. Pass False if the library would send more
            than ``headers`` to the other origin.

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
        may_leave_origin: bool = True,
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
        self.through = ""
        self._may_leave_origin = may_leave_origin and unix is None
        user, at, _ = urlsplit(url).netloc.rpartition("@")
        if at:
            self.url = url.replace(f"{user}@", "", 1)
            if "authorization" not in map(str.lower, self.headers):
                self.headers = {"Authorization": _basic(user), **self.headers}

    def redirected(self, answer: HandshakeRejected) -> DialRequest | None:
        """Return the next request if ``answer`` is a redirect, or None if it is not.

        Headers, and subprotocols that contain a bearer token, are sent only to the origin (scheme, host and port) of
        the first URL. The headers include those from ``auth=`` and from the user information of the URL. After a
        redirect to another origin, these headers and subprotocols are never sent again, even if a later redirect
        returns to the first origin. Redirects from TLS to clear text are not followed.

        Raises:
            HandshakeRejected: the redirect is not followed. The exception is ``answer`` with the reason added.
        """
        location = answer.headers.get("location")
        if answer.status not in REDIRECTS or location is None:
            return None
        url = self._resolve(answer, location)
        if _origin(url) == _origin(self.url):
            return self._again(url, self.headers, self.subprotocols)
        if not self._may_leave_origin:
            whose = "" if self.unix is None else ", which is not at the Unix socket"
            raise redirect_not_followed(answer, f"it leads to another origin, {shown_url(url)}{whose}")
        if (others := OTHER_ORIGINS.get()) is not None:
            others.append(url)
        subprotocols = [name for name in self.subprotocols if not has_token(name)]
        if self.headers.keys() - {RESUME_HEADER} or len(subprotocols) < len(self.subprotocols):
            logger.warning(
                "%s redirects to %s, another origin: headers, auth= and bearer subprotocols are not sent there; if it "
                "is to get them, give its URL to the client",
                shown_url(self.url),
                shown_url(url),
            )
        return self._again(url, {}, subprotocols)

    def _again(self, url: str, headers: Mapping[str, str], subprotocols: Sequence[str]) -> DialRequest:
        return DialRequest(
            url,
            headers=headers,
            subprotocols=subprotocols,
            unix=self.unix,
            may_leave_origin=self._may_leave_origin,
        )

    def _resolve(self, answer: HandshakeRejected, location: str) -> str:
        try:
            if "\\" in location or not location.isascii():  # libraries and browsers differ on which URL that is
                raise ValueError
            parts = urlsplit(urljoin(self.url, location))
        except ValueError:
            raise redirect_not_followed(answer, "its Location is not a URL") from None
        if parts.scheme not in DEFAULT_PORTS:
            reason = f"it leads to {shown_url(location)}, which is not a ws:// or wss:// URL"
            raise redirect_not_followed(answer, reason)
        # The server does not choose the credentials that are sent.
        netloc = parts.netloc.rpartition("@")[2]
        url = parts._replace(netloc=netloc, fragment="").geturl()
        try:
            check_url(url, tls=False)
        except BadURL as exc:
            raise redirect_not_followed(answer, f"its Location cannot be dialed: {exc}") from None
        if not HOST_AND_PORT.fullmatch(netloc) and netloc != urlsplit(self.url).netloc:
            raise redirect_not_followed(answer, f"its Location has an unusual host: {shown_url(url)}")
        if self.url.startswith("wss:") and parts.scheme == "ws":
            raise redirect_not_followed(answer, f"it leads from TLS to clear text, to {shown_url(url)}")
        return url

    def __repr__(self) -> str:
        return f"<DialRequest {shown_url(self.url)}>"


async def follow_redirects(request: DialRequest, attempt: Callable[[DialRequest], Awaitable[T]], seconds: float) -> T:
    """Call ``attempt`` with ``request``, and again for each redirect. All calls together take at most ``seconds``.

    ``attempt`` must not follow redirects itself. It raises `HandshakeRejected`, with ``headers``, for each response
    with a status other than 101.

    Raises:
        HandshakeRejected: the status of the last response is not 101. If the response is a redirect, it was not
            followed for one of the reasons of `DialRequest.redirected`, or because 10 redirects came before it.
        TimeoutError: the calls took longer than ``seconds``.
        Exception: any other exception of ``attempt``.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            redirects = 0
            while True:
                try:
                    return await attempt(request)
                except HandshakeRejected as answer:
                    following = request.redirected(answer)
                    if following is None:
                        if hint := HINTS.get(answer.status):
                            # `Server.listen` sends no Server header: a name is that of another server, or of a proxy.
                            name = one_line(answer.headers.get("server", "a server without a name"), 100)
                            answer.add_note(f"{name} answered at {shown_url(request.url)}: {hint}")
                        raise
                    if redirects == MAX_REDIRECTS:
                        raise redirect_not_followed(answer, f"it is one more than {MAX_REDIRECTS}") from None
                redirects += 1
                request = following
    except Exception as exc:
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


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]

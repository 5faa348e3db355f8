"""Dialing: one attempt to connect, by `dial` or by a `Dial` function of an adapter."""

from __future__ import annotations

import os
import re
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from msgspec import Struct
from websockets.exceptions import InvalidHandshake

from ..._base.misuse import check_flag
from ..._base.names import StrPath
from ..._core.handlers.lifecycle import attempted
from ...errors import HandshakeRejected, short
from ...handshake import RESUME_HEADER
from ...headers import check_header
from ...limits import DEFAULT_LIMITS, Limits
from ...transport import Transport
from ..websocket import WebSocketTransport
from .client_handshake import ClientOpening, presentable
from .client_sockets import ProxyRefused, connect, default_contexts
from .dial_request import DialRequest, check_subprotocols, dial_within
from .urls import BadOption, BadURL, check_url, proxy_for

T = TypeVar("T")
PerAttempt: TypeAlias = T | Callable[[], T] | Callable[[], Awaitable[T]]
"""A value, or a function (sync or async) that returns it and is called for each attempt to connect."""


async def dial(
    url: str,
    *,
    limits: Limits | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] | None = None,
    ssl: ssl_module.SSLContext | None = None,
    proxy: str | bool | None = True,
    compression: bool = False,
    unix: StrPath | None = None,
) -> WebSocketTransport:
    """Open a connection to a ``ws://`` or ``wss://`` URL, and return its transport. Cancelling is safe.

    Redirects are not followed. The user and password of the URL are sent as HTTP Basic authentication.

    Args:
        limits: limits of the connection. `Limits.open_timeout` applies to the opening handshake.
        headers: headers of the opening handshake.
        subprotocols: subprotocols to offer to the server, in order of preference.
        ssl: the TLS context for ``wss://``. The default context is made once in a process, and again after a
            certificate could not be verified.
        proxy: the URL of a proxy; True for the proxy that the environment specifies; None for no proxy.
        compression: whether to offer permessage-deflate, which the server may accept or decline.
        unix: the path of a Unix socket to connect to. The request still contains the URL's host, path and query, and
            with ``wss://`` the certificate must be valid for that host. A proxy from the environment is ignored, and
            ``proxy=`` with a URL raises `ValueError`.

    Raises:
        HandshakeRejected: the server answered with a status other than 101.
        OSError, TimeoutError, websockets.exceptions.InvalidHandshake: no server answered, a proxy refused, or the
            server that answered is not a WebSocket server.
        ValueError: the URL, the proxy, ``unix``, a header or a subprotocol is not valid.
    """
    limits = limits or DEFAULT_LIMITS

    async def attempt(request: DialRequest) -> WebSocketTransport:
        opening = ClientOpening(request, limits, compression=compression)
        through, request.through = proxy_for(request.url, request.proxy)
        try:
            await connect(
                lambda: opening, opening.uri, ssl=ssl, proxy=through, unix=unix, reached=request.restart_timeout
            )
            request.restart_timeout()
            return await opening.opened
        except BaseException as exc:
            opening.abort()
            if isinstance(exc, ssl_module.SSLCertVerificationError):
                default_contexts.clear()  # the files of the authorities may have changed
            if isinstance(exc, InvalidHandshake):
                raise presentable(exc) from None
            if unix is not None and isinstance(exc, OSError) and exc.filename is None:  # asyncio does not name the file
                exc.filename = os.fspath(unix)
            raise

    request = DialRequest(url, headers=headers, subprotocols=subprotocols, proxy=proxy, tls=ssl is not None, unix=unix)
    return await dial_within(limits.open_timeout, request, attempt)


class Dial(Protocol):
    """Function that opens a connection, such as `dial` or the function of an adapter.

    It raises the same exceptions as `dial`. It must not follow redirects: otherwise the server of another origin can
    get credentials and the session's token.
    """

    async def __call__(
        self,
        url: str,
        *,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool | None = True,
        compression: bool = False,
        unix: StrPath | None = None,
    ) -> Transport: ...


class Dialer(Struct, frozen=True, kw_only=True):
    """The options with which a client dials. An attempt first calls `ask`, and then dials one URL or several in turn.

    Raises:
        TypeError, ValueError: an option is not valid.
    """

    url: PerAttempt[str | Sequence[str]] | None
    headers: PerAttempt[Mapping[str, str]] | None
    auth: PerAttempt[str] | None
    subprotocols: Sequence[str] | None
    ssl: ssl_module.SSLContext | None
    proxy: str | bool | None
    compression: bool
    limits: Limits
    dial: Dial

    def __repr__(self) -> str:
        return "<Dialer>"  # the URL, the headers and the token may hold secrets

    def __post_init__(self) -> None:
        ssl: Any = self.ssl
        if ssl is not None and not isinstance(ssl, ssl_module.SSLContext):
            raise TypeError(f"ssl= is an ssl.SSLContext, or None for the default one; got {ssl!r}")
        if self.url is not None and not callable(self.url):
            self._urls(self.url)
        if not callable(self.headers):
            _check_headers(self.headers)
        if not callable(self.auth):
            _check_token(self.auth)
        check_subprotocols(self.subprotocols)
        check_flag("compression", self.compression)
        if ssl is not None and ssl.protocol == ssl_module.PROTOCOL_TLS_SERVER:  # every TLS handshake would fail
            raise ValueError("ssl= is a context for servers: a client's is made with ssl.create_default_context()")
        value: Any = self.dial
        if not callable(value):
            raise TypeError(f"dial= is an async function that opens a connection, such as wsrpc.dial; got {value!r}")

    async def ask(self) -> tuple[list[str], dict[str, str]]:
        """Return the URLs for one attempt, and the headers with the token of ``auth``. A client may have no URLs.

        Raises:
            BadOption: what an option that is a function returned is not valid.
            Exception: the exception of an option that is a function.
        """
        options: tuple[Any, ...] = (self.url, self.headers, self.auth)
        url, given, token = [await attempted(option) if callable(option) else option for option in options]
        try:
            _check_headers(given)
            _check_token(token)
        except (TypeError, ValueError) as exc:
            raise BadOption(str(exc)) from None
        headers = dict(given or {})
        if token is not None:
            headers = {name: value for name, value in headers.items() if str(name).lower() != "authorization"}
            headers["Authorization"] = f"Bearer {token}"
        return [] if self.url is None else self._urls(url), headers

    def _urls(self, given: object) -> list[str]:
        """Return the URLs of the option, which is one URL or a sequence. All URLs are checked, not only the first.

        Raises:
            BadURL: a URL is not valid, or there is none.
        """
        urls = [given]
        if isinstance(given, Sequence) and not isinstance(given, str | bytes):
            urls = [*cast("Sequence[object]", given)]
        if not urls:
            raise BadURL("url= is a URL that begins with ws:// or wss://, or a sequence of them, got an empty sequence")
        for url in urls:
            check_url(url, tls=self.ssl is not None)
        return cast("list[str]", urls)

    async def __call__(self, url: str, headers: dict[str, str], *, to_resume: bool) -> Transport:
        """Dial ``url``. With ``to_resume``, a header tells the server that the first message may resume a session.

        Raises:
            Exception: the exception of `dial`.
        """
        if to_resume:
            headers = {**headers, RESUME_HEADER: "1"}
        try:
            transport: Transport = await attempted(
                self.dial,
                url,
                limits=self.limits,
                headers=headers,
                subprotocols=self.subprotocols,
                ssl=self.ssl,
                proxy=self.proxy,
                compression=self.compression,
            )
            if not callable(getattr(transport, "start", None)):
                raise TypeError(f"dial= returns a Transport, got {short(transport)}")
            return transport
        except Exception as exc:
            if url.startswith("wss:") and (hint := _tls_hint(exc, own=self.ssl is not None)):
                exc.add_note(hint)
            raise


CERTIFICATE_ALERT = re.compile(r"ALERT_.*(CERT|UNKNOWN_CA|HANDSHAKE_FAILURE)")
"""Matches the ``reason`` of an `ssl.SSLError` that is about certificates. In TLS 1.2, a server that requires a
certificate sends handshake_failure."""


def _tls_hint(error: Exception, *, own: bool) -> str | None:
    """Return a hint for ``error``, which ended a TLS handshake, or a connection over TLS without a response.

    ``own``: whether the user gave the TLS context.

    In TLS 1.3, a server checks the client's certificate after the client's part of the handshake. Many servers, for
    example those of asyncio, then end the connection without an alert.
    """
    if isinstance(error, ssl_module.SSLCertVerificationError):
        file = os.environ.get("SSL_CERT_FILE")
        return None if own or file is None else f"the trusted authorities are those of SSL_CERT_FILE, {file!r}"
    hint = "the server may require a client certificate, or refuse the one that ssl= has"
    if isinstance(error, ssl_module.SSLError):
        return hint if CERTIFICATE_ALERT.search(error.reason or "") else None
    answered = isinstance(error, ConnectionRefusedError | HandshakeRejected | ProxyRefused)
    return f"{hint}; or this port has no TLS" if isinstance(error, ConnectionError) and not answered else None


def _check_headers(headers: Any) -> None:
    """Refuse headers that cannot be sent. (`Dial` functions of users need not check them.)"""
    if headers is None:
        return
    if not isinstance(headers, Mapping):
        raise TypeError(
            f"headers= is a mapping of names to values, or a function that returns one, got {type(headers).__name__}"
        )
    for name, value in cast("Mapping[str, object]", headers).items():
        check_header(name, str(value))


def _check_token(token: object) -> None:
    if token is not None and not isinstance(token, str):
        raise TypeError(f"auth= is a token, as text, or a function that returns it, got {type(token).__name__}")
    check_header("Authorization", token or "")

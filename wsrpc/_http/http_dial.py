"""`dial_http`: opens a connection that HTTP requests carry, with the library aiohttp."""

from __future__ import annotations

import asyncio
import os
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit

try:
    import aiohttp
except ImportError as exc:
    raise ImportError("connections over HTTP need aiohttp: pip install python-wsrpc[aiohttp]") from exc

from .._base.names import StrPath
from .._base.request_headers import joined_headers
from .._net.dialing.client_handshake import USER_AGENT
from .._net.dialing.client_sockets import ProxyRefused
from .._net.dialing.dial_request import DialRequest, dial_within
from .._net.dialing.urls import proxy_for
from ..errors import HandshakeRejected, named, one_line
from ..limits import DEFAULT_LIMITS, Limits
from ..transport import ConnectionInfo
from .first_opened import first_opened
from .http_frames import CONNECTION, LARGEST_FRAME, NO_ROOM, NUMBER, TRANSPORT, happens
from .http_transport import HttpTransport

T = TypeVar("T")

HELD_BACK_TIMEOUT = 1.5
"""Seconds without the first bytes of a response that goes on, after which one that ends is asked for, too. If its bytes
arrive first, a proxy holds back those of the other one. (Otherwise, the network or the server was slow.)"""
SIGN_OF_LIFE_INTERVAL = 4.0
"""Seconds between two signs of life while the user does not want to receive. (Servers wait for 10 s.)"""
LONGEST_PAUSE = 0.05
"""Seconds after a large POST, at most, until the next one: a sixteenth of the time that it took. The credit that the
server gives for its items arrives just after its response, so the next POST carries those, too."""
LAST_POST_TIMEOUT = 1.0
"""Seconds in which the last POST has to go through, which confirms the server's Close frame. (aiohttp's server does not
answer requests on idle connections while it ends, and would wait for this one.)"""
LARGEST_REFUSAL = 64 * 1024
"""Maximum bytes of a refusal's body that are read."""


async def dial_http(
    url: str,
    *,
    limits: Limits | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] | None = None,
    ssl: ssl_module.SSLContext | None = None,
    proxy: str | bool | None = True,
    compression: bool = False,
    unix: StrPath | None = None,
    polls: bool = False,
) -> HttpTransport:
    """Open a connection over HTTP: ``Client(url, dial=dial_http)``. Cancelling is safe.

    The URL is that of the WebSocket. The server runs in an ASGI server or in aiohttp.

    Args:
        subprotocols: HTTP has none, so they are not sent.
        compression: HTTP has none in both directions, so this has no effect.
        unix: the path of a Unix socket to connect to.
        polls: whether the server sends by responses that end, as if a proxy held back a longer one.

    Raises:
        HandshakeRejected: the server refuses the connection, or does not have this transport.
        OSError, TimeoutError: there was no response.
        ValueError: the URL, the proxy or a header is not valid.
    """
    limits = limits or DEFAULT_LIMITS

    async def attempt(request: DialRequest) -> HttpTransport:
        through = _proxy_for(request, "http" + request.url.removeprefix("ws"), request.proxy)
        given = {"User-Agent": USER_AGENT, **request.headers}
        sending: dict[str, Any] = {"ssl": ssl or True, "proxy": through, "allow_redirects": False}

        async def open_carrier(polls: bool) -> HttpTransport:
            connector = None if unix is None else aiohttp.UnixConnector(os.fspath(unix))
            # `limits` have the timeouts.
            session = aiohttp.ClientSession(headers=given, timeout=aiohttp.ClientTimeout(), connector=connector)
            return await HttpCarrier(session, request, limits, polls, **sending).open()

        if polls:
            return await open_carrier(True)
        transport, _ = await first_opened(partial(open_carrier, False), partial(open_carrier, True), HELD_BACK_TIMEOUT)
        return transport

    request = DialRequest(url, headers=headers, subprotocols=subprotocols, proxy=proxy, tls=ssl is not None, unix=unix)
    return await dial_within(limits.open_timeout, request, attempt)


def _proxy_for(request: DialRequest, url: str, proxy: str | bool | None) -> str | None:
    """Return the proxy for a URL. `DialRequest.through` then names it. The rules are those of `proxy_for`.

    Raises:
        BadURL: the environment or the system contains something other than the URL of a proxy.
        ConnectionError: it is a SOCKS proxy.
    """
    through, request.through = proxy_for(url, proxy)
    if through is not None and through.lower().startswith("socks"):
        raise ConnectionError("aiohttp has no SOCKS proxies, which pass WebSocket on")
    return through


def _plain_error(error: ValueError | aiohttp.ClientError) -> Exception:
    """Return an error without secrets.

    The exceptions of aiohttp quote the URL with its query, and the proxy with its password.
    """
    match error:
        case aiohttp.InvalidURL():
            return ValueError("aiohttp cannot parse the URL, or that of the proxy")
        case aiohttp.ClientConnectorCertificateError():
            return error.certificate_error
        case aiohttp.ClientConnectorError():
            return error.os_error
        case aiohttp.ClientHttpProxyError():
            return ProxyRefused(error.status, f"HTTP {error.status} {one_line(error.message)}")
        case aiohttp.ClientResponseError():
            text = f"HTTP {error.status}, {one_line(error.message)}"
            return ConnectionError(f"an HTTP request has failed: {text}")
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return ConnectionError(f"an HTTP request has failed: {one_line(error)}")
        case _:
            return error


async def _repeated(request: Callable[[], Awaitable[T]]) -> T:
    """Send a request with a number, and again if the server may have closed the connection that was used."""
    try:
        return await request()
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return await request()


class HttpCarrier:
    """The requests of one connection."""

    def __init__(
        self, session: aiohttp.ClientSession, request: DialRequest, limits: Limits, polls: bool, **options: Any
    ) -> None:
        self._session = session
        self.polls = polls
        """Whether the server sends by responses that end."""
        self._url = "http" + request.url.removeprefix("ws")
        self._options = options
        url = urlsplit(request.url)
        info = ConnectionInfo(
            target=f"{url.path or '/'}?{url.query}".rstrip("?"),
            headers=request.headers,
            remote=(url.hostname or "", url.port or (443 if url.scheme == "wss" else 80)),
            underlying=self,
        )
        self._transport = HttpTransport(info, limits, dialed=True)
        self._response: Any = None
        """The present response with what the server sends."""
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> HttpTransport:
        """Open the connection.

        Raises:
            HandshakeRejected: see `dial_http`.
            ConnectionError: the response is from something else.
        """
        try:
            await self._receive({TRANSPORT: "poll" if self.polls else "stream"})
            has_failed = self._transport.output.is_set  # its Close frame waits
            while not (self._transport.id or has_failed()) and (data := await self._response.content.readany()):
                self._transport.feed(data)
            if not self._transport.id:
                raise ConnectionError("the response to the opening request is not that of a wsrpc server")
        except BaseException as exc:
            await self._close()
            if isinstance(exc, ValueError | aiohttp.ClientError):
                raise _plain_error(exc) from None
            raise
        self._tasks = [asyncio.create_task(self._run(each)) for each in (self._read, self._post)]
        self._tasks.append(asyncio.create_task(self._wait_over()))
        return self._transport

    async def _receive(self, headers: Mapping[str, str]) -> None:
        if self._response is not None:
            self._response.close()
        self._response = response = await self._session.post(self._url, headers=headers, **self._options)
        if response.status != 200:
            body = (await response.content.read(LARGEST_REFUSAL)).decode(errors="replace")
            raise HandshakeRejected(response.status, body, joined_headers(response.headers))

    async def _close(self) -> None:
        if self._response is not None:
            self._response.close()
        await self._session.close()

    async def _run(self, carry: Callable[[], Awaitable[None]]) -> None:
        try:
            await carry()
            self._transport.lost("the server has ended the connection")
        except HandshakeRejected as exc:
            self._transport.lost(one_line(f"HTTP {exc.status} {exc.body}".strip()))
        except aiohttp.ClientError as exc:
            self._transport.lost(one_line(_plain_error(exc)))
        except Exception as exc:  # of what a server or a proxy may send
            self._transport.lost(one_line(named(exc)))

    async def _read(self) -> None:
        while True:
            await self._wait_readable()
            async for data in self._response.content.iter_any():
                self._transport.feed(data)
                await self._wait_readable()
            if not self.polls:
                return
            headers = {TRANSPORT: "poll", CONNECTION: self._transport.id, NUMBER: str(self._transport.traffic.bytes_in)}
            await _repeated(partial(self._receive, headers))

    async def _wait_readable(self) -> None:
        while not await happens(self._transport.readable, SIGN_OF_LIFE_INTERVAL):
            self._transport.send_nothing()  # or the server would wait for a poll in vain, and end the connection

    async def _post(self) -> None:
        loop = asyncio.get_running_loop()
        for number in count(1):
            await self._transport.output.wait()
            if self._transport.over.done():
                return
            body, began = self._transport.pop_output(), loop.time()
            headers = {CONNECTION: self._transport.id, NUMBER: str(number)}
            status, why = NO_ROOM, ""
            while status == NO_ROOM:
                status, why = await _repeated(partial(self._post_once, body, headers))
            if status != 204:
                raise HandshakeRejected(status, why)
            self._transport.carried()
            if len(body) >= LARGEST_FRAME:
                await asyncio.sleep(min(LONGEST_PAUSE, (loop.time() - began) / 16))

    async def _post_once(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        """Send a POST. Return the status and the text of its response."""
        async with asyncio.timeout(LAST_POST_TIMEOUT if self._transport.close_received else None):
            async with self._session.post(self._url, data=body, headers=headers, **self._options) as response:
                return response.status, (await response.content.read(LARGEST_REFUSAL)).decode(errors="replace")

    async def _wait_over(self) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.shield(self._transport.over)
        for task in self._tasks[:2]:
            task.cancel()
        await asyncio.wait(self._tasks[:2])
        await self._close()

"""`ChosenTransport`: dials WebSocket, or HTTP where WebSocket does not pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, get_args

from websockets.exceptions import InvalidHandshake

from .._base.closing import CloseCode
from .._base.logs import logger
from .._base.scheduler import spawn_later
from .._core.session.connection import Connection, ignore_end
from .._core.wire.control import Probe
from .._net.dialing.client_sockets import ProxyRefused
from .._net.dialing.dial import dial
from .._net.dialing.urls import shown_url
from ..errors import HandshakeRejected, named
from ..handshake import REFUSED_HEADER, RESUME_HEADER
from ..transport import Transport
from .first_opened import first_opened
from .http_transport import HttpTransport

TransportName = Literal["websocket", "http"]
"""Names of transports, for ``Client(transports=)``."""

BLOCKED_TIME = 60.0
"""Seconds for which HTTP is dialed at once after WebSocket has failed. Then WebSocket is tried beside it."""
LONGEST_BLOCKED_TIME = 600.0
"""Longest such time: it doubles with each failure."""
SILENT_TIMEOUT = 3.0
"""Seconds without a message on a new WebSocket, after which HTTP is tried beside it. (A wsrpc server greets at once. If
another server sends nothing, HTTP fails, and the WebSocket stays.)"""
SECOND_DIAL_DELAY = 4.0
"""Seconds after which the second transport is tried beside the first one: a proxy may swallow the opening request."""
PASSING_TIME = 30.0
"""Seconds from the first attempt after a WebSocket on which a message has arrived. In this time, the network counts as
one that passes WebSockets: a thousand clients that return to a slow network must not dial twice as often."""
NO_OBSTACLES = frozenset({401, 429})
"""Statuses of what has got the request, such as the server's framework. HTTP would get the same answer."""
UNUSED_TIMEOUT = 5.0
"""Seconds after which a connection is dropped that should have replaced another one."""


@cache
def has_aiohttp() -> bool:
    """Return whether aiohttp is installed. Looking for it takes a tenth of the time of a call by URL."""
    return find_spec("aiohttp") is not None


class ChosenTransport:
    """The dialing function of one client; see ``Client(transports=)``.

    Args:
        names: the transports that may be used, the preferred one first. None for all that can be used.

    Raises:
        TypeError, ValueError: ``names`` is not valid.
    """

    def __init__(self, names: Sequence[TransportName] | None) -> None:
        if names is not None and (isinstance(names, str) or not names or not set(names) <= {*get_args(TransportName)}):
            raise ValueError(f"transports= is a list of 'websocket' and 'http', got {names!r}")
        self._dials: dict[TransportName, Callable[..., Awaitable[Transport]]] = {"websocket": dial}
        if "http" in names if names is not None else has_aiohttp():
            self._dials["http"] = self._dial_http
        self._dials = {name: self._dials[name] for name in names or self._dials}
        self.ask: Callable[[], Awaitable[tuple[list[str], dict[str, str]]]]
        """Returns the URLs and the headers for an attempt."""
        self.redials = False
        """Whether the client dials again after a drop."""
        self.may_move: Callable[[], bool] = bool
        """Returns whether the session would go on, on another connection."""
        self.is_first: Callable[[], bool] = bool
        """Returns whether the user's `connect` has had no connection yet. The machine may be in another network now."""
        self._websocket: Any = None
        """The last WebSocket."""
        self._passes_until = 0.0
        """See `PASSING_TIME`."""
        self._blocked_until = 0.0
        """Until then, WebSocket is not dialed first."""
        self._blocked_time = BLOCKED_TIME
        self._polls_until = 0.0
        """Until then, HTTP is dialed with responses that end, because others were held back."""
        self._ready: Ready | None = None
        self._silent: Any = None
        """The last WebSocket, if nothing had arrived on it after `SILENT_TIMEOUT` seconds."""
        self._trying: asyncio.Task[None] | None = None
        """Tries the other transport."""

    async def __call__(self, url: str, **options: Any) -> Transport:
        """Open a connection; see `dial`."""
        if self._trying is not None:
            self._trying.cancel()
        ready, self._ready = self._ready, None
        if ready is not None and ready.loop is asyncio.get_running_loop():
            if (ready.url, ready.headers) == (url, options["headers"]):
                self._watch(ready.transport, ready.name, url, options)
                return ready.transport
            ready.transport.abort()
        passes = self._update_network(url)
        names: list[TransportName] = [*self._dials]
        if names[0] == "websocket" and asyncio.get_running_loop().time() < self._blocked_until:
            names.reverse()
        first = partial(self._dials[names[0]], url, **options)
        if len(names) == 1:
            return await first()
        second = partial(self._dial_again, names[1], url, options)
        may_follow = _has_no_websockets if passes else _may_be_blocked
        transport, failure = await first_opened(
            first, second, None if passes else SECOND_DIAL_DELAY, may_follow, _is_refused
        )
        name: TransportName = "http" if isinstance(transport, HttpTransport) else "websocket"
        if name != names[0] == "websocket":
            self._block(url, f"no answer within {SECOND_DIAL_DELAY:g} s" if failure is None else named(failure))
        self._watch(transport, name, url, options)
        return transport

    async def _dial_again(self, name: TransportName, url: str, options: dict[str, Any]) -> Transport:
        """Dial with new credentials: a token may be for one connection, and the server may have got it already."""
        _, headers = await self.ask()
        if RESUME_HEADER in options["headers"]:
            headers = {**headers, RESUME_HEADER: "1"}
        return await self._dials[name](url, **options | {"headers": headers})

    async def _dial_http(self, url: str, **options: Any) -> Transport:
        from .http_dial import dial_http  # now, because the import takes time, and few need it

        now = asyncio.get_running_loop().time()
        polls = now < self._polls_until
        transport = await dial_http(url, polls=polls, **options)
        carrier: Any = transport.info.underlying
        if carrier.polls and not polls:
            self._polls_until = now + LONGEST_BLOCKED_TIME
        return transport

    def _update_network(self, url: str) -> bool:
        """Learn from the last WebSocket, which has ended. Return whether the network passes WebSockets."""
        last, self._websocket, silent, self._silent = self._websocket, None, self._silent, None
        now = asyncio.get_running_loop().time()
        if last is not None and last.traffic.messages_in:
            self._passes_until, self._blocked_until, self._blocked_time = now + PASSING_TIME, 0.0, BLOCKED_TIME
        elif silent is not None:
            self._block(url, "no message has arrived")
        if self.is_first():
            self._passes_until = 0.0
        return now < self._passes_until

    def _prefer_http(self) -> None:
        """Do so for a while, which is longer each time."""
        self._blocked_until = asyncio.get_running_loop().time() + self._blocked_time
        self._blocked_time = min(2 * self._blocked_time, LONGEST_BLOCKED_TIME)

    def _block(self, url: str, why: str) -> None:
        self._prefer_http()
        logger.warning("%s is reached over HTTP, because WebSocket has failed: %s", shown_url(url), why)

    # ------------------------------------------------------------ the other transport

    def _watch(self, transport: Any, name: TransportName, url: str, options: dict[str, Any]) -> None:
        """Try the other transport later, which then replaces this one, if WebSocket is preferred."""
        if [*self._dials] != ["websocket", "http"]:
            return
        loop = asyncio.get_running_loop()
        if name == "http":
            self._trying = spawn_later(self._try_websocket(transport, url, options))
            return
        self._websocket = transport
        if loop.time() >= self._passes_until:
            loop.call_later(SILENT_TIMEOUT, self._try_http_if_silent, transport, url, options)

    async def _try_websocket(self, http: HttpTransport, url: str, options: dict[str, Any]) -> None:
        loop, trying = asyncio.get_running_loop(), self._trying
        assert trying is not None
        http.over.add_done_callback(lambda _: trying.cancel())
        while True:
            await asyncio.sleep(self._blocked_until - loop.time())
            try:
                urls, headers = await self.ask()  # credentials may have changed
                if not (self.redials and self.may_move() and url in urls):
                    return
                ready = await self._dials["websocket"](url, **options | {"headers": {**headers, RESUME_HEADER: "1"}})
                await _try_messages(ready)
            except Exception as exc:
                self._prefer_http()
                logger.debug("WebSocket was tried beside HTTP: %s", named(exc))
            else:
                logger.info("WebSocket takes the place of HTTP at %s", shown_url(url))
                self._use(Ready(ready, "websocket", url, {**headers, RESUME_HEADER: "1"}, loop))
                http.drop(CloseCode.RESUMES, "WebSocket takes over")
                return

    def _try_http_if_silent(self, websocket: Any, url: str, options: dict[str, Any]) -> None:
        if not (websocket.traffic.messages_in or websocket.info.underlying.transport.is_closing()):
            self._silent = websocket
        if self.redials and self._may_replace(websocket):
            self._trying = spawn_later(self._try_http(websocket, url, options))

    async def _try_http(self, websocket: Any, url: str, options: dict[str, Any]) -> None:
        try:
            _, headers = await self.ask()  # a token may be for one connection
            asked = {**headers, RESUME_HEADER: "1"} if self.may_move() else headers
            ready = await self._dials["http"](url, **options | {"headers": asked})
        except Exception as exc:
            logger.debug("HTTP was tried beside a WebSocket without messages: %s", named(exc))
            self._silent = None
            return
        if not self._may_replace(websocket):
            ready.abort()
            return
        self._silent = None
        self._block(url, "no message has arrived")
        self._use(Ready(ready, "http", url, asked, asyncio.get_running_loop()))
        websocket.drop(CloseCode.RESUMES, "HTTP takes over")

    def _may_replace(self, websocket: Any) -> bool:
        """Return whether a WebSocket is open, nothing has arrived on it, and what was sent is not lost without it."""
        traffic, closing = websocket.traffic, websocket.info.underlying.transport.is_closing()
        return not (traffic.messages_in or closing) and (self.may_move() or not traffic.messages_out)

    def _use(self, ready: Ready) -> None:
        """Let the next attempt return this connection, if it starts soon."""
        self._ready = ready

        def drop() -> None:
            if self._ready is ready:
                self._ready = None
                ready.transport.abort()

        ready.loop.call_later(UNUSED_TIMEOUT, drop)


async def _try_messages(websocket: Transport) -> None:
    """Return when a message has arrived on a WebSocket whose first message may resume a session.

    Raises:
        TimeoutError: none has arrived. The WebSocket was dropped.
    """
    connection, arrived = Connection(websocket), asyncio.Event()
    connection.start_receiving(lambda payload, text: arrived.set(), ignore_end)
    connection.send_control(Probe())
    try:
        await asyncio.wait_for(arrived.wait(), UNUSED_TIMEOUT)
    except BaseException:
        websocket.abort()
        raise


class Ready(NamedTuple):
    """A connection that replaces the present one, which was dropped for it."""

    transport: Transport
    name: TransportName
    url: str
    headers: dict[str, str]
    loop: asyncio.AbstractEventLoop


def _has_no_websockets(error: BaseException) -> bool:
    """Return whether something has answered that gets no WebSockets. (502: a proxy whose server restarts.)"""
    answered = isinstance(error, HandshakeRejected | ProxyRefused | InvalidHandshake)
    return answered and _may_be_blocked(error) and getattr(error, "status", 0) < 500


def _is_refused(error: BaseException) -> bool:
    """Return whether the server itself has refused the connection."""
    return isinstance(error, HandshakeRejected) and REFUSED_HEADER in error.headers


def _may_be_blocked(error: BaseException) -> bool:
    """Return whether a proxy, or a server that does not get WebSockets, may have caused the failure of an attempt."""
    if isinstance(error, HandshakeRejected):
        return not _is_refused(error) and error.status not in NO_OBSTACLES
    if isinstance(error, ProxyRefused):
        return error.status != 407  # it wants other credentials
    may_be = isinstance(error, InvalidHandshake | TimeoutError | ConnectionError)
    return may_be and not isinstance(error, ConnectionRefusedError)

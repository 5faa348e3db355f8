"""WebSockets on connections that another library's HTTP server or client has opened.

The other library does the HTTP: routes, middlewares, cookies, proxies, TLS. Once both sides have agreed to switch
protocols, it hands the connection over. From there on the connection is one of the default transport: as fast, with the
same bounds, and no other library hides anything of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidHeader
from websockets.extensions.permessage_deflate import (
    enable_client_permessage_deflate,
    enable_server_permessage_deflate,
)
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, Protocol
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from .._base.headers import address
from ..errors import short
from ..handshake import Handshake
from ..headers import ResponseHeaders
from ..limits import Limits
from ..transport import ConnectionInfo
from .dial import presentable
from .dial_request import DialRequest
from .websocket import LIBRARY_LOGGER, WebSocketConnection, WebSocketTransport

__all__ = ["ClientUpgrade", "ServerUpgrade"]


class _Framing(Protocol):
    """The library's protocol, which also accepts a Close frame in the middle of a fragmented message.

    RFC 6455, section 5.4, allows that; the sender has given up the message. The library treats it as a violation.
    aiohttp answers it, and a connection must not become worse by being taken over.
    """

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class _Server(_Framing, ServerProtocol):
    pass


class _Client(_Framing, ClientProtocol):
    pass


class ServerUpgrade:
    """Server side of an upgrade to a WebSocket. It creates the response to the request, and then the transport.

    Create an object when `Server.handshake` has accepted ``handshake``. Send a response with ``status`` and the headers
    ``headers.pairs()``. If the status is 101, then call `take_over`. Otherwise, the request was not a valid request for
    a WebSocket, and ``body`` contains the reason.
    """

    def __init__(self, handshake: Handshake) -> None:

        def choose(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
            return None if handshake.subprotocol is None else Subprotocol(handshake.subprotocol)

        self._handshake = handshake
        self._protocol = _Server(
            state=OPEN,  # it is not to read a request
            extensions=enable_server_permessage_deflate(None) if handshake.compression else None,
            select_subprotocol=choose,
            max_size=handshake.limits.message,
            logger=LIBRARY_LOGGER,
        )
        try:
            self._request = Request(handshake.target, Headers(handshake.headers))
            self._response = response = self._protocol.accept(self._request)
        except InvalidHeader as exc:
            # An HTTP server that accepted it is more lenient than the library. Without the value, which may be a token.
            self._request = Request(handshake.target, Headers())
            reason = f"The header {short(exc.name)} has a character that no header may have.\n"
            self._response = response = self._protocol.reject(HTTPStatus.BAD_REQUEST, reason)
        self.status: int = response.status_code
        self.headers = ResponseHeaders(list(response.headers.raw_items()))
        self.body = (response.body or b"").decode()
        if self.status == 101:
            self.headers |= handshake.response_headers

    def take_over(
        self,
        transport: asyncio.Transport,
        early: bytes = b"",
        lost: Callable[[Exception | None], None] | None = None,
        *,
        underlying: object = None,
    ) -> WebSocketTransport:
        """Take over the connection after the response has been written. Return a transport for `Server.accept`.

        Args:
            transport: the asyncio transport of the connection, on which no bytes wait to be written. Its protocol is
                replaced.
            early: the bytes that were read from the connection after the request.
            lost: a function that is called when the connection has ended, with the argument of asyncio's
                ``connection_lost``.
            underlying: the value of `ConnectionInfo.underlying`. The default is the connection of the `websockets`
                library.
        """
        connection = TakenOver(self._protocol, self._handshake.limits, lost)
        connection.request, connection.response = self._request, self._response
        shown = connection if underlying is None else underlying
        info = self._handshake.connection_info(shown, address(transport.get_extra_info("sockname")))
        return connection.take_over(transport, early, info)


class ClientUpgrade:
    """Client side of an upgrade to a WebSocket. It creates the request, and then the transport.

    Send a GET request with ``headers`` to the URL of ``request``, and do not follow redirects. If the status of the
    response is 101, call `take_over`.
    """

    def __init__(self, request: DialRequest, *, limits: Limits | None = None, compression: bool = False) -> None:
        self._limits = limits or Limits()
        self._protocol = _Client(
            parse_uri(request.url),
            state=OPEN,
            extensions=enable_client_permessage_deflate(None) if compression else None,
            subprotocols=[Subprotocol(name) for name in request.subprotocols] or None,
            max_size=self._limits.message,
            logger=LIBRARY_LOGGER,
        )
        opening = self._protocol.connect()
        theirs = {"host", *map(str.lower, request.headers)}  # an HTTP client adds Host itself
        kept = {name: value for name, value in opening.headers.raw_items() if name.lower() not in theirs}
        self.headers: Mapping[str, str] = {**kept, **request.headers}
        self._request = Request(opening.path, Headers(self.headers))

    def take_over(
        self, transport: asyncio.Transport, headers: Mapping[str, str], early: bytes = b""
    ) -> WebSocketTransport:
        """Take over the connection, and return its transport.

        Args:
            transport: the asyncio transport of the connection. Its protocol is replaced.
            headers: the headers of the response.
            early: the bytes that were read from the connection after the response.

        Raises:
            websockets.exceptions.InvalidHandshake: the response is not a valid response to a WebSocket request.
                ``transport`` is unchanged.
        """
        try:
            response = Response(101, "Switching Protocols", Headers(headers))
            self._protocol.process_response(response)
        except InvalidHandshake as exc:
            raise presentable(exc) from None
        connection = TakenOver(self._protocol, self._limits, None)
        connection.request, connection.response = self._request, response
        return connection.take_over(transport, early)


class TakenOver(WebSocketConnection):
    """Connection whose opening handshake another HTTP library has done."""

    __slots__ = ("_lost",)

    def __init__(self, protocol: Protocol, limits: Limits, lost: Callable[[Exception | None], None] | None) -> None:
        super().__init__(
            protocol,
            limits=limits,
            ping_interval=None,
            close_timeout=limits.close_timeout,
            max_queue=None,
            write_limit=limits.high_water,
        )
        self._lost = lost

    def take_over(
        self, transport: asyncio.Transport, early: bytes, info: ConnectionInfo | None = None
    ) -> WebSocketTransport:
        """Continue on ``transport``. Without ``info`` the request and the addresses describe the connection."""
        transport.set_protocol(self)
        self.connection_made(transport)
        if info is not None:
            self.opened(self._limits, info)
        if early:
            self.data_received(early)
        return self.wsrpc

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._lost is not None:
            self._lost(exc)

"""WebSockets on connections that another library's HTTP server or client has opened.

The other library handles HTTP: routes, middleware, cookies, proxies, TLS. When both sides have agreed to switch
protocols, the default transport takes over the connection, with its usual speed and limits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.extensions import Extension
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from .._base.request_headers import address
from ..errors import short
from ..handshake import Handshake
from ..headers import HEADER_VALUE, ResponseHeaders
from ..limits import DEFAULT_LIMITS, Limits
from .dialing.client_handshake import ClientRequest, presentable
from .dialing.dial_request import DialRequest
from .library_handshake import LIBRARY_LOGGER, library_answer, plain_answer, serialized
from .websocket import Underlying, WebSocketConnection, WebSocketTransport
from .websocket_output import OpeningResult


class ServerUpgrade:
    """Server side of an upgrade to a WebSocket. It creates the response to the request, and then the transport.

    Create an object when `Server.handshake` has accepted ``handshake``. Send a response with ``status`` and the headers
    ``headers.pairs()``. If the status is 101, then call `take_over`. Otherwise, the request was not a valid request for
    a WebSocket, and ``body`` contains the reason.
    """

    def __init__(self, handshake: Handshake) -> None:
        self._handshake = handshake
        self._compression: Extension | None = None
        self.status: int = 101
        self.body = ""
        invalid = next((name for name, value in handshake.headers.items() if not HEADER_VALUE.fullmatch(value)), None)
        headers = plain_answer(handshake) if invalid is None else None
        if headers is None:
            response = self._library_answer() if invalid is None else _refusal(invalid)
            self.status, self.body = response.status_code, (response.body or b"").decode()
            headers = list(response.headers.raw_items())
        self.headers = ResponseHeaders(headers)
        if self.status == 101 and handshake.response_headers:
            self.headers |= handshake.response_headers

    def _request(self) -> Request:
        return Request(self._handshake.target, Headers(self._handshake.headers))

    def _library_answer(self) -> Response:
        response, self._compression = library_answer(self._request(), self._handshake)
        return response

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
            underlying: the value of `ConnectionInfo.underlying`. The default is an object with the attributes
                ``transport`` and ``request``.
        """
        if underlying is None:
            underlying = Underlying(transport, self._request())
        info = self._handshake.connection_info(underlying, address(transport.get_extra_info("sockname")))
        opened = OpeningResult(client=False, info=info, compression=self._compression)
        connection = WebSocketConnection(transport, opened, self._handshake.limits, lost)
        if early:
            connection.data_received(early)
        return connection


def _refusal(name: str) -> Response:
    """Refuse a request with a header whose value is not valid. (Some HTTP servers are more lenient than the library.)

    The error message does not quote the value, because the value may be a token.
    """
    reason = f"The header {short(name)} has a character that no header may have.\n"
    return ServerProtocol(logger=LIBRARY_LOGGER).reject(HTTPStatus.BAD_REQUEST, reason)


class ClientUpgrade:
    """Client side of an upgrade to a WebSocket. It creates the request, and then the transport.

    Send a GET request with ``headers`` to the URL of ``request``, and do not follow redirects. If the status of the
    response is 101, call `take_over`.
    """

    def __init__(self, request: DialRequest, *, limits: Limits | None = None, compression: bool = False) -> None:
        self._limits = limits or DEFAULT_LIMITS
        self._asked = ClientRequest(request, compression=compression)
        given = {name.lower() for name in request.headers}
        self.headers: Mapping[str, str] = {
            name: value
            for name, value in self._asked.request.headers.raw_items()
            if name.lower() != "host" or "host" in given  # an HTTP client adds Host itself
        }

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
            response = self._asked.receive(serialized(Response(101, "Switching Protocols", Headers(headers))))
        except InvalidHandshake as exc:
            raise presentable(exc) from None
        assert response is not None, "the head is complete"
        connection = self._asked.make_connection(transport, response, self._limits)
        if early:
            connection.data_received(early)
        return connection

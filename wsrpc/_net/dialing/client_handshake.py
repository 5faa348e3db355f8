"""The client side of an opening handshake: the library makes the request, and judges the response."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidHeader, InvalidStatus, NegotiationError
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from ..._base.request_headers import HeadersView, address
from ...errors import HandshakeRejected, one_line
from ...limits import Limits
from ...transport import ConnectionInfo
from ..library_handshake import LIBRARY_LOGGER, Head, OfferedCompression, latin_1_headers, too_large
from ..websocket import Underlying, WebSocketConnection, WebSocketTransport
from ..websocket_output import OpeningResult
from .dial_request import DialRequest

USER_AGENT = f"Python/{sys.version_info.major}.{sys.version_info.minor} wsrpc"


class ResponseTooLarge(InvalidHandshake, OSError):
    """The response exceeds a limit of the library. An `OSError`, like other failures of `Client.connect`."""


class ClientRequest:
    """The request of an opening handshake, and the library's protocol that judges the response."""

    def __init__(self, request: DialRequest, *, compression: bool) -> None:
        self.uri = parse_uri(request.url)
        self._extension = OfferedCompression() if compression else None
        self.library = ClientProtocol(
            self.uri,
            extensions=None if self._extension is None else [self._extension],
            subprotocols=[Subprotocol(name) for name in request.subprotocols] or None,
            logger=LIBRARY_LOGGER,
        )
        self.request: Request = self.library.connect()
        for name, value in request.headers.items():
            if name in self.request.headers:
                del self.request.headers[name]
            self.request.headers[name] = value

    def receive(self, data: bytes) -> Response | None:
        """Parse ``data`` from the network. Return the response if it is complete, otherwise None.

        Raises:
            HandshakeRejected: the status of the response is not 101.
            InvalidHandshake: the response is not a valid response to a request for a WebSocket. The class is
                `ResponseTooLarge` if the library did not read all of it.
        """
        self.library.receive_data(data)
        return self._read_answer()

    def receive_eof(self) -> None:
        """Handle the end of the server's data. Raises the exceptions of `receive`."""
        self.library.receive_eof()
        self._read_answer()

    def _read_answer(self) -> Response | None:
        response = next((event for event in self.library.events_received() if isinstance(event, Response)), None)
        failure = self.library.handshake_exc
        if failure is None:
            return response
        if isinstance(failure, InvalidStatus):
            refusal = failure.response
            body = bytes(refusal.body or b"").decode(errors="replace")
            raise HandshakeRejected(refusal.status_code, body, HeadersView(latin_1_headers(refusal.headers))) from None
        if reason := too_large(failure):
            raise ResponseTooLarge(f"the response is too large: {reason}") from None
        if failure.__cause__ is not None:  # only the cause says what the server has sent
            failure.add_note(one_line(failure.__cause__, 200))
        raise failure

    def make_connection(
        self, tcp: asyncio.Transport, response: Response, limits: Limits, *, read: int = 0, written: int = 0
    ) -> WebSocketConnection:
        """Return the transport of the connection that ``response`` has opened."""
        headers = HeadersView(self.request.headers)
        info = ConnectionInfo(
            target=self.request.path,
            headers=headers,
            origin=headers.get("origin"),
            remote=address(tcp.get_extra_info("peername")),
            local=address(tcp.get_extra_info("sockname")),
            subprotocol=response.headers.get("Sec-WebSocket-Protocol"),
            underlying=Underlying(tcp, self.request, response),
        )
        compression = None if self._extension is None else self._extension.agreed
        vars(self.library).clear()  # its parser refers to it
        opened = OpeningResult(client=True, info=info, compression=compression, read=read, written=written)
        return WebSocketConnection(tcp, opened, limits)


class ClientOpening(asyncio.Protocol):
    """Protocol of a client's connection until the opening handshake is over. ``opened`` is the result."""

    def __init__(self, request: DialRequest, limits: Limits, *, compression: bool) -> None:
        self._asked = asked = ClientRequest(request, compression=compression)
        if "User-Agent" not in asked.request.headers:
            asked.request.headers["User-Agent"] = USER_AGENT
        asked.library.send_request(asked.request)
        self.uri = asked.uri
        self._limits = limits
        self._tcp: asyncio.Transport | None = None
        self._head = Head()
        self._written = 0
        self.opened: asyncio.Future[WebSocketTransport] = asyncio.get_running_loop().create_future()
        """Result of the handshake: the transport, or an exception of `ClientRequest.receive` or of the connection."""

    def abort(self) -> None:
        """Drop the connection, because nobody waits for it any more."""
        if not self.opened.cancel() and not self.opened.cancelled():
            self.opened.exception()  # so that asyncio does not log it
        if self._tcp is not None:
            self._tcp.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tcp: Any = transport  # asyncio's annotation is too general
        self._tcp = tcp
        request = b"".join(self._asked.library.data_to_send())
        self._written = len(request)
        tcp.write(request)

    def data_received(self, data: bytes) -> None:
        if self.opened.done():
            return
        head, rest = self._head.split(data)
        try:
            response = self._asked.receive(head)
            if response is None and rest:  # of a refusal: its body
                self._asked.receive(rest)
        except (HandshakeRejected, InvalidHandshake) as exc:
            self.opened.set_exception(exc)
        else:
            if response is not None:
                assert self._tcp is not None
                connection = self._asked.make_connection(
                    self._tcp, response, self._limits, read=self._head.size, written=self._written
                )
                self.opened.set_result(connection)
                if rest:
                    connection.data_received(rest)

    def eof_received(self) -> None:
        if not self.opened.done():
            if not self._head.size:
                self.opened.set_exception(ConnectionError("the server ended the connection without a response"))
                return
            try:
                self._asked.receive_eof()
            except (HandshakeRejected, InvalidHandshake) as exc:
                self.opened.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self.opened.done():
            self.opened.set_exception(exc)  # such as the alert of a server that refuses the client's certificate
        self.eof_received()


def presentable(exc: InvalidHandshake) -> InvalidHandshake:
    """Return ``exc``, or an error whose text is one short line without the subprotocols of the response.

    The library quotes the response. A server may send back a token, or control characters for the terminal on which
    Python prints the exception that ends a program.
    """
    if isinstance(exc, NegotiationError) and "subprotocol" in str(exc):
        return NegotiationError("the server chose a subprotocol that was not offered")
    if isinstance(exc, InvalidHeader) and exc.name.lower() == "sec-websocket-protocol":
        return NegotiationError("the server answered with a Sec-WebSocket-Protocol that is not one subprotocol")
    text = one_line(exc)
    return exc if text == str(exc) else InvalidHandshake(text)

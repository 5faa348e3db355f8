"""Dialing with picows."""

from __future__ import annotations

import logging
import socket
import ssl as ssl_module
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike
from typing import Any

import picows
from picows import (
    WSHandshakeError,
    WSInvalidStatusError,
    WSParsedURL,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
)
from python_socks import ProxyError

from wsrpc import HandshakeRejected, Limits
from wsrpc._base.logs import safe_logger
from wsrpc._net.client_sockets import default_context, open_socket, proxy_failure
from wsrpc._net.urls import proxy_for
from wsrpc._net.websocket import FrameTransport
from wsrpc.adapting import BadURL, DialRequest, address, follow_redirects, joined_headers
from wsrpc.transport import ConnectionInfo
from wsrpc.types import WebSocketTransport

from ._picows_transport import PicowsReader

READ_BUFFER = 4096
"""Initial bytes of the read buffer, which picows doubles when it is full. The default of picows, 16 KiB, would double
the memory of an idle connection."""


class _Log(logging.LoggerAdapter[logging.Logger]):
    """picows' own log. (picows makes a logger for each connection, unless it gets an object that is not a logger.)"""

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        # picows logs each violation of the protocol at ERROR, and any client can cause any number of violations.
        self.info(msg, *args, **kwargs)


LOG = _Log(safe_logger("wsrpc.picows"), {})
"""Lines at INFO are left out: wsrpc logs the same facts, with the peer's id."""
LOG.setLevel(logging.WARNING)


async def dial(
    url: str,
    *,
    limits: Limits | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] | None = None,
    ssl: ssl_module.SSLContext | None = None,
    proxy: str | bool | None = True,
    compression: bool = False,
    unix: str | PathLike[str] | None = None,
) -> WebSocketTransport:
    """Open a connection with picows, like `wsrpc.dial`: ``Client(url, dial=dial)``. Cancelling is safe.

    ``compression`` has no effect, because picows does not support it. ``unix`` is not supported. Redirects are followed
    in the same way as by `wsrpc.dial`.

    Raises:
        HandshakeRejected: the status of the server's response is not 101, or the response is a redirect that is not
            followed.
        OSError, TimeoutError: there was no response, or it did not come from a WebSocket server.
        ValueError: the URL, the proxy, a header or a subprotocol is not valid, or ``unix`` is given.
    """
    limits = limits or Limits()

    async def attempt(request: DialRequest) -> WebSocketTransport:
        through, request.through = proxy_for(request.url, proxy)
        return await _dial(request, limits, ssl, through)

    request = DialRequest(url, headers=headers, subprotocols=subprotocols, proxy=proxy, tls=ssl is not None)
    if unix is not None:  # picows 2.3 crashes on such a socket, with a segmentation fault
        raise BadURL("picows does not connect to Unix sockets: dial with wsrpc.dial, without dial=")
    return await follow_redirects(request, attempt, limits.open_timeout)


async def _dial(
    request: DialRequest, limits: Limits, ssl: ssl_module.SSLContext | None, proxy: str | None
) -> WebSocketTransport:
    offered = list(request.subprotocols)
    given = dict(request.headers)
    if offered:
        given["Sec-WebSocket-Protocol"] = ", ".join(offered)
    library: Any = picows  # the annotations of picows are incomplete
    socks: list[socket.socket] = []
    # Without contexts, picows would make some in the event loop.
    proxy_context = await default_context() if (proxy or "").lower().startswith("https:") else None
    tls = request.url.startswith("wss:") or proxy_context is not None

    async def connect(parsed: WSParsedURL) -> socket.socket:
        # The socket is opened here: picows would not give access to its own socket before the end of the handshake.
        sock = await open_socket(parsed.host, parsed.port)
        socks.append(sock)
        return sock

    made: list[FrameTransport] = []

    def listener(request: WSUpgradeRequest, response: WSUpgradeResponse) -> PicowsReader:
        return PicowsReader(limits, client=True, opened=lambda transport, ws: made.append(transport))

    try:
        ws, reader = await library.ws_connect(
            listener,
            request.url,
            ssl_context=ssl or (await default_context() if tls else None),
            proxy_ssl_context=proxy_context,
            websocket_handshake_timeout=None,
            logger_name=LOG,
            enable_auto_pong=False,
            max_frame_size=limits.message_bytes,
            max_redirects=0,
            extra_headers=given,
            proxy=proxy,
            read_buffer_init_size=READ_BUFFER,
            socket_factory=connect,
            # picows is faster with the TLS of aiofastnet. But after a pause, that TLS does not continue to read: bytes
            # that it has received and not decrypted wait until more bytes arrive.
            use_aiofastnet=False if tls else None,
        )
        if reader is None:
            raise ConnectionError("the connection was closed during the opening handshake")
        (transport,) = made
        transport.info = _describe(ws, offered)
        return transport
    except WSInvalidStatusError as exc:
        raise _rejected(exc) from None
    except (WSHandshakeError, ProxyError) as exc:
        raise proxy_failure(exc) from None
    except BaseException:
        for sock in socks:  # closing the socket ends the transport of picows
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        raise


def _describe(ws: WSTransport, offered: list[str]) -> ConnectionInfo:
    tcp = ws.underlying_transport
    chosen = ws.response.headers.get("Sec-WebSocket-Protocol")
    if chosen is not None and chosen not in offered:
        tcp.abort()
        # The subprotocol is not quoted, because it may be a token that the server has sent back.
        raise ConnectionError("the server chose a subprotocol that was not offered")
    headers = joined_headers(ws.request.headers)
    return ConnectionInfo(
        target=ws.request.path.decode("utf-8", "surrogateescape"),
        headers=headers,
        origin=headers.get("origin"),
        remote=address(tcp.get_extra_info("peername")),
        local=address(tcp.get_extra_info("sockname")),
        subprotocol=chosen,
        underlying=ws,
    )


def _rejected(exc: WSInvalidStatusError) -> HandshakeRejected:
    assert exc.response is not None
    body = (exc.raw_body or b"").decode(errors="replace")
    return HandshakeRejected(int(exc.response.status), body, joined_headers(exc.response.headers))

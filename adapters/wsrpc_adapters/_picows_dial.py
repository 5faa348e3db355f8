"""Opening connections with picows."""

from __future__ import annotations

import asyncio
import socket
import ssl as ssl_module
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import picows
from picows import (
    WSHandshakeError,
    WSInvalidStatusError,
    WSInvalidURL,
    WSParsedURL,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
)
from python_socks import ProxyError

from wsrpc import Handshake, HandshakeRejected, Limits
from wsrpc.adapting import address, joined_headers

from ._picows_log import LOG
from ._picows_transport import PicowsTransport

__all__ = ["dial"]

READ_BUFFER = 4096
"""Bytes, at first; picows doubles it when it is full. With its own 16 KiB an idle connection is twice as large."""


async def dial(
    url: str,
    *,
    limits: Limits | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] | None = None,
    ssl: ssl_module.SSLContext | None = None,
    proxy: str | bool | None = True,
    compression: bool = False,
) -> PicowsTransport:
    """Open a connection, as `wsrpc.dial` does: ``Client(url, dial=dial)``. Cancelling is safe.

    ``compression`` changes nothing: picows has none to offer.

    Raises:
        HandshakeRejected: the server answered with another status than 101.
        OSError, TimeoutError: nobody answered, or not as a WebSocket server.
        ValueError: for a URL that is none.
    """
    limits = limits or Limits()
    offered = list(subprotocols or ())
    given = dict(headers or {})
    if offered:
        given["Sec-WebSocket-Protocol"] = ", ".join(offered)
    library: Any = picows  # its annotations leave some things open
    socks: list[socket.socket] = []

    async def connect(parsed: WSParsedURL) -> socket.socket:
        # By ourselves, because a connection that picows has opened cannot be reached until it is through.
        sock = await _connect(parsed.host, parsed.port)
        socks.append(sock)
        return sock

    def listener(request: WSUpgradeRequest, response: WSUpgradeResponse) -> PicowsTransport:
        return PicowsTransport(limits, client=True)

    try:
        async with asyncio.timeout(limits.open_timeout):
            ws, transport = await library.ws_connect(
                listener,
                url,
                ssl_context=ssl,
                websocket_handshake_timeout=None,
                logger_name=LOG,
                enable_auto_pong=False,
                max_frame_size=limits.message,
                extra_headers=given,
                proxy=_proxy_for(url) if proxy is True else proxy or None,
                read_buffer_init_size=READ_BUFFER,
                socket_factory=connect,
            )
        if transport is None:
            raise ConnectionError("the connection was closed during the opening handshake")
        assert isinstance(transport, PicowsTransport)
        transport.info = _describe(ws, offered)
        return transport
    except WSInvalidURL as exc:
        raise ValueError(str(exc)) from exc
    except WSInvalidStatusError as exc:
        raise _rejected(exc) from exc
    except (WSHandshakeError, ProxyError) as exc:
        raise ConnectionError(str(exc)) from exc
    except BaseException:
        for sock in socks:  # to its transport that is the end
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        raise


async def _connect(host: str, port: int) -> socket.socket:
    """Open a TCP connection to the first address that answers."""
    loop = asyncio.get_running_loop()
    failures: list[OSError] = []
    for family, kind, protocol, _, where in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, where)
            return sock
        except OSError as exc:
            sock.close()
            failures.append(exc)
        except BaseException:
            sock.close()
            raise
    raise failures[0] if failures else OSError(f"{host} has no address")


def _describe(ws: WSTransport, offered: list[str]) -> Any:
    tcp = ws.underlying_transport
    handshake = Handshake(
        ws.request.path.decode(),
        joined_headers(ws.request.headers),
        remote=address(tcp.get_extra_info("peername")),
        local=address(tcp.get_extra_info("sockname")),
        subprotocols=offered,
    )
    chosen = ws.response.headers.get("Sec-WebSocket-Protocol")
    if chosen is not None and chosen not in offered:
        tcp.abort()
        raise ConnectionError(f"the server chose the subprotocol {chosen!r}, which was not offered")
    handshake.subprotocol = chosen
    return handshake.connection_info(ws)


def _rejected(exc: WSInvalidStatusError) -> HandshakeRejected:
    assert exc.response is not None
    body = (exc.raw_body or b"").decode(errors="replace")
    return HandshakeRejected(int(exc.response.status), body, joined_headers(exc.response.headers))


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment, or the system, has for it."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    schemes = ("wss", "socks", "https") if parts.scheme == "wss" else ("ws", "socks", "https", "http")
    return next((proxies[scheme] for scheme in schemes if proxies.get(scheme)), None)

"""Dialing, with the `websockets` library."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Mapping, Sequence
from functools import partial

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from ._connection import WebSocketClientConnection, library_options
from ._url import BadURL, check_url
from .errors import HandshakeRejected
from .limits import Limits
from .websocket import WebSocketTransport

__all__ = ["dial"]


async def dial(
    url: str,
    *,
    limits: Limits | None = None,
    headers: Mapping[str, str] | None = None,
    subprotocols: Sequence[str] | None = None,
    ssl: ssl_module.SSLContext | None = None,
    proxy: str | bool | None = True,
) -> WebSocketTransport:
    """Open a connection to a ``ws://`` or ``wss://`` URL. Cancelling is safe.

    Raises:
        HandshakeRejected: the server answered with another status than 101.
        OSError, TimeoutError, websockets.exceptions.InvalidHandshake: nobody answered, or not as a WebSocket server.
        ValueError: for a URL that is none.
    """
    check_url(url, tls=ssl is not None)
    limits = limits or Limits()
    options = library_options(limits)
    options["create_connection"] = partial(WebSocketClientConnection, limits=limits)
    if ssl is not None:
        options["ssl"] = ssl
    try:
        connection = await connect(
            url,
            additional_headers=None if headers is None else dict(headers),
            subprotocols=None if subprotocols is None else [Subprotocol(name) for name in subprotocols],
            proxy=proxy or None,
            **options,
        )
    except InvalidURI as exc:
        raise BadURL(f"a URL names a host, got {url!r}") from exc
    except InvalidStatus as exc:
        body = exc.response.body or b""
        raise HandshakeRejected(exc.response.status_code, bytes(body).decode(errors="replace")) from exc
    assert isinstance(connection, WebSocketClientConnection)
    return connection.wsrpc

"""What dialing functions that use aiohttp share: its proxies, and its errors without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._net.dialing.client_sockets import ProxyRefused
from .._net.dialing.dial_request import DialRequest
from .._net.dialing.urls import proxy_for
from ..errors import one_line

if TYPE_CHECKING:
    import aiohttp


def aiohttp_proxy(request: DialRequest, url: str, proxy: str | bool | None) -> str | None:
    """Return the proxy for a URL. `DialRequest.through` then names it. The rules are those of `proxy_for`.

    Raises:
        BadURL: the environment or the system contains something other than the URL of a proxy.
        ConnectionError: it is a SOCKS proxy.
    """
    through, request.through = proxy_for(url, proxy)
    if through is not None and through.lower().startswith("socks"):
        raise ConnectionError("aiohttp has no SOCKS proxies, which pass WebSocket on")
    return through


def plain_error(error: ValueError | aiohttp.ClientError) -> Exception:
    """Return an error without secrets.

    The exceptions of aiohttp quote the URL with its query, and the proxy with its password.
    """
    import aiohttp  # here, because the import takes time, and few need it

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

"""Opens a client's connections: TCP, TLS and Unix sockets, also through proxies."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl as ssl_module
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from websockets import exceptions
from websockets.uri import WebSocketURI

from ..._base.names import StrPath
from ...errors import one_line
from .urls import BadURL, check_unix_sockets


class ProxyRefused(exceptions.ProxyError, ConnectionError):
    """The proxy refused to connect. A SOCKS proxy that refuses the credentials has the ``status`` 407, too."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the proxy refused to connect: {reason}")
        self.status = status


P = TypeVar("P", bound=asyncio.Protocol)

LONGEST_ANSWER = 64 * 1024
"""Maximum bytes of the head of a proxy's response."""

# Seconds after which the next address of a host is dialed, too. RFC 8305 recommends them, and aiohttp has them.
ATTEMPT_DELAY = 0.25

STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: ([\t -~\x80-\xff]*))?\r\n")

# The default TLS context, by what it depends on.
default_contexts: dict[object, Future[ssl_module.SSLContext]] = {}


async def default_context() -> ssl_module.SSLContext:
    """Return the TLS context for connections without ``ssl=``. All event loops share it. Cancelling is safe.

    To make a context, OpenSSL reads the certificates of a hundred authorities, which takes tens of milliseconds. A
    thread does it, while the event loop runs. (It is not a thread of the loop's executor: handlers may occupy all of
    those.)

    Raises:
        OSError: the context could not be made. The next call tries again.
    """
    # With the id of the process, because a forked one does not have the thread that makes the context of its parent.
    made_of = (os.getpid(), *map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")))
    making = default_contexts.get(made_of)
    if making is None or (making.done() and making.exception() is not None):
        executor = ThreadPoolExecutor(1, "wsrpc TLS context")
        making = default_contexts[made_of] = executor.submit(ssl_module.create_default_context)
        executor.shutdown(wait=False)  # the thread ends when the context is made
    return await asyncio.shield(asyncio.wrap_future(making))  # a dial that is cancelled does not cancel it for others


async def connect(
    create: Callable[[], P],
    uri: WebSocketURI,
    *,
    ssl: ssl_module.SSLContext | None,
    proxy: str | None,
    unix: StrPath | None,
    reached: Callable[[], None],
) -> P:
    """Connect to the host of ``uri``, and return the protocol object of ``create``. Cancelling is safe.

    ``reached`` is called before the TLS handshake, if the host is reached.

    Raises:
        OSError: the host or the proxy was not reached, or `default_context` has failed.
        ProxyRefused, exceptions.ProxyError: the proxy has refused, or its response is not valid.
        BadURL: the URL of the proxy is not valid, or the event loop has no Unix sockets.
    """
    loop = asyncio.get_running_loop()
    tls: dict[str, Any] = {}
    if uri.secure:
        tls = {"ssl": ssl or await default_context(), "server_hostname": uri.host}
    if unix is not None:
        check_unix_sockets(loop)
        _, protocol = await loop.create_unix_connection(create, os.fspath(unix), **tls)
    elif proxy is None or proxy.lower().startswith("socks"):
        sock = await (open_socket(uri.host, uri.port) if proxy is None else _through_socks(_parts_of(proxy), uri))
        reached()
        _, protocol = await loop.create_connection(create, sock=sock, **tls)
    else:
        protocol = await _through_http(_parts_of(proxy), uri, create, **tls)
    return protocol


async def open_socket(host: str, port: int) -> socket.socket:
    """Open a TCP connection to the address of ``host`` that answers first. Cancelling is safe.

    The families of the addresses alternate, and if an address has not answered after `ATTEMPT_DELAY`, the next one is
    dialed, too (RFC 8305). So an address that is not reachable, such as the IPv6 address in many networks, delays the
    connection, and does not prevent it. (asyncio's `create_connection` can do the same, but that of uvloop cannot.)

    Raises:
        OSError: the name was not found, or no address accepted. The error is that of the last address.
    """
    addresses = await _addresses_of(host, port)
    attempts: set[asyncio.Task[socket.socket]] = set()
    failure: Any = None
    try:
        while addresses or attempts:
            if addresses:
                attempts.add(asyncio.create_task(_connect_to(*addresses.pop(0))))
            done, _ = await asyncio.wait(attempts, timeout=ATTEMPT_DELAY, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                attempts.discard(attempt)
                if (failure := attempt.exception()) is None:
                    return attempt.result()
        raise failure
    finally:
        for attempt in attempts:
            attempt.cancel()
        for late in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()


async def _addresses_of(host: str, port: int) -> list[tuple[Any, ...]]:
    """Return the addresses of ``host`` as `socket.getaddrinfo` does, but the families alternate."""
    try:  # an address needs no thread of the executor, which may all be busy
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ranks: defaultdict[int, count[int]] = defaultdict(count)
    return sorted(found, key=lambda address: next(ranks[address[0]]))  # the first of each family, the second of each...


async def _connect_to(family: int, kind: int, protocol: int, _: str, where: Any) -> socket.socket:
    with ExitStack() as until_connected:
        sock = until_connected.enter_context(socket.socket(family, kind, protocol))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
        until_connected.pop_all()
    return sock


def _parts_of(proxy: str) -> SplitResult:
    parts = urlsplit(proxy)
    unclear = parts.path not in ("", "/") or parts.query or parts.fragment
    if unclear or (parts.username is not None and parts.password is None):
        # Without the URL, which may contain a password.
        raise BadURL("the proxy's URL has a path, or a user without a password")
    return parts


def _port_of(proxy: SplitResult) -> int:
    return proxy.port or (443 if proxy.scheme == "https" else 80)


def _user_of(proxy: SplitResult) -> tuple[str, str] | None:
    return None if proxy.username is None else (unquote(proxy.username), unquote(proxy.password or ""))


async def _through_socks(proxy: SplitResult, uri: WebSocketURI) -> socket.socket:
    """Return a socket that is connected through a SOCKS proxy."""
    try:
        from python_socks import ProxyError, ProxyType
        from python_socks.async_.asyncio import Proxy
    except ImportError:
        raise ImportError("SOCKS proxies need python-socks: pip install 'python-socks[asyncio]'") from None
    kind = ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5
    user, password = _user_of(proxy) or (None, None)
    # With "h" or "a", the proxy looks up the name of the host.
    names = proxy.scheme in ("socks5h", "socks4a")
    socks = Proxy(kind, proxy.hostname or "", _port_of(proxy), user, password, names)
    try:
        return await socks.connect(uri.host, uri.port)
    except ProxyError as exc:
        text = one_line(exc)  # nothing but the text shows a refusal
        raise (ProxyRefused(407, text) if "authentication" in text else ConnectionError(text)) from exc


async def _through_http(
    proxy: SplitResult,
    uri: WebSocketURI,
    create: Callable[[], P],
    ssl: ssl_module.SSLContext | None = None,
    server_hostname: str | None = None,
) -> P:
    """Connect through an HTTP proxy, by CONNECT."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LONGEST_ANSWER)
    context = await default_context() if proxy.scheme == "https" else None
    tcp: Any  # `start_tls` may return None, according to its annotation
    tcp, _ = await loop.create_connection(
        lambda: asyncio.StreamReaderProtocol(reader),
        sock=await open_socket(proxy.hostname or "", _port_of(proxy)),
        ssl=context,
        server_hostname=proxy.hostname if context else None,
    )
    try:
        host = f"[{uri.host}]" if ":" in uri.host else uri.host
        request = f"CONNECT {host}:{uri.port} HTTP/1.1\r\nHost: {host}:{uri.port}\r\n"
        if user := _user_of(proxy):
            request += f"Proxy-Authorization: Basic {b64encode(':'.join(user).encode()).decode()}\r\n"
        tcp.write(f"{request}\r\n".encode())
        await _expect_tunnel(reader)
        protocol = create()
        if ssl is None:
            tcp.set_protocol(protocol)
        else:
            tcp = await loop.start_tls(tcp, protocol, ssl, server_hostname=server_hostname)
        if tcp.is_closing():
            raise exceptions.ProxyError("the proxy has ended the connection")
    except BaseException:
        tcp.abort()
        raise
    protocol.connection_made(tcp)
    return protocol


async def _expect_tunnel(reader: asyncio.StreamReader) -> None:
    """Read the response to a CONNECT request."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        head = b""
    found = STATUS_LINE.match(head)
    if found is None:
        raise exceptions.InvalidProxyMessage("did not receive a valid HTTP response from proxy")
    status, phrase = found[1].decode(), (found[2] or b"").decode(errors="replace")
    if not status.startswith("2"):
        raise ProxyRefused(int(status), one_line(f"HTTP {status} {phrase}").rstrip())

"""Dialing through HTTP and SOCKS proxies, which are written here, over real sockets."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from websockets.exceptions import InvalidProxyMessage, InvalidProxyStatus, ProxyError

from wsrpc import Client, Limits, Server, dial

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
MADE = Path(__file__).parents[2] / "certificates"

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[tuple[str, int] | None]]


class Proxy:
    """A proxy. ``accept`` does its handshake, and returns where to connect to."""

    port = 0

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self.asked: list[tuple[str, int]] = []
        """To where clients have connected."""
        self._serving: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def running(self, context: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self
            server.close()
            if self._serving:
                await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())  # type: ignore[arg-type]
        with suppress(asyncio.IncompleteReadError):
            if (where := await self._accept(reader, writer)) is not None:
                self.asked.append(where)
                there, out = await asyncio.open_connection("127.0.0.1", where[1])
                await asyncio.gather(relay(reader, out), relay(there, writer))
        await closed(writer)


async def relay(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    await closed(sink)


async def closed(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()


def http(authorization: str | None = None, answer: bytes = b"HTTP/1.1 200 \xe9tabli\r\nX-Proxy: 1\r\n\r\n") -> Accept:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int] | None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        given = [line for line in request.split("\r\n") if line.startswith("Proxy-Authorization: ")]
        if given != ([] if authorization is None else [f"Proxy-Authorization: {authorization}"]):
            answer_now = b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n"
        else:
            answer_now = answer
        for at in range(0, 60, 5):  # in many pieces
            writer.write(answer_now[at : at + 5])
            await asyncio.sleep(0)
        writer.write(answer_now[60:])
        await writer.drain()
        found = re.match(r"CONNECT (.*):(\d+) HTTP/1\.1\r\n", request)
        assert found is not None
        return (found[1], int(found[2])) if answer_now.startswith(b"HTTP/1.1 200") else None

    return accept


def socks5(user: str | None = None) -> Accept:
    """RFC 1928, and RFC 1929 with ``user``, as name and password."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, int] | None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        method = 0 if user is None else 2
        assert method in methods
        writer.write(bytes((5, method)))
        if user is not None:
            _, size = await reader.readexactly(2)
            name = await reader.readexactly(size)
            password = await reader.readexactly((await reader.readexactly(1))[0])
            good = (name.decode(), password.decode()) == (user, user)
            writer.write(bytes((1, 0 if good else 1)))
            if not good:
                await writer.drain()
                return None
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = socket.inet_ntoa(await reader.readexactly(4))
        port = int.from_bytes(await reader.readexactly(2), "big")
        writer.write(b"\x05\x00\x00\x01\0\0\0\0\0\0")
        return host, port

    return accept


def serving() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(MADE / "server.pem", MADE / "server.key")
    return context


def echo_server() -> Server:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    return server


PROXIES = {
    "http": (http(), "http://127.0.0.1:{}"),
    "http with a password": (http("Basic " + b64encode(b"me:p@ss").decode()), "http://me:p%40ss@127.0.0.1:{}/"),
    "socks5": (socks5(), "socks5://127.0.0.1:{}"),
    "socks5h with a password": (socks5("me"), "socks5h://me:me@127.0.0.1:{}"),
}


@pytest.mark.parametrize("kind", PROXIES)
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_a_client_connects_through_a_proxy(kind: str, secure: bool) -> None:
    accept, url = PROXIES[kind]
    trusting = ssl.create_default_context(cafile=str(MADE / "ca.pem")) if secure else None
    async with echo_server().listen(ssl=serving() if secure else None) as listener, Proxy(accept).running() as proxy:
        target = f"{'wss' if secure else 'ws'}://localhost:{listener.port}/"
        async with Client(target, proxy=url.format(proxy.port), ssl=trusting, limits=LIMITS) as client:
            large = "x" * 300_000
            assert await client.request("echo", large) == large
            assert (client.peer.info.underlying.transport.get_extra_info("ssl_object") is not None) is secure
    host = "127.0.0.1" if kind == "socks5" else "localhost"
    assert proxy.asked == [(host, listener.port)]


async def test_a_proxy_that_speaks_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS in TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", str(MADE / "ca.pem"))  # what `create_default_context` trusts
    async with echo_server().listen(ssl=serving()) as listener, Proxy(http()).running(serving()) as proxy:
        through = f"https://localhost:{proxy.port}"
        async with Client(f"wss://localhost:{listener.port}/", proxy=through, limits=LIMITS) as client:
            assert await client.request("echo", 7) == 7
    assert proxy.asked == [("localhost", listener.port)]


@pytest.mark.parametrize(
    ("accept", "url", "error"),
    [
        (http("Basic other"), "http://127.0.0.1:{}", InvalidProxyStatus),
        (http(answer=b"garbage\r\n\r\n"), "http://127.0.0.1:{}", InvalidProxyMessage),
        (http(answer=b"HTTP/1.1 500 " + b"x" * 70_000), "http://127.0.0.1:{}", InvalidProxyMessage),
        (socks5("me"), "socks5h://me:other@127.0.0.1:{}", ProxyError),
    ],
    ids=["who", "garbage", "too long", "wrong password"],
)
async def test_a_proxy_that_refuses(accept: Accept, url: str, error: type[Exception]) -> None:
    async with Proxy(accept).running() as proxy:
        with pytest.raises(error):
            await dial("ws://localhost:1/", proxy=url.format(proxy.port), limits=LIMITS)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/path", "http://user@127.0.0.1:1", "socks5://127.0.0.1:1?a=b"])
async def test_a_proxy_s_url_that_is_not_clear(url: str) -> None:
    with pytest.raises(ValueError, match="the proxy's URL has a path, or a user without a password"):
        await dial("ws://localhost:1/", proxy=url, limits=LIMITS)


async def test_cancelling_while_the_proxy_does_not_answer_leaves_nothing() -> None:
    asked = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()

    async with Proxy(never).running() as proxy:
        through = f"http://127.0.0.1:{proxy.port}"
        dialing = asyncio.create_task(dial("ws://localhost:1/", proxy=through, limits=LIMITS))
        await asked.wait()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing

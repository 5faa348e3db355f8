"""Every way to dial, through a `Client`, to the default server and to raw peers."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from dialings import DIALINGS, Dialing
from leftovers import turns_until
from raw_websocket import CLOSE, PING, PONG, TEXT, build_frame, raw_server
from served import AT_ONCE, LIMITS, Endings, Observed, echo_server

from wsrpc import Client, ConnectFailed, Handshake, HandshakeRejected, Server, is_transient
from wsrpc.testing import FaultProxy

PEM = Path(__file__).parent / "localhost.pem"

dialings = pytest.mark.parametrize("dialing", DIALINGS, ids=repr)


@dialings
async def test_requests_both_ways(dialing: Dialing) -> None:
    server = echo_server()
    async with server.listen() as listener, Client(listener.url + "a?b=c", dial=dialing.dial, limits=LIMITS) as client:
        client.on("double", lambda number: 2 * number)
        assert await client.request("echo", "ü" * 300_000) == "ü" * 300_000
        [peer] = server.peers
        assert await peer.request("double", 21) == 42
        assert (peer.info.path, dict(peer.info.query)) == ("/a", {"b": "c"})
        mine = client.peer.info
        assert (mine.path, mine.remote, mine.local) == ("/a", peer.info.local, peer.info.remote)
        answers = await asyncio.gather(*(client.request("echo", n) for n in range(200)))
        assert answers == list(range(200))


@dialings
async def test_headers_auth_and_subprotocols_arrive(dialing: Dialing) -> None:
    server = Server(limits=LIMITS)

    @server.on_handshake
    def gate(given: Handshake) -> None:
        given.subprotocol = "b"
        given.response_headers["X-Served-By"] = "me"

    options: dict[str, Any] = {"headers": {"X-Name": "Ada", "User-Agent": "mine"}, "auth": "token"}
    async with server.listen() as listener:
        async with Client(listener.url, dial=dialing.dial, subprotocols=["a", "b"], limits=LIMITS, **options) as client:
            [peer] = server.peers
            seen = peer.info.headers
            assert (seen["x-name"], seen["user-agent"], seen["authorization"]) == ("Ada", "mine", "Bearer token")
            assert seen["host"] == f"127.0.0.1:{listener.port}"
            assert client.peer.info.subprotocol == peer.info.subprotocol == "b"


@dialings
async def test_a_refused_handshake_has_status_body_and_headers(dialing: Dialing) -> None:
    server = Server(limits=LIMITS)

    @server.on_handshake
    def gate(given: Handshake) -> None:
        given.reject(401, "no töken", {"WWW-Authenticate": "Bearer"})

    async with server.listen() as listener:
        with pytest.raises(HandshakeRejected) as caught:
            await dialing.dial(listener.url, limits=LIMITS)
        error = caught.value
        assert (error.status, error.body, error.headers["www-authenticate"]) == (401, "no töken", "Bearer")
        with pytest.raises(HandshakeRejected):
            await Client(listener.url, dial=dialing.dial, limits=LIMITS).connect()


@dialings
async def test_what_answers_but_is_no_websocket_server(dialing: Dialing) -> None:
    async with raw_server() as server:
        for status in ("200 OK", "101 Switching Protocols"):
            dialed = asyncio.create_task(dialing.dial(server.url, limits=LIMITS))
            await server.refuse(status, "hello" if status < "2" else "")
            with pytest.raises(Exception) as caught:
                await dialed
            assert not isinstance(caught.value, AssertionError) and str(caught.value)


@dialings
async def test_nobody_there_is_an_os_error_and_worth_another_attempt(dialing: Dialing) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(OSError) as caught:
        await dialing.dial(f"ws://127.0.0.1:{port}/", limits=LIMITS)
    assert is_transient(caught.value)


@dialings
async def test_whoever_says_nothing_is_given_up_after_open_timeout(dialing: Dialing) -> None:
    async with raw_server() as server:
        with pytest.raises(TimeoutError):
            await dialing.dial(server.url, limits=LIMITS.replace(open_timeout=0.1))


@dialings
async def test_a_connection_that_ends_in_the_handshake(dialing: Dialing) -> None:
    async with raw_server() as server:

        async def end_all() -> None:
            while True:  # aiohttp tries a second time
                (await server.accept_tcp()).close()

        ending = asyncio.create_task(end_all())
        with pytest.raises(Exception) as caught:
            await dialing.dial(server.url, limits=LIMITS)
        assert is_transient(caught.value)
        ending.cancel()
        await asyncio.wait([ending])


NOT_URLS = [
    "http://x/",
    "ws:///nothing",
    "x",
    "ws://",
    "ws://127.0.0.1:99999/",
    "ws://127.0.0.1:port/",
    "ws://[::1",
    "ws://x/a b",
    "ws://x/\r\nX-Evil: 1",
    "ws://x/#fragment",
    f"ws://{'ö' * 100}/",
]


@dialings
@pytest.mark.parametrize("url", NOT_URLS)
async def test_a_url_that_is_none_is_not_tried_again(dialing: Dialing, url: str) -> None:
    with pytest.raises(ValueError) as caught:
        await dialing.dial(url, limits=LIMITS)
    assert not is_transient(caught.value)
    asked: list[str] = []

    def ask() -> str:
        asked.append(url)
        return url

    client = Client(ask, dial=dialing.dial, limits=LIMITS)
    with pytest.raises(ValueError):
        await client.connect()
    assert len(asked) == 1 and client.state == "closed"


@dialings
@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1/", "127.0.0.1:3128", "http://", "http://127.0.0.1:99999"])
@pytest.mark.parametrize("environment", [True, False])
async def test_a_proxy_that_is_none_is_not_tried_again(
    dialing: Dialing, proxy: str, environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("ws_proxy", proxy)
    with pytest.raises(ValueError) as caught:
        await dialing.dial("ws://192.0.2.1/", proxy=True if environment else proxy, limits=LIMITS)
    assert not is_transient(caught.value)


@dialings
async def test_cancelling_leaves_nothing(dialing: Dialing) -> None:
    async with raw_server() as server:
        dialed = asyncio.create_task(dialing.dial(server.url, limits=LIMITS))
        await server.accept_tcp()
        dialed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialed


@dialings
async def test_tls(dialing: Dialing) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    server = echo_server()
    async with server.listen(ssl=context) as listener:
        url = f"wss://localhost:{listener.port}/"
        trusting = ssl.create_default_context(cafile=str(PEM))
        async with Client(url, dial=dialing.dial, ssl=trusting, limits=LIMITS) as client:
            assert await client.request("echo", "x" * 300_000) == "x" * 300_000
        with pytest.raises(ssl.SSLError) as caught:
            await dialing.dial(url, limits=LIMITS)
        assert not is_transient(caught.value)
        with pytest.raises((ConnectFailed, ssl.SSLError)):
            await Client(url, dial=dialing.dial, limits=LIMITS).connect()


@dialings
async def test_it_comes_back_after_a_drop(dialing: Dialing) -> None:
    server = echo_server()
    async with server.listen() as listener, FaultProxy(listener.url) as proxy:
        async with Client(proxy.url, dial=dialing.dial, reconnect=AT_ONCE, limits=LIMITS) as client:
            for number in range(3):
                assert await client.request("echo", number) == number
                proxy.drop()
                await turns_until(lambda: not client.connected)
                await client.wait_connected()


@dialings
@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, ""), (4321, "für immer")])
async def test_close_codes_both_ways(dialing: Dialing, code: int, reason: str) -> None:
    server = echo_server()
    endings = Endings(server)
    async with server.listen() as listener:
        async with Observed(listener.url, dial=dialing.dial) as seen:
            await seen.client.close(code, reason)
            assert (await seen.ended).was_clean
        info = await endings.next()
        assert (info.code, info.reason, info.was_clean) == (code, reason, True)
        async with Observed(listener.url, dial=dialing.dial) as seen:
            await server.peers[0].close(code, reason)
            info = await seen.ended
            assert (info.code, info.reason, info.was_clean) == (code, reason, True)


@dialings
async def test_close_without_a_code_both_ways(dialing: Dialing) -> None:
    server = echo_server()
    endings = Endings(server)
    async with server.listen() as listener:
        async with Observed(listener.url, dial=dialing.dial) as seen:
            await seen.client.close(None)
            assert ((await seen.ended).code, (await endings.next()).code) == (1005, 1005)
        async with Observed(listener.url, dial=dialing.dial) as seen:
            await server.peers[0].close(None)
            assert ((await seen.ended).code, (await endings.next()).code) == (1005, 1005)


@dialings
async def test_a_message_over_the_limit(dialing: Dialing) -> None:
    async with raw_server() as server:
        seen = Observed(server.url, dial=dialing.dial, limits=LIMITS.replace(message=1000))
        connecting = asyncio.create_task(seen.__aenter__())
        raw = await server.accept()
        await connecting
        await raw.send(raw.frame(TEXT, "x" * 1001))
        assert (await raw.next_of(CLOSE)).code == 1009
        raw.drop()
        assert (await seen.ended).code == 1009
        await seen.client.close()


@dialings
async def test_a_silent_connection_is_found(dialing: Dialing) -> None:
    limits = LIMITS.replace(ping_interval=0.1, ping_timeout=0.2)
    async with raw_server() as server:
        seen = Observed(server.url, dial=dialing.dial, limits=limits)
        connecting = asyncio.create_task(seen.__aenter__())
        raw = await server.accept()
        await connecting
        await raw.send(raw.frame(PONG, (await raw.next_of(PING)).payload))
        await raw.next_of(PING)
        info = await seen.ended
        assert (info.code, info.was_clean) == (1011, False)
        await seen.client.close()


@dialings
async def test_what_comes_together_with_the_handshake_is_kept(dialing: Dialing) -> None:
    async with raw_server() as server:
        client = Client(server.url, dial=dialing.dial, reconnect=None, limits=LIMITS)
        said: asyncio.Queue[str] = asyncio.Queue()
        client.on("say", said.put_nowait)
        connecting = asyncio.create_task(client.connect())
        frames = [build_frame(TEXT, b'{"a":["say","%d"]}' % n, masked=False) for n in range(3)]
        raw = await server.accept(early=lambda _: b"".join(frames)[:-3])
        await connecting
        await raw.send(frames[-1][-3:])
        assert [await said.get() for _ in range(3)] == ["0", "1", "2"]
        closing = asyncio.create_task(client.close())
        await raw.next_of(CLOSE)
        await raw.send(raw.close_frame())
        raw.drop()
        await closing

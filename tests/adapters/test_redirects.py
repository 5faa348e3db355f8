"""Redirects of the opening handshake: which are followed, and what is sent along, by every way to dial."""

from __future__ import annotations

import asyncio
import contextlib
import json
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import product
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from dialings import DIALINGS, Dialing
from hosts import application, running
from leftovers import turns_until
from raw_websocket import TEXT, accept_response, raw_server
from served import AT_ONCE, LIMITS, tls

import wsrpc_adapters.aiohttp
from wsrpc import Client, HandshakeRejected, Server, SessionLost, current_peer, dial
from wsrpc_adapters.aiohttp import serve

SECRET = "s3cr3t-of-mine"
BASIC = b64encode(f"user:{SECRET}".encode()).decode()
OPTIONS: dict[str, Any] = {
    "headers": {"Cookie": f"session={SECRET}", "X-Api-Key": SECRET, "Proxy-Authorization": SECRET},
    "auth": SECRET,
    "subprotocols": [f"bearer.{SECRET}", "json", f"base64url.bearer.authorization.example.{SECRET}"],
}

dialings = pytest.mark.parametrize("dialing", DIALINGS, ids=repr)


CHAINS: dict[str, tuple[list[str], list[bool]]] = {
    "within the origin": (["d?e=f"], [True, True]),
    "to another origin": (["ws://OTHER/x"], [True, False]),
    "back from another origin": (["ws://OTHER/", "ws://OWN/delete-all"], [True, False, False]),
    "with other credentials": (["ws://you:yours@OWN/"], [True, True]),
    "with other credentials to another origin": (["ws://you:yours@OTHER/"], [True, False]),
}
"""Where a server redirects to, and which requests have what the user gave."""


@dialings
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("given", ["options", "url"])
async def test_what_the_user_gave_is_sent_within_the_origin_and_nowhere_else(
    dialing: Dialing, given: str, chain: str, caplog: pytest.LogCaptureFixture
) -> None:
    locations, kept = CHAINS[chain]
    async with raw_server() as own, raw_server() as other:
        url = own.url if given == "options" else own.url.replace("//", f"//user:{SECRET}@")
        options = OPTIONS if given == "options" else {"subprotocols": ["json"]}
        client = Client(url + "a?b=c", dial=dialing.dial, limits=LIMITS, reconnect=None, **options)
        connecting = asyncio.create_task(client.connect())
        asked, heads = own, list[str]()
        for location in locations:
            location = location.replace("OWN", f"127.0.0.1:{own.port}").replace("OTHER", f"127.0.0.1:{other.port}")
            heads.append((await asked.refuse("302 Found", "", f"Location: {location}")).decode())
            asked = other if str(other.port) in location else own
        peer = await asked.accept("Sec-WebSocket-Protocol: json")
        heads.append(peer.request.decode())
        await connecting
        path = urlsplit(locations[-1])
        assert heads[-1].startswith(f"GET /{path.path.lstrip('/')}{'?' if path.query else ''}{path.query} HTTP/1.1\r\n")
        assert client.peer.info.path == "/" + path.path.lstrip("/")
        peer.drop()
        await client.close()
    for head, with_secrets in zip(heads, kept, strict=True):
        assert head.count(SECRET) + head.count(BASIC) == ((6 if given == "options" else 1) if with_secrets else 0)
        assert with_secrets or not ("X-Api-Key" in head or "authorization:" in head.lower())
        assert b64encode(b"you:yours").decode() not in head and "\r\nSec-WebSocket-Protocol: " in head
    assert f"\r\nHost: 127.0.0.1:{asked.port}\r\n" in heads[-1] + "\r\n"
    lines = [record.getMessage() for record in caplog.records if "another origin" in record.getMessage()]
    assert len(lines) == (asked is other or len(kept) == 3) and SECRET not in caplog.text
    assert all(f"127.0.0.1:{other.port}/" in line for line in lines)


NOT_FOLLOWED = [
    "http://127.0.0.1:{port}/",
    "ws://127.0.0.1:{port}\\@localhost/",
    "ws://1ö.example/",
    "ws://127.0.0.1:99999/",
    "ws://ex%61mple/",
    "ws://[::1",
]


@pytest.mark.parametrize(("dialing", "location"), [*product(DIALINGS[:1], NOT_FOLLOWED), *product(DIALINGS, [""])])
async def test_what_is_not_followed_is_a_refusal(dialing: Dialing, location: str) -> None:
    """Nor is a redirect without a Location."""
    async with raw_server() as server:
        url = f"{server.url}?token={SECRET}"
        dialed = asyncio.create_task(dialing.dial(url, limits=LIMITS, headers={"Authorization": SECRET}))
        headers = [f"Location: {location.format(port=server.port)}"] if location else []
        await server.refuse("302 Found", "where to?", *headers)
        said = "a redirect that is not followed: it" if location else r"where to\?"
        with pytest.raises(HandshakeRejected, match=f"HTTP 302.*{said}") as caught:
            await dialed
        assert caught.value.status == 302 and ("location" in caught.value.headers) is bool(location)
        assert SECRET not in f"{caught.value} {caught.value!r}"


@dialings
async def test_ten_redirects_are_followed_and_no_more(dialing: Dialing) -> None:
    async with raw_server() as server:
        for enough in (10, 11):
            dialed = asyncio.create_task(dialing.dial(server.url, limits=LIMITS))
            for number in range(enough):
                status = ("301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent")[number % 5]
                head = await server.refuse(status, "", f"Location: /{number + 1}")
                assert f"GET /{number or ''} " in head.decode()
            if enough == 10:
                await server.accept()
                (await dialed).abort()
            else:
                with pytest.raises(HandshakeRejected, match="more than 10"):
                    await dialed


async def test_all_redirects_together_have_open_timeout() -> None:
    async with raw_server() as server:
        dialed = asyncio.create_task(dial(server.url, limits=LIMITS.replace(open_timeout=0.1)))
        await server.refuse("307 On", "", "Location: /")
        await server.accept_tcp()  # and says nothing
        with pytest.raises(TimeoutError, match=r"open_timeout=0\.1 s"):
            await dialed


@asynccontextmanager
async def tls_server(answers: list[bytes]) -> AsyncGenerator[tuple[int, list[str]]]:
    """A TLS server that gives one of ``answers`` to each request, where an empty one opens the connection.

    Gives its port and the requests.
    """
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head.decode())
        said = answers.pop(0)
        writer.write(said or accept_response(head))
        if not said:
            await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    context, _ = tls()
    server = await asyncio.start_server(answer, "localhost", 0, ssl=context, family=2)
    async with server:
        yield server.sockets[0].getsockname()[1], heads


def redirect_to(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@dialings
async def test_from_tls_to_another_port_and_never_to_clear_text(dialing: Dialing) -> None:
    _, trusting = tls()
    options: Any = {"ssl": trusting, "limits": LIMITS, "headers": {"Authorization": SECRET}}
    clear = [redirect_to("ws://localhost:1/"), redirect_to("http://localhost:1/")]
    async with tls_server([b""]) as (there, got):
        answers = [redirect_to(f"wss://localhost:{there}/"), redirect_to("/x"), b"", *clear]
        async with tls_server(answers) as (port, own):
            for _ in range(2):
                (await dialing.dial(f"wss://localhost:{port}/", **options)).abort()
            for _ in clear:
                with pytest.raises(HandshakeRejected, match="not followed: it leads"):
                    await dialing.dial(f"wss://localhost:{port}/", **options)
    assert [SECRET in head for head in got] == [False] and all(SECRET in head for head in own)


async def test_a_session_of_aiohttp_stays_within_its_origin() -> None:
    """aiohttp would send the session's own headers and cookies anywhere."""
    async with raw_server() as server, raw_server() as other:
        async with aiohttp.ClientSession(headers={"X-Api-Key": SECRET}, cookies={"who": SECRET}) as session:
            by_session = partial(wsrpc_adapters.aiohttp.dial, session=session)
            dialed = asyncio.create_task(by_session(server.url, limits=LIMITS))
            await server.refuse("302 Found", "", "Location: /x")
            await server.refuse("302 Found", "", f"Location: {other.url}")
            with pytest.raises(HandshakeRejected, match="another origin"):
                await dialed


# ---------------------------------------------------------------- sessions


class World:
    """A server with the session of a client. It redirects requests to ``locations``, while it has some."""

    def __init__(self) -> None:
        self.locations: list[str | None] = []
        self.gate = asyncio.Event()
        self.server = Server(limits=LIMITS)
        self.server.on("login", lambda user: current_peer().state.update(user=user))
        self.server.on("whoami", lambda: current_peer().state.get("user"))
        self.server.on("slow", self.gate.wait)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        location = self.locations.pop(0) if self.locations else None
        if location is not None:
            raise web.HTTPFound(location)
        return await serve(self.server, request)

    async def drop(self, client: Client, locations: list[str | None]) -> asyncio.Task[Any]:
        """Drop the connection, and return a request whose handler runs."""
        await client.request("login", "ada")
        slow = asyncio.create_task(client.request("slow"))
        await turns_until(lambda: any(peer.active for peer in self.server.peers))
        self.locations = locations
        transport = self.server.peers[0].transport
        assert transport is not None
        transport.abort()
        return slow


@dialings
async def test_a_client_does_not_ask_to_resume_at_another_origin(
    dialing: Dialing, caplog: pytest.LogCaptureFixture
) -> None:
    """The session's token would give the whole session to the other server."""
    world = World()
    options: Any = {"dial": dialing.dial, "limits": LIMITS, "reconnect": AT_ONCE, "auth": SECRET}
    async with asyncio.timeout(8), raw_server() as other, running(application(world.server, world.answer)) as url:
        async with Client(url, **options) as client:
            slow = await world.drop(client, [other.url] * 9)
            peer = await other.accept()
            assert "wsrpc-resume" not in peer.request.decode().lower()
            first = json.loads((await peer.next_of(TEXT)).payload)["wsrpc"]
            assert first["t"] == "hello" and "resume" not in first["features"] and "token" not in first
            with pytest.raises(SessionLost, match="a redirect leads to another origin") as caught:
                await slow
            assert caught.value.outcome == "unknown"
            peer.drop()
    assert "auth=" in caplog.text


async def test_a_session_resumes_where_a_redirect_stays_within_the_origin() -> None:
    world = World()
    async with asyncio.timeout(8), running(application(world.server, world.answer)) as url:
        async with Client(url, limits=LIMITS, reconnect=AT_ONCE) as client:
            slow = await world.drop(client, ["/ws?elsewhere"])
            world.gate.set()
            assert await slow is True and await client.request("whoami") == "ada"
            assert "elsewhere" in client.peer.info.query

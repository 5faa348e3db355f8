"""Redirects of the opening handshake: which are followed, and what is sent along, by every way to dial."""

from __future__ import annotations

import asyncio
import contextlib
import json
from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import product
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from dialings import DIALINGS, Dialing
from leftovers import turns_until
from raw_websocket import TEXT, accept_response, raw_server
from served import AT_ONCE, LIMITS, port_of, tls

import wsrpc_adapters.aiohttp
from wsrpc import Client, ConnectionLost, HandshakeRejected, ReconnectInfo, Server, SessionLost, current_peer, dial

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
    "mailto:a@b",
    "ws://127.0.0.1:99999/",
    "ws://127.0.0.1:{port}\\@localhost/",
    "ws://1ö.example/",
    "ws://[::1",
    "ws://ex%61mple/",
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


class Front:
    """What stands before a server: it passes each connection on, or redirects it, as ``answers`` say.

    ``answers`` has the Location for each of the next connections, or None. Then ``location`` is for all.
    """

    def __init__(self, server_url: str) -> None:
        self._server_port = port_of(server_url)
        self.location: str | None = None
        self.answers: list[str | None] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Front:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        self.drop()
        await asyncio.gather(*self._tasks)

    def drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        with contextlib.suppress(OSError, EOFError):
            location = self.answers.pop(0) if self.answers else self.location
            if location is not None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(redirect_to(location))
                writer.close()
                return
            there, here = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._writers.append(here)
            await asyncio.gather(self._pass_on(reader, here), self._pass_on(there, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.close()


class World:
    """A server behind two fronts, and a client that has logged in through the first of them."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, str]] = []
        """The headers of each request that came to the server."""
        self.gate = asyncio.Event()
        self.server = server = Server(limits=LIMITS)
        server.on_handshake(lambda handshake: self.asked.append(handshake.headers))
        server.on("login", lambda user: current_peer().state.update(user=user))
        server.on("whoami", lambda: current_peer().state.get("user"))
        server.on("slow", self.gate.wait)

    async def serve(self, stack: AsyncExitStack) -> None:
        self.url = (await stack.enter_async_context(self.server.listen())).url
        self.front, self.second = [await stack.enter_async_context(Front(self.url)) for _ in range(2)]

    async def started(self, client: Client) -> asyncio.Task[Any]:
        """Log in, and return a request whose handler runs."""
        await client.request("login", "ada")
        slow = asyncio.create_task(client.request("slow"))
        await turns_until(lambda: any(peer.active for peer in self.server.peers))
        return slow


@dialings
async def test_a_client_does_not_ask_to_resume_at_another_origin(
    dialing: Dialing, caplog: pytest.LogCaptureFixture
) -> None:
    """The session's token would give the whole session to the other server."""
    async with asyncio.timeout(8), raw_server() as other, AsyncExitStack() as stack:
        mine = World()
        await mine.serve(stack)
        options: Any = {"dial": dialing.dial, "limits": LIMITS, "reconnect": AT_ONCE, "auth": SECRET}
        client = await stack.enter_async_context(Client(mine.front.url, **options))
        slow = await mine.started(client)
        mine.front.location = other.url
        mine.front.drop()
        peer = await other.accept()
        assert "wsrpc-resume" not in peer.request.decode().lower()
        first = json.loads((await peer.next_of(TEXT)).payload)["wsrpc"]
        assert first["t"] == "hello" and "resume" not in first["features"] and "token" not in first
        with pytest.raises(SessionLost, match="a redirect leads to another origin") as caught:
            await slow
        assert caught.value.outcome == "unknown"
        peer.drop()
    assert "auth=" in caplog.text


async def test_after_a_redirect_to_another_origin_a_new_session_begins_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Sessions end with their connections there, and the server keeps nothing that nobody can resume."""
    infos: asyncio.Queue[ReconnectInfo] = asyncio.Queue()
    async with asyncio.timeout(4), AsyncExitStack() as stack:  # less than the time for an answer to a resume
        mine = World()
        await mine.serve(stack)
        mine.front.location = mine.url
        client = Client(mine.front.url, limits=LIMITS, reconnect=AT_ONCE)
        client.on_reconnect(infos.put_nowait)
        await stack.enter_async_context(client)
        for _ in range(2):
            slow = await mine.started(client)
            [peer] = mine.server.peers
            assert peer.transport is not None
            peer.transport.abort()
            with pytest.raises(ConnectionLost) as caught:
                await slow
            assert caught.value.outcome == "unknown"
            info = await infos.get()
            assert not info.resumed and info.attempts == 1
            assert await client.request("whoami") is None
            assert len(mine.server.peers) == 1, "the server has no peer but the client's"
    assert len(mine.asked) == 3 and not any("wsrpc-resume" in headers for headers in mine.asked)
    assert "auth=" not in caplog.text, "there is a warning only if something was not sent"


@pytest.mark.parametrize("how", ["a redirect", "the user's function", "a redirect from another origin"])
async def test_a_session_resumes_within_the_origin_and_at_each_address_that_the_user_chose(how: str) -> None:
    async with asyncio.timeout(8), AsyncExitStack() as stack:
        mine = World()
        await mine.serve(stack)
        urls = [mine.second.url if how == "the user's function" else mine.front.url, mine.front.url]
        client = Client(lambda: urls.pop(), limits=LIMITS, reconnect=AT_ONCE)
        await stack.enter_async_context(client)
        slow = await mine.started(client)
        if how == "a redirect":
            mine.front.answers = ["/elsewhere", None]
        elif how != "the user's function":
            mine.second.location = f"{mine.front.url}elsewhere"
            mine.front.answers = [mine.second.url, None]
        mine.front.drop()
        mine.gate.set()
        if how == "a redirect from another origin":
            with pytest.raises(SessionLost):
                await slow
        else:
            assert await slow is True and len(mine.server.peers) == 1
        assert await client.request("whoami") == (None if "another" in how else "ada")
        assert client.peer.info.path == ("/" if how == "the user's function" else "/elsewhere")

"""Who is refused, and what each way in then says: `REFUSALS` has a row for each refusal, and a column for each way.

What a page says is in ``interop/test_page_refusals.py``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest
from asgi_servers import uvicorn_serving
from hosts import HOSTS, Host
from leftovers import nothing_left as nothing_left
from served import AT_ONCE, LIMITS
from waiting import until
from websockets.http11 import Request

from wsrpc import Client, ConnectionLost, Handshake, HandshakeRejected, Peer, Quotas, Server, local_client
from wsrpc.testing import connect
from wsrpc_adapters.asgi import asgi, routes

pytestmark = pytest.mark.usefixtures("nothing_left")

READS_METHODS = "method" in Request.__dataclass_fields__
"""Older versions of websockets close a connection whose request is no GET: docs/reference/versions.md."""
WHY = "log in first"
PAGE = "https://page.example"
EVIL = {"Origin": "https://evil.example"}


class Refusal(NamedTuple):
    """How a server refuses, and what is seen: by a client, as a URL, and in memory."""

    client: str
    """The error of a client over each transport, and whether it gives up or dials on."""
    url: str
    """The status, and ``Retry-After``."""
    memory: str
    refuses: Callable[[Server], object] = lambda server: None
    headers: Mapping[str, str] = {}


def rejects(status: int) -> Callable[[Server], object]:
    return lambda server: server.on_handshake(lambda handshake: handshake.reject(status, WHY))


def closes(code: int) -> Callable[[Server], object]:
    async def users_only(peer: Peer) -> None:
        await peer.close(code, WHY)

    return lambda server: server.on("open", users_only)


GIVES_UP, DIALS_ON = "gives up", "dials on"

REFUSALS: dict[str, Refusal] = {
    "on_handshake: 401": Refusal("401, gives up", "401", "401", rejects(401)),
    "on_handshake: 403": Refusal("403, gives up", "403", "403", rejects(403)),
    "on_handshake: 429": Refusal("429, dials on", "429 1", "429", rejects(429)),
    "on_handshake: 503": Refusal("503, dials on", "503", "503", rejects(503)),
    "on_handshake fails": Refusal("500, dials on", "500", "500", lambda server: server.on_handshake(lambda _: 1 / 0)),
    "an origin": Refusal("403, gives up", "403", "403", headers=EVIL),
    "a quota": Refusal("429, dials on", "429 1", "429"),
    "a closed server": Refusal("503, dials on", "503 1", "503"),
    "open: 3000": Refusal("3000, gives up", "401", "3000, gives up", closes(3000)),
    "open: 3003": Refusal("3003, gives up", "403", "3003, gives up", closes(3003)),
    "open: 1008": Refusal("1008, gives up", "403", "1008, gives up", closes(1008)),
    "open: 1000": Refusal("1000, dials on", "403", "1000, gives up", closes(1000)),
    "open: 4001": Refusal("4001, dials on", "403", "4001, gives up", closes(4001)),
    "open: 1012": Refusal("1012, dials on", "503 1", "1012, gives up", closes(1012)),
    "open: 1013": Refusal("1013, dials on", "503 1", "1013, gives up", closes(1013)),
}


@asynccontextmanager
async def refusing(name: str) -> AsyncGenerator[tuple[Server, str, list[str]]]:
    """A server that refuses, at an URL, and the types of the requests that have arrived there."""
    server = Server(limits=LIMITS, quotas=[Quotas(connections=1)] * (name == "a quota"))
    server.on("add", lambda a, b: a + b)
    REFUSALS[name].refuses(server)
    sockets, urls, asked = asgi(server), routes(server, calls=["add"]), list[str]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["type"])
        await (urls if scope["path"].startswith("/call") else sockets)(scope, receive, send)

    if name == "a quota":

        def identify(handshake: Handshake) -> None:
            handshake.principal = "ada"

        server.on_handshake(identify)
    async with uvicorn_serving(app, lifespan="off") as port:
        url = f"ws://127.0.0.1:{port}/ws"
        if name == "a closed server":
            await server.close()
        if name == "a quota":
            async with Client(url, limits=LIMITS):
                asked.clear()
                yield server, url, asked
        else:
            yield server, url, asked
        await server.close()


def seen(error: BaseException | None) -> str:
    assert isinstance(error, HandshakeRejected | ConnectionLost), error
    return str(error.status if isinstance(error, HandshakeRejected) else error.code)


async def after_refusal(client: Client) -> str:
    """Whether a client that was refused dials on. If not, its calls fail at once, and say why."""
    await until(lambda: client.state in ("closed", "waiting"))
    if client.state == "waiting":
        return DIALS_ON
    for _ in range(2):
        with pytest.raises((HandshakeRejected, ConnectionLost)):
            await client.wait_connected()
        with pytest.raises(ConnectionLost, match=f"{WHY}|this origin is not allowed") as lost:
            await client.request("add", 1, 2)
        assert lost.value.outcome == "not_sent"
    return GIVES_UP


@pytest.mark.parametrize("transports", [["websocket"], ["http"], None], ids=["websocket", "http", "either"])
@pytest.mark.parametrize("name", REFUSALS)
async def test_a_client_that_is_refused(name: str, transports: Any) -> None:
    """With either transport, HTTP is not tried after the answer of the server itself."""
    async with refusing(name) as (_, url, asked):
        options: dict[str, Any] = {"transports": transports, "headers": REFUSALS[name].headers, "limits": LIMITS}
        with pytest.raises((HandshakeRejected, ConnectionLost)) as refused:
            async with Client(url, reconnect=None, **options) as client:
                await client.request("add", 1, 2)
        client = Client(url, **options)
        client.start()
        assert f"{seen(refused.value)}, {await after_refusal(client)}" == REFUSALS[name].client
        await client.close()
    assert transports == ["http"] or "http" not in asked


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_url_that_is_refused(name: str) -> None:
    async with refusing(name) as (_, url, _asked), aiohttp.ClientSession() as session:
        address = url.replace("ws://", "http://").replace("/ws", "/call/add")
        async with session.post(address, json=[1, 2], headers=REFUSALS[name].headers) as response:
            again = response.headers.get("Retry-After", "")
            assert f"{response.status} {again}".strip() == REFUSALS[name].url


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_client_in_memory_that_is_refused(name: str) -> None:
    async with refusing(name) as (server, _, _asked):
        if not name.startswith("open"):
            with pytest.raises(HandshakeRejected) as rejected:
                await connect(server, headers=REFUSALS[name].headers).__aenter__()
            assert seen(rejected.value) == REFUSALS[name].memory
            return
        for connecting in (connect(server), local_client(server)):
            async with connecting as client:
                with pytest.raises(ConnectionLost) as lost:
                    await client.request("add", 1, 2)
                assert f"{seen(lost.value)}, {await after_refusal(client)}" == REFUSALS[name].memory


@pytest.mark.parametrize("host", [host for host in HOSTS if READS_METHODS or repr(host) != "websockets"], ids=repr)
async def test_a_page_of_another_origin_may_ask_over_http_why_it_is_refused(host: Host) -> None:
    """Also where the server does not serve connections over HTTP."""
    server = Server(limits=LIMITS, origins=[PAGE])
    server.on_handshake(lambda handshake: handshake.reject(401, WHY))
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "wsrpc-transport"}
    async with host.serving(server) as url, aiohttp.ClientSession(headers={"Origin": PAGE}) as session:
        address = url.replace("ws://", "http://")
        async with session.options(address, headers=preflight) as allowed:
            assert allowed.status == 204 and "wsrpc-transport" in allowed.headers["Access-Control-Allow-Headers"]
        async with session.post(address, headers={"Wsrpc-Transport": "stream"}) as refused:
            assert (refused.status, await refused.text(), refused.headers["Wsrpc-Refused"]) == (401, WHY, "1")
            assert "Wsrpc-Refused" in refused.headers["Access-Control-Expose-Headers"]
        for response in (allowed, refused):
            assert response.headers["Access-Control-Allow-Origin"] == PAGE
            assert response.headers["Access-Control-Allow-Credentials"] == "true"


async def test_a_client_that_was_refused_connects_again_when_the_user_has_logged_in() -> None:
    async with refusing("on_handshake: 401") as (server, url, _):
        client = Client(url, reconnect=AT_ONCE, limits=LIMITS)
        with pytest.raises(HandshakeRejected):
            await client.connect()
        server.on_handshake(lambda handshake: None)
        await client.connect()
        assert await client.request("add", 1, 2) == 3
        await client.close()

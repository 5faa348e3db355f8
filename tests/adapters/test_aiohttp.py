"""What only the adapter for aiohttp has: an application around the server, a session around the client."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web
from hosts import Handler, application, running
from raw_websocket import ask, handshake, head_of
from served import LIMITS, Observed, echo_server, port_of
from waiting import until

from wsrpc import Client, Handshake, Server
from wsrpc.adapting import ServerUpgrade
from wsrpc_adapters.aiohttp import aiohttp_handler, serve


async def test_a_route_among_others() -> None:
    server, seen = echo_server(), list[str]()
    server.on_handshake(lambda given: given.reject(401, "no") if "no" in given.query else None)

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        seen.append("begins")
        response = await handler(request)
        seen.append(str(response.status))
        return response

    async def change_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Node"] = "7"
        response.headers.pop("Server", None)

    app = application(server)
    app.middlewares.append(count)
    app.on_response_prepare.append(change_headers)
    async with running(app) as url, aiohttp.ClientSession() as session:
        async with Client(url, limits=LIMITS) as client:
            assert seen == ["begins"] and await client.request("echo", 1) == 1
        await until(lambda: seen == ["begins", "101"])
        async with session.get(url) as response:
            assert (response.status, response.headers["Upgrade"]) == (426, "websocket")
            assert "WebSocket" in await response.text()
        for path, status in (("/ws", b"101"), ("/ws?no", b"401")):
            head = (await head_of(port_of(url), handshake(path))).lower()
            assert head.split()[1] == status and b"\r\nx-node: 7" in head and b"\r\nserver:" not in head


@pytest.mark.parametrize("headers", [{}, {"Wsrpc-Transport": "poll"}])
async def test_a_body_that_cannot_be_decoded_writes_no_traceback(
    headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async with running(application(echo_server())) as url, aiohttp.ClientSession() as session:
        for method, status in (("GET", 415 if headers else 426), ("POST", 415 if headers else 400)):
            request = session.request(method, url, data=b"no", headers={**headers, "Content-Encoding": "deflate"})
            async with request as response:
                assert (response.status, response.headers["Connection"]) == (status, "close")
    assert caplog.messages == []


async def test_a_handler_of_one_s_own_gives_state() -> None:
    server = Server(limits=LIMITS)

    async def handler(request: web.Request) -> web.StreamResponse:
        if "user" not in request.query:
            raise web.HTTPUnauthorized(text="who are you?")
        return await serve(server, request, state={"user": request.query["user"]})

    async with running(application(server, handler)) as url:
        async with Client(url + "?user=ada", limits=LIMITS):
            assert server.peers[0].state["user"] == "ada"
        assert (await head_of(port_of(url), handshake("/ws"))).split()[1] == b"401"


async def test_an_application_that_shuts_down_drains() -> None:
    server = Server(limits=LIMITS)
    started, go = asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work() -> str:
        started.set()
        await go.wait()
        return "done"

    async with AsyncExitStack() as stack:
        async with running(application(server, drain=60)) as url:
            seen = await stack.enter_async_context(Observed(url))
            working = asyncio.create_task(seen.client.request("work"))
            await started.wait()
            draining = asyncio.create_task(until(lambda: not server.healthy))
            draining.add_done_callback(lambda _: go.set())
        assert await working == "done"
        info = await seen.ended
        assert (info.code, info.was_clean) == (1012, True)


async def test_a_header_that_cannot_be_read_is_the_client_s_fault(caplog: pytest.LogCaptureFixture) -> None:
    request = handshake("/ws", "Authorization: Bearer s3cr3t").replace(b"Version: 13", b"Version: \xff")
    async with running(application(echo_server())) as url:
        assert (await head_of(port_of(url), request)).split()[1] in (b"400", b"426")
    assert not [record for record in caplog.records if record.exc_info] and "s3cr3t" not in caplog.text


async def test_the_path_is_the_one_that_aiohttp_routes() -> None:
    """A decision by `Handshake.path` was for another path than the handler's."""
    server, seen = echo_server(), list[Handshake]()
    server.on_handshake(seen.append)
    async with running(application(server)) as url:
        for target in ("/ws?a=1", "http://evil.example/ws?a=1", "/ws?a=1#x", "/%77s?a=1"):
            assert (await head_of(port_of(url), handshake(target))).split()[1] == b"101"
    assert [(each.path, dict(each.query)) for each in seen] == [("/ws", {"a": "1"})] * 4


def test_a_header_that_an_http_server_let_pass_is_refused_without_quoting_it() -> None:
    upgrade = ServerUpgrade(Handshake("/ws", {"authorization": "Bearer s3cr3t\x7f"}))
    assert (upgrade.status, upgrade.headers["Connection"]) == (400, "close")
    assert "'authorization'" in upgrade.body and "s3cr3t" not in upgrade.body


async def test_http_1_0_other_methods_and_bodies_are_refused() -> None:
    server = echo_server()
    app = web.Application()
    app.router.add_route("*", "/ws", aiohttp_handler(server))
    async with running(app) as url:
        for request in (
            handshake("/ws").replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            handshake("/ws").replace(b"GET", b"HEAD", 1),
            b"HEAD /ws HTTP/1.1\r\nHost: a\r\n\r\n",  # as a check of a route sends it
            handshake("/ws", "Content-Length: 5") + b"hello",  # which would be frames
        ):
            assert (await ask(port_of(url), request)).split(b" ")[1] == b"400"
        assert server.peers == ()

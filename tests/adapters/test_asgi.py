"""The ASGI adapter by itself: what servers differ in, mistakes, shutdowns, and servers that can do less."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgi_servers import SERVERS
from fastapi import FastAPI, WebSocket
from raw_websocket import ask
from served import LIMITS, Endings, Observed, echo_server
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from waiting import until

from wsrpc import Client, Handshake, Server, dial
from wsrpc_adapters.asgi import asgi, serve_websocket


@pytest.mark.parametrize("run", SERVERS)
async def test_calls_and_ends_under_every_server(run: str) -> None:
    server = echo_server()
    endings = Endings(server)
    async with SERVERS[run](asgi(server)) as port:
        answer = await ask(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 426")
        url = f"ws://127.0.0.1:{port}/a%2Fb%20%C3%BC?x=%C3%BC&y=1+2&z"
        async with Observed(url) as seen:
            numbers = range(200)
            assert await asyncio.gather(*(seen.client.request("echo", n) for n in numbers)) == list(numbers)
            info = server.peers[0].info
            assert (info.target, info.path) == (url.partition(str(port))[2], "/a/b ü")
            assert dict(info.query) == {"x": "ü", "y": "1 2", "z": ""}
            await server.peers[0].close(4002, "enough")
            ended = await endings.next()
            assert (ended.code, ended.reason, ended.was_clean) == (4002, "enough", True)
        if run == "hypercorn":
            await server.close()
            return
        last = Observed(url)
        await last.client.connect()
    assert (await last.ended).code == (await endings.next()).code == 1012
    await last.client.close()


@pytest.mark.parametrize("run", ["uvicorn", "uvicorn-wsrpc", "hypercorn"])
async def test_below_another_application_the_path_is_the_whole_one(run: str) -> None:
    server = Server(limits=LIMITS)
    inner = Starlette(routes=[WebSocketRoute("/{room}", asgi(server))])
    async with SERVERS[run](Starlette(routes=[Mount("/rooms", inner)])) as port:
        async with Client(f"ws://127.0.0.1:{port}/rooms/caf%C3%A9", limits=LIMITS):
            assert server.peers[0].info.path == "/rooms/café"
            assert server.peers[0].info.underlying["path_params"] == {"room": "café"}


async def test_a_route_that_has_accepted_is_told_not_to() -> None:
    app, told = FastAPI(), list[str]()

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        with pytest.raises(RuntimeError) as caught:
            await serve_websocket(Server(), websocket)
        told.append(str(caught.value))

    async with SERVERS["uvicorn"](app) as port:
        (await dial(f"ws://127.0.0.1:{port}/ws", limits=LIMITS)).abort()
    assert len(told) == 1 and "remove `websocket.accept()`" in told[0]
    with pytest.raises(TypeError, match=r"asgi\(server, state=...\)\(scope, receive, send\)"):
        await serve_websocket(Server(), {"type": "websocket"})  # type: ignore[arg-type]


# ---------------------------------------------------------------- an ASGI server that the test plays


class Played:
    """An ASGI server's side of one connection, with an application that runs."""

    def __init__(self, app: Any, **scope: Any) -> None:
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.events: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue()
        self.fails: Exception | None = None
        self.blocked: asyncio.Future[None] | None = None
        self.events.put_nowait({"type": "websocket.connect"})
        given = {"type": "websocket", "path": "/caf\xe9", "headers": [], **scope}
        self.running = asyncio.create_task(app(given, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        event = await self.events.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def _send(self, event: dict[str, Any]) -> None:
        if self.blocked is not None:
            await self.blocked
        if self.fails is not None:
            raise self.fails
        self.said.put_nowait(event)

    async def next(self) -> dict[str, Any]:
        return await self.said.get()

    async def leaves(self) -> None:
        self.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.running

    def text(self, text: str) -> None:
        self.events.put_nowait({"type": "websocket.receive", "text": text})


async def opened(**limits: Any) -> tuple[Server, Endings, Played]:
    server = echo_server(limits=LIMITS.replace(**limits))
    endings, played = Endings(server), Played(asgi(server))
    assert (await played.next())["type"] == "websocket.accept"
    return server, endings, played


async def test_a_scope_with_nothing_but_what_the_specification_demands() -> None:
    server = echo_server()
    played = Played(asgi(server))
    assert await played.next() == {"type": "websocket.accept", "subprotocol": None, "headers": []}
    played.text('{"i":1,"a":["echo","x"]}')
    assert (await played.next())["type"] == "websocket.send"
    assert (server.peers[0].info.path, server.peers[0].info.remote) == ("/café", None)
    await played.leaves()


async def test_a_refusal_leaves_its_length_to_the_asgi_server_and_closes_where_that_sends_none() -> None:
    """uvicorn before 0.53 adds Content-Length to one that is there, and clients take two for a broken answer."""
    server = Server()
    server.on_handshake(lambda given: given.reject(404, "no such room", {"Content-Length": "1", "X-Why": "closed"}))
    played = Played(asgi(server), extensions={"websocket.http.response": {}})
    await played.running
    start, body = await played.next(), await played.next()
    assert start["status"] == 404 and body["body"] == b"no such room"
    added = [(b"wsrpc-refused", b"1"), (b"x-why", b"closed")]
    assert start["headers"] == [(b"content-type", b"text/plain; charset=utf-8"), *added]
    less = Played(asgi(server))
    await less.running
    assert await less.next() == {"type": "websocket.close"}


async def test_headers_that_come_in_parts_are_joined() -> None:
    server, seen = Server(), list[Handshake]()
    server.on_handshake(seen.append)
    headers = [(b"cookie", b"a=1"), (b"Cookie", b"b=2"), (b"x-a", b"1"), (b"x-a", b"2")]
    played = Played(asgi(server), headers=headers, query_string=b"q=%20", scheme="wss", client=("1.2.3.4", 5))
    await played.next()
    assert seen[0].headers == {"cookie": "a=1; b=2", "x-a": "1, 2"}
    assert (dict(seen[0].query), seen[0].secure, seen[0].remote) == ({"q": " "}, True, ("1.2.3.4", 5))
    await played.leaves()


async def test_a_client_that_leaves_before_it_is_answered() -> None:
    played = Played(asgi(echo_server()))
    played.fails = OSError("gone")
    await played.running
    gone = Played(asgi(echo_server()))
    gone.events.get_nowait()
    gone.events.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await gone.running


@pytest.mark.parametrize("where", ["receive", "send", "cancelled", "gone"])
async def test_the_end_is_what_fails_or_what_the_server_says_after_a_send_has_failed(where: str) -> None:
    """What a middleware raises reaches the server."""
    server, endings, played = await opened(close_timeout=0.05 if where == "send" else 2.0)
    await until(lambda: server.peers)
    if where in ("send", "gone"):
        played.fails = LookupError("of a middleware") if where == "send" else OSError("gone")
        played.text('{"i":1,"a":["echo","x"]}')
    if where == "receive":
        played.events.put_nowait(LookupError("of a middleware"))
    elif where == "cancelled":
        played.running.cancel()
    elif where == "gone":
        await until(lambda: server.peers and "broken" in repr(server.peers[0].transport))
        played.events.put_nowait({"type": "websocket.disconnect", "code": 4000, "reason": "bye"})
    await asyncio.wait([played.running])
    info = await endings.next()
    if where == "gone":
        assert (info.code, info.reason, info.was_clean, played.running.exception()) == (4000, "bye", True, None)
    elif where == "cancelled":
        assert played.running.cancelled()
        assert (info.code, info.reason) == (1006, "the ASGI server stopped the application")
    else:
        assert isinstance(played.running.exception(), LookupError)
        assert (info.code, info.reason, info.was_clean) == (1006, "of a middleware", False)


def request(number: int) -> str:
    return f'{{"i":{number},"a":["echo",{number}]}}'


def answer(number: int) -> str:
    return f'{{"i":{number},"d":{number}}}'


async def test_a_send_that_waits_in_the_task_that_reads_leaves_the_reading_to_another() -> None:
    server, _, played = await opened()
    heard = asyncio.Event()
    server.on("heard", heard.set)
    for number in range(1, 4):
        played.text(request(number))
        await played.next()
    played.blocked = asyncio.get_running_loop().create_future()
    played.text(request(4))
    await until(lambda: server.peers[0].transport is not None and server.peers[0].transport.unsent)
    played.text('{"a":["heard"]}')
    played.text(request(5))
    await heard.wait()
    assert played.said.empty()
    played.blocked.set_result(None)
    assert [(await played.next())["text"] for _ in range(2)] == [answer(4), answer(5)]
    await played.leaves()

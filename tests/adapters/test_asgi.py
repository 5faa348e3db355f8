"""The ASGI adapter by itself: what servers differ in, shutdowns, and servers that can do less."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgi_servers import SERVERS
from leftovers import turns_until
from served import Endings, Observed, echo_server

from wsrpc import Handshake, Limits, Server
from wsrpc_adapters.asgi import asgi

LIMITS = Limits(close_timeout=2.0)


@pytest.mark.parametrize("run", SERVERS)
async def test_calls_and_ends_under_every_server(run: str) -> None:
    server = echo_server()
    endings = Endings(server)
    async with SERVERS[run](asgi(server)) as port:
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
        async with asyncio.timeout(8):
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
    info = server.peers[0].info
    assert (info.path, info.remote, info.local) == ("/café", None, None)
    await played.leaves()


async def test_a_refusal_leaves_its_length_to_the_asgi_server_and_closes_where_that_sends_none() -> None:
    """uvicorn before 0.53 adds Content-Length to one that is there, and clients take two for a broken answer."""
    server = Server()

    @server.on_handshake
    def gate(given: Handshake) -> None:
        given.reject(404, "no such room", {"Content-Length": "1", "X-Why": "closed"})

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
    server = Server()
    seen: list[Handshake] = []
    server.on_handshake(seen.append)
    headers = [(b"cookie", b"a=1"), (b"Cookie", b"b=2"), (b"x-a", b"1"), (b"x-a", b"2")]
    played = Played(asgi(server), headers=headers, query_string=b"q=%20", scheme="wss", client=("1.2.3.4", 5))
    await played.next()
    assert seen[0].headers == {"cookie": "a=1; b=2", "x-a": "1, 2"}
    assert (seen[0].headers.get_all("cookie"), seen[0].headers.get_all("x-a")) == (["a=1; b=2"], ["1", "2"])
    assert (dict(seen[0].query), seen[0].secure, seen[0].remote) == ({"q": " "}, True, ("1.2.3.4", 5))
    played.running.cancel()
    await asyncio.wait([played.running])


async def test_cancelling_the_application_ends_the_connection() -> None:
    server, endings, played = await opened()
    await turns_until(lambda: server.peers)
    played.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await played.running
    info = await endings.next()
    assert (info.code, info.reason) == (1006, "the ASGI server stopped the application")


async def test_a_client_that_leaves_before_it_is_answered() -> None:
    played = Played(asgi(echo_server()))
    played.fails = OSError("gone")
    await played.running
    gone = Played(asgi(echo_server()))
    gone.events.get_nowait()
    gone.events.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await gone.running


async def test_a_send_that_fails_waits_for_how_the_connection_ended() -> None:
    server, endings, played = await opened()
    played.fails = OSError("gone")
    played.text('{"i":1,"a":["echo","x"]}')
    await turns_until(lambda: server.peers and "broken" in repr(server.peers[0].transport))
    played.events.put_nowait({"type": "websocket.disconnect", "code": 4000, "reason": "bye"})
    await played.running
    info = await endings.next()
    assert (info.code, info.reason, info.was_clean) == (4000, "bye", True)


@pytest.mark.parametrize("where", ["receive", "send"])
async def test_what_a_middleware_raises_reaches_the_server(where: str) -> None:
    _server, endings, played = await opened(close_timeout=0.05)
    if where == "receive":
        played.events.put_nowait(LookupError("of a middleware"))
    else:
        played.fails = LookupError("of a middleware")
        played.text('{"i":1,"a":["echo","x"]}')
    with pytest.raises(LookupError, match="of a middleware"):
        await played.running
    info = await endings.next()
    assert (info.code, info.reason, info.was_clean) == (1006, "of a middleware", False)


def request(number: int) -> str:
    return f'{{"i":{number},"a":["echo",{number}]}}'


def answer(number: int) -> str:
    return f'{{"i":{number},"d":{number}}}'


@pytest.mark.parametrize("waits", [False, True], ids=["at-once", "waits"])
async def test_answers_are_the_same_however_they_are_written(waits: bool) -> None:
    """By the task that reads, where each read brings one message, and by a task of their own.

    Each ``send()`` may wait for a turn of the loop.
    """
    _, _, played = await opened()
    answers: list[str] = []
    for size in (1, 1, 4, 1, 1):
        played.blocked = asyncio.get_running_loop().create_future() if waits else None
        for number in range(len(answers) + 1, len(answers) + size + 1):
            played.text(request(number))
        if played.blocked is not None:
            asyncio.get_running_loop().call_later(0, played.blocked.set_result, None)
        answers += [(await played.next())["text"] for _ in range(size)]
    await played.leaves()
    assert answers == [answer(number) for number in range(1, 9)]


async def test_a_send_that_waits_in_the_task_that_reads_leaves_the_reading_to_another() -> None:
    server, _, played = await opened()
    heard = asyncio.Event()
    server.on("heard", heard.set)
    for number in range(1, 4):
        played.text(request(number))
        await played.next()
    played.blocked = asyncio.get_running_loop().create_future()
    played.text(request(4))
    await turns_until(lambda: server.peers[0].transport is not None and server.peers[0].transport.unsent)
    played.text('{"a":["heard"]}')
    played.text(request(5))
    await heard.wait()
    assert played.said.empty()
    played.blocked.set_result(None)
    assert [(await played.next())["text"] for _ in range(2)] == [answer(4), answer(5)]
    await played.leaves()

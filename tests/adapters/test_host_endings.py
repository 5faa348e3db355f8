"""Every place where a server runs: how connections end, and what comes after."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hosts import HOSTS, KINDS_OF_HOSTS, Host, UvicornH11, serving_starlette
from raw_websocket import CLOSE, TEXT, ask, handshake, head_of
from served import HELLO, LIMITS, Endings, Observed, control, echo_server, hosts, kinds_of_hosts, port_of, raw
from waiting import until

from wsrpc import ConnectionLost, Peer, Quotas, Server, Service, dial, method


@hosts
async def test_a_server_closes_with_1012_and_refuses_who_comes_until_it_is_served_again(host: Host) -> None:
    server = echo_server()
    async with host.serving(server) as url, Observed(url) as seen:
        await server.close()
        info = await seen.ended
        assert (info.code, info.was_clean) == (1012, True)
        assert server.peers == ()
        # Where the HTTP server goes on listening, for what else it serves, it answers 503.
        with pytest.raises(OSError) as caught:
            await dial(url, limits=LIMITS)
        assert getattr(caught.value, "status", 503) == 503
    async with host.serving(server) as url:
        left = Observed(url)
        await left.client.connect()
        assert await left.client.request("echo", "x") == "x" and server.healthy
    assert not server.healthy and server.peers == ()
    await left.ended
    await left.client.close()


@kinds_of_hosts
@pytest.mark.parametrize("code", [4001, 1007])
async def test_nothing_is_handled_once_a_close_frame_is_sent(host: Host, code: int) -> None:
    server = Server(limits=LIMITS.replace(close_timeout=0.2))
    endings, ran = Endings(server), list[int]()
    server.on("note", ran.append)
    async with host.serving(server) as url, raw(url) as peer:
        await peer.send(peer.frame(TEXT, '{"a":["note",0]}'))
        await until(lambda: ran == [0])
        closing: asyncio.Task[None] | None = None
        if code == 4001:
            closing = asyncio.create_task(server.peers[0].close(4001, "logged out"))
        else:
            await peer.send(*[peer.frame(TEXT, '{"a":["note"') for _ in range(12)])
        assert (await peer.next_of(CLOSE)).code == code
        with suppress(ConnectionError):  # some servers end the TCP connection at once
            for number in range(20):  # not in one write: some libraries ignore the rest of a read
                await peer.send(peer.frame(TEXT, f'{{"i":{number + 1},"a":["note",{number}]}}'))
                await asyncio.sleep(0)
            await peer.send(peer.close_frame(code))
        await peer.read_to_end()
        await endings.next()
        if closing is not None:
            await closing
        assert ran == [0]


@hosts
async def test_a_handler_may_close_its_own_connection_and_the_server(host: Host) -> None:
    server = echo_server()

    @server.on("leave")
    async def leave(peer: Peer) -> None:
        await peer.close(4002, "as you wish")

    server.on("open", lambda peer: peer.close(4003, "not you") if "no" in peer.info.query else None)
    server.on("stop", lambda: server.close())
    async with host.serving(server) as url:
        for event, code in (("leave", 4002), ("stop", 1012)):
            async with raw(url + "?no") as peer:
                frame = await peer.next_of(CLOSE)
                assert (frame.code, frame.reason) == (4003, "not you")
            async with Observed(url) as seen:
                with pytest.raises(ConnectionLost):
                    await seen.client.request(event)
                assert (await seen.ended).code == code


SERVED_AT: dict[str, Callable[[Server], Any]] = {
    **{repr(host): host.serving for host in KINDS_OF_HOSTS},
    **{run: partial(serving_starlette, run=run) for run in ("uvicorn-websockets", "uvicorn-wsproto")},
}
"""Hosts, and other WebSocket implementations of uvicorn."""


@pytest.mark.parametrize("place", SERVED_AT)
@pytest.mark.parametrize("code", [4400, 1007])
async def test_nothing_that_a_client_says_keeps_its_connection_open(place: str, code: int) -> None:
    """A number of 200 digits made the close reason too long for a Close frame, and closing raised an exception."""
    huge = 10**200
    server = echo_server(limits=LIMITS.replace(close_timeout=0.1))
    async with SERVED_AT[place](server) as url, raw(url) as peer:
        if code == 4400:
            await peer.send(control(peer, HELLO, {"t": "ack", "n": huge, "bytes": 0}))
        else:
            await peer.send(control(peer, HELLO | {"limits": {"message": -huge}}))
        frame = await peer.next_of(CLOSE)
        assert (frame.code, len(frame.reason)) == (code, 123)
        await peer.send(peer.frame(CLOSE, frame.payload))
        await peer.read_to_end()
        await until(lambda: server.peers == ())


@pytest.mark.parametrize("host", [*HOSTS, UvicornH11()], ids=repr)
@pytest.mark.parametrize("what", ["no WebSocket", "the factory fails", "the client leaves"])
async def test_a_connection_that_does_not_open_counts_in_no_quota(host: Host, what: str) -> None:
    """It counted until Python collected garbage: with one connection, the next one was refused."""
    server = Server(limits=LIMITS, quotas=Quotas(by=lambda _: "all", connections=1))
    arrived, may_go_on = asyncio.Event(), asyncio.Event()

    async def pause(query: Mapping[str, str]) -> None:
        if "first" in query:
            arrived.set()
            if "leaves" in what:
                await may_go_on.wait()

    class Adds(Service):
        @method
        def add(self, x: int, y: int) -> int:
            return x + y

    async def add(peer: Peer) -> Adds:
        await pause(peer.info.query)
        if "first" in peer.info.query:
            raise ValueError("no")
        return Adds()

    if what == "no WebSocket":
        server.on_handshake(lambda given: pause(given.query))
    else:
        server.add_service(Adds, add)
    async with host.serving(server) as url:
        gc.collect()
        gc.disable()
        try:
            request = handshake("/ws?first")
            if what == "no WebSocket":
                request = request.replace(b"Sec-WebSocket-Key", b"Sec-WebSocket-Lock")
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            writer.write(request)
            answers = [asyncio.create_task(arrived.wait()), asyncio.create_task(reader.read(1))]
            await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            writer.transport.abort()
            may_go_on.set()
            for each in answers:
                each.cancel()
            await asyncio.gather(*answers, return_exceptions=True)
            async with asyncio.timeout(60):
                while b" 101 " not in await head_of(port_of(url), handshake("/ws")):  # noqa: ASYNC110 - it may take time
                    await asyncio.sleep(0.05)
        finally:
            gc.enable()


@pytest.mark.parametrize("host", [*HOSTS, UvicornH11()], ids=repr)
async def test_nothing_of_a_connection_waits_for_the_garbage_collector(host: Host) -> None:
    """A refused request did, half a message, and on uvicorn with httptools each HTTP protocol, which took 6 KiB."""
    server = Server(limits=LIMITS)
    endings = Endings(server)
    server.on("add", lambda x, y: x + y)
    server.on("open", lambda peer: peer.of("news").emit_nowait("come"))

    server.on_handshake(lambda given: given.reject(403) if "no" in given.query else None)

    @server.on("numbers")
    async def numbers() -> AsyncGenerator[int]:
        yield 1

    async def visit(url: str, *session: dict[str, Any]) -> None:
        async with raw(url) as peer:
            await peer.send(control(peer, *session))
            for message in ({"i": 1, "a": ["add", 1, 2]}, {"i": 2, "a": ["numbers"]}):
                await peer.send(peer.frame(TEXT, json.dumps(message)))
            while json.loads((await peer.next_of(TEXT)).payload).get("i") != 2:
                pass
            await peer.send(peer.frame(TEXT, '{"h":2,"a":["start"]}'))
            while json.loads((await peer.next_of(TEXT)).payload)["a"][0] != "next":
                pass
            await peer.send(peer.close_frame())
            await peer.read_to_end()
        await endings.next()
        async with raw(url) as peer:
            await peer.send(peer.frame(TEXT, "x" * 100_000)[:-1])
            peer.reset()
        await endings.next()
        assert (await ask(port_of(url), handshake("/ws?no"))).startswith(b"HTTP/1.1 403")

    ours = {"wsrpc", "wsrpc_adapters"}
    if host.name.startswith("uvicorn"):  # the other protocols of uvicorn leave its HTTP protocol
        ours |= {"uvicorn", "httptools", "h11"}
    async with host.serving(server) as url:
        await visit(url)  # what is made for the first one stays
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await visit(url)
            await visit(url, HELLO, {"t": "ack", "n": 0, "bytes": 0}, {"t": "gone", "why": "closed"})
            await visit(url)
            gc.collect()
            kinds = [type(each) for each in gc.garbage]
            found = Counter(kind.__qualname__ for kind in kinds if kind.__module__.partition(".")[0] in ours)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not found

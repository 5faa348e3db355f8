"""The heartbeat of ASGI servers, which stands in for `Limits.ping_interval`: what they do, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgi_servers import hypercorn_serving, uvicorn_serving
from flavours import OverSockets, unable
from leftovers import turns_until
from raw_websocket import PING, PONG, TEXT, RawPeer, raw_client
from recorder import Recorder
from served import LIMITS, Endings, echo_server

from wsrpc import Server
from wsrpc_adapters.asgi import asgi

OURS = LIMITS.replace(ping_interval=0.02, ping_timeout=0.02)


@unable("heartbeat")
async def test_no_ping_is_sent_and_nobody_is_dropped(flavour: OverSockets) -> None:
    async with flavour.raw(OURS) as (transport, raw):
        recorder = Recorder.of(transport)
        end = asyncio.get_running_loop().time() + 0.2
        await turns_until(lambda: asyncio.get_running_loop().time() > end)
        transport.send(b"the first frame")
        frame = await raw.next_frame()
        assert (frame.opcode, frame.payload) == (TEXT, b"the first frame")
        assert recorder.lost is None


@asynccontextmanager
async def uvicorn_pings(server: Server, **options: Any) -> AsyncGenerator[RawPeer]:
    async with uvicorn_serving(asgi(server), ws_ping_interval=0.05, **options) as port, raw_client(port) as peer:
        yield peer


@pytest.mark.parametrize("answers", [b"wrong", None])
async def test_uvicorn_finds_a_dead_connection(answers: bytes | None) -> None:
    server = echo_server(limits=OURS)
    endings = Endings(server)
    async with uvicorn_pings(server, ws_ping_timeout=0.1) as peer:
        await peer.next_of(PING)
        if answers is not None:
            await peer.send(peer.frame(PONG, answers))
        info = await endings.next()
        assert (info.code, info.was_clean) == (1006, False)  # uvicorn says 1011 to the other side alone
        assert server.peers == ()


async def test_uvicorn_keeps_who_answers() -> None:
    server = echo_server(limits=OURS)
    async with uvicorn_pings(server, ws_ping_timeout=15.0) as peer:
        for _ in range(5):
            await peer.send(peer.frame(PONG, (await peer.next_of(PING)).payload))
        await peer.send(peer.frame(TEXT, '{"i":1,"a":["echo","here"]}'))
        assert (await peer.next_of(TEXT)).payload == b'{"i":1,"d":"here"}'


async def test_hypercorn_pings_and_waits_for_no_answer() -> None:
    server = echo_server(limits=OURS)
    async with hypercorn_serving(asgi(server), websocket_ping_interval=0.02) as port, raw_client(port) as peer:
        for _ in range(5):
            await peer.next_of(PING)
        await peer.send(peer.frame(TEXT, '{"i":1,"a":["echo","here"]}'))
        assert (await peer.next_of(TEXT)).payload == b'{"i":1,"d":"here"}'

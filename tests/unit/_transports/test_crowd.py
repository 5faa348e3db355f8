"""Many that connect at once: all come in, a few in each turn of the event loop."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from attacks import opening
from core_driver import start
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, Handshake, Limits, Server
from wsrpc._transports.accepted import HANDSHAKE
from wsrpc._transports.fairness import AT_ONCE

pytestmark = pytest.mark.usefixtures("nothing_left")

CROWD = 100


@contextmanager
def crowd(port: int) -> Iterator[list[socket.socket]]:
    """All connect before the event loop has another turn."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(CROWD):
            sockets.append(socket.create_connection(("127.0.0.1", port), timeout=5.0))
        yield sockets
    finally:
        for each in sockets:
            each.close()


async def test_a_crowd_that_asks_at_once_is_let_in_a_few_at_a_time() -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    asked = 0
    in_turns: list[int] = []

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        nonlocal asked
        asked += 1

    async def watch() -> None:
        while asked < CROWD:
            before = asked
            await asyncio.sleep(0)
            in_turns.append(asked - before)

    async with server.listen() as listener:
        request = opening(listener.port)
        with crowd(listener.port) as sockets:
            for each in sockets:
                each.sendall(request[:-2])
            for _ in range(10 * CROWD):  # all are accepted, and have sent what they have
                await asyncio.sleep(0)
            watching = start(watch())
            for each in sockets:
                each.sendall(request[-2:])
            await turns_until(lambda: watching.done())
            await watching
            await turns_until(lambda: len(server.peers) == CROWD)
        await turns_until(lambda: not server.peers)
    assert 0 < max(in_turns) <= round(AT_ONCE / HANDSHAKE)


async def test_a_crowd_that_connects_at_once_is_accepted_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    accepted = 0
    in_turns: list[int] = []
    real = socket.socket.accept

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        nonlocal accepted
        result = real(self)
        accepted += 1
        return result

    async def watch() -> None:
        while accepted < CROWD:
            before = accepted
            await asyncio.sleep(0)
            in_turns.append(accepted - before)

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with Server(limits=Limits(open_timeout=0.5)).listen() as listener:
        with crowd(listener.port):
            watching = start(watch())
            await turns_until(lambda: watching.done())
            await watching
    assert 0 < max(in_turns) <= 8


async def test_a_connection_that_is_over_goes_without_the_garbage_collector() -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    async with server.listen() as listener:
        async with Client(listener.url):
            await turns_until(lambda: len(server.peers) == 1)
            (peer,) = server.peers
            kept = [weakref.ref(peer.transport), weakref.ref(peer.info.underlying)]
            del peer
            gc.collect()
            gc.disable()
        try:
            await turns_until(lambda: not server.peers)
            await turns_until(lambda: not any(each() for each in kept))
        finally:
            gc.enable()

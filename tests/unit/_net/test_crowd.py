"""Many that connect at once: all come in, a few in each turn of the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from attacks import opening
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Handshake, Limits, Server
from wsrpc._net.loop_budget import AT_ONCE
from wsrpc._net.port_connections import HANDSHAKE

pytestmark = pytest.mark.usefixtures("nothing_left")

CROWD = 100


@contextmanager
def crowd(port: int) -> Iterator[list[socket.socket]]:
    """All connect before the event loop has another turn."""
    with ExitStack() as stack:
        connect = socket.create_connection
        yield [stack.enter_context(connect(("127.0.0.1", port), timeout=5.0)) for _ in range(CROWD)]


async def most_in_a_turn(count: Callable[[], int]) -> int:
    """Return by how many ``count`` grew in one turn of the event loop at most, until it counts the crowd."""
    most = 0
    while (before := count()) < CROWD:
        await asyncio.sleep(0)
        most = max(most, count() - before)
    return most


async def test_a_crowd_that_asks_at_once_is_let_in_a_few_at_a_time() -> None:
    server = Server(limits=Limits(close_timeout=2.0))
    asked: list[Handshake] = []
    server.on_handshake(asked.append)
    async with server.listen() as listener:
        request = opening(listener.port)
        with crowd(listener.port) as sockets:
            for each in sockets:
                each.sendall(request[:-2])
            for _ in range(10 * CROWD):  # all are accepted, and have sent what they have
                await asyncio.sleep(0)
            for each in sockets:
                each.sendall(request[-2:])
            assert await most_in_a_turn(lambda: len(asked)) <= round(AT_ONCE / HANDSHAKE)
            await turns_until(lambda: len(server.peers) == CROWD)
        await turns_until(lambda: not server.peers)

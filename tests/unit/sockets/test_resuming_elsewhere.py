"""Sessions that resume through another server, on WebSocket connections: pings, and closing handshakes."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from elsewhere import LIMITS, world
from leftovers import nothing_left as nothing_left
from raw_websocket import PING, PONG, TEXT, raw_client
from waiting import until

from wsrpc._core.session.session import VERSION
from wsrpc._core.wire.control import Resume, announce, write_control
from wsrpc._server.peers import served_peer
from wsrpc.cluster._cluster import membership_of

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("code", [4001, 4411])
async def test_a_client_that_its_server_closes_is_connected_until_it_has_read_that(code: int) -> None:
    """On a slow network, the other server sent for longer than the session was kept, which was lost then."""
    async with world(sockets=True) as w:
        await w.forward()
        w.transport.pause_receiving()
        peer: Any = served_peer(w.peer)
        if code == 4411:
            peer.expire_at(time.time())
        closing = asyncio.create_task(w.peer.wait_closed() if code == 4411 else w.peer.close(code, "enough"))
        connections = membership_of(w.made[1].cluster).node.connections
        await until(lambda: connections._joined_to_clients.isdisjoint(connections._transports))
        assert not closing.done() and w.made[0].peers == (w.peer,) and w.forwarded == 1
        w.transport.resume_receiving()
        await closing
        await until(lambda: len(w.backs) == 2)
        assert w.codes == [1006, code] and w.backs[-1].resumed == (code == 4411)


async def test_pings_are_answered_while_the_other_process_is_asked() -> None:
    """A client with a short `Limits.ping_timeout` gave up such a connection, and waited before the next attempt."""
    async with world() as w, w.made[1].listen() as listener:
        session = f"{w.made[0].cluster.nodes[0]}.unknown"
        await w.made.engine_goes()
        port = urlsplit(listener.url).port
        assert port is not None
        asked = write_control(Resume(VERSION, [], announce(LIMITS), session, "token", gen=1, rx=0, bytes=0))
        async with raw_client(port, "/?who=ada&user=ada", "Wsrpc-Resume: 1") as raw:
            await raw.send(raw.frame(TEXT, asked), raw.frame(PING, "there?"))
            answer = await raw.next_frame()
            assert (answer.opcode, answer.payload) == (PONG, b"there?")
        w.made.engine.down = False

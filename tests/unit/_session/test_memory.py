"""What an idle session takes so that it can go on."""

from __future__ import annotations

import gc
import tracemalloc

from core_driver import turns

from wsrpc import Limits, Server
from wsrpc._api.peer import core_of
from wsrpc.testing import ScriptedTransport

PEERS = 64
HELLO = {"t": "hello", "v": 1, "features": ["batches", "credit", "drain", "stop", "msgpack", "resume"], "limits": {}}
ACK = {"t": "ack", "n": 0, "bytes": 0}


async def bytes_of_peers(replay: int) -> float:
    """Return the bytes that a server takes for each idle peer."""
    server = Server(limits=Limits(replay=replay))

    async def accept() -> None:
        for _ in range(PEERS):
            transport = ScriptedTransport()
            await server.accept(transport)
            transport.feed({"ws-wrapper": False, "wsrpc": HELLO})
            if replay:
                transport.feed({"ws-wrapper": False, "wsrpc": ACK})
            transport.take()
        await turns(5)
        gc.collect()

    await accept()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    await accept()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert all(core_of(peer).session.resumable == bool(replay) for peer in server.peers)
    await server.close(0)
    return taken / PEERS


async def test_an_idle_session_that_can_go_on_takes_at_most_2_kib() -> None:
    more = await bytes_of_peers(1024 * 1024) - await bytes_of_peers(0)
    assert 1024 < more <= 2048, more

"""`wsrpc.blocking.ClusterClient`: a program without an event loop calls the clients of a cluster."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Any, Protocol

import pytest
from forks import forks, in_child
from in_a_thread import ThreadedEngine, serving

from wsrpc import Client as AsyncClient
from wsrpc import Context, Handshake, OutgoingCall, Server
from wsrpc.blocking import Client, ClusterClient
from wsrpc.cluster import Cluster, SubmittedCall
from wsrpc.errors import EngineLost, PeerNotFound
from wsrpc.store import MemoryStore
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("threads_end")


class News(Protocol):
    def news(self, text: str) -> None: ...


def test_it_calls_peers_and_emits_to_rooms() -> None:
    engine = ThreadedEngine()
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    server = Server(cluster=Cluster(engine, name="shop"))

    @server.on_handshake
    def on_handshake(handshake: Handshake) -> None:
        handshake.address = "user/1"

    def upload(numbers: Iterator[int]) -> int:
        return sum(numbers)

    def count(n: int) -> Iterator[int]:
        yield from range(n)

    server.on("open", lambda peer: server.room("lobby").add(peer))
    with serving(server) as served, Client(served.url) as client, ClusterClient(engine, name="shop") as shop:
        client.on("news", lambda *args: told.put(args))
        client.of("named").on("news", lambda *args: told.put(("named", *args)))
        client.on("upload", upload)
        client.on("confirm", lambda question: question == "?")
        client.on("count", count)
        served.peer()
        peer = shop.peer("user/1")
        assert shop.connected and len(shop.nodes) == 2 and shop.locate("user/1") == shop.nodes[1]
        assert peer.request("upload", send=range(10)) == 45
        with peer.stream("count", 3, returns=int) as numbers:
            assert [*numbers] == [0, 1, 2]
        peer.of("named").emit("news", 1)
        assert told.get() == ("named", 1)
        lobby = shop.room("lobby")
        assert lobby.emit("news", "hi").nodes == (shop.nodes[1],)
        assert told.get() == ("hi",)
        assert lobby.request("confirm", "?", within=10, returns=bool) is True
        assert lobby.emit("news", "not you", skip=peer).missing_nodes == ()
        lobby.emitter(News).news("typed")
        assert told.get() == ("typed",)
        assert lobby.send_raw("raw").nodes == (shop.nodes[1],)
        assert lobby.members().addresses == ("user/1",)
        with pytest.raises(PeerNotFound):
            shop.peer("user/2").request("total", [])
        with pytest.raises(PeerNotFound):
            shop.peer("user/2").of("named").request("total", [], key="k", deliver_within=0.01)
        client.on("close", lambda peer, info: told.put((info.code, info.reason)))
        peer.close(1008, "kicked")
        assert told.get() == (1008, "kicked")
        with pytest.raises(PeerNotFound):
            shop.peer("user/2").close()


def test_outside_of_its_block_it_refuses() -> None:
    engine = ThreadedEngine()
    shop = ClusterClient(engine, name="shop")
    before = threading.enumerate()
    with pytest.raises(EngineLost, match="use `with`"):
        shop.peer("user/1").request("x")
    assert set(threading.enumerate()) <= set(before) and not shop.connected
    with shop:
        assert shop.connected
    with pytest.raises(EngineLost, match="outside of its block"):
        shop.room("lobby").emit("x")
    with shop:
        assert len(engine.connections) == 1
    assert not engine.connections


def joined_twice(shop: ClusterClient) -> int:
    """Join twice, leave, and return how many processes the cluster had."""
    shop.connect()
    shop.connect()
    nodes = shop.nodes
    shop.close()
    return len(nodes)


@forks
def test_each_process_joins_once_and_threads_may_join_at_the_same_time() -> None:
    engine = ThreadedEngine()
    shop = ClusterClient(engine, name="shop", connect_timeout=0.01)
    engine.down = True
    for _ in range(2):
        with pytest.raises(EngineLost, match="the engine is down"):
            shop.connect()
    engine.down = False
    shop._inner._connect_timeout = 30
    # A process that was forked before this one has joined.
    assert in_child(lambda: joined_twice(shop)) == "1"
    threads = [threading.Thread(target=shop.connect) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(engine.connections) == 1 and shop.connected
    for call in (shop.connect, lambda: shop.peer("user/1").request("x")):
        assert "make another one in each child" in str(in_child(call))
    assert in_child(shop.close) == "None" and shop.connected
    shop.close()
    shop.close()
    assert not engine.connections
    with pytest.raises(EngineLost, match=r"call connect\(\)"):
        shop.peer("user/1").request("x")
    # It joins again, also in a process that was forked after it had left.
    assert in_child(lambda: joined_twice(shop)) == "1"
    assert joined_twice(shop) == 1 and not engine.connections


def test_it_submits_calls_and_runs_functions_around_them_in_the_context_of_the_caller() -> None:
    engine, store, user = ThreadedEngine(), MemoryStore(), ContextVar("user", default="")
    called: queue.SimpleQueue[Any] = queue.SimpleQueue()
    shop = ClusterClient(engine, name="shop", store=store)

    @shop.use_outgoing
    def around(call: OutgoingCall) -> Iterator[None]:
        call.metadata["user"] = user.get()
        yield
        called.put(("submitted", call.event))

    with pytest.raises(TypeError, match="make it a `def`"):
        shop.use_outgoing(asyncio.sleep)  # type: ignore[type-var]
    server = Server(cluster=Cluster(engine, name="shop"), store=store)

    @server.on_handshake
    def on_handshake(handshake: Handshake) -> None:
        handshake.address = "user/1"

    device = AsyncClient()

    @device.on("ring", keep=60)
    async def ring(ctx: Context, tone: int) -> int:
        called.put(ctx.metadata)
        return tone

    async def connect_device() -> None:
        await devices.enter_async_context(connect(server, client=device))

    devices = AsyncExitStack()
    with serving(server) as served, shop:
        user.set("ada")
        shop.peer("user/1").submit("ring", 5, key="k", deliver_within=60)
        assert called.get() == ("submitted", "ring")
        assert shop.peer("user/1").submitted("ring", key="k") == SubmittedCall("waiting")
        shop.peer("user/1").of("door").submit("ring", 6, key="k2", deliver_within=60)
        assert called.get() == ("submitted", "ring")
        assert [(call.key, call.channel) for call in shop.peer("user/1").waiting()] == [("k", None), ("k2", "door")]
        assert [(found.address, found.count) for found in shop.waiting()] == [("user/1", 2)]
        assert shop.peer("user/1").of("door").withdraw("ring", key="k2") == SubmittedCall("withdrawn")
        served.run(connect_device())
        assert called.get() == {"user": "ada"}
        assert shop.peer("user/1").request("ring", 5, key="k", deliver_within=60, returns=int) == 5
        assert called.get() == ("submitted", "ring") and called.empty()
        assert shop.peer("user/1").submitted("ring", key="k") == SubmittedCall("done", 5)
        served.run(devices.aclose())


def test_an_engine_that_is_away_is_said() -> None:
    engine = ThreadedEngine()
    engine.down = True
    with pytest.raises(EngineLost, match=r"not reached within 0\.01 s: the engine is down"):
        with ClusterClient(engine, connect_timeout=0.01):
            raise AssertionError
    with pytest.raises(TypeError, match="a cluster takes an engine"):
        ClusterClient(5)  # type: ignore[arg-type]

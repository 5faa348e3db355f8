"""`wsrpc.blocking.ClusterClient`: a program without an event loop calls the clients of a cluster."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from in_a_thread import serving

from wsrpc import Handshake, Server
from wsrpc.blocking import Client, ClusterClient
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.errors import EngineLost, PeerNotFound


class ThreadedEngine(MemoryEngine):
    """A `MemoryEngine` whose connections may be in several event loops."""

    def __init__(self) -> None:
        super().__init__()
        self.loops: dict[Any, asyncio.AbstractEventLoop] = {}

    async def connect(self, listener: Any, /) -> Any:
        self.loops[listener] = asyncio.get_running_loop()
        return await super().connect(listener)

    def deliver(self, subject: str, payload: bytes) -> None:
        for connection in tuple(self.connections):

            def in_its_loop(connection: Any = connection) -> None:
                if connection.has_subscribed(subject):
                    connection.listener.received(subject, payload)

            self.loops[connection.listener].call_soon_threadsafe(in_its_loop)


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
    with pytest.raises(RuntimeError, match="was entered before"), shop:
        raise AssertionError
    assert not engine.connections


def test_an_engine_that_is_away_is_said() -> None:
    engine = ThreadedEngine()
    engine.down = True
    with pytest.raises(EngineLost, match=r"not reached within 0\.01 s: the engine is down"):
        with ClusterClient(engine, connect_timeout=0.01):
            raise AssertionError
    with pytest.raises(TypeError, match="a cluster takes an engine"):
        ClusterClient(5)  # type: ignore[arg-type]

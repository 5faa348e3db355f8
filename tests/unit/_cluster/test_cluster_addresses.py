"""Addresses: who has one, who gets it, and what the other one is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cluster_servers import servers
from leftovers import nothing_left as nothing_left
from leftovers import timers_due, turns_until

from wsrpc import (
    Client,
    CloseInfo,
    ConnectionLost,
    Handshake,
    HandshakeRejected,
    Limits,
    Peer,
    Reconnect,
    ReconnectInfo,
    Server,
    SessionLost,
)
from wsrpc._api.peer import core_of
from wsrpc._cluster.cluster import membership_of
from wsrpc._cluster.directory import NEW
from wsrpc._cluster.membership import CONFIRMED
from wsrpc._cluster.node import TICK
from wsrpc.cluster import Cluster
from wsrpc.testing import MemoryEngine, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("second", [0, 1], ids=["at the same server", "at another one"])
async def test_the_later_connection_has_the_address(second: int) -> None:
    async with servers(2) as made:
        old, new = Client(), Client()
        ends: list[CloseInfo] = []
        old.on("close", lambda peer, info: ends.append(info))
        old.on("which", lambda: "old")
        new.on("which", lambda: "new")
        await made.join(0, "ada", old)
        await made.join(second, "ada", new)
        await turns_until(lambda: ends)
        [info] = ends
        assert (info.code, info.reason, info.will_reconnect) == (4410, "another connection has its address", False)
        assert old.state == "idle"
        for server in made.all:
            assert await server.cluster.peer("ada").request("which") == "new"
        assert [peer.address for server in made.all for peer in server.peers] == ["ada"]


async def test_of_many_at_once_one_stays() -> None:
    """Wherever they connect, in the end all servers agree, and one connection is left."""
    async with servers(4) as made:
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(enter(made, number % 4))
        await turns_until(lambda: sum(len(server.peers) for server in made.all) == 1)
        [where] = [server.cluster.nodes[0] for server in made.all if server.peers]
        await turns_until(lambda: {server.cluster.locate("ada") for server in made.all} == {where})


async def enter(made: Any, number: int) -> None:
    await made._stack.enter_async_context(connect(made[number], path="/?who=ada"))


async def test_an_address_goes_with_its_connection() -> None:
    async with servers(2) as made:
        client = await made.join(0, "ada")
        assert made.peer(0, "ada").address == "ada"
        assert made[1].cluster.locate("ada") == made[0].cluster.nodes[0] == made[1].cluster.nodes[1]
        await client.close()
        await turns_until(lambda: made[1].cluster.locate("ada") is None)
        assert made[0].cluster.locate("ada") is None


async def test_who_is_replaced_does_not_come_back() -> None:
    """Two that come back by themselves would replace each other without end."""
    async with servers(1) as made, made[0].listen() as listener:
        url = f"{listener.url}?who=ada"
        async with Client(url) as old, Client(url) as new:
            await turns_until(lambda: old.state == "closed")
            assert new.connected and len(made[0].peers) == 1
            with pytest.raises(ConnectionLost) as caught:
                await old.request("anything")
            assert caught.value.code == 4410
            await old.connect()
            await turns_until(lambda: new.state == "closed")


class Coming:
    """A client that dials again when it may."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.gate = asyncio.Event()
        self.gate.set()
        self.client = Client(self.url, reconnect=Reconnect(initial=0.01, max=0.01))

    async def url(self) -> str:
        await self.gate.wait()
        return self._url

    async def drop(self, peer: Peer) -> None:
        """Lose the connection, and wait until the server knows."""
        await turns_until(lambda: core_of(self.client.peer).session.resumable and core_of(peer).session.resumable)
        self.gate.clear()
        self.client.peer.transport.abort()  # type: ignore[union-attr]
        await turns_until(lambda: peer.detached)


async def test_a_detached_session_keeps_its_address() -> None:
    async with servers(2) as made, made[0].listen() as listener:
        coming = Coming(f"{listener.url}?who=ada")
        coming.client.on("add", lambda a, b: a + b)
        async with coming.client:
            await turns_until(lambda: made[1].cluster.locate("ada"))
            peer = made.peer(0, "ada")
            await coming.drop(peer)
            assert made[1].cluster.locate("ada") == made[0].cluster.nodes[0]
            call = asyncio.create_task(made[1].cluster.peer("ada").request("add", 1, 2))
            await turns_until(lambda: peer.pending)
            coming.gate.set()
            assert await call == 3, "it waited for the next connection"
            assert made.peer(0, "ada") is peer


async def test_a_detached_session_that_is_replaced_ends() -> None:
    async with servers(2) as made, made[0].listen() as listener:
        coming = Coming(f"{listener.url}?who=ada")
        async with coming.client:
            await turns_until(lambda: made[1].cluster.locate("ada"))
            peer = made.peer(0, "ada")
            await coming.drop(peer)
            await made.join(1, "ada")
            await turns_until(lambda: not made[0].peers)


@pytest.mark.parametrize("reloads", [0, 2])
async def test_a_session_that_its_client_has_left_does_not_win_the_address(reloads: int) -> None:
    """The engine is away while a client goes from one server to the other, so each of them has a claim."""
    async with servers(2) as made, made[0].listen() as first, made[1].listen() as second:
        await engine_goes(made)
        for _ in range(reloads):  # each makes the claim of the first server higher
            async with connect(made[0], path="/?who=ada"):
                pass
        where = [first.url]
        client = Client(lambda: f"{where[0]}?who=ada", reconnect=Reconnect(initial=0.01, max=0.01))
        client.on("which", lambda: "here")
        async with client:
            peer = made.peer(0, "ada")
            await turns_until(lambda: core_of(peer).session.resumable)
            where[0] = second.url
            client.peer.transport.abort()  # type: ignore[union-attr]
            await turns_until(lambda: made[1].peers and peer.detached)
            made.memory.down = False
            await turns_until(lambda: made[0].cluster.connected and not made[0].peers)
            assert client.connected and len(made[1].peers) == 1
            await made.meet()
            assert await made[0].cluster.peer("ada").request("which") == "here"


async def engine_goes(made: Any) -> None:
    """Lose the engine until its ``down`` is set to false."""
    made.memory.down = True
    made.memory.cut()
    await turns_until(lambda: not any(server.cluster.connected for server in made.all))


@pytest.mark.parametrize("earlier", [0, 2])
async def test_a_server_that_has_just_started_has_the_later_connection(earlier: int) -> None:
    """It has not heard of the claim of the other one, which is higher."""
    async with servers(1) as made:
        for _ in range(earlier):
            async with connect(made[0], path="/?who=ada"):
                pass
        ends: list[CloseInfo] = []
        old, new = Client(), Client()
        old.on("close", lambda peer, info: ends.append(info))
        await made.join(0, "ada", old)
        await timers_due(NEW + TICK)  # else both have just started
        made.memory.down = True  # for those who are to come
        await made.add()
        await made._stack.enter_async_context(connect(made[1], path="/?who=ada", client=new))
        made.memory.down = False
        await turns_until(lambda: ends and not made[0].peers)
        assert ends[0].code == 4410 and new.connected
        node = made[1].cluster.nodes[0]
        await turns_until(lambda: made[0].cluster.locate("ada") == node)


class Deaf(MemoryEngine):
    """What is meant for one node gets lost while ``deaf``. What is meant for all arrives."""

    deaf = False

    def carry(self, subject: str, payload: bytes) -> None:
        if not self.deaf or subject == "shop.all":
            super().carry(subject, payload)


async def test_without_a_confirmation_both_connections_stay() -> None:
    engine = Deaf()
    async with servers(2, engine) as made:
        ends: list[CloseInfo] = []
        old, new = Client(), Client()
        old.on("close", lambda peer, info: ends.append(info))
        await made.join(0, "ada", old)
        engine.deaf = True
        await made._stack.enter_async_context(connect(made[1], path="/?who=ada", client=new))
        directory = membership_of(made[0].cluster).directory
        await turns_until(lambda: directory.higher_claim("ada"))
        await timers_due(CONFIRMED)
        assert old.connected and new.connected
        engine.deaf = False
        await turns_until(lambda: ends)
        assert ends[0].code == 4410 and new.connected


async def test_a_client_that_leaves_while_its_address_is_contested() -> None:
    """It does not keep later connections from being settled."""
    engine = Deaf()
    async with servers(1, engine) as made:
        ends: list[CloseInfo] = []
        await made.join(0, "ada", old := Client())
        engine.deaf = True  # so the two get no session, and the first one waits for it
        await made.add()
        await timers_due(NEW + TICK)  # else the second one has just started, and claims the address again
        async with connect(made[1], path="/?who=ada"):
            pass  # the next claim is higher, whichever node is
        await made._stack.enter_async_context(connect(made[1], path="/?who=ada"))
        directory = membership_of(made[0].cluster).directory
        await turns_until(lambda: directory.higher_claim("ada"))
        await old.close()
        await turns_until(lambda: not made[0].peers)
        engine.deaf = False
        await made.meet()
        third = Client()
        third.on("close", lambda peer, info: ends.append(info))
        await made.join(0, "ada", third)
        await made.join(1, "ada", Client())
        await turns_until(lambda: ends)
        assert ends[0].code == 4410 and len(made[1].peers) == 1


async def test_credentials_that_name_another_address() -> None:
    """A session goes on over a connection whose handshake gives another address: it has that one from then on."""
    server = Server(cluster=Cluster(MemoryEngine(), name="shop"), limits=Limits(ping_interval=None))
    names = iter(["ada", "ada@home"])

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.principal = 7
        handshake.address = next(names)

    async with server.listen() as listener:
        coming = Coming(listener.url)
        async with coming.client:
            [peer] = server.peers
            await coming.drop(peer)
            coming.gate.set()
            await turns_until(lambda: coming.client.connected and not peer.detached)
            assert server.peers == (peer,) and peer.address == "ada@home"
            assert server.cluster.locate("ada") is None
            assert server.cluster.locate("ada@home") == server.cluster.nodes[0]


async def test_a_server_that_is_opened_again_joins_again() -> None:
    engine = MemoryEngine()
    server = Server(cluster=Cluster(engine, name="shop"))
    nodes: list[str] = []
    for _ in range(2):
        async with server.listen():
            await turns_until(lambda: server.cluster.connected)
            nodes.append(server.cluster.nodes[0])
            stats = server.stats().cluster
            assert stats is not None and stats.connected and stats.node == nodes[-1]
        assert server.cluster.nodes == () and server.stats().cluster is None
        assert not server.cluster.connected and server.cluster.locate("ada") is None
    assert nodes[0] != nodes[1]


async def test_one_cluster_object_for_one_server() -> None:
    cluster = Cluster(MemoryEngine(), name="shop")
    one, other = Server(cluster=cluster), Server(cluster=cluster)
    await one.open()
    with pytest.raises(RuntimeError, match="belongs to another server already"):
        await other.open()
    await one.close()
    await other.open()
    await other.close()


async def test_two_applications_on_one_engine() -> None:
    engine = MemoryEngine()
    shop, bank = (Server(cluster=Cluster(engine, name=name)) for name in ("shop", "bank"))
    for server in (shop, bank):
        await server.open()
    await turns_until(lambda: shop.cluster.connected and bank.cluster.connected)
    member = membership_of(shop.cluster)
    await turns_until(lambda: member.stats().messages_in > 1)
    assert len(shop.cluster.nodes) == len(bank.cluster.nodes) == 1
    for server in (shop, bank):
        await server.close()


@pytest.mark.parametrize("wrong", ["", 5, "a\nb", "x" * 257, "\ud800"])
async def test_an_address_is_one_line_of_text(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.address = wrong

    with pytest.raises(HandshakeRejected):
        async with connect(server):
            pass
    assert "address" in caplog.text


async def test_without_a_cluster_an_address_is_a_name() -> None:
    server = Server()

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.address = "ada"

    addresses: list[str | None] = []
    server.on("open", lambda peer: addresses.append(peer.address))
    async with connect(server), connect(server) as client:
        assert addresses == ["ada", "ada"] and client.peer.address is None
    await server.close()


async def test_an_address_is_there_when_open_handlers_run() -> None:
    async with servers(1) as made:
        seen: list[Any] = []
        made[0].on("open", lambda peer: seen.append((peer.address, peer.server.cluster.locate("ada"))))
        await made.join(0, "ada")
        assert seen == [("ada", made[0].cluster.nodes[0])]


def test_a_peer_names_its_class() -> None:
    assert "address" in dir(Peer)


async def test_a_client_that_comes_back_to_another_server() -> None:
    """Its session is elsewhere and cannot go on; the calls of that one end, and say truly what is known of them."""
    async with servers(2) as made, made[0].listen() as first, made[1].listen() as second:
        urls = [first.url, second.url]
        client = Client(lambda: f"{urls[0]}?who=ada", reconnect=Reconnect(initial=0.01, max=0.01))
        parked, back = asyncio.Event(), asyncio.Event()
        lost: list[Any] = []

        async def park() -> None:
            parked.set()
            await asyncio.Event().wait()

        async def came_back(info: ReconnectInfo) -> None:
            lost.append(info.lost)
            back.set()

        client.on("park", park)
        client.on("which", lambda: "here")
        client.on_reconnect(came_back)
        made[0].on("park", park)
        async with client:
            await turns_until(lambda: made[1].cluster.locate("ada"))
            peer = made.peer(0, "ada")
            from_there = asyncio.create_task(made[1].cluster.peer("ada").request("park"))
            await parked.wait()
            mine = asyncio.create_task(client.request("park"))
            await turns_until(lambda: peer.active and core_of(client.peer).session.resumable)
            urls[0] = urls[1]
            client.peer.transport.abort()  # type: ignore[union-attr]
            await back.wait()
            with pytest.raises(SessionLost, match="a session of another server process") as own:
                await mine
            with pytest.raises(ConnectionLost) as theirs:
                await from_there
            assert own.value.outcome == theirs.value.outcome == "unknown" and isinstance(lost[0], SessionLost)
            await turns_until(lambda: not made[0].peers)
            assert await made[0].cluster.peer("ada").request("which") == "here"


async def test_the_event_loop_was_closed_before_the_server() -> None:
    """A server whose loop has ended, as those of tests, joins again in the next one."""
    cluster = Cluster(MemoryEngine(), name="shop")
    server = Server(cluster=cluster)

    async def serve() -> None:
        async with asyncio.timeout(5):
            await server.open()
            async with connect(server):
                assert len(cluster.nodes) == 1

    for _ in range(2):
        await asyncio.to_thread(asyncio.run, serve())

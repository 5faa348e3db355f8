"""Addresses: who has one, who gets it, and what the other one is told."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from cluster_servers import Servers, servers
from waiting import settled, until

from wsrpc import Client, CloseInfo, HandshakeRejected, Peer, Reconnect, Server, Service, method
from wsrpc.cluster import Cluster, ClusterClient, MemoryEngine
from wsrpc.cluster._nodes.node import BEAT
from wsrpc.cluster.engine import RESPONSE_TIMEOUT
from wsrpc.testing import Line, connect


class Watched:
    """A client that says which one it is, and how its sessions ended."""

    def __init__(self, name: str = "") -> None:
        self.client = Client()
        self.ends: list[CloseInfo] = []
        self.client.on("close", lambda peer, info: self.ends.append(info))
        self.client.on("which", lambda: name)

    async def replaced(self, limit: float = 0.04) -> None:
        """Wait until another connection has the address."""
        await until(lambda: self.ends, limit)
        [info] = self.ends
        assert (info.code, info.reason, info.will_reconnect) == (4410, "another connection has its address", False)
        assert self.client.state == "closed"


async def enter(made: Servers, number: int, client: Client | None = None) -> None:
    """Connect to a server, without waiting until the others know."""
    await made.enter(connect(made[number], path="/?who=ada", client=client))


@pytest.mark.parametrize("second", [0, 1], ids=["at the same server", "at another one"])
async def test_the_later_connection_has_the_address(second: int) -> None:
    async with servers(2) as made:
        seen: list[Any] = []
        made[0].on("open", lambda peer: seen.append((peer.address, peer.server.cluster.locate("ada"))))
        old, new = Watched("old"), Watched("new")
        await made.join(0, "ada", old.client)
        assert seen == [("ada", made[0].cluster.nodes[0])], "it is there when open handlers run"
        await asyncio.sleep(2)  # a connection that was just made keeps its address for so long
        await made.join(second, "ada", new.client)
        await old.replaced()
        for server in made:
            assert await server.cluster.peer("ada").request("which") == "new"
        assert [peer.address for server in made for peer in server.peers] == ["ada"]
        await new.client.close()
        await until(lambda: not any(server.cluster.locate("ada") for server in made))


async def test_of_many_at_once_one_stays() -> None:
    """Wherever they connect, in the end all servers agree, and one connection is left."""
    async with servers(4) as made:
        await asyncio.gather(*(enter(made, number % 4) for number in range(12)))
        await until(lambda: sum(len(server.peers) for server in made) == 1, limit=2 * BEAT + 0.1)
        [where] = [server.cluster.nodes[0] for server in made if server.peers]
        await until(lambda: {server.cluster.locate("ada") for server in made} == {where})


async def test_who_is_replaced_does_not_come_back() -> None:
    """Two that come back by themselves would replace each other without end."""
    async with servers(1) as made:
        old, new = Coming(made[0]).client, Coming(made[0]).client
        async with old, new:
            await until(lambda: old.state == "closed" and len(made[0].peers) == 1)
            await old.connect()
            await until(lambda: new.state == "closed")


class Coming:
    """A client that dials again when it may."""

    def __init__(self, server: Server) -> None:
        self.line = Line(server)
        soon = Reconnect(initial=0.01, max=0.01)
        self.client = Client("ws://server/?who=ada", dial=self.line.dial, reconnect=soon)
        self.client.on("which", lambda: "still here")

    async def drop(self, peer: Peer) -> None:
        """Lose the connection until the line is up, and wait until the server knows."""
        await until(lambda: self.client.peer.connected)
        await settled()
        self.line.down = True
        self.line.cut()
        await until(lambda: peer.detached)


@pytest.mark.parametrize("replaced", ["", "by another connection", "just before it is closed"])
async def test_a_detached_session_keeps_its_address(
    replaced: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless another connection takes it: then the session ends.

    If it was closed just then, its peer was collected, and closing it again raised an exception that nobody saw.
    """
    caplog.set_level(logging.INFO, "wsrpc")
    async with servers(2) as made:
        closing = list[asyncio.Task[None]]()

        def replaces(record: logging.LogRecord) -> bool:
            if "with 4410" in record.getMessage() and replaced == "just before it is closed":
                closing.append(asyncio.create_task(made.peer(0, "ada").close()))
            return True

        monkeypatch.setattr(caplog.handler, "filters", [replaces])
        coming = Coming(made[0])
        async with coming.client:
            await until(lambda: made[1].cluster.locate("ada"))
            peer = made.peer(0, "ada")
            await coming.drop(peer)
            assert made[1].cluster.locate("ada") == made[0].cluster.nodes[0]
            if replaced:
                del peer
                await made.join(1, "ada")
                await until(lambda: not made[0].peers)
                assert len(closing) == (replaced == "just before it is closed")
                return
            call = asyncio.create_task(made[1].cluster.peer("ada").request("which"))
            await until(lambda: peer.pending)
            coming.line.down = False
            assert await call == "still here", "it waited for the next connection"
            assert made.peer(0, "ada") is peer


async def test_a_session_that_resumes_under_another_address_has_only_that() -> None:
    async with servers(2) as made:
        names, line = ["ada"], Line(made[0])
        soon = Reconnect(initial=0.01, max=0.01)
        async with Client(lambda: f"ws://server/?who={names[-1]}", dial=line.dial, reconnect=soon):
            await until(lambda: made[1].cluster.locate("ada"))
            peer = made.peer(0, "ada")
            names.append("eve")
            line.cut()
            await until(lambda: made[1].cluster.locate("eve"))
            assert made[1].cluster.locate("ada") is None and made[0].peers == (peer,)


@pytest.mark.parametrize("meanwhile", ["closes", "drops", "vanishes", "stays"])
@pytest.mark.parametrize("second", [0, 1], ids=["at the same server", "at another one"])
async def test_a_connection_that_waited_for_its_service_does_not_take_the_address_from_a_later_one(
    second: int, meanwhile: str
) -> None:
    """The later connection was closed with 4410, although the client of the first one may be gone, or be the same."""

    class Greeter(Service):
        @method
        def greet(self) -> str:
            return "hello"

    gates = [asyncio.Event(), asyncio.Event()]
    waiting = [*gates]

    async def make() -> Greeter:
        await waiting.pop(0).wait()
        return Greeter()

    async with servers(2) as made:
        made[0].add_service(Greeter, make)
        line, new = Line(made[0]), Watched("new")
        old = await line.dial("ws://server/?who=ada")
        await until(lambda: len(waiting) == 1)  # its factory waits
        if meanwhile == "closes":
            await old.close()
        elif meanwhile == "drops":
            old.abort()
        elif meanwhile == "vanishes":
            old.vanish()
        gates[1].set()
        await asyncio.sleep(1)  # the second connection is later also for a server that hears of it late
        await made.join(second, "ada", new.client)
        gates[0].set()
        await until(lambda: repr(line.connections[0][1]).startswith("<MemoryTransport closed"))
        await until(lambda: len(made[0].peers) + len(made[1].peers) == 1)
        await until(lambda: {server.cluster.locate("ada") for server in made} == {made[second].cluster.nodes[0]})
        assert await made[0].cluster.peer("ada").request("which") == "new" and new.ends == []


@pytest.mark.parametrize("reloads", [0, 2])
async def test_a_session_that_its_client_has_left_does_not_win_the_address(reloads: int) -> None:
    """The engine is away while a client starts anew at the other server, so each of them has a claim."""
    async with servers(2) as made:
        await made.engine_goes()
        for _ in range(reloads):  # each makes the claim of the first server higher
            async with connect(made[0], path="/?who=ada"):
                pass
        coming, new = Coming(made[0]), Watched("here")
        async with coming.client:
            await coming.drop(made.peer(0, "ada"))
            await enter(made, 1, new.client)
            made.engine.down = False
            await until(lambda: made[0].cluster.connected and not made[0].peers, limit=BEAT + 0.6)
            assert new.client.connected and len(made[1].peers) == 1
            await made.meet()
            assert await made[0].cluster.peer("ada").request("which") == "here"


async def test_the_end_of_the_last_session_may_come_after_the_question_for_it() -> None:
    async with servers(2) as made:
        old, new = Watched("old"), Watched("new")
        await asyncio.sleep(60)  # else the second server has just started, and raises its own claim
        await made.engine_goes()
        await enter(made, 1, new.client)
        await asyncio.sleep(0.1)
        for client in (None, None, old.client):  # each makes the claim of the first server higher
            await enter(made, 0, client)
        made.engine.down = False
        await made.meet()
        await asyncio.sleep(2)  # the second server has asked
        await old.client.close()
        await asyncio.sleep(10)
        assert not made[0].peers and new.client.connected and new.ends == []


async def test_a_connection_that_drops_at_once_does_not_lose_the_address_to_an_older_one() -> None:
    """The older one may be half open: its client has started anew, and nobody has noticed."""
    async with servers(2) as made:
        old, coming = Watched(), Coming(made[1])
        await made.join(0, "ada", old.client)
        await asyncio.sleep(60)  # else the first server has just started, and raises its own claim
        await made.engine_goes()
        async with coming.client:
            await coming.drop(made.peer(1, "ada"))
            made.engine.down = False
            await made.meet()
            await asyncio.sleep(10)
            assert made[1].peers and old.client.connected, "both keep what they have"
            coming.line.down = False
            await old.replaced(limit=BEAT + 0.1)
            assert coming.client.connected


async def test_a_server_that_has_just_started_has_the_later_connection() -> None:
    """It has not heard of the claim of the other one, which is higher."""
    async with servers(1) as made:
        for _ in range(2):
            async with connect(made[0], path="/?who=ada"):
                pass
        old, new = Watched(), Watched()
        await made.join(0, "ada", old.client)
        await asyncio.sleep(60)  # else both have just started
        made.engine.down = True  # for those who are to come
        await made.add()
        await enter(made, 1, new.client)
        made.engine.down = False
        await old.replaced(limit=BEAT + 0.6)
        await until(lambda: made[0].cluster.locate("ada") == made[1].cluster.nodes[0])
        assert new.client.connected and not made[0].peers


async def test_without_a_confirmation_both_connections_stay() -> None:
    class Deaf(MemoryEngine):
        """What is meant for one node gets lost while ``deaf``. What is meant for all arrives."""

        deaf = False

        def deliver(self, subject: str, payload: bytes) -> None:
            if not self.deaf or subject == "shop.all":
                super().deliver(subject, payload)

    engine = Deaf()
    async with servers(2, engine) as made:
        old, new = Watched(), Watched()
        await made.join(0, "ada", old.client)
        engine.deaf = True
        await enter(made, 1, new.client)
        await asyncio.sleep(3)  # a lease takes longer
        assert old.client.connected and new.client.connected
        engine.deaf = False
        await old.replaced(limit=BEAT + 1.1)
        assert new.client.connected


@pytest.mark.parametrize("seconds", [0.5, 1.5])
async def test_a_program_that_joins_waits_for_a_node_that_answers_late(seconds: float) -> None:
    class Slow(MemoryEngine):
        """What the node ``late`` sends arrives late."""

        late = b""

        def deliver(self, subject: str, payload: bytes) -> None:
            if self.late and self.late in payload:
                asyncio.get_running_loop().call_later(seconds, super().deliver, subject, payload)
            else:
                super().deliver(subject, payload)

    engine = Slow()
    async with servers(3, engine) as made:
        await until(lambda: len(made[0].cluster.nodes) == 3)
        engine.late = made[2].cluster.nodes[0].encode()
        async with ClusterClient(engine, name="shop") as client:
            assert len(client.nodes) == 4
        engine.late = b""


@pytest.mark.parametrize("given", ["", 5, "a\nb", "x" * 257, "\ud800"])
async def test_an_address_is_one_line_of_text(given: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.on_handshake(lambda handshake: setattr(handshake, "address", given))
    with pytest.raises(HandshakeRejected):
        async with connect(server):
            pass
    assert "address" in caplog.text


async def test_one_cluster_object_for_one_server_which_may_be_opened_again() -> None:
    cluster = Cluster(MemoryEngine(), name="shop")
    one, other = Server(cluster=cluster), Server(cluster=cluster)
    await one.open()
    with pytest.raises(RuntimeError, match="belongs to another server already"):
        await other.open()
    nodes = cluster.nodes
    await one.close()
    assert cluster.nodes == () and one.stats().cluster is None
    assert not cluster.connected and cluster.locate("ada") is None
    await other.open()
    assert len(cluster.nodes) == 1 and cluster.nodes != nodes
    await other.close()


@pytest.mark.parametrize("fault", ["", "down", "frozen"])
async def test_a_server_that_is_open_is_connected_to_its_engine_if_that_answers(fault: str) -> None:
    """It returned before, so that the first calls raised `EngineLost`. An engine that is away does not hold it up."""
    engine = MemoryEngine()
    engine.down = fault == "down"
    if fault == "frozen":
        engine.freeze()
    server = Server(cluster=Cluster(engine))
    async with asyncio.timeout(RESPONSE_TIMEOUT + 0.1):
        await server.open()
    assert server.cluster.connected is (fault == "")
    engine.thaw()
    await server.close()

"""Addresses: who has one, who gets it, and what the other one is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cluster_servers import Servers, servers
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import timers_due, turns_until

from wsrpc import Client, CloseInfo, HandshakeRejected, Peer, Reconnect, Server, Service, method
from wsrpc._core.api.peer import current_of
from wsrpc.cluster import Cluster, MemoryEngine, _addresses, _membership
from wsrpc.cluster._cluster import membership_of
from wsrpc.testing import Line, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


class Watched:
    """A client that says which one it is, and how its sessions ended."""

    def __init__(self, name: str = "") -> None:
        self.client = Client()
        self.ends: list[CloseInfo] = []
        self.client.on("close", lambda peer, info: self.ends.append(info))
        self.client.on("which", lambda: name)

    async def replaced(self) -> None:
        """Wait until another connection has the address."""
        await turns_until(lambda: self.ends)
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
        await made.join(second, "ada", new.client)
        await old.replaced()
        for server in made.all:
            assert await server.cluster.peer("ada").request("which") == "new"
        assert [peer.address for server in made.all for peer in server.peers] == ["ada"]
        await new.client.close()
        await turns_until(lambda: not any(server.cluster.locate("ada") for server in made.all))


async def test_of_many_at_once_one_stays() -> None:
    """Wherever they connect, in the end all servers agree, and one connection is left."""
    async with servers(4) as made:
        await asyncio.gather(*(enter(made, number % 4) for number in range(12)))
        await turns_until(lambda: sum(len(server.peers) for server in made.all) == 1)
        [where] = [server.cluster.nodes[0] for server in made.all if server.peers]
        await turns_until(lambda: {server.cluster.locate("ada") for server in made.all} == {where})


async def test_who_is_replaced_does_not_come_back() -> None:
    """Two that come back by themselves would replace each other without end."""
    async with servers(1) as made, made[0].listen() as listener:
        url = f"{listener.url}?who=ada"
        async with Client(url) as old, Client(url) as new:
            await turns_until(lambda: old.state == "closed" and len(made[0].peers) == 1)
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
        """Lose the connection until the gate opens, and wait until the server knows."""
        await turns_until(lambda: all(current_of(each).session.state.resumes for each in (self.client.peer, peer)))
        self.gate.clear()
        self.client.peer.transport.abort()  # type: ignore[union-attr]
        await turns_until(lambda: peer.detached)


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_detached_session_keeps_its_address(replaced: bool) -> None:
    """Unless another connection takes it: then the session ends."""
    async with servers(2) as made, made[0].listen() as listener:
        coming = Coming(f"{listener.url}?who=ada")
        coming.client.on("which", lambda: "still here")
        async with coming.client:
            await turns_until(lambda: made[1].cluster.locate("ada"))
            peer = made.peer(0, "ada")
            await coming.drop(peer)
            assert made[1].cluster.locate("ada") == made[0].cluster.nodes[0]
            if replaced:
                await made.join(1, "ada")
                await turns_until(lambda: not made[0].peers)
                return
            call = asyncio.create_task(made[1].cluster.peer("ada").request("which"))
            await turns_until(lambda: peer.pending)
            coming.gate.set()
            assert await call == "still here", "it waited for the next connection"
            assert made.peer(0, "ada") is peer


@pytest.mark.parametrize("meanwhile", ["closes", "drops", "vanishes", "stays"])
@pytest.mark.parametrize("second", [0, 1], ids=["at the same server", "at another one"])
async def test_a_connection_that_waited_for_its_service_does_not_take_the_address_from_a_later_one(
    second: int, meanwhile: str, monkeypatch: pytest.MonkeyPatch
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

    monkeypatch.setattr(_addresses, "CROSSING", 0.0)
    loop, passed = asyncio.get_running_loop(), [0.0]
    monkeypatch.setattr(loop, "time", lambda time=loop.time: time() + sum(passed))
    async with servers(2) as made:
        made[0].add_service(Greeter, make)
        line, new = Line(made[0]), Watched("new")
        old = await line.dial("ws://server/?who=ada")
        await turns_until(lambda: len(waiting) == 1)  # its factory waits
        if meanwhile == "closes":
            await old.close()
        elif meanwhile == "drops":
            old.abort()
        elif meanwhile == "vanishes":
            old.vanish()
        gates[1].set()
        passed.append(1.0)  # the second connection is later also for a server that hears of it late
        await made.join(second, "ada", new.client)
        gates[0].set()
        await turns_until(lambda: repr(line.connections[0][1]).startswith("<MemoryTransport closed"))
        await turns_until(lambda: len(made[0].peers) + len(made[1].peers) == 1)
        await turns_until(
            lambda: {server.cluster.locate("ada") for server in made.all} == {made[second].cluster.nodes[0]}
        )
        assert await made[0].cluster.peer("ada").request("which") == "new" and new.ends == []


@pytest.mark.parametrize("reloads", [0, 2])
async def test_a_session_that_its_client_has_left_does_not_win_the_address(reloads: int) -> None:
    """The engine is away while a client starts anew at the other server, so each of them has a claim."""
    async with servers(2) as made, made[0].listen() as first, made[1].listen() as second:
        await made.engine_goes()
        for _ in range(reloads):  # each makes the claim of the first server higher
            async with connect(made[0], path="/?who=ada"):
                pass
        coming, client = Coming(f"{first.url}?who=ada"), Client(f"{second.url}?who=ada")
        client.on("which", lambda: "here")
        async with coming.client:
            await coming.drop(made.peer(0, "ada"))
            await client.connect()
            made.memory.down = False
            await turns_until(lambda: made[0].cluster.connected and not made[0].peers)
            assert client.connected and len(made[1].peers) == 1
            await made.meet()
            assert await made[0].cluster.peer("ada").request("which") == "here"
            await client.close()


async def test_the_end_of_the_last_session_may_come_after_the_question_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_addresses, "CROSSING", 60.0)
    asked, answer = asyncio.Event(), _addresses.Addresses._asked_whether_connected

    def asks(self: Any, address: str, counter: int, age: float | None) -> bool:
        asked.set()
        return answer(self, address, counter, age)

    monkeypatch.setattr(_addresses.Addresses, "_asked_whether_connected", asks)
    async with servers(2) as made:
        old, new = Watched("old"), Watched("new")
        claims: Any = membership_of(made[1].cluster).directory.claims
        claims._started_at = float("-inf")  # else it raises its own claim
        await made.engine_goes()
        for client in (None, None, old.client):  # each makes the claim of the first server higher
            await enter(made, 0, client)
        await enter(made, 1, new.client)
        made.memory.down = False
        await made.meet()
        await asked.wait()
        await turns(50)
        await old.client.close()
        await turns_until(lambda: not made[0].peers)
        assert new.client.connected and new.ends == []


async def test_a_connection_that_drops_at_once_does_not_lose_the_address_to_an_older_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The older one may be half open: its client has started anew, and nobody has noticed."""
    monkeypatch.setattr(_addresses, "BEAT", 0.1)
    async with servers(2) as made, made[1].listen() as second:
        old, coming = Watched(), Coming(f"{second.url}?who=ada")
        await made.join(0, "ada", old.client)
        claims: Any = membership_of(made[0].cluster).directory.claims
        claims._started_at = float("-inf")  # else it raises its own claim
        await made.engine_goes()
        async with coming.client:
            await coming.drop(made.peer(1, "ada"))
            made.memory.down = False
            await made.meet()
            await turns_until(lambda: claims.higher("ada"))
            await timers_due(0.3)
            assert made[1].peers and old.client.connected, "both keep what they have"
            coming.gate.set()
            await old.replaced()
            assert coming.client.connected


async def test_a_server_that_has_just_started_has_the_later_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not heard of the claim of the other one, which is higher."""
    monkeypatch.setattr(_membership, "RESPONSE_TIMEOUT", 0.05)  # for which `open` waits
    async with servers(1) as made:
        for _ in range(2):
            async with connect(made[0], path="/?who=ada"):
                pass
        old, new = Watched(), Watched()
        await made.join(0, "ada", old.client)
        claims: Any = membership_of(made[0].cluster).directory.claims
        claims._started_at = float("-inf")  # else both have just started
        made.memory.down = True  # for those who are to come
        await made.add()
        await enter(made, 1, new.client)
        made.memory.down = False
        await old.replaced()
        await turns_until(lambda: made[0].cluster.locate("ada") == made[1].cluster.nodes[0])
        assert new.client.connected and not made[0].peers


async def test_without_a_confirmation_both_connections_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(MemoryEngine):
        """What is meant for one node gets lost while ``deaf``. What is meant for all arrives."""

        deaf = False

        def deliver(self, subject: str, payload: bytes) -> None:
            if not self.deaf or subject == "shop.all":
                super().deliver(subject, payload)

    monkeypatch.setattr(_addresses, "CONFIRMED", 0.3)
    monkeypatch.setattr(_addresses, "BEAT", 0.1)
    engine = Deaf()
    async with servers(2, engine) as made:
        old, new = Watched(), Watched()
        await made.join(0, "ada", old.client)
        engine.deaf = True
        await enter(made, 1, new.client)
        claims = membership_of(made[0].cluster).directory.claims
        await turns_until(lambda: claims.higher("ada"))
        await timers_due(0.3)
        assert old.client.connected and new.client.connected
        engine.deaf = False
        await old.replaced()
        assert new.client.connected


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

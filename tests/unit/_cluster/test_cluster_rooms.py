"""Rooms across processes: who gets what, in which order, and what the sender is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cluster_servers import Servers, servers
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, KeepLatest, Limits, Peer, Retry, Room, Server
from wsrpc._cluster.cluster import membership_of
from wsrpc.cluster import Cluster, ClusterClient
from wsrpc.errors import EngineLost, ReservedEvent
from wsrpc.testing import MemoryEngine
from wsrpc.types import Members

pytestmark = pytest.mark.usefixtures("nothing_left")


class Listener:
    """A client that notes what it is told."""

    def __init__(self, **options: Any) -> None:
        self.client = Client(reconnect=None, **options)
        self.heard: list[Any] = []
        self.client.on("said", lambda *values: self.heard.append(values))
        self.client.of("chat").on("said", lambda *values: self.heard.append(("chat", *values)))


def welcome(server: Server) -> None:
    """Let each client into the lobby."""
    server.on("open", server.room("lobby").add)


async def test_an_event_reaches_the_members_everywhere() -> None:
    async with servers(3) as made:
        listeners = [Listener(), Listener(extensions=False), Listener(), Listener()]
        for server in made.all[:2]:
            welcome(server)
        for number, listener in enumerate(listeners):
            await made.join(number % 3, f"user/{number}", listener.client)
        room = made[0].room("lobby")
        await turns_until(lambda: len(room) == 2)
        report = await room.emit("said", "hi", [1, {"a": None}])
        assert (report.sent, report.nodes, report.missed) == (2, (made[1].cluster.nodes[0],), ())
        report = room.emit_nowait("said", "now")
        assert (report.sent, report.nodes, report.missed) == (2, (made[1].cluster.nodes[0],), ())
        await room.of("chat").emit("said", "on a channel")
        expected = [("hi", [1, {"a": None}]), ("now",), ("chat", "on a channel")]
        inside = [listeners[0], listeners[1], listeners[3]]
        await turns_until(lambda: all(len(each.heard) == 3 for each in inside))
        assert all(each.heard == expected for each in inside)
        assert listeners[2].heard == [], "it is in no room"
        report = await made[2].room("lobby").emit("said", "from outside")
        assert report.sent == 0 and set(report.nodes) == {made[0].cluster.nodes[0], made[1].cluster.nodes[0]}
        await turns_until(lambda: all(each.heard[-1] == ("from outside",) for each in inside))


async def test_events_come_in_the_order_of_their_sender() -> None:
    async with servers(2) as made:
        here, there = Listener(), Listener()
        for server, listener, name in ((made[0], here, "here"), (made[1], there, "there")):
            welcome(server)
            await made.join(made.all.index(server), name, listener.client)
        room = made[0].room("lobby")
        made.memory.loss = 0.02
        for number in range(0, 1000, 2):
            await room.emit("said", number)
            room.emit_nowait("said", number + 1)
        await turns_until(lambda: len(there.heard) == len(here.heard) == 1000)
        made.memory.loss = 0.0
        assert there.heard == here.heard == [(number,) for number in range(1000)]


async def test_skip() -> None:
    async with servers(2) as made:
        listeners = {name: Listener() for name in ("ada", "bob", "eve", "dan")}
        for server in made.all:
            welcome(server)
        for number, (name, listener) in enumerate(listeners.items()):
            await made.join(number % 2, name, listener.client)
        room, cluster = made[0].room("lobby"), made[0].cluster
        muted = made[1].room("muted")
        muted.add(made.peer(1, "dan"))
        made[0].room("muted").add(made.peer(0, "ada"))
        skips: list[tuple[Any, set[str]]] = [
            (cluster.peer("bob"), {"bob"}),
            ([made.peer(0, "ada"), cluster.peer("dan"), cluster.peer("eve")], {"ada", "dan", "eve"}),
            (made[0].room("muted"), {"ada", "dan"}),
            (cluster.peer("nobody"), set()),
        ]
        for number, (skip, left_out) in enumerate(skips):
            await room.emit("said", number, skip=skip)
            room.emit_nowait("said", "end")
            await turns_until(lambda: all(each.heard and each.heard[-1] == ("end",) for each in listeners.values()))
            got = {name for name, each in listeners.items() if (number,) in each.heard}
            assert got == listeners.keys() - left_out
            for each in listeners.values():
                each.heard.clear()
        for how in ("await emit", "emit_nowait"):
            both = (cluster.peer(name) for name in ("ada", "bob"))  # an iterator, which can be read only once
            if how == "await emit":
                await room.emit("said", how, skip=both)
            else:
                room.emit_nowait("said", how, skip=both)
            await room.emit("said", "end")
            await turns_until(lambda: all(one.heard and one.heard[-1] == ("end",) for one in listeners.values()))
            assert {name for name, one in listeners.items() if (how,) in one.heard} == {"eve", "dan"}
            for one in listeners.values():
                one.heard.clear()
        with pytest.raises(TypeError, match="skip= takes a peer"):
            await room.emit("said", 1, skip="bob")  # type: ignore[arg-type]


async def test_raw_messages() -> None:
    async with servers(2) as made:
        welcome(made[1])
        client = Client()
        got: list[Any] = []
        client.on_raw(lambda peer, message: got.append(message))
        await made.join(1, "ada", client)
        report = await made[0].room("lobby").send_raw("plain text")
        assert report.nodes
        await made[0].room("lobby").send_raw(b"\x00\xff")
        await turns_until(lambda: len(got) == 2)
        assert got == ["plain text", b"\x00\xff"]


async def test_members() -> None:
    async with servers(3) as made:
        for server in made.all[:2]:
            welcome(server)
        for number, name in enumerate(["ada", "bob", "eve", "dan", None]):
            await made.join(number % 2, name)
        for server in made.all:
            members = await server.room("lobby").members()
            assert set(members.addresses) == {"ada", "bob", "eve", "dan"} and len(members.addresses) == 4
            assert (members.others, members.missing) == (1, ())
        assert len(made[0].room("lobby")) == 3 and len(made[2].room("lobby")) == 0
        assert {peer.address for peer in made[1].room("lobby")} == {"bob", "dan"}
        engine = made.memory
        engine.down = True
        engine.cut()
        await turns_until(lambda: not made[0].cluster.connected)
        members = await made[0].room("lobby").members()
        assert set(members.addresses) == {"ada", "eve"} and members.missing == (made[1].cluster.nodes[0],)
        engine.down = False
        await turns_until(lambda: all(server.cluster.connected for server in made.all))


async def test_a_room_without_a_cluster_has_members_too() -> None:
    assert await Server().room("lobby").members() == Members(())


async def test_a_room_that_empties_and_fills_again() -> None:
    async with servers(2) as made:
        listener = Listener()
        await made.join(1, "ada", listener.client)
        here, there = made[0].room("lobby"), made[1].room("lobby")
        peer = made.peer(1, "ada")
        for number in range(5):
            there.add(peer)
            await turns_until(lambda: membership_of(made[0].cluster).directory.nodes_of("lobby"))
            await here.emit("said", number)
            await turns_until(lambda: listener.heard and listener.heard[-1] == (number,))  # noqa: B023 - within it
            there.discard(peer)
            await turns_until(lambda: not membership_of(made[0].cluster).directory.nodes_of("lobby"))
            assert (await here.emit("said", "nobody")).nodes == ()
        assert listener.heard == [(number,) for number in range(5)]
        there.add(peer)
        await listener.client.close()
        await turns_until(lambda: not membership_of(made[0].cluster).directory.nodes_of("lobby"))


async def test_the_policy_of_the_members_own_server_holds() -> None:
    """A slow reader there gets the latest of each kind."""
    limits = Limits(high_water=1000, ping_interval=None, close_timeout=2.0)
    async with servers(2, limits=limits) as made:
        listener = Listener()
        room = made[1].room("lobby", slow=KeepLatest())
        await made.join(1, "ada", listener.client)
        peer = made.peer(1, "ada")
        room.add(peer)
        await turns_until(lambda: membership_of(made[0].cluster).directory.nodes_of("lobby"))
        for number in range(500):
            made[0].room("lobby").emit_nowait("said", number, "x" * 100)
        await turns_until(lambda: listener.heard and listener.heard[-1][0] == 499)
        assert peer.dropped > 0 and len(listener.heard) + peer.dropped == 500


@pytest.mark.parametrize("sender", [0, 1])
async def test_events_wait_while_the_engine_is_away_for_a_moment(sender: int) -> None:
    """Of two processes, one has dialed the other. Events wait on both sides, in order, and nobody is told of a gap."""
    async with servers(2) as made:
        made.all.sort(key=lambda server: server.cluster.nodes[0])
        listeners = [Listener(), Listener()]
        for number, listener in enumerate(listeners):
            made[number].cluster.on_gap(lambda room, listener=listener: listener.heard.append("gap"))
            welcome(made[number])
            await made.join(number, f"user/{number}", listener.client)
        other = made[1 - sender]
        await engine_goes(made)
        room = made[sender].room("lobby")
        for number in range(0, 100, 2):
            for report in (await room.emit("said", number), room.emit_nowait("said", number + 1)):
                assert (report.sent, report.nodes, report.missed) == (1, (other.cluster.nodes[0],), ())
        made.memory.down = False
        await turns_until(lambda: all(server.cluster.connected for server in made.all))
        await room.emit("said", 100)
        await turns_until(lambda: all((100,) in listener.heard for listener in listeners))
        assert all(listener.heard == [(number,) for number in range(101)] for listener in listeners)


@pytest.mark.parametrize("sender", [0, 1])
async def test_events_that_found_no_room_are_told_as_a_gap(sender: int) -> None:
    """More is emitted than waits for the engine."""
    limits = Limits(hard_cap=64 * 1024 * 1024, ping_interval=None)  # the client gets all that has waited at once
    async with servers(2, limits=limits) as made:
        made.all.sort(key=lambda server: server.cluster.nodes[0])
        heard: list[Any] = []
        client = Client(reconnect=None)
        client.on("said", lambda number, filling: heard.append(number))
        other = made[1 - sender]
        other.cluster.on_gap(lambda room: heard.append("gap"))
        welcome(other)
        await made.join(1 - sender, "ada", client)
        room = made[sender].room("lobby")
        await turns_until(lambda: membership_of(made[sender].cluster).directory.nodes_of("lobby"))
        await engine_goes(made)
        missed = [n for n in range(60) if (await room.emit("said", n, "x" * 500_000)).missed]
        assert missed and missed[0] > 0
        made.memory.down = False
        await turns_until(lambda: "gap" in heard and len(heard) == 60 - len(missed) + 1)
        await room.emit("said", "after", "")
        await turns_until(lambda: "after" in heard)
        assert [n for n in heard if n != "gap"] == [*(n for n in range(60) if n not in missed), "after"]
        assert heard.count("gap") == 1


async def test_a_room_that_got_its_first_member_while_the_engine_was_away() -> None:
    """The other process could not know of the member, so its events are missing."""
    async with servers(2) as made:
        gaps: list[str] = []
        made[1].cluster.on_gap(lambda room: gaps.append(room.name))
        for who in ("ada", "bob"):
            await made.join(1, who)
        made[1].room("old").add(made.peer(1, "ada"))
        await turns_until(lambda: membership_of(made[0].cluster).directory.nodes_of("old"))
        await engine_goes(made)
        for name in ("new", "empty"):
            made[1].room(name).add(made.peer(1, "bob"))
        made[1].room("empty").discard(made.peer(1, "bob"))
        assert (await made[0].room("new").emit("said", "missing")).nodes == ()
        made.memory.down = False
        await turns_until(lambda: gaps)
        assert gaps == ["new"] and membership_of(made[0].cluster).directory.nodes_of("new")


async def engine_goes(made: Servers) -> None:
    """Lose the engine until its ``down`` is set to false."""
    made.memory.down = True
    made.memory.cut()
    await turns_until(lambda: not any(server.cluster.connected for server in made.all))


async def test_gaps_are_told() -> None:
    """After more than a lease without the engine, each room with members is told that messages may be missing."""
    async with servers(2, patience=60) as made:
        gaps: list[tuple[int, str]] = []
        for number, server in enumerate(made.all):

            def tell(room: Room, number: int = number) -> None:
                gaps.append((number, room.name))
                if room.name == "lobby":
                    raise ValueError("a mistake of the user's")

            server.cluster.on_gap(tell)
            welcome(server)
            await made.join(number, f"user/{number}")
        made[0].room("empty", slow="drop_newest")
        made[1].room("other").add(made.peer(1, "user/1"))
        engine = made.memory
        engine.down = True
        engine.cut()
        await turns_until(lambda: all(link.detached for each in made.all for link in links(each)))
        await turns_until(lambda: not any(link.detached for each in made.all for link in links(each)), patience=20)
        assert gaps == [], "more may be lost until they meet again"
        engine.down = False
        await turns_until(lambda: len(gaps) == 3)
        await made.meet()
        assert sorted(gaps) == [(0, "lobby"), (1, "lobby"), (1, "other")]


async def test_an_async_function_is_told_of_gaps_too(caplog: pytest.LogCaptureFixture) -> None:
    async with servers(2, patience=60) as made:
        go_on, never = asyncio.Event(), asyncio.Event()
        told: list[str] = []

        @made[0].cluster.on_gap
        async def tell(room: Room) -> None:
            told.append(room.name)
            await go_on.wait()
            told.append("later")
            raise ValueError("a mistake of the user's")

        @made[0].cluster.on_gap
        async def tell_without_end(room: Room) -> None:
            try:
                await never.wait()
            finally:
                told.append("cancelled")

        for number, server in enumerate(made.all):
            welcome(server)
            await made.join(number, f"user/{number}")
        engine = made.memory
        engine.down = True
        engine.cut()
        await turns_until(lambda: all(link.detached for each in made.all for link in links(each)))
        await turns_until(lambda: not any(link.detached for each in made.all for link in links(each)), patience=20)
        engine.down = False
        await turns_until(lambda: bool(told))
        await made.meet()
        assert told == ["lobby"], "the processes go on while it waits"
        go_on.set()
        await turns_until(lambda: told == ["lobby", "later"])
        await turns_until(lambda: any("on_gap failed" in record.getMessage() for record in caplog.records))
    assert told == ["lobby", "later", "cancelled"]


@pytest.mark.parametrize("cut", [0, 1])
async def test_a_gap_is_told_after_the_last_event_that_is_missing(cut: int) -> None:
    """One process cannot reach the engine, and the other one does not know that for a while."""
    async with servers(2, patience=60) as made:
        told: list[list[Any]] = [[], []]
        for number, server in enumerate(made.all):
            server.cluster.on_gap(lambda room, number=number: told[number].append("gap"))
            welcome(server)
            listener = Listener()
            listener.client.on("said", told[number].append)
            await made.join(number, f"user/{number}", listener.client)
        away, there = made[cut], made[1 - cut]
        engine = made.memory
        engine.down = True
        (connection,) = (each for each in engine.connections if each.hears(f"shop.{away.cluster.nodes[0]}"))
        connection.end("cut")
        await turns_until(lambda: not away.cluster.connected)
        report = await there.room("lobby").emit("said", "unnoticed")
        assert report.nodes == (away.cluster.nodes[0],) and not report.missed
        report = await away.room("lobby").emit("said", "missed")
        assert report.nodes == (there.cluster.nodes[0],), "it waits for the engine, which comes back too late"
        await turns_until(lambda: told[1 - cut] == ["unnoticed", "gap"], patience=20)
        assert (await there.room("lobby").emit("said", "forgotten")).nodes == (), "it may be dead"
        assert told[cut] == ["missed"]
        engine.down = False
        await turns_until(lambda: away.cluster.connected)
        await made.meet()
        await turns_until(lambda: all(membership_of(server.cluster).directory.nodes_of("lobby") for server in made.all))
        await there.room("lobby").emit("said", "from there")
        await turns_until(lambda: "from there" in told[cut])
        await away.room("lobby").emit("said", "from away")
        await turns_until(lambda: "from away" in told[1 - cut])
        assert told[cut] == ["missed", "gap", "from there", "from away"]
        assert told[1 - cut] == ["unnoticed", "gap", "forgotten", "gap", "from there", "from away"]


def links(server: Server) -> list[Peer]:
    return membership_of(server.cluster).links.peers


async def test_a_program_without_a_server() -> None:
    async with servers(2) as made:
        listeners = [Listener(), Listener()]
        for number, listener in enumerate(listeners):
            welcome(made[number])
            await made.join(number, f"user/{number}", listener.client)
            listener.client.on("add", lambda a, b: a + b)
        async with ClusterClient(made.engine, name="shop") as shop:
            assert set(shop.nodes[1:]) == {server.cluster.nodes[0] for server in made.all}
            report = await shop.room("lobby").emit("said", "news", skip=shop.peer("user/0"))
            assert set(report.nodes) == set(shop.nodes[1:]) and report.sent == 0
            await shop.room("lobby").of("chat").emit("said", "more")
            assert set((await shop.room("lobby").members()).addresses) == {"user/0", "user/1"}
            assert await shop.peer("user/1").request("add", 20, 22, returns=int) == 42
            with pytest.raises(ReservedEvent):
                await shop.room("lobby").emit("open")
            await shop.room("lobby").emit("said", "last")
        await turns_until(lambda: len(listeners[1].heard) == 3)
        assert listeners[1].heard == [("news",), ("chat", "more"), ("last",)]
        assert listeners[0].heard == [("chat", "more"), ("last",)]
        with pytest.raises(EngineLost, match="outside of its block"):
            await shop.room("lobby").emit("said", "late")
        with pytest.raises(RuntimeError, match="entered before"):
            await shop.__aenter__()


async def test_a_program_without_a_server_and_without_an_engine() -> None:
    engine = MemoryEngine()
    engine.down = True
    shop = ClusterClient(engine, name="shop", connect_timeout=0.05)
    with pytest.raises(EngineLost, match=r"not reached within 0\.05 s"):
        await shop.__aenter__()
    with pytest.raises(EngineLost, match="outside of its block"):
        shop.peer("x").emit_nowait("said")
    peer = shop.peer("x")
    for call in (peer.request("add"), peer.request("add", retry=Retry()), peer.emit("said")):
        with pytest.raises(EngineLost, match="outside of its block"):
            await call  # the call itself raises nothing


async def test_emitting_from_a_handler_at_the_other_end_does_not_echo() -> None:
    """What comes from another process goes to the members here, and not back."""
    async with servers(2) as made:
        listeners = [Listener(), Listener()]
        for number, listener in enumerate(listeners):
            server = made[number]
            welcome(server)

            async def say(peer: Peer, text: int) -> None:
                await peer.server.room("lobby").emit("said", text, skip=peer)

            server.on("say", say)
            await made.join(number, f"user/{number}", listener.client)
        await asyncio.gather(*(listener.client.emit("say", number) for number, listener in enumerate(listeners)))
        await turns_until(lambda: all(each.heard for each in listeners))
        assert [each.heard for each in listeners] == [[(1,)], [(0,)]]


def test_options_are_checked() -> None:
    engine = MemoryEngine()
    for wrong in ("", "a b", "ö", "x" * 65, "a.b"):
        with pytest.raises(ValueError, match="letters, digits"):
            Cluster(engine, name=wrong)
    with pytest.raises(TypeError, match="takes an engine"):
        Cluster("nats://localhost")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name= is the name of the application"):
        Cluster(engine, name=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"cluster= takes a wsrpc\.cluster\.Cluster"):
        Server(cluster=engine)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"Server\(cluster=Cluster"):
        _ = Server().cluster


async def test_a_program_that_is_cancelled_while_it_leaves_has_left() -> None:
    async with servers(1) as made:
        shop = ClusterClient(made.engine, name="shop")
        await shop.__aenter__()
        await turns_until(lambda: len(made[0].cluster.nodes) == 2)
        leaving = asyncio.ensure_future(shop.__aexit__())
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await turns_until(lambda: len(made[0].cluster.nodes) == 1)


async def test_what_an_engine_raises_against_its_contract_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryEngine):
        broken = True

        async def connect(self, listener: Any, /) -> Any:
            if self.broken:
                raise OSError("no such host")
            return await super().connect(listener)

    engine = Broken()
    server = Server(cluster=Cluster(engine))
    await server.open()
    try:
        await turns_until(lambda: "OSError: no such host" in caplog.text)
        engine.broken = False
        await turns_until(lambda: server.cluster.connected)
    finally:
        await server.close()

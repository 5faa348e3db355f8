"""Presence of a room in several processes: what each knows, what members get, and who calls the functions.

`tests/unit/_server/test_room_presence.py` has the states of a user, and `tests/browser/test_chat_workers.py` kills
processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

import msgspec
import pytest
from cluster_servers import Servers, servers
from msgspec import Struct
from presence_nodes import Nobody
from presence_watchers import GRACE, Watcher, give_principals, states
from waiting import until

from wsrpc import Room, Server
from wsrpc._server.presence.room_users import BATCHED
from wsrpc._server.presence.user_entries import UserEntry
from wsrpc.cluster._cluster import membership_of
from wsrpc.cluster._nodes.directory import Delta, Directory, Snapshot
from wsrpc.cluster._nodes.wire import decode, encode
from wsrpc.types import Present

LEASE = 6.0
"""Seconds after which a process that was killed is gone at the latest."""


class Cluster:
    """Servers with a lobby, and the clients there."""

    def __init__(self, made: Servers) -> None:
        self.made = made
        self.calls: list[tuple[str | int, str]] = []
        """Of the functions of `on_presence`, in processes that were not killed."""
        self.watchers: list[Watcher] = []
        for server in made:
            self.prepare(server)

    def prepare(self, server: Server) -> None:
        give_principals(server)

        @server.on_presence
        def called(room: Room, present: Present) -> None:
            if server in self.made:
                self.calls.append((present.user, present.state))

    async def join(self, at: int, user: str | None = "ada") -> Watcher:
        watcher = Watcher(self.made[at], user)
        self.watchers.append(watcher)
        return await watcher.join()

    def kill(self, at: int) -> None:
        """Kill a server. Nobody says so."""
        dead = self.made[at]
        connection = self.made.connection(dead)
        self.made.engine.connections.discard(connection)
        connection.publish = lambda *_: None
        membership_of(dead.cluster).node._timer.cancel()
        del self.made[at]

    async def cut_off(self, at: int, seconds: float) -> None:
        """Cut a server off from the engine, until that is no longer down."""
        self.made.engine.down = True
        self.made.connection(self.made[at]).end("cut")
        await asyncio.sleep(seconds)

    def reported(self, named: str = "ada") -> list[str]:
        """Return the states that the functions of `on_presence` were called with, without repetitions."""
        return [state for state, _ in groupby(state for user, state in self.calls if user == named)]

    def all_know(self, **known: str) -> None:
        """Check that all servers, and all clients in the lobby, know of exactly these users."""
        assert [states(server) for server in self.made] == [known] * len(self.made)
        for watcher in self.watchers:
            server = watcher.server
            if server in self.made and watcher.client.peer.connected and watcher.peer in server.room("lobby"):
                assert watcher.known == known, watcher.history


@asynccontextmanager
async def cluster(count: int = 3) -> AsyncGenerator[Cluster]:
    async with servers(count) as made:
        one = Cluster(made)
        yield one
        for watcher in one.watchers:
            await watcher.client.close()


def down(watcher: Watcher, down: bool = True) -> None:
    """Drop a connection, or let the client dial again."""
    watcher.line.down = down
    watcher.line.cut()


async def test_a_user_with_connections_to_several_servers_joins_and_leaves_once() -> None:
    async with cluster() as one:
        watcher = await one.join(0, "watcher")
        tabs = [await one.join(at % 3) for at in range(6)]
        await asyncio.sleep(1)
        one.all_know(watcher="online", ada="online")
        for tab in tabs[:5]:
            await tab.client.close()
        await asyncio.sleep(GRACE + 1)
        one.all_know(watcher="online", ada="online")
        assert one.reported() == ["online"]
        down(tabs[5])
        await asyncio.sleep(1)
        one.all_know(watcher="online", ada="away")
        await asyncio.sleep(GRACE)
        one.all_know(watcher="online")
        assert watcher.states("ada") == one.reported() == ["online", "away", "offline"]


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "closed"])
async def test_the_users_of_a_server_that_has_ended(killed: bool) -> None:
    """They are away, and one of the others reports it. Guests are gone at once."""
    async with cluster(4) as one:
        watchers = [await one.join(at, f"watcher/{at}") for at in range(3)]
        for at, user in ((3, "ada"), (3, "bob"), (3, None), (0, "bob")):
            await one.join(at, user)
        here = dict.fromkeys(["watcher/0", "watcher/1", "watcher/2", "bob"], "online")
        guest = one.watchers[5].peer.id
        await asyncio.sleep(1)
        one.all_know(**here, **{"ada": "online", guest: "online"})
        if killed:
            one.kill(3)
        else:
            await one.made[3].close()
            one.made.pop()
        await asyncio.sleep(LEASE)
        one.all_know(**here, ada="away")
        await asyncio.sleep(GRACE)
        one.all_know(**here)
        assert {tuple(each.states("ada")) for each in watchers} == {("online", "away", "offline")}
        assert one.reported() == ["online", "away", "offline"] and one.reported("bob") == ["online"]
        assert one.reported(guest) == ["online", "offline"]


async def test_a_server_that_joins_later_knows_the_users() -> None:
    async with cluster(1) as one:
        await one.join(0)
        late = await one.made.add()
        await until(lambda: len(late.cluster.nodes) == 2)
        one.prepare(late)  # also the room is created later
        bob = await one.join(1, "bob")
        await asyncio.sleep(1)
        one.all_know(ada="online", bob="online")
        assert bob.events[0][1] and one.reported() == one.reported("bob") == ["online"]


@pytest.mark.parametrize("as_snapshot", [True, False])
def test_messages_are_small_enough_for_every_engine(as_snapshot: bool) -> None:
    """Also if every user says as much as possible. NATS accepts messages of 1 MiB."""
    ours, theirs = (Directory(name, Nobody()) for name in ("ours", "theirs"))
    entries = {number: UserEntry(online=True, about=("x" * 510,) * 8) for number in range(3000)}
    for room in ("lobby", "x" * 256):
        for user, entry in entries.items():
            ours.presence.set("ours", room, user, entry)
    ours.presence.set("ours", "lobby", None, UserEntry(online=False))
    messages: list[Delta | Snapshot] = [*ours.pop_deltas()]
    for message in [*ours.snapshot()] if as_snapshot else messages:
        payload = encode(message)
        assert len(payload) < 500_000
        received: Any = decode(payload)
        (theirs.snapshot_received if as_snapshot else theirs.delta_received)(received, 0.0)
    for room in ("lobby", "x" * 256):
        assert {user: theirs.presence.entries(room, user)["ours"] for user in theirs.presence.users(room)} == entries
    assert [*theirs.presence.nodes("lobby")] == ["ours"]
    ours.presence.set("ours", "lobby", "guest", entries[0])
    ours.presence.set("ours", "lobby", "guest", None)
    assert [*ours.pop_deltas()] == [], "nobody has to know of a guest who was gone at once"


def test_nodes_of_an_earlier_version_ignore_presence() -> None:
    class OldDelta(Struct, tag_field="t", tag="delta", omit_defaults=True):
        node: str
        seq: int
        rooms: list[str] = []

    payload = encode(Delta("a", 1, rooms=["lobby"], present=[("lobby", "ada", UserEntry(online=True))]))
    assert msgspec.msgpack.decode(payload, type=OldDelta) == OldDelta("a", 1, ["lobby"])
    assert decode(msgspec.msgpack.encode(OldDelta("a", 1, ["lobby"]))) == Delta("a", 1, rooms=["lobby"])


# ---------------------------------------------------------------- stories of three servers


async def step(one: Cluster, tabs: list[Watcher], what: str, number: int) -> None:
    if what == "joins":
        tabs.append(await one.join(number))
    elif what == "kill":
        one.kill(number)
        tabs[:] = [tab for tab in tabs if tab.server in one.made]
        await asyncio.sleep(LEASE)
        one.prepare(await one.made.add())
        one.made.insert(number, one.made.pop())
    elif what == "moves":  # the first connection ends, and another one joins. Messages take longer than a batch
        one.made.engine.freeze()
        await tabs.pop(0).client.close()
        tabs.append(await one.join(number))
        await asyncio.sleep(2 * BATCHED)
        one.made.engine.thaw()
    elif what == "leaves":
        await tabs.pop(number).client.of("rooms").request("leave", "lobby")
    elif what == "ends":
        await tabs.pop(number).client.close()
    elif what == "drops":
        down(tabs[number], not tabs[number].line.down)
        await until(lambda: tabs[number].peer.connected is not tabs[number].line.down)
    await asyncio.sleep(GRACE + 1 if what == "wait" else 1)


@pytest.mark.parametrize(
    ("story", "expected"),
    [
        ("joins 0, drops 0, wait 0, joins 1, drops 1", "online away offline online away"),
        ("joins 0, ends 0, joins 1, leaves 0", "online away online offline"),
        ("joins 0, joins 1, kill 0, leaves 0", "online offline"),
        ("joins 1, kill 1, joins 2, joins 0, drops 1, wait 0, kill 1, kill 2", "online away online away"),
        ("joins 0, kill 0, kill 1, kill 2, wait 0", "online away offline"),
        ("joins 0, joins 1, drops 1, drops 1, leaves 1, kill 2, joins 2, leaves 0, leaves 0", "online offline"),
        ("joins 0, moves 1, leaves 0", "online away online offline"),
        ("joins 1, moves 0, leaves 0", "online away online offline"),
    ],
)
async def test_what_servers_know_of_a_user_does_not_differ_and_each_change_is_reported(
    story: str, expected: str
) -> None:
    async with cluster() as one:
        tabs: list[Watcher] = []
        for each in story.split(", "):
            what, _, number = each.partition(" ")
            await step(one, tabs, what, int(number))
            known = [states(server) for server in one.made]
            assert known == known[:1] * 3, f"they differ after {each!r}"
        assert one.reported() == expected.split(), one.calls
        assert known[0].get("ada", "offline") == one.reported()[-1]


@pytest.mark.parametrize("later", [-1.0, 0.0, BATCHED, 9.0])
async def test_users_are_reported_if_the_first_server_ends_before_it_has_adopted_them(later: float) -> None:
    """Seconds from the end of the grace time until the first one ends, too."""
    async with cluster() as one:
        await one.join(1)
        await asyncio.sleep(1)
        one.kill(1)
        await asyncio.sleep(GRACE + later)
        one.kill(0)
        await asyncio.sleep(2 * GRACE)
        assert one.reported() == ["online", "away", "offline"]


async def test_a_server_that_comes_back_says_itself_how_long_its_users_are_away() -> None:
    async with cluster() as one:
        tab = await one.join(1)
        await one.cut_off(1, 8)
        down(tab)
        one.made.engine.down = False
        await asyncio.sleep(9)  # for so long it would be away for the others
        one.all_know(ada="away")
        await asyncio.sleep(2)
        one.all_know()


async def test_a_server_that_comes_back_before_it_has_published_anything_has_its_users_later() -> None:
    """Its users were away, because its first change came without a snapshot, and then offline."""
    async with cluster(2) as one:
        await one.cut_off(1, LEASE)
        one.made.engine.down = False
        await until(lambda: one.made[1].cluster.connected, limit=0.6)
        await one.join(1)
        for _ in range(12):
            await asyncio.sleep(1)
            one.all_know(ada="online")


async def test_a_server_that_receives_nothing_calls_no_function_until_it_does() -> None:
    """Others have taken it for ended, and report its users. If it ends, too, theirs are the last calls."""
    async with cluster() as one:
        tab = await one.join(1)
        await one.cut_off(1, LEASE)
        await one.join(0)
        await tab.client.close()
        await asyncio.sleep(15)
        assert states(one.made[1]) == {} and one.reported()[-1] == "online"
        one.made.engine.down = False
        await until(lambda: one.made[1].cluster.connected, limit=0.6)
        await one.join(1, "bob")
        await asyncio.sleep(1)
        assert one.reported("bob") == []
        await asyncio.sleep(2)
        assert one.reported("bob") == ["online"]

"""Presence of a room on one server: users, their states, the grace time, and what members get.

tests/unit/cluster/test_cluster_presence.py has several servers.
"""

from __future__ import annotations

from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from presence_watchers import GRACE, Hook, Watcher, give_principals, states, use_clock

from wsrpc import BadArguments, Limits, Peer, Server
from wsrpc._server.presence import BATCHED, MOST_ABOUT, PART_BYTES
from wsrpc.testing import Clock, ScriptedTransport
from wsrpc.types import Present

pytestmark = pytest.mark.usefixtures("nothing_left")


class House:
    """A server with users in the lobby, and a clock for its grace times."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.server = Server(limits=Limits(ping_interval=None))
        give_principals(self.server)
        use_clock(self.server, self.clock)
        self.hook = Hook()
        self.hook.listen(self.server)
        self.watchers: list[Watcher] = []

    async def __aenter__(self) -> House:
        return self

    async def __aexit__(self, *_: object) -> None:
        for watcher in self.watchers:
            await watcher.client.close()
        await self.server.close()

    async def joins(self, user: str | None, **options: Any) -> Watcher:
        watcher = Watcher(self.server, user)
        self.watchers.append(watcher)
        return await watcher.join(**options)

    async def drops(self, watcher: Watcher) -> None:
        """Cut a connection. The client does not dial again for the moment."""
        watcher.line.down = True
        watcher.line.cut()
        await turns_until(lambda: watcher.peer.detached)

    async def resumes(self, watcher: Watcher) -> None:
        watcher.line.down = False
        await turns_until(lambda: watcher.peer.connected)

    async def ends(self, watcher: Watcher) -> None:
        """End a session, as a page does that is closed or reloaded. Without a connection, its time is over."""
        await (watcher.peer if watcher.peer.detached else watcher.client).close()
        await turns_until(lambda: watcher.peer not in self.server.peers)

    async def leaves(self, watcher: Watcher) -> None:
        await watcher.client.of("rooms").request("leave", "lobby")

    async def batch(self, share: float = 1.0) -> None:
        """Let what has changed be reported. With a share of the time, only what has changed a while ago."""
        self.clock.advance(BATCHED * share)
        await turns(5)


STORIES = [
    ("one connection", "ada", "a joins", "online"),
    ("a drop", "ada", "a joins, a drops, 0.9, 0.2", "online away offline"),
    ("a session that resumes", "ada", "a joins, a drops, 0.9, a resumes, 2", "online away online"),
    ("a quick resume", "ada", "a joins, 0, a drops and resumes, 2", "online"),
    ("a resume after the grace time", "ada", "a joins, a drops, 2, a resumes", "online away offline online"),
    ("a page that is closed", "ada", "a joins, a ends, 0.9, 0.2", "online away offline"),
    ("a reload", "ada", "a joins, a ends, 0.5, b joins, 2", "online away online"),
    ("a quick reload", "ada", "a joins, 0, a ends and b joins, 2", "online"),
    ("a request to leave", "ada", "a joins, a leaves", "online offline"),
    ("one leaves, one ends", "ada", "a joins, b joins, a leaves, b ends, 0.9, 0.2", "online away offline"),
    ("one drops, the other leaves", "ada", "a joins, b joins, a drops, b leaves, 0.9, 0.2", "online away offline"),
    ("one ends, the other leaves", "ada", "a joins, b joins, a ends, b leaves", "online offline"),
    ("two drop", "ada", "a joins, b joins, a drops, b drops, 0.9, 0.2", "online away offline"),
    ("the grace time is that of the last one", "ada", "a joins, b joins, a drops, 2, b drops, 0.9", "online away"),
    ("a drop, then the end", "ada", "a joins, a drops, 0.5, a ends, 0.4, 0.2", "online away offline"),
    ("away again", "ada", "a joins, a ends, 0.9, b joins, b ends, 0.9", "online away online away"),
    ("the end of a session long after its drop", "ada", "a joins, a drops, 2, a ends, 2", "online away offline"),
    ("a guest", None, "a joins, a ends", "online offline"),
    ("a drop of a guest", None, "a joins, a drops, 0.5, a resumes", "online away online"),
    ("a guest who drops for longer", None, "a joins, a drops, 0.9, 0.2", "online away offline"),
]
"""Each with its user, what happens with a pause after each step, and the states that are reported.

A number lets so many grace times pass.
"""


@pytest.mark.parametrize(("user", "story", "expected"), [row[1:] for row in STORIES], ids=[row[0] for row in STORIES])
async def test_states(user: str | None, story: str, expected: str) -> None:
    async with House() as house:
        watchers: dict[str, Watcher] = {}
        for step in story.split(", "):
            for part in step.split(" and "):
                who, _, what = part.rpartition(" ")
                if what == "joins":
                    watchers[who] = await house.joins(user)
                elif what.replace(".", "").isdigit():
                    house.clock.advance(GRACE * float(what))
                else:
                    who = who or step[0]
                    await getattr(house, what)(watchers[who])
            await house.batch()
        assert [state for _, state in house.hook.calls] == expected.split()
        left = [present.state for present in house.server.room("lobby").present().values()]
        assert left == [state for state in expected.split()[-1:] if state != "offline"]


async def test_what_connections_say_about_themselves() -> None:
    """An online user is what the connected ones say, and a user who is away what the last one has said."""
    async with House() as house:
        room = house.server.room("lobby")
        watchers = [await house.joins("ada", about={"tab": number}) for number in range(2)]
        await house.joins("ada")
        await house.batch()
        assert room.present() == {"ada": Present("ada", "online", ({"tab": 0}, {"tab": 1}))}
        assert watchers[1].about == {"ada": [{"tab": 0}, {"tab": 1}]}
        await watchers[0].client.of("rooms").request("join", "lobby", {"about": "reads"})
        await house.drops(watchers[1])
        assert room.present()["ada"].about == ("reads",)
        for watcher in (house.watchers[2], watchers[0]):
            await house.ends(watcher)
        assert room.present() == {"ada": Present("ada", "away", ({"tab": 1},))}
        await house.ends(watchers[1])
        await house.batch()
        assert room.present() == {"ada": Present("ada", "away", ({"tab": 1},))}
        assert house.hook.calls[-1] == ("ada", "away")


async def test_limits_of_what_connections_say() -> None:
    async with House() as house:
        room = house.server.room("lobby")
        for number in range(MOST_ABOUT + 2):
            await house.joins("ada", about=number)
        assert room.present()["ada"].about == tuple(range(MOST_ABOUT))
        deep: Any = 0
        for _ in range(17):
            deep = [deep]
        for about, why in (("x" * 511, "takes 513 bytes"), (2**70, "cannot be sent"), (deep, "nested")):
            with pytest.raises(BadArguments, match=why):
                await house.joins("bob", about=about)
        assert [*room.present()] == ["ada"]
        await house.joins("bob", about="x" * 510)
        await house.joins("bob", about=deep[0])


async def test_users_are_text_or_integers() -> None:
    server = Server()
    room = server.room("lobby", presence=1)
    principals = ["1", 1, True, "x" * 300, "\ud800", 2**64, None, {"id": 7}]
    peers = [await server.accept(ScriptedTransport()) for _ in principals]
    for peer, principal in zip(peers, principals, strict=True):
        assert isinstance(peer, Peer)
        peer.principal = principal
        room.add(peer)
    assert [*room.present()] == ["1", 1, *(peer.id for peer in peers[2:])]
    await server.close()


async def test_members_get_all_users_and_then_each_change() -> None:
    """New members join while users come and go."""
    async with House() as house:
        users = [f"user/{number}" for number in range(40)]
        for step, user in enumerate(users):
            watcher = await house.joins(user)
            if step % 3 == 0:
                await house.batch(0.6)
            if step % 5 == 4:
                await house.ends(house.watchers[step // 2])
            if step % 7 == 6:
                await house.leaves(watcher)
        await house.batch()
        expected = states(house.server)
        inside = [each for each in house.watchers if each.peer in house.server.room("lobby")]
        await turns_until(lambda: all(each.known == expected for each in inside))
        assert all([first for _, first in each.events].count(True) == 1 for each in inside)
        assert {*expected.values()} == {"online", "away"}


async def test_a_large_room_comes_in_parts() -> None:
    async with House() as house:
        for number in range(200):
            await house.joins(f"user/{number}", about="x" * 400)
        await house.batch()
        last = house.watchers[-1]
        await last.sees(**dict.fromkeys(map("user/{}".format, range(200)), "online"))
        parts = -(-200 * 400 // PART_BYTES)
        assert [first for _, first in last.events] == [True, *[False] * (len(last.events) - 1)]
        assert parts <= len(last.events) <= 2 * parts


async def test_a_member_that_reads_too_slowly_is_told_later() -> None:
    async with House() as house:
        slow, other = await house.joins("slow"), await house.joins("other")
        await house.batch()
        await slow.sees(slow="online", other="online")
        peer = slow.peer
        slow.line.connections[-1][1].hold()
        while not peer.stats().slow:
            await house.server.room("lobby").emit("filling", "x" * 10_000)
        for number in range(20):
            guest = await house.joins(f"user/{number}")
            await house.batch()
            await house.leaves(guest)
        await house.batch()
        await other.sees(slow="online", other="online")
        before = len(slow.events)
        slow.line.connections[-1][1].release()
        await house.joins("last")
        await house.batch()
        await slow.sees(slow="online", other="online", last="online")
        assert len(slow.events) - before <= 2, "one event has all that has changed"

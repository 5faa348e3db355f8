"""Presence of a room on one server: users, their states, the grace time, and what members get.

tests/unit/cluster/test_cluster_presence.py has several servers.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from presence_watchers import GRACE, Hook, Watcher, give_principals, states
from waiting import settled, until

from wsrpc import BadArguments, Room, Server
from wsrpc._server.presence import presence_feed
from wsrpc._server.presence.presence import MOST_ABOUT
from wsrpc._server.presence.room_users import BATCHED
from wsrpc.testing import ScriptedTransport
from wsrpc.types import Present


class House:
    """A server with users in the lobby."""

    def __init__(self) -> None:
        self.server = Server()
        give_principals(self.server)
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
        await until(lambda: watcher.peer.detached)

    async def resumes(self, watcher: Watcher) -> None:
        watcher.line.down = False
        await until(lambda: watcher.peer.connected)

    async def ends(self, watcher: Watcher) -> None:
        """End a session, as a page does that is closed or reloaded. Without a connection, its time is over."""
        await (watcher.peer if watcher.peer.detached else watcher.client).close()
        await until(lambda: watcher.peer not in self.server.peers)

    async def leaves(self, watcher: Watcher) -> None:
        await watcher.client.of("rooms").request("leave", "lobby")

    async def batch(self, share: float = 1.0) -> None:
        """Let what has changed be reported. With a share of the time, only what has changed a while ago."""
        await asyncio.sleep(BATCHED * share)
        await settled()


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
    ("one drops, the other leaves", "ada", "a joins, b joins, a drops, b leaves, 0.9, 0.2", "online away offline"),
    ("the grace time is that of the last one", "ada", "a joins, b joins, a drops, 2, b drops, 0.9", "online away"),
    ("away again", "ada", "a joins, a ends, 0.9, b joins, b ends, 0.9", "online away online away"),
    ("the end of a session long after its drop", "ada", "a joins, a drops, 2, a ends, 2", "online away offline"),
    ("a guest", None, "a joins, a ends", "online offline"),
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
                    await asyncio.sleep(GRACE * float(what))
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
        first, second = [await house.joins("ada", about={"tab": number}) for number in range(2)]
        third = await house.joins("ada")
        await house.batch()
        assert room.present() == {"ada": Present("ada", "online", ({"tab": 0}, {"tab": 1}))}
        assert second.about == {"ada": [{"tab": 0}, {"tab": 1}]}
        await first.client.of("rooms").request("join", "lobby", {"about": "reads"})
        await house.drops(second)
        assert room.present()["ada"].about == ("reads",)
        for watcher in (third, first, second):
            await house.ends(watcher)
            assert watcher is third or room.present() == {"ada": Present("ada", "away", ({"tab": 1},))}
        await house.batch()
        assert house.hook.calls[-1] == ("ada", "away")


async def test_a_slow_function_gets_the_latest_state(caplog: pytest.LogCaptureFixture) -> None:
    async with House() as house:
        release, calls = asyncio.Event(), list[tuple[str | int, str]]()

        @house.server.on_presence
        async def slow(room: Room, present: Present) -> None:
            calls.append((present.user, present.state))
            await release.wait()
            if len(calls) % 2:
                raise ValueError("a mistake")
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled  # by somebody else, and the function does not expect that

        ada = await house.joins("ada")
        await house.batch()
        await house.joins("bob")
        for change in (house.drops, house.resumes, house.drops):
            await change(ada)
            await house.batch()
        assert calls == [("ada", "online")]
        release.set()
        await until(lambda: len(calls) == 3)
        assert calls[1:] == [("bob", "online"), ("ada", "away")]
        await house.resumes(ada)
        await house.batch()
        await until(lambda: calls[3:] == [("ada", "online")])
        assert caplog.text.count("on_presence failed for room 'lobby'") == 4


async def test_limits_of_what_connections_say() -> None:
    deep: Any = 0
    for _ in range(17):
        deep = [deep]
    async with House() as house:
        room = house.server.room("lobby")
        for number in range(MOST_ABOUT + 2):
            await house.joins("ada", about=number)
        assert room.present()["ada"].about == tuple(range(MOST_ABOUT))
        for about, why in (("x" * 511, "takes 513 bytes"), (2**70, "cannot be sent"), (deep, "nested")):
            with pytest.raises(BadArguments, match=why):
                await house.joins("bob", about=about)
        assert [*room.present()] == ["ada"]
        for about in ("x" * 510, deep[0]):
            await house.joins("bob", about=about)


async def test_users_are_text_or_integers() -> None:
    server = Server()
    room = server.room("lobby")
    principals = ["1", 1, True, "x" * 300, "\ud800", 2**64, None, {"id": 7}]
    for principal in principals:
        peer: Any = await server.accept(ScriptedTransport())
        peer.principal = principal
        room.add(peer)
    server.room("lobby", presence=1)
    assert [*room.present()] == ["1", 1, *(peer.id for peer in server.peers[2:])]
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
        await until(lambda: all(each.known == expected for each in inside))
        assert all([first for _, first in each.events].count(True) == 1 for each in inside)
        assert {*expected.values()} == {"online", "away"}


async def test_a_large_room_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_feed, "PART_BYTES", 4096)
    async with House() as house:
        for number in range(40):
            await house.joins(f"user/{number}", about="x" * 500)
        await house.batch()
        last = house.watchers[-1]
        await last.sees(**dict.fromkeys(map("user/{}".format, range(40)), "online"))
        parts = -(-40 * 500 // 4096)
        assert [first for _, first in last.events] == [True, *[False] * (len(last.events) - 1)]
        assert parts <= len(last.events) <= 2 * parts


async def test_a_member_that_reads_too_slowly_is_told_later() -> None:
    """One that leaves meanwhile is told nothing more."""
    async with House() as house:
        slow, gone, other = [await house.joins(user) for user in ("slow", "gone", "other")]
        await house.batch()
        await slow.sees(slow="online", gone="online", other="online")
        ends = [each.line.connections[-1][1] for each in (slow, gone)]
        for end in ends:
            end.hold()
        while not (slow.peer.stats().slow and gone.peer.stats().slow):
            await house.server.room("lobby").emit("filling", "x" * 10_000)
        for number in range(20):
            guest = await house.joins(f"user/{number}")
            await house.batch()
            await house.leaves(guest)
        house.server.room("lobby").remove(gone.peer)
        await house.batch()
        await other.sees(slow="online", other="online")
        before, heard = len(slow.events), len(gone.events)
        for end in ends:
            end.release()
        await house.joins("last")
        await house.batch()
        await slow.sees(slow="online", other="online", last="online")
        assert len(slow.events) - before <= 2, "one event has all that has changed"
        assert len(gone.events) == heard

"""`Client.room`: a client knows its position in a room, and joins again in each new session."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost, Context, Peer, Reconnect, RemoteError, RpcError, Server
from wsrpc.testing import Line
from wsrpc.types import ClientRoom, Joined, Present

pytestmark = pytest.mark.usefixtures("nothing_left")


class Lobby:
    """A server with one room, which keeps its last events."""

    def __init__(self) -> None:
        self.server = Server()
        self.line = Line(self.server)
        self.log: list[Any] = []
        self.first = 1
        self.members: set[Peer] = set()
        self.joins: list[dict[str, Any]] = []
        self.refuses = False
        rooms = self.server.of("rooms")
        rooms.on("join", self._join)
        rooms.on("leave", self._leave)

    async def _join(self, peer: Peer, room: str, options: dict[str, Any]) -> Any:
        self.joins.append(options)
        if self.refuses:
            raise RpcError("not allowed")
        end = len(self.log)
        after = int(options["after"].split("-")[0]) if "after" in options else end - options.get("last", 0)
        self.members.add(peer)
        for number in range(max(after, self.first - 1), end):
            await self._send(peer, {"a": ["said", self.log[number]]}, number + 1)
        return {"position": f"{end}-w.{end}", "complete": after >= self.first - 1}

    def _leave(self, peer: Peer, room: str) -> None:
        self.members.discard(peer)

    async def _send(self, peer: Peer, message: Any, number: int) -> None:
        await peer.send_raw(json.dumps({**message, "ctx": {"at": ["lobby", f"{number}-w.{number}"]}}))

    async def emit(self, *said: Any) -> None:
        for each in said:
            self.log.append(each)
            for peer in self.members & {*self.server.peers}:
                await self._send(peer, {"a": ["said", each]}, len(self.log))

    async def tell(self, event: str, *args: Any) -> None:
        await self.server.of("rooms").emit(event, "lobby", *args)

    async def new_session(self) -> None:
        [peer] = self.server.peers
        await peer.close(1012)


@pytest.fixture
async def lobby() -> AsyncGenerator[Lobby]:
    lobby = Lobby()
    yield lobby
    await lobby.server.close()


class Member:
    """A client in the lobby, and the events that it has got."""

    def __init__(self, lobby: Lobby) -> None:
        self.client = Client("ws://server/", dial=lobby.line.dial, reconnect=Reconnect(initial=0.001))
        self.heard: list[Any] = []
        self.client.on("said", self.hear)
        self.room: ClientRoom = self.client.room("lobby")
        self.missed: list[bool] = []
        self.room.on_missed(lambda room: self.missed.append(room.joined))

    def hear(self, what: Any, ctx: Context) -> None:
        self.heard.append((what, ctx.room, ctx.position))

    async def __aenter__(self) -> Member:
        await self.client.connect()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.client.close()

    async def hears(self, *said: Any) -> None:
        """Wait for the last of these events, and check that no other has come."""
        await turns_until(lambda: len(self.heard) >= len(said))
        assert [each for each, _, _ in self.heard] == [*said]


async def test_events_come_with_their_room_and_position(lobby: Lobby) -> None:
    async with Member(lobby) as member:
        await lobby.emit(1, 2, 3)
        assert await member.room.join(last=2) == Joined("3-w.3", complete=True)
        await lobby.emit(4)
        await member.hears(2, 3, 4)
        assert member.heard[-1] == (4, "lobby", "4-w.4")
        assert (member.room.position, member.room.complete, member.room.joined) == ("4-w.4", True, True)
        assert member.client.room("lobby") is member.room


async def test_after_a_resume_nothing_is_asked_and_in_a_new_session_the_client_joins_after_its_position(
    lobby: Lobby,
) -> None:
    async with Member(lobby) as member:
        await member.room.join(about={"name": "Ada"})
        await lobby.emit(1)
        await member.hears(1)
        lobby.line.cut()
        await lobby.emit(2)
        await member.hears(1, 2)
        await lobby.new_session()
        await lobby.emit(3, 4)
        await member.hears(1, 2, 3, 4)
        assert lobby.joins == [{"about": {"name": "Ada"}}, {"about": {"name": "Ada"}, "after": "2-w.2"}]
        assert (member.room.complete, member.missed) == (True, [])


async def test_positions_count_without_handlers_and_while_handlers_wait(lobby: Lobby) -> None:
    """The event that waits for the `open` handler is handled once, although the session ends meanwhile."""
    member = Member(lobby)
    opened = asyncio.Event()

    @member.client.on("open")
    async def wait(peer: Peer) -> None:
        await opened.wait()

    opened.set()
    async with member:
        await member.room.join()
        opened.clear()
        await lobby.new_session()
        await turns_until(lambda: lobby.server.peers)
        lobby.members.update(lobby.server.peers)
        await lobby.emit(1)
        await turns_until(lambda: member.room.position == "1-w.1")
        assert member.heard == []
        opened.set()
        await member.hears(1)
        member.client.on("said", None)
        events = member.client.events("said")
        await lobby.emit(2)
        assert await anext(events) == 2
        await events.aclose()
        await lobby.emit(3)
        await turns_until(lambda: member.room.position == "3-w.3")


@pytest.mark.parametrize("why", ["trimmed", "told", "refused", "no log"])
async def test_missed_events_are_told(lobby: Lobby, why: str, caplog: pytest.LogCaptureFixture) -> None:
    async with Member(lobby) as member:
        await member.room.join()
        await lobby.emit(1)
        await member.hears(1)
        lobby.first, lobby.refuses = 3, why == "refused"
        if why == "told":
            await lobby.tell("missed", "2-w.2")
        else:
            if why == "no log":
                lobby.server.of("rooms").on("join", lambda room, options: None)
            await lobby.new_session()
            await lobby.emit(2, 3)
        await turns_until(lambda: member.missed)
        assert member.missed == [why != "refused"]
        assert (member.room.complete, member.room.joined) == (False, why != "refused")
        assert ("no longer in room 'lobby': not allowed" in caplog.text) is (why == "refused")
        if why == "refused":
            lobby.refuses = False
            await lobby.new_session()
            await member.client.wait_connected()
            assert len(lobby.joins) == 2
        lobby.first = 1
        await member.room.join()
        assert member.room.joined and member.room.complete


async def test_a_join_that_fails(lobby: Lobby) -> None:
    member = Member(lobby)
    lobby.refuses = True
    async with member:
        with pytest.raises(RemoteError, match="not allowed"):
            await member.room.join()
        assert not member.room.joined
    with pytest.raises(ConnectionLost):
        await member.room.join()


async def test_who_has_left_does_not_join_again(lobby: Lobby) -> None:
    async with Member(lobby) as member:
        await member.room.join()
        await lobby.tell("presence", [{"user": 1, "state": "online", "about": []}], True)
        await member.room.leave()
        assert (member.room.joined, member.room.present, lobby.members) == (False, {}, set())
        await lobby.new_session()
        await turns_until(lambda: lobby.server.peers)
        await member.client.wait_connected()
        assert len(lobby.joins) == 1


async def test_presence_is_a_snapshot_and_its_changes(lobby: Lobby) -> None:
    async with Member(lobby) as member:
        changes: list[dict[Any, str]] = []
        member.room.on_presence(
            lambda: changes.append({user: each.state for user, each in member.room.present.items()})
        )
        await member.room.join()
        ada = {"user": "Ada", "state": "online", "about": [{"device": 1}]}
        await lobby.tell("presence", [ada], True)
        await lobby.tell("presence", [{"user": 7, "state": "away", "about": []}], False)
        await turns_until(lambda: len(changes) == 2)
        assert member.room.present["Ada"] == Present("Ada", "online", ({"device": 1},))
        gone = {**ada, "state": "offline"}
        await lobby.tell("presence", [gone, gone], False)
        await lobby.tell("presence", [ada], True)
        await turns_until(lambda: len(changes) == 4)
        assert changes == [{"Ada": "online"}, {"Ada": "online", 7: "away"}, {7: "away"}, {"Ada": "online"}]


async def test_a_client_that_cannot_have_rooms(lobby: Lobby) -> None:
    with pytest.raises(TypeError, match="a room's name"):
        Client().room("")
    with pytest.raises(ValueError, match="extensions"):
        Client(extensions=False).room("lobby")
    client = Client()
    client.of("rooms").on("presence", lambda: None)
    with pytest.raises(ValueError, match=r"client\.room"):
        client.room("lobby")

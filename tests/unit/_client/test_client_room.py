"""`Client.room`: a client knows its position in a room, and joins again in each new session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from waiting import settled, until

from wsrpc import Client, ConnectionLost, Context, Limits, Overloaded, Peer, Reconnect, RemoteError, Server
from wsrpc.errors import made_here
from wsrpc.store import MemoryStore
from wsrpc.testing import Line

pytestmark = pytest.mark.usefixtures("nothing_left")


class Lobby:
    """A server with the rooms "lobby", which has a log, and "hall", which has none."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.server = Server(store=MemoryStore(log_bytes=2000), limits=limits)
        self.line = Line(self.server)
        self.allows = True
        self.room = self.server.room("lobby", allow=lambda peer: self.allows, keep=60)
        self.hall = self.server.room("hall", allow=lambda peer: True)
        self.joins: list[Any] = []
        self.busy: float | None = None
        """Seconds after which a join is refused because the server is busy."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.server.of("rooms").use(self._record)

    async def _record(self, ctx: Context, call_next: Any) -> Any:
        if ctx.event == "join":
            self.joins.append(ctx.args[1])
            await self.gate.wait()
            if self.busy is not None:
                await asyncio.sleep(self.busy)
                raise made_here(Overloaded("busy"))
        if ctx.event == "leave":
            await self.gate.wait()
        return await call_next(ctx)

    async def emit(self, *said: Any) -> None:
        for each in said:
            await self.room.emit("said", each)

    async def new_session(self) -> None:
        """End the session of the client, and wait until it has another one."""
        [peer] = self.server.peers
        await peer.close(1012)
        await until(lambda: {*self.server.peers} - {peer})

    @asynccontextmanager
    async def member(self, name: str = "lobby") -> AsyncIterator[Member]:
        member = Member(self, name)
        async with member.client:
            yield member


class Member:
    """A client that hears a room."""

    def __init__(self, lobby: Lobby, name: str = "lobby") -> None:
        self.client = Client("ws://server/", dial=lobby.line.dial, reconnect=Reconnect(initial=0.001))
        self.heard: list[Any] = []
        self.ctx: list[tuple[str | None, str | None]] = []
        self.client.on("said", self.hear)
        self.room = self.client.room(name)
        self.missed: list[bool] = []
        self.room.on_missed(lambda room: self.missed.append(room.joined))

    def hear(self, what: Any, ctx: Context) -> None:
        self.heard.append(what)
        self.ctx.append((ctx.room, ctx.position))

    async def hears(self, *said: Any, limit: float = 0.04) -> None:
        """Wait for the last of these events, and check that no other has come."""
        await until(lambda: len(self.heard) >= len(said), limit)
        assert self.heard == [*said]


@pytest.fixture
async def lobby() -> AsyncGenerator[Lobby]:
    lobby = Lobby()
    yield lobby
    await lobby.server.close()


@pytest.mark.parametrize("steps", range(12))
@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize("options", [{"last": 9}, {"after": "0-0"}], ids=repr)
async def test_a_join_gets_each_event_once_whatever_happens_meanwhile(
    lobby: Lobby, options: dict[str, Any], drops: bool, steps: int
) -> None:
    """A drop was before the first round trip of the session, so the outcome of the request was unknown."""
    async with lobby.member() as member:
        await lobby.emit(1, 2)
        joining = asyncio.ensure_future(member.room.join(**options))
        for _ in range(steps):
            await asyncio.sleep(0)
        if drops:
            lobby.line.cut()
        await lobby.emit(3)
        assert (await joining).complete and member.room.joined
        await member.hears(1, 2, 3)
        assert member.ctx[-1] == ("lobby", member.room.position)


async def test_a_client_that_leaves_while_it_joins_has_left(lobby: Lobby) -> None:
    async with lobby.member() as member:
        lobby.gate.clear()
        joining = asyncio.ensure_future(member.room.join())
        await settled()
        leaving = asyncio.ensure_future(member.room.leave())
        lobby.gate.set()
        await asyncio.gather(joining, leaving)
        assert not member.room.joined and not len(lobby.room)


async def test_only_in_a_new_session_the_client_joins_after_its_position(lobby: Lobby) -> None:
    async with lobby.member() as member:
        await member.room.join(last=9)
        await lobby.emit(1)
        await member.hears(1)
        lobby.line.cut()
        await lobby.emit(2)
        await member.hears(1, 2)
        before = member.room.position
        await lobby.new_session()
        await lobby.emit(3, 4)
        await member.hears(1, 2, 3, 4)
        assert [(each["last"], each["after"]) for each in lobby.joins] == [(9, None), (9, before)]
        assert (member.room.complete, member.missed) == (True, [])


async def test_a_join_that_waits_goes_on_when_the_session_resumes(lobby: Lobby) -> None:
    """It was cancelled and asked for again after each drop."""
    async with lobby.member() as member:
        backs: list[bool] = []
        member.client.on_reconnect(lambda info: backs.append(info.resumed))
        await member.room.join()
        lobby.gate.clear()
        await lobby.new_session()
        await settled()
        for drops in range(1, 4):
            lobby.line.cut()
            await asyncio.sleep(1)
            assert backs == [False, *[True] * drops]
        lobby.gate.set()
        await lobby.emit(1)
        await member.hears(1)
        assert len(lobby.joins) == 2 and member.missed == [] and member.room.complete


async def test_a_server_that_is_busy_is_asked_again() -> None:
    lobby = Lobby(Limits(rate=5))
    async with lobby.member() as member:
        await member.room.join()

        @member.client.on("open")
        async def knock() -> None:
            for _ in range(5):
                await member.client.emit("knock")

        lobby.server.on("knock", lambda: None)
        await lobby.new_session()
        await lobby.emit(1)
        await member.hears(1, limit=0.61)  # two waits of `Retry`
        assert [peer.ignored["above the rate"] > 0 for peer in lobby.server.peers] == [True]
        assert member.room.joined and not member.missed
    await lobby.server.close()


async def test_a_client_that_leaves_while_the_server_is_busy_does_not_join_again(lobby: Lobby) -> None:
    async with lobby.member() as member:
        await member.room.join()
        lobby.busy = 0
        await lobby.new_session()
        await settled()
        await member.room.leave()
        assert (member.room.joined, member.room.present) == (False, {})
        lobby.busy = None
        await asyncio.sleep(60)
        assert len(lobby.joins) == 2 and not len(lobby.room) and not member.missed
        await lobby.room.join(lobby.server.peers[0])
        await lobby.emit("by the server")
        await member.hears("by the server")


async def test_events_that_arrive_after_the_client_has_begun_to_leave_are_for_who_joins_again(lobby: Lobby) -> None:
    """They were handled, also the hundreds that are on their way when a handler of an event from the log leaves."""
    async with lobby.member() as member:
        await member.room.join()
        await lobby.emit(1)
        await member.hears(1)
        lobby.gate.clear()
        leaving = asyncio.ensure_future(member.room.leave())
        await asyncio.sleep(0)
        await lobby.emit(2, 3)
        await until(lambda: member.client.peer.ignored["event of a left room"] == 2)
        lobby.gate.set()
        await leaving
        assert (await member.room.join(after=member.room.position)).complete
        await lobby.emit(4)
        await member.hears(1, 2, 3, 4)


async def test_who_wants_to_leave_a_room_and_may_not_misses_nothing(lobby: Lobby) -> None:
    async with lobby.member() as member:
        await lobby.room.join(lobby.server.peers[0])
        lobby.gate.clear()
        leaving = asyncio.ensure_future(member.room.leave())
        await asyncio.sleep(0)
        await lobby.emit(1)
        await member.hears(1)
        lobby.gate.set()
        with pytest.raises(RemoteError, match="not allowed"):
            await leaving


async def test_positions_count_without_handlers_and_while_handlers_wait(lobby: Lobby) -> None:
    """An event that waits for the `open` handler is handled once, although the session ends meanwhile."""
    member = Member(lobby)
    opened = asyncio.Event()

    @member.client.on("open")
    async def wait(peer: Peer) -> None:
        await opened.wait()

    opened.set()
    async with member.client:
        known = {(await member.room.join()).position}
        opened.clear()
        await lobby.new_session()
        await lobby.room.join(lobby.server.peers[0])
        await lobby.emit(1)
        await until(lambda: member.room.position not in known)
        assert member.heard == []
        opened.set()
        await member.hears(1)
        assert member.ctx == [("lobby", member.room.position)]
        member.client.on("said", None)
        known.add(member.room.position)
        await lobby.emit(2)
        await until(lambda: member.room.position not in known)


@pytest.mark.parametrize("why", ["trimmed", "refused", "no log"])
async def test_missed_events_are_told(lobby: Lobby, why: str, caplog: pytest.LogCaptureFixture) -> None:
    async with lobby.member("hall" if why == "no log" else "lobby") as member:
        await member.room.join()
        lobby.line.down, lobby.allows = True, why != "refused"
        await lobby.server.peers[0].close(1012)
        await lobby.emit(*range(100))
        lobby.line.down = False
        await until(lambda: member.missed)
        assert member.missed == [why != "refused"]
        assert (member.room.complete, member.room.joined) == (False, why != "refused")
        assert ("no longer in room 'lobby': not allowed" in caplog.text) is (why == "refused")
        if why == "trimmed":
            await until(lambda: member.heard[-1:] == [99])
            assert member.heard == [*range(member.heard[0], 100)]
        await lobby.new_session()
        await member.client.wait_connected()
        await until(lambda: len(member.missed) == (2 if why == "no log" else 1))
        lobby.allows = True
        await member.room.join()
        assert member.room.joined and member.room.complete


async def test_join_does_not_ask_again_when_the_server_has_waited(lobby: Lobby) -> None:
    """It did so five times, after ten seconds each."""
    async with lobby.member() as member:
        lobby.busy = 10.0  # as long as a server waits for its store
        with pytest.raises(Overloaded):
            await member.room.join()
        assert len(lobby.joins) == 1


async def test_a_join_that_fails(lobby: Lobby) -> None:
    lobby.allows = False
    async with lobby.member() as member:
        with pytest.raises(RemoteError, match="not allowed"):
            await member.room.join()
        assert not member.room.joined
    with pytest.raises(ConnectionLost):
        await member.room.join(after="7-x.7")
    assert member.room.position == "7-x.7"


def test_a_client_that_cannot_have_rooms() -> None:
    with pytest.raises(TypeError, match="a room's name"):
        Client().room("")
    with pytest.raises(ValueError, match="extensions"):
        Client(extensions=False).room("lobby")
    client = Client()
    client.of("rooms").on("presence", lambda: None)
    with pytest.raises(ValueError, match=r"client\.room"):
        client.room("lobby")


async def test_the_users_that_a_server_makes_up_are_bounded(lobby: Lobby) -> None:
    some = 8 * 1024 * 1024 // 100_000 + 1
    async with lobby.member("hall") as member:
        await member.room.join()
        [peer] = lobby.server.peers
        sizes = list[int]()
        member.room.on_presence(lambda room: sizes.append(len(room.present)))
        for state, first, expected in (
            ("online", True, some),
            ("online", False, some),
            ("online", True, some),
            ("offline", False, 0),
            ("online", False, some),
        ):
            for number in range(100):
                entry = {"user": number, "state": state, "about": ["x" * 100_000]}
                await peer.of("rooms").emit("presence", "hall", [entry], first and not number)
            await settled()
            assert len(sizes) == 100 and sizes[-1] == expected
            sizes.clear()

"""Where a message goes: the table `PLACES`, cell by cell, as the sender sees it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from core_driver import Blocked, Driven, redialing, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import SMALL, SOON, Story, story, talk
from stream_driver import control, resumable, welcome
from stream_sides import requested

from wsrpc import AnonymousChannel, ChannelClosed, ConnectionLost, Limits, Peer, Reconnect, RequestTimeout
from wsrpc._core.api.peer import current_of
from wsrpc._core.sending.phase import Phase
from wsrpc._core.sending.places import PLACES, Place, Scope
from wsrpc._core.session.client_session import ClientSession
from wsrpc._core.session.connection import Connection
from wsrpc.codecs import JsonCodec
from wsrpc.testing import MemoryTransport, ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")


def sent_by(peer: Peer) -> int:
    return peer.transport.sent if isinstance(peer.transport, MemoryTransport) else 0


class Scene:
    """A story, and who sends the messages of each scope."""

    def __init__(self, s: Story) -> None:
        self.story = s
        self.go = asyncio.Event()
        self.channel: AnonymousChannel
        self.seen = dict[Scope, Place | None]()

    def look(self, scope: Scope, sender: Peer, emit: Callable[[str], None] | None = None) -> None:
        """Send a message of that scope, and note where it goes."""
        sent, kept = sent_by(sender), sender.stats().kept_bytes
        try:
            (emit or sender.emit_nowait)("note")
        except (ConnectionLost, ChannelClosed):
            self.seen[scope] = None
            return
        if sent_by(sender) > sent:
            self.seen[scope] = Place.NOW
        elif sender.stats().kept_bytes > kept:
            self.seen[scope] = Place.QUEUE


@asynccontextmanager
async def open_line(reconnect: Reconnect | None = SOON, **options: Any) -> AsyncGenerator[Scene]:
    async with story(reconnect=reconnect, **options) as s:
        scene = Scene(s)
        s.server.on("talk", talk)
        scene.channel = await s.client.open_channel("talk")
        yield scene


Seen = dict[Scope, Place | None]


async def see_open() -> Seen:
    async with open_line() as scene:
        client = scene.story.client.peer
        scene.look(Scope.STARTED, client, scene.channel.emit_nowait)
        scene.look(Scope.SESSION, scene.story.peer)
        scene.look(Scope.PEER, client)
        return scene.seen


async def see_away(*, opened: bool = True) -> Seen:
    """What is sent as soon as the session resumes was `HELD`, what is not sent then was in the `QUEUE`."""
    seen = Seen()
    for scope in (Scope.PEER, Scope.SESSION):
        d = redialing(keeps_offline=scope is Scope.PEER, bind=False, extensions=True, can_resume=True)
        go, channels = asyncio.Event(), list[AnonymousChannel]()

        async def opening(peer: Peer, go: asyncio.Event, channels: list[AnonymousChannel]) -> None:
            channels.append(await peer.open_channel("talk"))
            await go.wait()

        d.peer.on("open", partial(opening, go=go, channels=channels))
        d.peer.bind(d.transport)
        [asked] = [message for message in await d.fed(resumable()) if "a" in message]
        await d.fed({"i": asked["i"], "h": 1})
        if opened:
            go.set()
            await turns()
        d.transport.lose()
        assert d.peer.detached
        d.peer.emit_nowait(scope.name)
        channels[0].emit_nowait(Scope.STARTED.name)
        session, d.transport = current_of(d.peer).session, ScriptedTransport()
        assert isinstance(session, ClientSession)
        session.ask_to_resume(Connection(d.transport), refused=lost, failed=lost)
        d.take()
        resumed = await d.fed(control("resumed", rx=0, bytes=0, token="other", limits={}))
        sent = [message["a"][0] for message in resumed if "a" in message]
        seen |= {each: Place.HELD if each.name in sent else Place.QUEUE for each in (scope, Scope.STARTED)}
        go.set()
        await d.peer.close()
    return seen


def lost(why: object) -> None:
    pytest.fail(f"the session is lost: {why}")


async def see_expected() -> Seen:
    async with open_line(extensions=False) as scene:
        client = scene.story.client.peer
        scene.story.line.down = True
        scene.story.line.cut()
        await turns_until(lambda: not client.connected)
        scene.look(Scope.STARTED, client, scene.channel.emit_nowait)
        scene.look(Scope.PEER, client)
        return scene.seen


async def see_stopped() -> Seen:
    async with open_line(extensions=False) as scene:
        s, served, channel = scene.story, scene.story.peer, scene.channel
        s.line.down = True
        s.ends[0].hold()
        s.client.emit_nowait("fills", "x" * Limits().high_water_bytes)
        waits = start(s.client.emit("note"))
        await turns()
        closing = start(s.client.close())
        await turns()
        s.line.cut()
        with pytest.raises(ConnectionLost):
            await waits
        await closing
        scene.look(Scope.STARTED, s.client.peer, channel.emit_nowait)
        await turns_until(lambda: not served.connected)
        scene.look(Scope.SESSION, served)
        return scene.seen | {Scope.PEER: None}


async def see_finishing() -> Seen:
    seen = Seen()
    for scope, d in ((Scope.PEER, redialing(extensions=True)), (Scope.SESSION, Driven(dialer=True, extensions=True))):
        await d.fed(welcome("drain"))
        channel = await requested(d)
        await d.fed(control("drain", after_ms=10_000))
        for each, emit in ((scope, d.peer.emit_nowait), (Scope.STARTED, channel.emit_nowait)):
            emit("note")
            seen[each] = Place.NOW if d.take() else Place.QUEUE
        await d.peer.close()
    return seen


async def see_opening() -> Seen:
    s = Story()
    scene = Scene(s)

    async def opened(peer: Peer) -> None:
        if peer is s.client.peer:
            scene.look(Scope.STARTED, peer)
        await scene.go.wait()

    s.client.on("open", opened)
    s.server.on("open", opened)
    async with asyncio.timeout(20):
        connecting = start(s.client.connect())
        await turns_until(lambda: bool(s.server.peers) and Scope.STARTED in scene.seen)
        scene.look(Scope.SESSION, s.peer)
        scene.look(Scope.PEER, s.client.peer)
        scene.go.set()
        await connecting
        await s.client.close()
        await s.server.close()
    return scene.seen


async def see_draining() -> Seen:
    async with open_line() as scene:
        s, channel = scene.story, scene.channel
        closing = start(s.server.close(drain_timeout=0.5))  # so little is left that the client begins nothing new
        await turns_until(lambda: s.client.closes_in is not None)
        scene.look(Scope.PEER, s.client.peer)
        scene.look(Scope.STARTED, s.client.peer, channel.emit_nowait)
        await channel.abort()
        await s.client.close()
        await closing
    d = Driven(dialer=True, extensions=True)  # what it sends has no other session to wait for
    await d.fed(welcome("drain"), control("drain", after_ms=0))
    with pytest.raises(ConnectionLost, match="draining"):
        d.peer.emit_nowait("note")
    return scene.seen | {Scope.SESSION: None}


SEEN: dict[Phase, Callable[[], Awaitable[Seen]]] = {
    Phase.STOPPED: see_stopped,
    Phase.EXPECTED: see_expected,
    Phase.AWAY: see_away,
    Phase.AWAY_NOT_OPEN: partial(see_away, opened=False),
    Phase.OPENING: see_opening,
    Phase.FINISHING: see_finishing,
    Phase.DRAINING: see_draining,
    Phase.OPEN: see_open,
}


IMPOSSIBLE = {(Phase.EXPECTED, Scope.SESSION)}
"""Messages belong to the session where no other one is expected."""


@pytest.mark.parametrize("state", Phase, ids=lambda state: state.name)
async def test_a_message_goes_where_the_table_says(state: Phase) -> None:
    cells = {scope: place for scope, place in PLACES[state].items() if (state, scope) not in IMPOSSIBLE}
    assert await SEEN[state]() == cells


# ---------------------------------------------------------------- the rules on top of the table, in order


def events(d: Driven) -> list[Any]:
    """The names of the events and requests that were sent."""
    return [message["a"][0] for message in d.take() if "a" in message]


@pytest.mark.parametrize("then", ["has room again", "is lost"])
async def test_nobody_overtakes_those_who_wait_for_room(then: str) -> None:
    d = redialing()
    d.transport.pause()
    tasks = [start(d.peer.emit("first"))]
    await turns()
    tasks.append(start(d.peer.emit("second")))  # it looks before the first one is awake
    if then == "has room again":
        d.transport.resume()
    else:
        d.transport.lose()
    await asyncio.gather(*tasks)
    if then == "is lost":
        d.rebind()
    await turns()
    assert events(d) == ["first", "second"]


async def busy() -> tuple[Driven, int, asyncio.Task[Any]]:
    """A peer whose remote peer has room for one request, which is in flight: its id and its task."""
    d = redialing(extensions=True)
    await d.fed(welcome("drain", running=1, waiting=0, waiting_bytes=0))
    runs, i = await d.asks("runs", timeout=None)
    return d, i, runs


async def test_a_request_that_waits_for_capacity_and_for_room_comes_before_those_who_came_later() -> None:
    d, i, _ = await busy()
    asks = start(d.peer.request("asks", timeout=None))
    await turns()
    emits = start(d.peer.emit("emits"))
    d.transport.pause()  # before the event leaves
    await d.fed({"i": i})  # so there is capacity, and no room
    d.transport.resume()
    await turns()
    assert events(d) == ["asks", "emits"]
    await emits
    asks.cancel()
    await turns()


async def test_a_request_that_waits_for_the_next_session_does_not_wait_for_the_capacity_of_this_one() -> None:
    d, _, runs = await busy()
    late = start(d.peer.request("late", timeout=None))
    await turns()
    assert d.peer.stats().kept_bytes == 0
    d.feed(control("drain", after_ms=0))
    asks = start(d.peer.request("asks", timeout=None))
    await turns()
    assert d.peer.stats().kept_bytes > 0
    await d.peer.close()
    await asyncio.gather(runs, late, asks, return_exceptions=True)


@pytest.mark.parametrize(("before", "running"), [(0, 1), (1, 2), (5, 1)])
async def test_requests_do_not_overload_a_remote_peer_whose_session_resumes(before: int, running: int) -> None:
    work = Blocked()
    async with story(server=Limits(running=running, waiting=2)) as s:
        s.server.on("work", work)
        asking = [start(s.client.request("work", n)) for n in range(before)]
        await s.settled()
        await s.cut()
        asking += [start(s.client.request("work", n)) for n in range(before, 10)]
        await s.repair()
        work.go.set()
        assert await asyncio.gather(*asking) == [[n] for n in range(10)]
        assert work.started == [(n,) for n in range(10)]


@pytest.mark.parametrize("ends", ["is cancelled", "times out"])
async def test_a_request_that_ends_while_its_session_is_away_makes_room_for_the_next_one(ends: str) -> None:
    work, cancelled = Blocked(), ends == "is cancelled"
    async with story(server=Limits(running=1, waiting=2)) as s:
        s.server.on("work", work)
        await s.cut()
        leaves = [start(s.client.request("work", n, timeout=None if cancelled else 0.05)) for n in range(3)]
        stays = [start(s.client.request("work", n, timeout=None)) for n in range(3, 10)]
        await turns()
        if cancelled:
            for task in leaves:
                task.cancel()
        results = await asyncio.gather(*leaves, return_exceptions=True)
        outcomes = [each.outcome if isinstance(each, RequestTimeout) else type(each) for each in results]
        assert outcomes == [asyncio.CancelledError if cancelled else "not_sent"] * 3
        await s.repair()
        work.go.set()
        assert await asyncio.gather(*stays) == [[n] for n in range(3, 10)]
        assert work.started == [(n,) for n in range(3, 10)]


async def test_a_request_that_waits_for_open_handlers_leaves_the_capacity_to_them() -> None:
    s, go, logins = Story(server=Limits(running=1, waiting=0)), asyncio.Event(), list[str]()

    async def opened(peer: Peer) -> None:
        await go.wait()
        logins.append(await peer.request("login"))

    s.server.on("login", lambda: "in")
    s.server.on("work", lambda: list(logins))
    s.client.on("open", opened)
    async with asyncio.timeout(20):
        connecting = start(s.client.connect())
        await s.settled()
        await s.cut()
        work = start(s.client.request("work", timeout=None))
        await turns()
        s.line.down = False
        await turns_until(lambda: not s.client.peer.detached)
        go.set()
        assert await work == ["in"]
        await connecting
        await s.client.close()
        await s.server.close()


async def test_a_request_that_waited_for_its_session_counts_in_the_next_one_once_it_is_sent_there() -> None:
    d, tight = redialing(extensions=True, can_resume=True), {"running": 1, "waiting": 0, "waiting_bytes": 0}
    await d.fed(resumable(**tight))
    d.transport.lose()
    assert d.peer.detached
    first = start(d.peer.request("first", timeout=None))
    await turns()
    d.rebind()  # the server has lost the session
    d.feed(welcome(**tight))
    second = start(d.peer.request("second", timeout=None))
    await turns()
    for task, name in ((first, "first"), (second, "second")):
        [asked] = [message for message in d.take() if "a" in message]
        assert asked["a"] == [name]
        d.feed({"i": asked["i"], "d": name})
        assert await task == name
        await turns()


async def test_what_outlives_the_session_does_not_wait_for_room_in_it() -> None:
    async with open_line(client=Limits(replay_bytes=SMALL)) as scene:
        s, channel = scene.story, scene.channel
        await s.settled()
        await s.cut()
        channel.emit_nowait("fills", "x" * SMALL)
        emits, on_channel = start(s.client.emit("note")), start(channel.emit("note"))
        await turns()
        assert (emits.done(), on_channel.done()) == (True, False)
        await s.repair()
        await on_channel


async def test_a_queued_message_does_not_keep_what_its_arguments_were_made_of() -> None:
    class Row:
        def __str__(self) -> str:
            return "row"

    d, row = redialing(codec=JsonCodec(enc_hook=str)), Row()
    d.transport.lose()
    d.peer.emit_nowait("note", row)
    left = weakref.ref(row)
    del row
    assert left() is None
    d.rebind()
    await turns()
    d.expect({"a": ["note", "row"]})


async def test_a_caller_that_waits_for_room_learns_why_its_channel_has_ended() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    d.transport.pause()
    waits = start(channel.emit("note"))
    await turns()
    await d.fed({"h": channel.id, "x": "enough"})
    d.transport.resume()
    with pytest.raises(ChannelClosed, match="enough"):
        await waits
    d.expect()

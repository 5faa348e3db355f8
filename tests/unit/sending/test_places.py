"""Where a message goes, and the states of a request: the tables `PLACES` and `RequestState`, cell by cell."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from typing import Any

import pytest
from core_driver import Blocked, Driven, Played, redialing, start
from leftovers import nothing_left as nothing_left
from peers_inside import out_of
from session_story import SMALL, Story, story, talk
from stream_driver import control, resumable, welcome
from stream_sides import requested
from waiting import settled, until

from wsrpc import AnonymousChannel, ChannelClosed, ConnectionLost, Limits, Peer, RequestTimeout
from wsrpc._core.api.peer import current_of
from wsrpc._core.sending.pending import RequestState
from wsrpc._core.sending.phase import Phase
from wsrpc._core.sending.places import PLACES, Place, Scope
from wsrpc._core.session.client_session import ClientSession
from wsrpc._core.session.connection import Connection
from wsrpc.codecs import JsonCodec

pytestmark = pytest.mark.usefixtures("nothing_left")


IMPOSSIBLE = {(Phase.EXPECTED, Scope.SESSION)}
"""Messages belong to the session where no other one is expected."""


async def opening(peer: Peer, go: asyncio.Event, channels: list[AnonymousChannel]) -> None:
    channels.append(await peer.open_channel("talk"))
    await go.wait()


async def see(phase: Phase, scope: Scope) -> dict[Scope, Place | None]:
    """Send a message of the peer, which has that scope, and one of a channel; return where they go."""
    resumes = phase in (Phase.AWAY, Phase.AWAY_NOT_OPEN)
    d = redialing(keeps_offline=scope is Scope.PEER, bind=False, extensions=True, can_resume=resumes)
    go, channels, seen = asyncio.Event(), list[AnonymousChannel](), dict[Scope, Place | None]()
    d.peer.on("open", partial(opening, go=go, channels=channels))
    d.peer.bind(d.transport)
    [asked] = [message for message in await d.fed(resumable() if resumes else welcome("drain")) if "a" in message]
    await d.fed({"i": asked["i"], "h": 1})
    if phase not in (Phase.OPENING, Phase.AWAY_NOT_OPEN):
        go.set()
        await settled()
    if resumes or phase is Phase.EXPECTED:
        d.transport.lose()
    elif phase in (Phase.FINISHING, Phase.DRAINING):
        await d.fed(control("drain", after_ms=10_000 if phase is Phase.FINISHING else 0))
    elif phase is Phase.STOPPED:
        await d.peer.close()
    for each, emit in ((scope, d.peer.emit_nowait), (Scope.STARTED, channels[0].emit_nowait)):
        kept = d.peer.stats().kept_bytes
        try:
            emit(each.name)
        except (ConnectionLost, ChannelClosed):
            seen[each] = None
        else:
            seen[each] = Place.NOW if d.take() else Place.QUEUE
            assert seen[each] is Place.NOW or d.peer.stats().kept_bytes > kept
    if resumes:  # what is sent as soon as the session resumes was held
        session, d.transport = current_of(d.peer).session, Played()
        assert isinstance(session, ClientSession)
        session.ask_to_resume(Connection(d.transport), refused=lost, failed=lost)
        d.take()
        resumed = await d.fed(control("resumed", rx=0, bytes=0, token="other", limits={}))
        sent = [message["a"][0] for message in resumed if "a" in message]
        seen |= {each: Place.HELD for each in seen if each.name in sent}
    go.set()
    await d.peer.close()
    return seen


def lost(why: object) -> None:
    pytest.fail(f"the session is lost: {why}")


@pytest.mark.parametrize("state", Phase, ids=lambda state: state.name)
async def test_a_message_goes_where_the_table_says(state: Phase) -> None:
    for scope in {Scope.PEER, Scope.SESSION} - {scope for phase, scope in IMPOSSIBLE if phase is state}:
        assert await see(state, scope) == {each: PLACES[state][each] for each in (scope, Scope.STARTED)}


@pytest.mark.parametrize("state", RequestState, ids=lambda state: state.name)
async def test_a_request_counts_and_fails_as_its_state_says(state: RequestState) -> None:
    d, go = redialing(bind=False, extensions=True, can_resume=True), asyncio.Event()
    if state is RequestState.QUEUED:
        d.peer.on("open", go.wait)
    d.peer.bind(d.transport)
    greet = resumable if state is RequestState.HELD else welcome
    await d.fed(greet(running=1, waiting=0, waiting_bytes=0))
    if state is RequestState.HELD:
        d.transport.lose()
    elif state is RequestState.WAITS:
        d.transport.pause()
    task = start(d.peer.request("work", timeout=5))
    await settled()
    sent = [message["i"] for message in d.take() if message.get("a") == ["work"]]
    assert bool(sent) is (state in (RequestState.SENT, RequestState.ABANDONED, RequestState.ENDED))
    if state is RequestState.ENDED:
        await d.fed({"i": sent[0], "d": 1})
        assert await task == 1
    elif state is RequestState.ABANDONED:
        await settled(100)
    requests = out_of(d.peer).requests
    assert [pending.state for pending in requests.all()] == ([] if task.done() else [state])
    assert (requests.flight.requests, requests.flight.bytes > 0) == (state.counts, state.bytes_count)
    await settled(100)
    error = task.exception()
    assert (error.outcome if isinstance(error, RequestTimeout) else None) == state.outcome
    left = (requests.flight.requests, requests.flight.bytes, requests.flight.waiting, d.peer.pending)
    assert left == (state.outcome == "unknown", 0, 0, 0)
    go.set()
    await d.peer.close()


# ---------------------------------------------------------------- the rules on top of the table, in order


def events(d: Driven) -> list[Any]:
    """The names of the events and requests that were sent."""
    return [message["a"][0] for message in d.take() if "a" in message]


async def busy() -> tuple[Driven, int, asyncio.Task[Any]]:
    """A peer whose remote peer has room for one request, which is in flight: its id and its task."""
    d = redialing(extensions=True)
    await d.fed(welcome("drain", running=1, waiting=0, waiting_bytes=0))
    runs, i = await d.asks("runs", timeout=None)
    return d, i, runs


async def test_a_request_that_waits_for_capacity_and_for_room_comes_before_those_who_came_later() -> None:
    d, i, _ = await busy()
    asks = start(d.peer.request("asks", timeout=None))
    await settled()
    emits = start(d.peer.emit("emits"))
    d.transport.pause()  # before the event leaves
    await d.fed({"i": i})  # so there is capacity, and no room
    d.transport.resume()
    await settled()
    assert events(d) == ["asks", "emits"]
    await emits
    asks.cancel()
    await settled()


async def test_a_request_that_waits_for_the_next_session_does_not_wait_for_the_capacity_of_this_one() -> None:
    d, _, runs = await busy()
    late = start(d.peer.request("late", timeout=None))
    await settled()
    assert d.peer.stats().kept_bytes == 0
    d.feed(control("drain", after_ms=0))
    asks = start(d.peer.request("asks", timeout=None))
    await settled()
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
        await settled()
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


async def test_a_request_that_ends_while_it_waits_at_the_server_makes_room_for_the_next_one() -> None:
    work, timeouts = Blocked(), {2: 0.1, 3: 0.2, 4: 0.2, 5: 0.2}
    async with story(server=Limits(running=1, waiting=2)) as s:
        s.server.on("work", work)
        asking = [start(s.client.request("work", n, timeout=timeouts.get(n))) for n in range(6)]
        await s.settled()
        asking[1].cancel()
        _, _, *late = await asyncio.gather(*asking[1:], return_exceptions=True)
        assert [each.outcome for each in late if isinstance(each, RequestTimeout)] == ["unknown", "unknown", "not_sent"]
        work.go.set()
        assert await asking[0] == [0] and work.started == [(0,)]


async def test_a_request_that_waits_for_open_handlers_leaves_the_capacity_to_them() -> None:
    s, go, logins = Story(server=Limits(running=1, waiting=0)), asyncio.Event(), list[str]()

    async def opened(peer: Peer) -> None:
        await go.wait()
        logins.append(await peer.request("login"))

    s.server.on("login", lambda: "in")
    s.server.on("work", lambda: list(logins))
    s.client.on("open", opened)
    async with asyncio.timeout(0.1):
        connecting = start(s.client.connect())
        await s.settled()
        await s.cut()
        work = start(s.client.request("work", timeout=None))
        await settled()
        s.line.down = False
        await until(lambda: not s.client.peer.detached)
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
    await settled()
    d.rebind()  # the server has lost the session
    d.feed(welcome(**tight))
    second = start(d.peer.request("second", timeout=None))
    await settled()
    for task, name in ((first, "first"), (second, "second")):
        [asked] = [message for message in d.take() if "a" in message]
        assert asked["a"] == [name]
        d.feed({"i": asked["i"], "d": name})
        assert await task == name
        await settled()


@pytest.mark.parametrize("ends", ["the greeting arrives", "the connection drops"])
async def test_a_call_with_a_key_does_not_overtake_those_that_have_just_stopped_waiting_for_the_greeting(
    ends: str,
) -> None:
    """It was sent at once, because the connection was ready before those callers ran again."""
    d = redialing(extensions=True)
    asking = [start(d.peer.request("asks", n, key=f"k{n}", timeout=None)) for n in range(3)]
    await settled()
    assert events(d) == []
    asking += [start(d.peer.request("asks", n, key=f"k{n}", timeout=None)) for n in (3, 4)]  # they run in the same turn
    asking.append(start(d.peer.emit("without a key")))
    if ends == "the connection drops":
        d.transport.lose()
        await settled()
        d.rebind()
    asked = [message["a"] for message in await d.fed(welcome("context")) if "a" in message]
    assert [a for a in asked if a[0] == "asks"] == [["asks", n] for n in range(5)]
    assert ["without a key"] in asked
    for each in asking:
        each.cancel()
    await settled()


async def test_what_outlives_the_session_does_not_wait_for_room_in_it() -> None:
    async with story(client=Limits(replay_bytes=SMALL)) as s:
        s.server.on("talk", talk)
        channel = await s.client.open_channel("talk")
        await s.settled()
        await s.cut()
        channel.emit_nowait("fills", "x" * SMALL)
        emits, on_channel = start(s.client.emit("note")), start(channel.emit("note"))
        await settled()
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
    await settled()
    d.expect({"a": ["note", "row"]})


async def test_a_caller_that_waits_for_room_learns_why_its_channel_has_ended() -> None:
    d = Driven(dialer=True)
    channel = await requested(d)
    d.transport.pause()
    waits = start(channel.emit("note"))
    await settled()
    await d.fed({"h": channel.id, "x": "enough"})
    d.transport.resume()
    with pytest.raises(ChannelClosed, match="enough"):
        await waits
    d.expect()

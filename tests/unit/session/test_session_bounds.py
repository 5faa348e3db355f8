"""What sessions keep for another connection: each session is bounded, and all those without a connection together."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import living_objects, timers_due, turns_until
from leftovers import nothing_left as nothing_left
from leftovers import only_objects_of_the_test as only_objects_of_the_test
from session_story import SMALL, SOON, Dialed, Story, Visitor, dialing, refuse, story, talk
from stream_driver import control
from tenacity import wait_fixed

from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    Client,
    CloseInfo,
    ConnectionLost,
    Context,
    Handshake,
    Limits,
    Peer,
    Reconnect,
    Server,
    SessionLost,
    StreamOverflow,
)
from wsrpc.testing import Line, ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- one session


@pytest.mark.parametrize("refused", [False, True], ids=["no connection", "the transport refuses"])
async def test_senders_wait_when_as_much_is_kept_as_may_be(refused: bool) -> None:
    """Also one that leaves the event loop no turn while there is room, and before the transport tells of its end."""
    async with story(server=Limits(replay_bytes=SMALL)) as s:
        peer, received, sent = s.peer, list[int](), 0
        s.client.on("note", lambda number, filling: received.append(number))

        async def send_all() -> None:
            nonlocal sent
            for number in range(500):
                await peer.emit("note", number, "x" * 1000)
                sent += 1

        if refused:
            s.line.down = True
            refuse(s.ends[1])
        else:
            await s.cut()
        sending = asyncio.create_task(send_all())
        for _ in range(2):
            await turns(20)
            assert 100 < sent < 140 and peer.stats().kept_bytes < SMALL + 2000
            if not peer.detached:
                await s.cut()
        await s.repair()
        await sending
        await turns_until(lambda: received == [*range(500)])


async def test_what_cannot_be_kept_ends_a_session_with_its_connection_and_not_before() -> None:
    async with story(server=Limits(replay_bytes=SMALL, hard_cap_bytes=SMALL, stall_timeout=0.1)) as s:
        peer, received = s.peer, list[int]()
        s.client.on("n", lambda filling: received.append(len(filling)))
        s.ends[0].hold()  # the acknowledgements do not come
        for _ in range(40):
            peer.emit_nowait("n", "x" * 10_000)
            await turns(3)
        assert peer.stats().kept_bytes == 0, "nothing is kept any more"
        s.ends[0].release()
        await timers_due(0.2)  # twice `Limits.stall_timeout`
        await peer.emit("n", "")
        await turns_until(lambda: received[-1:] == [0])
        assert peer.connected and s.closed == [] and len(received) == 41
        s.line.cut()
        await turns_until(lambda: s.back)
        assert not s.back[0].resumed


@pytest.mark.parametrize(("side", "how"), [("server", "cancelled"), ("client", "timed out")])
async def test_requests_that_no_longer_wait_make_room(side: str, how: str) -> None:
    """Senders waited on, as if the requests still took the room."""
    limits = Limits(replay_bytes=SMALL, request_timeout=0.1 if how == "timed out" else None)
    async with story(server=limits, client=limits) as s:
        receiver, received = (s.client, s.peer) if side == "client" else (s.peer, s.client)
        received.on("talk", talk)
        channel = await receiver.open_channel("talk")
        await s.cut()
        asked = [start(channel.request("never", "x" * 40_000)) for _ in range(4)]
        await turns(10)
        emitting = start(channel.emit("word"))
        await turns(10)
        assert not emitting.done()
        if how == "cancelled":
            for request in asked:
                request.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await emitting
        channel.close()
        await s.repair()


async def test_a_client_that_acknowledges_nothing_is_dropped_and_may_resume() -> None:
    page = Visitor(Server(limits=STALLS))
    fill(await page.begin(), page.line)
    await page.resume()
    assert page.line.pop_sent()[0]["wsrpc"]["t"] == "resumed"
    page.line.feed({"a": ["part of what it sends before it acknowledges"]})  # a page acknowledged too late for 10 s
    page.clock.advance(STALLS.stall_timeout)
    await turns(20)
    assert not page.line.closed
    page.clock.advance(STALLS.stall_timeout)
    await turns_until(lambda: page.line.closed)
    assert page.line.closed == DROPPED
    await page.resume(gen=2)
    assert page.line.pop_sent()[0]["wsrpc"]["t"] == "resumed"
    await page.server.close()


@pytest.mark.parametrize("code", [4001, 4411], ids=["closed", "expired"])
async def test_a_connection_that_this_side_closes_is_not_dropped_meanwhile(code: int) -> None:
    """Acknowledgements are ignored then. What was sent before the Close frame got lost on a slow path."""
    page, may_close = Visitor(Server(limits=STALLS)), asyncio.Event()

    @page.server.on_handshake
    def expire(handshake: Handshake) -> None:
        handshake.expires = time.time() + STALLS.stall_timeout / 2

    peer = await page.begin()
    close = page.line.close

    async def close_late(code: int | None = 1000, reason: str = "") -> None:
        await may_close.wait()
        await close(code, reason)

    vars(page.line)["close"] = close_late
    send_much(peer)
    if code == 4001:
        start(peer.close(code, ""))
        await turns()
    page.clock.advance(STALLS.stall_timeout / 2)
    page.clock.advance(STALLS.stall_timeout)
    await turns(20)
    assert not page.line.closed
    may_close.set()
    await turns_until(lambda: page.line.closed)
    assert page.line.closed is not None and page.line.closed.code == code
    await page.server.close()


@pytest.mark.parametrize(("seconds", "goes_on"), [(5.9, True), (6.1, False)])
async def test_a_session_whose_first_message_never_arrives_ends(seconds: float, goes_on: bool) -> None:
    """For each of six connections, this many seconds pass. A later message would wait for the first one."""
    why = "a message of 31 bytes was lost 6 times in a row"
    page = Visitor()
    peer = await page.begin()
    asked = start(peer.request("poison", timeout=None))
    await turns_until(lambda: page.line.pop_sent())
    for gen in range(1, 7):
        page.line.lose()
        page.clock.advance(seconds)
        await page.resume(gen=gen)
        answers = page.line.pop_sent()
        assert bool(answers) is (goes_on or gen < 6), "what says that the session goes on comes after all checks"
        page.session |= answers[0]["wsrpc"] if answers else {}
    assert asked.done() is not goes_on
    if not goes_on:
        await turns_until(lambda: page.line.closed)
        assert page.line.closed == CloseInfo(1009, why, was_clean=True)
    await page.server.close()
    with pytest.raises(ConnectionLost) if goes_on else pytest.raises(SessionLost, match=why):
        await asked


async def test_a_session_whose_client_comes_back_is_not_counted_as_one_without_a_connection() -> None:
    """It was counted while it moved from one connection to the other, and ended because it held too much."""
    page = Visitor(Server(detached_bytes=20_000))
    peer = await page.begin()
    await peer.emit("large", "x" * 30_000)
    await page.resume()
    answer, event = page.line.pop_sent()
    assert answer["wsrpc"]["t"] == "resumed" and event["a"][0] == "large"
    await turns_until(lambda: page.lines[0].closed)
    assert not page.line.closed and page.server.peers == (peer,)
    await page.server.close()


async def test_a_server_that_acknowledges_nothing_is_dropped_and_may_resume() -> None:
    """Before it answers, its connection must end without a Close frame, which would end a session that had resumed."""
    async with dialing(limits=STALLS) as (client, lines):
        assert lines[0].survives
        fill(client.peer, lines[0])
        await turns_until(lambda: len(lines) == 2 and lines[1].pop_sent())
        assert lines[1].survives
        lines[1].feed(control("resumed", rx=0, bytes=0, token="t", limits={}))
        await turns_until(lambda: len(lines) == 3)
        assert lines[1].closed == DROPPED
        [again] = lines[2].pop_sent()
        assert (again["wsrpc"]["t"], again["wsrpc"]["sid"]) == ("resume", "session")


STALLS = Limits(replay_bytes=SMALL, stall_timeout=0.3)
DROPPED = CloseInfo(1006, "aborted")


def send_much(peer: Peer) -> None:
    """Send more than may be kept."""
    for _ in range(20):
        peer.emit_nowait("n", "x" * 10_000)


def fill(peer: Peer, line: ScriptedTransport) -> None:
    """Send more than may be kept, of which nothing arrives, and cut the line."""
    send_much(peer)
    line.lose()


async def test_a_client_that_sends_much_before_the_welcome_may_resume() -> None:
    """Its messages are on their way, and what is kept is bounded as soon as the server could acknowledge it."""
    async with dialing(limits=Limits(replay_bytes=SMALL), early=send_much) as (client, lines):
        waits = start(client.emit("last"))
        await turns(20)
        assert not waits.done()
        size = len('{"a":["n",""]}') + 10_000
        lines[0].feed(control("ack", n=20, bytes=20 * size))
        await waits
        lines[0].lose()
        await turns_until(lambda: len(lines) == 2 and lines[1].pop_sent())
        assert lines[1].survives
        lines[1].feed(control("resumed", rx=20, bytes=20 * size, token="t", limits={}))
        await turns(20)
        assert lines[1].pop_sent() == [{"a": ["last"]}]


@pytest.mark.parametrize(("size", "number"), [(200_000, 20), (1, 512 * 24)], ids=["bytes", "messages"])
async def test_what_a_client_keeps_before_the_welcome_is_bounded(size: int, number: int) -> None:
    def early(peer: Peer) -> None:
        for _ in range(number):
            peer.emit_nowait("n", "x" * size)

    async with dialing(limits=Limits(replay_bytes=SMALL, hard_cap_bytes=3_000_000), early=early) as made:
        client, lines = made
        assert client.peer.stats().kept_bytes == 0
        lines[0].lose()
        await turns_until(lambda: len(lines) == 2)
        assert lines[1].pop_sent()[0]["wsrpc"]["t"] == "hello"


# ---------------------------------------------------------------- all sessions without a connection


async def test_they_are_bounded_together_and_the_oldest_and_then_the_largest_end() -> None:
    server = Server(detached_bytes=200_000)
    line = Line(server)
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(Client("ws://server/", dial=line.dial, reconnect=SOON))
        await turns(20)
        peers, line.down = server.peers, True
        line.cut()
        await turns_until(lambda: not any(peer.connected for peer in peers))
        left = server.peers
        assert 8 <= len(left) <= 12, "each counts 16 KiB"
        assert left == peers[-len(left) :], "of sessions that take as much the oldest end"
        await left[-1].emit("n", "x" * 30_000)
        assert server.peers == left[:-1], "then the largest"
    await server.close()


async def test_requests_that_no_longer_wait_count_no_more() -> None:
    """The largest session is the one that holds most, not the one that once did."""
    async with two_detached(Server(detached_bytes=1024 * 1024)) as (server, once, now):
        asked = [start(once.request("never", "x" * 250_000)) for _ in range(3)]
        await turns(10)
        for request in asked:
            request.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        for _ in range(10):
            await now.emit("n", "x" * 30_000)
        assert server.peers == (once, now)


async def test_broadcasts_that_wait_count() -> None:
    """They did not: a policy for slow readers let each session without a connection keep more than all together may."""
    made = Server(detached_bytes=1024 * 1024, slow="drop_oldest", limits=Limits(replay_bytes=SMALL))
    async with two_detached(made) as (server, busy, quiet):
        for _ in range(9):
            report = await server.room("news").emit("n", "x" * 100_000)
            assert (report.sent, report.skipped) == (1, 0) and busy.detached
        for _ in range(2):
            await server.room("news").emit("n", "x" * 100_000)
        assert server.peers == (quiet,), "the policy still has room for it, but all together not"


@asynccontextmanager
async def two_detached(server: Server) -> AsyncGenerator[tuple[Server, Peer, Peer]]:
    """A server, and two peers of it without a connection, of which the first is in a room."""
    async with story(server=server) as s, Client("ws://server/", dial=s.line.dial, reconnect=SOON):
        await s.settled()
        one, other = server.peers
        server.room("news").add(one)
        await s.cut()
        await turns_until(lambda: other.detached)
        yield server, one, other
        s.line.down = False


def name(handshake: Handshake) -> None:
    handshake.principal = handshake.query["user"]


NEVER = Reconnect(wait=wait_fixed(3600))


async def test_what_handlers_have_done_with_counts_no_more() -> None:
    """A client whose handlers have ended costs neither itself nor another client a session."""
    server, go = Server(detached_bytes=1024 * 1024), asyncio.Event()
    line = Line(server)
    server.on_handshake(name)

    @server.on("work")
    async def work(data: str) -> None:
        await go.wait()

    async with asyncio.timeout(20), AsyncExitStack() as stack:

        async def leave(user: str, size: int) -> Peer:
            """Lose a connection while a handler works on ``size`` bytes."""
            client = Client(f"ws://server/?user={user}", dial=line.dial, reconnect=NEVER)
            await stack.enter_async_context(client)
            peer = server.peers[-1]
            await client.emit("work", "x" * size)
            await turns_until(lambda: peer.active == 1)
            line.connections[-1][0].abort()
            await turns_until(lambda: not peer.connected)
            return peer

        ada = await leave("ada", 500_000)
        go.set()
        await turns_until(lambda: not ada.active)
        go.clear()
        bob = [await leave("bob", 300_000), await leave("bob", 310_000)]
        assert server.peers == (ada, *bob), "they take less than the limit"
        last = await leave("bob", 400_000)
        assert server.peers == (ada, *bob) and not last.detached, "the largest of the client that takes most"
        go.set()
    await server.close()


# ---------------------------------------------------------------- what ended sessions still hold


@pytest.mark.parametrize(
    ("kind", "running", "bound", "lost"),
    [
        pytest.param("event", 100, 1_200_000, ["cancelled"] * 4, id="handlers that run"),
        pytest.param("event", 1, 1_200_000, ["cancelled"], id="events that wait"),
        pytest.param("word", 100, 1_200_000, ["too late"], id="a channel that nobody reads"),
        pytest.param("news", 100, 26_000_000, ["overflow"], id="a slow reader, what is decoded counts 32 times"),
    ],
)
async def test_what_ended_sessions_still_hold_counts(kind: str, running: int, bound: int, lost: list[str]) -> None:
    """It did not: a client that ended its sessions and came again could fill the memory."""
    server = Server(detached_bytes=bound, limits=Limits(running=running))
    line, go, ends = Line(server), asyncio.Event(), defaultdict[str, list[str]](list)
    readers = list[asyncio.Task[None]]()
    server.on_handshake(name)

    @server.on("open")
    def opened(peer: Peer) -> None:
        if kind == "news":
            readers.append(start(read(peer, ends[peer.info.query["visit"]])))

    async def read(peer: Peer, end: list[str]) -> None:
        try:
            async for _ in peer.events("news"):
                await go.wait()
                end.append("done")
        except StreamOverflow as exc:
            end.append("overflow" if "Server(detached_bytes=)" in str(exc) else str(exc))
        except ConnectionLost:
            pass

    @server.on("event")
    async def event(data: str, ctx: Context) -> None:
        end = ends[ctx.peer.info.query["visit"]]
        try:
            await go.wait()
            end.append("done")
        except asyncio.CancelledError:
            assert "Server(detached_bytes=)" in ctx.cancel_reason
            end.append("cancelled")
            raise

    @server.on("talk")
    async def listen(channel: AnonymousChannel, peer: Peer) -> None:
        end = ends[peer.info.query["visit"]]
        try:
            await go.wait()
            end.extend(["done"] * 4)
        except asyncio.CancelledError:
            with pytest.raises(ChannelClosed):
                channel.events("word")
            end.append("too late")
            raise

    async def visit(number: int) -> None:
        """Begin a session that holds about 330 kB, and end it."""
        async with Client(f"ws://server/?user=bob&visit={number}", dial=line.dial) as client:
            if kind == "news":
                await client.emit("news", "")  # the reader has it in hand
            to = await client.open_channel("talk") if kind == "word" else client
            for _ in range(4):
                await to.emit(kind, "x" * 75_000)
            await turns(20)
        await turns_until(lambda: len(server.peers) == 1)

    other = Client("ws://server/?user=ada&visit=ada", dial=line.dial, reconnect=NEVER)
    async with asyncio.timeout(20), other:
        await turns(20)
        line.cut()
        await turns_until(lambda: other.peer.detached)
        for number in range(3):
            await visit(number)
        assert not any(ends.values()), "they take less than the limit"
        await visit(3)
        if kind == "news":
            go.set()
        await turns_until(lambda: ends["0"] == ["done"] * (kind == "news") + lost)
        go.set()
        await turns_until(lambda: all(len(ends[visit]) >= 4 for visit in "123"))
        assert {*ends["1"], *ends["2"], *ends["3"]} == {"done"}, "the other three take less again"
        go.clear()
        for number in range(4, 7):
            await visit(number)
        await turns(20)
        assert not any(ends[visit] for visit in "456"), "what was handled and read counts no more"
        assert len(server.peers) == 1, "another client loses nothing"
        go.set()
    await server.close()
    await asyncio.gather(*readers)


async def test_counting_a_message_that_waits_does_not_look_at_each_handler() -> None:
    """Each one cost a sum over the handlers of its session."""
    server, looks = Server(), list[str]()
    server.on("wait", lambda data: asyncio.Event().wait())
    async with story(server=server) as s:
        calls = [start(s.client.request("wait", "x" * 100)) for _ in range(200)]
        await turns_until(lambda: s.peer.active == 200)
        peer = s.peer
        await s.cut()
        peer.emit_nowait("first")
        sys.setprofile(lambda frame, event, argument: looks.append(event) if event == "call" else None)
        try:
            for _ in range(10):
                peer.emit_nowait("next")
        finally:
            sys.setprofile(None)
        assert len(looks) < 10 * 100
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await s.repair()
        await turns_until(lambda: peer.active == 0)


async def test_a_connection_whose_client_does_not_name_its_session_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It began a new session, whose first message ended the client's own one: "the server did not resume it"."""
    page = Visitor()
    peer = await page.begin()
    page.line.lose()
    assert peer.detached
    monkeypatch.setattr("wsrpc._core.session.incoming_resume.FIRST_MESSAGE", 0.01)
    with pytest.raises(ConnectionLost, match="the client has not named its session"):
        await page.connect(**{"Wsrpc-Resume": "1"})
    monkeypatch.undo()
    assert page.line.pop_sent() == [] and page.line.closed
    assert page.server.peers == (peer,)
    assert await page.resume() is peer and not peer.detached
    await page.server.close()


@pytest.mark.asyncio_loop
async def test_a_client_that_names_its_session_as_its_time_ends_has_named_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message is there, and so is the end of its time: the event loop was busy with something else."""
    page, feed, loop = Visitor(), Dialed.feed, asyncio.get_running_loop()
    peer, now = await page.begin(), loop.time
    page.line.lose()

    def late(line: Dialed, *messages: Any) -> None:
        monkeypatch.setattr(loop, "time", lambda: now() + 60.0)
        feed(line, *messages)

    monkeypatch.setattr(Dialed, "feed", late)
    assert await page.resume() is peer and not peer.detached
    monkeypatch.undo()
    await page.server.close()


async def test_what_a_connection_refuses_right_after_the_resume_waits_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page, taken = Visitor(), iter(["the answer to the resume"])

    def refuse_more(line: Dialed) -> None:
        if next(taken, None) is None:
            raise ConnectionLost(1006, "broken", "not_sent")

    peer = await page.begin()
    page.line.lose()
    peer.emit_nowait("note", 1)
    monkeypatch.setattr(Dialed, "_check_open", refuse_more)
    assert await page.resume() is peer
    monkeypatch.undo()
    page.line.lose()
    assert peer.detached
    await page.resume(gen=2)
    assert page.line.pop_sent()[1:] == [{"a": ["note", 1]}]
    await page.server.close()


@pytest.mark.parametrize("replay_bytes", [0, 256 * 1024], ids=["new sessions", "one session"])
@pytest.mark.usefixtures("only_objects_of_the_test")
async def test_nothing_grows_from_cut_to_cut(replay_bytes: int) -> None:
    limits = Limits(replay_bytes=replay_bytes)
    async with story(server=limits, client=limits) as s:

        async def items(count: int) -> AsyncIterator[int]:
            for number in range(count):
                yield number
                await asyncio.sleep(0)

        async def take(given: AsyncIterator[int]) -> int:
            return sum([each async for each in given])

        async def call(peer: Client | Peer, how: str) -> object:
            if how == "stream":
                async with peer.stream("items", 5) as stream:
                    return [each async for each in stream]
            if how == "talk":
                async with await peer.open_channel("talk") as channel:
                    await channel.emit("note")
                    return None
            return await peer.request("take", send=items(5))

        async def cut(number: int) -> None:
            calling = [start(call(peer, how)) for peer in (s.client, s.peer) for how in ("stream", "talk", "take")]
            await turns(number % 12)
            s.line.cut()
            s.line.connections.clear()
            await turns_until(lambda: [peer.connected for peer in s.server.peers] == [True] and len(s.back) == number)
            await asyncio.gather(*calling, return_exceptions=True)

        async def cut_often(count: int) -> Counter[str]:
            for number in range(1, count + 1):
                await cut(number)
            assert [info.resumed for info in s.back] == [bool(replay_bytes)] * count
            s.back.clear()
            s.closed.clear()
            s.notified.clear()
            await turns_until(lambda: not (s.client.peer.pending or s.peer.active or s.peer.anonymous_channels))
            await turns(20)
            return await living_objects()

        for side in (s.client, s.server):
            for handler in (items, take, talk):
                side.on(handler.__name__, handler)
        before = await cut_often(60)
        grown = await cut_often(120) - before
        assert sum(grown.values()) < 20, grown


@pytest.mark.parametrize("half_open", [False, True])
async def test_the_first_call_survives_a_drop_in_any_turn_or_is_told(half_open: bool) -> None:
    """Once the welcome has arrived, the session resumes. Before, nobody can: a call that was sent ends as unknown."""
    ends, ran = list[tuple[bool, str, int]](), Counter[int]()

    async def run(number: int) -> str:
        ran[number] += 1
        await turns(5)
        return "answered"

    for moment in range(20):
        s = Story()
        s.server.on("run", run)
        connecting = asyncio.create_task(s.client.connect())
        call = asyncio.create_task(s.client.request("run", moment, timeout=None))
        while not s.line.connections:
            await turns(1)
        await turns(moment)
        s.line.cut(half_open=half_open)
        await asyncio.wait([call, connecting])
        assert await s.client.request("run", -1, timeout=None) == "answered", "the client goes on"
        await s.settled()
        lost: Any = call.exception()
        ends.append((s.back[0].resumed, lost.outcome if lost else call.result(), ran[moment]))
        await s.client.close()
        await s.server.close()
    assert ends == sorted(ends) and {*ends} == {(False, "unknown", 0), (False, "unknown", 1), (True, "answered", 1)}

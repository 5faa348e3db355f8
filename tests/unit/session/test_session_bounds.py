"""What sessions keep for another connection: each session is bounded, and all those without a connection together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import FrameType
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from leftovers import timers_due, turns_until
from peers_inside import out_of
from session_story import SMALL, SOON, Story, refuse, story
from stream_driver import control, hello, welcome
from tenacity import wait_fixed

import wsrpc._core.session.client_session
import wsrpc._core.session.incoming_resume
import wsrpc._core.session.replay
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
    QueueFull,
    Reconnect,
    Server,
    SessionLost,
    StreamOverflow,
)
from wsrpc._server.server import accept_of
from wsrpc.testing import Clock, Line, ScriptedTransport

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


async def test_what_cannot_wait_is_refused_and_a_broadcast_ends_the_session() -> None:
    async with story(server=Limits(replay_bytes=SMALL, hard_cap_bytes=200_000)) as s:
        peer = s.peer
        await s.cut()

        def emit_on() -> None:
            for _ in range(1000):
                peer.emit_nowait("n", "x" * 1000)

        with pytest.raises(QueueFull, match=r"^\d{6} bytes are unsent"):
            emit_on()
        assert SMALL < peer.stats().kept_bytes <= 200_000 and s.server.peers == (peer,)
        assert (await s.server.emit("n", "x" * 1000)).sent == 0
        await turns_until(lambda: not s.server.peers)
        await s.repair()
        assert not s.back[0].resumed


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


async def test_the_users_messages_and_those_of_the_session_take_no_room_from_each_other() -> None:
    """An answer for which there was no room would end the session."""
    async with story(client=Limits(offline=20, replay_bytes=SMALL, hard_cap_bytes=200_000)) as s:
        go, received = asyncio.Event(), list[int]()

        async def source() -> AsyncIterator[int]:
            await go.wait()
            for number in range(500):
                yield number

        async def total(items: AsyncIterator[int]) -> int:
            return sum([number async for number in items])

        async def slow() -> str:
            await go.wait()
            return "x" * 1000

        s.client.on("slow", slow)
        s.server.on("total", total)
        s.server.on("note", lambda number, filling: received.append(number))
        uploading = asyncio.create_task(s.client.request("total", send=source()))
        asked = asyncio.create_task(s.peer.request("slow"))
        await turns_until(lambda: (s.peer.active, s.client.peer.anonymous_channels, s.client.peer.active) == (1, 1, 1))
        await s.cut()
        for number in range(20):
            s.client.emit_nowait("note", number, "x" * 16_000)
        with pytest.raises(QueueFull, match=r"not connected, and 20 messages \(\d+ bytes\) wait already"):
            await s.client.emit("note", 20, "")
        assert not s.client.peer.stats().slow
        go.set()
        await turns_until(lambda: s.client.peer.active == 0)
        await s.repair()
        assert s.back[0].resumed and len(await asked) == 1000
        assert await uploading == sum(range(500)) and received == [*range(20)]


async def test_a_full_queue_says_what_it_waits_for() -> None:
    s = Story(client=Limits(offline=2))
    go = asyncio.Event()
    s.client.on("connect", go.wait)
    async with asyncio.timeout(20):
        connecting = asyncio.create_task(s.client.connect())
        await turns_until(lambda: s.client.state == "opening")
        for number in range(2):
            s.client.emit_nowait("note", number)
        with pytest.raises(QueueFull, match=r"^`open` handlers are running, and 2 messages"):
            s.client.emit_nowait("note", 2)
        go.set()
        await connecting
        await s.client.close()
        await s.server.close()


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
@pytest.mark.parametrize("side", ["server", "client"])
async def test_requests_that_no_longer_wait_make_room(side: str, how: str) -> None:
    """Senders waited on, as if the requests still took the room."""
    limits = Limits(replay_bytes=SMALL, request_timeout=0.3 if how == "timed out" else None)
    async with story(server=limits, client=limits) as s:
        receiver, received = (s.client, s.peer) if side == "client" else (s.peer, s.client)
        received.on("talk", talk)
        channel = await receiver.open_channel("talk")
        await s.cut()
        asked = [asyncio.create_task(channel.request("never", "x" * 40_000)) for _ in range(4)]
        await turns(10)
        emitting = asyncio.create_task(channel.emit("word"))
        await turns(10)
        assert not emitting.done()
        if how == "cancelled":
            for request in asked:
                request.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await emitting
        channel.close()
        await s.repair()


async def talk(channel: AnonymousChannel) -> None:
    await channel.wait_closed()


async def test_a_client_that_acknowledges_nothing_is_dropped_and_may_resume() -> None:
    server, clock, lines = Server(limits=STALLS), Clock(), list[ScriptedTransport]()

    async def connect(first: dict[str, Any], **headers: str) -> dict[str, Any]:
        lines.append(line := ScriptedTransport())
        accepting = asyncio.create_task(accept_of(server)(line, Handshake("/", headers, limits=STALLS), clock))
        await turns(5)
        line.feed(first)
        await accepting
        answer: dict[str, Any] = line.pop_sent()[0]["wsrpc"]
        return answer

    given = await connect(hello("resume"))
    lines[0].feed(control("ack", n=0, bytes=0))
    fill(server.peers[0], lines[0])
    asked = hello("resume", t="resume")
    asked["wsrpc"] |= {"sid": given["sid"], "token": given["token"], "gen": 1, "rx": 0, "bytes": 0}
    assert (await connect(asked, **{"Wsrpc-Resume": "1"}))["t"] == "resumed"
    lines[1].feed({"a": ["part of what it sends before it acknowledges"]})  # a page acknowledged too late for 10 s
    clock.advance(STALLS.stall_timeout)
    await turns(20)
    assert not lines[1].closed
    clock.advance(STALLS.stall_timeout)
    await turns_until(lambda: lines[1].closed)
    assert lines[1].closed == DROPPED
    asked["wsrpc"] |= {"gen": 2}
    assert (await connect(asked, **{"Wsrpc-Resume": "1"}))["t"] == "resumed"
    await server.close()


@pytest.mark.parametrize(("seconds", "goes_on"), [(5.9, True), (6.1, False)])
async def test_a_session_whose_first_message_never_arrives_ends_so_that_others_can(
    seconds: float, goes_on: bool
) -> None:
    """For each of six connections, this many seconds pass. A later message would wait for the first one."""
    why = "a message of 31 bytes was lost 6 times in a row"
    server, clock, lines = Server(), Clock(), list[ScriptedTransport]()

    async def connect(first: dict[str, Any], **headers: str) -> Peer:
        lines.append(line := ScriptedTransport())
        accepting = asyncio.create_task(accept_of(server)(line, Handshake("/", headers), clock))
        await turns(5)
        line.feed(first)
        peer = await accepting
        assert isinstance(peer, Peer)
        return peer

    peer = await connect(hello("resume"))
    given = lines[0].pop_sent()[0]["wsrpc"]
    asked = start(peer.request("poison", timeout=None))
    await turns_until(lambda: lines[-1].pop_sent())
    for gen in range(1, 7):
        lines[-1].lose()
        clock.advance(seconds)
        resume = hello("resume", t="resume")
        resume["wsrpc"] |= {"sid": given["sid"], "token": given["token"], "gen": gen, "rx": 0, "bytes": 0}
        await connect(resume, **{"Wsrpc-Resume": "1"})
        answers = lines[-1].pop_sent()
        assert bool(answers) is (goes_on or gen < 6), "what says that the session goes on comes after all checks"
        given |= answers[0]["wsrpc"] if answers else {}
    assert asked.done() is not goes_on
    if not goes_on:
        await turns_until(lambda: lines[-1].closed)
        assert lines[-1].closed == CloseInfo(1009, why, was_clean=True)
    await server.close()
    with pytest.raises(ConnectionLost) if goes_on else pytest.raises(SessionLost, match=why):
        await asked


async def test_a_session_whose_client_comes_back_is_not_counted_as_one_without_a_connection() -> None:
    """It was counted while it moved from one connection to the other, and ended because it held too much."""
    server, lines = Server(detached_bytes=20_000), list[ScriptedTransport]()

    async def connect(first: dict[str, Any], **headers: str) -> None:
        lines.append(line := ScriptedTransport())
        accepting = asyncio.create_task(accept_of(server)(line, Handshake("/", headers), None))
        await turns(5)
        line.feed(first)
        await accepting

    await connect(hello("resume"))
    given = lines[0].pop_sent()[0]["wsrpc"]
    await server.peers[0].emit("large", "x" * 30_000)
    asked = hello("resume", t="resume")
    asked["wsrpc"] |= {"sid": given["sid"], "token": given["token"], "gen": 1, "rx": 0, "bytes": 0}
    await connect(asked, **{"Wsrpc-Resume": "1"})
    answer, event = lines[1].pop_sent()
    assert answer["wsrpc"]["t"] == "resumed" and event["a"][0] == "large"
    await turns_until(lambda: lines[0].closed)
    assert not lines[1].closed and len(server.peers) == 1
    await server.close()


async def test_a_server_that_acknowledges_nothing_is_dropped_and_may_resume() -> None:
    lines = list[ScriptedTransport]()

    async def dial(url: str, **options: Any) -> ScriptedTransport:
        lines.append(ScriptedTransport())
        return lines[-1]

    client = Client("ws://server/", dial=dial, limits=STALLS, reconnect=SOON)
    async with client:
        given = welcome("resume")
        given["wsrpc"] |= {"sid": "s", "token": "t", "ttl": 60.0}
        lines[0].feed(given)
        fill(client.peer, lines[0])
        await turns_until(lambda: len(lines) == 2 and lines[1].pop_sent())
        lines[1].feed(control("resumed", rx=0, bytes=0, token="t", limits={}))
        await turns_until(lambda: len(lines) == 3)
        assert lines[1].closed == DROPPED
        [again] = lines[2].pop_sent()
        assert (again["wsrpc"]["t"], again["wsrpc"]["sid"]) == ("resume", "s")


async def test_a_connection_on_which_the_answer_to_a_resume_is_late_may_die_without_ending_the_session() -> None:
    """Its heartbeat sent a Close frame, and the server, which had resumed on it, ended the session."""
    lines = list[Surviving]()

    async def dial(url: str, **options: Any) -> Surviving:
        lines.append(Surviving())
        return lines[-1]

    async with Client("ws://server/", dial=dial, reconnect=SOON):
        given = welcome("resume")
        given["wsrpc"] |= {"sid": "s", "token": "t", "ttl": 60.0}
        lines[0].feed(given)
        assert lines[0].survives
        lines[0].lose()
        await turns_until(lambda: len(lines) == 2 and lines[1].pop_sent())
        assert lines[1].survives, "the connection must end without a Close frame, although there is no answer yet"


class Surviving(ScriptedTransport):
    """Records whether it was told to end without a Close frame if it is dead."""

    survives = False

    def session_survives(self) -> None:
        self.survives = True


STALLS = Limits(replay_bytes=SMALL, stall_timeout=0.3)
DROPPED = CloseInfo(1006, "aborted")


def fill(peer: Peer, line: ScriptedTransport) -> None:
    """Send more than may be kept, of which nothing arrives, and cut the line."""
    for _ in range(20):
        peer.emit_nowait("n", "x" * 10_000)
    line.lose()


# ---------------------------------------------------------------- all sessions without a connection


async def test_they_are_bounded_together_and_the_oldest_and_then_the_largest_end() -> None:
    server = Server(detached_bytes=200_000)
    line = Line(server)
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(Client("ws://server/", dial=line.dial, reconnect=SOON))
        await turns(20)
        peers = server.peers
        line.down = True
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
    server = Server(detached_bytes=1024 * 1024)
    async with story(server=server) as s, Client("ws://server/", dial=s.line.dial, reconnect=SOON):
        await s.settled()
        once, now = server.peers
        await s.cut()
        await turns_until(lambda: now.detached)
        asked = [asyncio.create_task(once.request("never", "x" * 250_000)) for _ in range(3)]
        await turns(10)
        for request in asked:
            request.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        for _ in range(10):
            await now.emit("n", "x" * 30_000)
        assert server.peers == (once, now)
        s.line.down = False


async def test_broadcasts_that_wait_count() -> None:
    """They did not: a policy for slow readers let each session without a connection keep more than all together may."""
    server = Server(detached_bytes=1024 * 1024, slow="drop_oldest", limits=Limits(replay_bytes=SMALL))
    async with story(server=server) as s, Client("ws://server/", dial=s.line.dial, reconnect=SOON):
        await s.settled()
        busy, quiet = server.peers
        server.room("news").add(busy)
        await s.cut()
        await turns_until(lambda: quiet.detached)
        for _ in range(9):
            report = await server.room("news").emit("n", "x" * 100_000)
            assert (report.sent, report.skipped) == (1, 0) and busy.detached
        for _ in range(2):
            await server.room("news").emit("n", "x" * 100_000)
        assert server.peers == (quiet,), "the policy still has room for it, but all together not"
        s.line.down = False


async def test_what_handlers_have_done_with_counts_no_more() -> None:
    """A client whose handlers have ended costs neither itself nor another client a session."""
    server, go = Server(detached_bytes=1024 * 1024), asyncio.Event()
    line = Line(server)

    @server.on_handshake
    def name(handshake: Handshake) -> None:
        handshake.principal = handshake.query["user"]

    @server.on("work")
    async def work(data: str) -> None:
        await go.wait()

    async with asyncio.timeout(20), AsyncExitStack() as stack:

        async def leave(user: str, size: int) -> Peer:
            """Lose a connection while a handler works on ``size`` bytes."""
            never = Reconnect(wait=wait_fixed(3600))
            client = Client(f"ws://server/?user={user}", dial=line.dial, reconnect=never)
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
async def test_what_ended_sessions_still_hold_counts_and_the_oldest_lose_it(
    kind: str, running: int, bound: int, lost: list[str]
) -> None:
    """It did not: a client that ended its sessions and came again could fill the memory."""
    server = Server(detached_bytes=bound, limits=Limits(running=running))
    line, go, ends = Line(server), asyncio.Event(), dict[str, list[str]]()
    readers = list[asyncio.Task[None]]()

    @server.on_handshake
    def name(handshake: Handshake) -> None:
        handshake.principal = handshake.query["user"]

    @server.on("open")
    def opened(peer: Peer) -> None:
        visit = peer.info.query["visit"]
        ends[visit] = []
        if kind == "news":
            readers.append(asyncio.create_task(read(peer, ends[visit])))

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
        except asyncio.CancelledError:
            assert "Server(detached_bytes=)" in ctx.cancel_reason
            end.append("cancelled")
            raise
        end.append("done")

    @server.on("talk")
    async def listen(channel: AnonymousChannel, peer: Peer) -> None:
        end = ends[peer.info.query["visit"]]
        try:
            await go.wait()
        except asyncio.CancelledError:
            with pytest.raises(ChannelClosed):
                channel.events("word")
            end.append("too late")
            raise
        end.extend(["done"] * 4)

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

    async with (
        asyncio.timeout(20),
        Client("ws://server/?user=ada&visit=ada", dial=line.dial, reconnect=Reconnect(wait=wait_fixed(3600))) as ada,
    ):
        await turns(20)
        line.cut()
        await turns_until(lambda: ada.peer.detached)
        for number in range(3):
            await visit(number)
        assert not any(ends.values()), "they take less than the limit"
        await visit(3)
        if kind == "news":
            go.set()
        await turns_until(lambda: ends["0"] == ["done"] * (kind == "news") + lost)
        go.set()
        await turns_until(lambda: all(len(ends[visit]) >= 4 for visit in ("1", "2", "3")))
        assert {*ends["1"], *ends["2"], *ends["3"]} == {"done"}, "the other three take less again"
        go.clear()
        for number in range(4, 7):
            await visit(number)
        await turns(20)
        assert not any(ends[str(number)] for number in range(4, 7)), "what was handled and read counts no more"
        assert len(server.peers) == 1, "another client loses nothing"
        go.set()
    await server.close()
    await asyncio.gather(*readers)


async def test_counting_a_message_that_waits_does_not_look_at_each_handler() -> None:
    """Each one cost a sum over the handlers of its session."""
    server, looks = Server(), 0

    @server.on("wait")
    async def wait(data: str) -> None:
        await asyncio.Event().wait()

    async with story(server=server) as s:
        calls = [asyncio.create_task(s.client.request("wait", "x" * 100)) for _ in range(200)]
        await turns_until(lambda: s.peer.active == 200)
        peer = s.peer
        await s.cut()
        peer.emit_nowait("first")

        def look(frame: FrameType, event: str, argument: object) -> None:
            nonlocal looks
            looks += event == "call"

        sys.setprofile(look)
        try:
            for _ in range(10):
                peer.emit_nowait("next")
        finally:
            sys.setprofile(None)
        assert looks < 10 * 100
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await s.repair()
        await turns_until(lambda: peer.active == 0)


# ---------------------------------------------------------------- what waits


async def test_what_waits_is_sent_unless_it_is_taken_back_and_after_the_end_nothing_is_sent() -> None:
    received = list[int]()
    async with story() as s:
        s.server.on("note", received.append)
        await s.cut()
        session = out_of(s.client.peer).session
        session.send_or_wait(b'{"a":["note",1]}', True)
        asks = start(s.client.request("note", 2))
        await turns()
        asks.cancel()
        await s.repair()
        await s.client.request("note", 3)
    assert received == [1, 3]
    with pytest.raises(ConnectionLost) as caught:
        session.send_or_wait(b"{}", True)
    assert caught.value.outcome == "not_sent"


async def test_a_connection_whose_client_does_not_name_its_session_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It began a new session, whose first message ended the client's own one: "the server did not resume it"."""
    monkeypatch.setattr(wsrpc._core.session.incoming_resume, "FIRST_MESSAGE", 0.01)

    def say(transport: ScriptedTransport, **fields: Any) -> None:
        transport.feed({"ws-wrapper": False, "wsrpc": fields})

    opened: list[Peer] = []
    server = Server()
    server.on("open", opened.append)
    first, late, last = ScriptedTransport(), ScriptedTransport(), ScriptedTransport()
    peer = await server.accept(first)
    assert isinstance(peer, Peer)
    say(first, t="hello", v=1, features=["resume"], limits={})
    [welcome] = first.pop_sent()
    say(first, t="ack", n=0, bytes=0)
    first.lose()
    assert peer.detached
    asks = Handshake("/", {"Wsrpc-Resume": "1"})
    with pytest.raises(ConnectionLost, match="the client has not named its session"):
        await server.accept(late, asks)
    assert late.pop_sent() == [] and late.closed
    assert server.peers == (peer,) and opened == [peer]
    monkeypatch.undo()
    accepting = asyncio.create_task(server.accept(last, asks))
    await turns()
    named = {name: welcome["wsrpc"][name] for name in ("sid", "token")}
    say(last, t="resume", v=1, features=["resume"], limits={}, gen=1, rx=0, bytes=0, **named)
    assert await accepting is peer and not peer.detached
    await server.close()

"""Sessions of clients and servers that resume, and what these keep for another connection."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from core_driver import Played, start, turns
from leftovers import living_objects
from leftovers import nothing_left as nothing_left
from leftovers import only_objects_of_the_test as only_objects_of_the_test
from session_story import SMALL, SOON, Story, Visitor, story, talk
from waiting import until

from wsrpc import (
    AnonymousChannel,
    ChannelClosed,
    Client,
    ConnectionLost,
    Context,
    Handshake,
    Limits,
    Peer,
    Server,
    StreamOverflow,
)
from wsrpc.testing import Line

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- what waits


async def test_senders_wait_when_as_much_is_kept_as_may_be() -> None:
    """Also one that leaves the event loop no turn while there is room."""
    async with story(server=Limits(replay_bytes=SMALL)) as s:
        peer, received, sent = s.peer, list[int](), 0
        s.client.on("note", lambda number, filling: received.append(number))

        async def send_all() -> None:
            nonlocal sent
            for number in range(500):
                await peer.emit("note", number, "x" * 1000)
                sent += 1

        await s.cut()
        sending = start(send_all())
        await s.settled()
        assert 100 < sent < 140 and peer.stats().kept_bytes < SMALL + 2000
        await s.repair()
        await sending
        await until(lambda: received == [*range(500)])


@pytest.mark.parametrize(("side", "how"), [("server", "cancelled"), ("client", "timed out")])
async def test_requests_that_no_longer_wait_make_room(side: str, how: str) -> None:
    limits = Limits(replay_bytes=SMALL, request_timeout=0.1 if how == "timed out" else None)
    async with story(server=limits, client=limits) as s:
        receiver, received = (s.client, s.peer) if side == "client" else (s.peer, s.client)
        received.on("talk", talk)
        async with await receiver.open_channel("talk") as channel:
            await s.cut()
            asked = [start(channel.request("never", "x" * 40_000)) for _ in range(4)]
            await turns()
            emitting = start(channel.emit("word"))
            await turns()
            assert not emitting.done()
            for request in asked if how == "cancelled" else ():
                request.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            await emitting
        await s.repair()


async def test_broadcasts_that_wait_count_while_there_is_no_connection() -> None:
    """A policy for slow readers let each session without a connection keep more than all together may."""
    server = Server(detached_bytes=1024 * 1024, slow="drop_oldest", limits=Limits(replay_bytes=SMALL))
    async with story(server=server) as s, Client("ws://server/", dial=s.line.dial, reconnect=SOON):
        await s.settled()
        busy, quiet = server.peers
        server.room("news").add(busy)
        await s.cut()
        await until(lambda: quiet.detached)
        for _ in range(9):
            report = await server.room("news").emit("n", "x" * 100_000)
            assert (report.sent, report.skipped) == (1, 0) and busy.detached
        for _ in range(2):
            await server.room("news").emit("n", "x" * 100_000)
        assert server.peers == (quiet,), "the policy still has room for it, but all together not"
        s.line.down = False


@pytest.mark.parametrize(
    ("kind", "running", "bound", "lost"),
    [
        pytest.param("event", 100, 500_000, ["cancelled"] * 4, id="handlers that run"),
        pytest.param("event", 1, 500_000, ["cancelled"], id="events that wait"),
        pytest.param("word", 100, 500_000, ["too late"], id="a channel that nobody reads"),
        pytest.param("news", 100, 13_000_000, ["done", "overflow"], id="a slow reader, decoded: 32 times"),
    ],
)
async def test_what_ended_sessions_still_hold_counts(kind: str, running: int, bound: int, lost: list[str]) -> None:
    """A client that ended its sessions and came again could fill the memory."""
    server, go, ends = Server(detached_bytes=bound, limits=Limits(running=running)), asyncio.Event(), list[str]()
    readers = list[asyncio.Task[None]]()

    @server.on("open")
    def opened(peer: Peer) -> None:
        if kind == "news":
            readers.append(start(read(peer)))

    async def read(peer: Peer) -> None:
        with suppress(ConnectionLost):
            try:
                async for _ in peer.events("news"):
                    await go.wait()
                    ends.append("done")
            except StreamOverflow as exc:
                ends.append("overflow" if "Server(detached_bytes=)" in str(exc) else str(exc))

    @server.on("event")
    async def event(data: str, ctx: Context) -> None:
        try:
            await go.wait()
            ends.append("done")
        except asyncio.CancelledError:
            ends.append("cancelled" if "Server(detached_bytes=)" in ctx.cancel_reason else ctx.cancel_reason)
            raise

    @server.on("talk")
    async def listen(channel: AnonymousChannel) -> None:
        try:
            await go.wait()
            ends.extend(["done"] * 4)
        except asyncio.CancelledError:
            with pytest.raises(ChannelClosed):
                channel.events("word")
            ends.append("too late")
            raise

    async def visit() -> None:
        """Begin a session that holds about 330 kB, and end it."""
        async with Client("ws://server/", dial=Line(server).dial) as client:
            to = await client.open_channel("talk") if kind == "word" else client
            for _ in range(4):
                await to.emit(kind, "x" * 75_000)
            await turns(20)
        await until(lambda: not server.peers)

    for _ in range(3):
        await visit()
        assert ends == []
        go.set()
        await until(lambda: len(ends) == 4)
        assert ends == ["done"] * 4, "what was handled and read counts no more"
        ends.clear()
        go.clear()
    for _ in range(2):
        await visit()
    go.set()
    await until(lambda: len(ends) == len(lost) + 4)
    assert Counter(ends) == Counter(lost + ["done"] * 4), "the oldest of two that take as much"
    await server.close()
    await asyncio.gather(*readers)


async def test_counting_a_message_that_waits_does_not_look_at_each_handler() -> None:
    """Each one cost a sum over the handlers of its session."""
    server, looks = Server(), list[str]()
    server.on("wait", lambda data: asyncio.Event().wait())
    async with story(server=server) as s:
        calls = [start(s.client.request("wait", "x" * 100)) for _ in range(200)]
        await until(lambda: s.peer.active == 200)
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
        await until(lambda: peer.active == 0)


# ---------------------------------------------------------------- a connection that is to resume a session


async def test_a_connection_whose_client_does_not_name_its_session_is_dropped() -> None:
    """It began a new session, whose first message ended the client's own one: "the server did not resume it"."""
    page = Visitor()
    peer = await page.begin()
    page.line.lose()
    with pytest.raises(ConnectionLost, match="the client has not named its session"):
        await page.connect(**{"Wsrpc-Resume": "1"})
    assert page.line.pop_sent() == [] and page.line.closed
    assert page.server.peers == (peer,)
    assert await page.resume() is peer and not peer.detached
    await page.server.close()


async def test_a_client_that_names_its_session_as_its_time_ends_has_named_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message is there, and so is the end of its time: the event loop was busy with something else."""
    page, feed, loop = Visitor(), Played.feed, asyncio.get_running_loop()
    peer, now = await page.begin(), loop.time
    page.line.lose()

    def late(line: Played, *messages: Any) -> None:
        monkeypatch.setattr(loop, "time", lambda: now() + 50.0)
        feed(line, *messages)

    monkeypatch.setattr(Played, "feed", late)
    assert await page.resume() is peer and not peer.detached
    monkeypatch.undo()
    await page.server.close()


async def test_a_client_comes_back_with_fresh_credentials_and_its_session_goes_on() -> None:
    server, tokens = Server(), list[str]()

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        token = handshake.bearer_token
        assert token is not None
        tokens.append(token)
        handshake.expires = time.time() + 30.0
        handshake.state.update({"token": token, f"had {token}": True})

    async with story(server=server, auth=lambda: f"{len(tokens)}") as s:
        peer, received = s.peer, s.client.events("n", returns=int)
        await asyncio.sleep(29.0)
        assert s.client.state == "connected" and not s.back
        await asyncio.sleep(1.0)
        await peer.emit("n", 1)
        assert await anext(received) == 1
        await until(lambda: s.back)
        assert s.back[0].resumed and tokens == ["0", "1"] and server.peers == (peer,)
        assert dict(peer.state) == {"token": "1", "had 0": True, "had 1": True}


# ---------------------------------------------------------------- drops again and again


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
            await until(lambda: [peer.connected for peer in s.server.peers] == [True] and len(s.back) == number)
            await asyncio.gather(*calling, return_exceptions=True)

        async def cut_often(count: int) -> Counter[str]:
            for number in range(1, count + 1):
                await cut(number)
            assert [info.resumed for info in s.back] == [bool(replay_bytes)] * count
            s.back.clear()
            s.closed.clear()
            s.notified.clear()
            await until(lambda: not (s.client.peer.pending or s.peer.active or s.peer.anonymous_channels))
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

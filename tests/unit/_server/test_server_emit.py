"""`Server.emit`, rooms and channels of a server: speaking to many, also to those who read slowly or not at all."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from audience import LIMITS, TIGHT, Ear, audience, line_of
from peers_inside import out_of
from waiting import until

from wsrpc import ChannelClosed, Client, ConnectionLost, OutgoingCall, QueueFull, Server
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.testing import connect
from wsrpc.types import EmitReport

both_ways = pytest.mark.parametrize("method", ["emit", "emit_nowait"])
TARGETS: dict[str, Callable[[Server], Any]] = {
    "server": lambda server: server,
    "room": lambda server: server.room("here"),
    "channel": lambda server: server.of("side"),
    "channel of a room": lambda server: server.room("here").of("side"),
}


SKIPS: dict[str, Callable[[Server], Any]] = {
    "": lambda server: None,
    "1": lambda server: server.peers[1],
    "012": lambda server: iter(server.peers[:3]),
    "01": lambda server: server.room("here"),
}


async def heard_until(ear: Ear, last: str) -> list[str]:
    words: list[str] = []
    while (word := await ear.heard.get()) != last:
        words.append(word)
    return words


async def called(target: Any, method: str, *args: Any, **options: Any) -> EmitReport:
    given = getattr(target, method)(*args, **options)
    report: EmitReport = await given if inspect.isawaitable(given) else given
    return report


# ---------------------------------------------------------------- who gets it


@both_ways
@pytest.mark.parametrize("where", TARGETS)
@pytest.mark.parametrize("skipped", SKIPS)
async def test_members_and_nobody_else_get_it(where: str, skipped: str, method: str) -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 4) as pairs:
        assert [peer for _, peer in pairs] == list(server.peers)
        for _, peer in pairs[:2]:
            for _ in range(2):  # no more than once
                server.room("here").add(peer)
        members = set("01" if "room" in where else "0123") - set(skipped)
        report = await called(TARGETS[where](server), method, "say", "hello", skip=SKIPS[skipped](server))
        assert report == EmitReport(len(members))
        await server.emit("say", "all")
        heard = [await heard_until(ear, "all") for ear, _ in pairs]
        said = "side hello" if "channel" in where else "hello"
        assert heard == [[said] if str(number) in members else [] for number in range(4)]


@both_ways
async def test_a_closed_channel_says_so(method: str) -> None:
    server = Server(limits=LIMITS)
    channel = server.of("side")
    channel.close("bored")
    assert (channel.closed, channel.close_reason) == (True, "bored")
    with pytest.raises(ChannelClosed, match="side"):
        await called(channel, method, "x")
    with pytest.raises(ChannelClosed):
        channel.on("x", lambda: 1)
    assert server.of("side") is not channel


@both_ways
async def test_the_report_has_one_error_for_each_that_failed(method: str) -> None:
    """A peer whose connection has ended leaves its rooms, so the next report has no error."""
    server = Server(limits=LIMITS)
    async with audience(server, 3) as pairs:
        room, gone = server.room("here"), pairs[1][1]
        for _, peer in pairs:
            room.add(peer)
        closing = asyncio.create_task(gone.close())
        await asyncio.sleep(0)
        report = await called(room, method, "say", "hello")
        assert report.sent == 2
        [error] = report.errors
        assert error.peer is gone and gone.id in str(error)
        assert isinstance(error.__cause__, ConnectionLost) and error.__cause__.outcome == "not_sent"
        assert [await called(target, method, "say", "again") for target in (room, server)] == [EmitReport(2)] * 2
        assert [await ear.heard.get() for ear, _ in pairs[::2]] == ["hello"] * 2
        await closing


async def test_encoded_once_for_each_codec() -> None:
    asked: list[object] = []

    def enc_hook(value: object) -> str:
        asked.append(value)
        return "it"

    server = Server(limits=LIMITS, codec=JsonCodec(enc_hook=enc_hook))
    server.on("sync", lambda: None)
    ran: list[str] = []
    async with audience(server, 20) as pairs:
        await until(lambda: not any(out_of(peer).terms.plain for peer in server.peers))  # they speak MessagePack
        async with connect(server, client=Client(extensions=False)) as plain, plain.events("say") as heard:
            await plain.request("sync")  # until a client has said something, nobody knows that it is a plain one

            @server.use_outgoing
            def add_metadata(call: OutgoingCall) -> None:
                ran.append(call.kind)
                call.metadata["tenant"] = "acme"

            await server.emit("say", object())
            assert [await anext(heard), *[await ear.heard.get() for ear, _ in pairs]] == ["it"] * 21
    assert (len(asked), ran) == (2, ["broadcast"])  # JSON without metadata, MessagePack with it
    await Server(limits=LIMITS, codec=MsgpackCodec(enc_hook=enc_hook)).emit("say", object())
    assert len(asked) == 3


# ---------------------------------------------------------------- those who read slowly


@both_ways
@pytest.mark.parametrize("in_a_room", [False, True])
async def test_a_member_that_is_closed_is_reported_once_and_leaves(method: str, in_a_room: bool) -> None:
    limits = TIGHT.replace(hard_cap_bytes=100_000)
    server = Server(limits=limits)
    ended: asyncio.Queue[int] = asyncio.Queue()
    server.on("close", lambda peer, info: ended.put_nowait(info.code))
    async with audience(server, 3, limits) as pairs:
        _, stuck = pairs[0]
        line = line_of(stuck)
        for peer in server.peers if in_a_room else ():
            server.room("here").add(peer)
        target: Any = server.room("here") if in_a_room else server
        line.hold()
        reports: list[EmitReport] = []
        while not reports or not reports[-1].errors:
            reports.append(await called(target, method, "say", f"{len(reports)} " + "x" * 5000))
            await asyncio.sleep(0)  # the others read
        assert len(reports) == 20 and [report.sent for report in reports] == [3] * 19 + [2]  # hard_cap_bytes
        [error] = reports[-1].errors
        assert error.peer is stuck and isinstance(error.__cause__, QueueFull)
        assert await called(target, method, "say", "last") == EmitReport(2)
        assert not in_a_room or [*target] == [peer for _, peer in pairs[1:]]
        line.release()  # its peer may have let go of it
        assert await ended.get() == 4408
        for ear, _ in pairs[1:]:
            assert [word.split()[0] for word in await heard_until(ear, "last")] == [str(n) for n in range(20)]


@pytest.mark.parametrize("size", [1, 5])
async def test_a_loop_of_emit_nowait_closes_nobody(size: int) -> None:
    """No peer can read during the loop, so the sender is too fast."""
    limits = TIGHT.replace(hard_cap_bytes=100_000)
    server, heard = Server(limits=limits), list[int]()
    async with AsyncExitStack() as stack:
        for number in range(size):
            client = Client(limits=LIMITS, extensions=bool(number % 2))  # in different encodings
            client.on("n", lambda count, filling: heard.append(count))
            await stack.enter_async_context(connect(server, client=client))
        sent = 0
        with pytest.raises(QueueFull, match=rf"of {size} peers are behind.*await emit\(\)"):  # noqa: PT012
            while sent < 10_000:
                assert server.emit_nowait("n", sent, "x" * 1000).sent == size
                sent += 1
        assert all(peer.stats().unsent_bytes <= limits.hard_cap_bytes for peer in server.peers)
        await until(lambda: not any(peer.transport and peer.transport.unsent for peer in server.peers))
        assert server.emit_nowait("n", sent, "").sent == size
        await until(lambda: len(heard) == size * (sent + 1))
        assert sorted(heard) == sorted([*range(sent + 1)] * size), "what was sent arrived, each once"


async def test_a_slow_reader_whose_connection_breaks_while_it_is_waited_for() -> None:
    """Whatever waited for its line must not complain that nobody looked at its error."""
    server = Server(limits=TIGHT)
    async with audience(server, 1, TIGHT) as [(_, peer)]:
        line_of(peer).hold()
        while not server.stats().slow_peers:
            await server.emit("n", "x" * 100_000)
        emitting = asyncio.create_task(server.emit("n", "last"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        line_of(peer).abort()
        await emitting

"""`Server.emit` and the channels of a server: speaking to everybody, also to those who read slowly or not at all."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from audience import LIMITS, TIGHT, Ear, audience, line_of
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, RawPeer, raw_client

from wsrpc import ChannelClosed, Client, ConnectionLost, KeepLatest, Limits, MessageTooBig, Peer, QueueFull, Server
from wsrpc._api.peer import core_of
from wsrpc.errors import PeerError, ReservedEvent
from wsrpc.testing import memory_transports
from wsrpc.types import EmitReport

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_everybody_gets_it() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 3) as pairs:
        report = await server.emit("say", "hello")
        assert (report.sent, report.errors) == (3, ())
        assert [await ear.heard.get() for ear, _ in pairs] == ["hello"] * 3
        assert [peer for _, peer in pairs] == list(server.peers)


async def test_nobody_is_there() -> None:
    report = await Server().emit("say", "hello")
    assert (report.sent, report.errors) == (0, ())


@pytest.mark.parametrize("size", [0, 1])
async def test_what_cannot_be_sent_is_refused_with_and_without_peers(size: int) -> None:
    server = Server(limits=LIMITS)
    async with audience(server, size):
        with pytest.raises(ReservedEvent):
            await server.emit("open")
        with pytest.raises(TypeError):
            await server.emit(7)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            await server.emit("say", object())


async def test_skip() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 3) as pairs:
        report = await server.emit("say", "not you", skip=pairs[1][1])
        assert report.sent == 2
        await server.emit("say", "all")
        heard = [ear.heard for ear, _ in pairs]
        assert [await queue.get() for queue in heard] == ["not you", "all", "not you"]


async def test_skip_several() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 4) as pairs:
        peers = [peer for _, peer in pairs]
        room = server.room("here")
        for peer in peers[:2]:
            room.add(peer)
        for several in (peers[:2], tuple(peers[:2]), set(peers[:2]), iter(peers[:2]), room, dict.fromkeys(peers[:2])):
            assert (await server.emit("say", "not you", skip=several)).sent == 2
        assert (await server.emit("say", "no more than once", skip=[peers[3], peers[3]])).sent == 3
        assert (await server.emit("say", "all", skip=[])).sent == 4
        assert (await room.emit("say", "nobody", skip=server.peers)).sent == 0
        assert (await server.send_raw("text", skip=peers[1:])).sent == 1
        heard = []
        for ear, _ in pairs:
            words = [await ear.heard.get()]
            while words[-1] != "all":
                words.append(await ear.heard.get())
            heard.append(words)
        once = "no more than once"
        assert heard == [[once, "all"]] * 2 + [["not you"] * 6 + [once, "all"]] + [["not you"] * 6 + ["all"]]


async def test_those_who_are_skipped_are_not_waited_for() -> None:
    server = Server(limits=TIGHT)
    async with audience(server, 2, TIGHT) as pairs:
        stuck = [peer for _, peer in pairs]
        for peer in stuck:
            line_of(peer).hold()
        await server.emit("say", "x" * 5000)
        async with asyncio.timeout(0):  # it does not wait
            with suppress(TimeoutError):
                assert (await server.emit("say", "hello", skip=stuck)).sent == 0


# ---------------------------------------------------------------- without waiting


async def test_emit_nowait_reaches_everybody_in_order() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 3) as pairs:
        room = server.room("lobby")
        room.add(pairs[0][1])
        assert server.emit_nowait("say", "hello").sent == 3
        assert (await server.emit("say", "in between")).sent == 3
        assert room.emit_nowait("say", "you").sent == 1
        assert room.of("side").emit_nowait("say", "you").sent == 1
        assert server.of("side").emit_nowait("say", "all", skip=pairs[0][1]).sent == 2
        assert server.emit_nowait("say", "last", skip=[peer for _, peer in pairs[1:]]).sent == 1
        assert [await pairs[0][0].heard.get() for _ in range(5)] == ["hello", "in between", "you", "side you", "last"]
        assert [await pairs[1][0].heard.get() for _ in range(3)] == ["hello", "in between", "side all"]
    assert Server().emit_nowait("say", "nobody is there") == EmitReport(0)


async def test_emit_nowait_refuses_what_emit_refuses() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 1):
        with pytest.raises(ReservedEvent):
            server.emit_nowait("open")
        with pytest.raises(TypeError, match="a string"):
            server.emit_nowait(7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="object"):
            server.emit_nowait("say", object())
        with pytest.raises(TypeError, match=r"options of emit_nowait\(\) itself \(skip=\)"):
            server.emit_nowait("say", text="hello")  # type: ignore[arg-type]
        channel = server.of("side")
        channel.close()
        with pytest.raises(ChannelClosed):
            channel.emit_nowait("say")


async def test_emit_nowait_reports_who_is_gone() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 2) as pairs:
        _, gone = pairs[1]
        closing = asyncio.create_task(gone.close())
        await asyncio.sleep(0)
        report = server.emit_nowait("say", "hello")
        assert report.sent == 1
        [error] = report.errors
        assert error.peer is gone and isinstance(error.__cause__, ConnectionLost)
        await closing


async def test_emit_nowait_closes_the_few_that_are_at_their_hard_cap() -> None:
    limits = TIGHT.replace(hard_cap=100_000)
    server = Server(limits=limits)
    ended: asyncio.Queue[int] = asyncio.Queue()
    server.on("close", lambda peer, info: ended.put_nowait(info.code))
    async with audience(server, 3, limits) as pairs:
        _, stuck = pairs[0]
        line_of(stuck).hold()
        for number in range(100):
            report = server.emit_nowait("say", f"{number}" + "x" * 5000)
            if report.errors:
                break
            assert report.sent == 3
            await asyncio.sleep(0)  # the others read
        [error] = report.errors
        assert error.peer is stuck and isinstance(error.__cause__, QueueFull) and report.sent == 2
        assert number == 19  # hard_cap
        line_of(stuck).release()
        assert await ended.get() == 4408
        assert (await server.emit("say", "last")).sent == 2
        for ear, _ in pairs[1:]:
            while await ear.heard.get() != "last":
                pass


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_a_loop_of_emit_nowait_closes_nobody(size: int) -> None:
    """Nobody can read meanwhile: whoever emits is too fast."""
    limits = TIGHT.replace(hard_cap=100_000)
    server = Server(limits=limits)
    async with server.listen() as listener, AsyncExitStack() as stack:
        heard: list[int] = []
        done = asyncio.Event()
        for number in range(size):
            client = Client(listener.url, limits=LIMITS, extensions=bool(number % 2))  # in different encodings
            client.on("n", lambda count, filling: heard.append(count))
            client.on("done", done.set)
            await stack.enter_async_context(client)
        await turns_until(lambda: len(server.peers) == size)
        sent = 0

        def emit_on() -> None:
            nonlocal sent
            while sent < 10_000:
                assert server.emit_nowait("n", sent, "x" * 1000).sent == size
                sent += 1

        with pytest.raises(QueueFull, match=rf"of {size} peers are behind.*await emit\(\)"):
            emit_on()
        assert all(peer.stats().unsent <= limits.hard_cap for peer in server.peers)
        assert len(server.peers) == size
        await turns_until(lambda: not any(peer.transport and peer.transport.unsent for peer in server.peers))
        assert server.emit_nowait("done").sent == size
        await turns_until(lambda: len(heard) == size * sent)
        await done.wait()
        assert sorted(heard) == sorted(list(range(sent)) * size), "what was sent arrived, each once"
        assert len(server.peers) == size


@pytest.mark.parametrize("slow", ["drop_newest", "drop_oldest", KeepLatest()])
async def test_emit_nowait_keeps_to_the_other_policies(slow: Any) -> None:
    limits = TIGHT.replace(behind=10_000)
    server = Server(limits=limits, slow=slow)
    async with audience(server, 2, limits) as pairs:
        _, stuck = pairs[0]
        line_of(stuck).hold()
        for number in range(50):
            report = server.emit_nowait("say", f"{number} " + "x" * 1000)
            assert report.errors == ()
            assert report.sent + report.dropped == 2
            await asyncio.sleep(0)
        assert stuck.dropped > 30
        assert line_of(stuck).unsent < 20_000
        server.emit_nowait("say", "last")
        line_of(stuck).release()
        if slow != "drop_newest":
            while await pairs[0][0].heard.get() != "last":
                pass
        while await pairs[1][0].heard.get() != "last":
            pass
        assert len(server.peers) == 2


async def test_on_a_channel() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 2) as pairs:
        report = await server.of("side").emit("say", "hello", skip=pairs[0][1])
        assert report.sent == 1
        await server.of("side").emit("say", "again")
        await server.of("side").emit("open")  # an ordinary name there
        assert await pairs[0][0].heard.get() == "side again"
        assert [await pairs[1][0].heard.get() for _ in range(2)] == ["side hello", "side again"]


async def test_a_closed_channel_says_so() -> None:
    server = Server(limits=LIMITS)
    channel = server.of("side")
    channel.on("x", lambda: 1)
    channel.close()
    channel.close()
    with pytest.raises(ChannelClosed, match="side"):
        await channel.emit("x")
    with pytest.raises(ChannelClosed):
        channel.on("x", lambda: 1)
    assert server.of("side") is not channel


async def test_the_report_has_one_error_for_each_that_failed() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 2) as pairs, server.listen() as listener:
        async with raw_client(listener.port) as mute:
            await turns_until(lambda: len(server.peers) == 3)
            gone = server.peers[2]
            closing = asyncio.create_task(gone.close())
            assert (await mute.next_of(CLOSE)).code == 1000  # and it does not answer, so the closing goes on
            report = await server.emit("say", "hello")
            assert report.sent == 2
            (error,) = report.errors
            assert isinstance(error, PeerError)
            assert error.peer is gone
            assert isinstance(error.__cause__, ConnectionLost)
            assert error.__cause__.outcome == "not_sent"
            assert gone.id in str(error)
            assert [await ear.heard.get() for ear, _ in pairs] == ["hello"] * 2
            await answer(mute, 1000)
            await closing


@pytest.mark.parametrize("straight", [True, False], ids=["straight", "general"])
async def test_it_is_the_same_straight_to_the_transport_and_by_the_general_way(straight: bool) -> None:
    server = Server(limits=LIMITS)
    small = Limits(message=600, close_timeout=1.0)
    async with audience(server, 2) as pairs, AsyncExitStack() as stack:
        ours, theirs = memory_transports(limits=LIMITS)
        heard: list[str] = []
        client = Client(transport=ours, limits=small)  # it announces that it takes less
        client.on("say", heard.append)
        accepting = asyncio.create_task(server.accept(theirs))
        await stack.enter_async_context(client)
        await accepting
        await turns_until(lambda: [core_of(peer).out.terms.plain for peer in server.peers] == [False] * 3)
        outs = [core_of(peer).out for peer in server.peers]
        assert [out.clear for out in outs] == [True] * 3
        if not straight:
            for out in outs:
                out.clear = False  # as while others wait for their turn
        reports = []
        for send in (server.emit, server.emit_nowait):
            for text in ("short", "long" * 200):
                given = send("say", text)
                reports.append(await given if asyncio.iscoroutine(given) else given)
        assert [(report.sent, report.dropped) for report in reports] == [(3, 0), (2, 0)] * 2
        assert [[type(error.__cause__) for error in report.errors] for report in reports] == [[], [MessageTooBig]] * 2
        raw = await server.send_raw(b"binary")
        assert (raw.sent, [type(error.__cause__) for error in raw.errors]) == (0, [ValueError] * 3)
        for ear, _ in pairs:
            assert [await ear.heard.get() for _ in range(4)] == ["short", "long" * 200] * 2
        await turns_until(lambda: len(heard) == 2)
        assert heard == ["short"] * 2


async def test_a_peer_in_its_open_handler_gets_it() -> None:
    server = Server(limits=LIMITS)
    running, go_on = asyncio.Event(), asyncio.Event()

    @server.on("open")
    async def opened(peer: Peer) -> None:
        running.set()
        await go_on.wait()

    ours, theirs = memory_transports()
    ear = Ear(ours)
    accepting = asyncio.create_task(server.accept(theirs))
    async with ear.client:
        await running.wait()
        report = await server.emit("say", "hello")
        assert report.sent == 1
        assert await ear.heard.get() == "hello"
        go_on.set()
        await accepting
    await server.close()


async def test_slow_readers_are_waited_for_100_ms_in_all() -> None:
    server = Server(limits=TIGHT)
    async with audience(server, 40, TIGHT) as pairs:
        for _, peer in pairs[:-1]:
            line_of(peer).hold()
        for _ in range(3):
            await server.emit("say", "x" * 1000)
        started = asyncio.get_running_loop().time()
        report = await server.emit("say", "hello")
        # One after another they would take four seconds.
        assert asyncio.get_running_loop().time() - started < 2.0
        assert (report.sent, report.errors) == (40, ())
        while await pairs[-1][0].heard.get() != "hello":
            pass
        # What they missed waits for them.
        for ear, peer in pairs[:-1]:
            line_of(peer).release()
            while await ear.heard.get() != "hello":
                pass


async def test_a_reader_that_recovers_in_time_lets_it_go_on_at_once() -> None:
    server = Server(limits=TIGHT)
    async with audience(server, 2, TIGHT) as pairs:
        line_of(pairs[0][1]).hold()
        await server.emit("say", "x" * 5000)
        emitting = asyncio.create_task(server.emit("say", "hello"))
        await asyncio.sleep(0)
        line_of(pairs[0][1]).release()
        assert (await emitting).sent == 2


async def test_at_the_hard_cap_a_slow_reader_is_closed_with_4408_while_others_get_everything() -> None:
    server = Server(limits=TIGHT)
    ended: asyncio.Queue[int] = asyncio.Queue()
    server.on("close", lambda peer, info: ended.put_nowait(info.code))
    heard = 0
    all_heard = asyncio.Event()

    def listen(number: int, filling: str) -> None:
        nonlocal heard
        assert number == heard
        heard += 1
        if not filling:
            all_heard.set()

    async with server.listen() as listener:
        async with (
            Client(listener.url, limits=LIMITS) as client,
            raw_client(listener.port, receive_buffer=4096) as deaf,
        ):
            client.on("n", listen)
            await turns_until(lambda: len(server.peers) == 2)
            slow = next(peer for peer in server.peers if peer.info.remote == deaf.sock.getsockname())
            count = 0
            while True:
                report = await server.emit("n", count, "x" * 500_000)
                count += 1
                assert count < 100
                if report.errors:
                    break
            (error,) = report.errors
            assert error.peer is slow
            assert isinstance(error.__cause__, QueueFull)
            assert report.sent == 1
            await server.emit("n", count, "")
            await all_heard.wait()
            assert heard == count + 1
            assert await ended.get() == 4408
            assert len(server.peers) == 1


async def test_a_slow_reader_whose_connection_breaks_while_it_is_waited_for() -> None:
    # Whatever waited for its line must not complain that nobody looked at its error.
    server = Server(limits=TIGHT)
    async with server.listen() as listener:
        async with raw_client(listener.port, receive_buffer=4096) as deaf:
            await turns_until(lambda: server.peers)
            (peer,) = server.peers
            while peer.transport.unsent <= TIGHT.high_water:  # type: ignore[union-attr]
                await server.emit("n", "x" * 100_000)
            emitting = asyncio.create_task(server.emit("n", "last"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            deaf.reset()
            await emitting


async def test_a_slow_reader_that_reads_after_all_sees_4408() -> None:
    server = Server(limits=TIGHT.replace(close_timeout=5.0))
    async with server.listen() as listener:
        async with raw_client(listener.port, receive_buffer=4096) as deaf:
            await turns_until(lambda: server.peers)
            while not (await server.emit("n", "x" * 500_000)).errors:
                pass
            frame = await deaf.next_of(CLOSE)
            assert (frame.code, frame.reason) == (4408, "slow consumer")
            await answer(deaf, frame.code)


async def answer(raw: RawPeer, code: int) -> None:
    await raw.send(raw.close_frame(code))
    raw.drop()

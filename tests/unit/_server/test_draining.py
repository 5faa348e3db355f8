"""`Server.close(drain=...)` over real connections: what was begun ends well, what is new goes elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from core_driver import Blocked, messages, start
from leftovers import nothing_left as nothing_left
from leftovers import timers_due, turns_until
from raw_websocket import CLOSE, TEXT, RawPeer, raw_client
from stream_driver import control, hello, total

from wsrpc import AnonymousChannel, Client, CloseInfo, ConnectionLost, Limits, Peer, Reconnect, Server
from wsrpc.errors import Draining

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)
LONG = 60.0
"""Longer than a test may take: where the end does not come before, the test fails."""


class Observed:
    """A client that does not dial again, and how its connection ended."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client(url, **{"limits": LIMITS, "reconnect": None} | options)
        self.ended: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()
        self.client.on("close", lambda peer, info: self.ended.set_result(info))

    async def __aenter__(self) -> Observed:
        await self.client.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def closed_with_1012(self) -> bool:
        info = await self.ended
        return (info.code, info.was_clean) == (1012, True)


async def said(raw: RawPeer) -> Any:
    """The next message that a raw client gets."""
    frame = await raw.next_of(TEXT)
    return json.loads(frame.payload)


async def silent(client: Client) -> None:
    """Until the client has heard that its server drains."""
    await turns_until(lambda: client.peer._out.silent)


# ---------------------------------------------------------------- what was begun


async def test_requests_in_flight_are_answered_and_then_1012() -> None:
    server = Server(limits=LIMITS)
    work = Blocked()
    server.on("work", work)
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as one, Observed(listener.url, extensions=False) as plain:
            async with raw_client(listener.port) as raw, Observed(listener.url) as idle:
                await raw.send(raw.frame(TEXT, '{"i":1,"a":["work","raw"]}'))
                requests = [start(each.client.request("work", "x")) for each in (one, plain) for _ in range(3)]
                await turns_until(lambda: len(work.started) == 7)
                closing = start(server.close(drain=LONG))
                assert await idle.closed_with_1012(), "each as soon as it is idle"
                assert not closing.done() and not one.ended.done()
                await turns_until(lambda: repr(server) == "<Server draining, 3 peers>")
                work.go.set()
                assert await asyncio.gather(*requests) == [["x"]] * 6
                assert await said(raw) == {"i": 1, "d": ["raw"]}
                close = await raw.next_of(CLOSE)
                assert (close.code, close.reason) == (1012, "the server is closing")
                await raw.send(raw.close_frame(1012))
                raw.drop()
                assert await one.closed_with_1012() and await plain.closed_with_1012()
                await closing
                assert work.cancelled == []


async def test_a_request_that_crosses_is_served_and_a_later_one_waits() -> None:
    server = Server(limits=LIMITS)
    work = Blocked()
    server.on("work", work)
    server.on("echo", lambda value: value)
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as observed:
            client = observed.client
            first = start(client.request("work"))
            await turns_until(lambda: work.started)
            closing = start(server.close(drain=LONG))
            await asyncio.sleep(0)  # the server is draining, and the client cannot know
            crossing = [start(client.request("echo", number)) for number in range(10)]
            assert await asyncio.gather(*crossing) == list(range(10))
            await silent(client)
            late = start(client.request("echo", "late"))
            await asyncio.sleep(0)
            work.go.set()
            assert await first == []
            with pytest.raises(ConnectionLost) as lost:  # this client does not dial again
                await late
            assert (lost.value.code, lost.value.outcome) == (1012, "not_sent")
            await closing


async def test_what_is_sent_before_the_client_has_heard_is_served_also_by_an_idle_connection() -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    async with asyncio.timeout(8), server.listen() as listener, raw_client(listener.port) as raw:
        await raw.send(raw.frame(TEXT, json.dumps(hello("drain"))))
        assert (await said(raw))["wsrpc"]["t"] == "welcome"
        closing = start(server.close(drain=LONG))
        assert (await said(raw))["wsrpc"]["t"] == "drain"
        for number in range(3):
            await raw.send(raw.frame(TEXT, f'{{"i":{number + 1},"a":["echo",{number}]}}'))
            assert await said(raw) == {"i": number + 1, "d": number}
        await raw.send(raw.frame(TEXT, json.dumps(control("drain", after_ms=0))))
        assert (await raw.next_of(CLOSE)).code == 1012
        raw.drop()
        await closing


async def test_a_new_request_of_a_plain_client_is_refused_and_its_events_are_handled() -> None:
    server = Server(limits=LIMITS)
    work, events = Blocked(), list[Any]()
    server.on("work", work)
    server.on("log", events.append)
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url, extensions=False) as observed:
            client = observed.client
            request = start(client.request("work"))
            cancelled = start(client.request("work"))
            await turns_until(lambda: len(work.started) == 2)
            closing = start(server.close(drain=LONG))
            await turns_until(lambda: "draining" in repr(server))
            with pytest.raises(Draining) as refused:
                await client.request("work")
            assert refused.value.code == "wsrpc.draining"
            with pytest.raises(Draining):
                await client.open_channel("work")
            await client.emit("log", "still heard")
            cancelled.cancel()
            await turns_until(lambda: work.cancelled)
            assert events == ["still heard"]
            work.go.set()
            assert await request == [] and len(work.started) == 2
            assert await observed.closed_with_1012()
            await closing


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
async def test_streams_uploads_and_conversations_go_on(extensions: bool) -> None:
    server = Server(limits=LIMITS)
    server.on("total", total)
    go_on = asyncio.Event()

    @server.on("count")
    async def count(stop: int) -> AsyncIterator[int]:
        for number in range(stop):
            if number == 1:
                await go_on.wait()
            yield number

    @server.on("chat")
    async def chat(channel: AnonymousChannel) -> None:
        async for line in channel.events("line", returns=str):
            await channel.request("heard", line)

    async def numbers() -> AsyncIterator[int]:
        yield 1
        await go_on.wait()
        for number in range(2, 201):
            yield number

    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url, extensions=extensions) as observed:
            client = observed.client
            stream = client.stream("count", 200)
            assert await anext(stream) == 0
            upload = start(client.request("total", send=numbers()))
            channel = await client.open_channel("chat")
            heard: asyncio.Queue[str] = asyncio.Queue()
            channel.on("heard", heard.put_nowait)
            [peer] = server.peers
            await turns_until(lambda: peer.channels == 3)
            closing = start(server.close(drain=LONG))
            await turns_until(lambda: "draining" in repr(server))
            if extensions:
                await silent(client)
            await channel.emit("line", "hi")
            assert await heard.get() == "hi"
            go_on.set()
            assert [number async for number in stream] == list(range(1, 200))
            assert await upload == sum(range(201))
            assert not closing.done()
            await channel.abort()
            assert await observed.closed_with_1012()
            await closing


async def test_streams_that_the_server_reads_go_on() -> None:
    server = Server(limits=LIMITS)
    go_on = asyncio.Event()
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as observed:

            @observed.client.on("count")
            async def count() -> AsyncIterator[int]:
                yield 0
                await go_on.wait()
                yield 1

            [peer] = server.peers
            stream = peer.stream("count")
            assert await anext(stream) == 0
            closing = start(server.close(drain=LONG))
            await silent(observed.client)
            go_on.set()
            assert [number async for number in stream] == [1]
            assert await observed.closed_with_1012()
            await closing


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
async def test_requests_within_requests_both_ways(extensions: bool) -> None:
    """Active work may ask, and be asked back, however deep."""
    server = Server(limits=LIMITS)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @server.on("dig")
    async def dig(peer: Peer, depth: int) -> int:
        if depth == 4:
            begun.set()
            await go_on.wait()
        return 1 + await peer.request("dig", depth - 1) if depth else 0

    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url, extensions=extensions) as observed:

            @observed.client.on("dig")
            async def deeper(peer: Peer, depth: int) -> int:
                await observed.client.emit("by the way")
                return 1 + await peer.request("dig", depth - 1) if depth else 0

            ways = list[Any]()
            server.on("by the way", lambda: ways.append(1))
            request = start(observed.client.request("dig", 4))
            await begun.wait()
            closing = start(server.close(drain=LONG))
            if extensions:
                await silent(observed.client)
            go_on.set()
            assert await request == 4
            assert await observed.closed_with_1012()
            await closing
            assert len(ways) == 2, "what a handler sends, for which the other side waits, goes at once"


async def test_a_request_of_the_server_s_own_is_waited_for() -> None:
    server = Server(limits=LIMITS)
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as observed:
            work = Blocked()
            observed.client.on("work", work)
            [peer] = server.peers
            request, given_up = start(peer.request("work", 1)), start(peer.request("work", 2))
            await turns_until(lambda: len(work.started) == 2)
            closing = start(server.close(drain=LONG))
            await silent(observed.client)
            given_up.cancel()
            work.go.set()
            assert await request == [1]
            assert await observed.closed_with_1012()
            await closing


async def test_what_waits_for_a_place_gets_it() -> None:
    server = Server(limits=LIMITS.replace(running=1))
    done = list[int]()

    @server.on("work")
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        done.append(number)
        return number

    async with asyncio.timeout(8), server.listen() as listener:
        async with raw_client(listener.port) as raw:
            await raw.send(*(raw.frame(TEXT, f'{{"i":{i},"a":["work",{i}]}}') for i in range(1, 51)))
            await turns_until(lambda: done)
            closing = start(server.close(drain=LONG))
            assert [(await said(raw))["d"] for _ in range(50)] == list(range(1, 51)) == done
            assert (await raw.next_of(CLOSE)).code == 1012
            raw.drop()
            await closing


async def test_open_handlers_end_and_what_was_held_is_served() -> None:
    server = Server(limits=LIMITS)
    begun, go_on = asyncio.Event(), asyncio.Event()
    server.on("echo", lambda value: value)

    @server.on("open")
    async def load() -> None:
        begun.set()
        await go_on.wait()

    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as observed:
            request = start(observed.client.request("echo", 1))
            await begun.wait()
            [peer] = server.peers
            await turns_until(lambda: peer.stats().waiting)
            closing = start(server.close(drain=LONG))
            await silent(observed.client)
            go_on.set()
            assert await request == 1
            assert await observed.closed_with_1012()
            await closing


# ---------------------------------------------------------------- the next connection


async def test_what_a_client_sends_meanwhile_arrives_at_the_next_server_once_and_in_order() -> None:
    old, new = Server(limits=LIMITS), Server(limits=LIMITS)
    work = Blocked()
    old.on("work", work)
    arrived = {old: list[Any](), new: list[Any]()}
    for server, seen in arrived.items():
        server.on("log", seen.append)
        server.on("add", lambda number, seen=seen: seen.append(number) or number)
    async with asyncio.timeout(8), old.listen() as first, new.listen() as second:
        urls = iter([first.url, second.url])
        async with Client(lambda: next(urls), limits=LIMITS, reconnect=AT_ONCE) as client:
            request = start(client.request("work"))
            await turns_until(lambda: work.started)
            await client.emit("log", -1)
            closing = start(old.close(drain=LONG))
            await silent(client)
            requests = list[asyncio.Task[Any]]()
            for number in range(0, 100, 2):
                client.emit_nowait("log", number) if number % 4 else await client.emit("log", number)
                requests.append(start(client.request("add", number + 1)))
                await asyncio.sleep(0)
            taken_back = start(client.request("add", "never"))
            await asyncio.sleep(0)
            taken_back.cancel()
            assert client.connected and not any(task.done() for task in requests)
            work.go.set()
            assert await request == []
            assert await asyncio.gather(*requests) == list(range(1, 100, 2))
            await closing
            assert arrived == {old: [-1], new: list(range(100))}
            assert await client.request("add", 100) == 100, "on the new connection all is as ever"


@pytest.mark.timeout(120)  # 400 opening handshakes, on a machine that may be busy
async def test_200_clients_in_the_midst_of_calls_lose_not_one() -> None:
    old, new = Server(limits=LIMITS), Server(limits=LIMITS)
    served = {old: 0, new: 0}
    everybody, enough = asyncio.Event(), asyncio.Event()

    def add(server: Server, a: int, b: int) -> int:
        served[server] += 1
        if served[old] == 500:
            enough.set()
        return a + b

    async def slow(server: Server, a: int, b: int) -> int:
        await asyncio.sleep(0)
        return add(server, a, b)

    for server in (old, new):
        for function in (add, slow):
            server.on(function.__name__, partial(function, server))
    codes = list[int]()
    async with old.listen() as first, new.listen() as second:

        async def use() -> None:
            moved = asyncio.Event()
            client = Client(lambda: first.url if old.healthy else second.url, limits=LIMITS, reconnect=AT_ONCE)
            client.on("close", lambda peer, info: codes.append(info.code))
            client.on_reconnect(lambda info: moved.set())
            async with client:
                if len(old.peers) == 200:
                    everybody.set()
                await everybody.wait()
                for number in range(5):
                    calls = [client.request("add", number, 1), client.request("slow", number, 2)]
                    assert await asyncio.gather(*calls) == [number + 1, number + 2]
                await moved.wait()
                assert await client.request("add", 1, 1) == 2

        users = [start(use()) for _ in range(200)]
        await enough.wait()
        await old.close(drain=LONG)
        await asyncio.gather(*users)
    assert codes.count(1012) == 200
    assert sum(served.values()) == 200 * (5 * 2 + 1), "each was served once"
    assert served[old] >= 500 and served[new] >= 200


async def test_close_of_a_silent_client_still_writes_its_events() -> None:
    server = Server(limits=LIMITS)
    work, events = Blocked(), list[Any]()
    server.on("work", work)
    server.on("log", events.append)
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as observed:
            request = start(observed.client.request("work"))
            await turns_until(lambda: work.started)
            closing = start(server.close(drain=LONG))
            await silent(observed.client)
            await observed.client.emit("log", "bye")
            late = start(observed.client.request("work"))
            await asyncio.sleep(0)
        with pytest.raises(ConnectionLost) as lost:
            await late
        assert lost.value.outcome == "not_sent"
        await asyncio.gather(request, return_exceptions=True)
        await closing
        assert events == ["bye"]


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("extensions", [True, False], ids=["wsrpc", "plain"])
async def test_what_does_not_end_in_time_is_cut_off(extensions: bool, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)
    work, closed = Blocked(), list[Any]()
    server.on("work", work)

    @server.on("feed")
    async def feed() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            closed.append(exc.args[0])
            raise

    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url, extensions=extensions) as observed:
            request = start(observed.client.request("work"))
            stream = observed.client.stream("feed")
            assert await anext(stream) == 0
            await turns_until(lambda: work.started)
            await server.close(drain=0.05)
            assert await observed.closed_with_1012()
            for end in (request, anext(stream)):
                with pytest.raises(ConnectionLost) as lost:
                    await end
                assert (lost.value.code, lost.value.outcome) == (1012, "unknown")
            assert len(work.cancelled) == len(closed) == 1
    assert [text for text in messages(caplog) if "drain" in text] == [
        "draining timed out: closing 1 connections that still have active work"
    ]


async def test_another_close_cuts_it_short() -> None:
    server = Server(limits=LIMITS)
    work = Blocked()
    server.on("work", work)
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as observed:
            request = start(observed.client.request("work"))
            await turns_until(lambda: work.started)
            closing = start(server.close(drain=LONG))
            serving = start(server.serve_forever())
            await silent(observed.client)
            longer = start(server.close(drain=10 * LONG))
            await asyncio.sleep(0)
            assert not (closing.done() or longer.done() or serving.done()) and observed.client.connected
            ends = [start(server.close()) for _ in range(3)]
            while not closing.done():
                ends.append(start(server.close(drain=0.0)))  # in each turn, whatever state it is in
                await asyncio.sleep(0)
            await asyncio.gather(longer, serving, *ends)
            assert await observed.closed_with_1012()
            assert len(work.cancelled) == 1
            with pytest.raises(ConnectionLost):
                await request
            await server.close(drain=LONG)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_smaller_drain_shortens_it_also_before_it_begins(begun: bool) -> None:
    server = Server(limits=LIMITS)
    work = Blocked()
    server.on("work", work)
    async with asyncio.timeout(8), server.listen() as listener:
        async with raw_client(listener.port) as raw:
            await raw.send(raw.frame(TEXT, '{"i":1,"a":["work"]}'))
            await turns_until(lambda: work.started)
            closings = [start(server.close(drain=LONG))]
            if begun:
                await turns_until(lambda: "draining" in repr(server))
            closings.append(start(server.close(drain=0.01)))
            assert (await raw.next_of(CLOSE)).code == 1012
            raw.drop()
            await asyncio.gather(*closings)


async def test_leaving_the_block_ends_it() -> None:
    server = Server(limits=LIMITS)
    work = Blocked()
    server.on("work", work)
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            observed = Observed(listener.url)
            await observed.client.connect()
            request = start(observed.client.request("work"))
            await turns_until(lambda: work.started)
            closing = start(server.close(drain=LONG))
            await silent(observed.client)
        assert closing.done() and await observed.closed_with_1012()
        await asyncio.gather(request, return_exceptions=True)
        await observed.client.close()


@pytest.mark.parametrize("where", ["request", "event", "open", "conversation"])
async def test_a_handler_that_drains_does_not_wait_for_itself(where: str) -> None:
    server = Server(limits=LIMITS)
    begun = asyncio.Event()

    async def leave() -> None:
        begun.set()
        await server.close(drain=LONG)

    if where == "conversation":

        @server.on("leave")
        async def talk(channel: AnonymousChannel) -> None:
            await leave()
    else:
        server.on("open" if where == "open" else "leave", leave)
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as observed:
            task = None
            if where == "request":
                task = start(observed.client.request("leave"))
            elif where == "event":
                await observed.client.emit("leave")
            elif where == "conversation":
                task = start(observed.client.open_channel("leave"))
            await begun.wait()
            assert await observed.closed_with_1012()
            if task is not None:
                await asyncio.gather(task, return_exceptions=True)
            await server.serve_forever()


async def test_a_handler_that_closes_during_a_drain_is_not_waited_for() -> None:
    server = Server(limits=LIMITS)
    go_on, begun = asyncio.Event(), asyncio.Event()

    @server.on("leave")
    async def leave() -> None:
        begun.set()
        await go_on.wait()
        await server.close(drain=LONG)

    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as one, Observed(listener.url) as other:
            requests = [start(each.client.request("leave")) for each in (one, other)]
            await begun.wait()
            closing = start(server.close(drain=LONG))
            await silent(one.client)
            await silent(other.client)
            go_on.set()
            assert await one.closed_with_1012() and await other.closed_with_1012()
            await asyncio.gather(*requests, return_exceptions=True)
            await closing


async def test_nobody_new_is_let_in() -> None:
    server = Server(limits=LIMITS)
    work = Blocked()
    server.on("work", work)
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as observed:
            request = start(observed.client.request("work"))
            await turns_until(lambda: work.started)
            closing = start(server.close(drain=LONG))
            await silent(observed.client)
            with pytest.raises(OSError):
                async with raw_client(listener.port):
                    pytest.fail("accepted")
            with pytest.raises(RuntimeError, match="still closing"):
                async with server.listen():
                    pytest.fail("it listens")
            work.go.set()
            await request
            await closing


async def test_a_drain_of_nobody_is_over_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    async with asyncio.timeout(8):
        server = Server()
        await server.close(drain=float("inf"))
        assert repr(server) == "<Server closed>"
    assert "draining: 0 connections, at most" in caplog.text
    for nonsense in (-1, float("nan")):
        with pytest.raises(ValueError, match="drain="):
            await Server().close(drain=nonsense)


async def test_a_client_that_leaves_or_drops_meanwhile_holds_nothing_up() -> None:
    server = Server(limits=LIMITS)
    work = Blocked()
    server.on("work", work)
    async with asyncio.timeout(8), server.listen() as listener:
        async with Observed(listener.url) as leaves, Observed(listener.url) as drops, raw_client(listener.port) as raw:
            asked = [start(each.client.request("work")) for each in (leaves, drops)]
            await raw.send(raw.frame(TEXT, '{"i":1,"a":["work"]}'))
            await turns_until(lambda: len(work.started) == 3)
            closing = start(server.close(drain=LONG))
            await silent(drops.client)
            await leaves.client.close()
            drops.client.peer.info.underlying.transport.abort()
            raw.reset()
            await closing
            await asyncio.gather(*asked, return_exceptions=True)


async def test_a_slow_reader_gets_all_that_was_accepted() -> None:
    """More than the closing handshake would wait for."""
    server = Server(limits=LIMITS.replace(close_timeout=0.2))
    async with asyncio.timeout(20), server.listen() as listener:
        async with raw_client(listener.port, receive_buffer=4096) as raw:
            await turns_until(lambda: server.peers)
            [peer] = server.peers
            for number in range(64):
                peer.emit_nowait("part", number, "x" * 65536)
            late = start(peer.emit("last"))
            await asyncio.sleep(0)
            assert peer.transport is not None and peer.transport.unsent > 1_000_000
            closing = start(server.close(drain=LONG))
            await timers_due(0.2)  # as long as a closing handshake may take
            assert [(await said(raw))["a"][1] for _ in range(64)] == list(range(64))
            assert await said(raw) == {"a": ["last"]}
            assert (await raw.next_of(CLOSE)).code == 1012
            raw.drop()
            await late
            await closing


async def test_a_megabyte_emitted_right_before_a_client_closes_arrives() -> None:
    server = Server(limits=LIMITS)
    arrived: asyncio.Queue[int] = asyncio.Queue()
    server.on("blob", lambda text: arrived.put_nowait(len(text)))
    async with asyncio.timeout(8), server.listen() as listener:
        client = Client(listener.url, limits=LIMITS)
        await client.connect()
        client.emit_nowait("blob", "x" * 1_000_000)
        client.emit_nowait("blob", "")
        await client.close()
        assert (await arrived.get(), await arrived.get()) == (1_000_000, 0)

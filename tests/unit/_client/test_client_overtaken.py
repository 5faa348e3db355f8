"""`Client`: calls of connect, bind and close that overtake each other. The last one decides."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, raw_server

from wsrpc import (
    Client,
    CloseInfo,
    ConnectFailed,
    ConnectionLost,
    HandshakeRejected,
    Limits,
    Peer,
    Reconnect,
    ReconnectInfo,
    Server,
    dial,
)
from wsrpc.testing import ScriptedTransport, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


def named(name: str) -> Server:
    server = Server(limits=LIMITS)
    server.on("who", lambda: name)
    return server


async def never(url: str, **options: Any) -> ScriptedTransport:
    """Dial without end."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def test_bind_from_two_tasks_at_once() -> None:
    endings: list[CloseInfo] = []
    client = Client(limits=LIMITS)
    go_on = asyncio.Event()

    @client.on("open")
    async def opened() -> None:
        await go_on.wait()

    client.on("close", lambda peer, info: endings.append(info))
    async with named("one").listen() as one, named("two").listen() as two:
        first = asyncio.create_task(client.bind(await dial(one.url, limits=LIMITS)))
        second = asyncio.create_task(client.bind(await dial(two.url, limits=LIMITS)))
        await turns_until(lambda: endings)
        go_on.set()
        with pytest.raises(ConnectionLost, match="another connection was bound") as caught:
            await first
        assert caught.value.code == 1001
        await second
        assert await client.request("who") == "two"
        assert [(info.code, info.will_reconnect) for info in endings] == [(1001, True)]
        await client.close()


async def test_many_binds_leave_one_connection() -> None:
    client, server = Client(limits=LIMITS), named("it")
    told: list[ReconnectInfo] = []
    client.on_reconnect(told.append)
    async with server.listen() as listener:
        for _ in range(20):
            await client.bind(await dial(listener.url, limits=LIMITS))
            assert await client.request("who") == "it"
        await turns_until(lambda: len(server.peers) == 1)
        assert [(info.attempts, info.downtime, info.resumed) for info in told] == [(0, 0.0, False)] * 19
        await client.close()


async def test_an_open_handler_that_binds_in_its_first_step_which_may_run_at_once() -> None:
    """What then ends the second connection stops its handlers, which have no say in when the third one is open."""
    dialed, accepted = zip(*(memory_transports() for _ in range(3)), strict=True)
    client, server = Client(limits=LIMITS), named("it")
    begun: list[int] = []
    stopped: list[int] = []
    go_on = asyncio.Event()

    @client.on("open")
    async def opened() -> None:
        number = len(begun)
        begun.append(number)
        try:
            if number == 0:
                await client.bind(dialed[1])
            await go_on.wait()
        except asyncio.CancelledError:
            stopped.append(number)
            raise

    accepting = [asyncio.create_task(server.accept(each)) for each in accepted]
    first = asyncio.create_task(client.bind(dialed[0]))
    await turns_until(lambda: len(begun) == 2)
    with pytest.raises(ConnectionLost, match="another connection was bound") as caught:
        await first
    assert caught.value.code == 1001
    dialed[1].abort()
    await turns_until(lambda: client.state == "idle")
    third = asyncio.create_task(client.bind(dialed[2]))
    await turns_until(lambda: len(begun) == 3)
    await turns_until(lambda: len(stopped) == 2)
    assert sorted(stopped) == [0, 1]
    assert client.state == "opening"
    assert not third.done()
    go_on.set()
    await third
    assert await client.request("who") == "it"
    await client.close()
    await asyncio.gather(*accepting)


async def test_a_close_handler_that_binds_overtakes_the_bind_that_ended_the_connection() -> None:
    client = Client(limits=LIMITS)
    third: list[Any] = []
    outcomes: list[object] = []

    async with named("one").listen() as one, named("two").listen() as two, named("three").listen() as three:
        third.append(await dial(three.url, limits=LIMITS))

        @client.on("close")
        async def closed(peer: Peer, info: CloseInfo) -> None:
            if third:
                await client.bind(third.pop())
                outcomes.append("bound")

        await client.bind(await dial(one.url, limits=LIMITS))
        try:
            await client.bind(await dial(two.url, limits=LIMITS))
        except ConnectionLost as exc:
            outcomes.append(exc.code)
        await turns_until(lambda: "bound" in outcomes)
        # Where a coroutine's first step runs at once, the handler's bind comes within the other one.
        assert await client.request("who") == "three"
        await client.close()


@pytest.mark.parametrize("dials", [False, True])
async def test_a_close_handler_that_closes_overtakes_what_ended_the_connection(dials: bool) -> None:
    server = named("it")
    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS)
        answered: list[str] = []

        @client.on("close")
        async def closed(peer: Peer, info: CloseInfo) -> None:
            # Where a coroutine's first step runs at once, that is within the other call.
            await client.close(4000, "enough")
            answered.append(client.state)

        await client.connect()
        if dials:
            closing = asyncio.create_task(client.close())
            await asyncio.sleep(0)
            with pytest.raises(ConnectionLost):
                await client.connect()
            await closing
        else:
            with suppress(ConnectionLost):  # on Python 3.11 it is closed after it was bound
                await client.bind(await dial(listener.url, limits=LIMITS))
        await turns_until(lambda: answered)
        assert answered[0] == client.state == "closed" and not client.connected
        await turns_until(lambda: not server.peers)


async def test_bind_right_after_close_and_the_close_still_has_its_code() -> None:
    client, server = Client(limits=LIMITS), named("one")
    endings: list[CloseInfo] = []
    over_there: asyncio.Queue[CloseInfo] = asyncio.Queue()
    client.on("close", lambda peer, info: endings.append(info))
    server.on("close", lambda peer, info: over_there.put_nowait(info))
    async with server.listen() as one, named("two").listen() as two:
        await client.bind(await dial(one.url, limits=LIMITS))
        transport = await dial(two.url, limits=LIMITS)
        closing = asyncio.create_task(client.close(4000, "enough"))
        await asyncio.sleep(0)
        states = [client.state]
        await client.bind(transport)
        await closing
        states.append(client.state)
        assert states == ["closing", "connected"]
        assert await client.request("who") == "two"
        assert [(info.code, info.reason, info.user_closed) for info in endings] == [(4000, "enough", True)]
        assert (await over_there.get()).code == 4000
        await client.close()


async def test_a_connect_during_a_close_that_is_refused_and_then_the_old_connection_ends() -> None:
    urls: list[str] = []
    endings: asyncio.Queue[CloseInfo] = asyncio.Queue()

    def url() -> str:
        if not urls:
            raise HandshakeRejected(403)
        return urls.pop()

    async with raw_server() as raw:
        urls.append(raw.url)
        client = Client(url, limits=LIMITS)
        client.on("close", lambda peer, info: endings.put_nowait(info))
        connecting = asyncio.create_task(client.connect())
        there = await raw.accept()
        await connecting
        closing = asyncio.create_task(client.close())
        await there.next_of(CLOSE)
        with pytest.raises(HandshakeRejected):
            await client.connect()
        assert client.state == "closed" and endings.empty()
        there.drop()
        info = await endings.get()
        assert (info.user_closed, info.will_reconnect) == (True, False)
        await closing


async def test_connect_during_a_close_dials_and_a_handler_of_the_new_connection_is_left_alone() -> None:
    """The earlier close waits for event handlers, and cancels late ones: not those of the next connection."""
    server = named("it")
    limits = Limits(close_timeout=0.2)
    async with server.listen() as listener:
        client = Client(listener.url, limits=limits)
        release, running, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @client.on("hold")
        async def hold() -> None:
            running.set()
            await release.wait()
            finished.set()

        await client.connect()
        await server.peers[0].emit("hold")
        await running.wait()
        running.clear()
        closing = asyncio.create_task(client.close())
        await turns_until(lambda: client.state == "closing" and client.peer.transport is None)
        await client.connect()
        assert await client.request("who") == "it"
        await server.peers[-1].emit("hold")
        await running.wait()
        await closing  # whatever it waited for
        assert client.state == "connected" and not finished.is_set()
        release.set()
        await finished.wait()
        await client.close()


async def test_close_during_a_bind_tells_the_bind() -> None:
    client, server = Client(limits=LIMITS), named("it")
    opening, may_end = asyncio.Event(), asyncio.Event()

    @client.on("open")
    async def opened() -> None:
        opening.set()
        await may_end.wait()

    ours, theirs = memory_transports()
    accepting = asyncio.create_task(server.accept(theirs))
    binding = asyncio.create_task(client.bind(ours))
    await opening.wait()
    closing = asyncio.create_task(client.close(4001, "stop"))
    with pytest.raises(ConnectionLost) as caught:
        await binding
    assert caught.value.code == 4001
    assert not closing.done(), "this side closed, so the `open` handler is left to finish"
    may_end.set()
    await closing
    await accepting
    await server.close()


async def test_a_thing_that_is_no_transport_changes_nothing() -> None:
    client, server = Client(limits=LIMITS), named("it")
    async with server.listen() as listener:
        transport = await dial(listener.url, limits=LIMITS)
        await client.bind(transport)
        nothing: Any = object()
        with pytest.raises(TypeError, match="takes a transport"):
            await client.bind(nothing)
        with pytest.raises(ValueError, match="bound already"):
            await client.bind(transport)
        assert client.state == "connected"
        assert await client.request("who") == "it"
        await client.close()


async def test_a_bound_client_with_a_url_dials_after_a_drop() -> None:
    server = named("it")
    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS, reconnect=Reconnect(initial=0.001, max=0.001))
        told: asyncio.Queue[ReconnectInfo] = asyncio.Queue()
        client.on_reconnect(told.put_nowait)
        transport = await dial(listener.url, limits=LIMITS)
        await client.bind(transport)
        transport.abort()
        info = await told.get()
        assert info.attempts == 1 and info.downtime > 0
        assert await client.request("who") == "it"
        await client.close()


async def test_what_waits_rides_over_a_bind() -> None:
    client, server = Client(limits=LIMITS), named("it")
    go_on = asyncio.Event()
    client.on("open", go_on.wait)
    async with server.listen() as listener:
        first = asyncio.create_task(client.bind(await dial(listener.url, limits=LIMITS)))
        await turns_until(lambda: client.state == "opening")
        waiting = asyncio.create_task(client.request("who"))
        await asyncio.sleep(0)
        second = asyncio.create_task(client.bind(await dial(listener.url, limits=LIMITS)))
        with pytest.raises(ConnectionLost):
            await first
        go_on.set()
        await second
        assert await waiting == "it"
        await client.close()


async def test_close_from_within_an_option_that_is_asked_at_each_attempt() -> None:
    client: Client

    async def url() -> str:
        await client.close()
        return "ws://127.0.0.1:1/"

    client = Client(url, limits=LIMITS)
    with pytest.raises(ConnectionLost) as caught:
        await client.connect()
    assert caught.value.outcome == "not_sent"
    await turns_until(lambda: client.state == "closed")


async def test_bind_right_after_the_close_of_a_client_that_was_never_used() -> None:
    client, server = Client(limits=LIMITS), named("it")
    async with server.listen() as listener:
        transport = await dial(listener.url, limits=LIMITS)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        binding = asyncio.create_task(client.bind(transport))
        again = asyncio.create_task(client.close())
        await asyncio.wait([closing, binding, again])
        assert client.state == "closed"
        await turns_until(lambda: not server.peers)


async def test_bind_right_after_the_close_of_a_client_that_dials() -> None:
    client, server = Client("ws://localhost/", dial=never, limits=LIMITS), named("it")
    endings: list[CloseInfo] = []
    client.on("close", lambda peer, info: endings.append(info))
    async with server.listen() as listener:
        transport = await dial(listener.url, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        await turns_until(lambda: client.state == "connecting")
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        await client.bind(transport)
        with pytest.raises(ConnectionLost):
            await connecting
        await closing
        assert (client.state, endings) == ("connected", [])
        assert await client.request("who") == "it"
        await client.close()


async def test_the_time_of_a_connect_ends_no_connection_that_was_bound_meanwhile() -> None:
    dialed, bound = ScriptedTransport(), ScriptedTransport()

    async def dial_here(url: str, **options: Any) -> ScriptedTransport:
        return dialed

    client = Client("ws://localhost/", dial=dial_here, connect_timeout=0.05, limits=LIMITS, extensions=False)
    may_open = asyncio.Event()
    client.on("open", may_open.wait)
    connecting = asyncio.create_task(client.connect())
    await turns_until(lambda: client.state == "opening")
    binding = asyncio.create_task(client.bind(bound))
    await turns_until(lambda: client.peer.transport is bound)
    with pytest.raises(ConnectFailed):
        await connecting
    for _ in range(5):
        await asyncio.sleep(0)
    assert (client.state, client.connected) == ("opening", True)
    may_open.set()
    await binding
    state: str = client.state
    assert state == "connected" and bound.closed is None
    await client.close()

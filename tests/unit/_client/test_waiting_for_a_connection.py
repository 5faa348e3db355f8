"""Whoever waits for a connection is told: it is there, or there will be none."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import pytest
from core_driver import messages, turns
from leftovers import nothing_left as nothing_left
from leftovers import other_tasks, turns_until
from tenacity import stop_after_attempt

from wsrpc import (
    Client,
    ConnectFailed,
    ConnectionLost,
    Limits,
    Peer,
    Reconnect,
    ReconnectInfo,
    RequestTimeout,
    Retry,
    Server,
)
from wsrpc.testing import ScriptedTransport, memory_transports

clean = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=20.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)
NEVER = Reconnect(initial=100_000.0, max=100_000.0)
NOBODY = "ws://127.0.0.1:1/"

How = Literal["connect", "wait_connected"]


def echoing() -> Server:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    return server


def drop(client: Client) -> None:
    client.peer.info.underlying.transport.abort()


# ---------------------------------------------------------------- without reconnecting


@clean
@pytest.mark.parametrize("end", ["drop", "peer.close"])
async def test_a_close_handler_dials_again(end: str) -> None:
    async with asyncio.timeout(8):
        async with echoing().listen() as listener:
            client = Client(listener.url, limits=LIMITS, reconnect=None)
            again = asyncio.Event()

            async def dial_again() -> None:
                await client.connect()
                again.set()

            client.once("close", dial_again)
            await client.connect()
            if end == "drop":
                drop(client)
            else:
                await client.peer.close()
            await again.wait()
            assert client.state == "connected"
            assert await client.request("echo", 1) == 1
            await client.close()


@clean
async def test_except_connection_lost_dials_again() -> None:
    server = echoing()
    started = asyncio.Event()

    @server.on("slow")
    async def slow() -> None:
        started.set()
        await asyncio.Event().wait()

    async def ask_again(client: Client) -> Any:
        try:
            return await client.request("slow")
        except ConnectionLost:
            await client.connect()
            return await client.request("echo", "again")

    async with asyncio.timeout(8):
        async with server.listen() as listener:
            async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
                asking = asyncio.create_task(ask_again(client))
                await started.wait()
                drop(client)
                assert await asking == "again"


@clean
@pytest.mark.parametrize("where", ["close handler", "except"])
async def test_wait_connected_says_that_none_will_come(where: str) -> None:
    server = echoing()
    started = asyncio.Event()

    @server.on("slow")
    async def slow() -> None:
        started.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(8):
        async with server.listen() as listener:
            async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
                told = asyncio.get_running_loop().create_future()

                async def wait() -> None:
                    try:
                        await client.wait_connected()
                    except ConnectionLost as exc:
                        told.set_result(exc)

                async def ask() -> None:
                    try:
                        await client.request("slow")
                    except ConnectionLost:
                        if where == "except":
                            await wait()

                if where == "close handler":
                    client.on("close", wait)
                asking = asyncio.create_task(ask())
                await started.wait()
                drop(client)
                assert (await told).code == 1006
                await asking


# ---------------------------------------------------------------- cancelled calls


@clean
@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("how", ["connect", "wait_connected"])
async def test_a_cancelled_close_still_tells_those_who_wait(how: How, turns: int) -> None:
    client = Client(NOBODY, reconnect=NEVER, connect_timeout=None)
    dialing = asyncio.create_task(client.connect())
    waiting = asyncio.create_task(getattr(client, how)())
    await turns_until(lambda: client.state == "waiting")
    closing = asyncio.create_task(client.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(8):
        if turns:
            for task in (dialing, waiting):
                with pytest.raises(ConnectionLost):
                    await task
        await asyncio.gather(closing, return_exceptions=True)
        await client.close()
        await asyncio.gather(dialing, waiting, return_exceptions=True)
    assert client.state == "closed"


@clean
async def test_a_cancelled_bind_still_tells_those_who_wait() -> None:
    client, server = Client(limits=LIMITS), echoing()
    ours, theirs = memory_transports()
    running, go_on = asyncio.Event(), asyncio.Event()

    @client.on("open")
    async def opened() -> None:
        running.set()
        await go_on.wait()

    async with asyncio.timeout(8):
        waiting = asyncio.create_task(client.wait_connected())
        accepting = asyncio.create_task(server.accept(theirs))
        binding = asyncio.create_task(client.bind(ours))
        await running.wait()
        binding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await binding
        assert client.connected  # it stays bound
        go_on.set()
        await waiting
        await accepting
        assert await client.request("echo", 1) == 1
        await client.close()
        await server.close()


@clean
@pytest.mark.parametrize("turns", range(4))
async def test_a_cancelled_connect_leaves_nothing_and_can_be_repeated(turns: int) -> None:
    async with asyncio.timeout(8):
        async with echoing().listen() as listener:
            before = other_tasks()
            client = Client(listener.url, limits=LIMITS)
            connecting = asyncio.create_task(client.connect())
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await turns_until(lambda: not other_tasks() - before)
            assert client.state == "idle"
            async with client:
                assert await client.request("echo", 1) == 1


@clean
async def test_a_block_that_is_cancelled_while_open_handlers_run_leaves_nothing() -> None:
    server = echoing()
    running, cancelled = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            before = other_tasks()
            client = Client(listener.url, limits=LIMITS.replace(close_timeout=0.05), reconnect=AT_ONCE)

            @client.on("open")
            async def opened() -> None:
                running.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.set()
                    raise

            async def use() -> None:
                async with client:
                    pytest.fail("entered")

            using = asyncio.create_task(use())
            await running.wait()
            using.cancel()
            with pytest.raises(asyncio.CancelledError):
                await using
            assert cancelled.is_set()
            assert (client.state, client.connected) == ("closed", False)
            await turns_until(lambda: not server.peers)
            await turns_until(lambda: not other_tasks() - before)


@clean
@pytest.mark.parametrize("option", ["url", "headers", "auth"])
async def test_an_option_that_is_cancelled_inside_is_a_failed_attempt(option: str) -> None:
    asked = 0

    async def of_something_cancelled() -> Any:
        nonlocal asked
        asked += 1
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    twice = Reconnect(initial=0.001, max=0.001, stop=stop_after_attempt(2))
    options: dict[str, Any] = {"url": NOBODY, "reconnect": twice} | {option: of_something_cancelled}
    async with asyncio.timeout(8):
        client = Client(**options)
        with pytest.raises(ConnectFailed) as caught:
            await client.connect()
        assert "cancelled" in str(caught.value.last_error)
        assert asked == 2
        await client.close()


@clean
async def test_an_option_that_is_cancelled_once_does_not_stop_the_dialing() -> None:
    tokens = iter([None, "secret"])

    async def auth() -> str:
        token = next(tokens)
        if token is None:
            raise asyncio.CancelledError
        return token

    async with asyncio.timeout(8):
        async with echoing().listen() as listener:
            async with Client(listener.url, auth=auth, limits=LIMITS, reconnect=AT_ONCE) as client:
                assert await client.request("echo", 1) == 1


# ---------------------------------------------------------------- inside open handlers


@clean
@pytest.mark.parametrize("how", ["connect", "wait_connected"])
@pytest.mark.parametrize("kind", ["dialed", "bound"])
async def test_an_open_handler_may_make_sure_of_the_connection(how: How, kind: str) -> None:
    server = echoing()
    opened = 0
    client: Client
    async with asyncio.timeout(8):
        async with server.listen() as listener:
            client = Client(listener.url, limits=LIMITS.replace(open_handlers=20.0), reconnect=None)

            @client.on("open")
            async def on_open() -> None:
                nonlocal opened
                await getattr(client, how)()
                await client.emit("echo", "first")
                opened += 1

            if kind == "dialed":
                await client.connect()
            else:
                ours, theirs = memory_transports()
                await asyncio.gather(server.accept(theirs), client.bind(ours))
            assert opened == 1
            assert await client.request("echo", 1) == 1
            await client.close()


@clean
async def test_others_still_wait_for_open_handlers() -> None:
    running, go_on = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(8):
        async with echoing().listen() as listener:
            client = Client(listener.url, limits=LIMITS)

            @client.on("open")
            async def opened() -> None:
                running.set()
                await go_on.wait()

            connecting = asyncio.create_task(client.connect())
            await running.wait()
            waiting = asyncio.create_task(client.wait_connected())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done() and not connecting.done()
            go_on.set()
            await waiting
            await connecting
            await client.close()


# ---------------------------------------------------------------- bound connections


@clean
async def test_what_is_bound_while_dialing_wins_and_the_dialing_ends() -> None:
    by_hand = echoing()
    asked, ended = asyncio.Event(), asyncio.Event()

    async def url() -> str:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    async with asyncio.timeout(8):
        client = Client(url, limits=LIMITS)
        closings: list[Any] = []
        client.on("close", closings.append)
        connecting = asyncio.create_task(client.connect())
        await asked.wait()
        ours, theirs = memory_transports()
        await asyncio.gather(by_hand.accept(theirs), client.bind(ours))
        await ended.wait()
        await connecting
        assert await client.request("echo", 1) == 1
        assert client.peer.transport is ours
        assert closings == []
        await client.close()
        await by_hand.close()


@clean
async def test_after_a_bound_connection_is_lost_the_client_is_idle() -> None:
    client, server = Client(limits=LIMITS), echoing()
    states: list[str] = []
    client.on("close", lambda: states.append(client.state))
    async with asyncio.timeout(8):
        for _ in range(2):
            ours, theirs = memory_transports()
            await asyncio.gather(server.accept(theirs), client.bind(ours))
            states.append(client.state)
            theirs.abort()
            await client.peer.wait_closed()
            states.append(client.state)
        assert states == ["connected", "idle", "idle"] * 2
        await client.close()
        assert client.state == "closed"
        await server.close()


@clean
@pytest.mark.parametrize("name", ["connect", "close", "bind"])
async def test_in_another_thread_it_is_refused_also_while_it_dials(name: str) -> None:
    client = Client(NOBODY, reconnect=NEVER, connect_timeout=None)

    async def use() -> None:
        async with asyncio.timeout(5):
            await (client.bind(ScriptedTransport()) if name == "bind" else getattr(client, name)())

    connecting = asyncio.create_task(client.connect())
    await turns_until(lambda: client.state == "waiting")
    with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
        await asyncio.to_thread(asyncio.run, use())
    assert client.state == "waiting"
    assert not connecting.done()
    await client.close()
    with pytest.raises(ConnectionLost):
        await connecting


def test_a_client_that_was_connected_when_its_loop_ended_says_so() -> None:
    client = Client(NOBODY)

    async def leave_connected() -> None:
        ours, _ = memory_transports()
        await client.bind(ours)

    async def use_again() -> None:
        for use in (client.connect, client.connect, client.close, client.__aenter__, client.close):
            with pytest.raises(RuntimeError, match="event loop ended"):
                await use()
            assert client.state == "connected"

    asyncio.run(leave_connected())
    asyncio.run(use_again())
    gc.collect()


def test_who_waited_in_a_loop_that_has_ended_is_not_waited_for() -> None:
    async def never() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    client = Client(never, limits=LIMITS)
    first = asyncio.new_event_loop()
    left: list[asyncio.Task[None]] = []

    async def wait_here() -> None:
        left.append(asyncio.create_task(client.wait_connected()))
        await asyncio.sleep(0)

    async def wait_in_another() -> None:
        waiting = asyncio.create_task(client.wait_connected())
        await asyncio.sleep(0)
        ours, _ = memory_transports()
        await client.bind(ours)
        await waiting
        await client.close()
        connecting = asyncio.create_task(client.connect())
        await turns_until(lambda: client.state == "connecting")
        connecting.cancel()  # nobody else waits, so it stops dialing
        await asyncio.wait([connecting])
        assert client.state == "idle"

    first.run_until_complete(wait_here())
    asyncio.run(wait_in_another())
    left.pop().cancel()
    first.run_until_complete(asyncio.sleep(0))
    first.close()


@clean
async def test_on_reconnect_may_register_more_without_end() -> None:
    calls: list[str] = []
    told = asyncio.Event()
    async with asyncio.timeout(8):
        async with echoing().listen() as listener:
            async with Client(listener.url, limits=LIMITS, reconnect=AT_ONCE) as client:

                @client.on_reconnect
                def again(info: ReconnectInfo) -> None:
                    calls.append("again")
                    if len(calls) < 100:
                        client.on_reconnect(again)
                    told.set()

                for round_ in (1, 2):
                    told.clear()
                    drop(client)
                    await told.wait()
                    assert await client.request("echo", 1) == 1
                    # The second round calls those that the first has registered, and they register more for the third.
                    assert len(calls) == {1: 1, 2: 3}[round_]


@clean
async def test_connect_timeout_that_cuts_the_only_attempt_says_what_it_is() -> None:
    async def for_ever() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    client = Client(NOBODY, auth=for_ever, connect_timeout=0.05)
    with pytest.raises(ConnectFailed, match=r"connect_timeout=0\.05"):
        await client.connect()
    await client.close()


# ---------------------------------------------------------------- a server and what it is given


@clean
@pytest.mark.parametrize("thing", [object(), None, "ws://somewhere"])
async def test_accepting_what_is_no_transport_leaves_no_peer(thing: Any) -> None:
    server = Server(limits=LIMITS)
    with pytest.raises(TypeError, match="transport"):
        await server.accept(thing)
    assert server.peers == ()
    assert (await server.emit("x")).sent == 0
    await server.close()


@clean
async def test_a_ticker_that_an_open_handler_started_does_not_overtake_what_waits() -> None:
    client, server = Client(limits=LIMITS), Server(limits=LIMITS)
    heard: list[Any] = []
    everything = asyncio.Event()
    tick, running, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tickers: list[asyncio.Task[None]] = []

    @server.on("say")
    def say(what: Any) -> None:
        heard.append(what)
        if what == "ticker":
            everything.set()

    @client.on("open")
    async def opened(peer: Peer) -> None:
        async def ticker() -> None:
            await tick.wait()
            await peer.emit("say", "ticker")

        if not tickers:
            tickers.append(asyncio.create_task(ticker()))
            return
        running.set()
        await go_on.wait()
        await peer.emit("say", "hello")  # an `open` handler of the present connection goes first

    async with asyncio.timeout(8):
        ours, theirs = memory_transports()
        await asyncio.gather(server.accept(theirs), client.bind(ours))
        theirs.abort()
        await client.peer.wait_closed()
        for n in range(3):
            await client.emit("say", n)
        ours, theirs = memory_transports()
        both = asyncio.gather(server.accept(theirs), client.bind(ours))
        await running.wait()
        tick.set()
        for _ in range(10):
            await asyncio.sleep(0)
        go_on.set()
        await both
        await everything.wait()
        assert heard == ["hello", 0, 1, 2, "ticker"]
        await client.close()
        await server.close()
        await asyncio.gather(*tickers)


@clean
async def test_the_same_error_raised_again_and_again_has_the_same_traceback() -> None:
    client = Client(NOBODY, limits=LIMITS)
    await client.close()
    depths: set[int] = set()
    for _ in range(3):
        with pytest.raises(ConnectionLost) as caught:
            await client.wait_connected()
        depths.add(len(caught.traceback))
    assert len(depths) == 1


async def emit_at_once(client: Client) -> None:
    client.emit_nowait("note")


CALLS: dict[str, Callable[[Client], Coroutine[Any, Any, Any]]] = {
    "request": lambda client: client.request("add"),
    "retry": lambda client: client.request("add", retry=Retry()),
    "upload": lambda client: client.request("total", send=[1]),
    "emit": lambda client: client.emit("note"),
    "emit_nowait": emit_at_once,
    "stream": lambda client: anext(client.stream("count")),
    "open_channel": lambda client: client.open_channel("talk"),
    "channel": lambda client: client.of("chat").request("add"),
    "items": lambda client: anext(client.of("feed").items()),
    "send_raw": lambda client: client.send_raw("text"),
    "wait_connected": lambda client: client.wait_connected(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_call_on_a_client_that_was_never_connected_warns_at_once_what_to_do(
    call: Callable[[Client], Coroutine[Any, Any, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    client = Client("ws://127.0.0.1:1/")
    calling = asyncio.create_task(call(client))
    await turns()
    [text] = messages(caplog)
    assert "for a connection, but this client is not connecting: call connect()" in text
    calling.cancel()
    await asyncio.wait([calling])
    caplog.clear()
    with pytest.raises(RequestTimeout, match="nothing was sent"):
        await client.request("add", timeout=0.001)  # and not again
    assert not messages(caplog)
    await client.close()


async def test_waiting_for_bind_is_no_mistake(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    waiting = asyncio.create_task(client.wait_connected())
    await turns()
    assert not messages(caplog)
    await client.close()
    with pytest.raises(ConnectionLost):
        await waiting

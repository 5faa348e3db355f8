"""`Client.bind` and `Client(transport=...)`: connections that somebody else made."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Peer, ReconnectInfo, Server, current_context, dial
from wsrpc._client.client import core_of
from wsrpc._peer.core import PeerCore
from wsrpc.testing import ScriptedTransport, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


def echo_server() -> Server:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    return server


async def test_made_without_a_connection_handlers_first_then_bound() -> None:
    server = echo_server()
    client = Client(limits=LIMITS)
    client.on("name", lambda: "Ada")
    states = [client.state]
    assert not client.connected
    async with server.listen() as listener:
        await client.bind(await dial(listener.url, limits=LIMITS))
        states.append(client.state)
        assert states == ["idle", "connected"] and client.connected
        assert await client.request("echo", 1) == 1
        (peer,) = server.peers
        assert await peer.request("name") == "Ada"
        await client.close()
    assert client.state == "closed" and not client.connected


async def test_made_with_a_connection() -> None:
    async with echo_server().listen() as listener:
        async with Client(transport=await dial(listener.url, limits=LIMITS), limits=LIMITS) as client:
            assert await client.request("echo", "x") == "x"


async def test_made_with_a_connection_in_memory() -> None:
    server = echo_server()
    ours, theirs = memory_transports()
    accepting = asyncio.create_task(server.accept(theirs))
    async with Client(transport=ours, limits=LIMITS) as client:
        await accepting
        assert await client.request("echo", 2) == 2
    await server.close()


async def test_bound_again_after_a_drop_with_handlers_kept() -> None:
    server = echo_server()
    lost: asyncio.Queue[CloseInfo] = asyncio.Queue()
    opened: list[Peer] = []
    client = Client(limits=LIMITS)
    client.on("name", lambda: "Ada")
    client.of("side").on("name", lambda: "Bert")
    client.on("open", opened.append)
    client.on("close", lambda peer, info: lost.put_nowait(info))
    async with server.listen() as listener:
        for number in range(1, 4):
            transport = await dial(listener.url, limits=LIMITS)
            await client.bind(transport)
            assert len(opened) == number
            await client.emit("nobody listens")
            assert await client.request("echo", number) == number
            (peer,) = server.peers
            assert await peer.request("name") == "Ada"
            assert await peer.of("side").request("name") == "Bert"
            transport.abort()
            info = await lost.get()
            assert (info.code, info.user_closed, info.will_reconnect) == (1006, False, False)
            assert not client.connected
            await peer.wait_closed()
        await client.close()


async def test_over_a_live_connection_the_old_one_gets_1001_and_its_pending_requests_fail() -> None:
    first, second = Server(limits=LIMITS), echo_server()
    started, ended = asyncio.Event(), asyncio.get_running_loop().create_future()
    first.on("close", lambda peer, info: ended.set_result(info))

    @first.on("wait")
    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    infos: list[CloseInfo] = []
    client = Client(limits=LIMITS)
    client.on("close", lambda peer, info: infos.append(info))
    async with first.listen() as one, second.listen() as two:
        await client.bind(await dial(one.url, limits=LIMITS))
        pending = asyncio.create_task(client.request("wait"))
        await started.wait()
        await client.bind(await dial(two.url, limits=LIMITS))
        with pytest.raises(ConnectionLost) as caught:
            await pending
        assert (caught.value.code, caught.value.outcome) == (1001, "unknown")
        info = await ended
        assert (info.code, info.was_clean) == (1001, True)
        assert [(info.code, info.user_closed) for info in infos] == [(1001, False)]
        assert await client.request("echo", "on the second") == "on the second"
        await client.close()


async def test_bind_in_an_open_handler_that_is_a_plain_function() -> None:
    """The other handlers wait for the second connection's opening, and run for that one only."""
    client, begun, ended = Client(limits=LIMITS), list[int](), list[int]()
    may_end = asyncio.Event()
    ends = [memory_transports() for _ in range(2)]

    @client.on("open")
    def bind_once(peer: Peer) -> None:
        if peer.transport is ends[0][0]:
            peer.bind(ends[1][0])

    @client.on("connect")
    async def opened(peer: Peer) -> None:
        begun.append([peer.transport is mine for mine, _ in ends].index(True))
        await may_end.wait()
        ended.append(1)

    binding = asyncio.create_task(client.bind(ends[0][0]))
    await turns_until(lambda: begun)
    assert client.state == "opening"
    with pytest.raises(ConnectionLost, match="another connection was bound"):
        await binding
    waiting = asyncio.create_task(client.wait_connected())
    await asyncio.sleep(0)
    assert not waiting.done()
    may_end.set()
    await waiting
    assert client.peer.transport is ends[1][0] and (begun, ended) == ([1], [1])
    await client.close()


async def test_a_request_made_inside_open() -> None:
    answers = []
    client = Client(limits=LIMITS)

    @client.on("open")
    async def opened(peer: Peer) -> None:
        answers.append(await peer.request("echo", "peer"))
        answers.append(await client.request("echo", "client"))

    async with echo_server().listen() as listener:
        await client.bind(await dial(listener.url, limits=LIMITS))
        assert answers == ["peer", "client"]
        await client.close()


async def test_both_sides_request_inside_open() -> None:
    answers: asyncio.Queue[str] = asyncio.Queue()
    server = echo_server()
    client = Client(limits=LIMITS)
    client.on("name", lambda: "Ada")

    @server.on("open")
    async def accepted(peer: Peer) -> None:
        answers.put_nowait(await peer.request("name", returns=str))

    @client.on("open")
    async def opened(peer: Peer) -> None:
        answers.put_nowait(await peer.request("echo", "x", returns=str))

    async with server.listen() as listener:
        await client.bind(await dial(listener.url, limits=LIMITS))
        assert {await answers.get(), await answers.get()} == {"Ada", "x"}
        await client.close()


async def test_what_was_sent_before_bind_leaves_after_open_in_order() -> None:
    server = Server(limits=LIMITS)
    heard: asyncio.Queue[str] = asyncio.Queue()
    server.on("say", heard.put_nowait)
    client = Client(limits=LIMITS)

    @client.on("open")
    async def opened(peer: Peer) -> None:
        await peer.emit("say", "in open")

    await client.emit("say", "1")
    client.emit_nowait("say", "2")
    await client.emit("say", "3")
    async with server.listen() as listener:
        await client.bind(await dial(listener.url, limits=LIMITS))
        await client.emit("say", "4")
        assert [await heard.get() for _ in range(5)] == ["in open", "1", "2", "3", "4"]
        await client.close()


async def test_bind_after_close_opens_it_again() -> None:
    client = Client(limits=LIMITS)
    async with echo_server().listen() as listener:
        for _ in range(2):
            await client.bind(await dial(listener.url, limits=LIMITS))
            assert await client.request("echo", 1) == 1
            await client.close()
            with pytest.raises(ConnectionLost) as caught:
                await client.emit("too late")
            assert caught.value.outcome == "not_sent"


async def test_bind_of_a_connection_that_is_over_already() -> None:
    lost: asyncio.Queue[CloseInfo] = asyncio.Queue()
    client = Client(limits=LIMITS)
    client.on("close", lambda peer, info: lost.put_nowait(info))
    async with echo_server().listen() as listener:
        transport = await dial(listener.url, limits=LIMITS)
        transport.abort()
        await transport.close()
        await client.bind(transport)
        assert (await lost.get()).code == 1006
        await client.close()


async def test_bind_from_within_close_brings_it_back() -> None:
    client = Client(limits=LIMITS)
    back = asyncio.Event()
    async with echo_server().listen() as listener:

        @client.on("close")
        async def closed(peer: Peer, info: CloseInfo) -> None:
            if not info.user_closed:
                await client.bind(await dial(listener.url, limits=LIMITS))
                back.set()

        first = await dial(listener.url, limits=LIMITS)
        await client.bind(first)
        first.abort()
        await back.wait()
        assert await client.request("echo", 1) == 1
        await client.close()


def test_a_url_and_a_transport_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        Client("ws://127.0.0.1:1/", transport=object())  # type: ignore[arg-type]


async def test_connect_without_a_url_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="bind"):
        await Client().connect()


async def test_a_bind_that_is_cancelled_stays_bound_and_on_reconnect_is_called() -> None:
    server = echo_server()
    client = Client(limits=LIMITS)
    ready = asyncio.Event()
    told: asyncio.Queue[ReconnectInfo] = asyncio.Queue()
    client.on("open", ready.wait)
    client.on_reconnect(told.put_nowait)
    async with server.listen() as listener:
        ready.set()
        await client.bind(await dial(listener.url, limits=LIMITS))
        ready.clear()
        binding = asyncio.create_task(client.bind(await dial(listener.url, limits=LIMITS)))
        await turns_until(lambda: client.state == "opening")
        binding.cancel()
        await asyncio.wait([binding])
        assert told.empty()
        ready.set()
        info = await told.get()
        assert (info.attempts, info.downtime) == (0, 0.0)
        await client.wait_connected()
        assert client.state == "connected" and await client.request("echo", 1) == 1
        await client.close()
    assert told.empty()


async def test_a_connection_that_ends_when_what_waited_is_sent_is_not_open() -> None:
    client = Client(limits=LIMITS)
    waiting = asyncio.create_task(client.wait_connected())
    await client.emit("waits")
    ours, _ = memory_transports()
    ours.close_soon(4000, "gone")
    with pytest.raises(ConnectionLost) as caught:
        await client.bind(ours)
    assert caught.value.code == 4000
    assert client.state == "idle" and not waiting.done()
    await client.close()
    with pytest.raises(ConnectionLost):
        await waiting


async def test_over_a_connection_that_is_closing_there_was_no_time_without_one() -> None:
    class Slow(ScriptedTransport):
        """The other side does not answer the Close frame for a while."""

        async def close(self, code: int | None = 1000, reason: str = "") -> None:
            await answered.wait()
            await super().close(code, reason)

    answered = asyncio.Event()
    infos: list[ReconnectInfo] = []
    line = Slow()
    client = Client(transport=line, extensions=False)
    client.on_reconnect(infos.append)
    async with client:
        line.feed(*["{"] * 11)
        assert not client.connected
        assert client.peer.transport is line
        await client.bind(ScriptedTransport())
        answered.set()
    assert [info.downtime for info in infos] == [0.0]


async def handler_that_runs_on(client: Client, server: Server) -> None:
    started = asyncio.Event()

    async def run_on() -> None:
        started.set()
        await asyncio.Event().wait()

    client.on("run", run_on)
    (peer,) = server.peers
    await peer.emit("run")
    await started.wait()


@pytest.mark.parametrize(
    ("keep", "most"),
    [
        (lambda client, server: None, 1),
        (lambda client, server: client.events("news"), 1),
        (lambda client, server: client.of("side").events("news"), 1),
        (lambda client, server: client.open_channel("conversation"), 2),  # that of the channel
        (handler_that_runs_on, 2),
    ],
    ids=["nothing", "events", "named", "channel", "handler"],
)
async def test_what_a_user_keeps_from_one_session_keeps_no_later_ones(
    keep: Callable[[Client, Server], Any], most: int
) -> None:
    server = Server(limits=LIMITS)
    server.on("conversation", lambda: current_context().channel())
    client = Client(limits=LIMITS.replace(close_timeout=0.01))
    kept: Any = None
    for number in range(10):
        ours, theirs = memory_transports()
        accepting = asyncio.create_task(server.accept(theirs))
        await client.bind(ours)
        await accepting
        if number == 0:
            kept = keep(client, server)
            if asyncio.iscoroutine(kept):
                kept = await kept
        ours.abort()
        await turns_until(lambda: not client.connected and not server.peers)
    gc.collect()
    peer = core_of(client).peer
    assert sum(isinstance(found, PeerCore) and found.peer is peer for found in gc.get_objects()) == most
    await client.close()
    await server.close()
    del kept


async def test_handlers_that_bind_the_next_connection_keep_no_sessions() -> None:
    server = Server(limits=LIMITS)
    client = Client(limits=LIMITS)
    bound = asyncio.Event()

    async def move() -> None:
        ours, theirs = memory_transports()
        accepting = asyncio.create_task(server.accept(theirs))
        await client.bind(ours)
        await accepting
        bound.set()

    client.on("move", move)
    await move()
    for _ in range(10):
        bound.clear()
        (peer,) = server.peers
        await peer.emit("move")
        await bound.wait()
        await turns_until(lambda: len(server.peers) == 1 and client.peer.active == 0)
    gc.collect()
    peer = core_of(client).peer
    # Timers of the present connection run in the context of the handler that has bound it, and may keep its session.
    assert sum(isinstance(found, PeerCore) and found.peer is peer for found in gc.get_objects()) <= 2
    await client.close()
    await server.close()


async def test_senders_that_wait_for_room_use_what_a_close_handler_has_bound() -> None:
    client = Client(limits=LIMITS)
    first, second = ScriptedTransport(), ScriptedTransport()
    bindings: list[ScriptedTransport] = []

    def bind_second(peer: Peer, info: CloseInfo) -> None:
        if not bindings:
            bindings.append(second)
            with pytest.raises(StopIteration):  # it is done at once, as in a task that is eager
                client.bind(second).send(None)

    client.on("close", bind_second)
    await client.bind(first)
    first.pause()
    waiting = asyncio.create_task(client.emit("news", 1))
    bound = asyncio.create_task(client.emit("news", 2, offline="fail"))
    await asyncio.sleep(0)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    first.lose()
    await waiting
    with pytest.raises(ConnectionLost):
        await bound
    await closing
    assert [message["a"] for message in second.take() if "a" in message] == [["news", 1]]
    await client.close()

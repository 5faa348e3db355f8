"""`Client` after a drop: it dials again, tells what happens, and keeps what waits."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from raw_websocket import CLOSE, TEXT, RawPeer, raw_server

from wsrpc import (
    Client,
    CloseInfo,
    ConnectFailed,
    ConnectionLost,
    HandshakeRejected,
    Limits,
    Peer,
    QueueFull,
    Reconnect,
    ReconnectInfo,
    RequestTimeout,
    Server,
    dial,
)
from wsrpc._client.client import core_of

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0, replay=0)  # sessions end with their connections
AT_ONCE = Reconnect(initial=0.001, max=0.001)
NEVER = Reconnect(initial=100_000.0, max=100_000.0)
"""Long enough that a test which waits for it fails (the delay is random, but not that random)."""


class Story:
    """What a client told, in order, with a way to wait for the next piece."""

    def __init__(self, client: Client) -> None:
        self.closed: list[CloseInfo] = []
        self.reconnected: list[ReconnectInfo] = []
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        client.on("open", lambda peer: self.queue.put_nowait("open"))
        client.on("close", self._close)
        client.on_reconnect(self._reconnect)

    def _close(self, peer: Peer, info: CloseInfo) -> None:
        self.closed.append(info)
        self.queue.put_nowait("close")

    def _reconnect(self, info: ReconnectInfo) -> None:
        self.reconnected.append(info)
        self.queue.put_nowait("reconnect")

    async def expect(self, *pieces: str) -> None:
        async with asyncio.timeout(8):
            assert [await self.queue.get() for _ in pieces] == list(pieces)


@asynccontextmanager
async def dialed(**options: Any) -> AsyncGenerator[tuple[Client, Story, Server]]:
    """A connected client, what it told since, and its server."""
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    async with server.listen() as listener:
        client = Client(listener.url, **{"limits": LIMITS, "reconnect": AT_ONCE} | options)
        story = Story(client)
        await client.connect()
        await story.expect("open")
        try:
            yield client, story, server
        finally:
            await client.close()


def drop(client: Client) -> None:
    client.peer.info.underlying.transport.abort()


async def test_a_drop_and_the_way_back(caplog: pytest.LogCaptureFixture) -> None:
    async with dialed() as (client, story, _):
        client.on("name", lambda: "Ada")
        for number in range(1, 4):
            drop(client)
            await story.expect("close", "open", "reconnect")
            info = story.closed[-1]
            assert (info.code, info.was_clean, info.user_closed, info.will_reconnect) == (1006, False, False, True)
            back = story.reconnected[-1]
            assert (back.resumed, back.attempts) == (False, 1)
            assert back.downtime >= 0
            assert len(story.reconnected) == number
            assert await client.request("echo", number) == number
    assert story.closed[-1].user_closed
    assert not story.closed[-1].will_reconnect


async def test_a_close_frame_from_the_server_is_a_drop_too() -> None:
    async with dialed() as (client, story, server):
        (peer,) = server.peers
        await peer.close(1012, "restarting")
        await story.expect("close", "open", "reconnect")
        info = story.closed[0]
        assert (info.code, info.reason, info.was_clean) == (1012, "restarting", True)
        assert info.will_reconnect and not info.user_closed
        assert client.connected


async def test_without_reconnect_a_drop_is_the_end() -> None:
    async with dialed(reconnect=None) as (client, story, _):
        drop(client)
        await story.expect("close")
        info = story.closed[0]
        assert (info.will_reconnect, info.user_closed) == (False, False)
        for _ in range(10):
            await asyncio.sleep(0)
        assert client.state == "closed"
        with pytest.raises(ConnectionLost) as caught:
            await client.request("echo", 1)
        assert caught.value.outcome == "not_sent"
        with pytest.raises(ConnectionLost):
            await client.wait_connected()
        # It can be told to dial again.
        await client.connect()
        assert await client.request("echo", 2) == 2


async def test_the_first_connection_is_no_reconnection() -> None:
    async with dialed() as (client, story, _):
        await client.request("echo", 1)
        assert story.reconnected == []


async def test_what_was_pending_fails_with_outcome_unknown() -> None:
    async with dialed() as (client, story, server):
        started = asyncio.Event()

        @server.on("wait")
        async def wait() -> None:
            started.set()
            await asyncio.Event().wait()

        pending = [asyncio.create_task(client.request("wait")) for _ in range(3)]
        await started.wait()
        drop(client)
        for task in pending:
            with pytest.raises(ConnectionLost) as caught:
                await task
            assert (caught.value.code, caught.value.outcome) == (1006, "unknown")
        await story.expect("close", "open", "reconnect")


async def test_a_failed_attempt_is_one_warning_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE, limits=LIMITS)
        story = Story(client)
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await connecting
        caplog.clear()
        peer.drop()
        await raw.refuse("503 Later")
        await raw.refuse("502 Later")
        peer = await raw.accept()
        await story.expect("open", "close", "open", "reconnect")
        assert story.reconnected[0].attempts == 3
        failed = [record for record in caplog.records if "could not connect" in record.getMessage()]
        assert [(record.name, record.levelno) for record in failed] == [("wsrpc", logging.WARNING)] * 2
        assert "503" in failed[0].getMessage() and "502" in failed[1].getMessage()
        peer.drop()
        await client.close()


async def test_connect_timeout_is_for_the_first_connection_only() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE, connect_timeout=5.0, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await connecting
        dialing = core_of(client)._order.dialing
        assert dialing is not None
        dialing._plan = msgspec.structs.replace(dialing._plan, timeout=0.0)
        peer.drop()
        for _ in range(3):
            await raw.refuse("503 Later")
        peer = await raw.accept()
        await client.wait_connected()
        peer.drop()
        await client.close()


async def test_a_connection_that_has_refused_a_message_is_over_before_its_end_is_reported() -> None:
    async with asyncio.timeout(8), raw_server() as raw:
        limits = Limits(close_timeout=20.0)  # the server has that long to end the TCP connection after its Close frame
        client = Client(raw.url, reconnect=AT_ONCE, connect_timeout=0.01, limits=limits)
        dialing = asyncio.create_task(dial(raw.url, limits=limits))
        peer = await raw.accept()
        await client.bind(await dialing)
        await peer.send(peer.close_frame(1001))
        await peer.next_of(CLOSE)
        assert (client.state, client.connected) == ("connected", True)
        client.emit_nowait("note")
        assert (client.state, client.connected) == ("connected", False)
        waiting = asyncio.create_task(client.wait_connected())
        with pytest.raises(ConnectFailed, match="no connection within connect_timeout="):
            await client.connect()
        assert (client.state, client.connected, waiting.done()) == ("connected", False, False)
        peer.drop()
        peer = await raw.accept()
        await waiting
        assert (client.state, client.connected) == ("connected", True)
        while (message := json.loads((await peer.next_of(TEXT)).payload)).get("a") != ["note"]:
            assert "a" not in message, "the refused message is sent once, on the next connection"
        peer.drop()
        await client.close()


async def test_a_fatal_refusal_on_the_way_back_is_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await connecting
        peer.drop()
        waiting = asyncio.create_task(raw.refuse("401 No more"))
        await client.peer.wait_closed()
        request = asyncio.create_task(client.request("x"))
        await waiting
        with pytest.raises(ConnectionLost) as caught:
            await request
        assert caught.value.outcome == "not_sent"
        with pytest.raises(HandshakeRejected):
            await client.wait_connected()
        assert client.state == "closed"
        assert any("gives up" in record.getMessage() for record in caplog.records)
        await client.close()


async def test_state_values() -> None:
    async with raw_server() as raw:
        asked = asyncio.Event()
        go_on = asyncio.Event()

        async def headers() -> dict[str, str]:
            asked.set()
            await go_on.wait()
            return {}

        client = Client(raw.url, reconnect=NEVER, headers=headers, limits=LIMITS)
        assert (client.state, client.connected) == ("idle", False)
        connecting = asyncio.create_task(client.connect())
        await asked.wait()
        assert (client.state, client.connected) == ("connecting", False)
        go_on.set()
        peer = await raw.accept()
        await connecting
        assert (client.state, client.connected) == ("connected", True)
        peer.drop()
        await client.peer.wait_closed()
        for _ in range(10):
            await asyncio.sleep(0)
        assert (client.state, client.connected) == ("waiting", False)
        assert "waiting" in repr(client)
        await client.close()
        assert (client.state, client.connected) == ("closed", False)


async def test_wait_connected_waits_for_the_way_back() -> None:
    async with dialed() as (client, _, _):
        drop(client)
        await client.peer.wait_closed()
        waiting = [asyncio.create_task(client.wait_connected()) for _ in range(3)]
        leaves = asyncio.create_task(client.wait_connected())
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.gather(*waiting)
        assert client.connected


# ---------------------------------------------------------------- what waits meanwhile


async def message(raw: RawPeer) -> list[Any]:
    """Event and arguments of the next text message."""
    value: list[Any] = json.loads((await raw.next_of(TEXT)).payload)["a"]
    return value


@asynccontextmanager
async def offline(**options: Any) -> AsyncGenerator[tuple[Client, Any]]:
    """A client whose connection dropped, and what lets it come back and gives the other side."""
    go_on = asyncio.Event()
    go_on.set()

    async def headers() -> dict[str, str]:
        await go_on.wait()
        return {}

    async with raw_server() as raw:
        for name, value in {"reconnect": AT_ONCE, "limits": LIMITS, "extensions": False}.items():
            options.setdefault(name, value)
        client = Client(raw.url, headers=headers, **options)
        connecting = asyncio.create_task(client.connect())
        first = await raw.accept()
        await connecting
        go_on.clear()
        first.drop()
        await client.peer.wait_closed()

        async def back() -> RawPeer:
            go_on.set()
            peer = await raw.accept()
            await client.wait_connected()
            return peer

        try:
            yield client, back
        finally:
            for sock in raw.peers:
                sock.close()
            await client.close()


async def test_what_is_sent_offline_leaves_in_order_before_what_is_sent_later() -> None:
    async with offline() as (client, back):
        await client.emit("one", 1)
        request = asyncio.create_task(client.request("two", 2))
        await asyncio.sleep(0)
        client.emit_nowait("three", 3)
        await client.of("side").emit("four", 4)
        peer = await back()
        await client.emit("five", 5)
        assert [await message(peer) for _ in range(5)] == [
            ["one", 1],
            ["two", 2],
            ["three", 3],
            ["four", 4],
            ["five", 5],
        ]
        peer.drop()
        with pytest.raises(ConnectionLost) as caught:
            await request
        assert caught.value.outcome == "unknown"


async def test_a_cancelled_call_leaves_the_queue() -> None:
    async with offline() as (client, back):
        leaves = asyncio.create_task(client.request("leaves"))
        await asyncio.sleep(0)
        await client.emit("stays")
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        peer = await back()
        await client.emit("last")
        assert [await message(peer), await message(peer)] == [["stays"], ["last"]]
        assert client.peer.pending == 0


async def test_a_call_that_timed_out_leaves_the_queue() -> None:
    async with offline() as (client, back):
        with pytest.raises(RequestTimeout):
            await client.request("leaves", timeout=0.01)
        await client.emit("stays")
        peer = await back()
        assert await message(peer) == ["stays"]


async def test_the_queue_is_bounded_by_messages() -> None:
    async with offline(limits=LIMITS.replace(offline=3)) as (client, back):
        for number in range(3):
            await client.emit("n", number)
        with pytest.raises(QueueFull):
            await client.emit("n", 3)
        with pytest.raises(QueueFull):
            client.emit_nowait("n", 3)
        with pytest.raises(QueueFull):
            await client.request("n", 3)
        assert client.peer.pending == 0
        peer = await back()
        assert [await message(peer) for _ in range(3)] == [["n", 0], ["n", 1], ["n", 2]]


async def test_the_queue_is_bounded_by_bytes() -> None:
    async with offline(limits=LIMITS) as (client, _):
        await client.emit("n", "x" * 600_000)
        with pytest.raises(QueueFull):
            await client.emit("n", "x" * 600_000)
        await client.emit("n")


async def test_what_was_lost_offline_at_close_is_said() -> None:
    async with offline() as (client, _):
        request = asyncio.create_task(client.request("x"))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ConnectionLost) as caught:
            await request
        assert caught.value.outcome == "not_sent"


async def test_before_the_first_connection_everything_waits_too() -> None:
    server = Server(limits=LIMITS)
    heard: asyncio.Queue[int] = asyncio.Queue()
    server.on("n", heard.put_nowait)
    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS)
        for number in range(5):
            await client.emit("n", number)
        async with client:
            assert [await heard.get() for _ in range(5)] == [0, 1, 2, 3, 4]


async def test_the_queue_leaves_after_open_on_the_way_back() -> None:
    async with offline() as (client, back):

        @client.on("open")
        async def opened(peer: Peer) -> None:
            await asyncio.sleep(0)
            await peer.emit("first of all")

        await client.emit("waited")
        peer = await back()
        assert [await message(peer), await message(peer)] == [["first of all"], ["waited"]]


async def test_the_server_says_goodbye_and_comes_back_on_the_same_port() -> None:
    first = Server(limits=LIMITS)
    async with first.listen() as listener:
        port = listener.port
        client = Client(listener.url, reconnect=Reconnect(initial=0.01, max=0.01), limits=LIMITS)
        story = Story(client)
        await client.connect()
        await first.close()
    await story.expect("open", "close")
    assert story.closed[0].code == 1012
    second = Server(limits=LIMITS)
    second.on("who", lambda: "the second")
    async with second.listen(port=port):
        assert await client.request("who") == "the second"
        await client.close()


async def test_connecting_again_by_hand_is_coming_back_too() -> None:
    async with dialed(reconnect=None) as (client, story, _):
        drop(client)
        await story.expect("close")
        assert client.state == "closed" and not story.closed[0].will_reconnect
        await client.connect()
        await story.expect("open", "reconnect")
        assert story.reconnected[0].attempts == 1 and story.reconnected[0].downtime > 0


async def test_handlers_that_fail_do_not_stop_the_way_back(caplog: pytest.LogCaptureFixture) -> None:
    async with dialed() as (client, story, _):

        @client.on_reconnect
        def bad(info: ReconnectInfo) -> None:
            raise RuntimeError("on_reconnect went wrong")

        @client.on_reconnect
        async def worse(info: ReconnectInfo) -> None:
            raise RuntimeError("so did this")

        client.on("connect", lambda peer: 1 / 0)
        client.on("disconnect", lambda peer, info: 1 / 0)
        for _ in range(2):
            drop(client)
            await story.expect("close", "open", "reconnect")
        assert await client.request("echo", 1) == 1
    texts = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert {"on_reconnect went wrong", "so did this", "division by zero"} <= set(texts)


async def test_a_function_for_on_reconnect_may_do_without_the_info() -> None:
    async with dialed() as (client, _, _):
        told: asyncio.Queue[str] = asyncio.Queue()

        @client.on_reconnect
        async def again() -> None:
            told.put_nowait("again")

        drop(client)
        assert await told.get() == "again"


@pytest.mark.parametrize("wrong", [lambda info, more: None, "again", None])
def test_what_on_reconnect_cannot_call_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"on_reconnect(:| takes).*\(info\)"):
        Client().on_reconnect(wrong)


async def test_a_server_that_closes_each_connection_at_once() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, reconnect=AT_ONCE, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        for _ in range(5):
            peer = await raw.accept()
            await peer.send(peer.close_frame(1012, "later"))
            assert (await peer.next_of(CLOSE)).code == 1012
            peer.drop()
        peer = await raw.accept()
        await connecting
        await client.wait_connected()
        peer.drop()
        await client.close()

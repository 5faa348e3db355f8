"""Calls to a peer: directly, by its address at its own server, and from another process. All are alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from cluster_servers import Servers, servers
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import (
    AnonymousChannel,
    BadArguments,
    BadResult,
    ChannelClosed,
    Client,
    ConnectionLost,
    HandlerFailed,
    Handshake,
    Limits,
    MessageTooBig,
    RemoteError,
    RequestTimeout,
    Retry,
    RpcError,
    UnknownEvent,
    current_peer,
)
from wsrpc._api.caller import Caller
from wsrpc._cluster.cluster import membership_of
from wsrpc._cluster.directory import Delta
from wsrpc.cluster import ClusterPeer, ClusterPeerChannel
from wsrpc.engine import PATIENCE
from wsrpc.errors import EngineLost, PeerNotFound, UnexpectedChannel
from wsrpc.testing import MemoryTransport, ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

Route = str
ROUTES: tuple[Route, ...] = ("the peer", "here", "there")


class Point(msgspec.Struct):
    x: int
    y: float


class Callee:
    """A client, what others may call there, and what it saw."""

    def __init__(self, **options: Any) -> None:
        self.client = client = Client(reconnect=None, **options)
        self.seen: list[Any] = []
        self.open = asyncio.Event()
        for handler in (
            self.echo,
            self.add,
            self.reject,
            self.fail,
            self.park,
            self.numbers,
            self.broken,
            self.total,
            self.first,
            self.double,
            self.talk,
            self.nest,
            self.value,
            self.who,
            self.note,
            self.endless,
        ):
            client.on(handler.__name__, handler)
        client.of("chat").on("say", self.say)
        client.of("chat").on("numbers", self.numbers)

    def echo(self, *values: Any) -> Any:
        self.seen.append(values)
        return values

    def add(self, a: int, b: int) -> int:
        return a + b

    def say(self, text: str) -> str:
        self.seen.append(text)
        return text.upper()

    def note(self, number: int) -> None:
        self.seen.append(number)

    def reject(self, code: str | None = None) -> None:
        raise RpcError("no", code or "mine", {"why": [1, 2]}, {"extra": 3})

    def fail(self) -> None:
        raise ValueError("not for others")

    def who(self) -> str:
        return type(current_peer()).__name__

    async def park(self) -> None:
        self.seen.append("parked")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            self.seen.append(("cancelled", *exc.args))
            raise

    async def numbers(self, count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                yield number
        finally:
            self.seen.append("closed")

    async def endless(self) -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            self.seen.append(("closed at", number))

    async def broken(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        raise RpcError("it broke", "broken")

    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    async def first(self, items: AsyncIterator[int]) -> int:
        async for item in items:
            return item
        return -1

    async def double(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    async def talk(self, channel: AnonymousChannel, name: str) -> None:
        channel.on("ask", lambda n: n + 1)
        self.seen.append(await channel.request("name", name))
        await channel.emit("hello", name)
        async for text in channel.events("said", returns=str):
            self.seen.append(text)
            if text == "bye":
                return

    async def nest(self, channel: AnonymousChannel) -> None:
        channel.on("numbers", self.numbers)
        await channel.emit("ready")
        await channel.wait_closed()

    def value(self) -> int:
        return 5


CLIENTS: dict[str, dict[str, Any]] = {"wsrpc": {}, "plain": {"extensions": False}}


class World:
    def __init__(self, made: Servers, callee: Callee, route: Route) -> None:
        self.made = made
        self.callee = callee
        self.route = route
        self.engine = made.memory

    @property
    def peer(self) -> Any:
        """The callee, as the caller has it."""
        if self.route == "the peer":
            return self.made.peer(1, "ada")
        return self.made[1 if self.route == "here" else 0].cluster.peer("ada")


@asynccontextmanager
async def world(route: Route, options: dict[str, Any] | None = None, **server: Any) -> AsyncIterator[World]:
    async with servers(2, **server) as made:
        callee = Callee(**(options or {}))
        await made.join(1, "ada", callee.client)
        yield World(made, callee, route)


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> Route:
    found: Route = request.param
    return found


@pytest.fixture(params=CLIENTS)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CLIENTS[request.param]


# ---------------------------------------------------------------- requests


VALUES: list[Any] = [
    None,
    0,
    False,
    "",
    "é\u2028\x00",
    2**53,
    -1.5,
    [],
    {},
    [None, [1, "a"], {"k": [True]}],
    {"a": {"b": [1.25]}},
]


async def test_values_arrive_as_from_the_server_itself(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        for value in VALUES:
            assert await w.peer.request("echo", value) == [value], value
        assert await w.peer.request("echo") == []
        assert w.callee.seen == [*((value,) for value in VALUES), ()]


RICH: list[tuple[Any, Any]] = [
    (b"\x00\xff", bytes),
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime),
    (date(2026, 1, 2), date),
    (Decimal("1.50"), Decimal),
    (UUID(int=5), UUID),
    (Point(1, 2.5), Point),
    ({1: "one"}, dict[int, str]),
]


@pytest.mark.parametrize(("value", "of"), RICH, ids=[str(of) for _, of in RICH])
async def test_values_of_other_types(route: Route, kind: dict[str, Any], value: Any, of: Any) -> None:
    async with world(route, kind) as w:
        assert await w.peer.request("echo", value, returns=list[of]) == [value]


async def test_a_handler_cannot_tell_who_calls(route: Route) -> None:
    async with world(route) as w:
        assert await w.peer.request("who") == "Peer"
        assert await w.peer.of("chat").request("say", "hi", returns=str) == "HI"


async def test_errors_are_those_of_the_handler(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        with pytest.raises(RemoteError) as caught:
            await w.peer.request("reject")
        error = caught.value
        assert (type(error), error.message, error.code, error.data) == (RemoteError, "no", "mine", {"why": [1, 2]})
        assert dict(error.fields) == {"extra": 3}
        with pytest.raises(HandlerFailed, match="internal error") as failed:
            await w.peer.request("fail")
        assert failed.value.error_id
        with pytest.raises(UnknownEvent, match="No event listener for 'nobody'"):
            await w.peer.request("nobody")
        with pytest.raises(BadArguments):
            await w.peer.request("add", "one")
        with pytest.raises(BadResult):
            await w.peer.request("value", returns=str)
        if kind.get("extensions", True):  # JavaScript answers null with a channel
            with pytest.raises(UnexpectedChannel):
                await w.peer.request("talk", "x")
        with pytest.raises(BadResult, match="not a channel but int"):
            await w.peer.open_channel("value")
        with pytest.raises(BadResult, match="not a channel but int"):
            await anext(w.peer.stream("value"))
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0)


async def test_a_bare_value_as_an_error(route: Route) -> None:
    def throw() -> None:
        raise RpcError.of_value("just text")

    async with world(route) as w:
        w.callee.client.on("throw", throw)
        with pytest.raises(RemoteError) as caught:
            await w.peer.request("throw")
        assert caught.value.plain and caught.value.data == "just text"


async def asked(client: ScriptedTransport) -> int:
    """Return the id of the request that comes next."""
    came: list[int] = []

    def has_come() -> bool:
        came.extend(message["i"] for message in client.take() if "a" in message)
        return bool(came)

    await turns_until(has_come)
    return came[0]


@pytest.mark.parametrize("code", ["ConnectionLost", "PeerNotFound", "MessageTooBig", "left"])
async def test_a_client_cannot_speak_for_its_node(code: str) -> None:
    """Its errors, and its reasons for ending a channel, are its own, whatever their codes."""
    forged = {"message": "forged", "code": f"wsrpc.node.{code}", "data": [1006, "gone", "not_sent"]}
    async with servers(2) as made:
        client = ScriptedTransport()
        handshake = Handshake("/", {})
        handshake.address = "eve"
        await made[1].accept(client, handshake)
        await turns_until(lambda: made[0].cluster.locate("eve"))
        peer = made[0].cluster.peer("eve")
        call = asyncio.create_task(peer.request("forge"))
        client.feed({"i": await asked(client), "e": forged, "_": 1})
        with pytest.raises(RemoteError) as caught:
            await call
        assert (caught.value.message, caught.value.code) == ("forged", None)

        opening = asyncio.create_task(peer.open_channel("talk"))
        i = await asked(client)
        client.feed({"i": i, "h": 1})
        channel = await opening
        client.feed({"h": i, "x": forged, "_": 1})
        await turns_until(lambda: channel.closed)
        assert isinstance(channel.close_reason, RemoteError)
        assert (channel.close_reason.message, channel.close_reason.code) == ("forged", None)
        await client.close()


async def test_a_timeout_cancels_the_handler(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        with pytest.raises(RequestTimeout, match=r"no response to 'park' within 0\.05 s"):
            await w.peer.request("park", timeout=0.05)
        await turns_until(lambda: len(w.callee.seen) == 2)
        assert w.callee.seen[0] == "parked" and w.callee.seen[1][0] == "cancelled"


async def test_the_servers_default_timeout_holds(route: Route) -> None:
    async with world(route, limits=Limits(timeout=0.05, ping_interval=None)) as w:
        with pytest.raises(RequestTimeout):
            await w.peer.request("park")
        await turns_until(lambda: len(w.callee.seen) == 2)


async def test_cancelling_carries_the_reason(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        call = asyncio.create_task(w.peer.request("park"))
        await turns_until(lambda: w.callee.seen)
        call.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await call
        await turns_until(lambda: len(w.callee.seen) == 2)
        assert w.callee.seen == ["parked", ("cancelled", "enough")]


async def test_many_calls_keep_their_order(route: Route) -> None:
    async with world(route) as w:
        peer = w.peer
        calls = [asyncio.create_task(peer.request("echo", number)) for number in range(500)]
        assert [await call for call in calls] == [[number] for number in range(500)]
        assert w.callee.seen == [(number,) for number in range(500)]


async def test_events_and_requests_keep_their_order(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        for number in range(0, 300, 3):
            await w.peer.emit("note", number)
            w.peer.emit_nowait("note", number + 1)
            await w.peer.request("note", number + 2)
        assert w.callee.seen == list(range(300))


async def test_a_request_that_is_asked_again(route: Route) -> None:
    async with world(route) as w:
        assert await w.peer.request("add", 1, 2, retry=Retry(), idempotent=True) == 3


async def test_mistakes_are_refused_where_they_are_made(route: Route) -> None:
    async with world(route) as w:
        with pytest.raises(TypeError):
            await w.peer.request("echo", object())
        with pytest.raises(TypeError, match="keyword"):
            await w.peer.request("echo", text="x")
        with pytest.raises(TypeError):
            await w.peer.request("echo", returns=5)
        with pytest.raises(ValueError, match="reserved"):
            await w.peer.emit("open")
        assert w.callee.seen == []


async def test_what_is_too_big_is_not_sent(route: Route) -> None:
    async with world(route, {"limits": Limits(message=2000)}) as w:
        with pytest.raises(MessageTooBig):
            await w.peer.request("echo", "x" * 3000)
        assert await w.peer.request("add", 1, 1) == 2
        assert w.callee.seen == []


async def test_offline_is_for_clients() -> None:
    async with world("there") as w:
        with pytest.raises(ValueError, match="offline= is for clients"):
            await w.peer.request("add", 1, 2, offline="queue")
        with pytest.raises(ValueError, match="offline= is for clients"):
            await w.peer.emit("note", 1, offline="fail")
        with pytest.raises(ValueError, match="offline= is for clients"):
            w.peer.emit_nowait("note", 1, offline="fail")


# ---------------------------------------------------------------- streams


async def test_a_stream(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        for count in (0, 1, 3000):
            async with w.peer.stream("numbers", count, returns=int) as numbers:
                assert [number async for number in numbers] == list(range(count))
        async with w.peer.of("chat").stream("numbers", 3, returns=int) as numbers:
            assert [number async for number in numbers] == [0, 1, 2]
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0)
        await turns_until(lambda: w.callee.seen == ["closed"] * 4)


async def test_a_stream_that_is_left_early(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        async with w.peer.stream("endless", returns=int) as numbers:
            async for number in numbers:
                if number == 10:
                    break
        await turns_until(lambda: w.callee.seen)
        [(_, made)] = w.callee.seen
        assert 10 <= made < 3000, "the producer keeps to the reader's pace"
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0)


async def test_a_stream_waits_for_its_reader(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        async with w.peer.stream("endless", returns=int) as numbers:
            for expected in range(5):
                assert await anext(numbers) == expected
            for _ in range(200):  # nobody reads
                await asyncio.sleep(0)
            for expected in range(5, 5000):
                assert await anext(numbers) == expected
        await turns_until(lambda: w.callee.seen)


async def test_large_items_of_a_stream(route: Route, kind: dict[str, Any]) -> None:
    """Their bytes are others on each way: credit is counted in each by itself."""

    async def texts(count: int) -> AsyncIterator[str]:
        for number in range(count):
            yield ("é\x01" * 5000) + str(number)

    async with world(route, kind) as w:
        w.callee.client.on("texts", texts)
        async with w.peer.stream("texts", 200, returns=str) as stream:
            assert [int(text[10_000:]) async for text in stream] == list(range(200))


async def test_bytes_in_a_stream(route: Route, kind: dict[str, Any]) -> None:
    async def parts(count: int) -> AsyncIterator[bytes]:
        for number in range(count):
            yield bytes([number % 256]) * 1000

    async with world(route, kind) as w:
        w.callee.client.on("parts", parts)
        async with w.peer.stream("parts", 600, returns=bytes) as stream:
            assert [part[0] async for part in stream] == [number % 256 for number in range(600)]


async def test_a_stream_that_fails(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w, w.peer.stream("broken", 5, returns=int) as numbers:
        assert [await anext(numbers) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(RemoteError, match="it broke") as caught:
            await anext(numbers)
        assert caught.value.code == "broken"


async def test_an_upload(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        for count in (0, 1, 3000):
            assert await w.peer.request("total", send=range(count), returns=int) == sum(range(count))
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0)


async def test_large_items_of_an_upload(route: Route, kind: dict[str, Any]) -> None:
    async def length(items: AsyncIterator[str]) -> int:
        return sum([len(item) async for item in items])

    async with world(route, kind) as w:
        w.callee.client.on("length", length)
        texts = ("é\x01" * 5000 for _ in range(200))
        assert await w.peer.request("length", send=texts, returns=int) == 200 * 10_000


async def test_an_upload_that_the_handler_leaves(route: Route, kind: dict[str, Any]) -> None:
    closed: list[int] = []

    async def source() -> AsyncIterator[int]:
        number = 7
        try:
            while True:
                yield number
                number += 1
                await asyncio.sleep(0)
        finally:
            closed.append(number)

    async with world(route, kind) as w:
        assert await w.peer.request("first", send=source()) == 7
        assert closed
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0)


async def test_an_upload_whose_source_fails(route: Route, kind: dict[str, Any]) -> None:
    def source() -> Any:
        yield 1
        raise KeyError("mine")

    async with world(route, kind) as w:
        with pytest.raises(KeyError):
            await w.peer.request("total", send=source())
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0)


async def test_items_both_ways(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        async with w.peer.stream("double", send=range(2000), returns=int) as numbers:
            assert [number async for number in numbers] == [2 * number for number in range(2000)]
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0)


# ---------------------------------------------------------------- conversations


async def test_a_conversation(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        channel = await w.peer.open_channel("talk", "Ada")
        async with channel:
            channel.on("name", lambda name: f"I am {name}")
            assert await channel.wait_for("hello", returns=str) == "Ada"
            assert await channel.request("ask", 1) == 2
            with pytest.raises(UnknownEvent):
                await channel.request("nobody")
            for text in ("one", "two", "bye"):
                await channel.emit("said", text)
            await channel.wait_closed()
        assert w.callee.seen == ["I am Ada", "one", "two", "bye"]
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0)


@pytest.mark.parametrize("caller", [1, 0], ids=ROUTES[1:])
async def test_answers_that_come_with_the_end_of_a_channel_arrive(caller: int) -> None:
    """JavaScript waits for the answer to each item, the last one too; and a handler may end after its last answer."""
    async with servers(2) as made:
        client = ScriptedTransport()
        handshake = Handshake("/", {})
        handshake.address = "eve"
        await made[1].accept(client, handshake)
        await turns_until(lambda: made[0].cluster.locate("eve"))
        peer = made[caller].cluster.peer("eve")
        answers: list[Any] = []

        async def read() -> list[Any]:
            async with peer.stream("items") as stream:
                return [item async for item in stream]

        reading = asyncio.create_task(read())
        h = await asked(client)
        client.feed({"i": h, "h": h})
        await turns_until(lambda: any(message.get("a") == ["start"] for message in client.take()))
        for i, item in enumerate(({"value": 1, "done": False}, {"value": 2, "done": False}, {"done": True}), 1):
            client.feed({"h": h, "i": i, "a": ["next", item]})
        assert await reading == [1, 2]

        def answered() -> bool:
            answers.extend(message for message in client.take() if "i" in message)
            return len(answers) == 3

        await turns_until(answered)
        assert answers == [{"i": i, "d": None} for i in (1, 2, 3)]

        opening = asyncio.create_task(peer.open_channel("talk"))
        h = await asked(client)
        client.feed({"i": h, "h": h})
        channel = await opening
        asking = asyncio.create_task(channel.request("last"))
        i = await asked(client)
        late = asyncio.create_task(channel.request("late"))
        await asked(client)
        client.feed({"i": i, "d": "yes"}, {"h": h, "x": "bye"})
        assert await asking == "yes"
        with pytest.raises(ChannelClosed, match="bye"):
            await late
        await channel.wait_closed()
        await client.close()


async def test_a_conversation_that_the_caller_aborts(route: Route, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        channel = await w.peer.open_channel("nest")
        await channel.wait_for("ready")
        await channel.abort("no more")
        assert channel.closed and channel.close_reason == "no more"
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0 and w.callee.client.peer.channels == 0)


async def test_a_conversation_that_is_closed_here(route: Route) -> None:
    async with world(route) as w:
        channel = await w.peer.open_channel("nest")
        await channel.wait_for("ready")
        channel.close()
        with pytest.raises(ChannelClosed):
            await channel.emit("more")
        w.callee.client.peer.transport.abort()  # type: ignore[union-attr]  # close is local, so nobody tells it
        await turns_until(lambda: not w.made[1].peers)


async def test_a_request_on_a_channel_is_cancelled(route: Route) -> None:
    async with world(route) as w:
        parked: list[str] = []

        async def talk(channel: AnonymousChannel) -> None:
            async def park() -> None:
                try:
                    parked.append("parked")
                    await asyncio.Event().wait()
                except asyncio.CancelledError as exc:
                    parked.append(str(exc))
                    raise

            channel.on("park", park)
            await channel.wait_closed()

        w.callee.client.on("meet", talk)
        async with await w.peer.open_channel("meet") as channel:
            call = asyncio.create_task(channel.request("park"))
            await turns_until(lambda: parked)
            call.cancel("enough")
            await turns_until(lambda: len(parked) == 2)
            assert parked == ["parked", "enough"]


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_the_peer_leaves(route: Route, how: str) -> None:
    async with world(route, {"limits": Limits(replay=0)}) as w:
        streams: list[Any] = []

        async def read() -> None:
            async with w.peer.stream("endless", returns=int) as numbers:
                streams.append(await anext(numbers))
                await w.callee.open.wait()
                async for number in numbers:
                    streams.append(number)

        reading = asyncio.create_task(read())
        call = asyncio.create_task(w.peer.request("park"))
        upload = asyncio.create_task(w.peer.request("total", send=forever()))
        await turns_until(lambda: streams and "parked" in w.callee.seen)
        if how == "closed":
            await w.callee.client.close()
        else:
            w.callee.client.peer.transport.abort()  # type: ignore[union-attr]
        w.callee.open.set()
        for task in (call, reading, upload):
            with pytest.raises(ConnectionLost) as caught:
                await task
            assert caught.value.outcome == "unknown"
        if w.route != "the peer":
            await turns_until(lambda: w.made[0].cluster.locate("ada") is None)
            with pytest.raises(PeerNotFound, match="no node of the cluster has a peer with the address 'ada'") as none:
                await w.peer.request("add", 1, 2)
            assert none.value.outcome == "not_sent" and none.value.address == "ada"
            with pytest.raises(PeerNotFound):
                await w.peer.emit("note", 1)
            with pytest.raises(PeerNotFound):
                w.peer.emit_nowait("note", 1)


async def forever() -> AsyncIterator[int]:
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(0)


async def test_the_caller_s_process_leaves() -> None:
    """Its handlers are cancelled, its streams closed."""
    async with world("there") as w:
        async with w.peer.stream("endless", returns=int) as numbers:
            await anext(numbers)
            call = asyncio.create_task(w.peer.request("park"))
            await turns_until(lambda: "parked" in w.callee.seen)
            await w.made[0].close()
            with pytest.raises(ConnectionLost):
                await call
            with pytest.raises(ConnectionLost):
                async for _ in numbers:
                    pass
        await turns_until(lambda: len(w.callee.seen) == 3)
        assert w.made.peer(1, "ada").channels == w.made.peer(1, "ada").pending == 0
        w.made.all.pop(0)


async def test_the_peer_s_process_leaves() -> None:
    async with world("there") as w:
        call = asyncio.create_task(w.peer.request("park"))
        await turns_until(lambda: "parked" in w.callee.seen)
        await w.made[1].close()
        with pytest.raises(ConnectionLost) as caught:
            await call
        assert caught.value.outcome == "unknown"
        await turns_until(lambda: w.made[0].cluster.locate("ada") is None)
        w.made.all.pop()


async def test_a_peer_that_has_moved_is_looked_up_once_more() -> None:
    """The caller's node has heard of the new place while its request was on the way to the old one."""
    async with world("there") as w:
        engine = w.engine
        moved = Callee()
        await w.made.add()
        await w.made.meet()
        found: list[Any] = []

        async def call() -> None:
            found.append(await w.peer.request("add", 20, 22))

        await w.made.join(2, "ada", moved.client)
        await call()
        assert found == [42] and engine is not None


async def test_the_engine_is_down() -> None:
    async with world("there") as w:
        w.engine.down = True
        w.engine.cut()
        await turns_until(lambda: not w.made[0].cluster.connected)
        for call in (w.peer.request("add", 1, 2), w.peer.emit("note", 1), w.peer.request("total", send=range(3))):
            with pytest.raises(EngineLost) as caught:
                await call
            assert caught.value.outcome == "not_sent"
        with pytest.raises(EngineLost):
            w.peer.emit_nowait("note", 1)
        with pytest.raises(EngineLost):
            async with w.peer.stream("numbers", 3):
                pass
        with pytest.raises(EngineLost):  # perhaps somebody has it, whom nobody here has heard of
            await w.made[0].cluster.peer("eve").request("add", 1, 2)
        assert await w.made[1].cluster.peer("ada").request("add", 1, 2) == 3, "local traffic goes on"
        w.engine.down = False
        await turns_until(lambda: w.made[0].cluster.connected)
        assert await w.peer.request("add", 1, 2) == 3


async def test_nothing_is_lost_where_the_engine_loses_messages() -> None:
    async with world("there") as w:
        w.engine.loss = 0.02

        async def ask() -> None:
            for number in range(300):
                assert await w.peer.request("add", number, 1) == number + 1

        async def read() -> None:
            async with w.peer.stream("numbers", 3000, returns=int) as numbers:
                assert [number async for number in numbers] == list(range(3000))

        async def send() -> None:
            assert await w.peer.request("total", send=range(3000)) == sum(range(3000))

        await asyncio.gather(ask(), read(), send())
        w.engine.loss = 0.0


def test_a_peer_of_the_cluster_has_what_sends_and_no_more() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(ClusterPeer) - public(Caller) == {"address", "of"}
    assert public(ClusterPeerChannel) - public(Caller) == {"address", "name"}


async def test_a_source_is_not_used_again_where_the_peer_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was closed when the first request failed, so the handler would get no items."""
    async with world("there") as w:
        server = await w.made.add()
        await w.made.meet()
        directory = membership_of(w.made[0].cluster).directory
        places = iter([server.cluster.nodes[0]] * 2)
        real = directory.locate
        monkeypatch.setattr(directory, "locate", lambda address: next(places, None) or real(address))
        with pytest.raises(PeerNotFound):
            await w.peer.request("total", send=(number for number in range(10)))


@pytest.mark.parametrize("name", ["a\0b", "a\1b", "a\0b\1c", "a\1b\0c"])
async def test_a_named_channel_of_any_name(name: str) -> None:
    async with world("there") as w:

        async def numbers() -> AsyncIterator[int]:
            yield 1

        side = w.callee.client.of(name)
        side.on("numbers", numbers)
        side.on("number", lambda: 2)
        peer = w.made[0].cluster.peer("ada").of(name)
        assert await peer.request("number") == 2
        async with peer.stream("numbers") as items:
            assert [item async for item in items] == [1]


async def test_a_slow_peer_does_not_hold_up_what_comes_from_other_processes() -> None:
    """What waits for it is bounded, as in a room: then its connection is closed with 4408."""
    limits = Limits(close_timeout=2.0, ping_interval=None, high_water=10_000, hard_cap=200_000)
    async with servers(2, limits=limits) as made:
        slow, other = Callee(), Callee()
        codes: list[int] = []
        slow.client.on("close", lambda peer, info: codes.append(info.code))
        await made.join(1, "slow", slow.client)
        await made.join(1, "other", other.client)
        cluster, transport = made[0].cluster, made.peer(1, "slow").transport
        assert isinstance(transport, MemoryTransport)
        transport.hold()
        for _ in range(15):
            await cluster.peer("slow").emit("note", "x" * 10_000)
        assert await cluster.peer("other").request("add", 20, 22) == 42
        assert made.is_quiet(), "events do not wait in the session between the two processes"
        assert len(made[1].peers) == 2
        for _ in range(15):
            await cluster.peer("slow").emit("note", "x" * 10_000)
        assert await cluster.peer("other").request("add", 20, 22) == 42
        await turns_until(lambda: cluster.locate("slow") is None)
        transport.release()
        await turns_until(lambda: codes == [4408])


async def test_a_timeout_counts_while_the_node_of_the_peer_has_not_connected() -> None:
    """A call waits for that for a while, but not for longer than its timeout."""
    async with servers(1) as made:
        await turns_until(lambda: made[0].cluster.connected)
        directory = membership_of(made[0].cluster).directory
        now = asyncio.get_running_loop().time()
        directory.heard_delta(Delta("0", 1, claims={"ada": 1}), now)  # lower than any other name: it would have to dial
        peer = made[0].cluster.peer("ada")
        began = asyncio.get_running_loop().time()
        for timeout in (0, 0.05):
            with pytest.raises(RequestTimeout) as caught:
                await peer.request("add", 1, 2, timeout=timeout)
            assert (caught.value.outcome, caught.value.timeout) == ("not_sent", timeout)
        assert asyncio.get_running_loop().time() - began < PATIENCE
        with pytest.raises(ValueError, match="timeout="):
            await peer.request("add", 1, 2, timeout=-1)
        with pytest.raises(ConnectionLost, match="no connection to node 0"):
            await peer.request("add", 1, 2, timeout=60)


async def test_events_to_a_slow_peer_do_not_overtake_requests_to_it() -> None:
    limits = Limits(close_timeout=2.0, ping_interval=None, high_water=10_000)
    async with servers(2, limits=limits) as made:
        slow = Callee()
        slow.client.on("told", slow.seen.append)
        await made.join(1, "slow", slow.client)
        peer, transport = made[0].cluster.peer("slow"), made.peer(1, "slow").transport
        assert isinstance(transport, MemoryTransport)
        transport.hold()
        await peer.emit("told", "x" * 20_000)
        calls = []
        for number in range(5):
            calls.append(asyncio.create_task(peer.request("echo", number)))
            await turns_until(lambda: made.peer(1, "slow").pending == len(calls))
            await peer.emit("told", number)
        await peer.emit("told", "last")
        member = membership_of(made[1].cluster)
        await turns_until(lambda: sum(peer.active for peer in member.links.peers) == len(calls))
        transport.release()
        await asyncio.gather(*calls)
        await turns_until(lambda: "last" in slow.seen)
        assert slow.seen[1:-1] == [entry for number in range(5) for entry in ((number,), number)]
        assert not member.relay._waiting


@pytest.mark.parametrize("behind", [False, True], ids=["events alone", "behind a request"])
async def test_events_on_a_channel_to_a_slow_peer_are_bounded(behind: bool) -> None:
    """They do not wait in the session between the two processes, and end the channel at the peer's hard cap."""
    limits = Limits(close_timeout=2.0, ping_interval=None, high_water=10_000, hard_cap=200_000)
    async with servers(2, limits=limits) as made:
        slow = Callee()
        await made.join(1, "slow", slow.client)
        peer, transport = made[0].cluster.peer("slow"), made.peer(1, "slow").transport
        assert isinstance(transport, MemoryTransport)
        channel = await peer.open_channel("nest")
        transport.hold()
        await peer.emit("note", "x" * 20_000)
        if behind:
            request = asyncio.create_task(channel.request("ask", 1))
            await turns_until(lambda: made.peer(1, "slow").pending)
        for _ in range(15):
            await channel.emit("note", "x" * 10_000)
        links = membership_of(made[1].cluster).links.peers
        await turns_until(lambda: sum(link.active for link in links) == behind)
        assert not channel.closed
        for _ in range(15):
            with suppress(ChannelClosed):
                await channel.emit("note", "x" * 10_000)
        await turns_until(lambda: channel.closed)
        if behind:
            with pytest.raises(ChannelClosed, match="slow consumer"):
                await request
        assert len(made[1].peers) == 1
        transport.release()
        assert await peer.request("add", 1, 2) == 3


async def test_an_engine_that_comes_back_and_takes_less() -> None:
    """What it does not take ends the session in which it was sent, and not each one after that."""
    async with world("there") as w:
        w.engine.largest, w.engine.down = 64 * 1024, True
        w.engine.cut()
        await turns_until(lambda: not w.made[0].cluster.connected)
        w.engine.down = False
        await turns_until(lambda: w.made[0].cluster.connected and w.made[1].cluster.connected)
        await w.made.meet()
        assert await w.peer.request("add", 1, 2) == 3
        with pytest.raises(ConnectionLost) as caught:
            await w.peer.request("echo", "x" * 200_000)
        assert caught.value.outcome == "unknown"
        await w.made.meet()
        assert await w.peer.request("add", 1, 2) == 3
        assert await w.peer.request("echo", "x" * 30_000) == ["x" * 30_000]


@pytest.mark.parametrize("evil", [b"\xc7\x04\x05abcd", b"\x81\xc0\x01"], ids=["an extension", "a key that is null"])
async def test_an_item_that_only_messagepack_can_express(evil: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends its stream, and neither the session between the nodes nor the client's."""
    send: Any = MemoryTransport._send  # what a client of another make may send

    def send_evil(self: Any, payload: bytes, text: bool, last: bool) -> None:
        send(self, bytes(payload).replace(b"\xa4EVIL", evil), text, last)

    async def items() -> AsyncIterator[Any]:
        yield 1
        yield "EVIL"
        await asyncio.Event().wait()

    async with world("there") as w:
        w.callee.client.on("items", items)
        monkeypatch.setattr(MemoryTransport, "_send", send_evil)
        async with w.peer.stream("items") as stream:
            assert await anext(stream) == 1
            with pytest.raises(RemoteError, match="an item cannot be passed on"):
                await anext(stream)
        assert await w.peer.request("add", 1, 2) == 3
        await turns_until(lambda: w.made.peer(1, "ada").channels == 0)

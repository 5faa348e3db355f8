"""Calls with a key: they run once, whoever asks and however often, and are read from any position."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from task_factories import FACTORIES
from tenacity import wait_fixed
from waiting import settled, until

from wsrpc import (
    Client,
    Context,
    Handshake,
    Keep,
    Limits,
    Peer,
    Reconnect,
    Router,
    Server,
    Service,
    current_context,
    local_client,
    method,
    with_options,
)
from wsrpc.codecs import Codec, JsonCodec, MsgpackCodec
from wsrpc.errors import (
    BadArguments,
    ChannelClosed,
    ConnectionLost,
    HandlerFailed,
    ItemsGone,
    KeyReused,
    Overloaded,
    RemoteError,
    RequestTimeout,
    RpcError,
    RunLost,
    UnknownEvent,
)
from wsrpc.store import LEASE, LogState, MemoryStore
from wsrpc.testing import Line, VirtualTimeLoop, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


class Kitchen:
    """A server whose handlers write down that they run, and wait for a word. Others can share its store.

    Args:
        keep: of its handlers.
    """

    def __init__(self, keep: float | Keep = 60, store: MemoryStore | None = None) -> None:
        self.runs: list[Any] = []
        self.go = asyncio.Event()
        self.contexts: list[Context] = []
        self.ended: list[Any] = []
        self.server = Server(store=store or MemoryStore())
        self.server.on("cook", self.cook, keep=keep)
        self.server.on("serve", self.serve, keep=keep)

    async def cook(self, what: Any = "") -> Any:
        self.runs.append(what)
        self.contexts.append(current_context())
        await self.go.wait()
        if what in ("burnt", "burnt by a task"):
            burnt = RpcError("it is burnt", "burnt", {"for": 3})
            raise burnt if what == "burnt" else ExceptionGroup("tasks", [burnt])
        return [what, len(self.runs)]

    async def serve(self, count: int = 5) -> AsyncIterator[int]:
        self.runs.append(count)
        self.contexts.append(current_context())
        try:
            for number in range(count):
                if number == 3:
                    await self.go.wait()
                yield number
        finally:
            self.ended.append(current_context().cancel_reason)


@asynccontextmanager
async def guest(kitchen: Kitchen, **options: Any) -> AsyncGenerator[Client]:
    """A client in a kitchen, which closes afterwards."""
    async with connect(kitchen.server, **{"principal": "ann", **options}) as client:
        yield client
    await kitchen.server.close()


async def read(client: Client, count: int = 99, event: str = "serve", **options: Any) -> tuple[list[int], str | None]:
    """Read up to ``count`` items. Return them, and the position."""
    got: list[int] = []
    async with client.stream(event, **options) as items:
        async for item in items:
            got.append(item)
            if len(got) == count:
                break
        return got, items.position


# ---------------------------------------------------------------- running once


async def test_a_request_runs_once_and_outlives_its_callers() -> None:
    kitchen = Kitchen()
    async with guest(kitchen) as laptop, connect(kitchen.server, principal="ann") as phone:
        first = asyncio.ensure_future(phone.request("cook", "soup", key="k"))
        second = asyncio.ensure_future(laptop.request("cook", "soup", key="k"))
        await until(lambda: kitchen.runs)
        first.cancel()
        await phone.close()
        kitchen.go.set()
        assert await second == await laptop.request("cook", "soup", key="k") == ["soup", 1]
        with pytest.raises(KeyReused):
            await laptop.request("cook", "cake", key="k")
        assert await laptop.request("cook", "cake", key="other") == ["cake", 2]
        assert await laptop.request("cook", "cake") == ["cake", 3]
    assert [context.key for context in kitchen.contexts] == ["k", "other", None]


@pytest.mark.parametrize("what", ["burnt", "burnt by a task"])
async def test_an_error_is_a_result(what: str) -> None:
    kitchen = Kitchen()
    kitchen.go.set()
    async with guest(kitchen) as client:
        for _ in range(2):
            with pytest.raises(RemoteError, match="it is burnt") as burnt:
                await client.request("cook", what, key="k")
            assert (burnt.value.code, burnt.value.data) == ("burnt", {"for": 3})
    assert kitchen.runs == [what]


class Masked(str):
    """A principal that logs do not show."""

    def __str__(self) -> str:
        return "***"


async def test_keys_belong_to_principals_or_sessions_or_scopes() -> None:
    kitchen, shared = Kitchen(), Kitchen(Keep(60, scope=lambda peer, what: f"all {what}"))
    for each, runs in ((kitchen, 9), (shared, 1)):
        each.go.set()
        for principal in ("ann", "bob", "ann", 5, "5", True, Masked("ann"), Masked("bob"), None, None):
            async with connect(each.server, principal=principal) as client:
                await client.request("cook", "soup", key="k")
        assert len(each.runs) == runs
        await each.server.close()


async def test_other_principals_cannot_own_keys(caplog: pytest.LogCaptureFixture) -> None:
    kitchen = Kitchen()
    async with guest(kitchen, principal=("ann",)) as client:
        with pytest.raises(HandlerFailed):
            await client.request("cook", key="k")
    assert "no string or integer: give keep=Keep(..., scope=function)" in caplog.text and kitchen.runs == []


# ---------------------------------------------------------------- positions


async def test_readers_begin_and_continue_anywhere() -> None:
    kitchen = Kitchen()
    async with guest(kitchen) as client:
        begun, position = await read(client, 2, key="k")
        assert begun == [0, 1] and position is not None and position.startswith("2-")
        rest = asyncio.ensure_future(read(client, key="k", after=position))
        from_start = asyncio.ensure_future(read(client, key="k"))
        kitchen.go.set()
        end = "5" + position[1:]
        assert await rest == ([2, 3, 4], end)
        assert await from_start == ([0, 1, 2, 3, 4], end)
        assert await read(client, key="k", after=4) == ([4], end)
        for after in (5, "5", end):
            assert (await read(client, key="k", after=after))[0] == []
    assert kitchen.runs == [5]


async def test_who_continues_may_leave_the_arguments_out() -> None:
    kitchen = Kitchen()
    kitchen.go.set()
    async with guest(kitchen) as client, connect(kitchen.server, principal="bob") as other:
        assert await anext(aiter(client.stream("serve", 4, key="k"))) == 0
        assert (await read(client, key="k", after=2))[0] == [2, 3]
        with pytest.raises(KeyReused):
            async with client.stream("serve", 5, key="k", after=2):
                pass
        with pytest.raises(ItemsGone):
            await read(other, key="k", after=2)
    assert kitchen.runs == [4]


async def test_a_value_counts_as_the_only_item_for_who_continues() -> None:
    kitchen = Kitchen()
    async with guest(kitchen) as client:
        cooking = asyncio.create_task(client.request("cook", "soup", key="k"))
        await until(lambda: kitchen.runs)
        eating = asyncio.create_task(read(client, event="cook", key="k", after=0))
        kitchen.go.set()
        value = await cooking
        items, position = await eating
        assert items == [value] and position is not None and position.startswith("1-")
        for after in (1, position):
            assert (await read(client, event="cook", key="k", after=after))[0] == []
        for after in (2, "2" + position[1:]):
            with pytest.raises(ItemsGone):
                await read(client, event="cook", key="k", after=after)
        with pytest.raises(ItemsGone):
            await read(client, event="cook", key="never", after=0)
    assert kitchen.runs == ["soup"]


HOSTILE: list[tuple[int | str, type[Exception]]] = [
    *((wrong, ItemsGone) for wrong in ("6-{}", "9999999999999999-{}", "2-0123456789abcdef", "2-{}x", 99)),
    *((text, BadArguments) for text in ("9" * 60, "-", "-1-{}", "2-", "+2-{}", " 2-{}", "1_0-{}", "٢-{}", "2.0-{}")),
]


@pytest.mark.parametrize(("after", "error"), HOSTILE)
async def test_positions_that_are_none(after: int | str, error: type[Exception]) -> None:
    kitchen = Kitchen()
    kitchen.go.set()
    async with guest(kitchen) as client:
        _, position = await read(client, key="k")
        assert position is not None
        wrong = after.format(position[2:]) if isinstance(after, str) else after
        with pytest.raises(error):
            await read(client, key="k", after=wrong)
        with pytest.raises(ItemsGone) as gone:
            await read(client, key="never", after=wrong)
        assert gone.value.first is None
    assert kitchen.runs == [5]


async def test_items_that_are_no_longer_kept_are_told() -> None:
    kitchen = Kitchen(store=MemoryStore(log_bytes=200))
    async with guest(kitchen) as client:
        await read(client, 1, key="k")
        kitchen.go.set()
        await until(lambda: kitchen.ended)
        with pytest.raises(ItemsGone) as gone:
            await read(client, key="k")
        assert gone.value.first == 3
        assert (await read(client, key="k", after=gone.value.first - 1))[0] == [2, 3, 4]


# ---------------------------------------------------------------- the end


async def test_a_reader_stops_the_handler_for_all() -> None:
    kitchen = Kitchen()
    async with guest(kitchen) as ann, connect(kitchen.server, principal="ann") as tab:
        async with ann.stream("serve", key="k") as items, tab.stream("serve", key="k") as others:
            assert [await anext(items), await anext(others)] == [0, 0]
            assert kitchen.contexts[0].readers is not None
            await asyncio.gather(items.stop(), others.stop())
            for stream in (items, others):
                with pytest.raises(RemoteError) as stopped:
                    [item async for item in stream]
                assert stopped.value.code == "wsrpc.stopped"
                await stream.stop()  # again
        with pytest.raises(RemoteError, match="stopped"):
            await read(ann, key="k")
        async with ann.stream("serve") as without, without:
            with pytest.raises(ValueError, match="has no key"):
                await without.stop()
    assert getattr(kitchen.ended[0], "code", None) == "wsrpc.stopped"


async def test_code_of_a_server_starts_awaits_and_stops_the_runs_of_a_user(caplog: pytest.LogCaptureFixture) -> None:
    """Four lines were written for each connection in memory, of which one warned again and again of the same."""
    caplog.set_level(logging.INFO)
    store, asked = MemoryStore(), list[Any]()
    kitchen, other = Kitchen(store=store), Kitchen(store=store)  # as in two processes
    kitchen.server.on_handshake(asked.append)
    kitchen.server.on("open", lambda peer: asked.append((peer.principal, dict(peer.state))))
    async with local_client(kitchen.server, principal="ann", state={"table": 3}) as ann:
        started = asyncio.create_task(ann.request("cook", "soup", key="k"))
        async with ann.stream("serve", 5, key="s", returns=int) as items:
            assert await anext(items) == 0
        await until(lambda: kitchen.runs)
    with pytest.raises(ConnectionLost):
        await started
    assert asked == [("ann", {"table": 3})]
    async with connect(other.server, principal="ann") as tab, local_client(other.server, principal="ann") as ann:
        async with ann.stream("serve", key="s", after=0) as run:
            await run.stop()
        with pytest.raises(RemoteError, match="stopped"):
            await read(tab, key="s", after=0)
        kitchen.go.set()
        assert await ann.request("cook", "soup", key="k") == await tab.request("cook", "soup", key="k")
    caplog.clear()
    for _ in range(3):
        async with local_client(other.server, principal="bob") as bob:
            with pytest.raises(ItemsGone):
                await anext(bob.stream("serve", key="s", after=0))
            with pytest.raises(UnknownEvent):
                await bob.request("nothing")
    assert caplog.messages == []
    assert other.server.stats().misfits == {"unknown": 3}
    await other.server.close()
    with pytest.raises(ConnectionLost):
        await local_client(other.server).__aenter__()
    await kitchen.server.close()


async def test_a_local_client_that_is_cancelled_while_it_connects_leaves_nothing() -> None:
    server = Server()

    @server.on("open")
    async def enter(peer: Peer) -> None:
        await asyncio.Event().wait()

    connecting = asyncio.ensure_future(local_client(server).__aenter__())
    await until(lambda: server.peers)
    connecting.cancel()
    await asyncio.wait((connecting,))
    await until(lambda: not server.peers)
    await server.close()


async def test_a_stop_that_meets_the_end_of_the_handler() -> None:
    """It raised that the channel does not exist."""
    kitchen, slow = Kitchen(), Client(limits=Limits(stream_window=8))
    async with guest(kitchen) as client, client.stream("serve", key="k") as items:
        assert await anext(items) == 0
        kitchen.go.set()
        await items.stop()
        assert [item async for item in items] in ([1, 2], [1, 2, 3, 4])
        await items.stop()
        async with connect(kitchen.server, client=slow), slow.stream("serve", 100, key="k") as unread:
            assert await anext(unread) == 0
            await settled(61)
            await unread.stop()  # nothing is kept of the run any more


@pytest.mark.parametrize("reads", [False, True])
async def test_a_stop_after_the_connection_was_lost_says_so(reads: bool) -> None:
    """It returned as if the handler had been stopped."""
    async with guest(Kitchen()) as client:
        items = client.stream("serve", key="k")
        assert await anext(items) == 0
    if reads:
        with pytest.raises(ConnectionLost):
            [item async for item in items]
    with pytest.raises(ChannelClosed, match="has ended before its handler was stopped"):
        await items.stop()


async def test_a_handler_that_nobody_reads_is_stopped() -> None:
    kitchen = Kitchen(Keep(60, unread=5))
    async with guest(kitchen) as client:
        for _ in range(2):
            async with client.stream("serve", key="k") as items:
                await anext(items)
                await asyncio.sleep(4)
            await asyncio.sleep(4)
        assert not kitchen.ended
        await asyncio.sleep(6)
        assert kitchen.ended
        with pytest.raises(RemoteError, match="because nobody reads it"):
            await read(client, key="k")
    assert kitchen.server.stats().runs["serve"].ended == {"unread": 1}


class SlowStore(MemoryStore):
    """A store that answers who tells it that nobody reads a log when ``may_answer`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = asyncio.Event()
        self.asked = False

    async def hold(
        self, process: str, logs: Mapping[str, str], readers: Mapping[str, int], /
    ) -> Mapping[str, LogState]:
        states = await super().hold(process, logs, readers)
        if 0 in readers.values():
            self.asked = True
            await self.may_answer.wait()
        return states


async def test_who_begins_to_read_while_the_store_is_told_that_nobody_does_counts() -> None:
    store = SlowStore()
    kitchen, other = Kitchen(Keep(60, unread=5), store), Kitchen(store=store)
    async with guest(kitchen) as ann, guest(other) as tab:
        await read(ann, 1, key="k")
        await read(tab, 1, key="k")
        await until(lambda: store.asked, limit=2.1)
        async with tab.stream("serve", key="k") as items:
            assert await anext(items) == 0
            store.may_answer.set()
            await asyncio.sleep(20)
            assert not kitchen.ended


async def test_the_first_reason_for_a_stop_counts_and_the_handler_may_clean_up() -> None:
    store, cleaned = MemoryStore(), list[str]()
    kitchen, other = Kitchen(store=store), Kitchen(store=store)

    async def tidy() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            cleaned.append("all")

    for each in (kitchen, other):
        each.server.on("tidy", tidy, keep=60)
    async with guest(kitchen) as client, client.stream("tidy", key="k") as items:
        assert await anext(items) == 1
        await items.stop()
    async with guest(other) as client:
        with pytest.raises(RemoteError, match="the handler was stopped"):
            await read(client, event="tidy", key="k", after=0)
    assert cleaned == ["all"]


@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_handler_that_closes_its_own_side(side: str) -> None:
    kitchen, client = Kitchen(), Client()
    closing: Any = kitchen.server if side == "server" else client

    async def close_it() -> None:
        await closing.close()

    closing.on("close_it", close_it, keep=60)
    async with guest(kitchen, client=client):
        caller: Any = client if side == "server" else next(iter(kitchen.server.peers))
        with pytest.raises(ConnectionLost):
            await caller.request("close_it", key="k")


def throw_away(begun: Coroutine[Any, Any, None]) -> None:
    """Close an event loop without a word after something has begun in it."""
    loop = VirtualTimeLoop()
    loop.run_until_complete(begun)
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


def test_a_server_runs_again_in_another_event_loop() -> None:
    """The handlers of a loop that was closed without a word are lost, and nobody waits for them."""
    kitchen, kept = Kitchen(), list[Any]()

    async def begin() -> None:
        client = await connect(kitchen.server, principal="ann").__aenter__()
        kept.append(asyncio.ensure_future(client.request("cook", key="k")))
        await until(lambda: kitchen.runs)

    throw_away(begin())
    kitchen.go = asyncio.Event()
    kitchen.go.set()

    async def again() -> None:
        async with guest(kitchen) as client:
            with pytest.raises(RunLost):
                await client.request("cook", key="k")
            assert await client.request("cook", key="l") == ["", 2]

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(again())


def test_a_stream_that_is_thrown_away_with_its_event_loop_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its generator counts as running until Python 3.13, so that to close it failed."""

    async def begin() -> None:
        server, heard = Server(), list[int]()

        @server.on("watch", keep=60)
        async def watch() -> AsyncIterator[int]:
            yield 1
            await asyncio.Event().wait()

        client = Client("ws://server/", dial=Line(server).dial)
        await client.connect()

        async def read() -> None:
            async for item in client.stream("watch", key="k"):
                heard.append(item)

        reading = asyncio.ensure_future(read())
        await until(lambda: heard)
        assert not reading.done()

    throw_away(begin())
    gc.collect()
    assert not [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]


@pytest.mark.parametrize("factory", FACTORIES)
async def test_a_drain_does_not_wait_for_a_run_that_has_ended(factory: Any) -> None:
    """An eager task had ended before its run was noted, so the server took it for running ever after."""
    asyncio.get_running_loop().set_task_factory(factory)
    kitchen = Kitchen()
    kitchen.go.set()
    async with connect(kitchen.server, principal="ann") as client:
        assert await client.request("cook", key="k") == ["", 1]
        async with asyncio.timeout(1):
            await kitchen.server.close(drain_timeout=60)


# ---------------------------------------------------------------- handlers that misbehave


class Odd(BaseException):
    """Of no kind that anybody expects."""


async def fails_to_encode() -> object:
    return object()


async def has_odd_data() -> None:
    raise RpcError("odd", data=object())


async def raises_odd() -> None:
    raise Odd


async def is_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def returns_a_generator() -> Any:
    return fails_in_finally()


async def fails_in_finally() -> AsyncIterator[object]:
    try:
        yield object()
    finally:
        raise KeyError


@pytest.mark.parametrize(
    "handler", [fails_to_encode, has_odd_data, raises_odd, is_cancelled, returns_a_generator, fails_in_finally]
)
async def test_every_run_ends(handler: Callable[[], Any]) -> None:
    """Readers of some of these heard nothing until the claim of the run had lapsed."""
    kitchen = Kitchen(store=MemoryStore(lease=10**6))
    kitchen.server.on("odd", handler, keep=60)
    async with guest(kitchen) as client:
        streams = handler is fails_in_finally
        for _ in range(2):
            with pytest.raises(HandlerFailed):
                await (read(client, 9, "odd", key="k") if streams else client.request("odd", key="k"))


VALUES = [
    *(2**70, [2**64], float("nan"), b"bytes", {1: {2}}, None, Decimal("1.10"), UUID(int=7), Odd),
    *(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=zone))) for zone in (2, -2)),
]


@pytest.mark.parametrize("codec", [JsonCodec(enc_hook=str), MsgpackCodec(enc_hook=str)])
async def test_values_are_the_same_as_without_a_key(codec: Codec) -> None:
    """Large integers failed, and datetimes lost their offset, or failed."""
    server = Server(codec=codec, expose_errors=True)

    @server.on("result", keep=60)
    async def result(which: int) -> Any:
        return VALUES[which]

    @server.on("mistake", keep=60)
    async def mistake(which: int) -> None:
        raise RpcError("odd", data=VALUES[which])

    @server.on("items", keep=60)
    async def items(which: int) -> AsyncIterator[Any]:
        yield VALUES[which]

    async def ask(client: Client, which: int, **options: Any) -> str:
        got: list[Any] = []
        for name in ("result", "mistake", "items"):
            try:
                if name == "items":
                    got += [item async for item in client.stream(name, which, **options)]
                else:
                    got.append(await client.request(name, which, **options))
            except RemoteError as exc:
                got.append((exc.message, exc.data))
        return repr(got)

    async with connect(server, principal="ann", client=Client(codec=codec)) as client:
        for which in range(len(VALUES)):
            assert await ask(client, which, key=f"{which}") == await ask(client, which)
    await server.close()


# ---------------------------------------------------------------- where keys are honoured


class Waiter(Service):
    @method(keep=60)
    async def call(self) -> list[Any]:
        return [self.server is not None, current_context().key]


async def test_every_way_to_register_a_handler() -> None:
    kitchen, router, client = Kitchen(), Router(), Client()
    server, prices, seen = kitchen.server, list[str](), list[Any]()
    tracing = ContextVar("tracing", default="no")

    @router.on("tip", keep=60)
    async def tip(ctx: Context) -> list[Any]:
        return [dict(ctx.metadata), ctx.args, ctx.key, ctx.id, tracing.get()]

    async def price(dish: str) -> list[Any]:
        prices.append(dish)
        return [dish, len(prices)]

    @server.use
    async def middleware(ctx: Context, call_next: Any) -> Any:
        seen.append((ctx.event, ctx.key))
        tracing.set(f"call {len(seen)}")
        return await call_next(ctx)

    server.include(router)
    server.add_service(Waiter)
    for side in (server, client):
        side.on("price", price, keep=60)
    async with guest(kitchen, client=client):
        for metadata in ({"a": "b"}, {"c": "d"}):
            assert await client.request("tip", key="k", metadata=metadata) == [{"a": "b"}, [], "k", None, "call 1"]
        assert await client.request("call", key="k") == [True, "k"]
        menu = with_options(client.proxy(Menu), key="k")
        assert [await menu.price("soup"), await menu.price("soup")] == [["soup", 1]] * 2
        for _ in range(2):
            assert await server.peers[0].request("price", "soup", key="k") == ["soup", 2]
    assert seen == [("tip", None), ("tip", None), ("call", None), ("price", None), ("price", None)]


class Opaque:
    """A type that only a hook can make."""

    def __init__(self, text: str) -> None:
        self.text = text


class Menu(Protocol):
    async def price(self, dish: str) -> list[Any]: ...


class Doc(msgspec.Struct):
    id: int
    owner: str = "nobody"


SPELLINGS: list[tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = [
    (UUID, ("12345678123456781234567812345678",), ("12345678-1234-5678-1234-567812345678",)),
    (float, (1,), (1.0,)),
    (datetime, ("2026-01-01T00:00:00Z",), ("2026-01-01T00:00:00+00:00",)),
    (Doc, ({"id": 1},), ({"id": 1, "owner": "nobody"},)),
    (Doc, ({"id": 1}, 7), ({"id": 1, "unknown": 3},)),
    (Opaque, ("a",), ("a", 7)),
]


@pytest.mark.parametrize(("kind", "one", "other"), SPELLINGS)
@pytest.mark.parametrize("scoped", [True, False])
async def test_arguments_are_compared_as_the_handler_gets_them(kind: Any, one: Any, other: Any, scoped: bool) -> None:
    """One UUID in two spellings ran twice, or was refused."""
    seen, ran, server = list[Any](), list[Any](), Server(dec_hook=lambda tp, value: tp(value))

    def scope(peer: Peer, first: Any, count: int) -> str:
        seen.append((type(first), count))
        return str(count)

    async def work(peer: Peer, first: Any, count: int = 7) -> int:
        ran.append(first)
        return len(ran)

    work.__annotations__["first"] = kind
    server.on("work", work, keep=Keep(60, scope=scope) if scoped else 60)
    async with connect(server, principal="ann") as client:
        if kind is Opaque:
            if not scoped:  # it cannot be encoded, so what has arrived is compared
                assert await client.request("work", *one, key="k") == 1
                with pytest.raises(KeyReused):
                    await client.request("work", *other, key="k")
            other = one
        assert [await client.request("work", *args, key="k") for args in (one, other)] == [1, 1]
    assert [type(each) for each in ran] == [kind] and seen == [(kind, 7)] * 2 * scoped


@pytest.mark.parametrize("keep", [60, Keep(60, scope=lambda peer, door, *_: f"door {door}")], ids=["own", "scope"])
async def test_clients_share_the_results_in_a_common_store_only_under_one_name(keep: Any) -> None:
    store, server, opened = MemoryStore(), Server(), list[str]()
    async with AsyncExitStack() as stack:
        for name in ("device-7", "device-8", "device-8"):
            client = Client(store=store, key_owner=name)

            @client.on("open lock", keep=keep)
            async def open_lock(door: int, name: str = name) -> str:
                opened.append(name)
                return f"{name} opened {door}"

            await stack.enter_async_context(connect(server, client=client))
        answers = [await peer.request("open lock", 2, key="k") for peer in server.peers]
    assert answers == [f"{name} opened 2" for name in ("device-7", "device-8", "device-8")]
    assert opened == ["device-7", "device-8"]


async def test_the_name_of_a_client_is_no_principal_of_a_server_with_the_same_store() -> None:
    store = MemoryStore()
    kitchen = Kitchen(store=store)
    kitchen.go.set()
    device = Client(store=store, key_owner="str 'ann'")

    @device.on("cook", keep=60)
    async def cook() -> str:
        return "the device's"

    async with guest(kitchen, client=device):
        assert await device.request("cook", key="k") == ["", 1]
        assert await kitchen.server.peers[0].request("cook", key="k") == "the device's"


async def plain(peer: Peer) -> None:
    return


def not_async() -> int:
    return 1


def handles(function: Any = plain, **options: Any) -> Any:
    return lambda: Server().on("event", function, **options)


def client_with(**options: Any) -> Any:
    return lambda: Client("ws://127.0.0.1", **options)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (handles(keep=0), "1 or more"),
        (handles(keep="long"), "number of seconds"),
        (handles(keep=True), "number of seconds"),
        (handles(not_async, keep=60), "plain function"),
        (handles(keep=60, timeout=5.0), "timeout= is for the caller"),
        (handles(not_async, keep=60, thread=True), "plain function"),
        (client_with(store=MemoryStore()), "names this client in the store"),
        (client_with(key_owner="a"), "names this client in the store"),
        (client_with(store=MemoryStore(), key_owner=5), "key_owner= is a non-empty string, got 5"),
        (client_with(store=MemoryStore(), key_owner=""), "key_owner= is a non-empty string, got ''"),
        (client_with(store=5, key_owner="a"), "store= is a MemoryStore, a SqliteStore or a RedisStore, got 5"),
    ],
)
def test_what_keep_does_not_apply_to_and_a_store_without_a_name(make: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        make()


async def test_a_client_follows_a_stream_over_sessions() -> None:
    server = Server()
    line = Line(server)

    @server.on_handshake
    def log_in(handshake: Handshake) -> None:
        handshake.principal = handshake.bearer_token

    @server.on("count", keep=60)
    async def count(most: int) -> AsyncIterator[int]:
        for number in range(most):
            yield number

    async with Client("ws://server/", dial=line.dial, auth="ada", reconnect=Reconnect(initial=0.001)) as client:
        items, got = client.follow("count", 12, key="k", returns=int), list[int]()
        assert items.position is None
        async with items:
            async for number in items:
                got.append(number)
                for peer in server.peers if number in (2, 4, 9) else ():
                    await peer.close(1012)
            assert got == [*range(12)]
        assert items.position is not None and items.position.startswith("12-")
        later = client.follow("count", 12, key="k", after=items.position.replace("12-", "10-"))
        assert [number async for number in later] == [10, 11]
        stopped = client.follow("count", 12, key="k")
        assert await anext(stopped) == 0
        await stopped.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stopped)
        unopened = client.follow("count", 12, key="k")
        with pytest.raises(ChannelClosed):
            await unopened.stop()
    with pytest.raises(ConnectionLost):
        await anext(client.follow("count", 12, key="k"))
    await server.close()


async def test_a_step_that_is_cancelled_while_the_client_reconnects_is_not_the_end() -> None:
    server, may_dial, go_on = Server(), asyncio.Event(), asyncio.Event()
    line = Line(server)
    server.on_handshake(lambda handshake: setattr(handshake, "principal", "ada"))

    @server.on("count", keep=60)
    async def count() -> AsyncIterator[int]:
        for number in range(5):
            await go_on.wait() if number > 1 else None
            yield number

    async def dial(*args: Any, **options: Any) -> Any:
        await may_dial.wait()
        return await line.dial(*args, **options)

    may_dial.set()
    async with Client("ws://server/", dial=dial, reconnect=Reconnect(initial=0.001)) as client:
        items = client.follow("count", key="k", returns=int)
        got = [await anext(items), await anext(items)]
        may_dial.clear()
        await server.peers[0].close(1012)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(items), 1)
        impatient = client.follow("count", key="k", returns=int, timeout=1.0)
        with pytest.raises(RequestTimeout):
            await anext(impatient)
        may_dial.set()
        go_on.set()
        got += [number async for number in items]
        assert got == [0, 1, 2, 3, 4] == [number async for number in impatient]
        await items.aclose()
    await server.close()


class UnevenStore(MemoryStore):
    """A store that answers the first ones last."""

    waits = 40

    async def open(self, *args: Any) -> Any:
        self.waits -= 1
        for _ in range(self.waits):
            await asyncio.sleep(0)
        return await super().open(*args)


class HeldStore(MemoryStore):
    """A store that answers the first one when ``may_open`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_open = asyncio.Event()
        self.asked = 0
        self.held = set[str]()

    async def open(self, key: str, *args: Any) -> Any:
        self.asked += 1
        if self.asked == 1:
            await self.may_open.wait()
        return await super().open(key, *args)

    async def hold(self, process: str, logs: Any, *args: Any) -> Any:
        self.held.update(logs)
        return await super().hold(process, logs, *args)


async def test_a_call_that_waits_for_the_one_before_it_is_held() -> None:
    """Otherwise it would be lost for other processes, and run nevertheless, as one that was stopped meanwhile."""
    store, said = HeldStore(), list[int]()
    server = Server(store=store)

    @server.on("say", keep=60)
    async def say(number: int) -> int:
        said.append(number)
        return number

    async with connect(server, client=Client(auth="ada")) as client:
        calls = [asyncio.create_task(client.request("say", n, key=f"k{n}")) for n in range(3)]
        await until(lambda: len(store.held) == 2, limit=2.1)  # a third of the lease
        async with client.stream("say", key="k2", after=0) as last:
            await last.stop()
        await asyncio.sleep(LEASE)
        store.may_open.set()
        *answers, stopped = await asyncio.gather(*calls, return_exceptions=True)
        assert answers == said == [0, 1] and getattr(stopped, "code", None) == "wsrpc.stopped"
    await server.close()


@pytest.mark.parametrize("ordered", [True, False])
async def test_calls_with_keys_start_in_order_and_wait_for_others_if_their_handler_is_ordered(ordered: bool) -> None:
    server, said, running = Server(store=UnevenStore()), list[int](), set[int]()

    @server.on("say", keep=60, ordered=ordered)
    async def say(number: int) -> int:
        assert not (ordered and running)
        running.add(number)
        said.append(number)
        await until(lambda: ordered or number < 0 or len(said) == 21)
        running.remove(number)
        return number

    async with connect(server, client=Client(auth="ada")) as client:
        assert await client.request("say", -1, key="k-1") == -1
        # One in the middle is answered from the store: those after it wait for those before it nevertheless.
        numbers = [*range(10), -1, *range(10, 20)]
        assert await asyncio.gather(*(client.request("say", n, key=f"k{n}") for n in numbers)) == numbers
        assert await client.request("say", 7, key="k7") == 7
    assert said == [-1, *range(20)]
    await server.close()


@pytest.mark.parametrize("ends", ["cancels", "loses its session"])
async def test_runs_of_an_ordered_handler_never_overlap_although_their_callers_leave(ends: str) -> None:
    server, running, ran = Server(detached_timeout=0.001), set[int](), list[int]()
    line = Line(server)
    device = Client("ws://line", dial=line.dial, reconnect=Reconnect(wait=wait_fixed(0.1)))

    @device.on("turn", keep=60, ordered=True)
    async def turn(number: int) -> int:
        assert not running
        running.add(number)
        await asyncio.sleep(10)
        running.remove(number)
        ran.append(number)
        return number

    async with device:
        calls = [asyncio.create_task(server.peers[0].request("turn", n, key=f"k{n}")) for n in range(3)]
        await settled(5)
        if ends == "cancels":
            for call in calls:
                call.cancel()
        else:
            line.cut()
            await settled(1)
        assert await server.peers[0].request("turn", 3, key="k3") == 3
        assert ran == [0, 3]
        await asyncio.gather(*calls, return_exceptions=True)
    await server.close()


async def test_keys_that_nobody_honours() -> None:
    kitchen = Kitchen()
    kitchen.server.on("plain", plain)
    async with guest(kitchen) as client, connect(kitchen.server, client=Client(extensions=False)) as other:
        for key in ("", "a\nb", "a\n", "\x7f", "x" * 129, 5, b"k", True):
            with pytest.raises((TypeError, ValueError), match="1 to 128 characters"):
                await client.request("cook", key=key)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="give key="):
            await read(client, after=3)
        refused: list[tuple[str, tuple[Any, ...], type[Exception], str]] = [
            ("plain", (), BadArguments, "its handler has no keep=: give it one, or leave out the key"),
            ("unknown", (), UnknownEvent, "unknown"),
            *(("cook", many, BadArguments, "at most 1") for many in ((1, 2), (1, 2, 3))),
            ("cook", (2**70,), BadArguments, "cannot be compared"),
        ]
        for event, arguments, error, text in refused:
            with pytest.raises(error, match=text):
                await client.request(event, *arguments, key="k")
        with pytest.raises(ValueError, match="does not speak wsrpc"):
            await other.request("cook", key="k")
    assert kitchen.runs == []


async def test_plain_peers_pass_keys_as_a_last_argument() -> None:
    kitchen = Kitchen(Keep(60, scope=lambda peer, *args: "all", last_argument=True))
    kitchen.go.set()
    async with guest(kitchen) as client, connect(kitchen.server, client=Client(extensions=False)) as plain:

        def last(**context: Any) -> dict[str, Any]:
            return {"wsrpc": context}

        assert await plain.request("cook", "soup", last(key="k")) == ["soup", 1]
        assert await client.request("cook", "soup", key="k") == ["soup", 1]
        with pytest.raises(BadArguments):  # the key of the call itself counts, and the last argument is one
            await client.request("cook", "soup", last(key="other"), key="k")
        with pytest.raises(KeyReused):
            await plain.request("cook", last(key="k"))
        assert [item async for item in plain.stream("serve", last(key="s"))] == [0, 1, 2, 3, 4]
        assert [item async for item in plain.stream("serve", last(key="s", after=3))] == [3, 4]
        with pytest.raises(BadArguments, match="context is not valid"):
            await plain.request("cook", last(key=""))
        ran = list(kitchen.runs)
        await plain.emit("cook", last(key="event"))
        with pytest.raises(ItemsGone):
            await read(client, key="event", after=0)
        assert kitchen.runs == ran


async def test_objects_as_principals_do_not_make_each_connection_a_payer() -> None:
    kitchen = Kitchen(Keep(60, scope=lambda peer, *args: "all"), MemoryStore(payer_logs=3))
    kitchen.go.set()
    for key in "abcd":
        async with connect(kitchen.server, principal=Router()) as client:
            if key == "d":
                with pytest.raises(Overloaded, match="too many results"):
                    await client.request("cook", key=key)
            else:
                await client.request("cook", key=key)
    await kitchen.server.close()

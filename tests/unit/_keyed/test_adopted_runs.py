"""Runs that go on in another process, and functions that are told their ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from waiting import settled, until

from wsrpc import Client, Context, Keep, Peer, Server, Service, method
from wsrpc.errors import BadArguments, ConnectionLost, HandlerFailed, RemoteError, RpcError, RunLost
from wsrpc.store import LEASE, MemoryStore, StoreLost
from wsrpc.testing import connect
from wsrpc.types import EndedRun

pytestmark = pytest.mark.usefixtures("nothing_left")


class Cut:
    """The store as a process has it that does not reach it for a while, or gets no answers."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.is_cut = self.is_mute = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return partial(self._ask, found) if asyncio.iscoroutinefunction(found) else found

    async def _ask(self, ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self.is_cut:
            raise StoreLost("away")
        answer = await ask(*args, **options)
        if self.is_mute:
            raise StoreLost("no answer")
        return answer


class Writer:
    """One of the processes that write. Each yields its name with the number of each item, and waits before number 2."""

    def __init__(self, name: str, store: MemoryStore, **keep: Any) -> None:
        self.name = name
        self.store = Cut(store)
        self.server = Server(store=self.store)
        self.begun: list[Context] = []
        self.go = asyncio.Event()
        self.told: list[EndedRun] = []
        self.fails = 0
        self.server.on("write", self.write, keep=Keep(60, on_end=self.tell, **keep))
        self.server.on("add", self.add, keep=Keep(60, on_end=self.tell, **keep))

    async def write(self, ctx: Context, most: int = 6) -> AsyncIterator[tuple[str, int]]:
        self.begun.append(ctx)
        earlier = await ctx.earlier()
        assert earlier.complete
        for number in range(len(earlier.items), most):
            if number == 2:
                await self.go.wait()
            yield self.name, number

    async def add(self, ctx: Context, a: int, b: int) -> int:
        self.begun.append(ctx)
        await self.go.wait()
        if not b:
            raise RpcError("nothing to add", "nothing")
        return a + b

    async def tell(self, run: EndedRun) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError("the database is away")
        self.told.append(run)


@asynccontextmanager
async def writers(**keep: Any) -> AsyncGenerator[tuple[Writer, Writer, Client, Client]]:
    """Two processes with a common store, and a client of each."""
    store = MemoryStore()
    one, two = (Writer(name, store, **{"attempts": 3} | keep) for name in ("one", "two"))
    async with connect(one.server, principal="ann") as ours, connect(two.server, principal="ann") as theirs:
        yield one, two, ours, theirs
    for writer in (one, two):
        writer.store.is_cut = writer.store.is_mute = False
        await writer.server.close()


async def lose(writer: Writer) -> None:
    """Let the lease of what a process runs lapse."""
    writer.store.is_cut = True
    await settled(LEASE + 1)


async def read(client: Client, event: str = "write", *args: Any, **options: Any) -> list[Any]:
    async with client.stream(event, *args, **{"key": "k"} | options) as items:
        return [item async for item in items]


PARTS = [["one", 0], ["one", 1], ["two", 2], ["two", 3], ["two", 4], ["two", 5]]


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "handed over"])
async def test_a_run_goes_on_in_another_process_although_nobody_reads_it(is_lost: bool) -> None:
    async with writers() as (one, two, ours, theirs):
        async with ours.stream("write", key="k", metadata={"from": "page"}) as items:
            assert [await anext(items), await anext(items)] == PARTS[:2]
            position = items.position
        two.go.set()
        if is_lost:
            await lose(one)
        else:
            await one.server.close()
            await settled(1.0)
        assert [each.attempt for each in (*one.begun, *two.begun)] == [1, 1 + is_lost]
        [told] = two.told
        assert told.items == PARTS == await read(theirs) and told.complete
        assert await read(theirs, after=position) == PARTS[2:]
        assert (told.outcome, told.error, told.result, told.attempt) == ("done", None, None, 1 + is_lost)
        assert (told.key, told.event, told.args, told.principal) == ("k", "write", (), "ann")
        assert told.metadata == {"from": "page"}
        one.store.is_cut, one.fails = False, 1
        one.go.set()
        await settled(3 * LEASE)
        assert await read(theirs) == PARTS, "the process that has lost it adds nothing"
        assert [one.told, two.told] == [[], [told]]
        runs = two.server.stats().runs["write"]
        assert (runs.running, runs.ended, runs.adopted) == (0, {"done": 1}, 1)
        assert one.server.stats().runs["write"].ended == {"lost" if is_lost else "handed over": 1}


async def test_a_run_that_was_lost_before_is_handed_over_at_once() -> None:
    async with writers() as (one, two, ours, _):
        async with ours.stream("write", key="k") as items:
            await anext(items)
        await lose(one)
        assert len(two.begun) == 1
        one.store.is_cut = False
        await settled(LEASE)
        await two.server.close()
        await settled(1.0)
        assert [ctx.attempt for ctx in (*one.begun, *two.begun)] == [1, 2, 2]


async def test_a_server_that_nobody_has_called_goes_on_with_lost_runs() -> None:
    store = MemoryStore()
    one, two = (Writer(name, store, attempts=3) for name in ("one", "two"))
    async with connect(one.server, principal="ann") as client, client.stream("write", key="k") as items:
        await anext(items)
        await two.server.open()
        two.go.set()
        await lose(one)
    one.store.is_cut = False
    for writer in (one, two):
        await writer.server.close()
    assert [run.items for run in two.told] == [PARTS]


async def test_processes_share_the_runs_of_one_that_is_lost() -> None:
    """The one that looked first took all 300, at once."""
    store = MemoryStore()
    lost, one, two = processes = [Writer(name, store, attempts=3) for name in ("lost", "one", "two")]
    async with connect(lost.server, principal="ann") as client:
        for number in range(80):
            async with client.stream("write", key=f"k{number}") as items:
                await anext(items)
        await one.server.open()
        await settled(0.2)
        await two.server.open()
        await lose(lost)
    for process in processes:
        process.go.set()
        process.store.is_cut = False
    await settled(1.0)
    for process in processes:
        await process.server.close()
    assert len(one.begun) + len(two.begun) == 80 and len(one.told) + len(two.told) == 80
    assert min(len(one.begun), len(two.begun)) > 20


async def test_readers_in_other_processes_see_no_end_when_a_run_is_lost() -> None:
    async with writers() as (one, two, ours, theirs):
        first = asyncio.create_task(read(ours))
        await settled()
        first.cancel()
        reading = [asyncio.create_task(read(theirs)) for _ in range(3)]
        await settled()
        two.go.set()
        await lose(one)
        assert await asyncio.gather(*reading) == [PARTS] * 3


async def test_the_handler_has_no_connection_from_the_first_attempt_on() -> None:
    async with writers() as (one, two, ours, _):
        asking = asyncio.create_task(ours.request("add", 2, 3, key="k", metadata={"trace": "7"}))
        await settled()
        await lose(one)
        for ctx in (*one.begun, *two.begun):
            assert not ctx.peer.connected and not ctx.peer.state
            assert (ctx.peer.principal, ctx.key, dict(ctx.metadata)) == ("ann", "k", {"trace": "7"})
            with pytest.raises(ConnectionLost):
                await ctx.peer.emit("news")
        two.go.set()
        await settled(1.0)
        assert [(told.result, told.args) for told in two.told] == [(5, (2, 3))]
        one.store.is_cut = False
        assert await asking == 5


@pytest.mark.parametrize("seconds", [7, 8, 9, 10, 12])
async def test_an_outage_of_the_store_moves_no_run_whose_process_lives(seconds: int) -> None:
    async with writers(attempts=1) as (one, two, ours, _):
        asking = asyncio.create_task(ours.request("add", 2, 3, key="k"))
        await settled()
        one.store.is_cut = two.store.is_cut = True
        await settled(seconds)
        one.store.is_cut = two.store.is_cut = False
        await settled(2 * LEASE)
        one.go.set()
        assert await asking == 5 and not two.begun and [run.outcome for run in one.told] == ["done"]


@pytest.mark.parametrize("seconds", [1, 8, 11, 15])
async def test_a_run_whose_first_answer_is_lost_begins_once(seconds: int) -> None:
    async with writers(attempts=1) as (one, two, ours, theirs):
        one.go.set()
        two.go.set()
        one.store.is_mute = True
        asking = asyncio.create_task(ours.request("add", 2, 3, key="k"))
        await settled(seconds)
        one.store.is_mute = False
        answer: Any
        [answer] = await asyncio.gather(asking, return_exceptions=True)
        assert answer == 5 if seconds < 10 else answer.outcome == "not_run"
        await settled(2 * LEASE)
        assert len(one.begun) + len(two.begun) == len(one.told) + len(two.told) == (seconds < 10)
        assert await theirs.request("add", 2, 3, key="k") == 5
        await settled()
        assert [run.outcome for run in one.told + two.told] == ["done"]


async def test_a_run_with_one_attempt_is_not_handed_over() -> None:
    async with writers(attempts=1) as (one, two, ours, _):
        asking = asyncio.create_task(ours.request("add", 2, 3, key="k"))
        await settled()
        await one.server.close()
        await settled(2 * LEASE)
        assert [run.outcome for run in one.told] == ["lost"] and not (two.begun or two.told)
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_process_that_does_not_know_that_it_has_lost_a_run_stops_it() -> None:
    async with writers() as (one, two, ours, _):
        async with ours.stream("write", key="k") as items:
            await anext(items)
            await lose(one)
            assert len(two.begun) == 1
            one.store.is_cut = False
            await items.stop()
        await until(lambda: one.told + two.told, limit=LEASE)
        assert [run.outcome for run in one.told + two.told] == ["stopped"]


async def test_a_stop_during_a_hand_over_is_a_stop() -> None:
    async with writers() as (one, two, ours, theirs):
        cleaning, clean = asyncio.Event(), asyncio.Event()

        async def write(ctx: Context) -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                cleaning.set()
                await clean.wait()

        one.server.on("write", write, keep=Keep(60, attempts=3, on_end=one.tell))
        async with ours.stream("write", key="k") as items, theirs.stream("write", key="k", after=0) as others:
            assert await anext(items) == await anext(others) == 1
            closing = asyncio.create_task(one.server.close())
            await cleaning.wait()
            await others.stop()
            clean.set()
            await closing
        await settled(2 * LEASE)
        assert [run.outcome for run in one.told + two.told] == ["stopped"] and not two.begun


async def test_a_cleanup_that_fails_does_not_end_a_run_that_is_handed_over() -> None:
    async with writers() as (one, two, ours, _):

        async def write(ctx: Context) -> AsyncIterator[tuple[str, int]]:
            try:
                yield "one", 0
                await asyncio.Event().wait()
            finally:
                raise OSError("the disk is away")

        one.server.on("write", write, keep=Keep(60, attempts=3, on_end=one.tell))
        async with ours.stream("write", key="k") as items:
            await anext(items)
        two.go.set()
        await one.server.close()
        await settled(1.0)
        assert [run.outcome for run in two.told] == ["done"] and not one.told
        assert one.server.stats().runs["write"].ended == {"handed over": 1}


async def test_how_a_run_has_ended_is_not_counted_anew_while_that_is_told() -> None:
    async with writers() as (one, _, ours, _):

        async def tell(run: EndedRun) -> None:
            await asyncio.sleep(LEASE)
            one.told.append(run)

        one.server.on("add", one.add, keep=Keep(60, on_end=tell))
        one.go.set()
        assert await ours.request("add", 2, 3, key="k") == 5
        await settled(2 * LEASE)
        counted = one.server.stats().runs["add"]
        assert (counted.ended, counted.running) == ({"done": 1}, 0) and counted.seconds < 1.0
        assert [run.outcome for run in one.told] == ["done"]


async def test_an_attempt_gets_what_those_before_it_have_yielded_and_no_more() -> None:
    store = MemoryStore(log_bytes=2000)
    one, two = (Writer(name, store, attempts=3) for name in ("one", "two"))
    found: list[Any] = []

    async def write(ctx: Context) -> AsyncIterator[tuple[str, int]]:
        for number in range(100):
            yield "two", number
        await asyncio.sleep(1.0)
        found.append(await ctx.earlier())

    two.server.on("write", write, keep=Keep(60, attempts=3))
    async with connect(one.server, principal="ann") as ours, connect(two.server, principal="ann"):
        async with ours.stream("write", key="k") as items:
            await anext(items)
        await lose(one)
        assert found == [([], False)], "the store has dropped them for those of this attempt"
    one.store.is_cut = False
    for each in (one, two):
        await each.server.close()


async def test_a_run_ends_as_lost_after_its_last_attempt() -> None:
    async with writers(attempts=2) as (one, two, ours, theirs):
        reading = asyncio.create_task(read(ours))
        await settled()
        await lose(one)
        one.store.is_cut = False
        assert [ctx.attempt for ctx in two.begun] == [2]
        two.store.is_cut = True
        await until(lambda: one.told, limit=LEASE + 2)
        [told] = one.told
        assert (told.outcome, told.items, type(told.error)) == ("lost", PARTS[:2], RunLost)
        with pytest.raises(RunLost, match="the processes of 2 attempts have ended"):
            await reading
        two.store.is_cut = False
        await settled(LEASE)
        assert len(two.begun) == 1 and not two.told
        with pytest.raises(RunLost):
            await read(theirs)


@pytest.mark.parametrize("between", [False, True], ids=["while it runs", "between two attempts"])
async def test_the_end_of_a_stopped_run_is_told_once(between: bool) -> None:
    async with writers(attempts=99) as (one, two, ours, theirs):
        async with ours.stream("write", key="k") as items:
            await anext(items)
        if between:
            [log] = one.store._store._logs.values()
            log.attempt = 10  # so it waits for the next one
            await lose(one)
        async with theirs.stream("write", key="k", after=0) as items:
            await items.stop()
        assert not two.begun
        await settled(20.0)
        one.store.is_cut = False
        await settled(LEASE)
        told = one.told + two.told
        assert [(run.outcome, run.items) for run in told] == [("stopped", PARTS[:2])]
        assert one.server.stats().runs["write"].ended == {"stopped": 1}
        assert isinstance(told[0].error, RemoteError) and told[0].error.code == "wsrpc.stopped"


@pytest.mark.parametrize(("args", "outcome", "result"), [((2, 3), "done", 5), ((2, 0), "failed", None)])
async def test_the_end_of_a_request_is_told(args: tuple[int, int], outcome: str, result: Any) -> None:
    async with writers(attempts=1) as (one, _, ours, _):
        one.go.set()
        answer: Any
        [answer] = await asyncio.gather(ours.request("add", *args, key="k"), return_exceptions=True)
        await settled()
        [told] = one.told
        assert (told.outcome, told.result, told.items, told.attempt) == (outcome, result, [], 1)
        assert answer == result if outcome == "done" else getattr(told.error, "code", None) == "nothing"


async def test_an_end_that_could_not_be_told_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    async with writers() as (one, two, ours, _):
        one.go.set()
        one.fails = two.fails = 1
        assert await ours.request("add", 2, 3, key="k") == 5
        await settled(5 * LEASE)
        assert [(run.result, run.attempt) for run in one.told + two.told] == [(5, 1)]
        failed = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert failed and all("as long as the run is kept, it is called again" in text for text in failed)
    caplog.clear()


async def test_the_end_is_told_although_the_process_closes_meanwhile() -> None:
    async with writers() as (one, two, ours, _):
        slow = asyncio.Event()

        async def tell(run: EndedRun) -> None:
            one.told.append(run)
            await slow.wait()

        one.server.on("write", one.write, keep=Keep(60, on_end=tell))
        one.go.set()
        await read(ours)
        await settled()
        assert len(one.told) == 1 and not two.told
        await one.server.close()
        await settled(1.0)
        assert [run.id for run in two.told] == [one.told[0].id]


async def test_arguments_that_no_longer_fit_end_a_run() -> None:
    async with writers() as (one, two, ours, _):

        async def write(ctx: Context, most: str) -> AsyncIterator[int]:
            yield 1

        two.server.on("write", write, keep=Keep(60, attempts=3, on_end=two.tell))
        async with ours.stream("write", 6, key="k") as items:
            await anext(items)
        await lose(one)
        [told] = two.told
        assert told.outcome == "failed" and isinstance(told.error, BadArguments)


async def test_a_process_that_closes_adopts_nothing() -> None:
    async with writers() as (one, two, ours, theirs):
        waiting = asyncio.create_task(theirs.request("add", 1, 1, key="other"))
        async with ours.stream("write", key="k") as items:
            await anext(items)
        draining = asyncio.create_task(two.server.close(drain_timeout=3 * LEASE))
        await lose(one)
        await settled(LEASE)
        assert [ctx.key for ctx in two.begun] == ["other"]
        two.go.set()
        assert await waiting == 2
        await draining


async def test_a_store_of_one_server_hands_nothing_over() -> None:
    told = list[EndedRun]()
    server = Server()

    @server.on("write", keep=Keep(60, attempts=3, on_end=told.append))
    async def write() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async with connect(server, principal="ann") as client, client.stream("write", key="k") as items:
        assert await anext(items) == 1
        await server.close()
    assert [(run.outcome, run.items) for run in told] == [("lost", [1])]


async def test_a_run_that_ends_its_processes_does_so_slowly() -> None:
    """Otherwise it ends all workers at about the same time, which are started again no sooner."""
    async with writers(attempts=9) as (one, two, ours, _):
        async with ours.stream("write", key="k") as items:
            await anext(items)
        await settled(600.0)  # also one that has lasted
        began = asyncio.get_running_loop().time()
        times = list[float]()
        store = one.store._store
        for number in range(2, 6):
            [key] = [*store._logs]
            await store.release({key: store._logs[key].held_as})
            store._logs[key].owner = "killed"
            while len(one.begun) + len(two.begun) < number:
                await settled(0.01)
            times.append(asyncio.get_running_loop().time() - began)
            began += times[-1]
        assert times[0] < 1.0 and all(each > 2.0 * number for number, each in enumerate(times)), times


class Clerk(Service):
    @method(keep=Keep(60, attempts=2))
    async def add(self) -> int:
        return 1


async def add() -> int:
    return 1


def keep(**wrong: Any) -> Keep:
    return Keep(60, **wrong)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Keep(60, attempts=0), "attempts= is a whole number, 1 or more"),
        (lambda: keep(attempts=2.5), "attempts= is a whole number"),
        (lambda: keep(on_end=5), "on_end= is a function"),
        (lambda: Server().on("add", add, keep=Keep(60, attempts=2), ordered=True), "are for functions of a server"),
        (lambda: Client("ws://server/").on("add", add, keep=Keep(60, attempts=2)), "are for functions of a server"),
        (lambda: Server().add_service(Clerk), "are for functions of a server"),
    ],
)
def test_what_cannot_go_on_in_another_process(make: Callable[[], Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        make()


async def test_a_handler_of_one_peer_cannot_go_on(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.on("open", lambda peer: peer.on("add", add, keep=Keep(60, attempts=2)))
    async with connect(server, principal="ann") as client:
        with pytest.raises(HandlerFailed):
            await client.request("add", key="k")
    assert "are for handlers of all peers of a server" in caplog.text
    caplog.clear()
    await server.close()


async def test_a_peer_has_what_its_principal_is() -> None:
    """A principal of another class may be none that every process knows."""

    class User(str):
        roles = ("staff",)

    async with writers() as (one, _, _, _):
        async with connect(one.server, principal=User("eve")) as client:
            one.go.set()
            await client.request("add", 1, 1, key="k")
            peer: Peer = one.begun[0].peer
            assert peer.principal == "eve" and type(peer.principal) is str

"""What calls with keys take of a server's memory, and what they find when less is kept than they need."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from stream_driver import collect
from task_factories import FACTORIES
from waiting import settled, until

from wsrpc import Client, ItemsGone, Keep, Limits, Overloaded, Retry, RunLost, Server
from wsrpc.store import Appended, LogState, MemoryStore, NewLog, Page, StoreFull, StoreLost
from wsrpc.testing import Line, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


@asynccontextmanager
async def charging(store: MemoryStore, wait: Any = None) -> AsyncGenerator[tuple[Client, list[int]]]:
    """A client of a server that charges, and what was charged."""
    server, ran = Server(store=store), list[int]()

    @server.on("charge", keep=Keep(60, scope=lambda peer, amount: "all"))
    async def charge(amount: int) -> int:
        ran.append(amount)
        if wait is not None:
            await wait()
        return amount

    async with connect(server) as client:
        yield client, ran
    await server.close()


async def test_the_arguments_of_handlers_that_outlive_their_callers_are_bounded() -> None:
    """They took 4 MiB for each of 1,000 keys."""
    server, end = Server(store=MemoryStore(payer_bytes=450_000)), asyncio.Event()

    @server.on("hold", keep=60)
    async def hold(key: str, data: str) -> str:
        await end.wait()
        return key

    def ask(client: Client, key: str) -> asyncio.Future[str]:
        return asyncio.ensure_future(client.request("hold", key, "x" * 90_000, key=key))

    async with connect(server, principal="eve") as eve, connect(server, principal="ada") as ada:
        begun = [ask(client, key) for client, key in ((eve, "a"), (eve, "b"), (eve, "c"), (eve, "d"), (ada, "a"))]
        await settled()
        for call in begun:
            call.cancel()
        with pytest.raises(Overloaded, match="too many results"):
            await ask(eve, "e")
        joined = ask(eve, "a")
        await settled()
        end.set()
        assert [await joined, await ask(eve, "b"), await ask(eve, "e")] == ["a", "b", "e"]
    await server.close()


async def test_readers_that_lose_their_unread_items_read_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 slow readers of large items from Redis held 2 GiB."""
    monkeypatch.setattr("wsrpc._keyed.runs.MOST_UNREAD", 1)
    server = Server(limits=Limits(stream_window=1))

    @server.on("count", keep=60)
    async def count() -> AsyncIterator[int]:
        for number in range(1000):
            yield number

    async with connect(server) as client:
        streams = [client.stream("count", key="k") for _ in range(3)]
        assert await asyncio.gather(*map(collect, streams)) == [[*range(1000)]] * 3
    await server.close()


class Asked(MemoryStore):
    """A store that knows who reads the items of a run."""

    asked = reading = 0

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        self.asked += bool(wait)
        self.reading += bool(wait)
        try:
            return await super().read(key, after, wait=wait)
        finally:
            self.reading -= bool(wait)


async def test_readers_of_one_run_share_what_is_read() -> None:
    """50 readers of 2,000 items from Redis took 620 steps."""
    store = Asked()
    server, go = Server(store=store), asyncio.Event()

    @server.on("count", keep=60)
    async def count() -> AsyncIterator[int]:
        for number in range(1000):
            yield number
        await go.wait()
        yield 1000

    async with connect(server, principal="ada") as client:

        async def read(key: str) -> list[int]:
            async with client.stream("count", key=key) as items:
                return [item async for item in items]

        readers = [asyncio.ensure_future(read("k")) for _ in range(20)]
        await settled()
        assert store.reading == 1
        readers.pop(0).cancel()  # the others go on
        await settled()
        go.set()
        assert await asyncio.gather(*readers) == [[*range(1001)]] * 19
        assert store.asked < 20
        go.clear()
        left = [asyncio.ensure_future(read("l")) for _ in range(3)]
        await settled()
        assert store.reading == 1
        for reader in left:
            reader.cancel()
        await settled()
        assert store.reading == 0
    await server.close()


class Forgetful(MemoryStore):
    """A store in which each run is expired when somebody reads it."""

    async def read(self, *args: Any, **options: Any) -> Page | None:
        return None


async def test_a_request_whose_result_expires_meanwhile() -> None:
    async with charging(Forgetful()) as (client, _):
        with pytest.raises(RunLost, match="nothing is kept") as lost:
            await client.request("charge", 1, key="k")
        assert lost.value.outcome == "unknown"
        # The second one joins a run that has ended, and needs no further step.
        assert await client.request("charge", 1, key="k") == 1


class Broken(MemoryStore):
    """A store that raises something else than `StoreLost`."""

    is_broken, asked = True, 0

    async def append(self, *args: Any, **options: Any) -> Appended:
        self.asked += 1
        if self.is_broken:
            raise ValueError("no such table")
        return await super().append(*args, **options)


async def test_a_store_that_raises_another_error_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    store = Broken()
    server = Server(store=store)
    room = server.room("lobby", keep=60)
    for _ in range(2):
        with pytest.raises(Overloaded, match="does not answer"):
            await room.emit("hello")
    assert store.asked > 4 and server.degraded
    store.is_broken = False
    await asyncio.sleep(2)
    assert not server.degraded
    await server.close()
    assert [(each.levelname, bool(each.exc_text)) for each in caplog.records] == [("WARNING", True), ("INFO", False)]


class Silent(MemoryStore):
    """A store that does not answer for the first 8 seconds."""

    asked = 0

    async def open(self, key: str, log: NewLog, /) -> LogState:
        self.asked += 1
        if asyncio.get_running_loop().time() < 8:
            raise StoreLost
        return await super().open(key, log)


async def test_a_store_that_does_not_answer_is_asked_less_and_less_often() -> None:
    store = Silent()
    async with charging(store) as (client, _):
        assert await client.request("charge", 1, key="k") == 1
    assert 6 < store.asked < 20, "at the same pace, it would be asked 40 times"


class Late(MemoryStore):
    """A store that does what it was asked, and does not answer."""

    is_silent = False

    def __init__(self) -> None:
        super().__init__()
        self.asked = set[str]()

    async def open(self, key: str, log: NewLog, /) -> LogState:
        self.asked.add(key)
        state = await super().open(key, log)
        if self.is_silent:
            await asyncio.Event().wait()
        return state

    async def read(self, *args: Any, **options: Any) -> Page | None:
        if self.is_silent:
            await asyncio.Event().wait()
        return await super().read(*args, **options)

    async def append(self, *args: Any, **options: Any) -> Appended:
        if self.is_silent:
            raise StoreLost
        return await super().append(*args, **options)


@pytest.mark.parametrize("seed", range(8))
async def test_a_call_that_got_overloaded_has_not_claimed_its_key(seed: int) -> None:
    """Each later call with the key got `RunLost`, or if the lease of the first one had lapsed, sometimes."""
    random.seed(seed)  # the store is asked again after random pauses
    store = Late()
    async with charging(store) as (client, ran):
        store.is_silent = True
        for number in range(2):
            with pytest.raises(Overloaded, match="does not answer") as full:
                await client.request("charge", 10, key=f"k{number}")
            assert full.value.outcome == "not_run"
        assert len(store.asked) == 1, "as soon as the store is known not to answer, nothing is begun"
        store.is_silent = False
        for _ in range(2):
            assert await client.request("charge", 10, key="k0", retry=Retry(attempts=20)) == 10
    assert ran == [10]


class Odd(MemoryStore):
    """A store that raises errors when it is asked to begin its first runs, and has begun them unless it is full."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = [*errors]

    async def open(self, key: str, log: NewLog, /) -> LogState:
        error = self.errors.pop(0) if self.errors else None
        state = None if isinstance(error, StoreFull) else await super().open(key, log)
        if state is None or error is not None:
            raise error or AssertionError
        return state


@pytest.mark.parametrize("error", [StoreLost(), OSError("of a store of the user's own")], ids=repr)
async def test_a_call_that_the_store_has_begun_in_spite_of_its_error_has_not_claimed_its_key(error: Exception) -> None:
    async with charging(Odd(error, StoreFull())) as (client, ran):
        with pytest.raises(Overloaded):
            await client.request("charge", 10, key="k")
        assert await client.request("charge", 10, key="k", retry=Retry(attempts=20)) == 10
    assert ran == [10]


class Fails(MemoryStore):
    """A store that raises an error once, after it has added the first item."""

    has_failed = False

    async def append(self, key: str, log: NewLog | str, writer: str, *args: Any, **options: Any) -> Appended:
        added = await super().append(key, log, writer, *args, **options)
        if writer == log and not self.has_failed:
            self.has_failed = True
            await asyncio.sleep(1.5)  # meanwhile, the second item comes
            raise OSError("of a store of the user's own")
        return added


async def test_items_that_follow_one_with_an_error_do_not_take_its_place() -> None:
    """Readers got the item 1 and then the item 3, and no error."""
    server = Server(store=Fails())

    @server.on("count", keep=60)
    async def count() -> AsyncIterator[int]:
        for number in range(1, 5):
            yield number
            await asyncio.sleep(1)

    async with connect(server) as client:
        async with client.stream("count", key="k", returns=int) as items:
            assert [item async for item in items] == [1, 2, 3, 4]
    await server.close()


class Reordering(MemoryStore):
    """A store that does not answer for the first run until ``answers``, and gets a step for the second one late."""

    answers = False

    def __init__(self) -> None:
        super().__init__()
        self.ids = list[str]()
        """Those of the runs that it was asked to begin, in order."""
        self.late: tuple[str, NewLog] | None = None
        self.joined = False
        """Whether the second call has joined the first run."""

    async def open(self, key: str, log: NewLog, /) -> LogState:
        is_new = log.id not in self.ids
        self.ids += [log.id] * is_new
        if is_new and len(self.ids) == 2:
            self.late = key, log
            raise StoreLost
        state = await super().open(key, log)
        if log.id == self.ids[0] and not self.answers:
            raise StoreLost
        self.joined |= log.id != state.id
        return state


async def test_a_late_step_for_a_call_that_has_joined_another_one_does_not_claim_its_key() -> None:
    """Neither call had run, and each later call with the key got `RunLost`."""
    store = Reordering()
    async with charging(store) as (client, ran):
        with pytest.raises(Overloaded, match="does not answer"):
            await client.request("charge", 10, key="k")
        joins = asyncio.create_task(client.request("charge", 10, key="k"))
        await until(lambda: store.joined, limit=0.21)
        store.answers = True
        with pytest.raises(Overloaded, match="does not answer"):
            await joins
        assert store.late is not None
        await MemoryStore.open(store, *store.late)
        assert await client.request("charge", 10, key="k", retry=Retry(attempts=20)) == 10
    assert ran == [10]


class Back(MemoryStore):
    """A store that the process of a run reaches again just when a reader is about to end the run."""

    def __init__(self) -> None:
        super().__init__()
        self.back = asyncio.Event()

    async def hold(
        self, process: str, logs: Mapping[str, str], readers: Mapping[str, int], /
    ) -> Mapping[str, LogState]:
        if logs:
            self.logs = logs
            if not self.back.is_set():
                raise StoreLost
        return await super().hold(process, logs, readers)

    async def append(self, *args: Any, only_if_lost: bool = False, **options: Any) -> Appended:
        if only_if_lost:
            self.back.set()
            await super().hold("p", self.logs, {})
        return await super().append(*args, only_if_lost=only_if_lost, **options)


async def test_a_reader_does_not_end_a_run_whose_process_is_back() -> None:
    store, reads = Back(), asyncio.Event()

    async def wait() -> None:
        reads.set()
        await store.back.wait()

    async with charging(store, wait) as (here, ran), charging(store) as (there, ran_there):
        begins = asyncio.ensure_future(here.request("charge", 10, key="k", timeout=None))
        await reads.wait()
        assert await there.request("charge", 10, key="k", timeout=None) == await begins == 10
        assert (ran, ran_there) == ([10], [])


async def test_a_handler_waits_for_its_readers_but_not_for_one_that_left() -> None:
    """Without waiting, a generator that never pauses would drop its items before anybody could read them."""
    server, done = Server(store=MemoryStore(log_bytes=200_000)), asyncio.Event()

    @server.on("count", keep=60)
    async def count() -> AsyncIterator[int]:
        for number in range(20_000):
            yield number
        done.set()

    async with connect(server) as client:
        assert [n async for n in client.stream("count", key="a", returns=int)] == list(range(20_000))
        done.clear()
        loop = asyncio.get_running_loop()
        async with client.stream("count", key="b", returns=int) as items:
            assert await anext(items) == 0
        began = loop.time()
        await done.wait()
        assert loop.time() - began < 1
        with pytest.raises(ItemsGone) as gone:
            await anext(client.stream("count", key="b", after=items.position))
        assert gone.value.first is not None and gone.value.first > 10_000
        done.clear()
        async with client.stream("count", key="c", returns=int) as items:
            assert await anext(items) == 0
            await done.wait()  # a reader that does not read is waited for once
        assert loop.time() - began < 6.1, "for a lease"
    await server.close()


class Slow(MemoryStore):
    """A store that takes a second to begin a log."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def open(self, key: str, log: NewLog, /) -> LogState:
        state = await super().open(key, log)
        self.asked.set()
        await asyncio.sleep(1)
        return state


class Lock:
    """A side of a connection that unlocks doors, and the doors for which it has begun to do so."""

    def __init__(self, store: MemoryStore, is_client: bool) -> None:
        self._store = store
        self._is_client = is_client
        self.begun: list[str] = []

    async def unlock(self, door: str) -> str:
        self.begun.append(door)
        await asyncio.sleep(1)
        return door

    @asynccontextmanager
    async def asked(self) -> AsyncGenerator[tuple[Client | Server, list[asyncio.Future[str]]]]:
        """Two calls of the present program, which end with it."""
        server = Server(store=self._store)
        client = Client("ws://server/", dial=Line(server).dial, store=self._store, key_owner="lock")
        handles = client if self._is_client else server
        handles.on("unlock", self.unlock, keep=Keep(60, scope=lambda peer, door: "all"))
        async with client:
            asks = server.peers[0] if self._is_client else client
            yield handles, [asyncio.ensure_future(asks.request("unlock", door, key=door)) for door in "ab"]
        await server.close()


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("is_client", [True, False], ids=["a client", "a server"])
@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0], ids=["asks the store", "meanwhile", "has its answer"])
async def test_a_call_whose_handler_has_not_begun_before_the_close_can_be_made_again(
    seconds: float, is_client: bool, factory: Any
) -> None:
    """Until the result would have expired, each call with the key got `RunLost`."""
    asyncio.get_running_loop().set_task_factory(factory)
    not_begun = 0
    for turns in range(12):
        store = Slow()
        lock = Lock(store, is_client)
        async with lock.asked() as (closing, calls):
            await store.asked.wait()
            await asyncio.sleep(seconds)
            for _ in range(turns):
                await asyncio.sleep(0)
            await closing.close()
            await asyncio.gather(*calls, return_exceptions=True)
        begun = [*lock.begun]
        async with lock.asked() as (_, calls):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        not_begun += 2 - len(begun)
        for door, answer in zip("ab", answers, strict=True):
            assert isinstance(answer, RunLost) if door in begun else answer == door
        assert sorted(lock.begun) == ["a", "b"]
    assert not_begun

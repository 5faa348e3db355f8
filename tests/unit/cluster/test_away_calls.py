"""Calls to a peer that is away: they wait in the store, and are made once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import pytest
from cluster_servers import Servers, servers
from msgspec.structs import replace
from waiting import settled, until

from wsrpc import CallNext, Client, Context, OutgoingCall, Peer, Reconnect, Retry, Server, blocking
from wsrpc._log.kept import read_kept
from wsrpc.cluster import ClusterClient, ClusterPeer, MemoryEngine, SubmittedCall, WaitingCall
from wsrpc.cluster._away.deliverer import AwayCall
from wsrpc.cluster._cluster import membership_of
from wsrpc.errors import (
    BadArguments,
    ConnectionLost,
    HandlerFailed,
    KeyReused,
    Overloaded,
    PeerNotFound,
    RequestTimeout,
    RpcError,
    RunLost,
    WsrpcError,
)
from wsrpc.store import LEASE, Appended, ListedLog, LogState, MemoryStore, StoreLost
from wsrpc.testing import Line, connect


class Lock:
    """A device that opens, and says how often it did. Its program goes on when its connection is lost."""

    def __init__(self) -> None:
        self.client = Client()
        self.opened: list[int] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        for side in (self.client, self.client.of("door")):
            side.on("open_lock", self.open_lock, keep=60)
        self.client.on("refuse", self.refuse, keep=60)
        self.client.on("break", self.fail, keep=60)
        self.client.on("forgetful", lambda: 1)

    async def open_lock(self, door: int = 0) -> str:
        self.opened.append(door)
        await self.may_answer.wait()
        return f"open {len(self.opened)}"

    async def refuse(self) -> None:
        self.opened.append(-1)
        raise RpcError("jammed", "jam")

    async def fail(self) -> None:
        raise LookupError("no bolt")


class World:
    """Servers with a store, and the lock, which is not connected yet."""

    def __init__(self, cluster: Servers, store: Any) -> None:
        self.cluster, self.store, self.lock = cluster, store, Lock()
        self.opened, self.may_answer = self.lock.opened, self.lock.may_answer

    def peer(self, number: int) -> ClusterPeer:
        """Return the lock, as callers at a server have it."""
        return self.cluster[number].cluster.peer("lock")

    @property
    def here(self) -> ClusterPeer:
        return self.peer(0)

    @property
    def there(self) -> ClusterPeer:
        return self.peer(1)

    async def connect(self, number: int = 0) -> None:
        await self.cluster.join(number, "lock", self.lock.client)

    def shop(self, store: Any = None) -> ClusterClient:
        """Return a program without a server."""
        return ClusterClient(self.cluster.engine, name="shop", store=store or self.store)


@asynccontextmanager
async def world(count: int = 2, store: Any = None) -> AsyncGenerator[World]:
    store = MemoryStore() if store is None else store
    async with servers(count, store=store) as cluster:
        yield World(cluster, store)


async def submit(peer: Any, *door: int, key: str = "k", within: float = 30) -> None:
    await peer.submit("open_lock", *door, key=key, deliver_within=within)


async def opening(peer: ClusterPeer, *door: int, key: str = "k", within: float = 30, **options: Any) -> Any:
    return await peer.request("open_lock", *door, key=key, deliver_within=within, **options)


async def waiting(peer: ClusterPeer, *door: int, **options: Any) -> asyncio.Task[Any]:
    """Begin a call, and let the event loop turn until it is in the store."""
    task = asyncio.create_task(opening(peer, *door, **options))
    await settled()
    return task


async def leave(server: Server, *calls: asyncio.Task[Any]) -> None:
    """Close a server, which does not wait for calls that other processes can make."""
    await server.close(drain_timeout=60)
    for call in calls:
        with pytest.raises(ConnectionLost) as caught:
            await call
        assert caught.value.outcome == "unknown"


async def test_a_call_waits_for_a_peer_that_is_away_at_any_server_and_later_calls_get_its_answer() -> None:
    async with world() as w:
        here, there = w.here, w.there
        first, second = await waiting(here, 7), await waiting(there, 7, returns=str)
        with pytest.raises(KeyReused):
            await opening(there, 8)
        named = asyncio.create_task(here.of("door").request("open_lock", 7, key="k", deliver_within=30))
        await settled()
        await w.connect()
        assert [await first, await second, await named] == ["open 1", "open 1", "open 2"]
        assert await opening(there, 7) == "open 1"
        # A peer that is there is called at once. What it answers is the result, also if that is an error.
        for _ in range(2):
            with pytest.raises(RpcError, match="jammed") as caught:
                await here.request("refuse", key="k", deliver_within=30)
            assert caught.value.code == "jam"
            with pytest.raises(BadArguments, match="keep="):
                await here.request("forgetful", key="k", deliver_within=30)
        assert w.opened == [7, 7, -1]


class Lost(MemoryStore):
    """A store that takes calls, and does not answer any more."""

    async def append(self, *args: Any, **options: Any) -> Appended:
        raise StoreLost


async def test_a_server_that_is_closed_asks_a_store_that_does_not_answer_no_more() -> None:
    async with world(1, Lost()) as w:
        call = await waiting(w.here)
    with pytest.raises(ConnectionLost, match="leaves the cluster"):
        await call
    assert not w.cluster[0].degraded


async def test_a_call_that_is_not_delivered_in_time_is_not_sent_and_another_one_goes_on() -> None:
    async with world(1) as w:
        call, later = await waiting(w.here, within=0.05), await waiting(w.here)
        with pytest.raises(PeerNotFound, match=r"'lock' was there, and not busy, within 0\.05 s") as caught:
            await call
        assert caught.value.outcome == "not_sent"
        await w.cluster.join(0, "lock", Lock().client)
        assert await later == "open 1"


async def test_a_device_that_drains_gets_later_calls_when_it_is_back() -> None:
    async with world() as w:
        await w.connect()
        w.may_answer.clear()
        running = await waiting(w.here, 1, key="first")
        closing = asyncio.create_task(w.lock.client.close(drain_timeout=20))
        later = await waiting(w.there, 2, key="second")
        await settled(5)
        w.may_answer.set()
        assert await running == "open 1"
        await closing
        assert w.opened == [1]
        await w.connect()
        assert await later == "open 2"


@pytest.mark.parametrize("drain", [0, 20])
async def test_a_device_that_closes_hands_back_what_it_has_not_begun(drain: float) -> None:
    async with world() as w:
        w.lock.client.on("open_lock", w.lock.open_lock, keep=60, ordered=True)
        await w.connect()
        w.may_answer.clear()
        for door in range(10):
            await submit(w.there, door, key=f"k{door}", within=600)
        await until(lambda: w.opened)
        closing = asyncio.create_task(w.lock.client.close(drain_timeout=drain))
        await settled(5)
        w.may_answer.set()
        await closing
        assert w.opened == [0]
        await settled(5)
        assert w.opened == [0]
        await w.connect(1)
        await until(lambda: len(w.opened) == 10)
        states = [(await w.here.submitted("open_lock", key=f"k{door}")).state for door in range(10)]
        assert w.opened == [*range(10)] and states == ["done" if drain else "failed", *["done"] * 9]


@pytest.mark.parametrize("is_back", [True, False])
async def test_a_call_whose_connection_is_lost_is_made_again_and_the_handler_runs_once(is_back: bool) -> None:
    async with world() as w:
        w.may_answer.clear()
        await w.connect()
        call = await waiting(w.there)
        await until(lambda: w.opened)
        old = w.cluster.peer(0, "lock")
        assert old.transport is not None
        old.transport.abort()
        await until(lambda: not old.connected)
        if is_back:
            await w.connect(1)  # a new session
            w.may_answer.set()
            assert await call == "open 1"
        else:
            with pytest.raises(ConnectionLost) as caught:
                await call
            assert caught.value.outcome == "unknown"
        assert w.opened == [0]


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_call_that_ends_the_program_of_the_peer_is_made_a_few_times(forgets: bool) -> None:
    """Also if the store forgets everything, so that the call begins another run."""
    async with world(1) as w:
        calls = [await waiting(w.here) for _ in range(1 if forgets else 2)]
        runs = 0
        while not calls[0].done():
            lock = Client()  # a program that has forgotten the key

            @lock.on("open_lock", keep=60)
            async def open_lock(peer: Peer) -> None:
                nonlocal runs
                runs += 1
                await peer.close()
                await asyncio.Event().wait()

            async with connect(w.cluster[0], path="/?who=lock", client=lock):
                closed = asyncio.create_task(lock.peer.wait_closed())
                await asyncio.wait((closed, calls[0]), return_when=asyncio.FIRST_COMPLETED)
            await closed
            if forgets and runs == 3:
                vars(w.store).update(vars(MemoryStore()))
                await until(lambda: w.store._logs, limit=6.1)  # a lease
        for each in calls:
            with pytest.raises(RunLost, match="handed over 5 times") as caught:
                await each
            assert caught.value.outcome == "unknown"
        assert runs == (8 if forgets else 5)
        await w.cluster.join(0, "lock", Lock().client)
        assert await opening(w.here) == "open 1", "the key is free"


async def test_a_call_whose_answer_takes_too_long_ends_and_may_be_made_again() -> None:
    async with world(1) as w:
        w.may_answer.clear()
        await w.connect()
        with pytest.raises(RequestTimeout) as caught:
            await opening(w.here, timeout=0.1)
        assert (caught.value.timeout, caught.value.outcome) == (0.1, "unknown")
        again = await waiting(w.here)
        w.may_answer.set()
        assert await again == "open 1"


async def test_the_server_to_which_the_peer_connects_makes_the_calls_of_servers_that_have_ended() -> None:
    store = Faulty()
    async with world(2, store) as w:
        cancelled = await waiting(w.here, 1, key="a")
        cancelled.cancel()
        await leave(w.cluster[0], await waiting(w.here, 2, key="b"))
        await w.connect(1)
        await until(lambda: len(w.opened) == 2, limit=7.1)  # the lease, and a second
        assert sorted(w.opened) == [1, 2]
        assert await opening(w.there, 2, key="b") in ("open 1", "open 2")


async def test_a_process_whose_leases_have_lapsed_makes_its_calls_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets its own calls from the store, too."""
    requests = list[Context]()

    async def is_lost(*_: Any) -> None:
        raise StoreLost

    async def note(ctx: Context, call_next: CallNext) -> object:
        requests.append(ctx)
        return await call_next(ctx)

    async with world(1) as w:
        w.lock.client.use(note)
        call = await waiting(w.here)
        monkeypatch.setattr(w.store, "hold", is_lost)
        await asyncio.sleep(LEASE + 1)
        await submit(w.here)
        await w.connect()
        assert await call == "open 1"
        await asyncio.sleep(LEASE)
        assert len(requests) == 1


@pytest.mark.parametrize(("jump", "within", "opened"), [(3600, 100, [1]), (-3600, 10, [])])
async def test_how_long_a_call_has_waited_does_not_depend_on_the_clocks_of_processes(
    jump: int, within: float, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(2, Faulty()) as w:
        await leave(w.cluster[0], await waiting(w.here, 1, within=within))
        await asyncio.sleep(20)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        await w.connect(1)
        await asyncio.sleep(20)
        assert w.opened == opened


@pytest.mark.parametrize("corrupt", [False, True])
async def test_a_peer_that_connects_just_after_another_one_is_called_too(corrupt: bool) -> None:
    """The other one's calls may be of a later version, or corrupt."""
    other, store = Lock(), Faulty()
    async with world(2, store) as w:
        calls = [await waiting(w.cluster[0].cluster.peer("other"), key=key) for key in "ab"]
        await leave(w.cluster[0], *calls, await waiting(w.here, 3, key="c"))
        store.spoils = "other" if corrupt else ""
        for name, device in (("other", other), ("lock", w.lock)):
            await w.cluster.enter(connect(w.cluster[1], path=f"/?who={name}", client=device.client))
        await asyncio.sleep(20)
        assert w.opened == [3] and len(other.opened) == (1 if corrupt else 2)


@pytest.mark.parametrize(
    ("lost", "late", "error"),
    [
        (20, False, StoreLost()),
        (20, True, StoreLost()),
        (1, True, StoreLost()),
        (2, True, OSError("of a user's store")),
    ],
)
async def test_a_store_that_does_not_answer_is_asked_for_the_calls_of_a_peer_again(
    lost: int, late: bool, error: Exception
) -> None:
    """However long ago the process has ended, and although the store may have done late what it was asked in vain."""
    store = Faulty()
    async with world(2, store) as w:
        await leave(w.cluster[0], await waiting(w.here, 1, within=2000))
        await asyncio.sleep(1000)
        store.unanswered, store.is_late, store.error = lost, late, error
        await w.connect(1)
        # Each time a lease and a second have passed, and once more, it is asked for some time.
        await until(lambda: w.opened, limit=45 if lost > 1 else 14.1)
        assert w.opened == [1] and not store.unanswered


class Faulty(MemoryStore):
    """A store that counts how often it is asked for the calls to a peer.

    It may not answer then, and the first call to the peer that it ``spoils`` cannot be read. A process that is closed
    keeps its leases, as one that was killed.
    """

    asked = 0
    unanswered = 0
    """How many times it will not answer."""
    is_late = False
    """Whether it does what it does not answer."""
    error: Exception = StoreLost()
    spoils = ""

    async def release(self, *_: Any) -> None:
        pass

    async def pending(self, topic: str, after: int, /) -> Sequence[ListedLog]:
        self.asked += 1
        found = [*await super().pending(topic, after)]
        if self.unanswered:
            self.unanswered -= 1
            raise self.error
        if found and topic == self.spoils:
            found[0] = replace(found[0], payload=b"\xc1")
        return found


@pytest.mark.parametrize("ended", [True, False])
async def test_a_connection_costs_one_step_of_the_store(ended: bool) -> None:
    store = Faulty()
    async with world(2, store) as w:
        await asyncio.sleep(60)
        if ended:
            await w.cluster[1].close()
        tasks = len(asyncio.all_tasks())
        for number in range(20):
            async with connect(w.cluster[0], path=f"/?who=user/{number}"):
                pass
        await settled()
        assert len(asyncio.all_tasks()) <= tasks + 1
        await asyncio.sleep(60)
        assert store.asked == 20


async def test_who_joins_a_call_whose_process_has_ended_makes_it() -> None:
    """Programs without a server can wait for a peer, too."""
    async with world(1) as w:
        async with w.shop() as ended:
            call = await waiting(ended.peer("lock"))
        with pytest.raises(ConnectionLost, match="leaves the cluster"):
            await call
        async with w.shop() as shop:
            joins = await waiting(shop.peer("lock"))
            await w.connect()
            assert await joins == "open 1"


async def test_calls_to_a_peer_whose_session_waits() -> None:
    """They are not sent when their time is over. Others can be withdrawn, and the rest is made when it has resumed."""
    async with world(1) as w:
        line = Line(w.cluster[0])
        async with Client("ws://server/?who=lock", dial=line.dial, reconnect=Reconnect(initial=0.01, max=0.05)) as lock:
            lock.on("open_lock", w.lock.open_lock, keep=60)
            assert await opening(w.here, 1, key="first") == "open 1"
            peer = w.cluster.peer(0, "lock")
            line.down = True
            line.cut()
            await until(lambda: peer.detached)
            with pytest.raises(ConnectionLost) as caught:
                await opening(w.here, 2, within=0.05)
            assert caught.value.outcome == "not_sent"
            await submit(w.here, 3, key="late", within=0.05)
            await submit(w.here, 4, key="withdrawn")
            await asyncio.sleep(1)
            error = (await w.here.submitted("open_lock", key="late")).error
            assert isinstance(error, PeerNotFound) and error.outcome == "not_sent" and error.within == 0.05
            assert (await w.here.withdraw("open_lock", key="withdrawn")).state == "withdrawn"
            call = await waiting(w.here, 5)
            line.down = False
            assert await call == "open 2" and w.opened == [1, 5]
            assert w.cluster[0].peers == (peer,)


@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("server", [0, 1])
async def test_a_peer_that_hangs_when_it_has_connected_is_called_when_it_is_back(
    server: int, timeout: float | None
) -> None:
    async with world() as w:
        await Line(w.cluster[0]).dial("ws://server/?who=lock")  # it never says whether it knows keys
        await until(lambda: w.cluster[server].cluster.locate("lock"))
        call = await waiting(w.peer(server), timeout=timeout, within=60)
        await asyncio.sleep(20)
        await w.connect()
        assert await call == "open 1"


# ------------------------------------------------------------ submitted calls


@pytest.mark.parametrize("where", ["away", "connected"])
async def test_a_submitted_call_is_made_though_its_program_ends_and_its_key_gets_the_result(where: str) -> None:
    async with world() as w:
        w.may_answer.clear()
        if where != "away":
            await w.connect()
        async with w.shop() as shop:
            await until(lambda: (shop.locate("lock") is None) == (where == "away"))
            for _ in range(2):
                await submit(shop.peer("lock"), 7)
            with pytest.raises(KeyReused):
                await submit(shop.peer("lock"), 8)
        if where == "away":
            await w.connect(1)
        await until(lambda: w.opened)
        w.may_answer.set()
        async with w.shop() as other:
            assert await opening(other.peer("lock"), 7) == "open 1"
            await submit(other.peer("lock"), 7)
        assert w.opened == [7]


@pytest.mark.parametrize("is_server", [True, False])
async def test_a_submitted_call_is_made_at_once_if_its_process_was_closed(is_server: bool) -> None:
    """Nobody waits until its lease lapses."""
    store = MemoryStore(lease=1000)
    async with world(2, store) as w:
        async with w.shop() as shop:
            peer = w.there if is_server else shop.peer("lock")
            await submit(peer)
        await w.cluster[1].close()
        await w.connect()
        await until(lambda: w.opened)


class Mortal:
    """A store as a process has it, which may be killed."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.killed = store, False

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: asyncio.Event().wait()) if self.killed else getattr(self.store, name)


async def test_the_answer_for_a_process_that_was_killed_is_kept_however_long_the_peer_is_there() -> None:
    """The handler ends after its caller, and before this is known."""
    async with world(1) as w:
        await w.connect()
        member = membership_of(w.cluster[0].cluster)
        await asyncio.sleep(60)
        for number in (1, 2):
            w.may_answer.clear()
            theirs: Any = Mortal(w.store)
            async with w.shop(theirs) as shop:
                asking = shop.peer("lock").request("open_lock", key=f"k{number}", deliver_within=30)
                call = asyncio.create_task(asking)
                await until(lambda number=number: len(w.opened) == number)  # type: ignore[misc]
                theirs.killed = True
                w.may_answer.set()
                await settled()
                member.directory.drop(shop.nodes[0], member.node.now, silent=True)
                await asyncio.sleep(10)
                found = await w.here.submitted("open_lock", key=f"k{number}")
                assert found.value == f"open {number}"
                theirs.killed = False
                call.cancel()


class Raises(MemoryStore):
    """A store that raises an error when the first call is handed over, before or after it has noted that."""

    def __init__(self, late: bool, error: Exception) -> None:
        super().__init__()
        self.errors, self.late = [error], late

    async def adopt(self, *args: Any) -> LogState:
        error = self.errors.pop() if self.errors else None
        if error is not None and not self.late:
            raise error
        state = await super().adopt(*args)
        if error is not None:
            raise error
        return state


@pytest.mark.parametrize("error", [OSError("of a user's store"), WsrpcError("odd")], ids=repr)
@pytest.mark.parametrize("late", [False, True])
async def test_a_call_is_made_though_a_store_raises_an_error_as_it_is_handed_over(late: bool, error: Exception) -> None:
    """It failed, as did one that its caller had submitted."""
    async with world(1, Raises(late, error)) as w:
        await submit(w.here)
        await w.connect()
        assert await opening(w.here) == "open 1"


class Cut:
    """A store as a process has it that gets no answers. What it has asked first is done."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.answers, self.asked = store, asyncio.Event(), 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        return partial(self.ask, found) if callable(found) else found

    async def ask(self, method: Any, *args: Any, **options: Any) -> Any:
        self.asked += 1
        result = await method(*args, **options) if self.answers.is_set() or self.asked == 1 else None
        if not self.answers.is_set():
            raise StoreLost
        return result


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_call_to_which_the_store_has_not_answered_is_made_and_who_repeats_it_joins_it(is_there: bool) -> None:
    """The process that had begun it ended it when the store answered again, also if others had joined it meanwhile."""
    async with world(1) as w:
        theirs: Any = Cut(w.store)
        w.may_answer.clear()
        async with w.shop(theirs) as shop:
            call = asyncio.create_task(opening(shop.peer("lock"), within=100))
            await asyncio.sleep(8)  # the lease has lapsed
            if is_there:
                await w.connect()
                await until(lambda: w.opened)
            with pytest.raises(Overloaded) as caught:
                await call
            assert caught.value.outcome == "unknown"
            theirs.answers.set()
            await submit(shop.peer("lock"), within=100)
            await asyncio.sleep(20)
            assert (await w.here.submitted("open_lock", key="k")).state == ("running" if is_there else "waiting")
            if not is_there:
                await w.connect()
            w.may_answer.set()
            assert await opening(w.here, within=100) == "open 1"
    assert w.opened == [0]


IN_TIME: dict[str, Callable[[ClusterClient], Awaitable[Any]]] = {
    "submit": lambda shop: shop.peer("lock").submit("open_lock", key="k", deliver_within=100, timeout=2),
    "submitted": lambda shop: shop.peer("lock").submitted("open_lock", key="k", timeout=2),
    "withdraw": lambda shop: shop.peer("lock").withdraw("open_lock", key="other", timeout=2),
    "waiting": lambda shop: shop.peer("lock").waiting(timeout=2),
    "emit": lambda shop: shop.room("lobby", keep=60).emit("news", timeout=2),
}


@pytest.mark.parametrize("name", IN_TIME)
async def test_a_call_waits_for_the_store_as_long_as_it_says_and_may_be_repeated(name: str) -> None:
    """It waited for ten seconds, whatever it said."""
    async with world(1) as w:
        theirs: Any = Cut(w.store)
        theirs.answers.set()
        async with w.shop(theirs) as shop:
            await submit(shop.peer("lock"), within=100)
            theirs.answers.clear()
            theirs.asked, began = 0, asyncio.get_running_loop().time()
            with pytest.raises(RequestTimeout) as caught:
                await IN_TIME[name](shop)
            assert asyncio.get_running_loop().time() - began == pytest.approx(2, abs=0.1)
            assert caught.value.outcome == "unknown" and "the store, or the engine" in caught.value.__notes__[0]
            theirs.answers.set()
            await IN_TIME[name](shop)
            assert [each.key for each in await shop.peer("lock").waiting()] == ["k"]
            await w.connect()
            await asyncio.sleep(20)
    assert w.opened == [0]


class Hangs(MemoryStore):
    """A store that does not answer a process that ends, or raises something."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    async def release(self, *_: Any) -> None:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()

    async def close(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [None, StoreLost("down"), OSError("a store of the user's own")], ids=repr)
async def test_a_process_ends_though_the_store_does_not_answer_then(error: Exception | None) -> None:
    """If closing the store raised an error, so did closing the server, which stayed a node of the cluster."""
    store = Hangs(error)
    async with world(2, store) as w:
        await submit(w.here)
        await w.cluster[0].close()
        await settled()
        assert len(w.cluster[1].cluster.nodes) == 1
    assert store._topics


async def test_who_submits_a_call_again_makes_it_if_its_process_has_ended() -> None:
    store = Faulty()
    async with world(1, store) as w:
        async with w.shop() as shop:
            await submit(shop.peer("lock"))
        await asyncio.sleep(20)
        async with w.shop() as again:
            await submit(again.peer("lock"))
            await w.connect()
            await until(lambda: w.opened)
            assert await opening(again.peer("lock")) == "open 1"


async def test_an_address_for_which_too_many_calls_wait_gets_no_more() -> None:
    async with world(1, MemoryStore(waiting=1)) as w:
        await submit(w.here)
        for call in (w.here.submit, w.here.request):
            with pytest.raises(Overloaded, match="too many calls wait for this address") as caught:
                await call("open_lock", key="k2", deliver_within=30)
            assert caught.value.outcome == "not_run"
        await w.cluster[0].cluster.peer("other").submit("open_lock", key="k2", deliver_within=30)


@pytest.mark.parametrize(
    ("event", "within", "timeout", "error"),
    [
        ("open_lock", 0.05, None, PeerNotFound),
        ("open_lock", 30, 0.05, RequestTimeout),
        ("refuse", 30, None, RpcError),
        ("forgetful", 30, None, BadArguments),
    ],
)
async def test_why_a_submitted_call_has_failed_is_kept_and_logged(
    event: str, within: float, timeout: float | None, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:
        w.may_answer.clear()
        if error is not PeerNotFound:
            await w.connect()
        peer = w.there
        await peer.submit(event, key="k", deliver_within=within, timeout=timeout)
        for again in (peer.request, peer.request, peer.submit):
            with pytest.raises(error):
                await again(event, key="k", deliver_within=30)
        assert len(w.opened) <= 1
    is_told = f"the call of {event!r} with the key 'k' that was submitted for 'lock' has failed" in caplog.text
    assert is_told == (error is not PeerNotFound), "the process that has handed it over says so"


async def test_a_submitted_call_has_the_metadata_of_use_outgoing_and_outlives_the_handler_that_submits_it() -> None:
    got = asyncio.Queue[Any]()
    async with world(1) as w:

        @w.lock.client.on("ring", keep=60)
        async def ring(ctx: Context) -> None:
            await got.put((ctx.metadata, ctx.remaining))

        @w.cluster[0].use_outgoing
        def trace(call: OutgoingCall) -> None:
            call.metadata["trace"] = "t"
            assert (call.kind, call.address, call.timeout) == ("request", "lock", None)

        @w.cluster[0].on("submit", timeout=2)
        async def submits() -> None:
            await w.here.submit("ring", key="k", deliver_within=30)

        user = await w.cluster.join(0)
        await user.request("submit")
        [log] = w.store._topics["lock"].logs.values()
        assert read_kept(log.new.payload, AwayCall).timeout == w.cluster[0].limits.request_timeout
        await w.connect()
        assert await got.get() == ({"trace": "t"}, None)


async def test_an_option_that_is_missing_is_told_with_the_name_of_the_method() -> None:
    async with world(1) as w:
        lock: Any = w.here
        here: Any = blocking.ClusterPeer
        for peer in (lock, lock.of("door"), here.__new__(here)):
            with pytest.raises(TypeError, match=r"^submit\(\) missing .* 'deliver_within'$"):
                peer.submit("open_lock", key="k")
            with pytest.raises(TypeError, match=r"^submitted\(\) missing .* 'key'$"):
                peer.submitted("open_lock")
            with pytest.raises(TypeError, match=r"^withdraw\(\) missing .* 'key'$"):
                peer.withdraw("open_lock")


async def test_what_cannot_be_submitted_is_refused() -> None:
    async with world(1) as w, ClusterClient(w.cluster.engine, name="shop") as shop:
        here: Any = w.here
        rows: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"deliver_within": 1}, ValueError, "needs key="),
            ({"key": "k"}, TypeError, "deliver_within"),
            ({"key": "k", "deliver_within": 0}, ValueError, "more than 0"),
            ({"key": "k", "deliver_within": 1, "retry": Retry()}, TypeError, "retry as keyword argument"),
        ]
        for options, error, text in rows:
            with pytest.raises(error, match=text):
                await here.submit("open_lock", **options)
        lock = shop.peer("lock")
        for call in (submit(lock), lock.submitted("open_lock", key="k"), lock.waiting()):
            with pytest.raises(ValueError, match="needs a store that outlives this process"):
                await call
        for asked in (here.submitted, here.withdraw):
            for key, error in (("", ValueError), (5, TypeError), (None, TypeError)):
                with pytest.raises(error, match="key"):
                    await asked("open_lock", key=key)


@pytest.mark.parametrize(
    ("store", "name", "refusal", "warnings"),
    [
        ("same", "shop", None, 0),
        ("other", "shop", "no server of cluster 'shop' has the store", 0),
        ("none", "shop", "no server of cluster 'shop' has the store", 0),
        ("same", "shpo", None, 1),
    ],
)
async def test_a_program_submits_no_calls_to_a_store_that_no_server_reads(
    store: str, name: str, refusal: str | None, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    """If no server is known, one may start: there is a warning, and the call waits."""
    common = MemoryStore()
    stores = {"same": common, "other": MemoryStore(), "none": None}
    async with world(2, stores[store]) as w, AsyncExitStack() as stack:
        for _ in "12":  # the other program says nothing of the store
            shop = await stack.enter_async_context(ClusterClient(w.cluster.engine, name=name, store=common))
        for key in "ab":
            with nullcontext() if refusal is None else pytest.raises(ValueError, match=refusal):
                await submit(shop.peer("lock"), key=key)
            assert (await shop.peer("lock").submitted("open_lock", key=key)).state == (
                "unknown" if refusal else "waiting"
            )
    texts = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(texts) == warnings
    assert all("no server of cluster 'shpo' is known: check name= and the engine" in text for text in texts)


async def test_servers_with_different_stores_say_so(caplog: pytest.LogCaptureFixture) -> None:
    async with servers(1, store=MemoryStore()) as cluster:
        await cluster.add(store=MemoryStore())
        await until(lambda: "have not the store" in caplog.text, limit=12)
        assert cluster[0].cluster.nodes[0] in caplog.text


async def test_a_program_that_has_lost_the_engine_submits_calls_without_asking_for_servers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(1) as w, w.shop() as shop:
        await w.cluster.engine_goes()
        await until(lambda: not shop.connected)
        await submit(shop.peer("lock"))
        assert (await shop.peer("lock").submitted("open_lock", key="k")).state == "waiting"
        await w.cluster.engine_comes()
    assert "is known" not in caplog.text


# ------------------------------------------------------------ what has become of a call


class Recorded:
    """A store that notes what it is asked."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.asked.add(name)
        return getattr(self.store, name)


async def test_any_process_can_ask_what_has_become_of_a_call_which_does_not_change_it() -> None:
    store = Faulty()
    asking: Any = Recorded(store)
    async with world(1, store) as w, w.shop(asking) as shop:
        w.may_answer.clear()
        door = shop.peer("lock").of("door")
        asking.asked.clear()

        async def told(key: str, event: str = "open_lock") -> tuple[Any, ...]:
            call = await door.submitted(event, key=key)
            return call.state, call.value, call.error

        for key in ("k", "no such key"):
            assert await told(key) == ("unknown", None, None)
        async with w.shop() as ended:
            await submit(ended.peer("lock").of("door"), 7)
            assert await told("k") == ("waiting", None, None)
            assert (await shop.peer("lock").submitted("open_lock", key="k")).state == "unknown", "of another channel"
        store.unanswered = 1_000_000  # nobody adopts the call
        await w.connect()
        await asyncio.sleep(20)
        await until(lambda: shop.locate("lock"))
        assert await told("k") == ("waiting", None, None)
        assert not w.opened
        store.unanswered = 0
        await until(lambda: w.opened, limit=7.1)
        assert await told("k") == ("running", None, None)
        w.may_answer.set()
        await settled()
        assert await told("k") == ("done", "open 1", None)
        assert asking.asked == {"read"}, "which changes nothing"
        with pytest.raises(RpcError, match="jammed"):
            await w.here.request("refuse", key="r", deliver_within=30)
        failed = await shop.peer("lock").submitted("refuse", key="r")
        assert isinstance(failed.error, RpcError) and (failed.state, failed.error.code) == ("failed", "jam")
        assert w.opened == [7, -1]
        with pytest.raises(HandlerFailed) as caught:
            await w.here.request("break", key="b", deliver_within=30)
        failed = await shop.peer("lock").submitted("break", key="b")
        assert f"error=HandlerFailed('internal error [{caught.value.error_id}]')" in repr(failed)


async def test_any_process_lists_the_calls_that_wait_for_a_peer_which_does_not_change_them() -> None:
    store = Faulty()
    asking: Any = Recorded(store)
    async with world(1, store) as w, w.shop(asking) as shop:
        w.may_answer.clear()
        now, peer = time.time(), shop.peer("lock")
        assert await peer.waiting() == []
        await submit(w.here, 7, key="a")
        call = asyncio.create_task(w.here.of("door").request("open_lock", 8, key="b", deliver_within=60))
        await until(lambda: len(store._topics["lock"].logs) == 2)
        await w.cluster[0].cluster.peer("other").submit("open_lock", key="a", deliver_within=30)
        asking.asked.clear()
        first, second = await peer.waiting()
        assert asking.asked == {"pending"}
        assert first == WaitingCall("open_lock", [7], "a", None, first.since, first.since + 30, "waiting")
        assert second == WaitingCall("open_lock", [8], "b", "door", second.since, second.since + 60, "waiting")
        assert now - 1 <= first.since <= second.since <= time.time() + 1
        await w.connect()
        await until(lambda: len(w.opened) == 2)
        assert [each.state for each in await peer.waiting()] == ["running", "running"]
        w.may_answer.set()
        await call
        await until(lambda: "lock" not in store._topics)
        assert await peer.waiting() == []
        for log in store._topics["other"].logs.values():
            log.new = replace(log.new, payload=b"\xc1")  # of a later version
        assert await shop.peer("other").waiting() == []


# ------------------------------------------------------------ withdrawing


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("submits", [True, False])
async def test_a_call_that_waits_is_withdrawn_and_never_made(submits: bool, number: int) -> None:
    """Also if its process has ended. Who waits for its response, or makes it again, learns of it."""
    # In its own process, it ends at once, and not when its lease is renewed.
    store = MemoryStore(lease=6 if submits or number else 1000)
    async with world(2, store) as w:
        here, there = w.here, w.peer(number)
        for key in ("no such key", "k"):
            assert await there.withdraw("open_lock", key=key) == SubmittedCall("unknown")
        if submits:
            async with w.shop() as ended:
                await submit(ended.peer("lock"))
        call = await waiting(here)
        assert (await there.of("door").withdraw("open_lock", key="k")).state == "unknown"
        for _ in range(2):
            assert await there.withdraw("open_lock", key="k") == SubmittedCall("withdrawn")
            assert await here.submitted("open_lock", key="k") == SubmittedCall("withdrawn")
        assert await there.waiting() == []
        for again in (call, opening(there), here.submit("open_lock", key="k", deliver_within=30)):
            with pytest.raises(WsrpcError, match="was withdrawn before it was handed over") as caught:
                await again
            assert caught.value.outcome == "not_sent"
        await asyncio.sleep(10)
        await w.connect()
        assert await opening(here, 5, key="k2") == "open 1"
        assert await there.withdraw("open_lock", key="k2") == SubmittedCall("done", "open 1")
        assert w.opened == [5]


class Pauses(MemoryStore):
    """A store that pauses before or after it records that a call is handed over."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when
        self.reached, self.may_continue = asyncio.Event(), asyncio.Event()

    async def adopt(self, *args: Any) -> LogState:
        if self.when == "after":
            state = await super().adopt(*args)
        self.reached.set()
        await self.may_continue.wait()
        return await super().adopt(*args) if self.when == "before" else state


@pytest.mark.parametrize("server", [0, 1])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_whether_a_call_was_withdrawn_is_true_also_while_it_is_being_handed_over(when: str, server: int) -> None:
    store = Pauses(when)
    async with world(2, store) as w:
        await submit(w.here, 7)
        await w.connect(server)
        await store.reached.wait()
        told = await w.there.withdraw("open_lock", key="k")
        assert told.state == ("withdrawn" if when == "before" else "running")
        store.may_continue.set()
        await asyncio.sleep(10)
        assert w.opened == ([] if when == "before" else [7])
        state = (await w.there.submitted("open_lock", key="k")).state
        assert state == ("withdrawn" if when == "before" else "done")


async def test_a_call_is_not_handed_over_late_though_the_store_takes_its_time() -> None:
    store = Pauses("before")
    async with world(1, store) as w:
        await w.connect()
        await submit(w.here, within=0.1)
        await asyncio.sleep(0.2)
        store.may_continue.set()
        await asyncio.sleep(10)
        call = await w.here.submitted("open_lock", key="k")
        assert isinstance(call.error, PeerNotFound) and w.opened == []


class Reorders(MemoryStore):
    """A store that answers the later of two calls first."""

    handed_over = 0

    async def adopt(self, *args: Any) -> LogState:
        self.handed_over += 1
        await asyncio.sleep(2 - 0.2 * self.handed_over)
        return await super().adopt(*args)


@pytest.mark.parametrize("is_left", [False, True])
async def test_calls_that_wait_are_handed_over_in_their_order(is_left: bool) -> None:
    store = Reorders()
    async with world(2, store) as w:
        for door in range(8):
            await submit(w.here, door, key=str(7 - door))
        if is_left:
            await w.cluster[0].close()
        await w.connect(1)
        await until(lambda: len(w.opened) == 8, limit=8.9)
        assert w.opened == [*range(8)]


class Slow(MemoryStore):
    """A store that takes its time to note that a call is handed over."""

    delay = 0.0

    async def adopt(self, *args: Any) -> LogState:
        delay, state = self.delay, await super().adopt(*args)
        await asyncio.sleep(delay)
        return state


@pytest.mark.parametrize("server", [0, 1])
async def test_calls_keep_their_order_though_the_peer_comes_back_while_one_is_being_handed_over(server: int) -> None:
    """The later one was then sent to the new session, before those that the old one had lost."""
    store = Slow()
    async with world(2, store) as w:
        w.may_answer.clear()
        await w.connect()
        for door in range(4):
            await submit(w.here, door, key=f"{door}")
        await until(lambda: len(w.opened) == 4)
        store.delay, w.lock = 1.0, Lock()  # a program that has forgotten everything
        await submit(w.here, 4, key="4")
        await settled()
        old = w.cluster.peer(0, "lock").transport
        assert old is not None
        old.abort()
        await w.connect(server)
        await until(lambda: len(w.lock.opened) == 5, limit=10)
        assert w.lock.opened == [*range(5)]


async def test_a_call_that_ends_the_program_of_the_peer_fails_alone() -> None:
    """Those that were on their way with it each time had failed, too."""
    async with world(1) as w:
        for door in range(20):
            await submit(w.here, door, key=f"{door}", within=600)
        for _ in range(8):
            lock = Client()  # a program that has forgotten everything

            @lock.on("open_lock", keep=60, ordered=True)
            async def open_lock(door: int, peer: Peer) -> None:
                if door == 0:
                    await peer.close()
                    await asyncio.Event().wait()
                w.opened.append(door)

            async with connect(w.cluster[0], path="/?who=lock", client=lock):
                await asyncio.sleep(3)
        assert sorted({*w.opened}) == [*range(1, 20)]
        assert isinstance((await w.here.submitted("open_lock", key="0")).error, RunLost)


async def test_connections_that_end_before_the_peer_has_said_hello_are_no_deliveries() -> None:
    async with world() as w:
        await submit(w.here, within=600)
        for number in range(6):
            line = Line(w.cluster[number % 2])
            await line.dial("ws://server/?who=lock")
            await asyncio.sleep(3)
            assert await w.here.submitted("open_lock", key="k") == SubmittedCall("waiting")
            line.cut()
            await asyncio.sleep(3)
        await w.connect()
        await until(lambda: w.opened)


async def test_a_call_whose_process_was_killed_as_it_ran_has_not_expired_when_the_peer_comes_too_late() -> None:
    theirs: Any = Mortal(MemoryStore())
    async with AsyncExitStack() as stack:
        cluster = Servers(MemoryEngine(), stack)
        for store in (theirs, theirs.store):
            await cluster.add(store=store)
        await cluster.meet()
        w = World(cluster, theirs.store)
        w.may_answer.clear()
        await submit(w.here, within=10)
        async with connect(cluster[0], path="/?who=lock", client=w.lock.client):
            await until(lambda: w.opened)
            theirs.killed = True
        await asyncio.sleep(5)
        assert (await w.there.submitted("open_lock", key="k")).state == "running", "nobody knows more"
        await asyncio.sleep(7)
        async with connect(cluster[1], path="/?who=lock", client=Lock().client):
            await asyncio.sleep(7)  # a lease
        call = await w.there.submitted("open_lock", key="k")
        assert isinstance(call.error, ConnectionLost) and (call.state, call.error.outcome) == ("failed", "unknown")
        theirs.killed = False


@pytest.mark.parametrize("outage", [0.2, 3, 8])
async def test_a_call_that_begins_while_the_engine_is_away_is_made_when_it_is_back(outage: float) -> None:
    """Without a common store, its own process makes it, and nobody tells it anything of the peer then."""
    async with servers(2) as cluster:
        lock = Lock()
        await cluster.join(1, "lock", lock.client)
        await until(lambda: cluster[0].cluster.locate("lock"))
        await cluster.engine_goes()
        call = asyncio.create_task(opening(cluster[0].cluster.peer("lock")))
        await asyncio.sleep(outage)
        await cluster.engine_comes()
        async with asyncio.timeout(8):
            assert await call == "open 1"


async def test_a_call_whose_time_is_over_is_not_made_again_though_its_session_has_resumed() -> None:
    requests = list[Context]()
    async with world(1) as w:
        line = Line(w.cluster[0])
        async with Client("ws://server/?who=lock", dial=line.dial, reconnect=Reconnect(initial=0.05, max=0.1)) as lock:
            lock.on("open_lock", w.lock.open_lock, keep=60)

            @lock.use
            async def note(ctx: Context, call_next: CallNext) -> object:
                requests.append(ctx)
                return await call_next(ctx)

            w.may_answer.clear()
            call = await waiting(w.here, timeout=5.0)
            await until(lambda: requests)
            line.cut()
            with pytest.raises(RequestTimeout):
                await call
            assert len(requests) == 1


async def test_a_submitted_call_that_nobody_handed_over_in_time_was_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    """Also if its process has ended, and perhaps no other one takes it."""
    async with world() as w:
        peer = w.there
        await submit(w.here, within=0.05)
        await leave(w.cluster[0])
        assert len(await peer.waiting()) == 1
        await asyncio.sleep(1)
        call = await peer.submitted("open_lock", key="k")
        assert isinstance(call.error, PeerNotFound) and (call.state, call.error.outcome) == ("expired", "not_sent")
        assert await peer.waiting() == []
        await w.connect(1)
        await asyncio.sleep(20)
        call = await peer.submitted("open_lock", key="k")
        assert isinstance(call.error, PeerNotFound) and call.error.outcome == "not_sent"
        assert w.opened == [] and "submitted for 'lock' has expired" in caplog.text


async def test_a_call_that_was_handed_over_is_made_again_and_not_withdrawn_though_its_server_ends() -> None:
    """Another process hands it over again, however long ago the first time was."""
    async with world(2) as w:
        w.may_answer.clear()
        await w.connect()
        there = w.there.of("door")
        await submit(there)
        await until(lambda: w.opened)
        await w.cluster[0].close(drain_timeout=0)
        assert (await there.withdraw("open_lock", key="k")).state == "running"
        await w.connect(1)
        w.may_answer.set()
        assert await there.request("open_lock", key="k", deliver_within=30) == "open 1"
        assert w.opened == [0]


async def test_who_joins_a_call_that_waits_waits_as_long_as_it_has_said() -> None:
    async with world(1) as w:
        await submit(w.here)
        with pytest.raises(RequestTimeout) as caught:
            await opening(w.here, within=0.05, timeout=0.01)
        assert caught.value.timeout == pytest.approx(0.06)
        assert await w.here.submitted("open_lock", key="k") == SubmittedCall("waiting")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"key": None}, ValueError, "needs key="),
        ({"deliver_within": 0}, ValueError, "more than 0"),
        ({"deliver_within": "1"}, TypeError, "seconds"),
        ({"send": [1]}, TypeError, "send="),
        ({"retry": Retry()}, TypeError, "retry="),
        ({"offline": "fail"}, TypeError, "offline="),
    ],
)
async def test_what_cannot_be_delivered_later_is_refused(options: Any, error: type[Exception], text: str) -> None:
    async with world(1) as w:
        with pytest.raises(error, match=text):
            await w.here.request("open_lock", **{"key": "k", "deliver_within": 1, **options})


@pytest.mark.parametrize("options", [{}, {"deliver_within": 30}])
@pytest.mark.parametrize("server", [0, 1])
async def test_a_peer_that_knows_no_keys_is_not_called(server: int, options: dict[str, Any]) -> None:
    client = Client(extensions=False)
    client.on("open_lock", lambda: 1)
    async with world() as w:
        await w.cluster.join(0, "lock", client)
        await client.emit("here")  # not hello, so it is a plain peer
        with pytest.raises(ValueError, match="was not sent: the remote peer does not speak wsrpc"):
            await w.peer(server).request("open_lock", key="k", **options)

"""Calls to a peer that is away: they wait in the store, and are made once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Any

import pytest
from cluster_servers import Servers, servers
from core_driver import turns
from msgspec.structs import replace
from waiting import settled, until

from wsrpc import Client, Context, Limits, OutgoingCall, Peer, Reconnect, Retry, Server, blocking
from wsrpc._core.wire.nodes import error_to_node
from wsrpc._keyed import runs
from wsrpc._keyed.runs import failed
from wsrpc._log import link
from wsrpc._log.kept import read_kept
from wsrpc.cluster import ClusterClient, ClusterPeer, SubmittedCall, WaitingCall, _away_calls
from wsrpc.cluster._away_calls import AwayCall
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
from wsrpc.store import AdoptedLog, Appended, MemoryStore, StoreLost
from wsrpc.testing import Line, connect
from wsrpc.testing._clock import Clock

LEASE = 0.3


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


def lock_at(cluster: Servers, number: int = 0) -> ClusterPeer:
    return cluster[number].cluster.peer("lock")


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
    lock, store = Lock(), MemoryStore(lease=LEASE)
    async with servers(2, store=store) as cluster:
        here, there = lock_at(cluster), lock_at(cluster, 1)
        first, second = await waiting(here, 7), await waiting(there, 7, returns=str)
        with pytest.raises(KeyReused):
            await opening(there, 8)
        named = asyncio.create_task(here.of("door").request("open_lock", 7, key="k", deliver_within=30))
        await settled()
        await cluster.join(0, "lock", lock.client)
        assert [await first, await second, await named] == ["open 1", "open 1", "open 2"]
        assert await opening(there, 7) == "open 1"
        # A peer that is there is called at once. What it answers is the result, also if that is an error.
        for _ in range(2):
            with pytest.raises(RpcError, match="jammed") as caught:
                await here.request("refuse", key="k", deliver_within=30)
            assert caught.value.code == "jam"
            with pytest.raises(BadArguments, match="keep="):
                await here.request("forgetful", key="k", deliver_within=30)
        assert lock.opened == [7, 7, -1]


class Lost(MemoryStore):
    """A store that takes calls, and does not answer any more."""

    async def append(self, *args: Any, **options: Any) -> Appended:
        raise StoreLost


async def test_a_server_that_is_closed_asks_a_store_that_does_not_answer_no_more() -> None:
    async with servers(1, store=Lost()) as cluster:
        call = await waiting(lock_at(cluster))
    with pytest.raises(ConnectionLost, match="leaves the cluster"):
        await call
    assert not cluster[0].degraded


async def test_a_call_that_is_not_delivered_in_time_is_not_sent_and_another_one_goes_on() -> None:
    async with servers(1) as cluster:
        call, later = await waiting(lock_at(cluster), within=0.05), await waiting(lock_at(cluster))
        with pytest.raises(PeerNotFound, match=r"'lock' has connected within 0\.05 s") as caught:
            await call
        assert caught.value.outcome == "not_sent"
        await cluster.join(0, "lock", Lock().client)
        assert await later == "open 1"


async def test_a_call_whose_connection_is_lost_is_made_again_and_the_handler_runs_once() -> None:
    lock = Lock()
    lock.may_answer.clear()
    async with servers(2) as cluster:
        await cluster.join(0, "lock", lock.client)
        call = await waiting(lock_at(cluster, 1))
        await until(lambda: lock.opened)
        old = cluster.peer(0, "lock")
        assert old.transport is not None
        old.transport.abort()
        await until(lambda: not old.connected)
        await cluster.join(1, "lock", lock.client)  # a new session
        lock.may_answer.set()
        assert await call == "open 1"
        assert lock.opened == [0]


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_call_that_ends_the_program_of_the_peer_is_made_a_few_times(forgets: bool) -> None:
    """Also if the store forgets everything, so that the call begins another run."""
    store = MemoryStore(lease=LEASE)
    async with servers(1, store=store) as cluster:
        calls = [await waiting(lock_at(cluster)) for _ in range(1 if forgets else 2)]
        runs = 0
        while not calls[0].done():
            lock = Client()  # a program that has forgotten the key

            @lock.on("open_lock", keep=60)
            async def open_lock(peer: Peer) -> None:
                nonlocal runs
                runs += 1
                await peer.close()
                await asyncio.Event().wait()

            async with connect(cluster[0], path="/?who=lock", client=lock):
                closed = asyncio.create_task(lock.peer.wait_closed())
                await asyncio.wait((closed, calls[0]), return_when=asyncio.FIRST_COMPLETED)
            await closed
            if forgets and runs == 3:
                vars(store).update(vars(MemoryStore(lease=LEASE)))
                await until(lambda: store._logs)
        for each in calls:
            with pytest.raises(RunLost, match="handed over 5 times") as caught:
                await each
            assert caught.value.outcome == "unknown"
        assert runs == 5
        await cluster.join(0, "lock", Lock().client)
        assert await opening(lock_at(cluster)) == "open 1", "the key is free"


async def test_a_call_whose_answer_takes_too_long_ends_and_may_be_made_again() -> None:
    lock = Lock()
    lock.may_answer.clear()
    async with servers(1) as cluster:
        await cluster.join(0, "lock", lock.client)
        with pytest.raises(RequestTimeout) as caught:
            await opening(lock_at(cluster), timeout=0.1)
        assert (caught.value.timeout, caught.value.outcome) == (0.1, "unknown")
        again = await waiting(lock_at(cluster))
        lock.may_answer.set()
        assert await again == "open 1"


async def test_the_server_to_which_the_peer_connects_makes_the_calls_of_servers_that_have_ended() -> None:
    lock, store = Lock(), Faulty(lease=LEASE)
    async with servers(2, store=store) as cluster:
        cancelled = await waiting(lock_at(cluster), 1, key="a")
        cancelled.cancel()
        await leave(cluster[0], await waiting(lock_at(cluster), 2, key="b"))
        await cluster.enter(connect(cluster[1], path="/?who=lock", client=lock.client))
        await until(lambda: len(lock.opened) == 2)
        assert sorted(lock.opened) == [1, 2]
        assert await opening(lock_at(cluster, 1), 2, key="b") in ("open 1", "open 2")


@pytest.mark.parametrize(("jump", "within", "opened"), [(3600, 30, [1]), (-3600, LEASE, [])])
async def test_how_long_a_call_has_waited_does_not_depend_on_the_clocks_of_processes(
    jump: int, within: float, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, store = Lock(), Faulty(lease=LEASE)
    async with servers(2, store=store) as cluster:
        await leave(cluster[0], await waiting(lock_at(cluster), 1, within=within))
        await asyncio.sleep(2 * LEASE)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        await cluster.enter(connect(cluster[1], path="/?who=lock", client=lock.client))
        await until(lambda: not store._adoptable)
        assert lock.opened == opened


@pytest.mark.parametrize("corrupt", [False, True])
async def test_a_peer_that_connects_just_after_another_one_is_called_too(
    corrupt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one's calls may be of a later version, or corrupt."""
    monkeypatch.setattr(_away_calls, "PAUSE", 0.4)
    lock, other, store = Lock(), Lock(), Faulty(lease=LEASE)
    async with servers(2, store=store) as cluster:
        calls = [await waiting(cluster[0].cluster.peer("other"), key=key) for key in "ab"]
        await leave(cluster[0], *calls, await waiting(lock_at(cluster), 3, key="c"))
        store.spoils = "other" if corrupt else ""
        for name, device in (("other", other), ("lock", lock)):
            await cluster.enter(connect(cluster[1], path=f"/?who={name}", client=device.client))
        await until(lambda: lock.opened)
        assert lock.opened == [3] and len(other.opened) == (1 if corrupt else 2)


@pytest.mark.parametrize(("patience", "lost", "late"), [(0.01, 3, False), (0.01, 3, True), (10.0, 1, True)])
async def test_a_store_that_does_not_answer_is_asked_for_the_calls_of_a_peer_again(
    patience: float, lost: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago the process has ended, and although the store may have done late what it was asked in vain."""
    monkeypatch.setattr(_away_calls, "PAUSE", 0.1)
    monkeypatch.setattr(runs, "STORE_TIMEOUT", patience)
    lock, store = Lock(), Faulty(lease=LEASE)
    async with servers(2, store=store) as cluster:
        await leave(cluster[0], await waiting(lock_at(cluster), 1))
        membership_of(cluster[1].cluster).away.ended_at -= 1000
        await asyncio.sleep(2 * LEASE)
        store.unanswered, store.is_late = lost, late
        await cluster.enter(connect(cluster[1], path="/?who=lock", client=lock.client))
        await until(lambda: lock.opened)
        assert lock.opened == [1] and not store.unanswered


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
    spoils = ""

    async def release(self, *_: Any) -> None:
        pass

    async def adopt(self, topic: str, /) -> Sequence[AdoptedLog]:
        self.asked += 1
        adopted = [*await super().adopt(topic)] if self.is_late or not self.unanswered else []
        if self.unanswered:
            self.unanswered -= 1
            raise StoreLost
        if adopted and topic == self.spoils:
            adopted[0] = replace(adopted[0], payload=b"\xc1")
        return adopted


@pytest.mark.parametrize("ended", [True, False])
async def test_connections_cost_one_step_of_the_store_unless_a_process_has_ended(
    ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_away_calls, "PAUSE", 0.01)
    store = Faulty(lease=0.05)
    async with servers(2, store=store) as cluster:
        member = membership_of(cluster[0].cluster)
        away = member.away
        away.ended_at = float("-inf")
        if ended:
            member.directory.drop(cluster[1].cluster.nodes[0], member.node.now)
            assert away.ended_at > 0
            away.ended_at = float("inf")  # it stays "just now", however long the connections take
        tasks = len(asyncio.all_tasks())
        for number in range(20):
            async with connect(cluster[0], path=f"/?who=user/{number}"):
                pass
        await until(lambda: store.asked >= 20)
        assert len(asyncio.all_tasks()) <= tasks + 1
        while away._adopting is not None and not away._adopting.done():
            await away._adopting
        assert store.asked == (40 if ended else 20)


async def test_who_joins_a_call_whose_process_has_ended_makes_it() -> None:
    """Programs without a server can wait for a peer, too."""
    lock, store = Lock(), MemoryStore(lease=LEASE)
    async with servers(1) as cluster:
        async with ClusterClient(cluster.engine, name="shop", store=store) as ended:
            call = await waiting(ended.peer("lock"))
        with pytest.raises(ConnectionLost, match="leaves the cluster"):
            await call
        async with ClusterClient(cluster.engine, name="shop", store=store) as shop:
            joins = await waiting(shop.peer("lock"))
            await cluster.join(0, "lock", lock.client)
            assert await joins == "open 1"


async def test_a_peer_whose_session_waits_is_called_when_it_has_resumed() -> None:
    lock = Lock()
    async with servers(1) as cluster:
        line = Line(cluster[0])
        soon = Reconnect(initial=0.01, max=0.05)
        async with Client("ws://server/?who=lock", dial=line.dial, reconnect=soon) as client:
            client.on("open_lock", lock.open_lock, keep=60)
            assert await opening(lock_at(cluster), key="first") == "open 1"
            peer = cluster.peer(0, "lock")
            line.down = True
            line.cut()
            await until(lambda: peer.detached)
            with pytest.raises(ConnectionLost) as caught:
                await opening(lock_at(cluster), within=0.05)
            assert caught.value.outcome == "not_sent"
            call = await waiting(lock_at(cluster))
            line.down = False
            assert await call == "open 2"
            assert cluster[0].peers == (peer,)


@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("server", [0, 1])
async def test_a_peer_that_hangs_when_it_has_connected_is_called_when_it_is_back(
    server: int, timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_away_calls, "PAUSE", 0.01)
    clock = Clock()
    async with servers(2) as cluster:
        await Line(cluster[0], clock=clock).dial("ws://server/?who=lock")  # it never says whether it knows keys
        await until(lambda: cluster[server].cluster.locate("lock"))
        away, asked = membership_of(cluster[server].cluster).away, list[str]()
        sender_to = away.sender_to

        def counted(address: str) -> Any:
            asked.append(address)
            return sender_to(address)

        monkeypatch.setattr(away, "sender_to", counted)
        call = await waiting(lock_at(cluster, server), timeout=timeout)
        await until(lambda: cluster.peer(0, "lock").pending)
        clock.advance(timeout or Limits().open_timeout)
        await until(lambda: call.done() or len(asked) > 1)
        await cluster.join(0, "lock", Lock().client)
        assert await call == "open 1"


# ------------------------------------------------------------ submitted calls


@pytest.mark.parametrize("where", ["away", "connected"])
async def test_a_submitted_call_is_made_though_its_program_ends_and_its_key_gets_the_result(where: str) -> None:
    lock, store = Lock(), MemoryStore(lease=LEASE)
    lock.may_answer.clear()
    async with servers(2, store=store) as cluster:
        if where != "away":
            await cluster.join(0, "lock", lock.client)
        async with ClusterClient(cluster.engine, name="shop", store=store) as shop:
            await until(lambda: (shop.locate("lock") is None) == (where == "away"))
            for _ in range(2):
                await shop.peer("lock").submit("open_lock", 7, key="k", deliver_within=30)
            with pytest.raises(KeyReused):
                await shop.peer("lock").submit("open_lock", 8, key="k", deliver_within=30)
            assert bool(shop._runs._running) == (where != "connected"), "only this process would make the call"
        if where == "away":
            await cluster.join(1, "lock", lock.client)
        await until(lambda: lock.opened)
        lock.may_answer.set()
        async with ClusterClient(cluster.engine, name="shop", store=store) as other:
            assert await opening(other.peer("lock"), 7) == "open 1"
            await other.peer("lock").submit("open_lock", 7, key="k", deliver_within=30)
        assert lock.opened == [7]


@pytest.mark.parametrize("is_server", [True, False])
async def test_a_submitted_call_is_made_at_once_if_its_process_was_closed(is_server: bool) -> None:
    """Nobody waits until its lease lapses."""
    lock, store = Lock(), MemoryStore(lease=1000)
    async with servers(2, store=store) as cluster:
        async with ClusterClient(cluster.engine, name="shop", store=store) as shop:
            peer = lock_at(cluster, 1) if is_server else shop.peer("lock")
            await peer.submit("open_lock", key="k", deliver_within=30)
        await cluster[1].close()
        await cluster.enter(connect(cluster[0], path="/?who=lock", client=lock.client))
        await until(lambda: lock.opened)


class Releases(MemoryStore):
    """A store that tells when a process ends its leases, and takes its time. If they lapse soon, it was killed."""

    def __init__(self, lease: float) -> None:
        super().__init__(lease=lease)
        self.asked, self.may_end = asyncio.Event(), asyncio.Event()

    async def release(self, logs: Any, /) -> None:
        self.asked.set()
        await self.may_end.wait()
        if self.lease > 1:
            await super().release(logs)


@pytest.mark.parametrize(("when", "lease"), [("while the program leaves", 1000), ("before", 1000), ("before", LEASE)])
async def test_a_submitted_call_is_made_though_its_process_ends_when_the_peer_is_there(when: str, lease: float) -> None:
    """The peer was not called yet, or its handler runs. Nobody waits for a lease that was ended, or until the peer
    comes again."""
    lock, store = Lock(), Releases(lease)
    lock.may_answer.clear()
    async with servers(2, store=store) as cluster:
        shop = ClusterClient(cluster.engine, name="shop", store=store)
        await shop.connect()
        await shop.peer("lock").submit("open_lock", key="k", deliver_within=30)
        if when == "before":
            await cluster.join(0, "lock", lock.client)
            await until(lambda: lock.opened)
            away = membership_of(cluster[0].cluster).away
            assert away._adopting is not None
            away._adopting.cancel()  # as if the peer had come long ago
        leaving = asyncio.create_task(shop.close())
        await store.asked.wait()
        if when != "before":
            await cluster.join(0, "lock", lock.client)
            await settled()
        assert len(lock.opened) == (when == "before")
        store.may_end.set()
        await leaving
        lock.may_answer.set()
        peer = lock_at(cluster, 1)
        await asyncio.sleep(10)
        call = await peer.submitted("open_lock", key="k")
        assert call.value == "open 1" and lock.opened == [0]


class Mortal:
    """A store as a process has it, which may be killed."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.killed = store, False

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: asyncio.Event().wait()) if self.killed else getattr(self.store, name)


async def test_the_answer_for_a_process_that_was_killed_is_kept_however_long_the_peer_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The handler ends after its caller, and before this is known."""
    monkeypatch.setattr(_away_calls, "PAUSE", 0.01)
    lock, store = Lock(), MemoryStore(lease=LEASE)
    async with servers(1, store=store) as cluster:
        await cluster.join(0, "lock", lock.client)
        member = membership_of(cluster[0].cluster)
        while member.away._adopting is not None and not member.away._adopting.done():
            await member.away._adopting  # for processes that have ended before
        for number in (1, 2):
            lock.may_answer.clear()
            theirs = Mortal(store)
            async with ClusterClient(cluster.engine, name="shop", store=theirs) as shop:
                asking = shop.peer("lock").request("open_lock", key=f"k{number}", deliver_within=30)
                call = asyncio.create_task(asking)
                await until(lambda number=number: len(lock.opened) == number)  # type: ignore[misc]
                theirs.killed = True
                lock.may_answer.set()
                await settled()
                member.directory.drop(shop.nodes[0], member.node.now, silent=True)
                await asyncio.sleep(1)
                found = await lock_at(cluster).submitted("open_lock", key=f"k{number}")
                assert found.value == f"open {number}"
                theirs.killed = False
                call.cancel()


class Hangs(MemoryStore):
    """A store that does not answer a process that ends, or raises something."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    async def release(self, *_: Any) -> None:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()


@pytest.mark.parametrize("error", [None, StoreLost("down"), OSError("a store of the user's own")], ids=repr)
async def test_a_process_ends_though_the_store_does_not_answer_then(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "RELEASE_TIMEOUT", 0.01)
    store = Hangs(error)
    async with servers(1, store=store) as cluster:
        await lock_at(cluster).submit("open_lock", key="k", deliver_within=30)
    assert store._adoptable


async def test_a_submitted_call_is_made_though_the_server_that_has_taken_it_ends() -> None:
    lock, store = Lock(), MemoryStore(lease=LEASE)
    lock.may_answer.clear()
    async with servers(2, store=store) as cluster:
        await cluster.join(0, "lock", lock.client)
        await lock_at(cluster, 1).of("door").submit("open_lock", key="k", deliver_within=30)
        await until(lambda: lock.opened)
        await cluster[0].close(drain_timeout=0)
        async with connect(cluster[1], path="/?who=lock", client=lock.client):
            lock.may_answer.set()
            door = lock_at(cluster, 1).of("door")
            assert await door.request("open_lock", key="k", deliver_within=30) == "open 1"


async def test_who_submits_a_call_again_makes_it_if_its_process_has_ended() -> None:
    lock, store = Lock(), Faulty(lease=LEASE)
    async with servers(1, store=store) as cluster:
        async with ClusterClient(cluster.engine, name="shop", store=store) as shop:
            await shop.peer("lock").submit("open_lock", key="k", deliver_within=30)
        await asyncio.sleep(2 * LEASE)
        async with ClusterClient(cluster.engine, name="shop", store=store) as again:
            await again.peer("lock").submit("open_lock", key="k", deliver_within=30)
            await cluster.join(0, "lock", lock.client)
            await until(lambda: lock.opened)
            assert await opening(again.peer("lock")) == "open 1"


async def test_an_address_for_which_too_many_calls_wait_gets_no_more() -> None:
    async with servers(1, store=MemoryStore(payer_logs=1)) as cluster:
        await lock_at(cluster).submit("open_lock", key="k", deliver_within=30)
        for call in (lock_at(cluster).submit, lock_at(cluster).request):
            with pytest.raises(Overloaded, match="too many calls wait for this address") as caught:
                await call("open_lock", key="k2", deliver_within=30)
            assert caught.value.outcome == "not_run"
        await cluster[0].cluster.peer("other").submit("open_lock", key="k2", deliver_within=30)


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
    lock = Lock()
    lock.may_answer.clear()
    async with servers(2, store=MemoryStore(lease=LEASE)) as cluster:
        if error is not PeerNotFound:
            await cluster.join(0, "lock", lock.client)
        peer = lock_at(cluster, 1)
        await peer.submit(event, key="k", deliver_within=within, timeout=timeout)
        for again in (peer.request, peer.request, peer.submit):
            with pytest.raises(error):
                await again(event, key="k", deliver_within=30)
        assert len(lock.opened) <= 1
    assert f"the call of {event!r} with the key 'k' that was submitted for 'lock' has failed" in caplog.text


async def test_a_submitted_call_has_the_metadata_of_use_outgoing_and_outlives_the_handler_that_submits_it() -> None:
    lock, store, got = Lock(), MemoryStore(lease=LEASE), asyncio.Queue[Any]()

    @lock.client.on("ring", keep=60)
    async def ring(ctx: Context) -> None:
        await got.put((ctx.metadata, ctx.remaining))

    async with servers(1, store=store) as cluster:

        @cluster[0].use_outgoing
        def trace(call: OutgoingCall) -> None:
            call.metadata["trace"] = "t"
            assert (call.kind, call.address, call.timeout) == ("request", "lock", None)

        @cluster[0].on("submit", timeout=2)
        async def submit() -> None:
            await lock_at(cluster).submit("ring", key="k", deliver_within=30)

        user = await cluster.join(0)
        await user.request("submit")
        [log] = store._adoptable.values()
        assert read_kept(log.new.payload, AwayCall).timeout == cluster[0].limits.request_timeout
        await cluster.join(0, "lock", lock.client)
        assert await got.get() == ({"trace": "t"}, None)


async def test_an_option_that_is_missing_is_told_with_the_name_of_the_method() -> None:
    async with servers(1, store=MemoryStore()) as cluster:
        lock: Any = lock_at(cluster)
        here: Any = blocking.ClusterPeer
        for peer in (lock, lock.of("door"), here.__new__(here)):
            with pytest.raises(TypeError, match=r"^submit\(\) missing .* 'deliver_within'$"):
                peer.submit("open_lock", key="k")
            with pytest.raises(TypeError, match=r"^submitted\(\) missing .* 'key'$"):
                peer.submitted("open_lock")
            with pytest.raises(TypeError, match=r"^withdraw\(\) missing .* 'key'$"):
                peer.withdraw("open_lock")


async def test_what_cannot_be_submitted_is_refused() -> None:
    async with servers(1, store=MemoryStore()) as cluster, ClusterClient(cluster.engine, name="shop") as shop:
        submit: Any = lock_at(cluster).submit
        with pytest.raises(ValueError, match="needs key="):
            await submit("open_lock", deliver_within=1)
        with pytest.raises(TypeError, match="deliver_within"):
            await submit("open_lock", key="k")
        with pytest.raises(ValueError, match="more than 0"):
            await submit("open_lock", key="k", deliver_within=0)
        with pytest.raises(TypeError, match="retry as keyword argument"):
            await submit("open_lock", key="k", deliver_within=1, retry=Retry())
        with pytest.raises(ValueError, match="needs a store that outlives this process"):
            await shop.peer("lock").submit("open_lock", key="k", deliver_within=1)
        with pytest.raises(ValueError, match="needs a store that outlives this process"):
            await shop.peer("lock").submitted("open_lock", key="k")
        with pytest.raises(ValueError, match="needs a store that outlives this process"):
            await shop.peer("lock").waiting()
        asked: Any
        for asked in (lock_at(cluster).submitted, lock_at(cluster).withdraw):
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
    async with servers(2, store=stores[store]) as cluster, AsyncExitStack() as stack:
        for _ in "12":  # the other program says nothing of the store
            shop = await stack.enter_async_context(ClusterClient(cluster.engine, name=name, store=common))
        for key in "ab":
            with nullcontext() if refusal is None else pytest.raises(ValueError, match=refusal):
                await shop.peer("lock").submit("open_lock", key=key, deliver_within=30)
            assert (await shop.peer("lock").submitted("open_lock", key=key)).state == (
                "unknown" if refusal else "waiting"
            )
    texts = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(texts) == warnings
    assert all("no server of cluster 'shpo' is known: check name= and the engine" in text for text in texts)


async def test_a_program_that_has_lost_the_engine_submits_calls_without_asking_for_servers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    async with servers(1, store=store) as cluster, ClusterClient(cluster.engine, name="shop", store=store) as shop:
        await cluster.engine_goes()
        await until(lambda: not shop.connected)
        await shop.peer("lock").submit("open_lock", key="k", deliver_within=30)
        assert (await shop.peer("lock").submitted("open_lock", key="k")).state == "waiting"
        await cluster.engine_comes()
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


async def test_any_process_can_ask_what_has_become_of_a_call_which_does_not_change_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_away_calls, "PAUSE", 0.1)
    lock, store = Lock(), Faulty(lease=LEASE)
    lock.may_answer.clear()
    asking: Any = Recorded(store)
    async with servers(1, store=store) as cluster, ClusterClient(cluster.engine, name="shop", store=asking) as shop:
        door = shop.peer("lock").of("door")
        asking.asked.clear()

        async def told(key: str, event: str = "open_lock") -> tuple[Any, ...]:
            call = await door.submitted(event, key=key)
            return call.state, call.value, call.error

        for key in ("k", "no such key"):
            assert await told(key) == ("unknown", None, None)
        async with ClusterClient(cluster.engine, name="shop", store=store) as ended:
            await ended.peer("lock").of("door").submit("open_lock", 7, key="k", deliver_within=30)
            assert await told("k") == ("waiting", None, None)
            assert (await shop.peer("lock").submitted("open_lock", key="k")).state == "unknown", "of another channel"
        store.unanswered = 1_000_000  # nobody adopts the call
        await cluster.join(0, "lock", lock.client)
        await asyncio.sleep(2 * LEASE)
        await until(lambda: shop.locate("lock"))
        assert await told("k") == ("waiting", None, None)
        assert not lock.opened
        store.unanswered = 0
        await until(lambda: lock.opened)
        assert await told("k") == ("running", None, None)
        lock.may_answer.set()
        await settled()
        assert await told("k") == ("done", "open 1", None)
        assert asking.asked == {"read", "pending"}, "which change nothing"
        with pytest.raises(RpcError, match="jammed"):
            await lock_at(cluster).request("refuse", key="r", deliver_within=30)
        failed = await shop.peer("lock").submitted("refuse", key="r")
        assert isinstance(failed.error, RpcError) and (failed.state, failed.error.code) == ("failed", "jam")
        assert lock.opened == [7, -1]
        with pytest.raises(HandlerFailed) as caught:
            await lock_at(cluster).request("break", key="b", deliver_within=30)
        failed = await shop.peer("lock").submitted("break", key="b")
        assert f"error=HandlerFailed('internal error [{caught.value.error_id}]')" in repr(failed)


async def test_any_process_lists_the_calls_that_wait_for_a_peer_which_does_not_change_them() -> None:
    lock, store = Lock(), Faulty(lease=LEASE)
    lock.may_answer.clear()
    asking: Any = Recorded(store)
    async with servers(1, store=store) as cluster, ClusterClient(cluster.engine, name="shop", store=asking) as shop:
        now, peer = time.time(), shop.peer("lock")
        assert await peer.waiting() == []
        await lock_at(cluster).submit("open_lock", 7, key="a", deliver_within=30)
        call = asyncio.create_task(lock_at(cluster).of("door").request("open_lock", 8, key="b", deliver_within=60))
        await until(lambda: len(store._adoptable) == 2)
        await cluster[0].cluster.peer("other").submit("open_lock", key="a", deliver_within=30)
        asking.asked.clear()
        first, second = await peer.waiting()
        assert asking.asked == {"pending"}
        assert first == WaitingCall("open_lock", [7], "a", None, first.since, first.since + 30, "waiting")
        assert second == WaitingCall("open_lock", [8], "b", "door", second.since, second.since + 60, "waiting")
        assert now - 1 <= first.since <= second.since <= time.time() + 1
        await cluster.join(0, "lock", lock.client)
        await until(lambda: len(lock.opened) == 2)
        assert [each.state for each in await peer.waiting()] == ["running", "running"]
        lock.may_answer.set()
        await call
        await until(lambda: len(store._adoptable) == 1)
        assert await peer.waiting() == []
        for log in store._adoptable.values():
            log.new = replace(log.new, payload=b"\xc1")  # of a later version
        assert await shop.peer("other").waiting() == []
        asking.pending = None  # as in a store of one's own
        with pytest.raises(ValueError, match="cannot list calls: it has no method `pending`"):
            await peer.waiting()


# ------------------------------------------------------------ withdrawing


def is_idle(cluster: Servers) -> bool:
    """Whether no server makes a call, or waits for a peer."""
    return not any(membership_of(server.cluster).away._runs._running for server in cluster)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("submits", [True, False])
async def test_a_call_that_waits_is_withdrawn_and_never_made(submits: bool, number: int) -> None:
    """Also if its process has ended. Who waits for its response, or makes it again, learns of it."""
    # In its own process, it ends at once, and not when its lease is renewed.
    lock, store = Lock(), MemoryStore(lease=LEASE if submits or number else 1000)
    async with servers(2, store=store) as cluster:
        here, there = lock_at(cluster), lock_at(cluster, number)
        for key in ("no such key", "k"):
            assert await there.withdraw("open_lock", key=key) == SubmittedCall("unknown")
        if submits:
            async with ClusterClient(cluster.engine, name="shop", store=store) as ended:
                await ended.peer("lock").submit("open_lock", key="k", deliver_within=30)
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
        await until(lambda: is_idle(cluster))
        await cluster.join(0, "lock", lock.client)
        assert await opening(here, 5, key="k2") == "open 1"
        assert await there.withdraw("open_lock", key="k2") == SubmittedCall("done", "open 1")
        assert lock.opened == [5]


class Pauses(MemoryStore):
    """A store that pauses before or after it records that a call is handed over."""

    def __init__(self, when: str) -> None:
        super().__init__(lease=LEASE)
        self.when = when
        self.reached, self.may_continue = asyncio.Event(), asyncio.Event()

    async def append(self, key: str, log: Any, *args: Any, **options: Any) -> Appended:
        if args[2] != _away_calls.HANDED_OVER:
            return await super().append(key, log, *args, **options)
        if self.when == "after":
            added = await super().append(key, log, *args, **options)
        self.reached.set()
        await self.may_continue.wait()
        if self.when == "before":
            added = await super().append(key, log, *args, **options)
        return added


@pytest.mark.parametrize("server", [0, 1])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_whether_a_call_was_withdrawn_is_true_also_while_it_is_being_handed_over(when: str, server: int) -> None:
    lock, store = Lock(), Pauses(when)
    async with servers(2, store=store) as cluster:
        await lock_at(cluster).submit("open_lock", 7, key="k", deliver_within=30)
        await cluster.join(server, "lock", lock.client)
        await store.reached.wait()
        told = await lock_at(cluster, 1).withdraw("open_lock", key="k")
        assert told.state == ("withdrawn" if when == "before" else "running")
        store.may_continue.set()
        await until(lambda: is_idle(cluster))
        assert lock.opened == ([] if when == "before" else [7])
        state = (await lock_at(cluster, 1).submitted("open_lock", key="k")).state
        assert state == ("withdrawn" if when == "before" else "done")


async def test_a_call_is_not_handed_over_late_though_the_store_takes_its_time() -> None:
    lock, store = Lock(), Pauses("before")
    async with servers(1, store=store) as cluster:
        await cluster.join(0, "lock", lock.client)
        await lock_at(cluster).submit("open_lock", key="k", deliver_within=0.1)
        await asyncio.sleep(0.2)
        store.may_continue.set()
        await until(lambda: is_idle(cluster))
        call = await lock_at(cluster).submitted("open_lock", key="k")
        assert isinstance(call.error, PeerNotFound) and lock.opened == []


class Reorders(MemoryStore):
    """A store that answers the later of two calls first."""

    handed_over = 0

    async def append(self, key: str, log: Any, *args: Any, **options: Any) -> Appended:
        if args[2] == _away_calls.HANDED_OVER:
            self.handed_over += 1
            await turns(200 - 20 * self.handed_over)
        return await super().append(key, log, *args, **options)


@pytest.mark.parametrize("is_left", [False, True])
async def test_calls_that_wait_are_handed_over_in_their_order(is_left: bool) -> None:
    lock, store = Lock(), Reorders(lease=LEASE)
    async with servers(2, store=store) as cluster:
        for door in range(8):
            await lock_at(cluster).submit("open_lock", door, key=str(7 - door), deliver_within=30)
        if is_left:
            await cluster[0].close()
        await cluster.enter(connect(cluster[1], path="/?who=lock", client=lock.client))
        await until(lambda: len(lock.opened) == 8)
        assert lock.opened == [*range(8)]


async def test_a_submitted_call_that_nobody_handed_over_in_time_was_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    """Also if its process has ended, and perhaps no other one takes it."""
    lock, store = Lock(), MemoryStore(lease=LEASE)
    async with servers(2, store=store) as cluster:
        peer = lock_at(cluster, 1)
        await lock_at(cluster).submit("open_lock", key="k", deliver_within=0.05)
        await leave(cluster[0])
        assert len(await peer.waiting()) == 1
        await asyncio.sleep(1)
        call = await peer.submitted("open_lock", key="k")
        assert isinstance(call.error, PeerNotFound) and call.error.outcome == "not_sent" and call.error.within == 0.05
        assert await peer.waiting() == []
        await cluster.enter(connect(cluster[1], path="/?who=lock", client=lock.client))
        await until(lambda: not store._adoptable)
        call = await peer.submitted("open_lock", key="k")
        assert isinstance(call.error, PeerNotFound) and call.error.outcome == "not_sent"
        assert lock.opened == [] and "submitted for 'lock' has failed" in caplog.text


class Half(MemoryStore):
    """A store that does not answer any more after a call was withdrawn, and does not end it."""

    answers = False

    async def append(self, *args: Any, end: bytes | None = None, **options: Any) -> Appended:
        if end is not None and not self.answers:
            raise StoreLost
        return await super().append(*args, end=end, **options)


async def test_a_call_that_was_withdrawn_in_part_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that withdraws it may end just then."""
    lock, store = Lock(), Half(lease=LEASE)
    async with servers(2, store=store) as cluster:
        peer = lock_at(cluster)
        await peer.submit("open_lock", key="k", deliver_within=30)
        monkeypatch.setattr(link, "STORE_TIMEOUT", 0.01)
        with pytest.raises(Overloaded):
            await lock_at(cluster, 1).withdraw("open_lock", key="k")
        monkeypatch.undo()
        store.answers = True
        assert await peer.waiting() == []
        assert await peer.submitted("open_lock", key="k") == SubmittedCall("withdrawn")
        await cluster.join(1, "lock", lock.client)
        await until(lambda: is_idle(cluster))
        assert lock.opened == [] and not store._adoptable
        assert await peer.submitted("open_lock", key="k") == SubmittedCall("withdrawn")


class Overtaken(MemoryStore):
    """A store in which a call ends at its deadline when it has just been withdrawn, and its key is free."""

    async def append(self, key: str, log: Any, *args: Any, **options: Any) -> Appended:
        added = await super().append(key, log, *args, **options)
        if args[2] == _away_calls.WITHDRAWN and self.ends:
            self.ends = False
            end = failed(error_to_node(PeerNotFound("lock")))
            await super().append(key, log, runs.OTHER, 1, [], end=end, free=True)
            await settled()  # who waits longer for it begins it again
        return added

    ends = True


async def test_a_call_that_ends_while_it_is_withdrawn_and_begins_again_is_withdrawn_too() -> None:
    lock, store = Lock(), Overtaken()
    async with servers(2, store=store) as cluster:
        await lock_at(cluster).submit("open_lock", key="k", deliver_within=30)
        call = await waiting(lock_at(cluster, 1))
        assert (await lock_at(cluster).withdraw("open_lock", key="k")).state == "withdrawn"
        await cluster.join(0, "lock", lock.client)
        with pytest.raises(WsrpcError, match="withdrawn"):
            await call
        await until(lambda: is_idle(cluster))
        assert lock.opened == []


class Forgetful(MemoryStore):
    """A store that forgets at once which batches it has. It may, after ten minutes."""

    async def append(self, key: str, *args: Any, **options: Any) -> Appended:
        if (log := self._logs.get(key)) is not None:
            log.writers = {}
        return await super().append(key, *args, **options)


async def test_a_call_that_was_handed_over_is_not_withdrawn_though_the_peer_is_away_again() -> None:
    """Another process hands it over again, however long ago the first time was."""
    lock, store = Lock(), Forgetful(lease=LEASE)
    lock.may_answer.clear()
    async with servers(2, store=store) as cluster:
        await lock_at(cluster).submit("open_lock", key="k", deliver_within=30)
        await cluster.join(0, "lock", lock.client)
        await until(lambda: lock.opened)
        await cluster[0].close(drain_timeout=0)
        assert (await lock_at(cluster, 1).withdraw("open_lock", key="k")).state == "running"
        await cluster.enter(connect(cluster[1], path="/?who=lock", client=lock.client))
        lock.may_answer.set()
        assert await opening(lock_at(cluster, 1)) == "open 1"
        assert lock.opened == [0]


async def test_a_call_is_withdrawn_while_the_session_of_its_peer_waits() -> None:
    lock, store = Lock(), MemoryStore()
    async with servers(1, store=store) as cluster:
        line, soon = Line(cluster[0]), Reconnect(initial=0.01, max=0.05)
        async with Client("ws://server/?who=lock", dial=line.dial, reconnect=soon) as client:
            client.on("open_lock", lock.open_lock, keep=60)
            assert await opening(lock_at(cluster), 1, key="first") == "open 1"
            peer = cluster.peer(0, "lock")
            line.down = True
            line.cut()
            await until(lambda: peer.detached)
            await lock_at(cluster).submit("open_lock", 2, key="k", deliver_within=30)
            await settled()
            assert (await lock_at(cluster).withdraw("open_lock", key="k")).state == "withdrawn"
            line.down = False
            assert await opening(lock_at(cluster), 3, key="k2") == "open 2"
            assert lock.opened == [1, 3]


async def test_a_peer_whose_session_waits_until_the_deadline_is_not_found() -> None:
    async with servers(1, store=MemoryStore()) as cluster:
        line = Line(cluster[0])
        async with Client("ws://server/?who=lock", dial=line.dial, reconnect=Reconnect(initial=0.01, max=0.05)):
            line.down = True
            line.cut()
            await until(lambda: cluster.peer(0, "lock").detached)
            await lock_at(cluster).submit("open_lock", key="k", deliver_within=0.05)
            await until(lambda: is_idle(cluster))
            error = (await lock_at(cluster).submitted("open_lock", key="k")).error
            assert isinstance(error, PeerNotFound) and error.outcome == "not_sent" and error.within == 0.05
            line.down = False


async def test_who_joins_a_call_that_waits_waits_as_long_as_it_has_said() -> None:
    store = MemoryStore()
    async with servers(1, store=store) as cluster:
        await lock_at(cluster).submit("open_lock", key="k", deliver_within=30)
        with pytest.raises(RequestTimeout) as caught:
            await opening(lock_at(cluster), within=0.05, timeout=0.01)
        assert caught.value.timeout == pytest.approx(0.06)
        assert await lock_at(cluster).submitted("open_lock", key="k") == SubmittedCall("waiting")


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
    async with servers(1) as cluster:
        with pytest.raises(error, match=text):
            await lock_at(cluster).request("open_lock", **{"key": "k", "deliver_within": 1, **options})


@pytest.mark.parametrize("options", [{}, {"deliver_within": 30}])
@pytest.mark.parametrize("server", [0, 1])
async def test_a_peer_that_knows_no_keys_is_not_called(server: int, options: dict[str, Any]) -> None:
    client = Client(extensions=False)
    client.on("open_lock", lambda: 1)
    async with servers(2) as cluster:
        await cluster.join(0, "lock", client)
        await client.emit("here")  # not hello, so it is a plain peer
        with pytest.raises(ValueError, match="was not sent: the remote peer does not speak wsrpc"):
            await lock_at(cluster, server).request("open_lock", key="k", **options)

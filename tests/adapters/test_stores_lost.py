"""`RedisStore` whose server is killed, frozen, restored or full, and its options. The memory of a `MemoryStore`."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import sqlite3
import sys
import threading
import time
import tracemalloc
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from engine_servers import address_of, lasting_port, redis_server
from engines_in_use import Recorder
from leftovers import open_sockets, timers_due
from msgspec.structs import replace
from programs import start
from raw_websocket import ask
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from stores_in_use import add, add_own, end, entries_of, eventually, listed, new_log, next_entries, state_of
from waiting import until

from wsrpc import Client, HandshakeRejected, Quotas, RequestTimeout, Server
from wsrpc._log import sqlite_store
from wsrpc._server.quotas import shared_connections
from wsrpc.blocking import ClusterClient
from wsrpc.cluster.engine import RESPONSE_TIMEOUT
from wsrpc.errors import EngineLost, PeerNotFound
from wsrpc.store import FORMAT, LogGone, MemoryStore, SqliteStore, StoreFull, StoreLost
from wsrpc.testing import connect
from wsrpc_adapters import _redis_store
from wsrpc_adapters.redis import RedisEngine, RedisStore

SECRET = "s3cret-of-tests"


class Mortal:
    """A server of Redis with a disk, that tests may end and start again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = lasting_port()
        self.start()

    def start(self, *options: str) -> None:
        self.server = redis_server("--dir", str(self._folder), *options, port=self._port)

    @property
    def url(self) -> str:
        return self.server.url


@pytest.fixture
def mortal(tmp_path: Path) -> Generator[Mortal]:
    found = Mortal(tmp_path)
    yield found
    found.server.kill()


@pytest.fixture
async def client(mortal: Mortal) -> AsyncGenerator[Any]:
    """A client of the library, which sees what the store does there."""
    client: Any = Redis.from_url(mortal.url)
    yield client
    await client.connection_pool.disconnect()


@pytest.fixture
async def store(mortal: Mortal) -> AsyncGenerator[RedisStore]:
    store = RedisStore(mortal.url, lease=60)
    yield store
    await store.close()


@pytest.fixture
async def reads(mortal: Mortal) -> AsyncGenerator[RedisStore]:
    """The store of another process, which reads."""
    store = RedisStore(mortal.url, lease=60)
    yield store
    await store.close()


async def calls_fail(store: RedisStore) -> None:
    calls = (
        *(store.open("k2", new_log("b")), add_own(store, 1, b"x", id="b", key="k2"), add(store, "w", 1, b"x")),
        *(store.read("k2", 0), store.read("k2", 0, wait=30)),
        *(store.hold("p", {"k2": "b"}, {"k": 1}), store.release({"k2": "b"})),
        *(store.adopt("k2", "b", "p"), store.pending("t", 0), store.topics(0), store.acquire("s", "k2", 0, 1, 1)),
    )
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [result for result in results if not isinstance(result, StoreLost)] == []


async def insist(store: RedisStore, after: int) -> list[bytes]:
    while True:
        with suppress(StoreLost):
            return await next_entries(store, after)


PATIENT = """
from wsrpc._server.quotas import shared_connections
from wsrpc_adapters import _redis_tails

shared_connections.ANSWER_TIMEOUT = _redis_tails.FIRST_LISTEN_TIMEOUT = 60.0
"""
"""On a busy machine, a program may listen only after its first log has begun. The log names its process in the next
third of a lease, which here is longer than a test."""


async def started(code: str, *words: str) -> Process:
    """A program that has said that it is ready."""
    program = await start(sys.executable, "-c", PATIENT + code, *words)
    assert program.stdout is not None and await program.stdout.readline()
    return program


async def killed(program: Process, client: Any) -> None:
    """Kill a program, and wait until Redis has noticed."""
    listening = partial(client.pubsub_channels, "*:process:*")
    before = len(await listening())
    program.kill()
    await program.wait()
    await eventually(listening, lambda found: len(found) < before)


async def with_readers(writes: RedisStore, reads: RedisStore, read: Any = next_entries) -> list[asyncio.Task[Any]]:
    """Open a log with two entries, and wait for the third with many readers."""
    await writes.open("k", new_log("a"))
    await add_own(writes, 1, b"x", b"y")
    readers = [asyncio.create_task(read(reads, 2)) for _ in range(10)]
    await reads.read("k", 2, wait=0.1)
    return readers


def without(field: str, run: bytes) -> bytes:
    fields = msgspec.msgpack.decode(run)
    del fields[field]
    return msgspec.msgpack.encode(fields)


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda run: b"garbage",
    "nothing": lambda run: b"",
    "no map": lambda run: b"\xc1",
    **{f"no {field}": partial(without, field) for field in ("payer", "first", "ending", "keep", "lapses")},
}


@pytest.mark.parametrize("harm", [*HARMS, "listed:bad", "readers:bad"])
async def test_what_others_do_to_a_run_harms_only_it(harm: str, mortal: Mortal, store: RedisStore, client: Any) -> None:
    for key in ("bad", "good"):
        await store.open(key, listed("a", payer=key, within=0.001))
        await store.hold("q", {}, {key: 1})
    if harm in HARMS:
        await client.set("wsrpc:log:bad", HARMS[harm](await client.get("wsrpc:log:bad")))
    else:
        await client.delete(f"wsrpc:{harm}")
        await client.rpush(f"wsrpc:{harm}", "x")
    assert [*await store.hold("p", {"bad": "a", "good": "a"}, {"bad": 1, "good": 1})] == ["good"]
    quick = RedisStore(mortal.url, lease=0.001)
    await quick.hold("p", {"good": "a"}, {})
    await eventually(partial(state_of, store, "good"), lambda state: state is not None and state.lost)
    assert [log.key for log in await store.pending("t", 0) if log.key != "bad"] == ["good"]
    [topic] = await store.topics(0)
    assert (topic.name, topic.newest) == ("t", "a")
    await quick.close()


async def test_a_server_that_is_killed_and_started_again_with_nothing(
    mortal: Mortal, store: RedisStore, reads: RedisStore
) -> None:
    readers = await with_readers(store, reads)
    mortal.server.kill()
    for result in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(result, StoreLost)
    await calls_fail(store)
    mortal.start()
    assert await store.read("k", 0) is None
    with pytest.raises(LogGone):
        await add_own(store, 3, b"z")
    readers = await with_readers(store, reads)
    await add_own(store, 3, b"z")
    assert await asyncio.gather(*readers) == [[b"z"]] * 10


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no longer for Redis than usual."""
    monkeypatch.setattr(_redis_store, "RESPONSE_TIMEOUT", RESPONSE_TIMEOUT)


async def test_a_server_that_freezes(impatient: None, mortal: Mortal, store: RedisStore, reads: RedisStore) -> None:
    readers = await with_readers(store, reads, insist)
    mortal.server.freeze()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await calls_fail(store)
    assert loop.time() - began >= RESPONSE_TIMEOUT
    mortal.server.thaw()
    await eventually(lambda: answered(store), bool)
    await add_own(store, 3, b"z")
    assert await asyncio.gather(*readers) == [[b"z"]] * 10
    mortal.server.freeze()
    await store.close()
    mortal.server.thaw()


async def answered(store: RedisStore) -> bool:
    try:
        return await store.read("k", 0) is not None
    except StoreLost:
        return False


async def test_only_the_connection_that_is_listened_on_is_lost(
    store: RedisStore, reads: RedisStore, client: Any
) -> None:
    readers = await with_readers(store, reads, insist)
    for _ in range(3):
        # A busy server may count one that is closed already, so the number says nothing.
        assert await eventually(lambda: client.client_kill_filter(_type="pubsub"), bool)
        await reads.look()
        page = await reads.read("k", 2)
        assert page is not None and not page.state.lost, "its process has connected again"
    await add_own(store, 3, b"z")
    assert await asyncio.gather(*readers) == [[b"z"]] * 10


async def test_a_reader_that_waits_notices_that_the_last_entry_is_another_one(
    store: RedisStore, reads: RedisStore, client: Any
) -> None:
    async def logs() -> dict[bytes, bytes]:
        return {key: await client.dump(key) for key in await client.keys("*:k")}

    await add(store, "w", 1, b"x")
    early = await logs()
    await add(store, "v", 1, b"y")
    others = await logs()
    for key, value in early.items():
        await client.restore(key, 600_000, value, replace=True)
    await add(store, "w", 2, b"z")
    await reads.read("k", 1, wait=900)  # so the next call has the end of the log at once
    reading = asyncio.create_task(reads.read("k", 2, wait=900))
    await asyncio.sleep(0)
    for key, value in others.items():
        await client.restore(key, 600_000, value, replace=True)
    await client.client_kill_filter(_type="pubsub")
    try:
        page = await reading
    except StoreLost:  # an early redis-py does not connect again by itself
        page = await reads.read("k", 2)
    assert page is not None and (page.number, page.before) == (3, "v.1")


async def test_a_run_whose_process_was_killed_is_lost_long_before_its_lease_lapses(
    reads: RedisStore, mortal: Mortal
) -> None:
    program = await started(OWNS, mortal.url)
    readers = [asyncio.create_task(reads.read("k", 1, wait=3000)) for _ in range(3)]
    program.kill()
    await program.wait()
    for page in await asyncio.gather(*readers):
        assert page is not None and page.state.lost and page.state.owner_ended

    async def end_if_lost() -> bytes | None:
        return (await reads.append("k", "a", "other", 1, [], end=b"end", only_if_lost=True)).state.end

    await eventually(partial(reads.read, "k", 0), lambda page: page is not None and page.state.owner_ended)
    assert await eventually(end_if_lost, bool) == b"end"


async def test_a_run_is_lost_for_the_first_reader_if_somebody_has_looked_for_its_process(
    reads: RedisStore, mortal: Mortal, client: Any
) -> None:
    """Otherwise the time in which a process may connect again began only when there was a reader."""
    program = await started(OWNS, mortal.url)
    await reads.look()
    await timers_due(0.7)
    page = await reads.read("k", 1)
    assert page is not None and not page.state.lost, "it is connected"
    await killed(program, client)
    await reads.look()
    await timers_due(0.7)
    page = await reads.read("k", 1)
    assert page is not None and page.state.owner_ended


@pytest.mark.parametrize("how", ["one by one", "at once"])
async def test_the_connections_of_a_process_that_was_killed_do_not_count_for_long(
    how: str, mortal: Mortal, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempts of new ones wait until it is known that it was killed, and are not refused."""
    monkeypatch.setattr(shared_connections, "ANSWER_TIMEOUT", 60.0)
    server = Server(quotas=Quotas(connections=2), store=RedisStore(mortal.url, lease=3600))
    program = await started(CONNECTED, mortal.url, how)

    async def enters(stack: AsyncExitStack) -> bool:
        with suppress(HandshakeRejected):
            await stack.enter_async_context(connect(server, principal="ada"))
            return True
        return False

    async with AsyncExitStack() as stack:
        assert not await enters(stack)
        await killed(program, client)
        assert sorted(await asyncio.gather(*(enters(stack) for _ in range(3)))) == [False, True, True]
        assert not await enters(stack)
    await server.close()


async def test_readers_are_told_why_listening_has_ended(
    store: RedisStore, reads: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were told that the store was closed, when the library, or this module, had a mistake."""

    async def fails(*_: object, **__: object) -> None:
        raise TypeError("no such message")

    monkeypatch.setattr(PubSub, "get_message", fails)
    failed = list[Any]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context["exception"]))
    await store.open("k", new_log("a"))
    with pytest.raises(StoreLost, match="no such message"):
        await reads.read("k", 0, wait=30)
    gc.collect()
    assert [str(each) for each in failed] == ["no such message"], "as a defect of the program, it is logged"


@pytest.mark.parametrize("message", [b"", b"x", b"-3:", b"9:x", b"1:x" * 20])
async def test_what_another_program_publishes_has_no_effect(
    store: RedisStore, reads: RedisStore, client: Any, message: bytes
) -> None:
    """A negative length stopped the event loop, and filled the memory."""
    await store.open("k", new_log("a"))
    reading = asyncio.create_task(reads.read("k", 0, wait=3000))
    [channel] = await eventually(lambda: client.pubsub_channels("*k"), bool)
    await client.publish(channel, message)
    await add_own(store, 1, b"x")
    page = await reading
    assert page is not None and page.entries == [b"x"]


async def test_a_server_that_is_restored_from_an_old_snapshot(mortal: Mortal, store: RedisStore, client: Any) -> None:
    for key in ("k", "quiet", "late"):
        await store.open(key, new_log("a"))
        await add_own(store, 1, b"1", b"2", key=key)
    await store.open("early", listed("a"))
    await client.save()
    await store.open("gone", listed("b"))
    numbers = [log.number for log in await store.pending("t", 0)]
    await add_own(store, 3, b"3", b"4")
    await add_own(store, 3, b"3", key="quiet")
    await store.open("late", new_log("a"))
    await store.open("new", new_log("a"))
    mortal.server.kill()
    mortal.start()
    await eventually(lambda: answered(store), bool)
    assert (await store.open("next", listed("c"))).behind == "a"
    assert [log.id for log in await store.pending("t", numbers[-1])] == ["c"], "its number is no one's that is gone"
    assert await entries_of(store) == [b"1", b"2"]
    with pytest.raises(LogGone):
        await add_own(store, 5, b"5")
    assert (await store.hold("p", {"k": "a"}, {}))["k"].last == 2
    with pytest.raises(LogGone):
        await add_own(store, 4, key="quiet", end=b"done")
    with pytest.raises(LogGone):
        await add_own(store, 1, b"1", key="new")
    await add_own(store, 3, b"3", key="late")
    await add_own(store, 4, key="late", end=b"done")
    assert await entries_of(store, key="late") == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("lost", "size", "added"), [(2, 1, 1), (2, 1, 3), (2, 1, 4), (2, 0, 3), (40, 4096, 1), (40, 4096, 41)]
)
async def test_entries_that_are_lost_while_connections_last(
    lost: int, size: int, added: int, store: RedisStore, reads: RedisStore, client: Any
) -> None:
    """`append` raised IndexError, and so did the task that listens; or a reader waited as if nothing had happened."""
    await add(store, "w", 1, b"1", b"2", b"3")
    saved = {key: await client.dump(key) for key in await client.keys("*")}
    last = (await add(store, "w", 4, *[bytes(size)] * lost)).state.last
    reader = asyncio.create_task(reads.read("k", last, wait=3000))
    await reads.read("k", last, wait=0.1)
    for key, value in saved.items():
        await client.restore(key, 60_000, value, replace=True)
    new = [b"new %d" % number for number in range(added)]
    assert (await add(store, "w", last + 1, *new)).number == 4
    page = await reader
    assert page is not None and page.state.last in (3, 3 + added)  # it may be told before the new ones come
    for each in (store, reads):
        assert await next_entries(each, 3) == new
        page = await each.read("k", last, wait=0.1)
        assert page is not None and page.state.last == 3 + added


async def test_an_add_whose_answer_is_lost_is_repeated(impatient: None, mortal: Mortal, store: RedisStore) -> None:
    await add(store, "w", 1, b"x")
    mortal.server.freeze()
    with pytest.raises(StoreLost):  # although each of its copies arrives
        await add(store, "w", 2, b"y", b"z")
    mortal.server.thaw()
    await eventually(lambda: state_of(store), lambda state: state is not None and state.last > 1)
    assert (await add(store, "other", 1, b"o")).number == 4
    added = await add(store, "w", 2, b"y", b"z")
    assert (added.number, added.before) == (2, "w.1")
    assert await entries_of(store) == [b"x", b"y", b"z", b"o"]


async def test_a_server_without_memory_refuses_and_has_nothing_of_it(store: RedisStore, client: Any) -> None:
    await add(store, "w", 1, b"x")
    await client.config_set("maxmemory", 1)
    for call in (store.open("new", new_log("a")), add(store, "w", 2, b"y")):
        with pytest.raises(StoreLost, match="OOM"):
            await call
    assert await entries_of(store) == [b"x"]
    await client.config_set("maxmemory", 0)
    assert (await add(store, "w", 2, b"y")).number == 2 and await store.read("new", 0) is None


async def test_a_log_whose_entries_were_evicted_is_gone(store: RedisStore, client: Any) -> None:
    await store.open("k", new_log("a"))
    await add_own(store, 1, b"x", b"y")
    await client.delete("wsrpc:entries:k")
    assert await store.read("k", 0) is None
    await add_own(store, 3, b"z")
    assert await store.read("k", 0) is None
    assert await entries_of(store, 2) == [b"z"]


async def test_items_that_are_dropped_take_no_memory(mortal: Mortal, client: Any) -> None:
    store = RedisStore(mortal.url, log_bytes=2000)
    await store.open("k", new_log("a"))
    for number in range(1, 101):
        state = await add_own(store, number, bytes(100))
        log = (await add(store, "w", number, bytes(100), key="log")).state
    assert await client.xlen("wsrpc:entries:k") == 101 - state.first < 20
    assert await client.xlen("wsrpc:entries:log") == 101 - log.first < 20
    await store.close()


async def test_logs_of_another_format_are_left_alone(store: RedisStore, client: Any) -> None:
    await store.open("k", new_log("a", keep=60))
    await client.set("wsrpc:format", FORMAT + 1, keepttl=True)
    kept = await client.get("wsrpc:log:k")
    for call in (store.open("k", new_log("b")), store.read("k", 0), add(store, "w", 1, b"x", key="room")):
        with pytest.raises(StoreLost, match=f"has the format {FORMAT + 1}, and this version of wsrpc {FORMAT}"):
            await call
    assert await client.get("wsrpc:log:k") == kept and await client.exists("wsrpc:log:room") == 0


async def test_steps_go_together_while_others_wait_for_redis(store: RedisStore, client: Any) -> None:
    """500 calls at once to a Redis that was far away waited one after another, and got "does not answer"."""

    async def reads() -> int:
        return int((await client.info("stats"))["total_reads_processed"])

    await store.open("k", new_log("a", keep=60))
    before = await reads()
    opened = await asyncio.gather(
        *(store.open(f"k{number}", new_log("a", payer=f"p{number}")) for number in range(500))
    )
    assert {state.id for state in opened} == {"a"}
    assert await reads() - before < 100, "each step was sent alone"


async def test_a_thousand_readers_have_a_handful_of_connections(
    store: RedisStore, reads: RedisStore, client: Any
) -> None:
    sockets = open_sockets()
    await asyncio.gather(*(store.open(f"k{n}", new_log("a", payer=f"user-{n}")) for n in range(500)))
    reading = asyncio.gather(*(next_entries(reads, 0, f"k{n // 2}") for n in range(1000)))
    await eventually(lambda: client.pubsub_channels("wsrpc:changed:*"), lambda names: len(names) == 500)
    await asyncio.gather(*(add_own(store, 1, b"x", key=f"k{n}") for n in range(500)))
    assert await reading == [[b"x"]] * 1000
    assert len(open_sockets() - sockets) <= 20, "two processes have them"
    assert len(await client.client_list(_type="pubsub")) == 2, "one of each process"


async def test_every_key_expires(client: Any, mortal: Mortal) -> None:
    store = RedisStore(mortal.url, lease=0.5, name="shop")
    for number in range(8):
        key = f"k{number}"
        await store.open(f"listed{number}", listed("a", keep=0.5, within=0.5 + number))
        if number % 2:
            await store.adopt(f"listed{number}", "a", "p")
        await store.open(key, new_log("a", keep=0.5))
        await add_own(store, 1, b"x", key=key)
        await store.hold("p", {key: "a"}, {key: 1})
        await add(store, "w", number, b"x", key=f"log{number}", keep=0.5)
        await store.hold("q", {}, {f"log{number}": 1})
        if number % 4 < 2:
            await end(store, bytes(5000), key=key)
            await end(store, bytes(5000), key=f"listed{number}")
    names = await client.keys()
    assert names and all(name.startswith(b"shop:") for name in names)
    lifetimes = {name: await client.pttl(name) for name in names}
    assert [name for name, left in lifetimes.items() if left == -1] == []
    await store.close()
    await eventually(lambda: client.dbsize(), lambda size: size == 0)


async def test_a_server_tells_when_its_store_does_not_answer(mortal: Mortal, caplog: pytest.LogCaptureFixture) -> None:
    """There was no log line, and `/healthz` said "ok"."""
    caplog.set_level(logging.INFO, "wsrpc")
    mortal.server.kill()
    mortal.start("--requirepass", SECRET)
    server, where = Server(store=RedisStore(mortal.url.replace("//", f"//:{SECRET}@"))), mortal.url.partition("//")[2]
    room = server.room("lobby", keep=60)
    server.on("open", room.add)

    def lines() -> list[tuple[str, str]]:
        told = [(each.levelname, each.getMessage()) for each in caplog.records]
        return [line for line in told if line[1].startswith("the store ")]

    async with server.listen() as listener, Client(listener.url):
        for expected in ("ok", "degraded", "ok"):
            if expected == "degraded":
                mortal.server.kill()
                await until(lambda: not server.stats().store_answers)  # although nobody has called
                emitting = asyncio.create_task(room.emit("hello"))
                await timers_due(1)  # for several attempts
                [(level, text)] = lines()
                assert level == "WARNING" and where in text and "onnect" in text
            answer = await ask(listener.port, b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(f"\r\n\r\n{expected}\n".encode())
            assert (server.healthy, server.degraded) == (True, expected == "degraded")
            if expected == "degraded":
                mortal.start("--requirepass", SECRET)
                await emitting
                await until(lambda: server.stats().store_answers)
                assert lines()[1:] == [("INFO", f"the store RedisStore({where}, name='wsrpc') answers again")]
        mortal.server.kill()
        await until(lambda: server.degraded)
    assert not server.degraded, "it has no connections that could be affected"
    assert SECRET not in caplog.text


async def test_a_program_waits_for_a_frozen_redis_as_long_as_it_says_and_submits_once(mortal: Mortal) -> None:
    """It waited for ten seconds, whatever it said."""

    def program() -> None:
        with ClusterClient(RedisEngine(mortal.url), store=RedisStore(mortal.url)) as shop:
            lock, lobby = shop.peer("lock"), shop.room("lobby", keep=60)
            mortal.server.freeze()
            calls: list[Callable[[], object]] = [
                partial(lock.request, "unlock", timeout=0.5),
                partial(lock.submit, "unlock", key="k", deliver_within=600, timeout=0.5),
                partial(lock.submitted, "unlock", key="k", timeout=0.5),
                partial(lock.withdraw, "unlock", key="other", timeout=0.5),
                partial(lock.waiting, timeout=0.5),
                partial(lobby.emit, "news", timeout=0.5),
            ]
            try:
                for call in calls:
                    began = time.monotonic()
                    with pytest.raises((RequestTimeout, PeerNotFound, EngineLost)):
                        call()
                    assert time.monotonic() - began < 7
            finally:
                mortal.server.thaw()
            lock.submit("unlock", key="k", deliver_within=600)
            assert [each.key for each in lock.waiting()] == ["k"]

    await asyncio.to_thread(program)


async def test_a_failover_that_keeps_connections_open(mortal: Mortal, client: Any, tmp_path: Path) -> None:
    """The old primary refuses each write from then on, and gives what is published to nobody at the new one."""
    second = redis_server("--dir", str(tmp_path), "--dbfilename", "second.rdb")
    promoted: Any = Redis.from_url(second.url)
    here, there = (urlsplit(url) for url in (mortal.url, second.url))
    await promoted.execute_command("REPLICAOF", here.hostname, here.port)
    servers, heard = [mortal.url], Recorder()
    try:
        async with address_of(servers) as url:
            store, reads = RedisStore(url, lease=60), RedisStore(url, lease=60)
            engine = await RedisEngine(url).connect(heard)
            await engine.subscribe("a")
            await store.open("k", new_log("a"))
            await eventually(lambda: promoted.info("replication"), lambda told: told["master_link_status"] == "up")
            readers = [asyncio.create_task(insist(reads, 0))]
            await reads.read("k", 0, wait=0.1)
            await promoted.execute_command("REPLICAOF", "NO", "ONE")
            servers[0] = second.url
            await client.execute_command("REPLICAOF", there.hostname, there.port)
            assert await heard.ended() == "the server has become a replica"

            async def added() -> object:
                with suppress(StoreLost):
                    return await add_own(store, 1, b"x")
                return None

            await eventually(added, bool)
            assert await asyncio.gather(*readers) == [[b"x"]]
            await store.close()
            await reads.close()
            await engine.close()
    finally:
        await promoted.connection_pool.disconnect()
        second.kill()


OWNS = """
import asyncio, sys
from redis.asyncio import Redis
from wsrpc.store import NewLog
from wsrpc_adapters.redis import RedisStore

async def main():
    store = RedisStore(sys.argv[1], lease=3600)
    await store.open("k", NewLog(id="a", payer="p", keep=60, owned=True))
    await store.append("k", "a", "a", 1, [b"x"])
    client = Redis.from_url(sys.argv[1])
    while not await client.pubsub_channels("wsrpc:process:*"):
        pass
    await store.hold("p", {"k": "a"}, {})
    print("owns it", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


CONNECTED = """
import asyncio, sys
from wsrpc import Quotas, Server
from wsrpc.testing import connect
from wsrpc_adapters.redis import RedisStore

async def main():
    server = Server(quotas=Quotas(connections=2), store=RedisStore(sys.argv[1], lease=3600))
    one, other = connect(server, principal="ada"), connect(server, principal="ada")
    if sys.argv[2] == "at once":
        await asyncio.gather(one.__aenter__(), other.__aenter__())
        print("has both", flush=True)
        await asyncio.sleep(3600)
    async with one, other:
        print("has both", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


APPENDS = """
import asyncio, sys
from wsrpc.store import NewLog, SqliteStore

async def main():
    store, log = SqliteStore(sys.argv[1]), NewLog(id="room", payer="p", keep=60)
    await store.open("k", NewLog(id="a", payer="p", keep=60, owned=True))
    for number in range(1, 10**6):
        await store.append("room", log, "w", number, [b"%d" % number])
        print(number, flush=True)

asyncio.run(main())
"""


async def test_a_file_has_what_a_process_was_told_before_it_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    program = await started(APPENDS, str(path))
    assert program.stdout is not None
    for _ in range(50):
        told = int(await program.stdout.readline())
    program.kill()
    await program.communicate()
    store = SqliteStore(path, lease=60)
    assert (await entries_of(store, key="room"))[:told] == [b"%d" % number for number in range(1, told + 1)]
    state = await state_of(store)
    assert state is not None and state.lost
    await store.close()


async def test_a_file_is_found_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lease": 60, "log_bytes": 3000, "payer_logs": 4}
    store = SqliteStore(tmp_path / "store.db", **options)
    for sequence in range(1, 41):
        added = await add(store, "w", sequence, bytes([sequence]) * 50, key="room")
    for key in ("ended", "runs", "gone"):
        await store.open(key, new_log("a", keep=60 if key != "gone" else 1e-3))
        await add_own(store, 1, b"1", b"2", key=key)
    await end(store, b"end", key="ended")
    await end(store, b"end", key="gone")
    await eventually(partial(store.read, "gone", 0), lambda page: page is None)
    for id in ("a", "b"):
        await store.open("freed", new_log(id, payer="bob"))
        await end(store, b"end", id=id, key="freed", free=True)
    pages = [await store.read(key, after) for key in ("room", "ended") for after in (0, 38, 2**53 - 1)]
    await store.close()
    again = SqliteStore(tmp_path / "store.db", **options)
    assert [await again.read(key, after) for key in ("room", "ended") for after in (0, 38, 2**53 - 1)] == pages
    assert await again.read("gone", 0) is None
    assert (await again.open("freed", new_log("a", payer="bob"))).id == "b", "a late open begins nothing"
    repeated = await add(again, "w", 40, b"x", key="room")
    assert (repeated.number, repeated.before) == (added.number, added.before)
    assert (await add(again, "w", 41, b"x", key="room")).before == "w.40"
    await add_own(again, 3, b"3", key="runs")
    await again.open("new", new_log("a"))
    with pytest.raises(StoreFull):
        await again.open("more", new_log("a"))
    await again.close()


async def test_a_file_of_an_earlier_version_has_what_it_kept(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open("k", new_log("a"))
    await end(store, b"result")
    await store.open("waits", listed("a"))
    await add(store, "w", 1, b"x", key="room")
    await store.close()
    with closing(sqlite3.connect(tmp_path / "store.db")) as file, file:
        for key, row in file.execute("SELECT key, log FROM logs").fetchall():
            early = msgspec.msgpack.encode(msgspec.msgpack.decode(row)[:8])
            file.execute("UPDATE logs SET log = ? WHERE key = ?", (early, key))
        file.execute("PRAGMA user_version = 1")
    again = SqliteStore(tmp_path / "store.db")
    assert (await again.open("k", new_log("b"))).end == b"result"
    assert await entries_of(again, key="room") == [b"x"]
    [log] = await again.pending("t", 0)
    assert (await again.open("new", listed("b"))).behind == log.id == "a"
    assert (await again.append("waits", "a", "a", 1, [], end=b"end")).state.end == b"end"
    await again.close()


async def test_a_file_has_lists(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lease": 60, "payer_bytes": 100_000, "waiting": 4}
    store = SqliteStore(tmp_path / "store.db", **options)
    for number in range(4):
        await store.open(f"k{number}", listed(f"id{number}", "tu"[number == 2], payload=b"\xff"))
    for key in ("big1", "big2"):
        await store.open(key, listed("a", "big"))
    for key in ("big2", "big1"):
        await end(store, bytes(40_000), key=key)
    for owner in ("p", "q"):
        await store.adopt("k1", "id1", owner)
    await end(store, b"", key="k0", id="id0")
    pending, topics = await store.pending("t", 0), await store.topics(0)
    await store.close()
    again = SqliteStore(tmp_path / "store.db", **options)
    for before, after in ((pending, await again.pending("t", 0)), (topics, await again.topics(0))):
        assert [replace(each, age=0) for each in after] == [replace(each, age=0) for each in before]
    assert [(log.id, log.payload, log.attempt, log.lost) for log in pending] == [
        ("id1", b"\xff", 2, False),
        ("id3", b"\xff", 0, False),
    ]
    assert (await again.open("k4", listed("id4", payload=bytes(30_000)))).behind == "id3"
    assert [await state_of(again, key) is None for key in ("big1", "big2")] == [False, True], "it has ended first"
    assert (await again.pending("t", pending[-1].number))[0].id == "id4"
    await again.open("k5", listed("id5"))
    with pytest.raises(StoreFull):
        await again.open("k6", listed("id6"))
    with pytest.raises(LogGone):
        await again.append("k1", "id1", "p", 1, [], end=b"wrong")
    assert (await again.append("k1", "id1", "q", 1, [], end=b"end")).state.end == b"end"
    await again.close()


HOUR, DAYS = 3600.0, 1000 * 24 * 3600.0
CLOCKS = {
    "right": (0, 0, 60, 60, True),
    "right, and off for long": (0, 0, 2 * HOUR, 2 * HOUR, False),
    "set forward": (-DAYS, 0, 60, 60, True),
    "set forward, and off for long": (-DAYS, 0, 2 * HOUR, 2 * HOUR, False),
    "set back": (DAYS, 0, 60, 60, True),
    "set back, and off for long": (DAYS, 0, 2 * HOUR, 2 * HOUR, False),
    "behind at the next start": (0, 0, -DAYS, 0, True),
    "behind at each start": (-DAYS, 0, -DAYS, 0, True),
    "set back twice": (DAYS, 0, -DAYS, 0, True),
}
"""The system clock, which is so many seconds ahead at the start, then while the file is open, and at the next start.
Then, how long the file was closed, and whether it still has what is kept for an hour."""


@pytest.mark.parametrize("last_call", ["before", "after"])
@pytest.mark.parametrize("clock", CLOCKS)
async def test_a_clock_that_is_set_moves_nothing_while_a_file_is_open(
    clock: str, last_call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results that a device had kept since it started without the right time were gone after its next start."""
    ahead, then, at_last, closed_for, is_kept = CLOCKS[clock]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    monkeypatch.setattr(sqlite_store, "WATCH", 0.01)
    store = SqliteStore(tmp_path / "store.db")
    await store.open("waits", listed("a", keep=DAYS))
    await store.open("k", new_log("a", keep=HOUR))
    await end(store, b"result")
    written = (log := tmp_path / "store.db-wal").stat().st_size
    if ahead != then:
        ahead = then
        await until(lambda: log.stat().st_size > written)
    if last_call == "after":
        await store.open("another", new_log("a"))
    copied = shutil.copytree(tmp_path, tmp_path / "after a power cut")
    await store.close()
    ahead = at_last
    again = SqliteStore(copied / "store.db")
    page = await again.read("k", 0)
    assert (page.state.end if page else None) == (b"result" if is_kept else None)
    [waiting] = await again.pending("t", 0)
    assert waiting.lost == (closed_for > HOUR)
    assert closed_for <= waiting.age < closed_for + 50
    await again.close()


class FullDisk(sqlite3.Connection):
    """A file on a disk that has no room for entries: a write begins, and fails once it may."""

    begun, may_fail = threading.Event(), threading.Event()

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql.startswith("REPLACE INTO entries") and not self.may_fail.is_set():
            self.begun.set()
            self.may_fail.wait(60)
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *args)


@pytest.mark.parametrize("then", ["there is room", "the process ends"])
async def test_readers_have_only_what_is_in_the_file(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They had an entry before it was written. After a restart there was none, or another one with its number."""
    monkeypatch.setattr(FullDisk, "begun", threading.Event())
    monkeypatch.setattr(FullDisk, "may_fail", threading.Event())
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    await add(store, "w", 1, b"1")
    await store.close()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=FullDisk))
    readers = [asyncio.create_task(store.read("k", after, wait=30)) for after in (1, 1)]
    assert await entries_of(store) == [b"1"]
    adding = asyncio.create_task(add(store, "w", 2, b"2"))
    await until(FullDisk.begun.is_set)
    readers += [asyncio.create_task(store.read("k", after)) for after in (0, 1)]
    await timers_due(0.1)
    assert [reader for reader in readers if reader.done()] == []
    FullDisk.may_fail.set()
    for result in await asyncio.gather(adding, *readers, return_exceptions=True):
        assert isinstance(result, StoreLost) and "disk is full" in str(result)
    if then == "there is room":
        assert await entries_of(store) == [b"1", b"2"]
        assert (await add(store, "w", 2, b"2")).number == 2
    await store.close()
    again = SqliteStore(path)
    assert await entries_of(again) == ([b"1", b"2"] if then == "there is room" else [b"1"])
    await again.close()


async def test_a_full_disk_begins_nothing_and_gives_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A repeated call did not get its result, because that was written once more."""
    disks, real = list[sqlite3.Connection](), sqlite3.connect

    def opens(*args: Any, **options: Any) -> sqlite3.Connection:
        disks.append(real(*args, **options))
        return disks[-1]

    def fill(full: bool) -> None:
        disks[-1].execute(f"PRAGMA max_page_count = {1 if full else 2**30}")

    monkeypatch.setattr(sqlite3, "connect", opens)

    store = SqliteStore(tmp_path / "store.db")
    for key in ("k", "runs", "gone"):
        await store.open(key, new_log("a", keep=1e-3 if key == "gone" else 60))
    await end(store, b"result")
    fill(True)
    for _ in range(2):
        with pytest.raises(StoreFull, match="is full"):
            await store.open("new", new_log("a", payload=bytes(100_000)))
        assert (await store.open("k", new_log("b"))).end == b"result"
        assert await store.read("new", 0) is None
    assert caplog.text.count("is full") == 1
    with pytest.raises(StoreLost, match="is full"):
        await add_own(store, 1, bytes(100_000), key="runs")
    await store.close()
    store = SqliteStore(tmp_path / "store.db")
    assert (await store.open("k", new_log("b"))).end == b"result"
    fill(False)
    assert (await store.open("new", new_log("c", payload=bytes(100_000)))).id == "c"
    await store.close()


async def test_a_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore(path)
    for number in range(20):
        await add(store, "w", number, bytes(1000))
    await store.close()
    whole = path.read_bytes()
    cut = [whole[:size] for size in range(4096, len(whole), 4096)]
    later = bytearray(whole)
    later[60:64] = (99).to_bytes(4)  # where SQLite has `user_version`
    for content in (b"this is no database, but long enough to be taken for one" * 100, bytes(later), *cut):
        path.write_bytes(content)
        for place in (path, tmp_path / "none" / "store.db"):
            store = SqliteStore(place)
            is_later = content == later and place is path
            why = f"it has the format 99, and this version of wsrpc {FORMAT}" if is_later else ""
            with pytest.raises(StoreLost, match=r"store\.db.*" + why):
                await store.open("k", new_log("a"))
            await store.close()


TWO_LOOPS = """
import asyncio, sys
from wsrpc.store import NewLog
from wsrpc_adapters.redis import RedisStore

store = RedisStore(sys.argv[1])

async def use():
    await store.open("k", NewLog(id="a", payer="p", keep=60, owned=True))
    print((await store.read("k", 0, wait=0.001)).entries)

for _ in range(2):
    asyncio.run(use())
"""


async def test_a_store_in_one_event_loop_after_another(mortal: Mortal) -> None:
    """As in tests, each of which has a loop of its own. The first call failed."""
    program = await start(sys.executable, "-c", TWO_LOOPS, mortal.url)
    out, _ = await program.communicate()  # some versions of redis-py complain that the first loop left connections
    assert (program.returncode, out) == (0, b"[]\n[]\n")


RIGHTS = "resetkeys resetchannels ~shop:* &shop:* -@all +@scripting +@read +@write +@pubsub +time"
"""Those that docs/reference/engines.md gives to a user of Redis."""


async def test_a_user_needs_few_rights_and_no_password_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    server = redis_server("--requirepass", SECRET, "--user", "shop", "on", f">{SECRET}", *RIGHTS.split())
    with_password = [server.url.replace("//", f"//:{password}@") for password in (SECRET, SECRET[::-1])]
    shop: dict[str, Any] = {"username": "shop", "password": SECRET}
    stores = [RedisStore(with_password[0], client_name="shop"), RedisStore(server.url, name="shop", **shop)]
    refused = [RedisStore(server.url, name="other", **shop), RedisStore(with_password[1])]
    try:
        for store, name in zip(stores, ("wsrpc", "shop"), strict=True):
            assert repr(store) == f"RedisStore({server.url.partition('//')[2]}, name={name!r})"
            readers = await with_readers(store, store)
            await add_own(store, 3, b"z")
            assert await asyncio.gather(*readers) == [[b"z"]] * 10
        for store, why in zip(refused, ("access", "password"), strict=True):
            with pytest.raises(StoreLost, match=f"(?i){why}") as caught:
                await store.open("k", new_log("a"))
            told = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caplog.text}"
            assert SECRET not in told and SECRET[::-1] not in told
        for store in (*stores, *refused):
            await store.close()
    finally:
        server.kill()
    with pytest.raises(TypeError, match="RedisStore sets retry, socket_timeout itself"):
        RedisStore("redis://one?socket_timeout=3", retry=None)


@pytest.mark.parametrize(("size", "logs"), [(2, False), (50_000, False), (2, True), (100, True)])
async def test_a_memory_store_takes_no_more_memory_than_it_may(size: int, logs: bool) -> None:
    limit = 4 << 20
    store = MemoryStore(bytes=limit, payer_bytes=1 << 30, log_bytes=1 << 16, payer_logs=10**6)

    async def fill() -> None:
        for number in range(10**6):
            key, payer = f"{number:064}", f"user-{number}"
            if not logs:
                await store.open(key, new_log(f"{number:016}", payer=payer))
            for first in range(1, 200, 10):
                items = [bytes(bytearray(size)) for _ in range(10)]
                if logs:
                    await add(store, "w" * 32, first, *items, key=key, payer=payer)
                else:
                    await add_own(store, first, *items, id=f"{number:016}", key=key)

    tracemalloc.start()
    try:
        with pytest.raises(StoreFull):
            await fill()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert limit / 2 < used < limit * 1.2
    if not logs:
        await end(store, bytes(1024), id=f"{0:016}", key=f"{0:064}")

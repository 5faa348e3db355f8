"""`RedisStore` whose server is killed, frozen, restored or full, and its options. The memory of a `MemoryStore`."""

from __future__ import annotations

import asyncio
import logging
import sys
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from engine_servers import address_of, lasting_port, redis_server
from engines_in_use import Recorder
from leftovers import open_sockets, timers_due, turns_until
from programs import start
from raw_websocket import ask
from redis.asyncio import Redis
from stores_in_use import add, items_of, new_run, next_items, state_of, until

from wsrpc import Client, Server
from wsrpc.cluster.engine import RESPONSE_TIMEOUT
from wsrpc.store import MemoryStore, RunGone, StoreFull, StoreLost
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


async def calls_fail(store: RedisStore) -> None:
    calls = (
        *(store.start("k2", new_run("b")), store.append("k2", "b", 1, [b"x"]), add(store, "w", 1, b"x")),
        *(store.end("k2", "b", b""), store.read("k2", 0), store.read("k2", 0, wait=30), store.leave("k2", "r")),
        *(store.stop("k2", "b"), store.renew({"k2": "b"}), store.adopt("t")),
    )
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [result for result in results if not isinstance(result, StoreLost)] == []


async def insist(store: RedisStore, after: int, reader: str) -> list[bytes]:
    while True:
        with suppress(StoreLost):
            return await next_items(store, after, reader=reader)


async def with_readers(store: RedisStore, number: int = 10, read: Any = next_items) -> list[asyncio.Task[Any]]:
    """Start a run with two items, and readers that wait for the third."""
    await store.start("k", new_run("a"))
    await store.append("k", "a", 1, [b"x", b"y"])
    readers = [asyncio.create_task(read(store, 2, reader=f"r{n}")) for n in range(number)]
    await until(partial(state_of, store), lambda state: state is not None and state.readers == number)
    return readers


def without(field: str, run: bytes) -> bytes:
    fields = msgspec.msgpack.decode(run)
    del fields[field]
    return msgspec.msgpack.encode(fields)


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda run: b"garbage",
    "nothing": lambda run: b"",
    "no map": lambda run: b"\xc1",
    **{f"no {field}": partial(without, field) for field in ("payer", "first", "ending", "keep")},
}


@pytest.mark.parametrize("harm", [*HARMS, "runs:bad", "readers:bad"])
async def test_what_another_program_does_to_a_run_harms_only_that(
    harm: str, mortal: Mortal, store: RedisStore, client: Any
) -> None:
    for key in ("bad", "good"):
        await store.start(key, new_run("a", topic="t", payer=key))
        await store.read(key, 0, reader="r")
    if harm in HARMS:
        await client.set("wsrpc:run:bad", HARMS[harm](await client.get("wsrpc:run:bad")))
    else:
        await client.delete(f"wsrpc:{harm}")
        await client.rpush(f"wsrpc:{harm}", "x")
    assert [*await store.renew({"bad": "a", "good": "a"})] == ["good"]
    quick = RedisStore(mortal.url, lease=0.001)
    await quick.renew({"good": "a"})
    await until(partial(state_of, store, "good"), lambda state: state is not None and state.lost)
    assert [run.key for run in await store.adopt("t") if run.key != "bad"] == ["good"]
    await quick.close()


async def test_a_server_that_is_killed_and_started_again_with_nothing(mortal: Mortal, store: RedisStore) -> None:
    readers = await with_readers(store)
    mortal.server.kill()
    for result in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(result, StoreLost)
    await calls_fail(store)
    mortal.start()
    assert await store.read("k", 0) is None
    with pytest.raises(RunGone):
        await store.append("k", "a", 3, [b"z"])
    readers = await with_readers(store)
    await store.append("k", "a", 3, [b"z"])
    assert await asyncio.gather(*readers) == [[b"z"]] * 10


async def test_a_server_that_freezes(mortal: Mortal, store: RedisStore) -> None:
    readers = await with_readers(store, read=insist)
    mortal.server.freeze()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await calls_fail(store)
    assert loop.time() - began >= RESPONSE_TIMEOUT
    mortal.server.thaw()
    await until(lambda: answered(store), bool)
    await store.append("k", "a", 3, [b"z"])
    assert await asyncio.gather(*readers) == [[b"z"]] * 10
    mortal.server.freeze()
    await store.close()
    mortal.server.thaw()


async def answered(store: RedisStore) -> bool:
    try:
        return await store.read("k", 0) is not None
    except StoreLost:
        return False


async def test_only_the_connection_that_is_listened_on_is_lost(store: RedisStore, client: Any) -> None:
    readers = await with_readers(store, read=insist)
    for _ in range(3):
        assert await until(lambda: client.client_kill_filter(_type="pubsub"), bool) == 1
    await store.append("k", "a", 3, [b"z"])
    assert await asyncio.gather(*readers) == [[b"z"]] * 10


async def test_a_server_that_is_restored_from_an_old_snapshot(mortal: Mortal, store: RedisStore, client: Any) -> None:
    for key in ("k", "quiet", "late"):
        await store.start(key, new_run("a"))
        await store.append(key, "a", 1, [b"1", b"2"])
    await client.save()
    await store.append("k", "a", 3, [b"3", b"4"])
    await store.append("quiet", "a", 3, [b"3"])
    await store.start("late", new_run("a"))
    await store.start("new", new_run("a"))
    mortal.server.kill()
    mortal.start()
    await until(lambda: answered(store), bool)
    assert await items_of(store) == [b"1", b"2"]
    with pytest.raises(RunGone):
        await store.append("k", "a", 5, [b"5"])
    assert (await store.renew({"k": "a"}))["k"].last == 2
    with pytest.raises(RunGone):
        await store.end("quiet", "a", b"done", last=3)
    with pytest.raises(RunGone):
        await store.append("new", "a", 1, [b"1"])
    await store.append("late", "a", 3, [b"3"])
    await store.end("late", "a", b"done", last=3)
    assert await items_of(store, key="late") == [b"1", b"2", b"3"]


async def test_an_add_whose_answer_is_lost_is_repeated(mortal: Mortal, store: RedisStore) -> None:
    await add(store, "w", 1, b"x")
    mortal.server.freeze()
    with pytest.raises(StoreLost):  # although each of its copies arrives
        await add(store, "w", 2, b"y", b"z")
    mortal.server.thaw()
    await until(lambda: state_of(store), lambda state: state is not None and state.last > 1)
    assert (await add(store, "other", 1, b"o")).number == 4
    added = await add(store, "w", 2, b"y", b"z")
    assert (added.number, added.before) == (2, "w.1")
    assert await items_of(store) == [b"x", b"y", b"z", b"o"]


async def test_a_run_whose_items_were_evicted_is_gone(store: RedisStore, client: Any) -> None:
    await with_readers(store, 0)
    await client.delete("wsrpc:items:k")
    assert await store.read("k", 0) is None
    await store.append("k", "a", 3, [b"z"])
    assert await store.read("k", 0) is None
    assert await items_of(store, 2) == [b"z"]


async def test_items_that_are_dropped_take_no_memory(mortal: Mortal, client: Any) -> None:
    store = RedisStore(mortal.url, run_bytes=2000)
    await store.start("k", new_run("a"))
    for number in range(1, 101):
        state = await store.append("k", "a", number, [bytes(100)])
        log = (await add(store, "w", number, bytes(100), key="log")).state
    assert await client.xlen("wsrpc:items:k") == 101 - state.first < 20
    assert await client.xlen("wsrpc:items:log") == 101 - log.first < 20
    await store.close()


async def test_a_thousand_readers_have_a_handful_of_connections(store: RedisStore, client: Any) -> None:
    sockets = open_sockets()
    await asyncio.gather(*(store.start(f"k{n}", new_run("a", payer=f"user-{n}")) for n in range(500)))
    reading = asyncio.gather(*(next_items(store, 0, f"k{n // 2}", f"r{n}") for n in range(1000)))
    await until(lambda: client.keys("wsrpc:waiting:*"), lambda names: len(names) == 500)
    await asyncio.gather(*(store.append(f"k{n}", "a", 1, [b"x"]) for n in range(500)))
    assert await reading == [[b"x"]] * 1000
    assert len(open_sockets() - sockets) <= 10
    assert len(await client.client_list(_type="pubsub")) == 1


async def test_every_key_expires(client: Any, mortal: Mortal) -> None:
    store = RedisStore(mortal.url, lease=0.5, name="shop")
    for number in range(8):
        key = f"k{number}"
        await store.start(key, new_run("a", keep=0.5, topic="t" * (number % 2)))
        await store.append(key, "a", 1, [b"x"])
        await store.read(key, 1, reader="r", wait=0.001)
        await store.stop(key, "a")
        await store.renew({key: "a"})
        await add(store, "w", number, b"x", key=f"log{number}", keep=0.5)
        await store.read(f"log{number}", 1, wait=0.001)
        if number % 4 < 2:
            await store.end(key, "a", bytes(5000))
    await store.adopt("t")
    names = await client.keys()
    assert names and all(name.startswith(b"shop:") for name in names)
    lifetimes = {name: await client.pttl(name) for name in names}
    assert [name for name, left in lifetimes.items() if left == -1] == []
    await until(lambda: client.dbsize(), lambda size: size == 0)
    await store.close()


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

    async with asyncio.timeout(60), server.listen() as listener, Client(listener.url):
        for expected in ("ok", "degraded", "ok"):
            if expected == "degraded":
                mortal.server.kill()
                await turns_until(lambda: not server.stats().store_answers)  # although nobody has called
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
                await turns_until(lambda: server.stats().store_answers)
                assert lines()[1:] == [("INFO", f"the store RedisStore({where}) answers again")]
        mortal.server.kill()
        await turns_until(lambda: server.degraded)
    assert not server.degraded, "it has no connections that could be affected"
    assert SECRET not in caplog.text


async def test_a_failover_that_keeps_connections_open(mortal: Mortal, client: Any, tmp_path: Path) -> None:
    """The old primary refuses each write from then on, and gives what is published to nobody at the new one."""
    second = redis_server("--dir", str(tmp_path), "--dbfilename", "second.rdb")
    promoted: Any = Redis.from_url(second.url)
    here, there = (urlsplit(url) for url in (mortal.url, second.url))
    await promoted.execute_command("REPLICAOF", here.hostname, here.port)
    servers, heard = [mortal.url], Recorder()
    try:
        async with address_of(servers) as url:
            store = RedisStore(url, lease=60)
            engine = await RedisEngine(url).connect(heard)
            await engine.subscribe("a")
            await store.start("k", new_run("a"))
            await until(lambda: promoted.info("replication"), lambda told: told["master_link_status"] == "up")
            readers = [asyncio.create_task(insist(store, 0, "r"))]
            await until(partial(state_of, store), lambda state: state is not None and state.readers == 1)
            await promoted.execute_command("REPLICAOF", "NO", "ONE")
            servers[0] = second.url
            await client.execute_command("REPLICAOF", there.hostname, there.port)
            assert await heard.ended() == "the server has become a replica"

            async def added() -> object:
                with suppress(StoreLost):
                    return await store.append("k", "a", 1, [b"x"])
                return None

            await until(added, bool)
            async with asyncio.timeout(20):  # far less than the time for which a reader waits
                assert await asyncio.gather(*readers) == [[b"x"]]
            await store.close()
            await engine.close()
    finally:
        await promoted.connection_pool.disconnect()
        second.kill()


TWO_LOOPS = """
import asyncio, sys
from wsrpc.store import NewRun
from wsrpc_adapters.redis import RedisStore

store = RedisStore(sys.argv[1])

async def use():
    await store.start("k", NewRun(id="a", arguments="", payer="p", keep=60))
    print((await store.read("k", 0, wait=0.001)).items)

for _ in range(2):
    asyncio.run(use())
"""


async def test_a_store_in_one_event_loop_after_another(mortal: Mortal) -> None:
    """As in tests, each of which has a loop of its own. The first call failed."""
    program = await start(sys.executable, "-c", TWO_LOOPS, mortal.url)
    out, _ = await program.communicate()  # some versions of redis-py complain that the first loop left connections
    assert (program.returncode, out) == (0, b"[]\n[]\n")


RIGHTS = "resetkeys resetchannels ~shop:* &shop:* -@all +@scripting +@read +@write +@pubsub +time"
"""Those that docs/how-to/keys.md gives to a user of Redis."""


async def test_a_user_needs_few_rights_and_no_password_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    server = redis_server("--requirepass", SECRET, "--user", "shop", "on", f">{SECRET}", *RIGHTS.split())
    with_password = [server.url.replace("//", f"//:{password}@") for password in (SECRET, SECRET[::-1])]
    shop: dict[str, Any] = {"username": "shop", "password": SECRET}
    stores = [RedisStore(with_password[0], client_name="shop"), RedisStore(server.url, name="shop", **shop)]
    refused = [RedisStore(server.url, name="other", **shop), RedisStore(with_password[1])]
    try:
        for store in stores:
            assert repr(store) == f"RedisStore({server.url.partition('//')[2]})"
            readers = await with_readers(store)
            await store.append("k", "a", 3, [b"z"])
            assert await asyncio.gather(*readers) == [[b"z"]] * 10
        for store, why in zip(refused, ("access", "password"), strict=True):
            with pytest.raises(StoreLost, match=f"(?i){why}") as caught:
                await store.start("k", new_run("a"))
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
    store = MemoryStore(bytes=limit, payer_bytes=1 << 30, run_bytes=1 << 16, payer_runs=10**6)

    async def fill() -> None:
        for number in range(10**6):
            key, payer = f"{number:064}", f"user-{number}"
            if not logs:
                await store.start(key, new_run(f"{number:016}", payer=payer))
            for first in range(1, 200, 10):
                items = [bytes(bytearray(size)) for _ in range(10)]
                if logs:
                    await add(store, "w" * 32, first, *items, key=key, payer=payer)
                else:
                    await store.append(key, f"{number:016}", first, items)

    tracemalloc.start()
    try:
        with pytest.raises(StoreFull):
            await fill()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert limit / 2 < used < limit * 1.2
    if not logs:
        await store.end(f"{0:064}", f"{0:016}", bytes(1024))

"""What stores forget, and who is told: the rows of a table in docs/explanation/drops.md.

Redis fails, and two servers share it; or the only server is killed, with a `SqliteStore`. Callers make calls with keys,
and repeat each one afterwards. Members of rooms come back at positions that they had before. Each row prints its
counts, ``WSRPC_SOAK=1`` those of the table.
"""

from __future__ import annotations

import asyncio
import enum
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count as numbers_from
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from effort import SOAK
from engine_servers import ServerProcess, address_of, free_port, lasting_port, redis_server
from programs import start
from redis.asyncio import Redis
from stores_in_use import eventually
from waiting import until

from wsrpc import Client, Context, Handshake, Overloaded, RunLost, Server, WsrpcError
from wsrpc_adapters.redis import RedisStore

CALLS = 300 if SOAK else 40
"""Calls and events in each of three parts: before the mark, after it, and while Redis fails."""
CALLERS = 4
"""Callers on each server. Besides, as many calls run while Redis fails."""
ROOMS = ("lobby", "quiet")
"""All members of the second one are away while Redis fails."""
LAST = -1
"""The events that are emitted when all is over."""


class Disk:
    """A Redis, its files, and an address that leads to it, or to the Redis that replaces it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = "--dir", str(folder), *options
        self._port = lasting_port()
        self.server = redis_server(*self._options, port=self._port)
        self.targets = [self.server.url]
        self.client: Any = Redis.from_url(self.server.url)
        self.replica: ServerProcess | None = None

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)

    async def restart(self) -> None:
        await self.kill()
        self.server = await asyncio.to_thread(redis_server, *self._options, port=self._port)

    @property
    def log(self) -> Path:
        """The file to which Redis appends what it writes."""
        [found] = self._folder.rglob("appendonly*.aof")
        return found

    async def follow(self) -> Any:
        """Start a replica. Return a client of it."""
        name = "replica.rdb"
        self.replica = await asyncio.to_thread(redis_server, "--dir", str(self._folder), "--dbfilename", name)
        client: Any = Redis.from_url(self.replica.url)
        await client.execute_command("REPLICAOF", "127.0.0.1", self._port)
        return client

    async def close(self) -> None:
        await self.client.aclose()
        for server in (self.server, self.replica):
            if server is not None:
                await asyncio.to_thread(server.kill)


class Member:
    """A member of a room, which leaves and comes back."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.got: list[int] = []
        self.told = False
        self._position: str | None = None
        self._client: Client | None = None

    async def come(self, url: str) -> None:
        """Join, after the last event that has arrived. Does nothing if the member is there."""
        if self._client is not None:
            return
        self._client = client = Client(url)
        client.on("said", self.got.append)
        room = client.room(self.room)
        room.on_missed(lambda: setattr(self, "told", True))
        await client.connect()
        joined = await room.join(after=self._position)
        self.told |= not joined.complete

    async def has(self, numbers: Iterable[int]) -> None:
        """Wait until these events have arrived."""
        await until(lambda: {*numbers} <= {*self.got})

    async def leave(self) -> None:
        if self._client is not None:
            self._position = self._client.room(self.room).position
            await self._client.close()
            self._client = None


class Load:
    """Calls and events, and what became of them."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.clients: list[Client] = []
        self.ran: Counter[str] = Counter()
        """How often the handler ran for each key."""
        self.told: defaultdict[str, list[Exception]] = defaultdict(list)
        """The errors that the callers with each key got."""
        self.done: set[str] = set()
        """The keys whose callers got a result."""
        self.sent: set[int] = set()
        """The events that were emitted without an error."""
        self.unsent: dict[int, str] = {}
        """The outcomes of those for which the store did not answer."""
        self.over = asyncio.Event()
        """Lets the calls that run when Redis fails end."""
        self.goes_on = asyncio.Event()
        """Lets others begin."""
        self.goes_on.set()
        for server in servers:
            server.on_handshake(self._log_in)
            server.on("charge", self._charge, keep=600)
            for name in ROOMS:
                server.room(name, keep=600, allow=lambda peer: True)

    @staticmethod
    def _log_in(handshake: Handshake) -> None:
        handshake.principal = "ada"

    async def _charge(self, ctx: Context) -> int:
        assert ctx.key is not None
        self.ran[ctx.key] += 1
        if ctx.key.startswith("stays"):
            await self.over.wait()
        return self.ran[ctx.key]

    async def call(self, number: int, key: str) -> None:
        client = self.clients[number % len(self.clients)]
        try:
            assert await client.request("charge", key=key, timeout=None) == self.ran[key]
        except (Overloaded, RunLost) as exc:
            self.told[key].append(exc)
        else:
            self.done.add(key)

    async def emit(self, number: int) -> None:
        for name in ROOMS:
            try:
                await self.servers[number % 2].room(name).emit("said", number)
            except Overloaded as exc:
                self.unsent[number] = exc.outcome
                return
        self.sent.add(number)

    async def make(self, numbers: Iterable[int], some: asyncio.Event | None = None) -> None:
        """Call and emit once for each number. Set ``some`` after a few."""
        left = iter(numbers)

        async def work() -> None:
            for number in left:
                await self.goes_on.wait()
                await asyncio.gather(self.call(number, f"order-{number}"), self.emit(number))
                if some is not None and len(self.done) % CALLS > CALLS / 8:
                    some.set()

        await asyncio.gather(*[work() for _ in range(2 * CALLERS)])
        if some is not None:
            some.set()


Failing = AsyncGenerator[None]
"""Goes on to its ``yield`` at the mark. Afterwards, lets Redis fail, and mends it."""


async def is_killed(redis: Disk, load: Load, *, saves: bool = False) -> Failing:
    if saves:
        await redis.client.save()
    yield
    await redis.restart()


async def loses_power(redis: Disk, load: Load) -> Failing:
    """What was written after the mark has not reached the disk."""
    size = redis.log.stat().st_size
    yield
    await redis.kill()
    with redis.log.open("r+b") as log:
        log.truncate(size)
    await redis.restart()


async def is_replaced(redis: Disk, load: Load) -> Failing:
    """The replica has got nothing after the mark."""
    replica = await redis.follow()

    own = await redis.client.info("replication")
    await eventually(
        lambda: replica.info("replication"),
        lambda told: told["master_link_status"] == "up" and told["slave_repl_offset"] >= own["master_repl_offset"],
    )
    await replica.execute_command("REPLICAOF", "127.0.0.1", lasting_port())
    yield
    assert redis.replica is not None
    await redis.kill()
    await replica.execute_command("REPLICAOF", "NO", "ONE")
    redis.targets[0] = redis.replica.url
    await replica.aclose()


async def is_emptied(redis: Disk, load: Load) -> Failing:
    yield
    await redis.client.flushall()


async def noticed(load: Load) -> None:
    """Wait until both servers know that the store does not answer, and in the long form until callers were told."""
    await until(lambda: all(server.degraded for server in load.servers))
    if SOAK:
        await until(lambda: load.told and load.unsent)


async def has_no_memory(redis: Disk, load: Load) -> Failing:
    yield
    await redis.client.config_set("maxmemory", 1)
    await noticed(load)
    await redis.client.config_set("maxmemory", 0)


async def cannot_save(redis: Disk, load: Load) -> Failing:
    async def saved(state: str) -> None:
        await redis.client.bgsave()
        await eventually(lambda: redis.client.info("persistence"), lambda told: told["rdb_last_bgsave_status"] == state)

    yield
    redis.server.fill_disk()
    load.goes_on.clear()  # else all would be through when Redis begins to refuse
    await saved("err")
    load.goes_on.set()
    await noticed(load)
    redis.server.fill_disk(full=False)
    await saved("ok")


async def cannot_append(redis: Disk, load: Load, *, ends: bool = False) -> Failing:
    yield
    redis.server.fill_disk()
    await noticed(load)
    if ends:
        await redis.restart()
    else:
        redis.server.fill_disk(full=False)


class Forgets(enum.Enum):
    """Whether Redis has forgotten something that it has acknowledged."""

    NOTHING, PERHAPS, SURELY = range(3)


class Row(NamedTuple):
    fails: Callable[[Disk, Load], Failing]
    options: str
    forgets: Forgets
    is_short: bool = False
    """Whether it is played in `make test`."""


ALWAYS, EVERYSEC, NO = (f"--appendonly yes --appendfsync {when}" for when in ("always", "everysec", "no"))
ROWS = {
    "killed, appendfsync always": Row(is_killed, ALWAYS, Forgets.NOTHING, is_short=True),
    "killed, appendfsync everysec": Row(is_killed, EVERYSEC, Forgets.PERHAPS),
    "killed, appendfsync no": Row(is_killed, NO, Forgets.PERHAPS),
    "killed, no persistence": Row(is_killed, "", Forgets.SURELY),
    "power cut": Row(loses_power, NO, Forgets.SURELY),
    "replica promoted": Row(is_replaced, "", Forgets.SURELY, is_short=True),
    "FLUSHALL": Row(is_emptied, "", Forgets.SURELY),
    "snapshot restored": Row(partial(is_killed, saves=True), "", Forgets.SURELY),
    "maxmemory reached": Row(has_no_memory, "", Forgets.NOTHING),
    "disk full, snapshots": Row(cannot_save, "--save 3600 1", Forgets.NOTHING),
    "disk full, appendfsync everysec": Row(cannot_append, EVERYSEC, Forgets.NOTHING),
    "disk full, appendfsync always": Row(partial(cannot_append, ends=True), ALWAYS, Forgets.NOTHING),
}


@pytest.mark.skipif(sys.platform != "linux", reason="a disk is full only on Linux")
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if SOAK or row.is_short])
async def test_who_is_told_of_what_redis_forgets(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    async with AsyncExitStack() as stack:
        redis = Disk(tmp_path, *row.options.split())
        stack.push_async_callback(redis.close)
        url = await stack.enter_async_context(address_of(redis.targets))
        servers = [Server(store=RedisStore(url, payer_logs=10_000)) for _ in range(2)]
        load = Load(servers)
        urls = [(await stack.enter_async_context(server.listen())).url for server in servers]
        load.clients += [await stack.enter_async_context(Client(url)) for url in urls]
        early, late, there = ([Member(name) for name in names] for names in (ROOMS, ROOMS, ROOMS[:1]))
        members = early + late + there
        for number, member in enumerate(members):
            stack.push_async_callback(member.leave)
            await member.come(urls[number % 2])

        failing = row.fails(redis, load)
        await load.make(range(CALLS))
        for member in early:
            await member.has(load.sent)
            await member.leave()
        await anext(failing)
        await load.make(range(CALLS, 2 * CALLS))
        for member in late:
            await member.has(load.sent)
            await member.leave()

        some = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            stay = [f"stays-{number}" for number in range(CALLERS)]
            for number, key in enumerate(stay):
                tasks.create_task(load.call(number, key))
            await until(lambda: all(map(load.ran.__getitem__, stay)))
            tasks.create_task(load.make(range(2 * CALLS, 3 * CALLS), some))
            await some.wait()
            async for _ in failing:  # to its end
                raise AssertionError
            await until(lambda: not any(server.degraded for server in servers))
            load.over.set()
        print(f"{name}: {await check(row, load, members, urls)}")


async def check(row: Row, load: Load, members: list[Member], urls: list[str]) -> str:
    """Repeat each call, let all members come back, and see who was told. Returns how often what happened."""
    first, told = {*load.done}, {key: {*map(type, errors)} for key, errors in load.told.items()}
    assert {*load.ran.values()} <= {1} and {*load.unsent.values()} <= {"unknown"}
    assert not any(load.ran[key] for key, errors in told.items() if Overloaded in errors)  # as it was told
    await asyncio.gather(*[load.call(number, key) for number, key in enumerate([*first, *told], 1)])
    twice = {key for key, count in load.ran.items() if count > 1}
    lost = {key for key, errors in told.items() if RunLost in errors}
    assert {*load.ran.values()} <= {1, 2}
    assert twice <= first | lost
    for number, member in enumerate(members):
        await member.come(urls[number % 2])
    for number in range(2):
        for name in ROOMS:
            await load.servers[number].room(name).emit("said", LAST - number)
    for member in members:
        await member.has({LAST, LAST - 1})
    gone = [len(load.sent - {*member.got}) for member in members]
    for member, count in zip(members, gone, strict=True):
        if count:
            await until(lambda member=member: member.told)  # type: ignore[misc]
    match row.forgets:
        case Forgets.NOTHING:
            assert not twice and not lost and not any(gone) and not any(member.told for member in members)
        case Forgets.SURELY:
            assert twice - lost and all(gone[:-1])
        case Forgets.PERHAPS:
            pass
    return (
        f"{len(first | told.keys())} keys, {len(lost)} lost, {len(told) - len(lost)} Overloaded; ran twice: "
        f"{len(twice & lost)} of these, {len(twice - lost)} others; {len(load.sent)} events, "
        f"{len(load.unsent)} Overloaded; gone: {gone}, all told"
    )


SERVES = """
import asyncio, sys
from wsrpc import Context, Server
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.store import SqliteStore

server = Server(store=SqliteStore(sys.argv[1], payer_logs=10_000), cluster=Cluster(MemoryEngine()))
lobby = server.room("lobby", keep=600, allow=lambda peer: True)

@server.on_handshake
def log_in(handshake):
    handshake.principal, handshake.address = "ada", handshake.query.get("address")

@server.on("charge", keep=600)
async def charge(ctx: Context) -> int:
    print(ctx.key, flush=True)
    if ctx.key.startswith("stays"):
        await asyncio.sleep(float(sys.argv[3]))
    return 1

@server.on("emit")
async def emit(number: int) -> None:
    await lobby.emit("said", number)

@server.on("ask")
async def ask(key: str) -> int:
    return await server.cluster.peer("lock").request("open_lock", key, key=key, deliver_within=600)

server.run(port=int(sys.argv[2]))
"""


class FileLoad:
    """Calls and events of clients of a server that is killed, and what became of them."""

    def __init__(self, file: Path) -> None:
        self._words = SERVES, str(file), str(port := free_port())
        self.url = f"ws://127.0.0.1:{port}/"
        self.ran: Counter[str] = Counter()
        """How often handlers ran for each key."""
        self.done: set[str] = set()
        self.told: defaultdict[str, list[WsrpcError]] = defaultdict(list)
        self.sent: set[int] = set()

    @asynccontextmanager
    async def serving(self, stays: float) -> AsyncGenerator[None]:
        """Serve until the end of the block, which kills the server. ``stays``: for how long some handlers run."""
        process = await start(sys.executable, "-c", *self._words, str(stays))
        assert process.stdout is not None and process.stderr is not None
        await process.stderr.readline()  # it listens
        reading = asyncio.create_task(self._read(process.stdout))
        try:
            yield
        finally:
            process.kill()
            await reading
            await process.communicate()

    async def _read(self, output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            self.ran[line.decode().strip()] += 1

    async def call(self, client: Client, key: str) -> None:
        """Call with a key, or ask the server to call a client that is away."""
        asks = key.startswith("visit")
        try:
            request = (
                client.request("ask", key, timeout=None) if asks else client.request("charge", key=key, timeout=None)
            )
            assert await request == 1
            self.done.add(key)
        except WsrpcError as exc:
            self.told[key].append(exc)

    async def make(self, client: Client) -> None:
        """Call and emit, until a call or an event is lost with the server."""
        with suppress(WsrpcError):
            for number in numbers_from(0):
                await self.call(client, key := f"order-{number}")
                if key in self.told:
                    break
                await client.request("emit", number)
                self.sent.add(number)


async def test_what_a_file_has_when_its_process_is_killed(tmp_path: Path) -> None:
    async def open_lock(key: str) -> int:
        opened[key] += 1
        return 1

    load = FileLoad(tmp_path / "store.db")
    away, there, opened = Member("lobby"), Member("lobby"), Counter[str]()
    stay, asked = ([f"{name}-{number}" for number in range(CALLERS)] for name in ("stays", "visit"))
    async with AsyncExitStack() as stack:
        async with load.serving(stays=600):
            client = await stack.enter_async_context(Client(load.url))
            for member in (away, there):
                stack.push_async_callback(member.leave)
                await member.come(load.url)
            tasks = [asyncio.create_task(load.call(client, key)) for key in stay]
            tasks += [asyncio.create_task(load.call(client, key)) for key in asked]
            tasks.append(asyncio.create_task(load.make(client)))
            await until(lambda: len(load.sent) >= CALLS)
            await away.has({0})
            await away.leave()
            await until(lambda: len(load.sent) >= 2 * CALLS and {*stay} <= {*load.ran})
        async with load.serving(stays=0):
            await asyncio.wait(tasks)
            assert load.told.keys() >= {*stay, *asked}
            first = {*load.done}
            lock = Client(f"{load.url}?address=lock")
            lock.on("open_lock", open_lock, keep=600)
            await stack.enter_async_context(lock)
            await asyncio.gather(*(load.call(client, key) for key in [*first, *load.told]))
            await away.come(load.url)
            await client.request("emit", LAST)
            for member in (away, there):
                await member.has({*load.sent, LAST})
                assert not member.told
        lost = {key for key, errors in load.told.items() if isinstance(errors[-1], RunLost)}
        assert lost >= {*stay} and load.done == {*first, *load.told} - lost
        assert {*load.ran.values(), *opened.values()} == {1} and opened.keys() == {*asked}
        print(f"{len(load.ran)} keys, {len(lost)} lost, none ran twice; {len(load.sent)} events, none gone")

"""The scene of the machines with a store: it can be lost and restored, and processes that share it are killed.

Over Redis, time passes by itself.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
from engine_servers import lasting_port, redis_server
from hypothesis.stateful import invariant, rule
from leftovers import other_tasks
from redis import Redis
from tenacity import wait_fixed
from world_machine import WorldMachine

from wsrpc import Client, Handshake, Limits, Reconnect, Server
from wsrpc._keyed.keeper import Keeper
from wsrpc._keyed.runs import read_kept
from wsrpc._server.room_log import LOST, StoredEvent
from wsrpc.adapting import DialRequest
from wsrpc.store import Added, MemoryStore, NewRun, Page, RunGone, RunState, Store, StoreFull, StoreLost
from wsrpc.testing import Line
from wsrpc_adapters.redis import RedisStore

__all__ = ["KnownLog", "MortalRedis", "OverRedis", "Process", "SharedStore", "StoreMachine", "WithRedis", "runs_of"]

DETACHED = 30.0
LEASE = 6.0
CLIENTS = 4

nodes = st.sampled_from([0, 1])
clients = st.integers(0, CLIENTS - 1)


class KnownLog:
    """What a store has said of a log, also of events that it has lost since. Positions are texts."""

    def __init__(self) -> None:
        self.events: dict[str, StoredEvent] = {}
        self.before: defaultdict[str, set[str]] = defaultdict(set)
        """The positions before each one: several only if an event was stored again after the store was restored."""
        self.numbers: Counter[int] = Counter()
        """How often each event was stored, by its first argument."""
        self.first = 1
        """The highest number that the first kept event has had."""

    def learn(self, state: RunState, number: int, before: str, ids: Sequence[str], items: Sequence[bytes]) -> None:
        self.first = max(self.first, state.first)
        last = f"{number - 1}-{before or 0}"
        for each, (id, item) in enumerate(zip(ids, items, strict=True), number):
            position = f"{each}-{id}"
            if position not in self.events:
                event = read_kept(item, StoredEvent) if item != LOST else StoredEvent(None, "lost", [None])
                self.events[position] = event
                self.numbers.update(event.args[:1] if event.event != "lost" else ())
            self.before[position].add(last)
            last = position

    def follows(self, position: str, earlier: str, is_left_out: Callable[[StoredEvent], bool]) -> bool:
        """Whether one who has had everything up to ``earlier`` lacks nothing before ``position``."""
        found, seen = [position], {earlier}
        while found:
            before = self.before[found.pop()]
            if earlier in before:
                return True
            found += [each for each in before - seen if each in self.events and is_left_out(self.events[each])]
            seen |= before
        return False


class SharedStore:
    """The store that the processes share, in memory, and what it was asked.

    Args:
        now: the time.
        options: of the store.
    """

    def __init__(self, now: Callable[[], float], **options: Any) -> None:
        self.now = now
        self.lease: float = options["lease"]
        self.options = options
        self.lost = False
        """Whether nobody reaches it."""
        self.claims: dict[str, list[str]] = {}
        """The ids of the runs that were started, by key."""
        self.signs: dict[str, float] = {}
        """When each run was begun, renewed or ended for the last time, by id: the store keeps it from then on."""
        self.ended: set[str] = set()
        """The ids of the runs that have an end."""
        self.restored = 0
        """How often it was restored."""
        self.doubles: list[str] = []
        """Keys that were claimed although their last run was still kept."""
        self.logs: defaultdict[str, KnownLog] = defaultdict(KnownLog)
        self._store = MemoryStore(**options)
        self._snapshot: dict[str, Any] | None = None

    def connect(self) -> Store:
        return self._store

    async def save(self) -> None:
        await self._store.close()  # no reader waits: a future cannot be copied
        self._snapshot = copy.deepcopy(vars(self._store))

    async def restore(self) -> None:
        """Forget what has happened since the last `save`."""
        if self._snapshot is not None:
            self.wound_back()
            await self._store.close()
            vars(self._store).update(copy.deepcopy(self._snapshot))

    async def wipe(self) -> None:
        """Forget everything."""
        self.wound_back()
        await self._store.close()
        vars(self._store).update(vars(MemoryStore(**self.options)))

    async def fail_over(self, stays: Wire) -> None:
        """A replica takes over, which lacks what has happened since the last `save`.

        One process goes on with the old primary, until `Wire.follow`.
        """
        stays.store = MemoryStore()
        vars(stays.store).update(vars(self._store))
        await self.restore()

    def wound_back(self) -> None:
        self.restored += 1
        self.signs.clear()

    def heard(self, *ids: str) -> None:
        self.signs.update(dict.fromkeys(ids, self.now()))

    def claimed(self, key: str, run: NewRun) -> None:
        claims = self.claims.setdefault(key, [])
        if run.id not in claims:
            kept = bool(claims) and self.now() - self.signs.get(claims[-1], -1e9) < 0.9 * run.keep
            if kept:
                self.doubles.append(key)
            claims.append(run.id)
            self.heard(run.id)  # not if it is repeated, because its answer was lost: that renews nothing

    def end(self, id: str) -> None:
        if id not in self.ended:  # the first end counts
            self.ended.add(id)
            self.heard(id)


class SharedRedis(SharedStore):
    """A Redis that is killed and started again with a snapshot."""

    numbers = count()

    def __init__(self, server: MortalRedis, now: Callable[[], float], **options: Any) -> None:
        super().__init__(now, **options)
        self._server = server
        self._name = f"test-{next(self.numbers)}"

    def connect(self) -> Store:
        return RedisStore(self._server.url, name=self._name, **self.options)

    async def save(self) -> None:
        self._server.save()

    async def restore(self) -> None:
        self.wound_back()
        self._server.restore()

    async def wipe(self) -> None:
        self.wound_back()
        self._server.wipe()

    async def fail_over(self, stays: Wire) -> None:
        await self.restore()


class MortalRedis:
    """A server of Redis that stores what it has only when it is told to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = lasting_port()
        self._start()

    def _start(self) -> None:
        self._process = redis_server("--dir", str(self._folder), port=self._port)
        self.url = self._process.url

    def save(self) -> None:
        with Redis.from_url(self.url) as client:
            client.save()

    def restore(self) -> None:
        self.kill()
        self._start()

    def wipe(self) -> None:
        with Redis.from_url(self.url) as client:
            client.flushall()

    def freeze(self) -> None:
        self._process.freeze()

    def thaw(self) -> None:
        self._process.thaw()

    def kill(self) -> None:
        self._process.kill()


class Wire:
    """The way of one process to the store: a `Store` that takes time, may lose answers, and ends with the process."""

    def __init__(self, shared: SharedStore) -> None:
        self.shared = shared
        self.lease = shared.lease
        self.store = shared.connect()
        self.latency = 0
        """Turns that a call takes on its way, and its answer on the way back."""
        self.loses_answers = False
        self.is_late = False
        """Whether the caller of each step is told that the store is lost, and the step happens later."""
        self.late: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        """The steps that have yet to happen."""
        self.cut = False
        self.killed = False

    async def _ask(self, name: str, *args: Any, **options: Any) -> Any:
        await self._travel()
        self._check()
        if self.is_late:
            self.late.append((name, args, options))
            raise StoreLost("the store has not answered in time")
        result = await self._step(name, args, options)
        await self._travel()
        self._check()
        if self.loses_answers:
            self.loses_answers = False
            raise StoreLost("the answer was lost")
        return result

    async def _step(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        result = await getattr(self.store, name)(*args, **options)
        self._note(name, args, options, result)
        return result

    async def do_late(self, backwards: bool = False) -> None:
        """Let the steps happen whose callers have given up, also of a process that has ended."""
        late, self.late = self.late[:: -1 if backwards else 1], []
        for name, args, options in late:
            with suppress(RunGone, StoreFull):
                await self._step(name, args, {**options, "wait": 0.0} if "wait" in options else options)

    async def _travel(self) -> None:
        for _ in range(self.latency):
            await asyncio.sleep(0)

    def _check(self) -> None:
        if self.killed:
            raise asyncio.CancelledError  # nobody in this process does anything more
        if self.cut or self.shared.lost:
            raise StoreLost("the store is lost")

    def _note(self, name: str, args: Any, options: dict[str, Any], result: Any) -> None:
        match name, args, result:
            case "start", (key, NewRun(id=id) as run), RunState(id=own) if own == id:
                self.shared.claimed(key, run)
            case "append", (_, id, *_), _:
                self.shared.heard(id)
            case "end", (_, id, *_), _:
                self.shared.end(id)
                if options.get("free"):
                    self.shared.signs.pop(id, None)
            case "renew", _, states:
                self.shared.heard(*(state.id for state in states.values() if state.end is None))
            case "add", (key, _, writer, sequence, items), Added() as added:
                ids = [f"{writer}.{each}" for each in range(sequence, sequence + len(items))]
                self.shared.logs[key].learn(added.state, added.number, added.before, ids, items)
            case "read", (key, _), Page() as page:
                items = page.items if page.ids else ()
                self.shared.logs[key].learn(page.state, page.number, page.before, page.ids, items)
            case _:
                pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self._ask(name, *args, **options)

    async def follow(self) -> None:
        """Leave an old primary. What it has stored since `fail_over` is lost, and so keys may have run twice."""
        if isinstance(self.store, MemoryStore):
            await self.store.close()
            self.store = self.shared.connect()
        self.shared.wound_back()
        self.shared.doubles.clear()

    async def close(self) -> None:
        await self.store.close()


class Process:
    """One process with a server, and the line to it."""

    def __init__(
        self, shared: SharedStore, limits: Limits, register: Callable[[Server, Process], None], detached_timeout: float
    ) -> None:
        self.store = Wire(shared)
        store: Any = self.store
        self.server = Server(limits=limits, store=store, detached_timeout=detached_timeout)
        self.server.on_handshake(self._welcome)
        self.line = Line(self.server)
        self.works: list[asyncio.Task[Any]] = []
        """What the process does of its own accord."""
        self.killed = False
        self.closed = False
        register(self.server, self)

    @staticmethod
    def _welcome(handshake: Handshake) -> None:
        handshake.principal = handshake.query.get("who")

    async def dial(self, url: str, *, headers: Any = None, limits: Limits | None = None, **_: Any) -> Any:
        request = DialRequest(url, headers=headers)
        return await self.line.dial(request.url, headers=request.headers, limits=limits)

    def kill(self) -> None:
        """End the process without a word: what it runs stops, and what it says arrives nowhere."""
        self.killed = self.store.killed = True
        self.line.down = True
        for _, theirs in self.line.connections:
            theirs.abort()
        for task in (*runs_of(self.server)._tasks, *self.works):
            task.cancel()


def runs_of(server: Server) -> Any:
    """Return the `Runs` of a server."""
    keep: Any = server._registry.keeper
    keeper: Keeper = keep.__self__
    return keeper.runs


class StoreMachine(WorldMachine):
    """Two processes that share a store, and clients, each at one of them."""

    scale = 1.0
    """The length of a second."""
    limits: Limits
    shared: SharedStore

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.all_processes: list[Process] = []
        self.orders: list[asyncio.Task[Any]] = []
        self.homes: list[int] = []
        """The process of each client."""
        self.clients: list[Client] = []
        self.moves = 0
        self.troubles = {"death": 0, "loss": 0, "leap": 0, "full": 0}
        """How often something happened that clients may be told of."""
        self.failed = False
        self.patches = ExitStack()
        self.patches.enter_context(
            patch("wsrpc._keyed.memory_store.time", SimpleNamespace(monotonic=lambda: self.loop.time()))
        )

    def register_at(self, server: Server, process: Process) -> None:
        raise NotImplementedError

    def begin_processes(self, limits: Limits, homes: list[int], **options: Any) -> None:
        self.limits, self.homes = limits, homes
        self.shared = self.store(**options)
        self.processes = [self.process(), self.process()]

    def store(self, **options: Any) -> SharedStore:
        return SharedStore(self.loop.time, **options)

    def process(self) -> Process:
        process = Process(self.shared, self.limits, self.register_at, DETACHED * self.scale)
        self.all_processes.append(process)
        return process

    def client(self, who: object, dial: Callable[..., Any]) -> Client:
        url = "ws://server/" if who is None else f"ws://server/?who={who}"
        back = Reconnect(wait=wait_fixed(0.003))
        client = Client(url, dial=dial, limits=self.limits, reconnect=back, connect_timeout=10**6)
        self.clients.append(client)
        return client

    # ------------------------------------------------------------ what happens to lines, processes and the store

    @rule(at=nodes, half_open=st.booleans())
    def cut(self, at: int, half_open: bool) -> None:
        """Connections drop. Sessions resume, so that nobody is told."""
        self.inside(lambda: self.processes[at].line.cut(half_open=half_open))

    @rule(index=clients)
    def move(self, index: int) -> None:
        """A client comes back at the other process, where its session is unknown."""
        self.moves += 1
        at = self.homes[index]
        self.homes[index] = 1 - at
        self.cut(at, half_open=False)

    @rule(at=nodes, how=st.sampled_from(["kill", "close", "drain", *["nothing"] * 6]))
    def end_process(self, at: int, how: str) -> None:
        """A process ends, and another one takes its place."""
        if how == "nothing":
            return
        self.troubles["death"] += 1

        def main() -> None:
            process, self.processes[at] = self.processes[at], self.process()
            process.closed = True
            if how == "kill":
                process.kill()
            closing = process.server.close(5.0 if how == "drain" else 0.0)
            self.orders.append(self.loop.create_task(closing))

        self.inside(main)

    @rule(at=nodes, how=st.sampled_from(["lost", "lost to all", "back", "back"]))
    def lose_store(self, at: int, how: str) -> None:
        """The store does not answer for a while, to all or to one process."""
        self.troubles["loss"] += "lost" in how
        self.processes[at].store.cut = how == "lost"
        self.shared.lost = how == "lost to all"

    @rule(at=nodes, latency=st.sampled_from([0, 1, 2, 4, 20]), how=st.sampled_from([*[""] * 3, "answer lost", "late"]))
    def slow_store(self, at: int, latency: int, how: str) -> None:
        self.troubles["loss"] += bool(how)
        store = self.processes[at].store
        store.latency, store.loses_answers, store.is_late = latency, how == "answer lost", how == "late"

    @rule(backwards=st.booleans())
    def do_late(self, backwards: bool = False) -> None:
        """Steps happen whose callers have given up, or have repeated them."""
        for process in self.all_processes:
            self.run(process.store.do_late(backwards))

    @rule(how=st.sampled_from(["save", "save", "restore", "wipe"]))
    def wind_back(self, how: str) -> None:
        self.run(getattr(self.shared, how)())

    # ------------------------------------------------------------ what must hold

    @invariant()
    def holds(self) -> None:
        if not self.clients:
            return
        self.failed = True
        killed = any(process.killed for process in self.all_processes)
        errors = [text for text in self.errors.texts if not (killed and "CancelledError" in text)]
        assert not errors, errors
        assert not self.complaints, self.complaints
        for work in self.works:
            if work.task.done() and not work.task.cancelled():
                work.task.result()
        self.check()
        self.failed = False

    def check(self) -> None:
        """See what else must hold."""

    # ------------------------------------------------------------ the end

    def teardown(self) -> None:
        try:
            if self.clients and not self.failed:
                self.run(self.finish())
        finally:
            self.patches.close()
            self.leave_world()

    async def finish(self) -> None:
        raise NotImplementedError

    async def calm_down(self, leap: float) -> None:
        """Nothing holds anything back any more, and stores are asked again."""
        self.shared.lost = False
        for process in self.all_processes:
            process.store.cut = process.store.loses_answers = process.store.is_late = False
            process.store.latency = 0
            await process.store.do_late()
            process.line.cut()  # half-open connections end
        for _ in range(9):
            await self.turns(40)
            await self.leap(leap)

    async def close_servers(self) -> None:
        await self.all_end([process.server.close() for process in self.processes], "the servers close")
        for process in self.all_processes:
            await process.store.close()
        await self.until(lambda: not other_tasks(), "no task is left")
        self.holds()


class RealLoop(asyncio.SelectorEventLoop):
    """A loop in real time, in which `WorldMachine` cannot set the time."""

    @property
    def now(self) -> float:
        return self.time()

    @now.setter
    def now(self, _: float) -> None:
        return


class OverRedis(StoreMachine):
    """The same over Redis, which is killed and restored from a snapshot, or stopped."""

    new_loop: Callable[[], Any] = RealLoop
    scale = 0.1
    redis: MortalRedis
    ticked = 0.0

    def store(self, **options: Any) -> SharedStore:
        return SharedRedis(self.redis, self.loop.time, **options)

    async def turns(self, count: int = 20) -> None:
        for _ in range(count):
            now = self.loop.time()
            gap, self.ticked = now - (self.ticked or now), now
            self.troubles["leap"] += gap > LEASE * self.scale / 4  # the machine was busy, and claims may have lapsed
            await asyncio.sleep(0.001)

    async def leap(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self.scale)
        await self.turns(3)


class WithRedis:
    """A test case whose machine has a Redis."""

    folder: TemporaryDirectory[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = TemporaryDirectory()
        OverRedis.redis = MortalRedis(Path(cls.folder.name))

    @classmethod
    def tearDownClass(cls) -> None:
        OverRedis.redis.kill()
        cls.folder.cleanup()

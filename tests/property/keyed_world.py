"""The scene of the machines with a store: it can be lost and restored, and processes that share it are killed."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from engine_servers import lasting_port, redis_server
from redis import Redis

from wsrpc import Handshake, Limits, Server
from wsrpc._keyed.keeper import Keeper
from wsrpc._keyed.runs import read_kept
from wsrpc._server.room_log import LOST, StoredEvent
from wsrpc.adapting import DialRequest
from wsrpc.store import Added, MemoryStore, NewRun, Page, RunGone, RunState, Store, StoreFull, StoreLost
from wsrpc.testing import Line
from wsrpc_adapters.redis import RedisStore

__all__ = ["KnownLog", "MortalRedis", "Process", "SharedMemory", "SharedRedis", "SharedStore", "Wire"]


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
    """The store that the processes share, and what it was asked.

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

    def connect(self) -> Store:
        raise NotImplementedError

    async def save(self) -> None:
        raise NotImplementedError

    async def restore(self) -> None:
        """Forget what has happened since the last `save`."""
        raise NotImplementedError

    async def wipe(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    async def fail_over(self, stays: Wire) -> None:
        """A replica takes over, which lacks what has happened since the last `save`.

        One process goes on with the old primary, until `Wire.follow`.
        """
        await self.restore()

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


class SharedMemory(SharedStore):
    def __init__(self, now: Callable[[], float], **options: Any) -> None:
        super().__init__(now, **options)
        self._store = MemoryStore(**options)
        self._snapshot: dict[str, Any] | None = None

    def connect(self) -> Store:
        return self._store

    async def save(self) -> None:
        await self._store.close()  # no reader waits: a future cannot be copied
        self._snapshot = copy.deepcopy(vars(self._store))

    async def restore(self) -> None:
        if self._snapshot is not None:
            self.restored += 1
            self.signs.clear()
            await self._store.close()
            vars(self._store).update(copy.deepcopy(self._snapshot))

    async def fail_over(self, stays: Wire) -> None:
        stays.store = MemoryStore()
        vars(stays.store).update(vars(self._store))
        await self.restore()

    async def wipe(self) -> None:
        self.restored += 1
        await self._store.close()
        vars(self._store).update(vars(MemoryStore(**self.options)))


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
        self.restored += 1
        self.signs.clear()
        self._server.restore()

    async def wipe(self) -> None:
        self.restored += 1
        self._server.wipe()

    def freeze(self) -> None:
        self._server.freeze()

    def thaw(self) -> None:
        self._server.thaw()


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
        self.shared.restored += 1
        self.shared.signs.clear()
        self.shared.doubles.clear()

    async def close(self) -> None:
        await self.store.close()


class Process:
    """One process with a server, and the line to it."""

    def __init__(
        self,
        shared: SharedStore,
        limits: Limits,
        register: Callable[[Server, Process], None],
        detached_timeout: float = 30.0,
    ) -> None:
        self.store = Wire(shared)
        store: Any = self.store
        self.server = Server(limits=limits, store=store, detached_timeout=detached_timeout)
        self.server.on_handshake(self._welcome)
        self.line = Line(self.server)
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
        for task in runs_of(self.server)._tasks:
            task.cancel()


def runs_of(server: Server) -> Any:
    """Return the `Runs` of a server."""
    keep: Any = server._registry.keeper
    keeper: Keeper = keep.__self__
    return keeper.runs

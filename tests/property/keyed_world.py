"""The scene of `test_keyed_machine`: a store that can be lost and restored, and processes that are killed."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any

from wsrpc import Handshake, Limits, Server
from wsrpc._keyed.keeper import Keeper
from wsrpc.adapting import DialRequest
from wsrpc.store import MemoryStore, NewRun, RunState, StoreLost
from wsrpc.testing import Line

__all__ = ["Process", "SharedMemory", "Wire"]


class SharedMemory:
    """The store that the processes share, and what it was asked.

    Args:
        now: the time in the store.
    """

    def __init__(self, store: MemoryStore, now: Callable[[], float]) -> None:
        self.store = store
        self.now = now
        self.lost = False
        """Whether nobody reaches it."""
        self.claims: dict[str, list[str]] = {}
        """The ids of the runs that were started, by key."""
        self.signs: dict[str, float] = {}
        """When the process of each run was heard of for the last time, by id."""
        self.restored = 0
        """How often it was restored."""
        self._snapshot: dict[str, Any] | None = None

    async def save(self) -> None:
        await self.store.close()  # no reader waits: a future cannot be copied
        self._snapshot = copy.deepcopy(vars(self.store))

    async def restore(self) -> None:
        """Forget what has happened since the snapshot."""
        if self._snapshot is not None:
            self.restored += 1
            await self.store.close()
            vars(self.store).update(copy.deepcopy(self._snapshot))


class Wire:
    """The way of one process to the store: a `Store` that takes time, may lose answers, and ends with the process."""

    def __init__(self, shared: SharedMemory) -> None:
        self.shared = shared
        self.lease = shared.store.lease
        self.latency = 0
        """Turns that a call takes on its way, and its answer on the way back."""
        self.loses_answers = False
        self.cut = False
        self.killed = False

    async def _ask(self, name: str, *args: Any, **options: Any) -> Any:
        await self._travel()
        self._check()
        result = await getattr(self.shared.store, name)(*args, **options)
        self._note(name, args, result)
        await self._travel()
        self._check()
        if self.loses_answers:
            self.loses_answers = False
            raise StoreLost("the answer was lost")
        return result

    async def _travel(self) -> None:
        for _ in range(self.latency):
            await asyncio.sleep(0)

    def _check(self) -> None:
        if self.killed:
            raise asyncio.CancelledError  # nobody in this process does anything more
        if self.cut or self.shared.lost:
            raise StoreLost("the store is lost")

    def _note(self, name: str, args: Any, result: Any) -> None:
        shared, now = self.shared, self.shared.now()
        match name, args, result:
            case "start", (key, NewRun(id=id)), RunState(id=own) if own == id:
                claims = shared.claims.setdefault(key, [])
                if id not in claims:
                    claims.append(id)
                shared.signs[id] = now
            case (("append" | "end"), (_, id, *_), _):
                shared.signs[id] = now
            case "renew", (runs,), states:
                shared.signs.update(dict.fromkeys((runs[key] for key in states), now))
            case _:
                pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: self._ask(name, *args, **options)

    async def close(self) -> None:
        return


class Process:
    """One process with a server, and the line to it."""

    def __init__(self, shared: SharedMemory, limits: Limits, register: Callable[[Server, Process], None]) -> None:
        self.store = Wire(shared)
        store: Any = self.store
        self.server = Server(limits=limits, store=store, detached_timeout=30.0)
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

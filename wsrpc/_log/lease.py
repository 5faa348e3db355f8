"""`ProcessLease`: keeps the logs of this process, and tells the store which logs it reads."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from .contract import LogState, Store, StoreLost

Learn = Callable[[LogState | None], None]


class Held(NamedTuple):
    """A log of this process. ``learn`` gets its state every ``every`` seconds, or None if the store has no such log."""

    key: str
    learn: Learn
    every: float


class ProcessLease:
    """Renews all leases of this process together, three times as often as they lapse."""

    def __init__(self, store: Store, spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]) -> None:
        self._process = secrets.token_hex(8)
        self._store = store
        self._spawn = spawn
        self._held: dict[str, Held] = {}
        """By the ids of the logs."""
        self._readers = Counter[str]()
        """How many read each log of another process. 0: the store has to be told that nobody does."""
        self._renewing: asyncio.Task[None] | None = None
        self._new = set[str]()
        """Keys of logs that somebody has begun to read."""
        self._started = asyncio.Event()
        """Set when there is one."""

    def hold(self, key: str, id: str, learn: Learn, every: float) -> None:
        """Keep a log of this process until `release`. It learns its state every ``every`` seconds, or more often."""
        self._held[id] = Held(key, learn, every)
        self._start()

    @property
    def held(self) -> dict[str, str]:
        """The ids of the logs of this process by their keys."""
        return {each.key: id for id, each in self._held.items()}

    def release(self, id: str) -> None:
        """Keep a log no longer. Idempotent."""
        self._held.pop(id, None)

    @contextmanager
    def reading(self, key: str) -> Generator[None]:
        """Count a reader of a log of another process within this block."""
        self._readers[key] += 1
        self._new.add(key)
        self._started.set()
        self._start()
        try:
            yield
        finally:
            self._readers[key] -= 1

    def abandon(self) -> None:
        """Forget all logs, because the event loop was closed."""
        self._held.clear()
        self._readers.clear()
        self._renewing, self._started = None, asyncio.Event()

    def _start(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = self._spawn(self._renew())

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while self._held or self._readers:
            every = min((each.every for each in self._held.values()), default=self._store.lease)
            due = renewed + min(every, self._store.lease / 3)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._started.wait()
            self._started.clear()
            begun, self._new = self._new, set[str]()
            if is_due := loop.time() >= due:
                renewed = loop.time()
            with suppress(StoreLost):
                await self._hold(dict(self._held) if is_due else {}, [*self._readers] if is_due else [*begun])

    async def _hold(self, held: dict[str, Held], read: list[str]) -> None:
        """Renew the leases of some logs, and tell how many read some."""
        readers = {key: self._readers[key] for key in read}
        ids = {each.key: id for id, each in held.items()}
        states = await self._store.hold(self._process, ids, readers)
        for key, count in readers.items():
            if not count and not self._readers[key]:
                del self._readers[key]
        for id in held.keys() & self._held.keys():
            key = held[id].key
            held[id].learn(states.get(key) if ids[key] == id else None)

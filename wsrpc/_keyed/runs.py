"""`Runs`: the runs of keyed calls in one process: starts them, runs their handlers, and reads them from the store."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct

from .._base.logs import logger
from .._base.scheduler import spawn_later
from .._core.handlers.invocation import KeyedRun
from .._core.wire.rejections import STOPPED as STOPPED_CODE
from .._core.wire.rejections import Flag, error_from_wire, error_to_wire
from ..errors import ItemsGone, KeyReused, Overloaded, RemoteError, RpcError, RunLost, made_here
from .contract import NewRun, RunGone, RunState, Store, StoreFull, StoreLost
from .memory_store import MemoryStore

STORE_TIMEOUT = 10.0
"""Seconds for which a call waits for a store that does not answer. (What runs, and what reads it, waits longer.)"""
SILENT = 5.0
"""Seconds after which a store that does not answer is reported, if a caller gives up."""
RETRY = 0.2
"""Seconds between the first attempts to reach the store. Later, it is up to ten times as long."""
LAST = 2**53 - 1
"""The largest number of an item."""
AHEAD = 64 * 1024
"""Bytes of items that a handler may be ahead of the store, and of the furthest reader in its process."""
ITEM = 64
"""Bytes for which an item counts besides its own, because many may be empty."""
NOTHING_KEPT = "nothing is kept of this call any more"
ITEMS_LOST = "the store has lost items, perhaps those before {}"
STARTER = ""
"""Stands for the caller that has started a run, until it or another caller reads."""

MOST_UNREAD = 16 * 1024 * 1024
"""Bytes of items that were read from the store, and that all readers together have not passed on."""

ANSWERS = RunGone, StoreFull
"""Errors that a store raises because it answers."""

PROBE = NewRun(id="probe", arguments="", payer="probe", keep=1.0)
"""The log that is written to find out whether the store answers again. (A store that only reads helps nobody.)"""

UNREADABLE = (msgspec.MsgspecError, ValueError)
"""Errors of what is kept, but is not what it should be, or was written by a later version."""

T = TypeVar("T")


class Performer:
    """What a run does: it runs a handler. `Runs.start` either performs or drops it."""

    async def perform(self, run: Run) -> bytes:
        """Run the handler, and return the encoded `End`. Give each item to `Run.append`.

        Raises:
            RunGone: an item could not be stored.
        """
        raise NotImplementedError

    def drop(self) -> None:
        """Release the handler, which does not run."""

    def stopping(self, reason: RemoteError) -> None:
        """Note why the handler will be cancelled."""


class End(Struct, omit_defaults=True):
    """How a run has ended: with a value, or with an error as in a rejection."""

    value: Any = None
    failed: bool = False
    error: Any = None
    flag: Flag = UNSET

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.failed:
            raise made_here(error_from_wire(self.error, self.flag))
        return self.value


_encode = msgspec.msgpack.Encoder().encode


def read_kept(stored: bytes, kind: type[T]) -> T:
    """Decode what was kept. What MessagePack cannot express is JSON: no array or map begins with this byte."""
    decode = msgspec.json.decode if stored.startswith((b"[", b"{")) else msgspec.msgpack.decode
    return decode(stored, type=kind)


def failed(error: RpcError) -> bytes:
    """Encode the end of a run that has failed here."""
    return _encode(End(None, True, *error_to_wire(error)))


async def insist(call: Callable[[], Awaitable[T]], patience: float | None = None) -> T:
    """Call the store until it answers.

    Raises:
        StoreLost: it has not answered within ``patience`` seconds.
    """
    loop = asyncio.get_running_loop()
    began, limit = loop.time(), asyncio.timeout(patience)
    try:
        async with limit:
            while True:
                with suppress(StoreLost):
                    return await call()
                await asyncio.sleep(random.uniform(0.5, 1) * min(10 * RETRY, RETRY + loop.time() - began))
    except TimeoutError:
        if not limit.expired():
            raise
        raise StoreLost(f"the store has not answered within {patience:g} s") from None


class Run:
    """A run whose handler runs in this process.

    Args:
        key: the key of the run in the store.
        new: what the store gets of it.
        performer: runs the handler.
        keyed: what the handler sees of it.
        unread: seconds without a reader after which the handler is stopped. None for no limit.
    """

    def __init__(
        self, store: Store, key: str, new: NewRun, performer: Performer, keyed: KeyedRun, unread: float | None = None
    ) -> None:
        self._store = store
        self.key = key
        self.new = new
        self.performer = performer
        self._keyed = keyed
        self._unread = unread
        self._unread_since: float | None = None
        self._positions = {STARTER: 0}
        """The number of the last item that each reader in this process has read, if it reads on."""
        self._readers: set[str] = set()
        """The readers in this process."""
        self._ahead: deque[int] = deque()
        """Bytes of each item after the furthest of these positions."""
        self._ahead_bytes = 0
        self._progress = asyncio.Event()
        """Set when a reader has read something, or has left."""
        self._items: list[bytes] = []
        """Items that wait to be stored."""
        self._size = 0
        """Bytes of these items."""
        self._count = self._stored = 0
        """The number of items, and of those that are stored, or being stored."""
        self._storing: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        """Runs the handler. None before and after."""
        self._reason: RemoteError | None = None
        """Why the handler was stopped."""
        self.frees_key = False
        """Whether the next call with the key begins another run, once this one has ended."""

    async def perform(self) -> None:
        """Run the handler, and store how it has ended."""
        end = await self._run_handler()
        self._task = None  # nothing stops it any more
        try:
            await self._store_end(end)
        finally:
            if self._storing is not None:
                self._storing.cancel()

    async def _run_handler(self) -> bytes:
        if (reason := self._reason) is not None:  # it was stopped before
            self.performer.drop()
            return failed(reason)
        self._task = asyncio.current_task()
        try:
            return await self.performer.perform(self)
        except asyncio.CancelledError:
            if self._reason is None and self.new.topic:
                raise  # another process continues it
            return failed(self._reason or RunLost("the handler was cancelled"))
        except RunGone:
            return _PART_LOST

    async def _store_end(self, end: bytes) -> None:
        with suppress(RunGone):  # it has ended already, or nothing is left of it
            try:
                await self._all_stored()
                ends = partial(self._store.end, last=self._stored, free=self.frees_key)
                await insist(partial(ends, self.key, self.new.id, end))
            except StoreFull:
                await insist(partial(self._store.end, self.key, self.new.id, _TOO_BIG))
            except RunGone:
                await insist(partial(self._store.end, self.key, self.new.id, _PART_LOST))

    def stop(self, reason: RemoteError) -> None:
        """Stop the handler. Idempotent."""
        if self._reason is None:
            self._reason = reason
            if self._task is not None:
                self.performer.stopping(reason)
                self._task.cancel()

    # ------------------------------------------------------------ items

    async def append(self, item: bytes) -> None:
        """Store an item. If the store is slower than the handler, the next items are stored together.

        Raises:
            RunGone: the store has no such run, or has lost items.
        """
        self._items.append(item)
        self._size += len(item) + ITEM
        self._count += 1
        if self._storing is None or self._storing.done():
            if self._storing is not None:
                self._storing.result()
            self._storing = asyncio.ensure_future(self._store_items())
        if self._size > AHEAD:
            await self._all_stored()
        self._ahead.append(len(item) + ITEM)
        self._ahead_bytes += len(item) + ITEM
        if self._ahead_bytes > AHEAD:
            await self._wait_for_readers()

    def has_read(self, reader: str, number: int | None) -> None:
        """A reader in this process has read the items up to a number. None: it reads no more."""
        self._positions.pop(STARTER, None)
        self._positions.pop(reader, None)
        self._readers.discard(reader)
        if number is not None:
            self._positions[reader] = number
            self._readers.add(reader)
        self._progress.set()

    async def _wait_for_readers(self) -> None:
        """Wait until a reader is near. Readers that do nothing for the time of a lease are no longer waited for."""
        while True:
            furthest = max(self._positions.values(), default=LAST)
            while self._ahead and self._count - len(self._ahead) < furthest:
                self._ahead_bytes -= self._ahead.popleft()
            if self._ahead_bytes <= AHEAD:
                return
            self._progress.clear()
            try:
                async with asyncio.timeout(self._store.lease):
                    await self._progress.wait()
            except TimeoutError:
                self._positions.clear()

    async def _all_stored(self) -> None:
        if self._storing is not None:
            await asyncio.shield(self._storing)

    async def _store_items(self) -> None:
        while self._items:
            items, self._items, self._size = self._items, [], 0
            number, self._stored = self._stored + 1, self._stored + len(items)
            self.learn(await insist(partial(self._store.append, self.key, self.new.id, number, items)))

    # ------------------------------------------------------------ what the store says

    def learn(self, state: RunState | None) -> None:
        """Do what the store says of the run. None: the store has no such run."""
        if state is None or state.id != self.new.id or state.end is not None:
            self.stop(RunLost("the store has lost the run"))
        elif state.stopping:
            self.stop(STOPPED)
        else:
            self._keyed.readers = max(state.readers, len(self._readers))  # the store does not know of slow readers
            self._stop_if_unread(asyncio.get_running_loop().time())

    def _stop_if_unread(self, now: float) -> None:
        if self._unread is None or self._keyed.readers:
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since >= self._unread:
            self.stop(RemoteError("the handler was stopped, because nobody reads it", STOPPED_CODE))

    @property
    def renew_after(self) -> float:
        """Seconds until the store is asked again."""
        a_third = self._store.lease / 3
        return a_third if self._unread is None else min(a_third, max(0.01, self._unread / 2))


STOPPED = RemoteError("the handler was stopped", STOPPED_CODE)


class Unread(Struct, eq=False):
    """Items for a reader, which it pops. If all readers hold too many, it loses them, and reads them again."""

    state: RunState
    after: int
    """The number of the last item that was popped."""
    items: list[bytes]
    """The next item is the last one."""
    size: int

    def pop(self) -> bytes:
        self.after += 1
        return self.items.pop()


class WatchedStore:
    """A store whose failures are reported.

    Args:
        failed: gets each exception of the store.
    """

    def __init__(self, store: Store, failed: Callable[[Exception], None]) -> None:
        self._store = store
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return partial(self._ask, found) if callable(found) else found

    async def _ask(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        due = time.monotonic() + SILENT + options.get("wait", 0.0)
        try:
            return await method(*args, **options)
        except asyncio.CancelledError:  # a caller has given up
            if time.monotonic() > due:
                self._failed(StoreLost(f"no answer within {SILENT:g} s"))
            raise
        except Exception as exc:
            self._failed(exc)
            raise


class Runs:
    """The runs of keyed calls in one process."""

    def __init__(self, store: Store | None) -> None:
        given: Any = store
        if given is not None and not callable(getattr(given, "start", None)):
            raise TypeError(f"store= is a MemoryStore or a RedisStore, got {given!r}")
        self._given: Store = MemoryStore() if store is None else store
        watched: Any = self._given if store is None else WatchedStore(store, self._store_failed)
        self.store: Store = watched
        self.is_shared = store is not None
        """Whether other processes may have the same store."""
        self._running: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        """By id: a key that the store has forgotten can run again, while its last handler is being stopped."""
        self._unread: dict[str, Unread] = {}
        """What readers hold, by their names. The oldest is the first."""
        self._unread_bytes = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._outage: asyncio.Task[None] | None = None
        """Asks the store that does not answer until it does. None before the first outage."""

    def spawn(self, coroutine: Coroutine[Any, Any, T], context: Context | None = None) -> asyncio.Task[T]:
        """Run a coroutine in a task, which is cancelled by `close`."""
        task = spawn_later(coroutine, context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for the task gets it

    # ------------------------------------------------------------ a store that does not answer

    @property
    def store_answers(self) -> bool:
        """Whether the store answers, as far as this process has noticed."""
        return self._outage not in self._tasks

    def _store_failed(self, exc: Exception) -> None:
        if self.store_answers and not isinstance(exc, ANSWERS):
            # A store of the user's own may raise something else than `StoreLost`.
            unexpected = None if isinstance(exc, StoreLost) else exc
            logger.warning("the store %s does not answer: %s", self._given, exc, exc_info=unexpected)
            self._outage = self.spawn(self._wait_answer())

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call the store for a caller, who waits for a limited time.

        Raises:
            Overloaded: the store does not answer.
        """
        try:
            return await insist(call, STORE_TIMEOUT)
        except StoreLost:
            raise _unanswered() from None

    async def _wait_answer(self) -> None:
        """Ask the store until it answers, because perhaps nobody else does."""
        error: Any = StoreLost()
        while isinstance(error, Exception) and not isinstance(error, ANSWERS):
            await asyncio.sleep(RETRY)
            [error] = await asyncio.gather(self._given.add(PROBE.id, PROBE, "", 0, []), return_exceptions=True)
        logger.info("the store %s answers again", self._given)

    # ------------------------------------------------------------ running

    async def start(self, run: Run, context: Context) -> RunState:
        """Begin a run, or return the state of the run that has the key. Its handler runs within ``context``.

        Cancelling stops only the waiting, because another caller may have joined the run by then.

        Raises:
            KeyReused: the run has other arguments.
            Overloaded: the store has no room, or does not answer.
        """
        state = await asyncio.shield(self.spawn(self._start(run, context)))
        if state.arguments != run.new.arguments:
            raise made_here(KeyReused("the key belongs to a call with other arguments"))
        return state

    async def _start(self, run: Run, context: Context) -> RunState:
        starts = False
        try:
            state = await self._lease_key(run)
            starts = state.id == run.new.id
        except StoreFull:
            raise made_here(
                Overloaded("too many results are kept for this caller: a shorter keep= or another store takes more")
            ) from None
        finally:
            if not starts:
                run.performer.drop()
        if starts:
            self._spawn_run(run, context)
        return state

    async def _lease_key(self, run: Run) -> RunState:
        """Lease the key to a run. If the store does not answer, make sure that it does not begin the run later."""
        asked = False

        async def ask() -> RunState:
            nonlocal asked
            if not self.store_answers:
                await self.store.read(run.key, LAST)  # which has no effect if the store does it later
            asked = True
            return await self.store.start(run.key, run.new)

        try:
            return await self._ask(ask)
        except Overloaded:
            if asked:
                self.spawn(self._withdraw(run))
            raise

    async def _withdraw(self, run: Run) -> None:
        """Free the key of a run whose caller was told that it does not run: the store may have begun it."""
        with suppress(RunGone, StoreFull):
            # First again, because the same id has no effect later on, should the first step be on its way yet. Each
            # attempt is short: this has to end before the lease lapses.
            again = partial(insist, lambda: self.store.start(run.key, run.new), 10 * RETRY)
            if (await insist(again)).id == run.new.id:
                await insist(lambda: self.store.end(run.key, run.new.id, _NOT_RUN, free=True))

    def _spawn_run(self, run: Run, context: Context) -> None:
        task = self.spawn(self._perform(run), context)
        task.add_done_callback(lambda _: run.performer.drop())  # if it was cancelled before its first step
        self._running[run.new.id] = run, task
        if self._renewing is None or self._renewing.done():
            self._renewing = self.spawn(self._renew())

    async def adopt(self, topic: str, performer_of: Callable[[bytes], Performer]) -> bool:
        """Continue the runs of a topic whose processes have ended, each with the performer for its payload.

        Return False if the store does not answer.
        """
        try:
            adopted = await insist(lambda: self.store.adopt(topic), STORE_TIMEOUT)
        except StoreLost:
            return False
        for found in adopted:
            if found.id not in self._running:
                new = NewRun(id=found.id, arguments="", payer="", keep=0.0, topic=topic)
                try:
                    performer = performer_of(found.payload)
                except UNREADABLE as exc:  # no other process can read it, either, or only one of a later version
                    logger.warning("a run of topic %r cannot be continued: %s", topic, exc)
                else:
                    self._spawn_run(Run(self.store, found.key, new, performer, KeyedRun("")), Context())
        return True

    async def find(self, key: str) -> RunState | None:
        """Return the state of the run that has the key, if there is one.

        Raises:
            Overloaded: the store does not answer.
        """
        page = await self._ask(lambda: self.store.read(key, LAST))
        return None if page is None else page.state

    async def _perform(self, run: Run) -> None:
        try:
            await run.perform()
        finally:
            self._running.pop(run.new.id, None)
            if not self._running and self._renewing is not None:
                self._renewing.cancel()
                self._renewing = None

    async def _renew(self) -> None:
        """Renew the leases, as long as something runs."""
        while self._running:
            await asyncio.sleep(min(run.renew_after for run, _ in self._running.values()))
            asked = [run for run, _ in self._running.values()]
            with suppress(StoreLost):
                states = await self.store.renew({run.key: run.new.id for run in asked})
                for run in asked:
                    run.learn(states.get(run.key))

    async def stop(self, key: str, id: str) -> None:
        """Ask the process of a run to stop its handler.

        Raises:
            Overloaded: the store does not answer.
        """
        if (running := self._running.get(id)) is not None:
            running[0].stop(STOPPED)
        await self._ask(lambda: self.store.stop(key, id))

    # ------------------------------------------------------------ reading

    async def read(
        self, key: str, state: RunState, after: int, adopt: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncGenerator[Unread]:
        """Yield the items of a run after a number, some at a time. The last ones come with the end of the run.

        Args:
            adopt: continues the run if its process has ended. None: the run ends then.

        Raises:
            ItemsGone: some of these items are no longer kept.
            RunLost: the store has lost the run.
        """
        loop, lease = asyncio.get_running_loop(), self.store.lease
        reader, first, id, run = secrets.token_hex(8), after, state.id, None
        lost_since = loop.time() if state.lost else None
        try:
            while True:
                if (running := self._running.get(id)) is not None:
                    run = running[0]
                    run.has_read(reader, after)
                page = await insist(partial(self.store.read, key, after, reader=reader, wait=lease / 2))
                if page is None or page.state.id != id:
                    raise made_here((RunLost if state.end is None else ItemsGone)(NOTHING_KEPT))
                state = page.state
                if state.first > after + 1:
                    raise missing_items(state)
                if after > max(first, state.last):
                    raise missing_items(state, ITEMS_LOST)
                unread = self._keep_unread(reader, state, after, page.items)
                del page
                ended = state.end is not None and after + len(unread.items) >= state.last
                if unread.items or ended:
                    yield unread
                after = unread.after
                if ended and after >= state.last:
                    return
                if not state.lost:
                    lost_since = None
                elif lost_since is None:
                    lost_since = loop.time()
                elif loop.time() - lost_since >= lease / 2:  # its process may just have reached the store again
                    end = partial(self.store.end, key, id, _PROCESS_ENDED, lapsed=True)
                    with suppress(RunGone):
                        await (adopt or partial(insist, end))()
        finally:
            if run is not None:
                run.has_read(reader, None)
            self._drop(reader)
            self.spawn(self._leave(key, reader))

    async def end_of(self, key: str, state: RunState, adopt: Callable[[], Awaitable[object]] | None = None) -> End:
        """Wait for the end of a run, and return it. See `read`.

        Raises:
            RunLost: nothing of the run is kept.
        """
        if state.end is None:  # else the run may expire before it is read
            try:
                async for page in self.read(key, state, 0, adopt):
                    state = page.state
            except ItemsGone:
                raise made_here(RunLost(NOTHING_KEPT)) from None
        assert state.end is not None
        return read_kept(state.end, End)

    def _keep_unread(self, reader: str, state: RunState, after: int, items: Sequence[bytes]) -> Unread:
        self._drop(reader)
        unread = self._unread[reader] = Unread(state, after, [*reversed(items)], sum(map(len, items)))
        self._unread_bytes += unread.size
        while self._unread_bytes > MOST_UNREAD and len(self._unread) > 1:
            self._drop(next(iter(self._unread)))
        return unread

    def _drop(self, reader: str) -> None:
        if (unread := self._unread.pop(reader, None)) is not None:
            unread.items.clear()
            self._unread_bytes -= unread.size

    async def _leave(self, key: str, reader: str) -> None:
        with suppress(StoreLost):
            await self.store.leave(key, reader)

    # ------------------------------------------------------------ the end

    async def wait_idle(self) -> None:
        """Wait until nothing runs that only this process can continue. Cancelling is safe."""
        while tasks := [task for run, task in self._running.values() if not run.new.topic]:
            await asyncio.wait(tasks)

    def abandon(self) -> None:
        """Forget everything that runs, because the event loop was closed."""
        self._running.clear()
        self._unread.clear()
        self._unread_bytes = 0
        self._tasks.clear()
        self._renewing = None

    async def close(self, patience: float) -> None:
        """Stop all handlers, and wait up to ``patience`` seconds until they have ended, and their ends are stored.

        Runs with a topic do not end: another process continues them.
        """
        here = asyncio.current_task()
        others = [(run, task) for run, task in self._running.values() if not (task is here or run.new.topic)]
        for run, _ in others:
            run.stop(RunLost("the process that ran the handler was closed"))
        if others:
            await asyncio.wait([task for _, task in others], timeout=patience)
        with suppress(TimeoutError):
            async with asyncio.timeout(RETRY):
                while left := self._tasks - {here}:  # what ends may spawn something, to say that it reads no more
                    for task in left:
                        task.cancel()
                    await asyncio.wait(left)
        await self._given.close()


def _unanswered() -> Overloaded:
    return made_here(Overloaded("the store of results does not answer: try again later"))


_NOT_RUN = failed(_unanswered())
_TOO_BIG = failed(RemoteError("the result is too big to be kept"))
_PART_LOST = failed(RunLost("the store has lost a part of the run"))
_PROCESS_ENDED = failed(RunLost("the process that ran the handler has ended"))


def missing_items(state: RunState, why: str = "the items before {} are no longer kept") -> ItemsGone:
    """Return the error for a position after which items are missing."""
    return made_here(ItemsGone(why.format(state.first), data=state.first))

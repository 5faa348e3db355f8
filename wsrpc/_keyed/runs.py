"""`Runs`: the runs of keyed calls in one process: starts them, runs their handlers, and reads them from the store."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import nullcontext, suppress
from contextvars import Context
from functools import partial
from weakref import WeakKeyDictionary, WeakValueDictionary

from msgspec import Struct

from .._base.scheduler import spawn_later
from .._base.single_flight import SingleFlight
from .._log.contract import OTHER, LogGone, LogState, NewLog, Page, StoreFull, StoreLost, entry_id
from .._log.kept import read_kept
from .._log.link import RETRY, STORE_TIMEOUT, StoreLink, insist, unanswered
from .._log.position import LAST, Position
from ..errors import Draining, ItemsGone, KeyReused, Overloaded, RpcError, RunLost, made_here
from .run import STOPPED, CountedRuns, End, Run, failed

NOTHING_KEPT = "nothing is kept of this call any more"
ITEMS_LOST = "the store has lost items, perhaps those before {}"
RESULTS_FULL = "the store is full, or too many results are kept for this caller: a shorter keep= or another store helps"
MOST_UNREAD = 16 * 1024 * 1024
"""Bytes of items that were read from the store, and that all readers together have not passed on."""


class Unread(Struct, eq=False):
    """Items for a reader, which it pops. If all readers hold too many, it loses them, and reads them again."""

    state: LogState
    after: int
    """The number of the last item that was popped."""
    items: list[bytes]
    """The next item is the last one."""
    size: int

    def pop(self) -> bytes:
        self.after += 1
        return self.items.pop()


class Runs:
    """The runs of keyed calls in one process."""

    def __init__(self, link: StoreLink) -> None:
        self.link = link
        self._store = link.store
        self._running: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        """By id: a key that the store has forgotten can run again, while its last handler is being stopped."""
        self.counted: dict[str, CountedRuns] = {}
        """By event."""
        self._starting: WeakValueDictionary[object, asyncio.Task[LogState]] = WeakValueDictionary()
        """Begins the last run of each caller whose runs begin in order."""
        self._flights: SingleFlight[Page | None] = SingleFlight(spawn_later)
        """The steps that read runs, if others have the store, too: readers of one run share them."""
        self._read_here = Counter[str]()
        """How many callers here read each run, by its id."""
        self._unread: dict[str, Unread] = {}
        """What readers hold, by their names. The oldest is the first."""
        self._unread_bytes = 0
        self.is_closing = False
        """Whether this process drains or closes, so that no run of another process goes on here."""
        self.watch: Callable[[], object] = lambda: None
        """Looks for runs that other processes have lost, from now on."""
        self.lanes: WeakKeyDictionary[object, WeakKeyDictionary[object, asyncio.Lock]] = WeakKeyDictionary()
        """For each caller, the lanes of its runs, by handlers or channels."""

    # ------------------------------------------------------------ running

    def counted_of(self, event: str) -> CountedRuns:
        """Return what counts the runs of an event."""
        return self.counted.setdefault(event, CountedRuns(event))

    async def start(self, run: Run, context: Context, caller: object = None) -> LogState:
        """Begin a run, or return the state of the run that has the key. Its handler runs within ``context``.

        Cancelling stops only the waiting, because another caller may have joined the run by then.

        Args:
            caller: its handlers start in the order of these calls, in whatever order the store answers.

        Raises:
            KeyReused: the run has other arguments.
            Overloaded: the store has no room, or does not answer.
        """
        before = None if caller is None else self._starting.get(caller)
        starting = self.link.spawn(self._start(run, context, before))
        if caller is not None:
            self._starting[caller] = starting
        state = await asyncio.shield(starting)
        if state.arguments != run.new.arguments:
            raise made_here(KeyReused("the key belongs to a call with other arguments"))
        return state

    async def _start(self, run: Run, context: Context, before: asyncio.Task[LogState] | None) -> LogState:
        starts = False
        try:
            try:
                state = await self.start_log(run.key, run.new, RESULTS_FULL)
                is_own = state.id == run.new.id and state.end is None
                if is_own and run.new.payload:
                    is_own = await self._offer(run)
                if is_own:
                    self._hold(run)  # until it starts, and if this is cancelled, until the store is closed
            finally:  # also if this one does not start: the next one waits only for this task
                if before is not None and not before.done():  # waiting for what is done takes turns of the event loop
                    await asyncio.wait((before,))
            starts = is_own
        finally:
            if not starts:
                run.performer.drop()
        if starts:
            self._spawn_run(run, context)
        return state

    async def start_log(self, key: str, new: NewLog, when_full: str) -> LogState:
        """Begin a log. If the store does not answer, make sure that a run does not begin later.

        Raises:
            Overloaded: the store has no room, with the text ``when_full``; or it does not answer.
        """
        asked = 0

        async def ask() -> LogState:
            nonlocal asked
            if not self.link.answers:
                await self._store.read(key, LAST)  # which has no effect if the store does it later
            asked += 1
            return await self._store.open(key, new)

        try:
            try:
                state = await self.link.ask(ask)
            except StoreFull:
                asked -= 1  # it has answered the last step, and done nothing
                raise made_here(Overloaded(when_full)) from None
        except Exception as exc:
            if asked and not new.topic:
                self.link.spawn(self._withdraw(key, new))
            elif asked and isinstance(exc, Overloaded):
                exc.outcome = "unknown"  # it is made within its time, and those who repeat it join it
            raise
        if asked > 1 and state.id != new.id and not new.topic:
            self.link.spawn(self._withdraw(key, new, state.id))
        return state

    async def _offer(self, run: Run) -> bool:
        """Let other processes adopt a run from now on. Return False if one has adopted or ended it."""
        try:
            await insist(partial(self._store.adopt, run.key, run.new.id, run.owner))
        except LogGone:
            return False
        return True

    async def _withdraw(self, key: str, new: NewLog, joined: str | None = None) -> None:
        """Free the key of a run that does not begin here: the store may have begun it, or begin it later.

        Args:
            joined: the id of the run that its caller has joined instead. Callers here must have read how that one has
                ended before this one takes its place.
        """
        patience, left = 10 * RETRY, STORE_TIMEOUT
        while joined is not None:
            await asyncio.sleep(patience)  # at first, until the caller reads
            if not self._read_here[joined]:
                break
        with suppress(LogGone):
            # First again, because the same id has no effect later on, should an earlier step be on its way yet. Each
            # attempt is short: this has to end before a reader ends a run whose lease has lapsed.
            again = partial(insist, lambda: self._store.open(key, new), patience=4 * RETRY)
            with suppress(StoreFull):  # an earlier step has perhaps begun it nevertheless
                while (state := await insist(again)).id != new.id:
                    if state.end is not None or left < 0:
                        return  # no such step begins a run, because the key stays with the other one
                    await asyncio.sleep(patience)  # until the caller of the other one may have given up
                    left -= patience
            await insist(partial(self._store.append, key, new.id, OTHER, 1, [], end=_NOT_RUN, free=True))

    def has(self, id: str) -> bool:
        """Return whether the handler of a run is here."""
        return id in self._running

    def go_on(self, run: Run, context: Context) -> None:
        """Run the handler of a run that another process has begun."""
        run.counted.adopted += 1
        self._hold(run)
        self._spawn_run(run, context)

    def _spawn_run(self, run: Run, context: Context) -> None:
        task = self.link.spawn(self._perform(run), context)
        task.add_done_callback(lambda _: run.performer.drop())  # if it was cancelled before its first step
        self._running[run.new.id] = run, task

    def _hold(self, run: Run) -> None:
        self.link.lease.hold(run.key, run.owner, run.learn, run.check_every)

    async def find(self, key: str) -> LogState | None:
        """Return the state of the run that has the key, if there is one.

        Raises:
            Overloaded: the store does not answer.
        """
        page = await self.link.ask(lambda: self._store.read(key, LAST))
        return None if page is None else page.state

    async def _perform(self, run: Run) -> None:
        if self.link.closed:
            self._refuse(run)
        try:
            await run.perform()
        finally:
            self._running.pop(run.new.id, None)
            self.link.lease.release(run.owner)

    def _refuse(self, run: Run) -> None:
        run.close(Draining("closing, the handler of this call has not started: ask again later"))
        run.frees_key = not run.is_handed_over

    def refuse_waiting(self) -> None:
        """End the runs whose handlers have not started, because this side is about to close. Their keys are free."""
        for run, _ in [*self._running.values()]:
            if not run.performer.has_started:
                self._refuse(run)

    async def stop(self, key: str, id: str) -> None:
        """Stop the handler of a run, in whichever process it runs.

        Raises:
            Overloaded: the store does not answer.
        """
        if (running := self._running.get(id)) is not None and running[0].stop(STOPPED):
            return
        with suppress(LogGone):
            await self.link.ask(lambda: self._store.append(key, id, OTHER, 1, [], end=_STOPPED))

    # ------------------------------------------------------------ reading

    async def read(self, key: str, state: LogState, after: int) -> AsyncGenerator[Unread]:
        """Yield the items of a run after a number, some at a time. The last ones come with the end of the run.

        Raises:
            ItemsGone: some of these items are no longer kept.
            RunLost: the store has lost the run.
        """
        loop, lease = asyncio.get_running_loop(), self._store.lease
        reader, id, run = secrets.token_hex(8), state.id, None
        first, after = after, min(after, state.last)
        lost_since = loop.time() if state.lost else None
        with nullcontext() if id in self._running else self.link.lease.reading(key):
            self._read_here[id] += 1
            try:
                while True:
                    if (running := self._running.get(id)) is not None:
                        run = running[0]
                        run.readers.has_read(reader, after)
                    read = partial(self._store.read, key, after, wait=lease / 2)
                    if self.link.is_shared:
                        read = partial(self._flights.do, (id, after), read)
                    page = await insist(read)
                    if page is not None and page.state.id != id and state.end is None and not after:
                        raise unanswered()  # it has not run, so its key was free, and another run has it
                    if page is None or page.state.id != id:
                        raise made_here((RunLost if state.end is None else ItemsGone)(NOTHING_KEPT))
                    state = page.state
                    if (found := Position(after, entry_id(id, after)).before(page)) != "next":
                        raise missing_items(state, *([ITEMS_LOST] if found == "reset" else []))
                    early = min(first - after, len(page.entries)) if after < first else 0
                    unread = self._keep_unread(reader, state, after + early, page.entries[early:])
                    del page
                    ended = state.end is not None and unread.after + len(unread.items) >= state.last
                    if unread.items or ended:
                        yield unread
                    after = unread.after
                    if ended and after >= state.last:
                        return
                    if not state.lost:
                        lost_since = None
                        continue
                    if state.can_move:
                        await asyncio.sleep(RETRY)
                        continue
                    if lost_since is None:
                        lost_since = loop.time()
                    # Its process may just have reached the store again.
                    if state.owner_ended or loop.time() - lost_since >= lease / 2:
                        try:
                            await self.end_lost(key, id, _PROCESS_ENDED)
                        except StoreLost:  # which perhaps its process could not reach, either
                            lost_since = None
                        except LogGone:
                            pass
            finally:
                if run is not None:
                    run.readers.has_read(reader, None)
                self._drop(reader)
                self._read_here[id] -= 1
                if not self._read_here[id]:
                    del self._read_here[id]

    async def is_over(self, key: str, id: str) -> bool:
        """Return whether a run has ended. End one that its process has lost, unless another one goes on with it.

        Raises:
            Overloaded: the store does not answer.
        """
        state = await self.find(key)
        if state is not None and state.id == id and state.lost and not state.can_move:
            with suppress(TimeoutError, RpcError):
                await asyncio.wait_for(self.end_of(key, state), self._store.lease)
            state = await self.find(key)
        return state is None or state.id != id or state.end is not None

    async def end_lost(self, key: str, id: str, end: bytes, *, free: bool = False) -> None:
        """End a log unless somebody may continue it."""
        await self._store.append(key, id, OTHER, 1, [], end=end, free=free, only_if_lost=True)

    async def end_of(self, key: str, state: LogState) -> End:
        """Wait for the end of a run, and return it. See `read`.

        Raises:
            RunLost: nothing of the run is kept.
        """
        end = state.end
        if end is None and (running := self._running.get(state.id)) is not None:
            run, task = running
            run.readers.has_read(reader := secrets.token_hex(8), LAST)
            try:
                await asyncio.wait((task, run.ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                run.readers.has_read(reader, None)
            end = run.ended.result() if run.ended.done() else None
        if end is None:  # else the run may expire before it is read
            try:
                async for page in self.read(key, state, 0):
                    end = page.state.end
                    while page.items:
                        page.pop()
            except ItemsGone:
                raise made_here(RunLost(NOTHING_KEPT)) from None
        assert end is not None
        return read_kept(end, End)

    def _keep_unread(self, reader: str, state: LogState, after: int, items: Sequence[bytes]) -> Unread:
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

    # ------------------------------------------------------------ the end

    async def wait_idle(self) -> None:
        """Wait until nothing runs. Cancelling is safe."""
        while tasks := self.unfinished():
            await asyncio.wait(tasks)

    def unfinished(self) -> list[asyncio.Task[None]]:
        """Return the tasks of the runs."""
        return [task for _, task in self._running.values()]

    def unfinished_events(self) -> list[str]:
        """Return the events of these runs."""
        return [run.counted.event for run, _ in self._running.values()]

    def open(self) -> None:
        """Begin again after `close`, perhaps in another event loop."""
        self.abandon()
        self.link.closed = self.is_closing = False

    def abandon(self) -> None:
        """Forget everything that runs, because the event loop was closed."""
        self._running.clear()
        self._unread.clear()
        self._unread_bytes = 0
        self.lanes.clear()
        self.link.abandon()

    async def close(self, patience: float) -> None:
        """Stop all handlers, and wait up to ``patience`` seconds until they have ended, and their ends are stored."""
        self.link.closed = self.is_closing = True
        self.refuse_waiting()
        # Each run has to take the first step, in which it ends as not run.
        await asyncio.wait([*self._starting.values(), spawn_later(asyncio.sleep(0))], timeout=patience)
        here = asyncio.current_task()
        others = [(run, task) for run, task in self._running.values() if task is not here]
        for run, _ in others:
            run.close(RunLost("the process that ran the handler was closed"))
        if others:
            await asyncio.wait([task for _, task in others], timeout=patience)
        await self.link.close()


_NOT_RUN = failed(unanswered())
_STOPPED = failed(STOPPED)
_PROCESS_ENDED = failed(RunLost("the process that ran the handler has ended"))


def missing_items(state: LogState, why: str = "the items before {} are no longer kept") -> ItemsGone:
    """Return the error for a position after which items are missing."""
    return made_here(ItemsGone(why.format(state.first), data=state.first))

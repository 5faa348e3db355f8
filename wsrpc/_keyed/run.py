"""`Run`: one run of a call with a key, whose handler runs in this process."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from .._core.handlers.invocation import KeyedRun
from .._core.wire.rejections import STOPPED as STOPPED_CODE
from .._core.wire.rejections import Flag, error_from_wire, error_to_wire
from .._log.contract import OTHER, Appended, LogGone, LogState, NewLog, StoreFull
from .._log.kept import UNREADABLE, read_kept
from .._log.link import StoreLink, insist
from .._log.writer import QUEUED_ENTRY, LogWriter, Unstored
from ..errors import Draining, RemoteError, RpcError, RunLost, made_here
from ..stats import RunStats
from .run_inbox import RunInbox
from .run_readers import AHEAD, RunReaders


class Performer:
    """What a run does: it runs a handler. `Runs.start` either performs or drops it."""

    async def perform(self, run: Run) -> bytes:
        """Run the handler, and return the encoded `End`. Give each item to `Run.append`.

        Raises:
            LogGone: an item could not be stored.
        """
        raise NotImplementedError

    has_started = False
    """Whether the handler may have run."""
    failed = False
    """Whether the handler has raised an error."""

    def drop(self) -> None:
        """Release the handler, which does not run."""

    def stopping(self, reason: RpcError) -> None:
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


def failed(error: RpcError) -> bytes:
    """Encode the end of a run that has failed here."""
    return _encode(End(None, True, *error_to_wire(error)))


class CountedRuns:
    """The runs of the handler of ``event`` in this process; see `RunStats`."""

    def __init__(self, event: str) -> None:
        self.event = event
        self.running = self.adopted = 0
        self.ended = Counter[str]()
        self.seconds = 0.0

    def stats(self) -> RunStats:
        return RunStats(running=self.running, ended=dict(self.ended), adopted=self.adopted, seconds=self.seconds)


class Run:
    """A run whose handler runs in this process.

    Args:
        key: the key of the run in the store.
        new: what the store gets of it.
        performer: runs the handler.
        keyed: what the handler sees of it.
        counted: counts it.
        unread: seconds without a reader after which the handler is stopped. None for no limit.
        inbox: the messages for the handler. None: there are none.

    Attributes:
        owner: the name of the writer that adds the items.
        report: called after the handler has exited, and its end is stored. None if nobody wants to know, and no other
            process adopts the run.
        may_move: whether another process adopts the run if this one closes.
        is_handed_over: whether another process has to adopt it, because this one closes.
    """

    def __init__(
        self,
        link: StoreLink,
        key: str,
        new: NewLog,
        performer: Performer,
        keyed: KeyedRun,
        counted: CountedRuns,
        unread: float | None = None,
        inbox: RunInbox | None = None,
    ) -> None:
        self._store = link.store
        self.key = key
        self.new = new
        self.performer = performer
        self._keyed = keyed
        self._unread = unread
        self._inbox = inbox
        self._link = link
        self.owner = new.id
        self.counted = counted
        self.report: Callable[[], Awaitable[None]] | None = None
        self.may_move = self.is_handed_over = False
        self.readers = RunReaders(link.store.lease)
        self.writer: LogWriter[Unstored] = LogWriter(new.id, link.spawn, self._store_items, self._stored)
        self._size = 0
        """Bytes of the items that wait to be stored."""
        self._task: asyncio.Task[None] | None = None
        """Runs the handler. None before and after."""
        self._reason: RpcError | None = None
        """Why the handler was stopped."""
        self._exited = False
        """Whether the handler runs no more, so nothing stops it."""
        self._is_lost = False
        """Whether the store has no such run, or has lost items."""
        self.frees_key = False
        """Whether the next call with the key begins another run, once this one has ended."""
        self.ended: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        """Gets how the run has ended, or None if nothing is kept of it. The handler may still clean up."""

    @property
    def end(self) -> bytes | None:
        """How it has ended. None if it has not, or nothing is kept of it."""
        return self.ended.result() if self.ended.done() else None

    def go_on(self, owner: str, last: int) -> None:
        """Go on after the items that other processes have stored, before the handler runs here."""
        self.owner = owner
        self.readers = RunReaders(self._store.lease, last)
        self.writer = LogWriter(owner, self._link.spawn, self._store_items, self._stored)
        self.writer.sequence = last

    async def perform(self) -> None:
        """Run the handler, and store how it has ended."""
        counted, time = self.counted, asyncio.get_running_loop().time
        counted.running += 1
        began = time()
        holding = None if self._inbox is None else self._link.spawn(self._inbox.hold())
        try:
            end = await self._run_handler()
            self._task, self._exited = None, True
            await self.writer.wait_stored()
            if end is not None:
                await self._store_end(end)
            if self._inbox is not None and self.ended.done():
                await self._inbox.close()
        finally:
            if holding is not None:
                holding.cancel()
            counted.running -= 1
            counted.ended[self._outcome()] += 1
            counted.seconds += time() - began
            self.writer.stop()
        if self.report is not None:
            await self.report()

    def _outcome(self) -> str:
        """Return how it has ended in this process, as in `RunStats.ended`."""
        reason = self._reason
        if not self.ended.done():
            return "handed over" if self.is_handed_over else "lost"
        if reason is None:
            return "failed" if self.performer.failed else "done"
        if isinstance(reason, Draining):
            return "not run"
        if reason is UNREAD:
            return "unread"
        return "stopped" if isinstance(reason, RemoteError) and reason.code == STOPPED_CODE else "lost"

    async def _run_handler(self) -> bytes | None:
        """Return how the handler has ended. None if it has not, and another process goes on."""
        if (reason := self._reason) is not None:  # it was stopped before
            self.performer.drop()
            return None if self.is_handed_over else failed(reason)
        self._task = asyncio.current_task()
        try:
            return await self.performer.perform(self)
        except asyncio.CancelledError:
            if self.is_handed_over or (self._reason is None and self.may_move):  # the event loop may have ended
                return None
            return failed(self._reason or RunLost("the handler was cancelled"))
        except LogGone:
            return _PART_LOST

    async def _store_end(self, end: bytes) -> None:
        # Of a run that another process has adopted, only a stop of a user is an end.
        other = OTHER if self.report is None or self._reason is STOPPED else self.owner
        with suppress(LogGone):  # nothing is left of it
            try:
                if self._is_lost:
                    raise LogGone
                await self._append_end(self.owner, end)
            except StoreFull:
                await self._append_end(other, TOO_BIG)
            except LogGone:
                await self._append_end(other, end if self._reason is STOPPED else _PART_LOST)

    async def _append_end(self, writer: str, end: bytes) -> None:
        append = partial(self._store.append, self.key, self.new.id, writer, self.writer.sequence + 1, [], end=end)
        added = await insist(partial(append, free=self.frees_key))
        self._has_ended(added.state.end)

    def _has_ended(self, end: bytes | None) -> None:
        if not self.ended.done():
            self.ended.set_result(end)

    def close(self, reason: RpcError) -> None:
        """Stop the handler, because this process closes. If possible, another one goes on."""
        self.is_handed_over = self.may_move and self._link.is_shared and self._reason is None
        self._stop(reason)

    def stop(self, reason: RpcError) -> bool:
        """Stop the handler. Return False if another process has the run now. Idempotent."""
        if self.is_handed_over and not self._exited:  # it is a stop instead
            self._reason, self.is_handed_over = None, False
        self._stop(reason)
        return not self.is_handed_over

    def _stop(self, reason: RpcError) -> None:
        if self._reason is None and not self._exited:
            self._reason = reason
            if self._task is not None:
                self.performer.stopping(reason)
                self._task.cancel()

    # ------------------------------------------------------------ items

    async def append(self, item: bytes) -> None:
        """Store an item. If the store is slower than the handler, the next items are stored together.

        Raises:
            LogGone: the store has no such run, or has lost items.
        """
        self._size += len(item) + QUEUED_ENTRY
        self.writer.add(Unstored(item))
        if self._size > AHEAD:
            await self.writer.wait_stored()
        if self._is_lost:
            raise LogGone("the store has no such run any more, or has lost items")
        await self.readers.wait_near(len(item) + QUEUED_ENTRY)

    async def _store_items(self, sequence: int, items: list[bytes]) -> Appended:
        self._size -= sum(map(len, items)) + QUEUED_ENTRY * len(items)
        try:
            if self._is_lost:
                raise LogGone  # these would take the numbers of those before them that the store does not have
            return await insist(partial(self._store.append, self.key, self.new.id, self.owner, sequence, items))
        except Exception:
            self._is_lost = True
            raise

    def _stored(self, items: list[Unstored], sequence: int, added: Appended) -> None:
        self.learn(added.state)

    # ------------------------------------------------------------ what the store says

    def learn(self, state: LogState | None) -> None:
        """Do what the store says of the run. None: the store has no such run."""
        if state is None:
            self.stop(RunLost("the store has lost the run"))
        elif state.end is not None:
            self._has_ended(state.end)
            self.stop(_reason_of(state.end))
        else:
            self._keyed.readers = state.readers + len(self.readers.names)
            if self.readers.are_missing(self._unread, reads=self._keyed.readers > 0):
                self.stop(UNREAD)

    @property
    def check_every(self) -> float:
        """Seconds after which the run has to learn how many read it."""
        return inf if self._unread is None else max(0.01, self._unread / 2)


STOPPED = RemoteError("the handler was stopped", STOPPED_CODE)
UNREAD = RemoteError("the handler was stopped, because nobody reads it", STOPPED_CODE)


def _reason_of(end: bytes) -> RemoteError:
    """Return why another process has ended a run."""
    try:
        read_kept(end, End).result()
    except RemoteError as exc:
        return exc
    except UNREADABLE:
        pass
    return RunLost("another process has ended the run")


TOO_BIG = failed(RemoteError("the result is too big to be kept"))
_PART_LOST = failed(RunLost("the store has lost a part of the run"))

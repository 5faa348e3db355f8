"""`Adopter`: a run that its process has lost goes on in another one, and its end is told."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from math import inf
from typing import Any, Literal
from weakref import WeakKeyDictionary

from msgspec import UNSET, Struct, UnsetType

from .._base.logs import logger
from .._core.api.peer import Peer, core_of
from .._core.handlers.callables import name_of
from .._core.handlers.compiled import Handler
from .._core.handlers.invocation import CURRENT, Call, Earlier, Invocation, KeyedRun
from .._core.handlers.lifecycle import attempted
from .._core.handlers.lookup import find
from .._core.handlers.method import Keep
from .._core.wire.call_context import CallContext
from .._core.wire.messages import WireMessage, context_of
from .._log.contract import ListedLog, LogGone, NewLog, StoreLost, is_rest
from .._log.kept import UNREADABLE, Encode, read_kept
from .._log.link import RELEASE_TIMEOUT, insist
from .._log.position import LAST
from ..errors import RpcError, RunLost
from .performing import HandlerPerformer
from .run import STOPPED, End, Performer, Run
from .run_inbox import InboxReader, inbox_of
from .runs import Runs

LOOK = 0.5
"""Seconds between two looks for lost runs. Half as many if one will perhaps be lost in a moment."""
AT_ONCE = 16
"""How many lost runs a process adopts in one look. It looks again in a moment: meanwhile, others adopt some, too."""
AFTER_ALL = 10**14 - 1
"""A sequence after that of each entry."""
ATTEMPT_DELAY = 2.0
"""Seconds for which a lost run waits for its next attempt, for each attempt that was lost before: a run that kills its
processes must not kill all workers at once."""

Outcome = Literal["done", "failed", "stopped", "lost"]


def plain_principal(principal: object) -> str | int | None:
    """Return a principal without what a subclass adds. None if it is neither text nor an integer."""
    if isinstance(principal, str):
        return str.__str__(principal)
    return int.__int__(principal) if isinstance(principal, int) else None


class KeptCall(Struct, omit_defaults=True):
    """What a run needs in another process. ``args`` begins with the event."""

    channel: str | None
    args: list[Any]
    key: str
    principal: str | int | None = None
    metadata: dict[str, str] | UnsetType = UNSET


class EndedRun(Struct, frozen=True, kw_only=True):
    """A run that has ended, for ``on_end=`` of `Keep`.

    Attributes:
        id: the id of the run. If the function is called again, it is the same.
        key, event, args, metadata: those of the call.
        channel_name: the name of the channel. None for the main channel.
        principal: `Peer.principal` of the caller, if it is a string or an integer. Otherwise None.
        outcome: "done"; "failed": the handler has raised an error; "stopped": somebody has stopped it, or nobody has
            read it; "lost": too many processes have ended that ran it.
        error: what the callers get. None if it is done.
        result: what the handler has returned. None for a stream.
        items: the items that are kept, as they arrive at a caller.
        complete: whether these are all items.
        attempt: the number of the last attempt.
    """

    id: str
    key: str
    event: str
    channel_name: str | None
    args: tuple[Any, ...]
    metadata: dict[str, str]
    principal: str | int | None
    outcome: Outcome
    error: RpcError | None
    result: Any
    items: list[Any]
    complete: bool
    attempt: int


class Attempt(Struct, eq=False):
    """One attempt of a run, in this process."""

    handler: Handler
    keep: Keep
    call: KeptCall
    compiled: Call
    own: Invocation
    """The call as the handler sees it."""
    keyed: KeyedRun
    context: Context
    """The `contextvars` context in which it runs."""

    def start(self) -> Any:
        """Call the handler. Return what it returns, which has not started.

        Raises:
            CallRefused: the arguments do not fit.
        """
        message = self.own.inbound
        message.i = 0  # too many arguments are refused, as with any request
        try:
            return self.context.run(self.compiled, self.own, message.a)
        finally:
            message.i = UNSET


class Adopter:
    """Adopts runs that other processes have lost, and reports the ends of runs.

    Args:
        absent_peer: returns a peer that was never connected, with a principal.
    """

    def __init__(self, runs: Runs, encode: Encode, absent_peer: Callable[[object], Peer]) -> None:
        self._runs = runs
        self._store = runs.link.store
        self._encode = encode
        self._absent_peer = absent_peer
        self._calls: WeakKeyDictionary[Handler, Call] = WeakKeyDictionary()
        """How the handlers are called whose runs can move."""
        self._context = copy_context()  # without what middleware sets, because no other process has that
        self._watching: asyncio.Task[None] | None = None
        self._lost: dict[tuple[str, int], float] = {}
        """When this process has first seen each lost run, by its id and attempt."""

    def add(self, handler: Handler, call: Call) -> None:
        """Let the runs of a handler go on in any process."""
        self._calls[handler] = call
        self._runs.watch = self.watch

    # ------------------------------------------------------------ attempts

    def first_attempt(self, invocation: Invocation, a: list[Any], keyed: KeyedRun) -> Attempt:
        """Return the first attempt of the run of a call.

        Raises:
            TypeError: only this peer has the handler, so no other process does.
        """
        principal, context = plain_principal(invocation.peer.principal), context_of(invocation.inbound)
        metadata = UNSET if context is None else context.metadata
        attempt = self._attempt(KeptCall(invocation.channel_name, list(a), keyed.key, principal, metadata), keyed)
        if attempt is None or attempt.handler is not invocation.handler:
            text = f"attempts= and on_end= of {invocation.full_event!r} are for handlers of all peers of a server"
            raise TypeError(text)
        return attempt

    def _attempt(self, call: KeptCall, keyed: KeyedRun) -> Attempt | None:
        """Return an attempt. None: this process does not have the handler."""
        peer = self._absent_peer(call.principal)
        core, context = core_of(peer), self._context.copy()
        handler = find(core.options.own, call.channel, call.args[0]).handler
        if handler is None or (compiled := self._calls.get(handler)) is None:
            return None
        channel = UNSET if call.channel is None else call.channel
        message = WireMessage(a=list(call.args), c=channel, ctx=CallContext(metadata=call.metadata))
        own = Invocation(peer, message, core.current.dispatcher, handler=handler, keyed=keyed)
        context.run(CURRENT.set, own)
        assert handler.keep is not None
        return Attempt(handler, handler.keep, call, compiled, own, keyed, context)

    def prepare(self, run: Run, attempt: Attempt) -> None:
        """Let a run go on in another process, if this one ends, and report its end."""
        run.may_move = attempt.keep.attempts > 1
        run.report = partial(self._report, run, attempt)

    # ------------------------------------------------------------ lost runs

    def watch(self) -> None:
        """Look for lost runs from now on, until this process begins to close. Idempotent."""
        if self._watching not in self._runs.link.tasks and not self._runs.is_closing:
            self._watching = self._runs.link.spawn(self._watch())

    async def _watch(self) -> None:
        failures = self._runs.link.failures
        while not self._runs.is_closing:
            pause = await self._look(failures)
            if failures != self._runs.link.failures:  # the processes may live that could not renew their leases
                failures = self._runs.link.failures
                await asyncio.sleep(self._store.lease / 2)
            else:
                await asyncio.sleep(pause)

    async def _look(self, failures: int) -> float:
        """Adopt lost runs, as long as the store answers. Return the seconds until the next look."""
        now = asyncio.get_running_loop().time()
        pause, after, is_last, adopted, seen = LOOK, 0, False, 0, dict[tuple[str, int], float]()
        while not is_last:
            page = await insist(partial(self._store.pending, "", after))
            if self._runs.link.failures != failures:
                return LOOK
            for log in random.sample(page, len(page)):
                after = max(after, log.number)
                if not log.lost:
                    pause = LOOK / 2
                if not log.lost or self._runs.has(log.id):
                    continue
                since = seen[log.id, log.attempt] = self._lost.get((log.id, log.attempt), now)
                if log.released or now >= since + ATTEMPT_DELAY * log.attempt:
                    try:
                        adopted += await self._adopt(log, is_new=since == now)
                    except Exception:
                        logger.exception("the lost run %s cannot go on in this process", log.id)
                if adopted == AT_ONCE:
                    self._lost |= seen
                    return LOOK / 4
            is_last = is_rest(page)
        self._lost = seen
        return pause

    async def _adopt(self, log: ListedLog, *, is_new: bool) -> bool:
        """Go on with a lost run, unless another process does so, or this one lacks its handler. Return whether so."""
        try:
            call = read_kept(log.payload, KeptCall)
        except UNREADABLE as exc:
            if is_new:
                logger.warning("the call of the lost run %s cannot be read: %s", log.id, exc)
            return False
        keyed = KeyedRun(call.key)
        if self._runs.is_closing or (attempt := self._attempt(call, keyed)) is None:
            return False
        owner = f"{secrets.token_hex(8)}-{log.attempt}"
        self._runs.link.lease.hold(log.key, owner, lambda state: None, inf)  # first, so that a close releases it
        try:
            state = await insist(partial(self._store.adopt, log.key, log.id, owner))
        except LogGone:
            self._runs.link.lease.release(owner)
            return False
        keyed.attempt = state.attempt + 1
        if state.end is not None:
            self._runs.link.spawn(self._report_end(log.key, log.id, owner, state.end, attempt))
            return True
        keep, own = attempt.keep, attempt.own
        keyed.read_earlier = partial(self._items, log.key, log.id, state.last)
        performer: Performer = Performer()
        error: RpcError | None = None
        if state.attempt >= keep.attempts:
            error = RunLost(f"the processes of {state.attempt} attempts have ended")
        else:
            try:
                performer = HandlerPerformer(own, attempt.start(), self._encode, None)
            except Exception as exc:
                error = own.dispatcher.answers.for_caller(exc, own)
        counted = self._runs.counted_of(own.full_event)
        new = NewLog(id=log.id, payer="", keep=0.0)
        inbox = inbox_of(self._runs.link, self._encode, attempt.handler, log.id, "")
        if inbox is not None:
            keyed.inbox = InboxReader(inbox, attempt.handler, log.id)
        run = Run(self._runs.link, log.key, new, performer, keyed, counted, keep.unread, inbox)
        run.go_on(owner, state.last)
        self.prepare(run, attempt)
        if error is not None:
            run.stop(error)
        else:
            logger.info("attempt %d of the run %s of %s", keyed.attempt, log.id, attempt.handler.name)
        self._runs.go_on(run, attempt.context)
        return True

    # ------------------------------------------------------------ the end

    async def _report(self, run: Run, attempt: Attempt) -> None:
        """Report the end of a run, or release the run to another process."""
        if run.end is not None:
            await self._report_end(run.key, run.new.id, run.owner, run.end, attempt)
        elif run.is_handed_over:
            with suppress(StoreLost):  # then it is lost when its lease has lapsed
                await insist(partial(self._store.release, {run.key: run.owner}), patience=RELEASE_TIMEOUT)

    async def _report_end(self, key: str, id: str, owner: str, end: bytes, attempt: Attempt) -> None:
        """Call ``on_end``, if this process has the run, and note that this is done."""
        on_end = attempt.keep.on_end
        try:
            if on_end is not None:
                await insist(partial(self._store.adopt, key, id, owner))
                ended = await self._ended(key, id, end, attempt)
                try:
                    await attempted(on_end, ended)
                except Exception:
                    text = "on_end=%s failed for the run %s; as long as the run is kept, it is called again"
                    logger.exception(text, name_of(on_end), id)
                    return
            await insist(partial(self._store.append, key, id, owner, AFTER_ALL, [], end=b""))
        except LogGone:  # another process has it, or nothing is kept of it
            pass
        finally:
            self._runs.link.lease.release(owner)

    async def _ended(self, key: str, id: str, end: bytes, attempt: Attempt) -> EndedRun:
        """Return what ``on_end`` gets."""
        call, earlier = attempt.call, await self._items(key, id)
        outcome: Outcome = "done"
        result, error = None, None
        try:
            result = read_kept(end, End).result()
        except RpcError as exc:
            outcome = "lost" if isinstance(exc, RunLost) else "stopped" if exc.code == STOPPED.code else "failed"
            error = exc
        event, *args = call.args
        return EndedRun(
            id=id,
            key=call.key,
            event=event,
            channel_name=call.channel,
            args=tuple(args),
            metadata={} if call.metadata is UNSET else call.metadata,
            principal=call.principal,
            outcome=outcome,
            error=error,
            result=result,
            items=earlier.items,
            complete=earlier.complete,
            attempt=min(attempt.keyed.attempt, attempt.keep.attempts),
        )

    async def _items(self, key: str, id: str, last: int = LAST) -> Earlier:
        """Return the items of a run that are kept, up to a number."""
        found, after, complete = list[Any](), 0, True
        while after < last:
            page = await insist(partial(self._store.read, key, after))
            if page is None or page.state.id != id:
                return Earlier(found, complete=False)
            entries = page.entries[: max(0, last + 1 - page.number)]
            complete = complete and page.number == after + 1
            if not entries:
                break
            found += [read_kept(entry, list)[0] for entry in entries]
            after = page.number - 1 + len(entries)
        return Earlier(found, complete)

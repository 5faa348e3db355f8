"""`AwayCalls`: calls to peers that may be away. Each call waits in a store, and is made when its peer is connected."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from functools import partial
from math import inf
from typing import Any, Literal, Protocol, Self
from weakref import WeakValueDictionary

from msgspec import Struct

from .._base.closing import CloseCode
from .._base.logs import logger
from .._base.names import ChannelRef
from .._base.retry import NEVER_RAN, may_have_run
from .._core.handlers.invocation import KeyedRun
from .._core.wire.call_context import CallContext
from .._core.wire.codecs import Codec
from .._core.wire.messages import RequestOptions
from .._core.wire.nodes import as_raised, error_to_node
from .._core.wire.rejections import error_from_wire
from .._keyed.runs import HANDED_OVER, OTHER, WITHDRAWN, End, Performer, Run, Runs, failed
from .._log.contract import AdoptedLog, LogGone, LogState, NewLog, Store, StoreLost
from .._log.kept import UNREADABLE, encoder_of, hash_of, read_kept
from .._log.link import insist
from .._log.position import LAST
from ..errors import ConnectionLost, PeerNotFound, RemoteError, RequestTimeout, RunLost, WsrpcError
from ._directory import NODE_TIMEOUT
from ._submitted_call import SubmittedCall, WaitingCall

PAUSE = 1.0
"""Seconds until a peer that is there, but could not be called, is called again."""

DELIVERIES = 5
"""How often one process hands a call over, if the connection is lost each time before the answer. It may be the call
that ends the peer's program."""

UNNOTICED = NODE_TIMEOUT + 2.0
"""Seconds for which a process that was killed may count as there, so that answers for it are lost."""

KEPT = 60.0
"""Seconds for which an answer is kept at least."""

UNANSWERED, ONCE_MORE = -inf, 0.0
"""Earlier than any time. If the store did not answer, calls are adopted again, however long ago a process has ended.
Once it has answered, they are adopted once more: it may have done late what it did not answer."""

STATES: dict[int, Literal["waiting", "running"]] = {0: "waiting", len(HANDED_OVER): "running"}
"""What a call does that has not ended, by the number of entries of its log."""

WITHDRAWN_END = failed(error_to_node(WsrpcError("the call was withdrawn before it was handed over")))

Ask = Callable[[ChannelRef, str, tuple[Any, ...], RequestOptions], Coroutine[Any, Any, Any]]
"""A method of `Sender` that makes a request."""


class AwaySender(Protocol):
    """Sends to the peer with an address. `ClusterSender` implements this protocol."""

    def check_connected(self) -> None:
        """Raise the error of a request that cannot be sent now, if the peer is known to have no connection."""
        ...

    @property
    def send_request(self) -> Ask:
        """Makes a request."""
        ...


class AwayCall(Struct):
    """A call as it waits in the store.

    Attributes:
        within: seconds in which the call has to be handed over to the peer, from its beginning.
        timeout: seconds for which the answer is awaited, each time that the call was handed over.
        submitted: whether nobody need wait for the answer, so that a failure is kept, too.
    """

    channel: str | None
    event: str
    args: list[Any]
    context: CallContext
    within: float
    timeout: float | None
    submitted: bool = False


def _key_in_store(address: str, channel: ChannelRef, event: str, key: Any) -> str:
    return hash_of(("away", address, channel, event, key))


def _error_of(end: End) -> Exception:
    return as_raised(error_from_wire(end.error, end.flag))


async def _add_first(store: Store, key: str, id: str, entries: list[bytes]) -> LogState | None:
    """Add the first entries of a call's log, unless it has some, or has ended. Return its state, or None without a log.

    Raises:
        StoreLost: the store does not answer. It may add them later.
    """
    with suppress(LogGone):
        return (await store.append(key, id, id, 1, entries)).state
    page = await store.read(key, LAST)  # it may have forgotten that it has such a batch
    return page.state if page is not None and page.state.id == id else None


def _described(state: LogState | None) -> SubmittedCall:
    if state is None:
        return SubmittedCall("unknown")
    if state.last == len(WITHDRAWN) and state.end in (None, WITHDRAWN_END):
        return SubmittedCall("withdrawn")
    if state.end is None:
        return SubmittedCall(STATES[min(state.last, len(HANDED_OVER))])
    end = read_kept(state.end, End)
    return SubmittedCall("failed", error=_error_of(end)) if end.failed else SubmittedCall("done", end.value)


@contextmanager
def as_others_error() -> Generator[None]:
    """Raise an error of the store anew. If a handler lets it pass, it is no error of the handler's own call."""
    try:
        yield
    except RemoteError as exc:
        raise _anew(exc) from None


def _anew(error: RemoteError) -> RemoteError:
    made = type(error)(error.message)
    made.outcome = error.outcome
    return made


def _is_answer(error: Exception) -> bool:
    """Return whether the peer has answered with an error, and would answer with the same one again."""
    return isinstance(error, RemoteError) and not isinstance(error, NEVER_RAN)


def _may_arrive(error: Exception) -> bool:
    """Return whether the call may reach the peer later. Nothing was sent also if its ``timeout`` was over before."""
    # A peer that has just connected may hang, so that it does not say in time whether it knows keys.
    is_silent = isinstance(error, RequestTimeout) or type(error) is WsrpcError
    return isinstance(error, (*NEVER_RAN, StoreLost)) or (is_silent and not may_have_run(error))


class AwayPerformer(Performer):
    """Waits for a peer, and makes a call. Makes it again if the peer may answer then.

    It performs several runs, one after another, if the store loses them.

    Args:
        failure: the error if the peer does not connect. None for `PeerNotFound`.
        age: seconds that have passed since the call began.
    """

    def __init__(
        self, calls: AwayCalls, address: str, call: AwayCall, failure: Exception | None = None, age: float = 0.0
    ) -> None:
        self._calls = calls
        self._address = address
        self._call = call
        self._absent = PeerNotFound(address, call.within)
        self.failure = failure or self._absent
        self.until = asyncio.get_running_loop().time() + call.within - age
        """When the call has to be handed over."""
        self._deliveries = 0
        """How often the call was handed over, and not answered."""

    async def perform(self, run: Run) -> bytes:
        calls, call, loop = self._calls, self._call, asyncio.get_running_loop()
        # Not in the queue of a session: the peer would get the call from there after the deadline.
        options = RequestOptions(timeout=call.timeout, offline="fail", context=call.context)
        while loop.time() < self.until and self._deliveries < DELIVERIES:
            arrived = calls.arrivals.setdefault(self._address, asyncio.Event())
            try:
                sender = calls.sender_to(self._address)
                sender.check_connected()
                state = await self._hand_over(run)
                if state is None or state.end is not None or state.last != len(HANDED_OVER):
                    return WITHDRAWN_END  # which counts unless the call has ended
                if loop.time() >= self.until:
                    break
                answer = await sender.send_request(call.channel, call.event, tuple(call.args), options)
                return calls.encode(End(answer))
            except Exception as exc:
                if _is_answer(exc):
                    return self._failed(exc)
                if may_have_run(exc) or not (may_have_run(self.failure) or type(exc) in (ConnectionLost, StoreLost)):
                    self.failure = self._absent if isinstance(exc, PeerNotFound) else exc
                self._deliveries += may_have_run(exc)
                if self._deliveries == DELIVERIES or not _may_arrive(exc):
                    break
                again = self.until if isinstance(exc, PeerNotFound) else min(self.until, loop.time() + PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(again):
                    await arrived.wait()
        if self._deliveries == DELIVERIES:
            self.failure = RunLost(f"handed over {DELIVERIES} times, and the connection was lost before each answer")
        run.frees_key = not call.submitted
        return self._failed(self.failure)

    async def _hand_over(self, run: Run) -> LogState | None:
        """Note in the store that the call is handed over: each time, as another process may have withdrawn or ended it.

        Raises:
            StoreLost: a store of the user's own has raised another error.
        """
        add = partial(_add_first, self._calls.link.store, run.key, run.new.id, HANDED_OVER)
        try:
            async with self._calls.turn(self._address):
                return await insist(add)
        except WsrpcError:
            raise
        except Exception as exc:
            raise StoreLost(str(exc)) from exc

    def _failed(self, failure: Exception) -> bytes:
        if self._call.submitted:
            asked = self._call.event, self._call.context.key, self._address
            logger.warning("the call of %r with the key %r that was submitted for %r has failed: %s", *asked, failure)
        return failed(error_to_node(failure))


class AwayCalls:
    """The calls to peers of a cluster that may be away.

    Args:
        sender_to: returns what sends to the peer with an address.
    """

    def __init__(self, runs: Runs, codec: Codec, sender_to: Callable[[str], AwaySender]) -> None:
        self.sender_to = sender_to
        self.encode = encoder_of(codec)
        self.arrivals: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        """Set when the peer with an address is connected. Those who wait for it hold the event."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.link = runs.link
        self._runs = runs
        self._connected: dict[str, float] = {}
        """Peers whose calls are adopted again, with the times at which they have connected, `UNANSWERED`, or
        `ONCE_MORE`."""
        self._adopting: asyncio.Task[None] | None = None
        self.ended_at = asyncio.get_running_loop().time()
        """When another process has last ended, as far as is known."""
        self._answered: dict[str, float] = {}
        """Peers of this process that have answered a call of another one, with the time of the last answer."""
        self._left = asyncio.Event()
        """Set when another process has left the cluster, after it has ended its leases."""

    def turn(self, address: str) -> asyncio.Lock:
        """Return the lock under which the calls to a peer are handed over, so that they keep their order."""
        return self._turns.setdefault(address, asyncio.Lock())

    @property
    def outlive_process(self) -> bool:
        """Whether other processes may make the calls of this one."""
        return self.link.is_shared

    def lasting(self) -> Self:
        """Return these calls.

        Raises:
            ValueError: they end with this process.
        """
        if not self.outlive_process:
            raise ValueError(
                "a submitted call needs a store that outlives this process: pass the same store= to all processes"
            )
        return self

    # ------------------------------------------------------------ making calls

    async def submit(self, address: str, payload: bytes) -> None:
        """Let an encoded call wait in the store, unless there is a call with its key. Cancelling may not stop this.

        Raises:
            KeyReused: the call with its key has other arguments.
            Overloaded: the store has no room, or does not answer.
            WsrpcError: the call with its key has failed.
        """
        call = read_kept(payload, AwayCall)
        performer = AwayPerformer(self, address, call)
        with as_others_error():
            _, state, _ = await self._start(address, call, payload, performer)
        if state.end is not None and (end := read_kept(state.end, End)).failed:
            raise _error_of(end)
        if state.lost:
            await self._adopt(address)

    async def _start(
        self, address: str, call: AwayCall, payload: bytes, performer: AwayPerformer
    ) -> tuple[str, LogState, bool]:
        """Begin a call, or find the one with its key. Return its key in the store, its state, and whether it is new."""
        key = _key_in_store(address, call.channel, call.event, call.context.key)
        new = NewLog(
            id=secrets.token_hex(8),
            payer=f"address {address}",
            keep=max(call.within, KEPT),
            owned=True,
            arguments=hash_of(call.args),
            topic=address,
            payload=payload,
        )
        state = await self._runs.start(Run(self.link, key, new, performer, KeyedRun("")), Context())
        return key, state, state.id == new.id

    async def request(self, address: str, call: AwayCall) -> Any:
        """Make a call, or join the call with its key, and return the answer. Cancelling stops only the waiting.

        Raises:
            TypeError, ValueError: an argument cannot be encoded.
            KeyReused: the call with its key has other arguments.
            RequestTimeout: the store, or the call that this one has joined, takes too long.
            WsrpcError: the call has failed.
        """
        payload = self.encode(call)
        limit = None if call.timeout is None else call.within + call.timeout
        waiting = self.link.spawn(self._request(address, read_kept(payload, AwayCall), payload))
        try:
            await asyncio.wait((waiting,), timeout=limit)
            if limit is not None and not waiting.done():
                raise RequestTimeout(call.event, limit)
            if waiting.cancelled():
                raise ConnectionLost(CloseCode.GOING_AWAY, "this process leaves the cluster", "unknown")
            return waiting.result()
        finally:
            waiting.cancel()

    async def _request(self, address: str, call: AwayCall, payload: bytes) -> Any:
        performer, loop = AwayPerformer(self, address, call), asyncio.get_running_loop()
        while True:
            try:
                key, state, is_own = await self._start(address, call, payload, performer)
                end = await self._runs.end_of(key, state, partial(self._adopt, address))
            except RemoteError as exc:
                failure = _anew(exc)  # if a handler lets it pass, it is no error of the handler's own call
                # Another run has taken its place, or the store has lost it.
                if not isinstance(exc, RunLost) or loop.time() >= performer.until:
                    raise failure from None
                performer.failure = failure
            else:
                if not end.failed:
                    return end.value
                error = _error_of(end)
                # What has ended before has not freed the key: a submitted call.
                if is_own or state.end is not None or _is_answer(error) or loop.time() >= performer.until:
                    raise error
            call.within = performer.until - loop.time()  # for who may continue the next run
            payload = self.encode(call)

    async def find(self, address: str, channel: ChannelRef, event: str, key: str) -> SubmittedCall:
        """Return what the store has of a call. Changes nothing.

        Raises:
            Overloaded: the store does not answer.
        """
        key = _key_in_store(address, channel, event, key)
        with as_others_error():
            state = await self._runs.find(key)
            if state is not None and state.lost and not state.last:  # nobody may be left to end it at its deadline
                for log, call in await self._pending(address):
                    if log.key == key and log.age > call.within:
                        return SubmittedCall("failed", error=PeerNotFound(address, call.within))
        return _described(state)

    async def waiting(self, address: str) -> list[WaitingCall]:
        """Return the calls to a peer that have not ended, the oldest first. Changes nothing.

        Raises:
            ValueError: the store cannot list them.
            Overloaded: the store does not answer.
        """
        if getattr(self.link.store, "pending", None) is None:
            raise ValueError(f"the store {self.link.store!r} cannot list calls: it has no method `pending`")
        with as_others_error():
            found, now = await self._pending(address), time.time()
        calls = list[WaitingCall]()
        for log, call in found:
            since, state = now - log.age, STATES.get(log.last)
            if state == "running" or (state is not None and log.age <= call.within):
                key, until = str(call.context.key), since + call.within
                calls.append(WaitingCall(call.event, call.args, key, call.channel, since, until, state))
        return calls

    async def _pending(self, address: str) -> list[tuple[AdoptedLog, AwayCall]]:
        """Return the calls to a peer that have not ended, the oldest first, if the store can list them."""
        pending: Callable[[str], Awaitable[Sequence[AdoptedLog]]] | None = getattr(self.link.store, "pending", None)
        logs: Sequence[AdoptedLog] = () if pending is None else await self.link.ask(partial(pending, address))
        found = list[tuple[AdoptedLog, AwayCall]]()
        for log in logs:
            with suppress(*UNREADABLE):  # of a later version
                found.append((log, read_kept(log.payload, AwayCall)))
        return found

    async def withdraw(self, address: str, channel: ChannelRef, event: str, key: str) -> SubmittedCall:
        """End a call unless it was handed over, and return what the store has of it then.

        Raises:
            Overloaded: the store does not answer.
        """
        store, key = self.link.store, _key_in_store(address, channel, event, key)

        async def end(id: str) -> LogState | None:
            state = await _add_first(store, key, id, WITHDRAWN)
            if state is not None and state.end is None and state.last == len(WITHDRAWN):
                state = (await store.append(key, id, OTHER, 1, [], end=WITHDRAWN_END)).state
            return state

        with as_others_error():
            while (state := await self._runs.find(key)) and state.end is None and state.last != len(HANDED_OVER):
                with suppress(LogGone):  # it has just ended, and freed its key
                    state = await self.link.ask(partial(end, state.id))
                    break
        if state is not None:
            self._runs.learn(state)
        return _described(state)

    # ------------------------------------------------------------ peers that connect

    def peer_arrived(self, address: str) -> None:
        """Make the calls of this process that wait for a peer, which is connected to any process."""
        if self.arrivals and (arrived := self.arrivals.pop(address, None)) is not None:
            arrived.set()

    def peer_connected(self, address: str) -> None:
        """Make the calls that wait for a peer, which is connected to this process."""
        self.peer_arrived(address)
        self.caller_left(address)

    def caller_left(self, address: str) -> None:
        """Make the calls of other processes to a peer, which is connected to this one, when they have ended."""
        if self.outlive_process and not self.link.closed:
            self.link.spawn(self._adopt(address))
            self._adopt_later(address, asyncio.get_running_loop().time())

    def answered(self, address: str) -> None:
        """A peer that is connected to this process has answered a call of another one."""
        now = asyncio.get_running_loop().time()
        self._answered.pop(address, None)
        self._answered[address] = now
        while now - self._answered[oldest := next(iter(self._answered))] > UNNOTICED:
            del self._answered[oldest]

    def process_ended(self, silent: bool) -> None:
        """Another process has left the cluster. If it was ``silent``, its leases last for a while."""
        self.ended_at = asyncio.get_running_loop().time()
        if not silent:
            self._left.set()
            return
        for address, at in self._answered.items():
            if self.ended_at - at < UNNOTICED:
                self.caller_left(address)

    def _adopt_later(self, address: str, connected_at: float) -> None:
        self._connected[address] = min(connected_at, self._connected.get(address, connected_at))
        if self._adopting is None or self._adopting.done():
            self._left.clear()
            self._adopting = self.link.spawn(self._adopt_again())

    async def _adopt_again(self) -> None:
        """Adopt the calls of processes that have ended shortly before the peers have connected, or afterwards."""
        loop, lapsed = asyncio.get_running_loop(), self.link.store.lease + PAUSE
        while connected := self._connected:
            self._connected = {}
            due = loop.time() + lapsed  # the lease of a process that was killed just now lapses first
            while await self._left_before(due):
                for address in [*connected, *self._connected]:
                    await self._adopt(address)
            for address, at in connected.items():
                is_due = at <= ONCE_MORE or at - self.ended_at < lapsed
                if is_due and await self._adopt(address) and at == UNANSWERED:
                    self._adopt_later(address, ONCE_MORE)

    async def _left_before(self, due: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._left.wait()
                self._left.clear()
                return True
        return False

    async def _adopt(self, address: str) -> bool:
        def performer(log: AdoptedLog) -> AwayPerformer:
            failure = None
            if log.last:  # it was handed over
                failure = ConnectionLost(CloseCode.ABNORMAL, "the process that made the call has ended", "unknown")
            return AwayPerformer(self, address, read_kept(log.payload, AwayCall), failure, log.age)

        is_done = await self._runs.adopt(address, performer)
        if not is_done:
            self._adopt_later(address, UNANSWERED)
        return is_done

"""`Deliverer`: hands over the calls that wait for one address, in the order in which they were stored.

Only the process to which the peer is connected hands them over, whichever process has stored them. What a store without
other processes keeps, its own process hands over.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from math import inf
from typing import Any

from msgspec import Struct

from ..._base.closing import CloseCode
from ..._base.logs import OF_ONE_SERVER, LogBudget, logger
from ..._base.retry import NEVER_RAN, may_have_run
from ..._core.api.calls import Message
from ..._core.wire.call_context import CallContext
from ..._core.wire.messages import RequestOptions
from ..._core.wire.nodes import error_to_node
from ..._keyed.run import TOO_BIG, End, failed
from ..._log.contract import MOST_TOPICS, OTHER, ListedLog, LogGone, LogState, StoreFull, Topic, is_rest
from ..._log.kept import UNREADABLE, Encode, read_kept
from ..._log.link import StoreLink, insist
from ...errors import ConnectionLost, PeerNotFound, RemoteError, RequestTimeout, RunLost, WsrpcError
from .._addresses import Addresses

REFUSED_PAUSE = 1.0
"""Seconds until a call that a peer has refused is handed over again."""

DELIVERIES = 5
"""How often a call is handed over, if the connection is lost each time before the answer. It may be the call that ends
the peer's program."""

SUSPECT = 2
"""Number of deliveries after which a call goes alone, so that others do not count as those that end the program."""

MOST_IN_FLIGHT = 16
"""Maximum number of calls that are handed over and not answered, so that the others can still be withdrawn."""

EXPIRED_AT_ONCE = 20
"""Maximum number of addresses for which each process looks at once whether the time of their calls is over."""

MOST_KNOWN = 1000
"""Maximum number of calls that a deliverer has in memory. It reads the others later."""

Deliver = Callable[[str, Message, RequestOptions], Coroutine[Any, Any, Any]]
"""Makes a request of another process to the peer with an address."""


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


class Step(Enum):
    """What comes next for a call."""

    ADOPT = "this process becomes the owner of its log"
    SEND = "it is sent to the peer"
    WAIT = "the peer answers"


class Delivery(Struct, eq=False):
    """A call that is to be handed over. ``ended`` gets its encoded end, or None if it is not known here."""

    key: str
    id: str
    call: AwayCall
    until: float
    """The time, of the event loop, at which it is not handed over any more."""
    ended: asyncio.Future[bytes | None]
    before: int
    """How often it was handed over, by any process, and not answered."""
    step: Step = Step.ADOPT
    owner: str = ""
    """The name of this process as the owner of its log. Empty before that."""
    failure: Exception | None = None
    """Why it was not answered when this process has last handed it over."""


class Deliverer:
    """Hands over the calls that wait for one address. It has them in memory, or the first of them.

    Args:
        deliverers: those of this process.
    """

    def __init__(self, address: str, deliverers: Deliverers) -> None:
        self._address = address
        self._deliverers = deliverers
        self._link = deliverers.link
        self._calls: dict[str, Delivery] = {}
        """By the ids of their logs, in their order."""
        self._newest = ""
        """The id of the last call that was known."""
        self._last_listed: int = 0
        self.is_complete = False
        """Whether all calls that wait are known."""
        self._in_flight: set[asyncio.Task[None]] = set()
        """Tasks that wait for the answers to calls that were handed over."""
        self._is_suspect = False
        """Whether the call that was handed over last may be the one that ends the peer's program: it goes alone."""
        self._session: object = None
        """The session of the peer in which they were handed over."""
        self._not_before = -inf
        """When the next call is handed over, because the peer has refused one."""
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ what waits

    def knows(self, id: str) -> bool:
        """Return whether a call with this id is or was the newest, or has not ended."""
        return id in ("", self._newest) or id in self._calls

    def add(self, key: str, id: str, call: AwayCall, before: str) -> asyncio.Future[bytes | None] | None:
        """Take a call that has just begun, and return what gets its end. None if others have to be read first.

        Args:
            before: the id of the call before it. Empty if there is none.
        """
        if not self.is_complete or not self.knows(before) or len(self._calls) >= MOST_KNOWN:
            return None
        return self._receive(key, id, call, call.within).ended

    def _receive(self, key: str, id: str, call: AwayCall, left: float, before: int = 0) -> Delivery:
        if (delivery := self._calls.get(id)) is None:
            loop = asyncio.get_running_loop()
            delivery = self._calls[id] = Delivery(key, id, call, loop.time() + left, loop.create_future(), before)
            self._newest = id
            self.wake()
        return delivery

    def ended(self, id: str) -> asyncio.Future[bytes | None] | None:
        """Return what gets the end of a call. None if it is not known here."""
        delivery = self._calls.get(id)
        return None if delivery is None else delivery.ended

    def look(self) -> None:
        """Read the store, because there are calls that are not known."""
        self.is_complete = False
        self.wake()

    def connected(self) -> None:
        """The peer has connected, or has said what it supports."""
        self._not_before = -inf
        self.wake()

    def wake(self) -> None:
        """Do what there is to do."""
        self._changed.set()
        if self._running is None or self._running.done():
            self._running = self._link.spawn(self._run())

    def drop(self, id: str, end: bytes | None = None) -> None:
        """A call has ended, or another process hands it over. Idempotent."""
        if (delivery := self._calls.pop(id, None)) is not None:
            self._link.lease.release(id)
            delivery.ended.set_result(end)
            self._changed.set()

    # ------------------------------------------------------------ the order

    async def _run(self) -> None:
        try:
            while self._is_wanted and (self._calls or not self.is_complete):
                self._changed.clear()
                await self._step()
        finally:
            self._deliverers.idle(self._address, self)
            for id in [*self._calls]:
                self.drop(id)

    @property
    def _is_wanted(self) -> bool:
        return self._deliverers.has(self._address, self)

    async def _step(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [each for each in self._calls.values() if each.step is not Step.WAIT]
        if not self.is_complete and len(due) < MOST_IN_FLIGHT:
            await self._list()
        elif late := next((each for each in due if each.until <= now), None):
            await self._expire(late)
        elif due and self._may_hand_over(due[0], now):
            if due[0].step is Step.ADOPT:
                await self._adopt(due[0])  # then another step, because the peer may have left meanwhile
            else:
                self._send(due[0])
        else:
            times = [each.until for each in due] + ([self._not_before] if self._not_before > now else [])
            if not self._link.is_shared:
                times.append(now + REFUSED_PAUSE)  # no event says that the engine is reachable again
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(times, default=None)):
                    await self._changed.wait()

    def _may_hand_over(self, delivery: Delivery, now: float) -> bool:
        if now < self._not_before or len(self._in_flight) >= MOST_IN_FLIGHT:
            return False
        if self._in_flight and (self._is_suspect or delivery.before >= SUSPECT):
            return False
        session = self._peer_session
        if session is not self._session and not self._in_flight:
            self._session = session  # those of the one before come first
        return session is not None and session is self._session

    @property
    def _peer_session(self) -> object:
        return self._deliverers.addresses.session_of(self._address)

    async def _list(self) -> None:
        self.is_complete = True  # unless a call comes meanwhile
        pending: Callable[[], Awaitable[Sequence[ListedLog]]]
        pending = partial(self._link.store.pending, self._address, self._last_listed)
        try:
            found = await insist(pending)
        except BaseException:
            self.is_complete = False
            raise
        for log in found:
            self._last_listed, self._newest = log.number, log.id
            try:
                call = read_kept(log.payload, AwayCall)
            except UNREADABLE as exc:  # no other process can read it, either, or only one of a later version
                logger.warning("a call for %r cannot be read: %s", self._address, exc)
            else:
                self._receive(log.key, log.id, call, call.within - log.age, log.attempt)
        if not is_rest(found):
            self.is_complete = False

    # ------------------------------------------------------------ one call

    async def _adopt(self, delivery: Delivery) -> None:
        owner = f"{_PROCESS}-{next(_owners)}"
        try:
            state = await insist(partial(self._link.store.adopt, delivery.key, delivery.id, owner))
        except LogGone:  # it was withdrawn, or has ended, or its time is over
            await self._expire(delivery)
            self.drop(delivery.id)
            return
        if delivery.id not in self._calls:
            return
        delivery.owner, delivery.before, delivery.step = owner, state.attempt - 1, Step.SEND
        self._link.lease.hold(delivery.key, delivery.id, partial(self._learn, delivery), inf)
        if delivery.before >= DELIVERIES:
            text = f"handed over {DELIVERIES} times, and the connection was lost before each answer"
            await self._end_failed(delivery, RunLost(text))

    def _send(self, delivery: Delivery) -> None:
        delivery.step, self._is_suspect = Step.WAIT, delivery.before >= SUSPECT
        self._deliverers.counts["delivered"] += 1
        task = self._link.spawn(self._deliver(delivery))
        self._in_flight.add(task)
        task.add_done_callback(self._delivered)

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._changed.set()

    async def _deliver(self, delivery: Delivery) -> None:
        call = delivery.call
        # Not in the queue of a session: the peer would get the call from there after the deadline.
        options = RequestOptions(timeout=call.timeout, offline="fail", context=call.context)
        if not self._is_wanted or self._peer_session is not self._session:
            delivery.step = Step.SEND
            return
        message = call.channel, call.event, tuple(call.args)
        try:
            answer = await self._deliverers.deliver(self._address, message, options)
            end = self._deliverers.encode(End(answer))
        except Exception as exc:
            if is_answer(exc):
                end = self._deliverers.failed(self._address, call, exc)
            elif not may_have_run(exc) and _may_arrive(exc):
                self._not_before = asyncio.get_running_loop().time() + REFUSED_PAUSE  # unless the peer connects before
                delivery.step = Step.SEND
                if not isinstance(exc, ConnectionLost):
                    delivery.failure = delivery.failure or exc
                return
            elif may_have_run(exc) and (isinstance(exc, ConnectionLost) or self._peer_session is not self._session):
                delivery.failure, delivery.before, delivery.step = exc, delivery.before + 1, Step.ADOPT
                return
            else:
                await self._end_failed(delivery, exc)
                return
        await self._end(delivery, OTHER, end)

    async def _expire(self, delivery: Delivery) -> None:
        """End a call whose time is over."""
        call, key, id = delivery.call, delivery.key, delivery.id
        failure = delivery.failure or lost_call(self._address, call, delivery.before)
        if delivery.owner:
            await self._end_failed(delivery, failure)
            return
        try:
            state = await self._deliverers.end_lost(self._address, key, id, call, failure)
        except LogGone:
            self.drop(id)
            return
        if state.end is None:  # by the clock of the store, it has some time left, or another process waits
            delivery.until = asyncio.get_running_loop().time() + max(0.05, state.known_in)
        else:
            self.drop(id, state.end)

    async def _end_failed(self, delivery: Delivery, failure: Exception) -> None:
        """End a call without an answer, unless another process has handed it over later."""
        end = self._deliverers.failed(self._address, delivery.call, failure)
        await self._end(delivery, delivery.owner, end, free=not delivery.call.submitted)

    async def _end(self, delivery: Delivery, writer: str, end: bytes, *, free: bool = False) -> None:
        append = partial(self._link.store.append, delivery.key, delivery.id, writer, 1, [])
        ended: bytes | None = None
        with suppress(LogGone):  # it has ended, or another process hands it over
            try:
                ended = (await insist(partial(append, end=end, free=free))).state.end
            except StoreFull:
                ended = (await insist(partial(append, end=TOO_BIG))).state.end
        self.drop(delivery.id, ended)

    def _learn(self, delivery: Delivery, state: LogState | None) -> None:
        if state is None or state.end is not None:
            self.drop(delivery.id, None if state is None else state.end)
        elif state.attempt != delivery.before + 1 and delivery.step is not Step.ADOPT:  # another process hands it over
            self._link.lease.release(delivery.id)


class Deliverers:
    """Those of the addresses whose calls this process hands over.

    Args:
        addresses: the peers of this process.
    """

    def __init__(self, link: StoreLink, encode: Encode, addresses: Addresses, deliver: Deliver) -> None:
        self.link = link
        self.encode = encode
        self.addresses = addresses
        addresses.peer_connected, addresses.peer_left = self.peer_connected, self.peer_left
        self.deliver = deliver
        self._found: dict[str, Deliverer] = {}
        self.counts = Counter[str]()
        """How many calls were ``"delivered"``, have ``"expired"``, and were submitted and have ``"failed"``."""
        self._budget = LogBudget(*OF_ONE_SERVER)
        self.waiting, self.oldest = 0, 0.0
        """How many calls of all addresses have not ended, and the age of the oldest in seconds, at the last count."""

    def has(self, address: str, deliverer: Deliverer) -> bool:
        """Return whether this process hands over the calls to an address by this deliverer."""
        return self._found.get(address) is deliverer and self._hands_over(address)

    def _hands_over(self, address: str) -> bool:
        return not self.link.closed and (not self.link.is_shared or self.addresses.find(address) is not None)

    def get(self, address: str) -> Deliverer | None:
        """Return the deliverer of a peer. None if another process hands its calls over, or nobody."""
        deliverer = self._found.get(address)
        if deliverer is None and self._hands_over(address):
            deliverer = self._found[address] = Deliverer(address, self)
        return deliverer

    def idle(self, address: str, deliverer: Deliverer) -> None:
        """A deliverer has nothing to do. As long as the peer is here, it knows that nothing waits in a common store."""
        if not self.link.is_shared and self._found.get(address) is deliverer:
            del self._found[address]

    def peer_connected(self, address: str) -> None:
        """A peer has connected, to any process, or has said what it supports."""
        deliverer = self.get(address) if self.link.is_shared else self._found.get(address)
        if deliverer is not None:
            deliverer.connected()

    def peer_left(self, address: str) -> None:
        """The session of a peer with this process has ended."""
        if self.link.is_shared and (deliverer := self._found.pop(address, None)) is not None:
            deliverer.wake()

    async def end_lost(self, address: str, key: str, id: str, call: AwayCall, failure: Exception) -> LogState:
        """End a call whose time is over, unless another process waits for its answer.

        Raises:
            LogGone: there is no such call.
        """
        end = failed(error_to_node(failure))
        append = partial(self.link.store.append, key, id, OTHER, 1, [], end=end, free=not call.submitted)
        state = (await insist(partial(append, only_if_lost=True))).state
        if state.end == end:
            self.counts["expired"] += isinstance(failure, PeerNotFound)
            self.failed(address, call, failure)
        return state

    def failed(self, address: str, call: AwayCall, failure: Exception) -> bytes:
        """Return the end of a call that has failed. Count and log it if nobody need wait for it."""
        if call.submitted:
            self.counts["failed"] += 1
            event = call.event if call.channel is None else f"{call.channel}:{call.event}"
            how = "expired" if isinstance(failure, PeerNotFound) else "failed"
            text = f"the call of %r with the key %r that was submitted for %r has {how}: %s"
            fields = {"address": address, "event": event}
            self._budget.log(logging.WARNING, text, event, call.context.key, address, failure, fields=fields)
        return failed(error_to_node(failure))

    async def expire(self, address: str) -> None:
        """End the calls to an address whose time is over. Its peer may never connect again."""
        after, is_last = 0, False
        while not is_last:
            page: Sequence[ListedLog] = await insist(partial(self.link.store.pending, address, after))
            is_last = is_rest(page)
            for log in page:
                after = log.number
                with suppress(LogGone, *UNREADABLE):
                    if log.lost:
                        call = read_kept(log.payload, AwayCall)
                        await self.end_lost(address, log.key, log.id, call, lost_call(address, call, log.attempt))

    async def sweep(self) -> None:
        """Find the calls that this process does not know, because their callers have ended.

        Also count all that waits, and end that whose time is over.
        """
        expired = 0  # the number of the last list of which this was done
        while True:
            await asyncio.sleep(self.link.store.lease)
            counts, oldest, left = dict[str, int](), 0.0, EXPIRED_AT_ONCE
            async for each in topics(lambda after: insist(partial(self.link.store.topics, after))):
                counts[each.name], oldest = each.count, max(oldest, each.age)
                if (deliverer := self._found.get(each.name)) is not None:
                    if not deliverer.knows(each.newest):
                        deliverer.look()
                elif left and each.number > expired:
                    await self.expire(each.name)
                    expired, left = each.number, left - 1
            if left:
                expired = 0
            self.waiting, self.oldest = sum(counts.values()), oldest


async def topics(page_after: Callable[[int], Awaitable[Sequence[Topic]]]) -> AsyncGenerator[Topic]:
    """Yield all lists, page by page. A list that gets a log meanwhile may come again."""
    after, is_last = 0, False
    while not is_last:
        page = await page_after(after)
        is_last = len(page) < MOST_TOPICS
        for each in page:
            after = each.number
            yield each


def is_answer(error: Exception) -> bool:
    """Return whether the peer has answered with an error, and would answer with the same one again."""
    return isinstance(error, RemoteError) and not isinstance(error, NEVER_RAN)


def lost_call(address: str, call: AwayCall, deliveries: int) -> WsrpcError:
    """Return the error of a call whose time is over, and that was handed over so often."""
    return LOST_CALL if deliveries else PeerNotFound(address, call.within)


def _may_arrive(error: Exception) -> bool:
    """Return whether the peer may take a call later that it has not got."""
    # A peer that has just connected may hang, so that it does not say in time whether it knows keys.
    return isinstance(error, (*NEVER_RAN, RequestTimeout)) or type(error) is WsrpcError


LOST_CALL = ConnectionLost(CloseCode.ABNORMAL, "the process that handed the call over has ended", "unknown")
_PROCESS = secrets.token_hex(8)
_owners = itertools.count(1)

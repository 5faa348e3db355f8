"""`AwayCalls`: calls to peers that may be away. Each waits in a store, until the `Deliverer` of its address has it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal, Self

from ..._base.closing import CloseCode
from ..._base.names import ChannelRef
from ..._core.wire.codecs import Codec
from ..._core.wire.nodes import as_raised, error_to_node
from ..._core.wire.rejections import error_from_wire
from ..._keyed.run import End, failed
from ..._keyed.runs import NOTHING_KEPT, Runs
from ..._log.contract import ListedLog, LogGone, LogState, NewLog, is_rest
from ..._log.kept import UNREADABLE, encoder_of, hash_of, read_kept
from ..._log.link import insist
from ...errors import (
    ConnectionLost,
    KeyReused,
    Overloaded,
    PeerNotFound,
    RemoteError,
    RequestTimeout,
    RunLost,
    WsrpcError,
    made_here,
)
from .._addresses import Addresses
from .._nodes.links import NodeLinks
from ..engine import RESPONSE_TIMEOUT
from .deliverer import AwayCall, Deliver, Deliverers, is_answer, lost_call, topics
from .submitted_call import SubmittedCall, WaitingCall, WaitingCalls

MAKE = "make"
"""Request to make a call to a peer of the node, whose caller may end at once."""

SHORTEST_KEEP = 60.0
"""Seconds for which an answer is kept at least."""

GRACE = 0.5
"""Seconds for which those who have joined a call leave it to its caller to end it when its time is over."""

CALLS_FULL = (
    "too many calls wait for this address, or the store is full: give the store a larger waiting= or payer_bytes="
)

WITHDRAWN_END = failed(error_to_node(WsrpcError("the call was withdrawn before it was handed over")))


def _key_in_store(address: str, channel: ChannelRef, event: str, key: Any) -> str:
    return hash_of(("away", address, channel, event, key))


def _error_of(end: End) -> Exception:
    return as_raised(error_from_wire(end.error, end.flag))


def _described(address: str, state: LogState | None) -> SubmittedCall:
    if state is None:
        return SubmittedCall("unknown")
    if state.end is None:
        if state.lost and not state.attempt:
            return SubmittedCall("expired", error=PeerNotFound(address))
        return SubmittedCall("running" if state.attempt else "waiting")
    if state.end == WITHDRAWN_END:
        return SubmittedCall("withdrawn")
    end = read_kept(state.end, End)
    if not end.failed:
        return SubmittedCall("done", end.value)
    error = _error_of(end)
    return SubmittedCall("expired" if isinstance(error, PeerNotFound) else "failed", error=error)


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


class AwayCalls:
    """The calls to peers of a cluster that may be away.

    Args:
        addresses, links: the peers of this process, and the sessions with other processes.
    """

    def __init__(self, runs: Runs, codec: Codec, addresses: Addresses, links: NodeLinks, deliver: Deliver) -> None:
        self.encode = encoder_of(codec)
        self.link = runs.link
        self._runs = runs
        self._addresses = addresses
        self._links = links
        self.deliverers = Deliverers(self.link, self.encode, addresses, deliver)
        links.on(MAKE, self._asked_to_make)

    def lasting(self) -> Self:
        """Return these calls.

        Raises:
            ValueError: they end with this process.
        """
        if not self.link.is_shared:
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
        with as_others_error():
            end = await self._make(address, payload, waits=False)
        if end and (ended := read_kept(end, End)).failed:
            raise _error_of(ended)

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
        loop = asyncio.get_running_loop()
        until = loop.time() + call.within
        while True:
            try:
                is_own, end = await self._make(address, payload, waits=True)
                ended = read_kept(end, End)
            except RemoteError as exc:
                failure = _anew(exc)  # if a handler lets it pass, it is no error of the handler's own call
                # Another call has taken its place, or the store has lost it.
                if not isinstance(exc, RunLost) or loop.time() >= until:
                    raise failure from None
            else:
                if not ended.failed:
                    return ended.value
                error = _error_of(ended)
                if is_own or is_answer(error) or loop.time() >= until:
                    raise error
            call.within = until - loop.time()
            payload = self.encode(call)

    async def _make(self, address: str, payload: bytes, *, waits: bool) -> Any:
        """Make a call, at the process that has the peer if there is one; see `_make_here`."""
        id = secrets.token_hex(8)
        node = self._addresses.elsewhere(address) if self.link.is_shared else None
        if node is None:
            return await self._make_here(address, id, payload, waits=waits)
        with suppress(WsrpcError):
            other, timeout = await self._links.reach(node), None if waits else RESPONSE_TIMEOUT
            returns: Any = tuple[bool, bytes] if waits else bytes
            return await other.request(MAKE, address, id, payload, waits, timeout=timeout, returns=returns)
        # It may have begun the call, which this process finds by the id; or it may have said why it has not.
        try:
            return await self._make_here(address, id, payload, waits=waits)
        except Overloaded as exc:
            exc.outcome = "unknown"
            raise

    async def _asked_to_make(self, address: str, id: str, payload: bytes, waits: bool) -> Any:
        """Handle a request of another node to make a call to a peer of this node, with the `AwayCall` that it sends."""
        if not self.link.is_shared:
            raise error_to_node(RemoteError("this node has no store that outlives it"))
        try:
            return await self._make_here(address, id, payload, waits=waits)
        except WsrpcError as exc:
            raise error_to_node(exc) from None

    async def _make_here(self, address: str, id: str, payload: bytes, *, waits: bool) -> Any:
        """Make a call here, perhaps for another process, which may be gone soon.

        Returns:
            What `_made` returns; or, if it does not wait, the end of the call with the key, or ``b""``.
        """
        call = read_kept(payload, AwayCall)
        if waits:
            return await self._made(address, id, call, payload)
        key, state, _ = await self._start(address, id, call, payload)
        if state.end is None and state.lost:
            await self.deliverers.expire(address)
            state = await self._runs.find(key) or state
        return state.end or b""

    async def _start(
        self, address: str, id: str, call: AwayCall, payload: bytes
    ) -> tuple[str, LogState, asyncio.Future[bytes | None] | None]:
        """Begin a call, or find the one with its key. Return its key in the store, its state, and what gets its end."""
        key = _key_in_store(address, call.channel, call.event, call.context.key)
        new = NewLog(
            id=id,
            payer=f"address {address}",
            keep=max(call.within, SHORTEST_KEEP),
            owned=True,
            arguments=hash_of(call.args),
            topic=address,
            within=call.within,
            payload=payload,
        )
        state, ended = await self._runs.start_log(key, new, CALLS_FULL), None
        if state.arguments != new.arguments:
            raise made_here(KeyReused("the key belongs to a call with other arguments"))
        if state.end is None and (deliverer := self.deliverers.get(address)) is not None:
            ended = deliverer.ended(state.id)
            if ended is None and state.id == id:
                ended = deliverer.add(key, id, call, state.behind)
            if ended is None:
                deliverer.look()
        return key, state, ended

    async def _made(self, address: str, id: str, call: AwayCall, payload: bytes) -> tuple[bool, bytes]:
        """Make a call, and wait for its end. Return whether nobody else has begun it, or it had ended before.

        Raises:
            RunLost: the store has lost it.
        """
        key, state, ended = await self._start(address, id, call, payload)
        is_own = state.id == id or state.end is not None
        if ended is not None:
            await asyncio.wait((ended,), timeout=self.link.store.lease)
            if ended.done() and (end := ended.result()) is not None:
                return is_own, end
        free, grace = state.id == id and not call.submitted, GRACE if state.id != id else 0.0
        while state.end is None:
            wait = min(max(0.05, state.known_in), self.link.store.lease) + grace
            if state.lost:
                end, wait = failed(error_to_node(lost_call(address, call, state.attempt))), 0.0
                with suppress(LogGone):
                    await insist(partial(self._runs.end_lost, key, state.id, end, free=free))
            page = await insist(partial(self.link.store.read, key, 0, wait=wait))
            if page is None or page.state.id != state.id:
                raise made_here(RunLost(NOTHING_KEPT))
            state = page.state
        return is_own, state.end

    async def find(self, address: str, channel: ChannelRef, event: str, key: str) -> SubmittedCall:
        """Return what the store has of a call. Changes nothing.

        Raises:
            Overloaded: the store does not answer.
        """
        with as_others_error():
            return _described(address, await self._runs.find(_key_in_store(address, channel, event, key)))

    async def waiting(self, address: str) -> list[WaitingCall]:
        """Return the calls to a peer that have not ended, the oldest first. Changes nothing.

        Raises:
            Overloaded: the store does not answer.
        """
        calls, after, now = list[WaitingCall](), 0, time.time()
        while True:
            pending: Callable[[], Awaitable[Sequence[ListedLog]]]
            pending = partial(self.link.store.pending, address, after)
            with as_others_error():
                found = await self.link.ask(pending)
            for log in found:
                with suppress(*UNREADABLE):  # of a later version
                    call, since = read_kept(log.payload, AwayCall), now - log.age
                    state: Literal["waiting", "running"] = "running" if log.attempt else "waiting"
                    times = since, since + call.within
                    if not log.lost:
                        key = str(call.context.key)
                        calls.append(WaitingCall(call.event, call.args, key, call.channel, *times, state))
            if is_rest(found):
                return calls
            after = found[-1].number

    async def addresses(self) -> AsyncGenerator[WaitingCalls]:
        """Yield the addresses with calls that have not ended. One that gets a call meanwhile may be yielded again.

        Raises:
            Overloaded: the store does not answer.
        """
        now = time.time()
        with as_others_error():
            async for each in topics(lambda after: self.link.ask(partial(self.link.store.topics, after))):
                yield WaitingCalls(each.name, each.count, now - each.age)

    async def withdraw(self, address: str, channel: ChannelRef, event: str, key: str) -> SubmittedCall:
        """End a call unless it was handed over, and return what the store has of it then.

        Raises:
            Overloaded: the store does not answer.
        """
        key = _key_in_store(address, channel, event, key)
        with as_others_error():
            while (state := await self._runs.find(key)) and state.end is None and not (state.attempt or state.lost):
                # As its first owner, which it no longer is if it was handed over meanwhile, or has freed its key.
                append = partial(self.link.store.append, key, state.id, state.id, 1, [], end=WITHDRAWN_END)
                with suppress(LogGone):
                    state = (await self.link.ask(append)).state
                    break
        if state is not None and state.end is not None and (deliverer := self.deliverers.get(address)) is not None:
            deliverer.drop(state.id, state.end)
        return _described(address, state)

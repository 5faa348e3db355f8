"""`PeerForwarder`: passes on to the clients of this node what other nodes send them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from .._base.closing import CloseCode
from .._base.logs import logger
from .._base.scheduler import Tasks
from .._core.api.anonymous import channel_of
from .._core.api.peer import Peer, core_of, current_of
from .._core.channels.channel_core import ChannelCore
from .._core.channels.source import complete_step
from .._core.handlers.compiled import Handler
from .._core.handlers.invocation import Invocation
from .._core.sending.sender import Sender
from .._core.sending.session_writer import SessionWriter
from .._core.wire.messages import RequestOptions, event_on
from .._core.wire.nodes import error_to_node
from ..errors import ChannelClosed, PeerNotFound, QueueFull, UnknownEvent, WsrpcError, made_here, one_line
from ._item_forwarder import ItemForwarder

VALUE, CHANNEL = "\0", "\1"
"""What follows the address: the caller wants a value, or a channel."""

TOO_SLOW = "the events for it wait for a slow consumer"
TASK = 1024
"""Bytes that a waiting event takes besides its own."""


def place(address: str, channel: str | None, *, wants_channel: bool = False) -> str:
    """Return the name of the channel between two nodes for what is meant for ``channel`` of a peer."""
    return f"{address}{CHANNEL if wants_channel else VALUE}{channel or ''}"


class PeerForwarder:
    """Passes on events and requests to peers of this node, and what is said on the channels that answer them.

    Args:
        find: returns the peer of this node that has an address.
    """

    def __init__(self, find: Callable[[str], Peer | None]) -> None:
        self._find = find
        self._joined: dict[ChannelCore, ChannelCore] = {}
        """The channels that are joined, each with the other one."""
        self._tasks = Tasks()
        self.handler = Handler(_relayed, call=self._call)
        """Handles everything that another node sends for a peer."""
        self._waiting: Counter[SessionWriter] = Counter()
        """Bytes of the events that wait in tasks for their turn, by where they wait."""
        self.lost = 0
        """Events that reached no peer."""

    def __repr__(self) -> str:
        return f"<PeerForwarder, {self.joined} channels>"

    @property
    def joined(self) -> int:
        """How many channels are open that go on to a peer."""
        return len(self._joined) // 2

    async def close(self) -> None:
        """Pass nothing on any more."""
        await self._tasks.cancel()

    # ------------------------------------------------------------ a message

    def _call(self, ctx: Invocation, a: list[Any]) -> Any:
        """Pass on a message, now if that is possible. Return an awaitable if there is more to do."""
        h = ctx.inbound.h
        if h is not None:
            source = ctx.dispatcher.channels.find(h)
            joined = None if source is None else self._joined.get(source)
            if joined is None:
                if ctx.id is None:
                    return None  # it was sent before the other side could know
                raise made_here(UnknownEvent(f"channel {h} is over"))
            if ctx.id is None and not joined.writer.between_nodes:
                fail = partial(joined.abort, TOO_SLOW)
                return self._forward_event(
                    joined.writer,
                    joined.start_sending(),
                    joined.id,
                    a,
                    joined.unread_memory.limits.hard_cap_bytes,
                    fail,
                )
            return self._pass_on(ctx, joined.start_sending(), joined.id, a, wants_channel=True)
        on = ctx.inbound.c or ""
        wants = CHANNEL if CHANNEL in on.partition(VALUE)[0] else VALUE  # the first one: a channel's name may have both
        address, found, channel = on.partition(wants)
        if not found:
            raise made_here(UnknownEvent(f"nodes have no event {one_line(str(a[0]))!r}"))
        peer = self._find(address)
        if peer is not None:
            sender, current = core_of(peer).sender, current_of(peer)
            if ctx.id is None:
                fail = partial(current.session.fail, CloseCode.SLOW_CONSUMER, "slow consumer")
                return self._forward_event(
                    current.writer, sender, channel or None, a, current.session.negotiation.limits.hard_cap_bytes, fail
                )
            return self._pass_on(ctx, sender, channel or None, a, wants_channel=wants == CHANNEL)
        if ctx.id is None:
            self.lost += 1
            return None
        raise error_to_node(PeerNotFound(address))

    def _forward_event(
        self,
        writer: SessionWriter,
        sender: Sender,
        on: str | int | None,
        a: list[Any],
        most: int,
        fail: Callable[[], None],
    ) -> None:
        """Pass an event on to a peer of this node.

        Nobody waits for that: for the caller the event was sent, and what waited here in a handler would hold up, in
        the end, everything that the calling node sends to all peers. So the event waits in the peer's connection, or
        in a task behind the messages that wait for their turn there.

        Args:
            most: bytes that may wait in tasks.
            fail: is called if too much waits.
        """
        try:
            if not writer.callers_wait:
                sender.send_event_nowait(on, a[0], tuple(a[1:]))
                return
            size = len(writer.terms.encode(event_on(on, tuple(a)))) + TASK
            if self._waiting[writer] + size > most:
                raise QueueFull(f"{self._waiting[writer]} bytes of events wait")
        except QueueFull:
            self.lost += 1
            fail()
        except WsrpcError as exc:
            self._event_lost(exc)
        else:
            waits = self._at_once(self._event(sender, on, a))
            if waits is not None:
                self._waiting[writer] += size
                self._tasks.spawn(self._wait(writer, size, waits))

    async def _wait(self, writer: SessionWriter, size: int, waits: Awaitable[None]) -> None:
        try:
            await waits
        finally:
            self._waiting[writer] -= size
            if not self._waiting[writer]:
                del self._waiting[writer]

    def _event_lost(self, exc: WsrpcError) -> None:
        self.lost += 1
        logger.info("an event from another node was not sent: %s", exc)

    def _pass_on(
        self, ctx: Invocation, sender: Sender, on: str | int | None, a: list[Any], *, wants_channel: bool
    ) -> Any:
        if ctx.id is None:
            return self._at_once(self._event(sender, on, a))
        options = RequestOptions.relayed(ctx.inbound, wants_channel=wants_channel)
        return self._at_once(self._request(ctx, sender, on, a, options))

    def _at_once(self, step: Any) -> Any:
        """Make the first step of a coroutine now, so that messages keep their order. Return the rest, or its result."""
        try:
            waits_for = step.send(None)
        except StopIteration as exc:  # how a coroutine returns
            return exc.value
        return _rest(step, waits_for)

    async def _event(self, sender: Sender, on: str | int | None, a: list[Any]) -> None:
        try:
            await sender.send_event(on, a[0], tuple(a[1:]))
        except WsrpcError as exc:
            self._event_lost(exc)

    async def _request(
        self, ctx: Invocation, sender: Sender, on: str | int | None, a: list[Any], options: RequestOptions
    ) -> Any:
        try:
            answer = await sender.send_request(on, a[0], tuple(a[1:]), options)
        except WsrpcError as exc:
            if options.within_call and isinstance(exc, ChannelClosed):
                await self._wait_closed(ctx)
            raise error_to_node(exc) from None
        if answer.__class__ is not ChannelCore:
            return answer
        return self._answer_with(ctx, answer)

    # ------------------------------------------------------------ channels

    async def _wait_closed(self, ctx: Invocation) -> None:
        """Wait until the channel that a request came on ends as the other one has: then the caller knows the reason."""
        source = None if ctx.inbound.h is None else ctx.dispatcher.channels.find(ctx.inbound.h)
        if source is not None:
            await source.wait_closed()

    def _answer_with(self, ctx: Invocation, far: ChannelCore) -> Any:
        """Answer with a channel that is joined to ``far``."""
        try:
            near = ctx.make_channel()
        except BaseException:
            far.abort(None)
            raise
        near.writer.loop.call_soon(lambda: self._join(near, far))  # when the answer has been sent
        return channel_of(ctx)

    def _join(self, near: ChannelCore, far: ChannelCore) -> None:
        if near.over:  # the request was cancelled meanwhile
            far.abort(None)
            return
        for one, other in ((near, far), (far, near)):
            self._joined[one] = other
            one.own_registry().fall_back_to(self.handler)
            one.on_end = partial(self._parted, one)
            if one.over:
                self._parted(one)
        ItemForwarder(far, near, self._tasks.spawn)
        ItemForwarder(near, far, self._tasks.spawn)
        near.mailbox.listen()
        far.mailbox.listen()

    def _parted(self, channel: ChannelCore) -> None:
        self._joined.pop(channel, None)


def _relayed(*_: Any) -> None:
    """Is shown in logs as the handler of what other nodes send."""


async def _rest(step: Any, waits_for: Any) -> Any:
    return await complete_step(step, waits_for)

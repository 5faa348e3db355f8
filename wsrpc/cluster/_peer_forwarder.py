"""`PeerForwarder`: forwards the messages of other nodes to the clients of this node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from .._base.closing import CloseCode
from .._base.logs import logger
from .._base.scheduler import Tasks
from .._core.api import calls
from .._core.api.caller import user_channel_of
from .._core.api.peer import Peer, core_of, current_of
from .._core.channels.channel_core import ChannelCore
from .._core.channels.source import StartedStep
from .._core.handlers.compiled import Handler
from .._core.handlers.invocation import Invocation
from .._core.sending.sender import Sender
from .._core.sending.session_writer import SessionWriter
from .._core.wire.messages import RequestOptions, context_of, event_on
from .._core.wire.nodes import error_to_node, read_place
from ..errors import ChannelClosed, PeerNotFound, QueueFull, UnknownEvent, WsrpcError, made_here, one_line
from ._item_forwarder import ItemForwarder

TOO_SLOW = "the events for it wait for a slow consumer"
TASK = 1024
"""Bytes that a waiting event counts for besides its own bytes."""


class PeerForwarder:
    """Forwards events and requests to peers of this node, and the messages on the channels that answer requests.

    Args:
        find: a function that returns the peer of this node with an address, or None.
        around: functions that run around each request to a peer, each an `OutgoingFunction`.
    """

    def __init__(self, find: Callable[[str], Peer | None], around: Sequence[Any]) -> None:
        self._find = find
        self._around = around
        self._joined: dict[ChannelCore, ChannelCore] = {}
        """The joined channels. The value is the other channel of the pair."""
        self._tasks = Tasks()
        self.handler = Handler(_relayed, call=self._call)
        """Handles all messages of other nodes for peers."""
        self._waiting: Counter[SessionWriter] = Counter()
        """Bytes of the events that wait in tasks, by the writer for which they wait."""
        self.lost = 0
        """Events that reached no peer."""
        self.passed_on = 0
        """Requests to peers, without those within a call."""

    def __repr__(self) -> str:
        return f"<PeerForwarder, {self.joined} channels>"

    @property
    def joined(self) -> int:
        """Number of open channels that are joined to a channel of a peer."""
        return len(self._joined) // 2

    async def close(self) -> None:
        """Stop forwarding."""
        await self._tasks.cancel()

    # ------------------------------------------------------------ a message

    def _call(self, ctx: Invocation, a: list[Any]) -> Any:
        """Forward a message, now if possible. Return an awaitable if there is more to do."""
        h = ctx.inbound.h
        if h is not None:
            source = ctx.dispatcher.channels.find(h)
            joined = None if source is None else self._joined.get(source)
            if joined is None:
                if ctx.id is None:
                    return None  # it was sent before the other side could know of the end
                raise made_here(UnknownEvent(f"channel {h} is over"))
            if ctx.id is None and not joined.writer.settings.between_nodes:
                fail = partial(joined.abort, TOO_SLOW)
                most = joined.unread_memory.limits.hard_cap_bytes
                return self._forward_event(joined.writer, joined.start_sending(), joined.id, ctx, most, fail)
            return self._pass_on(ctx, joined.start_sending(), joined.id, a, wants_channel=True)
        to = read_place(ctx.inbound.c or "")
        if to is None:
            raise made_here(UnknownEvent(f"nodes have no event {one_line(str(a[0]))!r}"))
        peer = self._find(to.address)
        if peer is not None:
            sender, current = core_of(peer).requester, current_of(peer)
            if ctx.id is None:
                fail = partial(current.session.fail, CloseCode.SLOW_CONSUMER, "slow consumer")
                most = current.session.negotiation.limits.hard_cap_bytes
                return self._forward_event(current.writer, sender, to.channel, ctx, most, fail)
            return self._pass_on(ctx, sender, to.channel, a, wants_channel=to.wants_channel)
        if ctx.id is None:
            self.lost += 1
            return None
        raise error_to_node(PeerNotFound(to.name))

    def _forward_event(
        self,
        writer: SessionWriter,
        sender: Sender,
        on: str | int | None,
        ctx: Invocation,
        most: int,
        fail: Callable[[], None],
    ) -> None:
        """Forward an event to a peer of this node.

        The handler does not wait until the event is sent. Handlers that wait would in the end delay all messages of the
        calling node to all peers. So the event waits in the peer's connection, or in a task, after the messages that
        wait there already.

        Args:
            most: maximum bytes that may wait in tasks.
            fail: a function that is called if more bytes wait.
        """
        a, options = ctx.inbound.a, RequestOptions(context=context_of(ctx.inbound))
        try:
            if not writer.room_gate.has_callers:
                sender.send_event_nowait(on, a[0], tuple(a[1:]), options)
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
            waits = self._at_once(self._event(sender, on, a, options))
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
            return self._at_once(self._event(sender, on, a, RequestOptions(context=context_of(ctx.inbound))))
        options = RequestOptions.relayed(ctx.inbound, wants_channel=wants_channel)
        return self._at_once(self._request(ctx, sender, on, a, options))

    def _at_once(self, step: Any) -> Any:
        """Run the first step of a coroutine now, to keep the order of messages. Return its result, or the rest."""
        try:
            waits_for = step.send(None)
        except StopIteration as exc:  # how a coroutine returns
            return exc.value
        return StartedStep(step, waits_for)

    async def _event(self, sender: Sender, on: str | int | None, a: list[Any], options: RequestOptions) -> None:
        try:
            await sender.send_event(on, a[0], tuple(a[1:]), options)
        except WsrpcError as exc:
            self._event_lost(exc)

    async def _request(
        self, ctx: Invocation, sender: Sender, on: str | int | None, a: list[Any], options: RequestOptions
    ) -> Any:
        try:
            message = on, a[0], tuple(a[1:])
            if options.within_call:
                answer = await sender.send_request(*message, options)
            else:
                self.passed_on += 1
                answer = await calls.pass_on(self._around, sender, message, options)
        except (WsrpcError, ValueError) as exc:  # ValueError: the peer ignores keys
            if options.within_call and isinstance(exc, ChannelClosed):
                await self._wait_closed(ctx)
            raise error_to_node(exc) from None
        if answer.__class__ is not ChannelCore:
            return answer
        return self._answer_with(ctx, answer)

    # ------------------------------------------------------------ channels

    async def _wait_closed(self, ctx: Invocation) -> None:
        """Wait until the channel of a request has ended, as its joined channel has, so that the reason is known."""
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
        near.writer.loop.call_soon(lambda: self._join(near, far))  # after the answer was sent
        return user_channel_of(ctx)

    def _join(self, near: ChannelCore, far: ChannelCore) -> None:
        if near.over:  # the request was cancelled meanwhile
            far.abort(None)
            return
        for one, other in ((near, far), (far, near)):
            self._joined[one] = other
            one.own_registry().fall_back_to(self.handler)
            one.when_ended(partial(self._parted, one))
        ItemForwarder(far, near, self._tasks.spawn)
        ItemForwarder(near, far, self._tasks.spawn)
        near.mailbox.listen()
        far.mailbox.listen()

    def _parted(self, channel: ChannelCore) -> None:
        self._joined.pop(channel, None)


def _relayed(*_: Any) -> None:
    """Stand in, in logs, for the handler of messages from other nodes."""

"""Handlers whose answer is a channel: streams, uploads and conversations."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from msgspec import UNSET

from .._channels.anonymous import AnonymousChannel
from .._channels.producer import ItemRefused, Producer
from .._channels.readers import Readers
from .._channels.source import close_source, iterate
from .._channels.table import Channels
from .._handlers.introspection import Role
from .._protocol.messages import Inbound, Item, ItemsFailed, NoMoreItems
from .._protocol.rejections import bounded_reason, error_to_wire
from .._sending.caller import Source
from .._sending.requests import Asker
from .._streams.inbox import Decode
from .._streams.reader import Misdirected
from ..errors import ChannelClosed, ConnectionLost, RemoteError, RpcError, is_closed_here
from .answers import Answers
from .running import Call, leave_lane

__all__ = ["Serving", "tells_of_end"]


class Owner(Protocol):
    """What serving needs of the calls."""

    def check_room(self, call: Call, /) -> None:
        """See that the call may become a channel; raises what its caller gets if not."""

    def answered(self, call: Call, /) -> None:
        """The request has its answer; what still runs takes a channel's place, not a handler's."""

    def lingers(self, call: Call, /) -> None:
        """Its channel is over; what still runs takes a handler's place again."""

    def cancel_call(self, call: Call, reason: object, /) -> None: ...

    def note(self, text: str, /, *args: object) -> None:
        """A line in the log about what is nobody's fault."""


class Feed:
    """The items that are produced on a named channel, until they are to stop."""

    __slots__ = ("stop",)

    def __init__(self, stop: Callable[[object], None]) -> None:
        self.stop = stop

    def arrived(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        """The consumer says ``stop``."""
        self.stop(RemoteError("the consumer wants no more items"))

    def channel_over(self, error: Exception | None) -> None:
        self.stop(error or RemoteError("the connection was closed"))

    def take_ids(self) -> list[int]:
        return []


class Serving:
    """Runs what happens on a channel, within the call that opened it: so middleware, `handler_context` and the call's
    place in a lane last until the stream or the conversation is over, and cancelling the call ends it."""

    def __init__(self, channels: Channels, asker: Asker, owner: Owner, answers: Answers, readers: Readers) -> None:
        self._channels = channels
        self._readers = readers
        self._feeds: dict[str, Feed] = {}
        """What is produced on named channels, one on each."""
        self._asker = asker
        self._owner = owner
        self._answers = answers

    async def run(self, call: Call, work: Any) -> Any:
        """Answer with a channel, then do ``work``: await it, or send the items of it. Returns what it returns."""
        if not inspect.isawaitable(work):
            ctx = call.ctx
            try:
                if ctx.id is None and ctx.channel_name is not None and ctx.event == "start":
                    await self._feed(call, ctx.channel_name, work)
                else:
                    await self._stream(call, self._begin(call), work)
            finally:
                await close_source(work)
            return None
        try:
            channel = self._begin(call)
        except BaseException:
            if inspect.iscoroutine(work):
                work.close()  # it never begins
            raise
        if _role(call) is Role.UPLOAD:
            Misdirected(channel, ("start", "pull"), lambda: channel._abort(_gives_no_items(call)))
        return await work

    def _begin(self, call: Call) -> AnonymousChannel:
        if call.cancelled:
            raise asyncio.CancelledError(bounded_reason(call.ctx.cancel_reason))
        return self.deliver(call)

    async def _stream(self, call: Call, channel: AnonymousChannel, source: Source) -> None:
        patience = self._channels.limits.unread
        late = RpcError(
            f"nobody has begun to read the stream of {call.ctx.event!r} within {patience:g} s (Limits.unread): it "
            "is opened with stream(), not with request(send=), and then read"
        )
        producer = Producer(channel, self._asker, patience=patience, late=late)
        try:
            await producer.run(source)
            await producer.finish()
            self._end_stream(call, channel, producer.pulled)
        except ItemRefused as exc:
            # JavaScript that breaks out of its loop does not say so. Neither does it when its iterator has overflowed.
            self._owner.note("the consumer of %s takes no more items: %s", call.ctx.label, exc)
            channel._abort(None)
        except ChannelClosed:
            if not channel.closed:
                raise
            # The handler has itself ended the channel that it streams on.
        except Exception as exc:
            producer.refuse_pulls(exc if isinstance(exc, RpcError) else RpcError("the stream failed"))
            raise

    async def _feed(self, call: Call, name: str, source: Source) -> None:
        """Send items on a named channel, to `Channel.items` or JavaScript's iterator, which has said ``start``."""
        feed = Feed(lambda reason: self._owner.cancel_call(call, reason))
        if (before := self._feeds.get(name)) is not None:
            before.stop(RemoteError("the consumer has begun anew"))  # JavaScript does not say that it has left
        self._feeds[name] = feed
        self._readers.tap((name, "stop"), feed)
        leave_lane(call)  # or the next `start`, which ends this one, would wait for its end
        label = call.ctx.label
        end: NoMoreItems | ItemsFailed = NoMoreItems()
        try:
            try:
                if not await self._send_items(name, source, label):
                    return
            except Exception as exc:
                error = self._answers.sendable(self._answers.for_caller(exc, label), label)
                end = ItemsFailed(*error_to_wire(error))
            with suppress(ConnectionLost):
                await self._asker.out.send_event(name, "next", (end,), "fail")
        finally:
            self._readers.untap((name, "stop"), feed)
            if self._feeds.get(name) is feed:
                del self._feeds[name]

    async def _send_items(self, name: str, source: Source, label: str) -> bool:
        """Send all items, each as a request: the consumer's answer says that there is room for the next one.

        False if nobody reads them any more.
        """
        items = iterate(source)
        try:
            async for value in items:
                try:
                    await self._asker.send_request(name, "next", (Item(value),), UNSET, None, "fail", None, False)
                except (RemoteError, ConnectionLost) as exc:
                    self._owner.note("the consumer of %s takes no more items: %s", label, exc)
                    return False
        finally:
            await items.aclose()
        return True

    def _end_stream(self, call: Call, channel: AnonymousChannel, pulled: bool) -> None:
        """The last item has ended the stream: its reader may open the next one while the call still runs."""
        upload = call.ctx.upload
        if upload is not None and (i := upload.take_end()) is not None:
            self._answers.resolve(i, None, call.ctx.label)
        # A reader that pulls has the channel in hand, and learns that it is of no more use.
        (channel._finish if pulled else channel._end_well)()

    def deliver(self, call: Call) -> AnonymousChannel:
        """Answer the call's request with its channel.

        Raises:
            RpcError: it cannot be.
        """
        self._owner.check_room(call)
        channel = call.ctx.channel()
        self._channels.deliver(channel)
        call.channel = channel
        self._owner.answered(call)
        channel._on_close = lambda reason: self._over(call)
        return channel

    def _over(self, call: Call) -> None:
        """The channel is over, and with it the call, unless it is the one that ended it."""
        if call.exited or call.channel is None:
            return
        self._owner.lingers(call)
        channel, reason = call.channel, call.channel.close_reason
        error = RemoteError("the channel was closed") if reason is None else reason
        by_this_side = channel._left or (isinstance(reason, ConnectionLost) and is_closed_here(reason))
        if by_this_side or _role(call) is not Role.CONVERSATION:
            self._owner.cancel_call(call, error)
        else:  # what came before the end is read before the end is noticed
            channel._arrivals.when_read(lambda: self._owner.cancel_call(call, error))

    def exited(self, call: Call) -> None:
        """The task of a call that has a channel is over."""
        if call.channel is not None and call.channel.closed:
            call.channel._arrivals.leave()  # nobody is left to listen

    # ------------------------------------------------------------ how it ended

    def conclude(self, call: Call, value: object) -> None:
        """What ran on the channel is over, and all went well."""
        channel = call.channel
        assert channel is not None
        if channel.closed:  # that of a stream is, since its last item
            return
        label = call.ctx.label
        if _role(call) is Role.UPLOAD:
            self._answer_end(call, lambda i: self._answers.resolve(i, value, label))
        else:
            channel._finish()

    def failed(self, call: Call, error: RpcError) -> None:
        """What ran on the channel failed."""
        channel = call.channel
        assert channel is not None
        if channel.closed:
            return
        if _role(call) is Role.UPLOAD:
            self._answer_end(call, lambda i: self._answers.reject(i, error))
        else:
            channel._abort(self._answers.sendable(error, call.ctx.label))

    def _answer_end(self, call: Call, answer: Callable[[int], None]) -> None:
        """The result of an upload answers the caller's last message, which may be still to come."""
        channel, upload = call.channel, call.ctx.upload
        assert channel is not None and upload is not None

        def end(i: int) -> None:
            answer(i)
            channel._end_well()

        if (i := upload.take_end()) is not None:
            end(i)
        elif upload.ended:  # by an event, so nobody waits for the result
            channel._finish()
        else:
            upload.on_end = end
            upload.leave(None)
            channel._expect_end()


def _role(call: Call) -> Role:
    return Role.RESULT if call.handler is None else call.handler.role


def _gives_no_items(call: Call) -> RpcError:
    return RpcError(
        f"{call.ctx.event!r} reads what is sent to it and gives one result, no items: request(..., send=...) instead "
        "of stream()"
    )


def tells_of_end(call: Call | None, exc: BaseException) -> bool:
    """Whether a conversation's body raised what says that the other side has ended its channel."""
    channel = None if call is None else call.channel
    if channel is None or not channel.closed or channel._left:
        return False
    return exc is channel._error or (isinstance(exc, ChannelClosed) and exc.channel == str(channel.id))

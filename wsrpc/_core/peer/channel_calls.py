"""`ChannelCalls`: answers requests with channels, and runs streams, uploads and conversations on them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ..._base.names import Source
from ...errors import ChannelClosed, ConnectionLost, Overloaded, RemoteError, RpcError, is_closed_here, made_here
from ..channels.channel_core import ChannelCore
from ..channels.channel_table import TOO_MANY, ChannelTable
from ..channels.named_producer import NamedProducer
from ..channels.producer import ItemRefused, Producer
from ..channels.source import close_source
from ..handlers.introspection import Kind
from ..handlers.invocation import EXITED, CallState, Invocation
from ..handlers.observation import mark_processed
from ..inboxes.recipients import MismatchDetector
from ..sending.answers import Answers
from ..wire.messages import context_of
from ..wire.rejections import ABORTED, error_from_wire, error_to_wire
from .active_calls import ActiveCalls

YIELDS = "yields items: it is opened with stream(), not with request(send=), and then read"


class ChannelCalls:
    """Answers requests with channels, and runs streams, uploads and conversations on them.

    A stream, an upload or a conversation runs within the call of the handler that opened its channel. Middleware and
    the place in a lane therefore last until it is over, and it ends if the handler is cancelled.
    """

    def __init__(self, answers: Answers, calls: ActiveCalls, channels: ChannelTable) -> None:
        self._answers = answers
        self._calls = calls
        self._channels = channels

    def make_room(self, invocation: Invocation) -> None:
        """Make the channel that is going to answer a request.

        The channel and its bytes count from now on, so that the handler cannot fail because there is no room.

        Raises:
            RpcError: there is no room. It is `Overloaded`, because neither the handler nor its middleware has run.
        """
        try:
            invocation.make_channel()
            self._calls.check_bytes_for_channel(invocation.size)
        except RemoteError as exc:
            if exc.code != TOO_MANY:
                raise
            raise made_here(Overloaded(str(exc))) from None
        invocation.enter(CallState.RESERVED)

    def serve(self, invocation: Invocation, body: Any) -> Coroutine[Any, Any, Any]:
        """Answer with a channel, then await ``body``, or send its items. Return its result.

        The event ``start`` on a named channel asks for items on that channel. No channel is opened for them.
        """
        if inspect.isawaitable(body):
            return self._converse(invocation, body)
        if invocation.id is None and invocation.channel_name is not None and invocation.event == "start":
            return self._produce_named(invocation, invocation.channel_name, body)
        return self._stream(invocation, body)

    async def _converse(self, invocation: Invocation, body: Awaitable[Any]) -> Any:
        """Answer with a channel, then await ``body``, which reads and sends on it."""
        try:
            channel = self._deliver(invocation)
        except BaseException:
            if inspect.iscoroutine(body):
                body.close()  # it never starts
            raise
        if _kind(invocation) is Kind.UPLOAD:
            channel.add_recipient("start", MismatchDetector(lambda: channel.abort(_not_a_stream(invocation))))
        return await body

    def _deliver(self, invocation: Invocation) -> ChannelCore:
        """Answer the call's request with its channel, and return the channel.

        Raises:
            asyncio.CancelledError: the call was cancelled.
            RpcError: there is no room for the channel, or the channel is closed already.
        """
        if invocation.state.cancelled:
            raise invocation.cancellation()
        channel = invocation.make_channel()
        if invocation.state is not CallState.RESERVED:  # otherwise it was checked before the handler ran
            self._calls.check_bytes_for_channel(invocation.size)
        self._channels.deliver(channel)
        invocation.remove_from_active()
        mark_processed(invocation.view)
        invocation.delivered_channel = channel
        invocation.deadline = None  # it was for the opening
        invocation.enter(CallState.SERVING)
        channel.on_end += (lambda: self._cancel_after_end(invocation, channel),)
        return channel

    def _cancel_after_end(self, invocation: Invocation, channel: ChannelCore) -> None:
        """Cancel the call whose channel is over, unless the call itself has ended the channel.

        The body of a conversation first gets to read what the remote peer sent before it ended the channel.
        """
        if invocation.state is EXITED:
            return
        invocation.enter(CallState.CHANNEL_ENDED)
        reason = channel.close_reason
        error = RemoteError("the channel was closed") if reason is None else reason

        def cancel() -> None:
            if not (channel.ended_here and invocation.is_current):
                invocation.orphan(error)

        by_this_side = channel.ended_here or (isinstance(reason, ConnectionLost) and is_closed_here(reason))
        if by_this_side or _kind(invocation) is not Kind.CONVERSATION:
            cancel()
        else:
            channel.mailbox.when_read(cancel)

    async def _stream(self, invocation: Invocation, source: Source) -> None:
        """Answer with a channel, and send the items on it."""
        try:
            if (context := context_of(invocation.inbound)) is not None and context.upload is True:
                raise RpcError(f"{invocation.event!r} {YIELDS}")
            channel = self._deliver(invocation)
            patience = self._channels.limits.unread_timeout
            producer = Producer(channel, patience=patience, late=_not_read(invocation, patience))
            try:
                await producer.run(source)
                await producer.finish()
                # The channel ends after the last item: its reader may open the next one while the call still runs.
                upload = invocation.upload
                if upload is not None and (i := upload.pop_end_id()) is not None:
                    self._answers.resolve(i, None, invocation)
                channel.finish_locally()
            except ItemRefused as exc:
                # JavaScript only rejects the next item if it leaves its loop, or if its iterator overflows.
                self._log_refusal(invocation, exc)
                channel.abort(None)
            except ChannelClosed:
                if not channel.over:
                    raise
                # The handler itself has ended the channel of its stream. Or the channel has ended, and the generator
                # yielded once more although it was cancelled.
        finally:
            await close_source(source)

    async def _produce_named(self, invocation: Invocation, name: str, source: Source) -> None:
        """Send items on a named channel, because `Channel.items` or JavaScript's iterator has sent ``start``."""
        if invocation.state.cancelled:
            await close_source(source)
            raise invocation.cancellation()
        streams = invocation.dispatcher.named_streams
        if (before := streams.get(name)) is not None:
            before.orphan(RemoteError("the consumer has started again"))  # JavaScript sends nothing when it stops
        streams[name] = invocation
        producer = NamedProducer(name, self._channels, invocation)
        invocation.release_lane()  # otherwise the next `start`, which ends this stream, would wait for its end
        try:
            try:
                await producer.run(source)
            except ItemRefused:
                raise
            except asyncio.CancelledError:
                if not invocation.state.cancelled:  # neither the consumer nor the end of the session has cancelled it
                    producer.fail(RpcError(ABORTED))
                raise
            except Exception as exc:
                producer.fail(self._answers.sendable(self._answers.for_caller(exc, invocation), invocation))
        except ItemRefused as exc:
            if not invocation.state.cancelled:
                self._log_refusal(invocation, exc)
        finally:
            if streams.get(name) is invocation:
                del streams[name]
            await close_source(source)

    def _log_refusal(self, invocation: Invocation, exc: Exception) -> None:
        text = "the consumer of %s takes no more items: %s"
        self._answers.log(logging.INFO, text, invocation.label, exc, call=invocation.log_fields)

    # ------------------------------------------------------------ the end of a call

    def conclude(self, invocation: Invocation, value: object) -> None:
        """End the channel of a call that has returned ``value``."""
        channel = invocation.delivered_channel
        assert channel is not None
        if channel.over:  # a stream's channel ends with its last item
            return
        if _kind(invocation) is Kind.UPLOAD:
            self._answer_end(invocation, lambda i: self._answers.resolve(i, value, invocation))
        else:
            channel.finish()

    def failed(self, invocation: Invocation, error: RpcError) -> None:
        """End the channel of a call that has failed."""
        channel = invocation.delivered_channel
        assert channel is not None
        if channel.over:
            return
        # The channel keeps the error. The exception of the handler would refer to the variables of the handler.
        reason = error_from_wire(*error_to_wire(self._answers.sendable(error, invocation)))
        if _kind(invocation) is Kind.UPLOAD:
            self._answer_end(invocation, lambda i: self._answers.reject(i, reason))
        else:
            channel.abort(reason)

    def _answer_end(self, invocation: Invocation, answer: Callable[[int], None]) -> None:
        """Answer the caller's last message with the result of an upload, now or when this message arrives."""
        channel, upload = invocation.delivered_channel, invocation.upload
        assert channel is not None and upload is not None

        def end(i: int) -> None:
            answer(i)
            channel.finish_locally()

        if (i := upload.pop_end_id()) is not None:
            end(i)
        elif upload.all_sent:  # by an event, which has no answer
            channel.finish()
        else:
            upload.answer_end(end)
            patience = self._channels.limits.unread_timeout
            channel.abort_after(patience, RpcError(f"the end of the upload has not arrived within {patience:g} s"))


def _kind(invocation: Invocation) -> Kind:
    return Kind.REQUEST if invocation.handler is None else invocation.handler.facts.kind


def _not_read(invocation: Invocation, patience: float) -> RpcError:
    return RpcError(
        f"nobody has begun to read within {patience:g} s (Limits.unread_timeout): {invocation.event!r} {YIELDS}"
    )


def _not_a_stream(invocation: Invocation) -> RpcError:
    return RpcError(
        f"{invocation.event!r} reads what is sent to it and gives one result, no items: request(..., send=...) instead "
        "of stream()"
    )

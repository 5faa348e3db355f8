"""Answers requests with channels, and runs what happens on them: streams, uploads and conversations."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from .._base.names import Source
from .._channels.core import ChannelCore
from .._channels.paced import ItemRefused, PacedProducer
from .._channels.producer import Producer
from .._channels.readers import NamedChannel
from .._channels.source import close_source
from .._handlers.introspection import Role
from .._handlers.invocation import Invocation
from .._handlers.observation import finish
from .._protocol.messages import ItemsFailed, NoMoreItems
from .._protocol.rejections import error_to_wire
from .._sending.sender import Sender
from .._streams.recipients import MismatchDetector
from ..errors import ChannelClosed, ConnectionLost, RemoteError, RpcError, is_closed_here
from ..limits import Limits
from .admission import Admission
from .answers import Answers

__all__ = ["ChannelAnswers"]


class ChannelAnswers:
    """Answers requests with channels, and runs streams, uploads and conversations on them.

    Each runs within the call that opened its channel. So middleware, `handler_context` and the call's place in a lane
    last until the stream or the conversation is over, and cancelling the call ends it.
    """

    def __init__(self, sender: Sender, answers: Answers, admission: Admission, limits: Limits) -> None:
        self._sender = sender
        self._answers = answers
        self._admission = admission
        self._readers = admission.readers
        self._limits = limits
        self._named: dict[str, PacedProducer[NamedChannel]] = {}
        """Producers on named channels, by name. Each channel has one at most."""

    def run(self, call: Invocation, work: Any) -> Coroutine[Any, Any, Any]:
        """Answer with a channel, then await ``work``, or send the items that it produces. Return its result.

        The event ``start`` on a named channel asks for items on that channel. No channel is opened for them.
        """
        if inspect.isawaitable(work):
            return self._converse(call, work)
        if call.id is None and call.channel_name is not None and call.event == "start":
            return self._produce_named(call, call.channel_name, work)
        return self._stream(call, work)

    async def _converse(self, call: Invocation, work: Awaitable[Any]) -> Any:
        """Answer with a channel, then await ``work``, which reads and sends on it."""
        try:
            channel = self._deliver(call)
        except BaseException:
            if inspect.iscoroutine(work):
                work.close()  # it never begins
            raise
        if _role(call) is Role.UPLOAD:
            detector = MismatchDetector(lambda: channel.abort(_gives_no_items(call)))
            channel.add_recipient("start", detector)
            channel.add_recipient("pull", detector)
        return await work

    def _deliver(self, call: Invocation) -> ChannelCore:
        """Answer the call's request with its channel, and return the channel.

        Raises:
            asyncio.CancelledError: the call was cancelled meanwhile.
            RpcError: there is no room for the channel, or it is closed already.
        """
        if call.cancelled:
            raise call.cancellation()
        self._admission.running.check_room_for_channel(call)
        channel: ChannelCore = call.answer_channel()
        call.channels.deliver(channel)
        call.served = channel
        call.settle()
        finish(call.message)
        self._admission.count_as_channel(call)
        channel.when_closed(lambda reason: self._cancel_after_end(call, channel))
        return channel

    def _cancel_after_end(self, call: Invocation, channel: ChannelCore) -> None:
        """Cancel the call whose channel is over, unless the call itself has ended the channel.

        The body of a conversation first gets to read what the remote peer sent before it ended the channel.
        """
        if call.exited:
            return
        self._admission.count_as_handler(call)
        reason = channel.close_reason
        error = RemoteError("the channel was closed") if reason is None else reason

        def cancel() -> None:
            if not (channel.left and call.is_current):
                call.orphan(error)

        by_this_side = channel.left or (isinstance(reason, ConnectionLost) and is_closed_here(reason))
        if by_this_side or _role(call) is not Role.CONVERSATION:
            cancel()
        else:
            channel.when_read(cancel)

    async def _stream(self, call: Invocation, source: Source) -> None:
        """Answer with a channel, and send the items on it."""
        try:
            channel = self._deliver(call)
            patience = self._limits.unread
            producer = Producer(channel, patience=patience, late=lambda: _not_read(call, patience))
            try:
                await producer.run(source)
                await producer.finish()
                self._end_stream(call, channel, producer.pulled)
            except ItemRefused as exc:
                # JavaScript only rejects the next item if it leaves its loop, or if its iterator overflows.
                self._note_refusal(call.label, exc)
                channel.abort(None)
            except ChannelClosed:
                if not channel.closed:
                    raise
                # The handler has itself ended the channel that it streams on. Or the channel ended, and the generator
                # yielded once more although it was cancelled.
            except Exception as exc:
                producer.refuse_pulls(exc if isinstance(exc, RpcError) else RpcError("the stream failed"))
                raise
        finally:
            await close_source(source)

    async def _produce_named(self, call: Invocation, name: str, source: Source) -> None:
        """Send items on a named channel, to `Channel.items` or JavaScript's iterator, which has sent ``start``."""
        if (before := self._named.get(name)) is not None:
            # JavaScript sends nothing when it leaves.
            before.channel_ended(RemoteError("the consumer has begun anew"))
        send_item = partial(self._sender.send_request, name)
        producer = self._named[name] = PacedProducer(self._readers.channel(name), send_item, call.orphan)
        call.leave_lane()  # or the next `start`, which ends this one, would wait for its end
        label = call.label
        end: NoMoreItems | ItemsFailed = NoMoreItems()
        try:
            try:
                await producer.run(source)
            except ItemRefused:
                raise
            except Exception as exc:
                error = self._answers.sendable(self._answers.for_caller(exc, label), label)
                end = ItemsFailed(*error_to_wire(error))
            await producer.finish(end)
        except ItemRefused as exc:
            if not producer.over:
                self._note_refusal(label, exc)
        finally:
            producer.leave()
            if self._named.get(name) is producer:
                del self._named[name]
            await close_source(source)

    def _note_refusal(self, label: str, exc: Exception) -> None:
        self._answers.log(logging.INFO, "the consumer of %s takes no more items: %s", label, exc)

    def _end_stream(self, call: Invocation, channel: ChannelCore, pulled: bool) -> None:
        """End the channel after the last item: its reader may open the next one while the call still runs."""
        upload = call.upload
        if upload is not None and (i := upload.take_end_id()) is not None:
            self._answers.resolve(i, None, call.label)
        # A consumer that pulls holds the channel, and has to learn that it has ended.
        (channel.finish if pulled else channel.finish_locally)()

    # ------------------------------------------------------------ the end of a call

    def conclude(self, call: Invocation, value: object) -> None:
        """End the channel of a call that has returned ``value``."""
        channel = call.served
        assert channel is not None
        if channel.closed:  # a stream's channel ends with its last item
            return
        label = call.label
        if _role(call) is Role.UPLOAD:
            self._answer_end(call, lambda i: self._answers.resolve(i, value, label))
        else:
            channel.finish()

    def failed(self, call: Invocation, error: RpcError) -> None:
        """End the channel of a call that has failed."""
        channel = call.served
        assert channel is not None
        if channel.closed:
            return
        if _role(call) is Role.UPLOAD:
            self._answer_end(call, lambda i: self._answers.reject(i, error))
        else:
            channel.abort(self._answers.sendable(error, call.label))

    def _answer_end(self, call: Invocation, answer: Callable[[int], None]) -> None:
        """Answer the caller's last message with the result of an upload, now or when that message comes."""
        channel, upload = call.served, call.upload
        assert channel is not None and upload is not None

        def end(i: int) -> None:
            answer(i)
            channel.finish_locally()

        if (i := upload.take_end_id()) is not None:
            end(i)
        elif upload.ended:  # by an event, which has no answer
            channel.finish()
        else:
            upload.answer_end(end)
            channel.expect_end()


def _role(call: Invocation) -> Role:
    return Role.RESULT if call.handler is None else call.handler.facts.role


def _not_read(call: Invocation, patience: float) -> RpcError:
    return RpcError(
        f"nobody has begun to read the stream of {call.event!r} within {patience:g} s (Limits.unread): it is "
        "opened with stream(), not with request(send=), and then read"
    )


def _gives_no_items(call: Invocation) -> RpcError:
    return RpcError(
        f"{call.event!r} reads what is sent to it and gives one result, no items: request(..., send=...) instead "
        "of stream()"
    )

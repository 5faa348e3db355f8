"""`Producer`: sends the items of an iterable on an anonymous channel, as fast as its consumer reads."""

from __future__ import annotations

import asyncio
import enum
import types
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Never

import msgspec
from msgspec import UNSET

from ..._base.names import Source
from ...errors import ChannelClosed, ConnectionLost, RemoteError, WsrpcError
from ..inboxes.credit import CreditToSend
from ..inboxes.recipients import Recipient
from ..wire.codecs import BRACE
from ..wire.messages import Decode, Event, Item, NoMoreItems, RequestOptions, WireMessage
from ..wire.rejections import of_started_call
from .channel_core import ChannelCore
from .source import BURST, Batch, FillBatch, fill_batch, fill_batch_async, iterate

BATCH_BYTES = 4096
"""Bytes of the items in one message."""
BATCH_SPEEDUP = 2
"""An item in a batch takes at most half the time of an item by itself, so twice as many are sent without a pause."""

measure_json, measure_msgpack = msgspec.json.Encoder().encode, msgspec.msgpack.Encoder().encode


ITEM_REQUEST = RequestOptions(timeout=None, within_call=True)
"""Options of an item that is sent as a request. The consumer may take its time before it answers."""


class ItemRefused(Exception):
    """The consumer wants no more items: it has rejected an item. On a named channel, it may also have sent ``start``
    again, or the connection is lost."""

    def __init__(self, error: WsrpcError) -> None:
        super().__init__(str(error))
        self.error = error


class Mode(enum.Enum):
    """How a producer sends its items. The consumer's first messages choose the mode."""

    WAITING = "waiting"
    """The consumer has sent nothing yet."""
    GRANTED = "granted"
    """The consumer has granted credit, maybe of 0 items, and has not sent ``start`` yet."""
    CREDIT = "credit"
    """Credit, then ``start``: the consumer is wsrpc. Items are events, within the credit."""
    PACED = "paced"
    """``start`` alone: ws-wrapper's own iterator. Each item is a request, and the next item waits for its answer.

    JavaScript's ``for await`` holds one item, and fails when a third item arrives before the loop reads (4.3.1,
    observed). A loop with a slow body still overflows, because the iterator answers at once. An async listener of
    ``next`` answers when it has handled the item."""


# Constants, because Python 3.11 looks members of an enum up slowly.
_WAITING, _GRANTED, _CREDIT, _PACED = Mode


class Producer(Recipient):
    """Sends the items of one source on an anonymous channel, in one of the two ways that `Mode` describes.

    Handlers that stream use it, and ``send=`` of `Caller.stream` and `Caller.request`. Each of them ends the channel in
    its own way. The producer ends the channel only if the consumer does not start in time.

    Args:
        patience: seconds within which the consumer has to start. None for no limit.
        late: the error that ends the channel if it does not.
    """

    __slots__ = (
        "_channel",
        "_credit",
        "_item_size",
        "_message",
        "_mode",
        "_on_over",
        "_pause_at",
        "_waiter",
        "_writer",
        "over",
    )

    def __init__(self, channel: ChannelCore, *, patience: float | None, late: Exception) -> None:
        self._channel = channel
        self._writer = channel.writer
        self._message = Event(("next", Item(None)), UNSET, channel.id)
        """The message of each item that is sent at once. It is encoded before the next item is set."""
        self._mode = _WAITING
        self.over = False
        """Whether the consumer has sent ``stop``, or the channel is over."""
        self._on_over: Callable[[], object] | None = None
        """See `when_over`."""
        self._item_size = 0
        """Bytes of the last item that was sent at once. 0 before the first one."""
        self._pause_at = BURST
        self._credit = CreditToSend()
        self._waiter: asyncio.Future[None] | None = None
        channel.set_producer(self)
        for event in ("start", "stop"):
            channel.add_recipient(event, self)
        if patience is not None and not channel.over:
            channel.abort_after(patience, late)

    def __repr__(self) -> str:
        return f"<Producer on {self._channel.id} {'over' if self.over else self._mode.value}, {self._credit!r}>"

    # ------------------------------------------------------------ messages of the consumer

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        name = message.a[0]
        i = message.i
        if name == "start":
            self._start()
        else:
            self.stop_sending()
        if i is not UNSET:
            self._channel.answer(i, None)

    def credit_received(self, n: int, size: int) -> None:
        if self._mode is _WAITING:
            self._mode = _GRANTED
        self._credit.raise_to(n, size)
        self._wake()

    def _start(self) -> None:
        if self._mode in (_WAITING, _GRANTED):
            self._mode = _PACED if self._mode is _WAITING else _CREDIT
            self._channel.stop_abort_timer()
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def check_channel_open(self) -> None:
        """Raise `ChannelClosed` if the channel is over."""
        if self._channel.over:
            raise self._channel.closed_error()

    def stop_sending(self) -> None:
        """Send nothing more.

        `ChannelCore.end` also cancels the task of a handler that streams. This method is for ``send=``, and for a
        source that continues although it was cancelled.
        """
        self.over = True
        then, self._on_over = self._on_over, None
        if then is not None:
            then()
        self._wake()

    def when_over(self, then: Callable[[], object]) -> None:
        """Call ``then`` once the producer is ``over``, or now if it is.

        Only ``send=`` needs this, because a handler that streams is cancelled when its channel ends.
        """
        if self.over:
            then()
        else:
            self._on_over = then

    # ------------------------------------------------------------ producing

    async def _wait(self) -> None:
        """Wait until the consumer sends something, or the producer is ``over``.

        Raises:
            ChannelClosed: the channel is over.
        """
        self.check_channel_open()
        self._waiter = self._writer.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._pause_at = self._credit.sent + BURST

    async def _wait_for_end(self) -> Never:
        """Wait until the channel is over, because an item could not be sent. Then raise the error of the channel.

        The error of the item is not raised, because it may say "not sent". This would be wrong for the request that
        opened the channel: it was sent, and its handler runs.

        Raises:
            ChannelClosed: the channel is over.
        """
        while True:
            await self._wait()

    async def _pause(self) -> None:
        """Let other tasks run: the source may never wait, and the consumer's credit may be large."""
        self._pause_at = self._credit.sent + BURST
        await asyncio.sleep(0)

    async def run(self, source: Source) -> None:
        """Send all items that the consumer wants.

        Cancelling stops the producer. The caller closes the source.

        Raises:
            ChannelClosed, MessageTooBig, TypeError: an item cannot be sent.
            ItemRefused: the consumer has rejected an item.
            Exception: whatever the source raises.
        """
        while self._mode in (_WAITING, _GRANTED) and not self.over:
            await self._wait()
        self.check_channel_open()
        if self._mode is _PACED:
            await self._run_paced(source)
            return
        # By credit. This is not a method of its own, because each wait would pass through one more coroutine.
        credit = self._credit
        items: AsyncGenerator[Any] | None = None
        fill: FillBatch
        if not isinstance(source, AsyncIterable):
            fill = partial(fill_batch, iter(source))
        elif isinstance(source, types.AsyncGeneratorType):
            fill = partial(fill_batch_async, source)
        else:
            items = iterate(source)
            fill = partial(fill_batch_async, items)
        batch = Batch()
        values = batch.values
        waited = True
        try:
            while True:
                sent = credit.sent  # and not `has_room`, because each item of a stream comes here
                if sent >= self._pause_at or sent >= credit.items or credit.sent_bytes >= credit.bytes:
                    await self._wait_for_room()
                if self.over:
                    return
                # After an item that had to be waited for, the next item is sent alone. Then more may follow at once.
                n = 1 if waited else self._batch_size()
                if n == 1:
                    fill(batch, 1, 0, measure_json, None)
                else:
                    await self._read_and_send(fill, batch, n)
                step, batch.step = batch.step, None
                waited = step is not None
                if step is not None:
                    try:
                        values.append(await step.complete())
                    except StopAsyncIteration:
                        return
                for value in values:
                    if not self._send(value):
                        await self._wait_and_send(value)
                values.clear()
                value = None  # it may be large, and it may take long until the next one
                if batch.ended:
                    return
        finally:
            if items is not None:
                await items.aclose()

    async def _run_paced(self, source: Source) -> None:
        """Send each item as a request. Its answer says that there is room for the next item."""
        async with aclosing(iterate(source)) as items:
            async for value in items:
                self.check_channel_open()
                try:
                    await self._channel.owner.sender.send_request(
                        self._channel.id, "next", (Item(value),), ITEM_REQUEST
                    )
                except RemoteError as exc:
                    raise ItemRefused(of_started_call(exc)) from None
                except (ChannelClosed, ConnectionLost):
                    await self._wait_for_end()
                if self.over:
                    return

    async def _wait_for_room(self) -> None:
        while not (self._credit.has_room or self.over):
            await self._wait()
        if self._credit.sent >= self._pause_at:
            await self._pause()

    # ------------------------------------------------------------ several items in one message

    def _batch_size(self) -> int:
        """Return how many items may be made before they are sent, in one message.

        Only small items are sent together: they take little memory, and no item waits long for the items after it.
        """
        writer = self._writer
        if not (writer.may_send and writer.terms.batches and 0 < self._item_size <= BATCH_BYTES // 2):
            return 1
        credit = self._credit
        return max(1, min(credit.items - credit.sent, (self._pause_at - credit.sent) * BATCH_SPEEDUP))

    async def _read_and_send(self, fill: FillBatch, batch: Batch, n: int) -> None:
        """Read up to ``n`` items from the source, and send them together.

        The code of the source runs meanwhile, and may send other messages. No such message overtakes an item that was
        made before: `Session.precede` sends the items first.

        Raises:
            Exception: whatever the source raises. The items before the exception are sent.
        """
        room = min(self._credit.bytes - self._credit.sent_bytes, BATCH_BYTES)
        measure = measure_json if self._writer.terms.text else measure_msgpack
        batch.sent_early = False
        end = self._writer.session.precede(partial(self._send_now, batch))
        try:
            fill(batch, n, room, measure, self._writer.settings.copy)
        finally:
            end()
            self._send_now(batch)
            if batch.values:
                await self._send_rest(batch)

    def _send_now(self, batch: Batch) -> None:
        """Send the items that can be sent at once, and remove them from ``batch``.

        The remaining items have to wait, or cannot be sent. `_send_rest` waits, or raises the error.
        """
        batch.sent_early = True
        values = batch.values
        if len(values) > 1 and self._send_batch(values):
            values.clear()
        with suppress(Exception):
            while values and self._credit.has_room and self._send(values[0]):
                del values[0]

    def _send_batch(self, values: list[Any]) -> bool:
        """Send items in one message. Return False if that is not possible. Then nothing was sent."""
        writer = self._writer
        terms = writer.terms
        if self.over or not (writer.may_send and terms.batches) or self._credit.sent + len(values) > self._credit.items:
            return False
        try:
            payload = terms.encode(Event(("next", values), UNSET, self._channel.id))
            size = len(payload)
            if terms.text is None and payload[0] == BRACE:
                return False  # one item was encoded as JSON, which would turn bytes in the other items into text
            if size > terms.unchecked or not self._credit.has_room or not writer.send(payload):
                return False
        except Exception:  # each item is then sent by itself, and the item that cannot be sent raises its error
            return False
        count = len(values)
        self._credit.count_sent(count, size)
        self._pause_at += count - count // BATCH_SPEEDUP
        self._item_size = size // count
        return True

    async def _send_rest(self, batch: Batch) -> None:
        """Send the remaining items one by one."""
        try:
            for value in batch.values:
                while not self._credit.has_room:
                    await self._wait()
                if not self._send(value):
                    await self._wait_and_send(value)
            batch.values.clear()
        except BaseException as exc:
            if batch.step is not None:  # a step that has started, and would keep its generator from being closed
                # Not GeneratorExit, which until Python 3.13 leaves a generator suspended that the step itself awaits.
                end = asyncio.CancelledError(*exc.args if isinstance(exc, asyncio.CancelledError) else ())
                with suppress(asyncio.CancelledError, StopAsyncIteration):
                    await batch.step.complete(end)
            raise

    # ------------------------------------------------------------ one item

    def _send(self, value: Any) -> bool:
        """Send an item at once. Return False if the connection is full or is broken, or the channel is over."""
        writer = self._writer
        if self.over or not writer.may_send:
            return False
        message = self._message
        item = message.a[1]
        item.value = value
        try:
            payload = writer.terms.encode(message)
        finally:
            item.value = None  # the value may be large, or refer to the cause of an error
        try:
            if not writer.send(payload):
                return False
        except ConnectionLost:
            return False
        self._item_size = len(payload)
        self._credit.count_sent(1, len(payload))
        return True

    async def _wait_and_send(self, value: Any) -> None:
        self._credit.count_sent(1, await self._send_event(Item(value)))

    async def _send_event(self, item: Item | NoMoreItems) -> int:
        """Send an item, or the end, once the connection has room. Return its size."""
        self.check_channel_open()
        with suppress(ChannelClosed, ConnectionLost):
            return await self._channel.owner.outbox.post(Event(("next", item), h=self._channel.id))
        await self._wait_for_end()

    # ------------------------------------------------------------ the end

    async def finish(self) -> None:
        """Send the end of the items.

        Raises:
            ChannelClosed: the channel is over.
        """
        await self._send_event(NoMoreItems())

"""Parts of channels that only JavaScript peers need. Two wsrpc peers use credit instead.

Each part has a reason in the behaviour of ws-wrapper 4.3.1, as it was observed:

- **Paced items.** JavaScript's own iterator (``for await``) holds one item, and fails when a third item arrives before
  the loop reads. So each item is a request, and the next item waits for the answer. Items on named channels, which have
  no credit, are always sent in this way.
- **Pulls.** Nothing else slows a producer down for that iterator, and a loop with a slow body can still overflow. So a
  user of JavaScript can request ``pull`` instead, and gets as many items as requested.
- **Aborts that wait.** If a channel is aborted before JavaScript's loop starts, the loop sees a stream without items.
  If the abort arrives after the loop has sent ``start``, the loop throws. So an abort waits until JavaScript has sent
  something.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Never, Protocol

from msgspec import UNSET

from ..._base.names import ChannelRef, Source
from ...errors import BadArguments, ChannelClosed, ConnectionLost, Overloaded, RemoteError, RpcError, WsrpcError
from ..sending.pending import remember
from ..sending.sender import Sender
from ..wire.messages import Item, RequestOptions
from ..wire.rejections import ABORTED, of_started_call, text_for_peer
from .channel_core import ChannelCore
from .source import BURST, iterate

# ---------------------------------------------------------------- aborts that wait


class WaitingAborts:
    """Aborts, by channel id, that are sent only after the remote peer has sent something on the channel."""

    __slots__ = ("_errors",)

    def __init__(self) -> None:
        self._errors: dict[int, RemoteError] = {}

    @staticmethod
    def must_wait(channel: ChannelCore) -> bool:
        """Return whether an abort of ``channel`` waits: the consumer is not wsrpc, and has sent nothing yet."""
        return channel.producer is not None and not channel.mailbox.has_received and channel.writer.terms.plain

    def add(self, h: int, reason: object) -> None:
        """Keep the reason of the abort of channel ``h``."""
        error = RemoteError(ABORTED)
        if isinstance(reason, RpcError):  # a new error, because that of a handler refers to the handler's variables
            error = RemoteError(text_for_peer(reason), reason.code)
        remember(self._errors, h, error)

    def pop(self, h: int) -> RemoteError | None:
        """Remove the abort of channel ``h``, if it waits. Return its reason, or None."""
        return self._errors.pop(h, None)


# ---------------------------------------------------------------- items as requests

ITEM_REQUEST = RequestOptions(timeout=None, within_call=True)
"""Options of an item that is sent as a request. The consumer may take its time before it answers."""


class ItemRefused(Exception):
    """The consumer wants no more items: it has rejected an item. On a named channel, the consumer may also have sent
    ``stop``, or the connection is lost."""

    def __init__(self, error: WsrpcError) -> None:
        super().__init__(str(error))
        self.error = error


class PacedProducer(Protocol):
    """Producer of paced items: `Producer`, or `NamedProducer`."""

    @property
    def over(self) -> bool:
        """Whether the consumer wants no more items."""
        ...

    def check_channel_open(self) -> None:
        """Raise the exception that ends the producer, if nothing more can be sent on its channel."""

    async def wait_for_end(self, error: ChannelClosed | ConnectionLost, /) -> Never:
        """Raise the exception that ends the producer, after an item failed with ``error``. This may wait."""
        ...


async def run_paced(producer: PacedProducer, sender: Sender, channel: ChannelRef | int, source: Source) -> None:
    """Send the items of ``source``, each as a request. Its answer says that there is room for the next item.

    There is no timeout. The end of the channel or of the session ends the request.

    Raises:
        ItemRefused: the consumer has rejected an item.
        MessageTooBig, TypeError: an item cannot be sent.
        Exception: whatever the source and the producer raise.
    """
    async with aclosing(iterate(source)) as items:
        async for value in items:
            producer.check_channel_open()
            try:
                await sender.send_request(channel, "next", (Item(value),), ITEM_REQUEST)
            except RemoteError as exc:
                raise ItemRefused(of_started_call(exc)) from None
            except (ChannelClosed, ConnectionLost) as exc:
                await producer.wait_for_end(exc)
            if producer.over:
                return


# ---------------------------------------------------------------- pulls

LARGEST_PULL = 100_000
MOST_PULLS = 64
"""Pulls that may wait for their items. A consumer that pulls ahead needs one or two."""


class Pulls:
    """Queue of the requests ``pull`` on a channel. Each response has as many items as the request asks for."""

    __slots__ = ("_channel", "_kept", "waiting")

    def __init__(self, channel: ChannelCore) -> None:
        self._channel = channel
        self.waiting: deque[tuple[int, int]] = deque()
        """The id of each request, and its number of items."""
        self._kept: list[Any] = []
        """The value that did not fit into the last response."""

    def add(self, i: Any, args: list[Any], *, started: bool) -> bool:
        """Queue a request, or refuse it. Return whether it was queued.

        Args:
            started: the consumer has sent ``start``, so items are sent without pulls.
        """
        if i is UNSET:
            return False  # an event has no response that could carry items
        n = args[0] if args else 1
        if n.__class__ is not int or not 0 < n <= LARGEST_PULL:
            text = f"pull: expected how many items, 1 to {LARGEST_PULL}, got {str(n)[:100]}"
            self._channel.refuse(i, BadArguments(text))
        elif len(self.waiting) >= MOST_PULLS:
            self._channel.refuse(i, Overloaded(f"pull: {MOST_PULLS} wait already, await some of them first"))
        elif started:
            text = "pull: this stream was started, so its items come by themselves; pull instead of `start`"
            self._channel.refuse(i, BadArguments(text))
        else:
            self.waiting.append((i, n))
            return True
        return False

    async def run(self, source: Source, wait: Callable[[], Awaitable[None]]) -> None:
        """Answer the requests with the items of ``source``, until the source ends.

        Args:
            wait: waits until the consumer sends something.

        Raises:
            ChannelClosed: the channel is over.
            Exception: an item cannot be sent, or whatever the source raises.
        """
        async with aclosing(iterate(source)) as items:
            done = False
            while not done:
                while not self.waiting:
                    await wait()
                done = await self._answer_next(items)

    async def _answer_next(self, items: AsyncGenerator[Any]) -> bool:
        """Answer the oldest request with ``items``. Return whether the items have ended."""
        writer, n, done = self._channel.writer, self.waiting[0][1], False
        window = min(self._channel.unread_memory.limits.stream_window_bytes, writer.terms.largest // 2)
        values, self._kept = self._kept, []
        size = sum(len(writer.terms.encode(Item(value))) for value in values)
        try:
            while len(values) < n and size < window:
                # A copy, because the source may yield one object several times, and change it in between.
                _, value = writer.settings.kept(("", await anext(items)))
                size += len(writer.terms.encode(Item(value)))
                # A value that does not fit into this response is sent with the next response.
                (self._kept if values and size > window else values).append(value)
                if len(values) % BURST == 0:
                    await asyncio.sleep(0)
        except StopAsyncIteration:
            done = True
        except BaseException:
            if values and not self._channel.over:  # the consumer gets the values before the error
                self._answer(values, done=False)
            raise
        self._answer(values, done)
        await asyncio.sleep(0)
        return done

    def _answer(self, values: list[Any], done: bool) -> None:
        """Answer the oldest request. ``done``: there are no more items.

        Raises:
            ChannelClosed: the channel is over.
            Exception: the values cannot be sent. The request is rejected with the error.
        """
        if self._channel.over:
            raise self._channel.closed_error()
        i, _ = self.waiting.popleft()
        try:
            self._channel.answer(i, {"values": values, "done": done})
        except Exception as exc:
            self._channel.refuse(i, exc)
            raise

    def finish(self) -> None:
        """Answer all requests with the end. The response with the last items has the end already."""
        while self.waiting:
            self._answer([], done=True)

    def refuse(self, error: Exception) -> None:
        """Reject all requests."""
        while self.waiting:
            self._channel.refuse(self.waiting.popleft()[0], error)

    def pop_request_ids(self) -> list[int]:
        """Remove all requests, and return their ids."""
        ids = [i for i, _ in self.waiting]
        self.waiting.clear()
        return ids

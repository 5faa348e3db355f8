"""What only JavaScript peers need of channels. Two wsrpc peers use credit instead.

Each part is here because of what was observed of ws-wrapper 4.3.1:

- **Paced items.** JavaScript's own iterator (``for await``) holds one item, and fails when a third one arrives before
  it reads. So each item is a request, and the next one waits for its answer. Named channels, which have no credit, are
  always read and sent in this way.
- **Pulls.** That iterator has no other way to slow a producer down, and a loop with a slow body can still overflow. A
  user of JavaScript can request ``pull`` instead, and gets as many items as it asks for.
- **Aborts that wait.** JavaScript takes a channel that is aborted before its loop begins for a stream without items. If
  the abort comes after the ``start`` of the loop, the loop throws. So an abort waits until JavaScript has sent
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
    """The aborts that are sent only once the remote peer has sent something on the channel, by the channel's id."""

    __slots__ = ("_errors",)

    def __init__(self) -> None:
        self._errors: dict[int, RemoteError] = {}

    @staticmethod
    def must_wait(channel: ChannelCore) -> bool:
        """Return whether an abort of ``channel`` waits: a consumer like JavaScript has sent nothing yet."""
        return channel.producer is not None and not channel.mailbox.has_received and channel.writer.terms.plain

    def add(self, h: int, reason: object) -> None:
        """Keep what the abort of channel ``h`` will say."""
        error = RemoteError(ABORTED)
        if isinstance(reason, RpcError):  # a new error, because that of a handler refers to the handler's variables
            error = RemoteError(text_for_peer(reason), reason.code)
        remember(self._errors, h, error)

    def pop(self, h: int) -> RemoteError | None:
        """Return what the abort of channel ``h`` says, if it waits, and forget it."""
        return self._errors.pop(h, None)


# ---------------------------------------------------------------- items as requests

ITEM_REQUEST = RequestOptions(timeout=None, within_call=True)
"""Options of an item that is sent as a request. The consumer may take its time before it answers."""


class ItemRefused(Exception):
    """The consumer takes no more items: it has rejected one. On a named channel also: it has stopped, or the connection
    is lost."""

    def __init__(self, error: WsrpcError) -> None:
        super().__init__(str(error))
        self.error = error


class PacedProducer(Protocol):
    """Producer of paced items: `Producer`, or `NamedProducer`."""

    @property
    def over(self) -> bool:
        """Whether the consumer wants no more items."""
        ...

    def check_wanted(self) -> None:
        """Raise what ends the producer, if the consumer wants no more items."""

    async def raise_end(self, error: ChannelClosed | ConnectionLost, /) -> Never:
        """Raise what ends the producer, after an item failed with ``error``."""
        ...


async def run_paced(producer: PacedProducer, sender: Sender, channel: ChannelRef | int, source: Source) -> None:
    """Send the items of ``source``, each as a request, whose answer says that there is room for the next one.

    The consumer may take as long as it likes. The end of the channel or of the session settles the request.

    Raises:
        ItemRefused: the consumer has rejected an item.
        MessageTooBig, TypeError: an item cannot be sent.
        Exception: whatever the source and the producer raise.
    """
    async with aclosing(iterate(source)) as items:
        async for value in items:
            producer.check_wanted()
            try:
                await sender.send_request(channel, "next", (Item(value),), ITEM_REQUEST)
            except RemoteError as exc:
                raise ItemRefused(of_started_call(exc)) from None
            except (ChannelClosed, ConnectionLost) as exc:
                await producer.raise_end(exc)
            if producer.over:
                return


# ---------------------------------------------------------------- pulls

LARGEST_PULL = 100_000
MOST_PULLS = 64
"""Pulls that may wait for their items. A consumer that asks ahead does so by one or two."""


class Pulls:
    """Queue of the requests ``pull`` on a channel. Each is answered with as many items as it asks for."""

    __slots__ = ("_channel", "_kept", "waiting")

    def __init__(self, channel: ChannelCore) -> None:
        self._channel = channel
        self.waiting: deque[tuple[int, int]] = deque()
        """The id of each request, and how many items it wants."""
        self._kept: list[Any] = []
        """The value that did not fit into the last answer."""

    def add(self, i: Any, args: list[Any], *, started: bool) -> bool:
        """Queue a request, or refuse it. Return whether it was queued.

        Args:
            started: the items come by themselves.
        """
        if i is UNSET:
            return False  # nobody waits for an answer, so nobody gets items
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
        """Answer the requests with the items of ``source``, until there are no more.

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
        """Answer the oldest request with ``items``. Return whether there are no more items."""
        writer, n, done = self._channel.writer, self.waiting[0][1], False
        window = min(self._channel.unread_memory.limits.stream_window_bytes, writer.terms.largest // 2)
        values, self._kept = self._kept, []
        size = sum(len(writer.terms.encode(Item(value))) for value in values)
        try:
            while len(values) < n and size < window:
                value = await anext(items)
                size += len(writer.terms.encode(Item(value)))
                # A value that no longer fits into this answer comes with the next one.
                (self._kept if values and size > window else values).append(value)
                if len(values) % BURST == 0:
                    await asyncio.sleep(0)
        except StopAsyncIteration:
            done = True
        except BaseException:
            if values and not self._channel.over:  # the values before the error are not lost
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
        """Answer all requests: there are no more items. The answer with the last items has said so already."""
        while self.waiting:
            self._answer([], done=True)

    def refuse(self, error: Exception) -> None:
        """Reject all requests."""
        while self.waiting:
            self._channel.refuse(self.waiting.popleft()[0], error)

    def pop_request_ids(self) -> list[int]:
        """Return the ids of the requests, and forget them."""
        ids = [i for i, _ in self.waiting]
        self.waiting.clear()
        return ids

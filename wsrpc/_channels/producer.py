"""Producing: the items of an iterable, sent on an anonymous channel as whoever consumes them asks for them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from typing import Any, Never

from msgspec import UNSET

from .._base.scheduler import Timer
from .._protocol.messages import Event, Inbound, Item, NoMoreItems
from .._protocol.rejections import of_started_call
from .._sending.caller import Source
from .._sending.requests import Asker
from .._streams.inbox import Decode
from ..errors import BadArguments, ChannelClosed, ConnectionLost, Overloaded, RemoteError, RpcError
from .anonymous import AnonymousChannel
from .source import iterate

__all__ = ["ItemRefused", "Producer"]

LARGEST_PULL = 100_000
BURST = 64
"""Items that are sent without a pause."""
MOST_PULLS = 64
"""That wait for their items; who asks ahead does so by one or two."""


_END: Any = object()


class ItemRefused(Exception):
    """The consumer rejected an item that was sent to it as a request: it takes no more."""

    def __init__(self, error: RemoteError) -> None:
        super().__init__(str(error))
        self.error = error


class Producer:
    """Sends items in one of three ways, which the consumer's first act chooses (and nothing later changes):

    - ``credit``, then ``start``: another wsrpc peer. Items are events, as far as the credit goes.
    - ``start`` alone: ws-wrapper's own iterator, which holds one item (JavaScript 4.3.1, observed). Each item is a
      request, and the next one waits for its answer.
    - a request ``pull`` of ``n``: the answer is ``{values, done}``, with ``n`` values, fewer only at the end or when
      they are large.
    """

    __slots__ = (
        "_ask",
        "_channel",
        "_credit_given",
        "_granted",
        "_granted_bytes",
        "_late",
        "_loop",
        "_mode",
        "_out",
        "_over",
        "_pause_at",
        "_pulls",
        "_sent",
        "_sent_bytes",
        "_timer",
        "_waiter",
        "h",
        "stopped",
    )

    def __init__(self, channel: AnonymousChannel, asker: Asker, *, patience: float | None, late: Exception) -> None:
        """``late`` ends the channel if the consumer has not begun within ``patience`` seconds."""
        self._channel = channel
        self.h = channel.id
        self._ask = asker.send_on_channel
        self._out = asker.out
        self._loop = channel._home.loop
        self._late = late
        self._mode = ""
        self._sent = self._sent_bytes = 0
        self._over = False
        self._pause_at = BURST
        self._credit_given = False
        self._granted = self._granted_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._pulls: deque[tuple[int, int]] = deque()
        self.stopped: asyncio.Future[None] = self._loop.create_future()
        """Done when the consumer has said that it wants no more, or the channel is over."""
        self._timer: Timer | None = None
        channel._on_credit = self._credited
        if channel._credit is not None:
            self._credited(*channel._credit)
        for event in ("start", "pull", "stop"):
            channel._tap(event, self)
        if patience is not None and not channel.closed:
            self._timer = self._loop.call_at(self._loop.time() + patience, self._overdue)

    # ------------------------------------------------------------ what the consumer says

    def arrived(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        name = message.a[0]
        i = message.i
        if name == "start":
            if not self._mode:
                self._begin("credit" if self._credit_given else "paced")
            if i is not UNSET:
                self._channel._answer(i, None)
        elif name == "pull":
            self._pull(i, message.a[1:])
        else:
            if not self.stopped.done():
                self.stopped.set_result(None)
            if i is not UNSET:
                self._channel._answer(i, None)

    def _pull(self, i: Any, args: list[Any]) -> None:
        if i is UNSET:
            return  # nobody waits for an answer, so nobody gets items
        n = args[0] if args else 1
        if n.__class__ is not int or not 0 < n <= LARGEST_PULL:
            self._refuse(i, f"pull: expected how many items, 1 to {LARGEST_PULL}, got {str(n)[:100]}")
        elif len(self._pulls) >= MOST_PULLS:
            self._channel._refuse(i, Overloaded(f"pull: {MOST_PULLS} wait already, await some of them first"))
        elif self._mode not in ("", "pull"):
            self._refuse(i, "pull: this stream was started, so its items come by themselves; pull instead of `start`")
        else:
            self._pulls.append((i, n))
            if not self._mode:
                self._begin("pull")
            self._wake()

    def _refuse(self, i: int, text: str) -> None:
        self._channel._refuse(i, BadArguments(text))

    def _credited(self, n: int, size: int) -> None:
        # Totals: what is repeated or comes late changes nothing.
        if self._mode in ("", "credit"):
            self._credit_given = True
            self._granted = max(self._granted, n)
            self._granted_bytes = max(self._granted_bytes, size)
            self._wake()

    def _begin(self, mode: str) -> None:
        self._mode = mode
        self._stop_timer()
        self._wake()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _overdue(self) -> None:
        self._channel._abort(self._late if isinstance(self._late, RpcError) else None, self._late)

    @property
    def channel_closed(self) -> bool:
        return self._channel.closed

    def channel_over(self, error: Exception | None) -> None:
        self._over = True
        self._granted = 0  # so that the next item is not sent
        self._wake()
        self._stop_timer()
        if not self.stopped.done():
            self.stopped.set_result(None)

    def take_ids(self) -> list[int]:
        ids = [i for i, _ in self._pulls]
        self._pulls.clear()
        return ids

    # ------------------------------------------------------------ producing

    async def _wait(self) -> None:
        """Until the consumer says something.

        Raises:
            ChannelClosed: the channel is over.
        """
        if self._over:
            raise ChannelClosed(str(self.h), self._channel.close_reason)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        self._pause_at = self._sent + BURST

    async def _wait_for_end(self) -> Never:
        """The channel is over, or the line is broken, which the channel hears in a moment, and then says why.

        What failed to be sent is no answer to what became of the call: its first message may have run.
        """
        while True:
            await self._wait()

    async def _pause(self) -> None:
        """Let others have a turn: neither the source nor a generous consumer need ever wait."""
        self._pause_at = self._sent + BURST
        await asyncio.sleep(0)

    async def run(self, source: Source) -> None:
        """Send all items, as far as the consumer wants them.

        Cancelling stops it. To close the source is up to the caller.

        Raises:
            whatever the source raises; ChannelClosed, MessageTooBig, TypeError: an item cannot be sent.
        """
        while not self._mode:
            await self._wait()
        if self._mode == "pull":
            await self._run_pulled(source)
        elif self._mode == "paced":
            await self._run_paced(source)
        else:
            await self._run_credited(source)

    async def _run_credited(self, source: Source) -> None:
        # An item is made when there is room for it and not before: what a live feed sends is then as fresh as can be.
        # The same twice, because an async generator around a plain one would take as long as all the rest.
        if isinstance(source, AsyncIterable):
            items = source.__aiter__()
            while True:
                while not (self._sent < self._granted and self._sent_bytes < self._granted_bytes):
                    await self._wait()
                if self._sent >= self._pause_at:
                    await self._pause()
                try:
                    value = await items.__anext__()
                except StopAsyncIteration:
                    return
                if not self._send(value):
                    await self._send_in_turn(value)
        else:
            values = iter(source)
            while True:
                while not (self._sent < self._granted and self._sent_bytes < self._granted_bytes):
                    await self._wait()
                if self._sent >= self._pause_at:
                    await self._pause()
                value = next(values, _END)
                if value is _END:
                    return
                if not self._send(value):
                    await self._send_in_turn(value)

    def _send(self, value: Any) -> bool:
        """Send an item if the line is clear, and not broken."""
        out = self._out
        if self._over or not out.clear:
            return False
        payload = out.encode(Event(("next", Item(value)), UNSET, self.h))
        try:
            if not out.send(payload):
                return False
        except ConnectionLost:
            return False
        self._sent += 1
        self._sent_bytes += len(payload)
        return True

    async def _check_open(self) -> None:
        """Raise if the channel is over: its id may be that of another one by now, on the next connection.

        A source that goes on although it was cancelled may have taken that long.
        """
        if self._channel.closed:
            await self._wait_for_end()

    async def _send_in_turn(self, value: Any) -> None:
        await self._check_open()
        try:
            self._sent_bytes += await self._out.send_in_turn(Event(("next", Item(value)), UNSET, self.h))
        except (ChannelClosed, ConnectionLost):
            await self._wait_for_end()
        self._sent += 1

    async def _run_paced(self, source: Source) -> None:
        items = iterate(source)
        try:
            async for value in items:
                await self._check_open()
                try:
                    # The consumer may take as long as it likes; closing the channel settles this.
                    await self._ask(self.h, "next", (Item(value),), None)
                except RemoteError as exc:
                    raise ItemRefused(of_started_call(exc)) from None
                except (ChannelClosed, ConnectionLost):
                    await self._wait_for_end()
                if self.stopped.done():
                    return
        finally:
            await items.aclose()

    async def _run_pulled(self, source: Source) -> None:
        window = min(self._channel._home.limits.stream_window_bytes, self._out.largest // 2)
        items = iterate(source)
        try:
            done = False
            kept: list[Any] = []
            while not done:
                while not self._pulls:
                    await self._wait()
                n = self._pulls[0][1]
                values, kept = kept, []
                size = sum(len(self._out.encode(Item(value))) for value in values)
                try:
                    while len(values) < n and size < window:
                        value = await anext(items)
                        size += len(self._out.encode(Item(value)))
                        # What no longer fits into this answer comes with the next one.
                        (kept if values and size > window else values).append(value)
                        if len(values) % BURST == 0:
                            await self._pause()
                except StopAsyncIteration:
                    done = True
                except BaseException:
                    if values and not self._over:  # what came before the error is not lost
                        self._answer_pull(values, done=False)
                    raise
                self._answer_pull(values, done)
                await self._pause()
        finally:
            await items.aclose()

    def _answer_pull(self, values: list[Any], done: bool) -> None:
        if self._over:
            raise ChannelClosed(str(self.h), self._channel.close_reason)
        i, _ = self._pulls.popleft()
        try:
            self._channel._answer(i, {"values": values, "done": done})
        except Exception as exc:
            self._channel._refuse(i, exc)
            raise

    def refuse_pulls(self, error: Exception) -> None:
        """The source failed: whoever waits for items hears of it before the channel is over."""
        while self._pulls:
            i, _ = self._pulls.popleft()
            self._channel._refuse(i, error)

    @property
    def pulled(self) -> bool:
        """Whether the consumer pulls."""
        return self._mode == "pull"

    async def finish(self) -> None:
        """Say that there are no more items.

        Raises:
            ChannelClosed: the channel is over.
        """
        if self._mode == "pull":
            # The answer that brought the last ones has said it; whoever asked ahead hears it, too.
            while self._pulls:
                self._channel._answer(self._pulls.popleft()[0], {"values": [], "done": True})
        else:
            await self._check_open()
            try:
                await self._out.send_in_turn(Event(("next", NoMoreItems()), UNSET, self.h))
            except (ChannelClosed, ConnectionLost):
                await self._wait_for_end()

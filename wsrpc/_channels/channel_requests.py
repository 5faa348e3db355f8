"""Requests whose answer is a channel: conversations, streams and uploads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from msgspec import UNSET, UnsetType

from .._base.misuse import shown_as
from .._base.names import ChannelRef, Source
from .._handlers.registry import Registry
from .._protocol.messages import NoMoreItems
from .._protocol.rejections import of_started_call, reason_of
from .._sending.message_sender import MessageSender
from .._sending.pending import PendingRequests, RequestOptions
from .._sending.requests import Requester, convert_answer
from .._streams.inbox import Inbox
from .._streams.recipients import MismatchDetector
from ..errors import BadResult, ChannelClosed, ConnectionLost, RemoteError, RequestTimeout, RpcError
from ..limits import Limits
from .core import ChannelCore
from .paced import ItemRefused
from .producer import Producer
from .readers import Readers
from .source import close_source

__all__ = ["ChannelRequests"]

Timeout = float | UnsetType | None
SOURCE_FAILED = "what was sent failed at its source"


class ChannelRequests(Requester):
    """The sender of a peer: `Caller` sends through it. It adds the requests whose answer is a channel.

    Args:
        registry: the peer's registry, which has the user's hook for types.
        warn: writes a line into the log.
        keep: keeps a task that sends items, so that it is waited for when the peer closes.
    """

    def __init__(
        self,
        requests: PendingRequests,
        limits: Limits,
        registry: Registry,
        *,
        readers: Readers,
        warn: Callable[..., None],
        keep: Callable[[asyncio.Task[None]], None],
    ) -> None:
        super().__init__(requests, limits, registry, warn)
        self.converter = registry.converter
        self.read_events = readers.read_events
        self.read_items = readers.read_items
        self._keep = keep

    def use(self, messages: MessageSender) -> None:
        """Send through ``messages`` from now on: a session begins, or the next one is waited for."""
        super().use(messages)
        # The same methods without a call in between.
        self.send_event = messages.send_event
        self.send_event_nowait = messages.send_event_nowait

    async def _open(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions
    ) -> ChannelCore:
        """Send a request and return the channel that answers it. If there is none, close the source of the items."""
        if options.send is not None:
            check_source(options.send)
        try:
            if options.returns is not UNSET:
                self._registry.converter(options.returns)  # refuses a type before anything is sent
            opening = RequestOptions(timeout=options.timeout, offline=options.offline, wants_channel=True)
            opened: ChannelCore = await self.send_request(channel, event, args, opening)
        except BaseException:
            await close_source(options.send)
            raise
        return opened

    async def open_stream(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Inbox:
        """Open a stream and return the inbox of its items. See `Caller.stream`."""
        send = options.send
        opened = await self._open(channel, event, args, options)
        reading = opened.inbox(owns=True)
        if send is None:

            def wants_items() -> None:
                text = f"{event!r} reads items that its caller sends: give send=, to request() or stream()"
                reading.end(BadResult(text))
                opened.abort(None)

            opened.add_recipient("start", MismatchDetector(wants_items))
        else:
            # Made at once: the handler's `start` may have come with the channel.
            producer = self._producer(opened, event, options.timeout)
            sending = asyncio.get_running_loop().create_task(self._feed(opened, producer, reading, send))
            opened.when_closed(lambda reason: sending.cancel())
            self._keep(sending)
        return reading

    async def _feed(self, channel: ChannelCore, producer: Producer, reading: Inbox, send: Source) -> None:
        """Send the items that a stream's handler reads, while its items are being read."""
        try:
            await self._produce(producer, send)
            await producer.finish()
        except ChannelClosed:
            return  # the reader gets the error
        except ItemRefused as exc:
            reading.end(exc.error)
            channel.abort(None)
        except BaseException as exc:
            if not channel.closed:  # otherwise it was cancelled because of that
                cancelled = isinstance(exc, asyncio.CancelledError)
                reading.end(RuntimeError("the source was cancelled") if cancelled else exc)
                channel.abort(_for_handler(exc))
            if not isinstance(exc, Exception):
                raise

    @shown_as("request")
    async def upload(self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /) -> Any:
        """Send items to a handler and return its result. See `Caller.request` with ``send``."""
        timeout, send = options.timeout, options.send
        assert send is not None
        opened = await self._open(channel, event, args, options)
        try:
            await self._produce(self._producer(opened, event, timeout), send)
        except ChannelClosed as exc:
            raise (opened.error or exc) from None
        except ItemRefused as exc:
            opened.abort(None)
            raise exc.error from None
        except asyncio.CancelledError as exc:
            opened.abort(reason_of(exc))
            raise
        except BaseException as exc:
            opened.abort(_for_handler(exc))
            raise
        try:
            # The result is the answer to the end of the items.
            last = RequestOptions(timeout=timeout, within_call=True)
            result = await self.send_request(opened.id, "next", (NoMoreItems(),), last)
        except (ChannelClosed, ConnectionLost) as exc:
            # The handler may have run, although this message was not sent because the connection has just broken.
            await opened.wait_closed()
            raise (opened.error or exc) from None
        except RemoteError as exc:
            raise of_started_call(exc) from None
        except RequestTimeout as exc:
            opened.abort(None)
            raise RequestTimeout(event, exc.timeout) from None
        except asyncio.CancelledError as exc:
            opened.abort(reason_of(exc))
            raise
        finally:
            opened.finish_locally()
        return (
            result
            if options.returns is UNSET
            else convert_answer(self._registry.converter(options.returns), result, event, options.member)
        )

    def _producer(self, channel: ChannelCore, event: str, timeout: Timeout) -> Producer:
        seconds = self._limits.timeout if timeout is UNSET else timeout
        return Producer(channel, patience=seconds, late=partial(RequestTimeout, event, seconds or 0.0))

    async def _produce(self, producer: Producer, send: Source) -> None:
        """Send the items until there are no more, or the consumer wants no more.

        Raises:
            ChannelClosed: the channel is over.
            Exception: whatever the source raises.
        """
        # In a task of its own, because a source may wait without a limit for an item that nobody wants. The task also
        # closes the source, whatever happens here meanwhile.
        running = asyncio.get_running_loop().create_task(_send_all(producer, send))
        running.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._keep(running)
        finished = False
        try:
            await asyncio.wait({running, producer.stopped}, return_when=asyncio.FIRST_COMPLETED)
            finished = running.done()
        finally:
            running.cancel()
            await asyncio.wait({running})
        if finished and running.cancelled():
            raise asyncio.CancelledError("the source was cancelled")  # not by this function
        error = None if running.cancelled() else running.exception()
        producer.check_channel()
        if error is not None:
            raise error


async def _send_all(producer: Producer, send: Source) -> None:
    try:
        await producer.run(send)
    finally:
        await close_source(send)


def _for_handler(exc: BaseException) -> RpcError:
    """Return the error that the handler gets when the source has failed. The caller gets the exception itself."""
    return exc if isinstance(exc, RpcError) and not isinstance(exc, RemoteError) else RpcError(SOURCE_FAILED)


def check_source(send: Any) -> None:
    """Refuse a value that has no items to send.

    Raises:
        TypeError: ``send`` is not an iterable of items.
    """
    if isinstance(send, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(
        send, (AsyncIterable, Iterable)
    ):
        raise TypeError(
            "send= takes an iterable or async iterable whose items are sent one by one, got "
            f"{type(cast(object, send)).__name__}"
        )

"""Requests whose answer is a channel: conversations, streams, uploads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import Any, cast

from msgspec import UNSET, UnsetType

from .._base.misuse import shown_as
from .._base.names import ChannelRef, Offline
from .._protocol.messages import NoMoreItems
from .._protocol.rejections import of_started_call
from .._sending.caller import Source
from .._sending.requests import Asker, convert_answer
from .._streams.reader import Misdirected, Reading
from ..errors import BadResult, ChannelClosed, ConnectionLost, RemoteError, RequestTimeout, RpcError
from .anonymous import AnonymousChannel
from .producer import ItemRefused, Producer
from .readers import Readers
from .source import close_source
from .table import Channels

__all__ = ["Opener"]

Timeout = float | UnsetType | None
SOURCE_FAILED = "what was sent failed at its source"


class Opener:
    """What `Caller` needs of a peer: everything that is sent because a user says so."""

    def __init__(
        self, asker: Asker, channels: Channels, readers: Readers, keep: Callable[[asyncio.Task[None]], None]
    ) -> None:
        self.send_event = asker.out.send_event
        self.send_event_nowait = asker.out.send_event_nowait
        self.send_request = asker.send_request
        self.request_again = asker.request_again
        self.converter = asker.converter
        self.read_events = readers.read_events
        self.read_items = readers.read_items
        self._asker = asker
        self._channels = channels
        self._keep = keep

    async def open_channel(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        timeout: Timeout,
        offline: Offline | None = None,
        /,
    ) -> AnonymousChannel:
        """See `Caller.open_channel`."""
        opened: AnonymousChannel = await self._asker.send_request(
            channel, event, args, UNSET, timeout, offline, self._channels.open
        )
        return opened

    async def open_stream(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        timeout: Timeout,
        send: Source | None,
        offline: Offline | None,
        /,
    ) -> Reading:
        """See `Caller.stream`."""
        if send is not None:
            check_source(send)
        try:
            opened = await self.open_channel(channel, event, args, timeout, offline)
        except BaseException:
            await close_source(send)
            raise
        reading = opened._reading("next", items=True, owns=True)
        if send is None:

            def wants_items() -> None:
                text = f"{event!r} reads items that its caller sends: give send=, to request() or stream()"
                reading.inbox.end(BadResult(text))
                opened._abort(None)

            Misdirected(opened, ("start",), wants_items)
        else:
            # Made at once: the handler's `start` may have come with the channel.
            producer = self._producer(opened, event, timeout)
            pump = asyncio.get_running_loop().create_task(self._feed(opened, producer, reading, send))
            opened._on_close = lambda reason: _cancel(pump)
            self._keep(pump)
        return reading

    async def _feed(self, channel: AnonymousChannel, producer: Producer, reading: Reading, send: Source) -> None:
        """Send what a stream's handler reads, beside the reading."""
        try:
            await self._produce(producer, send)
            await producer.finish()
        except ChannelClosed:
            return  # whoever reads hears of it
        except ItemRefused as exc:
            reading.inbox.end(exc.error)
            channel._abort(None)
        except BaseException as exc:
            if not channel.closed:  # else it was cancelled because of that
                cancelled = isinstance(exc, asyncio.CancelledError)
                reading.inbox.end(RuntimeError("the source was cancelled") if cancelled else exc)
                channel._abort(_for_handler(exc))
            if not isinstance(exc, Exception):
                raise

    @shown_as("request")
    async def upload(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        returns: Any,
        timeout: Timeout,
        send: Source,
        offline: Offline | None = None,
        /,
    ) -> Any:
        """See `Caller.request` with ``send``."""
        check_source(send)
        try:
            convert = None if returns is UNSET else self.converter(returns)
            opened = await self.open_channel(channel, event, args, timeout, offline)
        except BaseException:
            await close_source(send)
            raise
        try:
            await self._produce(self._producer(opened, event, timeout), send)
        except ChannelClosed as exc:
            raise (opened._error or exc) from None
        except ItemRefused as exc:
            opened._abort(None)
            raise exc.error from None
        except asyncio.CancelledError as exc:
            opened._abort(exc.args[0] if exc.args else None)
            raise
        except BaseException as exc:
            opened._abort(_for_handler(exc))
            raise
        try:
            # The answer to the end of the items is the result.
            result = await self._asker.send_on_channel(opened.id, "next", (NoMoreItems(),), timeout)
        except (ChannelClosed, ConnectionLost) as exc:
            # That this was not sent, on a line that has just broken, does not say that the handler has not run.
            await opened.wait_closed()
            raise (opened._error or exc) from None
        except RemoteError as exc:
            raise of_started_call(exc) from None
        except RequestTimeout as exc:
            opened._abort(None)
            raise RequestTimeout(event, exc.timeout) from None
        except asyncio.CancelledError as exc:
            opened._abort(exc.args[0] if exc.args else None)
            raise
        finally:
            opened._end_well()
        return result if convert is None else convert_answer(convert, result, event)

    def _producer(self, channel: AnonymousChannel, event: str, timeout: Timeout) -> Producer:
        seconds = self._channels.limits.timeout if timeout is UNSET else timeout
        return Producer(channel, self._asker, patience=seconds, late=RequestTimeout(event, seconds or 0.0))

    async def _produce(self, producer: Producer, send: Source) -> None:
        """Send the items until there are no more, or nobody wants more.

        Raises:
            ChannelClosed: the channel is over.
            whatever the source raises.
        """
        # In a task of its own, because a source may wait for ever for an item that nobody wants. It closes the source,
        # too, whatever happens here meanwhile.
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
            raise asyncio.CancelledError("the source was cancelled")  # by itself, not from here
        error = None if running.cancelled() else running.exception()
        if producer.channel_closed:
            raise ChannelClosed(str(producer.h))
        if error is not None:
            raise error


async def _send_all(producer: Producer, send: Source) -> None:
    try:
        await producer.run(send)
    finally:
        await close_source(send)


def _for_handler(exc: BaseException) -> RpcError:
    """What the handler is told of a source that failed; whoever gave the source gets the exception itself."""
    return exc if isinstance(exc, RpcError) and not isinstance(exc, RemoteError) else RpcError(SOURCE_FAILED)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def check_source(send: Any) -> None:
    """Refuse what has no items to send.

    Raises:
        TypeError: says what it takes.
    """
    if isinstance(send, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(
        send, (AsyncIterable, Iterable)
    ):
        raise TypeError(
            "send= takes an iterable or async iterable whose items are sent one by one, got "
            f"{type(cast(object, send)).__name__}"
        )

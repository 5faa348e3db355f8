"""`Requester`: sends requests, streams and uploads to the remote peer, and returns their results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from threading import get_ident
from typing import Any, cast

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ..._base.misuse import shown_as
from ..._base.names import RESERVED_EVENTS, ChannelRef, Source, check_timeout
from ..._base.retry import ask_again
from ...errors import (
    BadResult,
    ChannelClosed,
    ConnectionLost,
    RemoteError,
    RequestTimeout,
    RpcError,
    UnexpectedChannel,
    WsrpcError,
    add_member_note,
    ungrouped,
)
from ..channels.channel_core import ChannelCore, StreamInbox
from ..channels.named_channels import NamedChannels
from ..channels.producer import ItemRefused, Producer
from ..channels.source import close_source
from ..inboxes.inbox import Inbox
from ..inboxes.recipients import MismatchDetector
from ..sending.checks import check_sending
from ..sending.notices import send_notice
from ..sending.outbox import Outbox
from ..sending.pending import Pending
from ..sending.sender import Sender
from ..session.peer_host import PeerHost
from ..wire.call_context import CallContext
from ..wire.go_profile import GoCodec, rejection_from
from ..wire.messages import NO_OPTIONS, Cancellation, NoMoreItems, Request, RequestOptions, WireMessage
from ..wire.nodes import as_raised
from ..wire.rejections import of_started_call, reason_of

SOURCE_FAILED = "what was sent failed at its source"


class Requester:
    """Sends requests, and returns their results or raises their errors: the `Sender` of a peer, for its `Caller`.

    It is the same object from one session to the next.
    """

    def __init__(self, outbox: Outbox, host: PeerHost, named_channels: NamedChannels) -> None:
        self.outbox = outbox
        self._requests = outbox.requests
        self._host = host
        self._limits = host.settings.limits
        self._between_nodes = host.settings.between_nodes
        self.request_timeout = self._limits.request_timeout
        self._warned: dict[str, None] = {}
        self.converter = host.options.own.converter
        self.outgoing: Sequence[Any] = host.options.own.outgoing
        self._cluster_sender: Sender | None = None
        """The sender for the peer of another node to which the channel of this sender leads."""
        self.read_events = named_channels.read_events
        self.read_items = named_channels.read_items
        # The same methods, without a call in between.
        self.send_event = outbox.send_event
        self.send_event_nowait = outbox.send_event_nowait

    def target(self) -> tuple[Any, str | None]:
        """Return the peer that gets the messages, and its address, for the functions of `use_outgoing`."""
        if self._cluster_sender is not None:
            return self._cluster_sender.target()
        peer = self._host.reporter.peer()
        return peer, None if peer is None else peer.address

    def for_cluster(self, sender: Sender) -> Requester:
        """Return a sender for a channel to a peer of another node. The functions of ``sender`` run for its messages."""
        made = copy(self)
        made.outgoing, made._cluster_sender = sender.outgoing, sender
        return made

    # ------------------------------------------------------------ one request

    @shown_as("request")
    async def send_request(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        options: RequestOptions,
        /,
    ) -> Any:
        """Send a request and return its answer: a `ChannelCore` with ``wants_channel``. See `Caller.request`."""
        try:
            timeout, convert = self.request_timeout, None
            if options is not NO_OPTIONS:
                if options.returns is not UNSET:
                    convert = self.converter(options.returns)
                if options.timeout is not UNSET:
                    timeout = options.timeout
                    if timeout is not None:
                        check_timeout(timeout)
            if self._between_nodes and channel is not None:
                options = replace(options, timeout=timeout, is_passed_on=True)
            outbox = self.outbox
            thread = outbox.writer.thread
            if event.__class__ is not str or event in RESERVED_EVENTS or get_ident() != thread:
                check_sending(channel, event, thread)  # not called for each request, because it takes measurable time
            pending = self._requests.add(channel, event, timeout, options)
            try:
                if channel is None and options is NO_OPTIONS:
                    message = Request(pending.id, (event, *args))
                else:
                    message = options.message(pending.id, channel, (event, *args))
                if not outbox.request_now(message, pending):
                    await outbox.post(message, options.offline, pending)
                answer = await pending.future
            except asyncio.CancelledError as exc:
                self._give_up(pending, reason_of(exc))
                raise
            except BaseException:
                self._requests.remove(pending)
                raise
            if isinstance(answer, Exception):
                try:
                    raise answer
                finally:  # else the exception would refer to this frame, and the frame to the exception
                    del answer, pending
            if answer.e is not UNSET:
                is_late = pending.remaining_ms(self._host.loop.time()) == 0 and not options.is_passed_on
                if is_late and timeout is not None:
                    # The remote peer knows the deadline, too, and was the first to notice that it has passed.
                    raise RequestTimeout(event, timeout)
                raise self._rejection(answer, event, len(args))
            if answer.h:
                return pending.channel if options.wants_channel else self._unexpected_channel(event, convert)
            value: Any = None if answer.d is UNSET else answer.d
            if options.wants_channel and not options.between_nodes:
                raise BadResult(
                    f"the response to {event!r} is not a channel but {type(value).__name__}: its handler neither "
                    "streams nor reads what is sent nor returns a channel; ask for its value with request()"
                )
            return value if convert is None else convert_answer(convert, value, event, options.member)
        except WsrpcError as exc:
            add_member_note(exc, options.member)
            raise

    def _rejection(self, answer: WireMessage, event: str, count: int) -> Exception:
        """Return the error for the rejection of a request with ``count`` arguments."""
        error = rejection_from(answer.e, answer.flag, self._host.settings.codec, event, count)
        return as_raised(error) if self._between_nodes else error

    def _unexpected_channel(self, event: str, convert: Callable[[Any], Any] | None) -> None:
        """Raise an error because the answer is a channel, unless it stands for None. The channel was aborted before.

        JavaScript answers null with a channel, by mistake (4.3.1, observed).
        """
        settings = self._host.settings
        admits_none = self.outbox.writer.terms.plain and settings.codec.__class__ is not GoCodec
        if admits_none and convert is not None:
            try:
                convert(None)
            except msgspec.ValidationError:
                admits_none = False
        if not admits_none:
            raise UnexpectedChannel(
                f"the response to {event!r} is an anonymous channel, which nobody asked for; it was aborted. Ask for "
                "it with stream(), open_channel() or request(send=)"
            )
        if event not in self._warned:
            self._warned[event] = None
            self._host.log.warn(
                "the response to %r is an anonymous channel; it was aborted and taken for None, because JavaScript "
                "peers answer null that way. If it was meant as a channel, ask for it with stream() or open_channel()",
                event,
                call=lambda: {"event": event},
            )

    # ------------------------------------------------------------ requests that end early

    def _give_up(self, pending: Pending, reason: object, error: Exception | None = None) -> None:
        """End a request whose caller was cancelled, or gets ``error``, and cancel it on the remote peer."""
        self.outbox.withdraw(pending.queued)
        if self._requests.give_up(pending, error):
            send_notice(self.outbox.writer, partial(Cancellation, pending.id), reason, self._host.log.warn)
        elif pending.channel is not None:  # it arrived in the same turn of the event loop
            pending.channel.abort(reason)

    def expired(self, pending: Pending) -> None:
        """End a request whose deadline has passed."""
        assert pending.timeout is not None and pending.state.outcome is not None
        self._give_up(pending, None, RequestTimeout(pending.event, pending.timeout, pending.state.outcome))

    # ------------------------------------------------------------ several requests as one call

    async def request_again(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Any:
        """Send a request, and send it again if it fails. See `Caller.request` with ``retry``."""
        assert options.retry is not None
        kept = self._host.settings.copied((event, *args))
        return await ask_again(
            lambda left: self.send_request(channel, event, kept[1:], replace(options, timeout=left)),
            options.retry,
            idempotent=options.idempotent,
            event=event,
            timeout=self._limits.request_timeout if options.timeout is UNSET else options.timeout,
            loop=self.outbox.writer.loop,
            expects_connection=lambda: self.outbox.expects_connection,
        )

    async def _open(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions
    ) -> ChannelCore:
        """Send a request and return the channel that answers it. If there is none, close the source of the items."""
        if options.send is not None:
            check_source(options.send)
        try:
            # The caller adds `member` to all errors of the call, not only to those of this request.
            opening = replace(options, wants_channel=True, member=None)
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
        reading = StreamInbox(opened)
        if send is None:

            def wants_items() -> None:
                text = f"{event!r} reads items that its caller sends: give send=, to request() or stream()"
                reading.end(BadResult(text))
                opened.abort(None)

            opened.add_recipient("start", MismatchDetector(wants_items))
        else:
            # Made at once, because the handler's `start` may have arrived with the channel.
            producer = self._producer(opened, event, options.timeout)
            sending = asyncio.get_running_loop().create_task(self._feed(opened, producer, reading, send))
            opened.on_end += (sending.cancel,)
            self._host.reporter.keep(sending)
        return reading

    async def _feed(self, channel: ChannelCore, producer: Producer, reading: Inbox, send: Source) -> None:
        """Send items to the handler of a stream, while the items of the handler are read."""
        try:
            await self._produce(producer, send)
            await producer.finish()
        except ChannelClosed:
            return  # the reader gets the error
        except ItemRefused as exc:
            reading.end(exc.error)
            channel.abort(None)
        except BaseException as exc:
            if not channel.over:  # otherwise the task was cancelled because the channel has ended
                cancelled = isinstance(exc, asyncio.CancelledError)
                _may_have_run(exc)
                reading.end(RuntimeError("the source was cancelled") if cancelled else exc)
                channel.abort(_for_handler(exc))
            if not isinstance(exc, Exception):
                raise

    @shown_as("request")
    async def upload(self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /) -> Any:
        """Send items to a handler and return its result. See `Caller.request` with ``send``."""
        timeout, send = options.timeout, options.send
        assert send is not None
        context = replace(options.context or CallContext(), upload=True)
        opened = await self._open(channel, event, args, replace(options, context=context))
        try:
            await self._produce(self._producer(opened, event, timeout), send)
        except ChannelClosed as exc:
            raise _why_ended(opened, exc) from None
        except ItemRefused as exc:
            opened.abort(None)
            raise exc.error from None
        except asyncio.CancelledError as exc:
            opened.abort(reason_of(exc))
            raise
        except BaseException as exc:
            opened.abort(_for_handler(exc))
            _may_have_run(exc)
            raise
        try:
            # The result is the answer to the end of the items.
            last = RequestOptions(timeout=timeout, within_call=True)
            result = await self.send_request(opened.id, "next", (NoMoreItems(),), last)
        except (ChannelClosed, ConnectionLost) as exc:
            # The handler may have run, although the connection broke before this message was sent.
            await opened.wait_closed()
            raise _why_ended(opened, exc) from None
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
            else convert_answer(self.converter(options.returns), result, event, options.member)
        )

    def _producer(self, channel: ChannelCore, event: str, timeout: float | UnsetType | None) -> Producer:
        seconds = self._limits.request_timeout if timeout is UNSET else timeout
        return Producer(channel, patience=seconds, late=RequestTimeout(event, seconds or 0.0))

    async def _produce(self, producer: Producer, send: Source) -> None:
        """Send the items until there are no more, or the consumer wants no more.

        Raises:
            ChannelClosed: the channel is over.
            Exception: the source has raised it.
        """
        # In its own task, because a source may wait without a limit for an item that the consumer does not want. The
        # task also closes the source, whatever happens here.
        loop = asyncio.get_running_loop()
        running = loop.create_task(_send_all(producer, send))
        running.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._host.reporter.keep(running)
        stopped: asyncio.Future[None] = loop.create_future()
        producer.when_over(partial(stopped.set_result, None))
        finished = False
        try:
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finished = running.done()
        finally:
            running.cancel()
            await asyncio.wait({running})
        if finished and running.cancelled():
            raise asyncio.CancelledError("the source was cancelled")  # not by this function
        error = None if running.cancelled() else running.exception()
        try:
            producer.check_channel_open()
            if error is not None:
                raise error
        finally:  # as in `send_request`
            del error, running


async def _send_all(producer: Producer, send: Source) -> None:
    try:
        await producer.run(send)
    finally:
        await close_source(send)


def _why_ended(channel: ChannelCore, exc: ChannelClosed | ConnectionLost) -> Exception:
    """Return the error with which a channel has ended, and remove it from the channel. Without one, return ``exc``."""
    error = channel.error or exc
    channel.drop_error()
    if error is not exc:
        exc.reason = ""  # the reason may be ``error``, whose context ``exc`` becomes
    return error


def _may_have_run(exc: BaseException) -> None:
    """Say in an error of a source that the handler may have run, because it has got the items before."""
    if isinstance(exc, WsrpcError):
        exc.outcome = "unknown"


def _for_handler(exc: BaseException) -> RpcError:
    """Return the error that the handler gets when the source has failed. The caller gets the exception itself."""
    exc = ungrouped(exc)
    return exc if isinstance(exc, RpcError) and not isinstance(exc, RemoteError) else RpcError(SOURCE_FAILED)


def check_source(send: Any) -> None:
    """Check that a value has items to send.

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


def convert_answer(convert: Callable[[Any], Any], value: Any, event: str, member: str | None) -> Any:
    """Return ``value`` converted to the type that ``returns=`` asks for, or the member of a contract declares.

    Raises:
        BadResult: ``value`` cannot be converted.
    """
    try:
        return convert(value)
    except msgspec.ValidationError as exc:
        wanted = "returns= asks for" if member is None else f"{member} declares"
        raise BadResult(f"the response to {event!r} is not what {wanted}: {exc}") from None

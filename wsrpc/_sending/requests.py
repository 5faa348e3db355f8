"""Requests to the remote peer, from the call to the answer, the timeout or the cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from threading import get_ident
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from .._base.misuse import shown_as
from .._base.names import RESERVED_EVENTS, ChannelRef, check_timeout
from .._handlers.registry import Registry
from .._protocol.codecs import SAME
from .._protocol.messages import Cancellation, Request, request_on
from .._protocol.rejections import reason_of
from ..errors import BadResult, Outcome, RequestTimeout, UnexpectedChannel, WsrpcError, note_member
from ..limits import Limits
from .checks import check_sending
from .message_sender import MessageSender
from .notices import send_notice
from .outbound import Outbound
from .pending import NO_OPTIONS, Pending, PendingRequests, RequestOptions
from .retry import ask_again

__all__ = ["Requester", "convert_answer"]


class Requester:
    """Sends requests, and turns answers into results or errors.

    Callers hold it from one session to the next. Each call sends through ``messages``, or straight through ``out``.

    Args:
        registry: the peer's registry, which has the user's hook for types.
        warn: writes a line into the log.
    """

    messages: MessageSender
    """Of the present session, with its way out."""
    out: Outbound

    def __init__(
        self, requests: PendingRequests, limits: Limits, registry: Registry, warn: Callable[..., None]
    ) -> None:
        self._requests = requests
        self._limits = limits
        self._registry = registry
        self._warn = warn
        self._warned: dict[str, None] = {}

    def use(self, messages: MessageSender) -> None:
        """Send through ``messages`` from now on: a session begins, or the next one is waited for."""
        self.messages = messages
        self.out = messages.out

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
            timeout, convert = self._limits.timeout, None
            if options is not NO_OPTIONS:
                if options.returns is not UNSET:
                    convert = self._registry.converter(options.returns)
                if options.timeout is not UNSET:
                    timeout = options.timeout
                    if timeout is not None:
                        check_timeout(timeout)
            pending = self._send_at_once(channel, event, args, timeout, options)
            if pending is None:
                check_sending(channel, event, self.out.thread)
                pending = self._requests.open(event, timeout, channel if isinstance(channel, int) else None, options)
            try:
                if pending.flight is None:
                    await self._send(request_on(pending.id, channel, (event, *args)), pending, options)
                answer = await pending.future
            except asyncio.CancelledError as exc:
                self._give_up(pending, reason_of(exc))
                raise
            except BaseException:
                self._requests.drop(pending)
                raise
            if isinstance(answer, Exception):
                raise answer
            if answer.e is not UNSET:
                raise self.out.rejection_from(answer, event, len(args))
            if answer.h:
                return pending.channel if options.wants_channel else self._unexpected_channel(event, convert)
            value: Any = None if answer.d is UNSET else answer.d
            if options.wants_channel and not options.relayed:
                raise BadResult(
                    f"the response to {event!r} is not a channel but {type(value).__name__}: its handler neither "
                    "streams nor reads what is sent nor returns a channel; ask for its value with request()"
                )
            return value if convert is None else convert_answer(convert, value, event, options.member)
        except WsrpcError as exc:
            note_member(exc, options.member)
            raise

    async def _send(self, message: Request, pending: Pending, options: RequestOptions) -> None:
        """Send a request now, or when that is possible."""
        out, messages = self.out, self.messages
        if pending.h is None and messages.scarce:
            await self._send_when_accepted(message, pending, messages.bound_by(options.offline))
        elif out.clear and out.send(payload := out.terms.encode(message)):
            self._requests.was_sent(pending, len(payload))
        else:
            await messages.send_in_turn(message, pending, messages.bound_by(options.offline))

    def _send_at_once(
        self,
        channel: ChannelRef,
        event: str,
        args: tuple[Any, ...],
        timeout: float | None,
        options: RequestOptions,
    ) -> Pending | None:
        """Send a request on the main channel or a named one now. Return None if a check fails, or it has to wait.

        The fast path of nearly all requests. It makes the checks of `check_sending`, `MessageSender.scarce` and
        `_send`, encodes plain values without a further look (`Terms.encode_same`), and counts as
        `PendingRequests.was_sent` does, all in one place, because a call costs more than a check. Where it returns None
        it has done nothing: `send_request` then finds out what is wrong, or waits.
        """
        out, requests = self.out, self._requests
        flight, terms = requests.flight, out.terms
        if not (channel is None or isinstance(channel, str)):
            return None
        if not (
            out.clear
            and event.__class__ is str
            and (channel is not None or event not in RESERVED_EVENTS)
            and get_ident() == out.thread
            and flight.requests < terms.announced.running
            and flight.bytes <= terms.room_for_any
            and flight.freed is None
        ):
            return None
        pending = requests.open(event, timeout, None, options)
        try:
            message = Request(pending.id, (event, *args), UNSET if channel is None else channel)
            encode = terms.encode_same
            for value in args:
                if value.__class__ not in SAME:
                    encode = terms.encode
                    break
            try:
                payload = encode(message)
            except OverflowError:  # an integer of more than 64 bits, which JSON can express
                payload = terms.encode(message)
            size = len(payload)
            if not out.send(payload):
                return pending  # the connection has just ended, and another one will come
        except BaseException:
            requests.drop(pending)
            raise
        pending.flight = flight
        flight.requests += 1
        pending.size = size
        flight.bytes += size
        return pending

    def request_again(
        self, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions, /
    ) -> Coroutine[Any, Any, Any]:
        """Send a request, and send it again if it fails. See `Caller.request` with ``retry``."""
        assert options.retry is not None
        return ask_again(
            lambda left: self.send_request(channel, event, args, replace(options, timeout=left)),
            options.retry,
            idempotent=options.idempotent,
            event=event,
            timeout=self._limits.timeout if options.timeout is UNSET else options.timeout,
            loop=self.out.loop,
            expects_connection=lambda: self.out.expects_connection,
        )

    async def _send_when_accepted(self, message: Request, pending: Pending, bound: bool) -> None:
        """Send a request once the remote peer can accept it."""
        out, messages = self.out, self.messages
        capacity = messages.capacity
        turn = capacity.turn(None if bound else partial(messages.wait_for_next, message, pending))
        pending.bound = bound
        try:
            await capacity.take(pending, turn, lambda: len(out.terms.encode(message)))
            if not pending.future.done() and turn.left is None:
                await messages.send_in_turn(message, pending, bound)
        finally:
            capacity.leave(pending, turn)

    def _unexpected_channel(self, event: str, convert: Callable[[Any], Any] | None) -> None:
        """Refuse an answer that is a channel, unless it stands for None. The channel was aborted before.

        JavaScript answers null with a channel, by mistake (4.3.1, observed).
        """
        admits_none = self.out.hears_null_as_channel
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
            self._warn(
                "the response to %r is an anonymous channel; it was aborted and taken for None, because JavaScript "
                "peers answer null that way. If it was meant as a channel, ask for it with stream() or open_channel()",
                event,
            )

    def _give_up(self, pending: Pending, reason: object) -> None:
        """End a request whose caller was cancelled."""
        if self._requests.drop(pending):
            self._take_back(pending, reason)
        elif pending.channel is not None:  # it came in the same turn of the event loop
            pending.channel.abort(reason)

    def expired(self, pending: Pending) -> None:
        """End a request whose deadline is over."""
        assert pending.timeout is not None
        outcome: Outcome = "not_sent" if pending.flight is None else "unknown"
        self._requests.fail(pending, RequestTimeout(pending.event, pending.timeout, outcome))
        self._take_back(pending, None)

    def _take_back(self, pending: Pending, reason: object) -> None:
        """Take a request out of the offline queue if it waits there, or else tell the remote peer to stop."""
        if not pending.take_back() and pending.flight is not None:
            self._requests.give_up(pending)
            send_notice(self.out, partial(Cancellation, pending.id), reason, self._warn)


def convert_answer(convert: Callable[[Any], Any], value: Any, event: str, member: str | None) -> Any:
    """Return ``value`` converted to the type that ``returns=`` asks for, or the member of a contract declares.

    Raises:
        BadResult: it cannot be converted.
    """
    try:
        return convert(value)
    except msgspec.ValidationError as exc:
        wanted = "returns= asks for" if member is None else f"{member} declares"
        raise BadResult(f"the response to {event!r} is not what {wanted}: {exc}") from None

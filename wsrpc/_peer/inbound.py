"""Receives a peer's messages: decodes, validates and dispatches each one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from .._base.closing import CloseCode
from .._base.names import RAW, RESERVED_EVENTS, STREAM_EVENTS
from .._channels.core import ChannelTable
from .._handlers.lifecycle import Reporter
from .._handlers.observation import Message, finish
from .._handlers.registry import Registry
from .._protocol.codecs import Codec, JsonCodec, MsgpackCodec, NegotiatedCodec, validating_decoder
from .._protocol.control import Credit, is_control, read_control
from .._protocol.counting import SHARE, SMALL, decode_any, json_nests_deeper, json_objection
from .._protocol.messages import MAX_ID, ONE_DIGIT, WireMessage, channel_id, id_from_wire, is_id, place_on
from .._protocol.rejections import ABORTED, reason_from_wire
from .._sending.negotiation import Negotiation
from .._sending.outbound import Outbound
from .._sending.pending import Pending
from .._streams.recipients import Decode
from ..errors import (
    BadArguments,
    BadResult,
    ProtocolError,
    RemoteError,
    ReservedEvent,
    RpcError,
    UnexpectedChannel,
    UnknownEvent,
    short,
)
from ..limits import Limits
from .dispatch import Dispatcher

__all__ = ["Inbound"]

LONGEST = 1 + 64
"""Length of the longest ``a`` that is accepted: a name and its arguments. No honest program has so many."""
MOST_MALFORMED = 10
"""Malformed messages within a minute that do not end the connection."""
MINUTE = 60.0
NOT_TEXT = "name is not text"
TOO_DEEP = "nested too deep"
HONEST_DEPTH = 512
"""Nesting that values of an honest peer may have. How much more a decoder reads depends on the version of Python:
nearly 1,000 levels with 3.11, nearly 10,000 with 3.13."""
CONTROL = b'{"ws-wrapper":false,"wsrpc":'
"""Prefix of control messages, those of other versions included."""


TOO_MANY_VALUES = "too many values"


class InboundBounds(Struct, frozen=True, gc=False):
    """Bounds for the messages of one connection, computed once for all connections with the same `Limits`."""

    limits: Limits
    depth: int
    values: int
    small: int
    """Size in bytes of the largest message that cannot hold too many values, so that it is decoded at once."""
    short_name: int
    """Characters of a name that needs no encoding to be measured: a character takes four bytes at most."""
    rated: bool
    """Whether there is a limit of events and requests per second."""


@lru_cache(maxsize=64)
def bounds_of(limits: Limits) -> InboundBounds:
    """Return the bounds that follow from ``limits``, the same object for all peers that have these limits."""
    small = min(SMALL, limits.values // SHARE)
    return InboundBounds(limits, limits.depth, limits.values, small, limits.name // 4, limits.rate is not None)


class TooManyValues(Exception):
    """A message was not decoded, because decoding it would take too much memory. The text says what it holds."""


class Violations(Struct, gc=False):
    """Record of what the remote peer has sent on a connection that no peer should send. Most peers have none."""

    malformed_at: list[float]
    """Times of malformed messages within the last minute."""
    other_codec: bool = False
    """It seems to speak another codec, and the log says so."""


class Inbound:
    """Receives the messages of one connection: decodes, validates and dispatches each one. It never raises.

    Messages that the protocol tells a peer to ignore are counted in `Peer.ignored`.

    Args:
        own, shared: the peer's handlers, and the server's.
        negotiation: takes control messages. None: they are not looked for.
        reporter: calls `message` and `error` handlers.
        fail: ends the connection with a code and a reason.
    """

    def __init__(
        self,
        codec: Codec,
        limits: Limits,
        own: Registry,
        shared: Registry,
        *,
        dispatcher: Dispatcher,
        out: Outbound,
        channels: ChannelTable,
        negotiation: Negotiation | None,
        reporter: Reporter,
        fail: Callable[[int, str], None],
    ) -> None:
        self._codec: Codec = codec
        self._text = codec.text
        self._other: Codec | None = None
        """Codec of messages of the other kind (binary or text), once one is agreed on."""
        self._bounds = bounds_of(limits)
        self._own = own
        self._shared = shared
        self._dispatcher = dispatcher
        self._admission = dispatcher.admission
        self._out = out
        self._channels = channels
        self._negotiation = negotiation
        self._reporter = reporter
        self._fail = fail
        self._violations: Violations | None = None

    def agree(self, codec: NegotiatedCodec | None) -> None:
        """Receive binary messages, too, in ``codec``."""
        if codec is not None and codec is not self._codec:
            # Most will be of that kind from now on.
            self._other, self._codec = self._codec, codec
            self._text = codec.text

    # ------------------------------------------------------------ one message

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        """Receive one message from the transport.

        Plain events and requests, items of streams, and answers with a value or an error are recognised here, because a
        call in Python costs more than all these comparisons. `_examine` takes every other event or request, and
        `_receive_answer` every other message without ``a``. They know all the rules, so they would do the same with the
        messages that are recognised here.
        """
        try:
            codec = self._codec if text is self._text else self._other
            if codec is None:
                self._receive_other_kind(payload, text)
                return
            decode, bounds = codec.decode, self._bounds
            size = len(payload)
            try:
                message = (
                    decode(payload)
                    if size <= bounds.small and (not text or payload.isascii())
                    else self._decode_checked(codec, decode, payload, text)
                )
            except Exception as exc:  # a codec may be a user's, and raise anything
                self._not_decoded(bytes(payload), text, codec, exc)
                return
            deep = codec.nests_deeper(payload, message, bounds.depth) if size > bounds.depth else False
            if deep or message.ours is False:
                self._set_aside(payload, text, codec, message, deep)
                return
            view = None
            if self._own.observed or self._shared.observed:
                view = self._observe(payload, text, decode)
            a = message.a
            if a is UNSET:
                if (
                    message.h is not None
                    or message.x is not UNSET
                    or message.i.__class__ is not int
                    or view is not None
                    or self._out.requests.settle(message) is None
                ):
                    self._receive_answer(message, payload, view)
            elif a.__class__ is not list or not a:
                self._not_ours(payload)
                finish(view)
            elif (
                (h := message.h) is None
                and message.c is None
                and ((i := message.i) is UNSET or (i.__class__ is int and i > 0 and (i <= ONE_DIGIT or i <= MAX_ID)))
                and (name := a[0]).__class__ is str
                and len(name) <= bounds.short_name
                and len(a) <= LONGEST
            ):
                if self._admission.needs_checks:
                    self._admission.arrived(message, payload, view, decode)
                else:
                    self._dispatcher.run(message, payload, view)
            elif (
                type(h) is int
                and message.i is UNSET
                and (name := a[0]).__class__ is str
                and len(a) <= LONGEST
                and (channel := (channels := self._channels).opened.get(h) or channels.served.get(h)) is not None
                and (recipient := channel.live.get(name)) is not None
                and (not bounds.rated or name in STREAM_EVENTS)
            ):
                recipient.receive(message, payload, decode)  # an item of a stream, most of the time
                if view is not None:
                    finish(view)
            else:
                self._examine(message, payload, view, decode)
        except Exception as exc:
            self._not_dealt_with(exc)

    # ------------------------------------------------------------ decoding

    def _decode_checked(self, codec: Codec, decode: Decode, payload: bytes | bytearray, text: bool) -> WireMessage:
        """Decode a message that is large enough to hold too many values, or is text that may not be UTF-8.

        Raises:
            TooManyValues: it holds too many.
            UnicodeDecodeError: some of it is not UTF-8.
        """
        if len(payload) > self._bounds.small and codec.claims(payload):  # else it fails at its first byte
            why = codec.objection(payload, self._bounds.values)
            if why is not None:
                raise TooManyValues(why)
        if not text or payload.isascii():
            return decode_any(decode, payload)
        if (validate := validating_decoder(codec)) is not None:
            with suppress(msgspec.ValidationError):
                return decode_any(validate, payload)
        message = decode_any(decode, payload)
        payload.decode()
        return message

    def _not_decoded(self, payload: bytes, text: bool, codec: Codec, exc: Exception) -> None:
        """Find out what a message is that raised ``exc`` instead of being decoded, and deal with it."""
        if text and isinstance(exc, UnicodeDecodeError) and not _is_utf8(payload):
            self._not_utf8()
            return
        if self._control(payload, text):
            return
        if isinstance(exc, TooManyValues):
            self._drop_undecoded(payload, text, codec.outline(payload), TOO_MANY_VALUES, f"holds {exc}")
            return
        if text and not _is_utf8(payload):
            self._not_utf8()
            return
        if not codec.claims(payload):
            self._foreign(payload, text)
            return
        depth = self._bounds.depth
        outline = codec.outline(payload)
        too_deep = isinstance(exc, RecursionError)
        if outline is not None and not too_deep and len(payload) > depth:
            too_deep = codec.nests_deeper(payload, outline, depth)
        if too_deep:
            self._drop_too_deep(payload, text, codec, outline)
        else:
            self._drop_undecoded(payload, text, outline, "unreadable", f"does not decode: {_short(exc)}")

    def _set_aside(
        self, payload: bytes | bytearray, text: bool, codec: Codec, message: WireMessage, deep: bool
    ) -> None:
        """Deal with a decoded message that is a control message, not ws-wrapper's, or nested too ``deep``."""
        if message.ours is False and self._control(payload, text):
            return  # what two wsrpc peers say has a depth of its own
        if deep:
            if message.a is not UNSET and message.a.__class__ is not list:
                message.a = None  # as in an outline
            self._drop_too_deep(payload, text, codec, message)
        else:
            self._foreign(payload, text)

    @property
    def _too_deep(self) -> str:
        return f"nested more than {self._bounds.depth} deep"

    def _drop_too_deep(self, payload: bytes | bytearray, text: bool, codec: Codec, outline: WireMessage | None) -> None:
        """Drop a message that is nested too deep. End the connection if no honest peer would send it."""
        if outline is None or codec.nests_deeper(payload, outline, max(self._bounds.depth, HONEST_DEPTH)):
            self._fail(CloseCode.INVALID_DATA, self._too_deep)
        else:
            self._drop_undecoded(payload, text, outline, TOO_DEEP, f"is {self._too_deep}")

    def _not_utf8(self) -> None:
        self._fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")  # RFC 6455, section 8.1

    def _not_dealt_with(self, exc: Exception) -> None:
        """End the connection: a codec of the user's has raised, or wsrpc has a bug. Other connections go on."""
        self._reporter.log(logging.ERROR, "a message could not be dealt with", exc_info=exc)
        self._fail(CloseCode.INTERNAL_ERROR, "a message could not be dealt with")

    # ------------------------------------------------------------ events and requests

    def _examine(self, message: WireMessage, payload: bytes | bytearray, view: Message | None, decode: Decode) -> None:
        """Receive any event or request: refuse it if it cannot reach a handler."""
        i = message.i = id_from_wire(message.i)
        a = message.a
        name = a[0]
        channel = message.c if message.h is None else None
        if i is not UNSET and not is_id(i):
            self._malformed("a request whose id is not an integer from 1 to 2^53-1", payload)
        elif i is not UNSET and self._admission.knows(i):
            # A rejection would settle the first one, which is still being worked on.
            self._ignored["duplicate id"] += 1
        elif name.__class__ is not str and message.h is None:
            self._refuse(message, NOT_TEXT, _not_text(name), payload)
        elif channel is not None and channel.__class__ is not str:
            self._refuse(message, NOT_TEXT, f"Channel '{_short(channel)}' does not exist", payload)
        elif len(a) > LONGEST:
            why = f"got {len(a) - 1} arguments, at most {LONGEST - 1} are accepted"
            self._refuse(message, "too many arguments", why)
        elif isinstance(name, str) and (self._too_long(name) or (isinstance(channel, str) and self._too_long(channel))):
            self._refuse(message, "name too long", f"a name of more than {self._bounds.limits.name} bytes")
        elif message.h is not None:
            self._on_channel(message, payload, decode)
        elif channel == "" and name in RESERVED_EVENTS:  # for JavaScript, that is the main channel
            self._refuse_reserved(message)
        else:
            self._deliver(message, payload, view, decode)
            return
        finish(view)

    def _deliver(self, message: WireMessage, payload: bytes | bytearray, view: Message | None, decode: Decode) -> None:
        """Run the handler, now or when there is room for it."""
        if self._admission.needs_checks:
            self._admission.arrived(message, payload, view, decode)
        else:
            self._dispatcher.run(message, payload, view)

    def _refuse_reserved(self, message: WireMessage) -> None:
        if message.i is UNSET:
            self._ignored["reserved event"] += 1
        else:
            self._dispatcher.reject(message.i, UnknownEvent(str(ReservedEvent(message.a[0]))))

    def _too_long(self, name: str) -> bool:
        return len(name) > self._bounds.short_name and len(name.encode()) > self._bounds.limits.name

    def _refuse(self, message: WireMessage, kind: str, why: str, payload: bytes | bytearray | None = None) -> None:
        """Reject a request; count an event, unless a raw handler takes its ``payload``."""
        if message.i is not UNSET:
            self._dispatcher.reject(message.i, BadArguments(why))
        elif payload is None or not self._raw_as_it_came(payload):
            self._dispatcher.count(kind, f"an event was dropped: {why}")

    def _on_channel(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Deliver a message to an anonymous channel. If there is no such channel, abort it on the remote peer.

        An event for a channel that this side has ended was sent before the remote peer could know. So it is neither
        answered nor counted in ``Peer.ignored``.
        """
        h = channel_id(message.h)
        channel = None if h is None else self._channels.find(h)
        if channel is not None and message.a[0].__class__ is str:
            if self._bounds.rated and message.a[0] not in STREAM_EVENTS and not self._admission.within_rate(message):
                return
            place_on(message, h)
            channel.receive(message, payload, decode)
            return
        if channel is not None:
            self._refuse(message, NOT_TEXT, _not_text(message.a[0]))
            return
        if h is not None:
            error = self._channels.refuse(h)
        else:
            error = RemoteError(f"Anonymous channel '{_short(message.h)}' does not exist")
        if message.i is not UNSET:
            self._dispatcher.reject(message.i, error)

    # ------------------------------------------------------------ answers, cancellations, aborts

    def _receive_answer(self, message: WireMessage, payload: bytes | bytearray, view: Message | None) -> None:
        """Receive a message without ``a``: an answer, a cancellation, an abort, or no message at all."""
        i = message.i = id_from_wire(message.i)
        if message.x is not UNSET:
            self._stop(message)
        elif i.__class__ is not int:
            self._not_ours(payload)
        elif i <= 0:
            # No request has such an id. JavaScript answers an event with -1 when its handler returns null.
            self._ignored["answer to no request"] += 1
        else:
            requests = self._out.requests
            pending = requests.settle(message)
            if pending is None or message.h:
                # `was_given_up` also makes room for another request, so it has to be asked whatever the answer is.
                was_ours = pending is not None or requests.was_given_up(i)
                if was_ours and message.h and message.e is UNSET:
                    self._answered_by_channel(i, pending)
                elif pending is None:
                    self._ignored["answer to no request"] += 1
        if view is not None:
            finish(view)

    def _answered_by_channel(self, i: int, pending: Pending | None) -> None:
        """Open the channel that answers request ``i``, or abort it if the request did not ask for a channel.

        ``pending`` is None if the request was cancelled.
        """
        if pending is not None and pending.wants_channel:
            pending.channel = self._channels.open(i)
        else:
            self._channels.send_abort(i, UnexpectedChannel("nobody asked for a channel"))

    def _stop(self, message: WireMessage) -> None:
        """Cancel a request of the remote peer, or end an anonymous channel."""
        if message.h is not None:
            h = channel_id(message.h)
            if h is None or not self._channels.ended_by_peer(h, message.x, message.flag):
                self._ignored["abort of no channel"] += 1
        elif not is_id(message.i) or not self._dispatcher.cancel(message.i, reason_from_wire(message.x, message.flag)):
            self._ignored["cancellation of no request"] += 1

    # ------------------------------------------------------------ control messages

    def _control(self, payload: bytes | bytearray, text: bool) -> bool:
        """Receive a control message, which `message` handlers do not see. Return False if it is not one."""
        if self._negotiation is None or not text:
            return False
        control = read_control(payload)
        if control is None:
            if not is_control(payload):
                return False
            self._ignored["unknown control message"] += 1
        elif not isinstance(control, Credit):
            self._negotiation.received(control, len(payload))
        elif (channel := self._channels.find(control.h)) is None:
            if not self._channels.expects_credit(control.h):
                self._ignored["credit for no channel"] += 1
        elif 0 <= control.n <= MAX_ID and 0 <= control.bytes <= MAX_ID:
            channel.credited(control.n, control.bytes)
        else:
            self._ignored["credit that makes no sense"] += 1
        return True

    # ------------------------------------------------------------ messages that are not ws-wrapper's

    def receive_raw(self, payload: bytes | bytearray, text: bool, /) -> None:
        """Receive one message of a service that has its own protocol, in place of `receive`."""
        try:
            view = self._observe(payload, text, None)
            only = self._shared.raw_only
            if only is not None and only.form == "json":
                self._receive_json(payload, view)
            elif not self._raw(payload, text, view):
                finish(view)
        except Exception as exc:
            self._not_dealt_with(exc)

    def _receive_json(self, payload: bytes | bytearray, view: Message | None) -> None:
        bounds = self._bounds
        if len(payload) > bounds.small and (why := json_objection(payload, bounds.values)) is not None:
            finish(view)
            self._malformed(f"a message of {why}")
            return
        if json_nests_deeper(payload, bounds.depth):
            finish(view)
            self._fail(CloseCode.INVALID_DATA, self._too_deep)  # there is no caller to tell
            return
        try:
            message = decode_any(raw_json, payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            self._malformed(f"a message that is not JSON: {exc}")
            finish(view)
        else:
            self._deliver(message, payload, view, raw_json)

    def _receive_other_kind(self, payload: bytes | bytearray, text: bool) -> None:
        """Receive text where this side speaks a binary codec, or the reverse."""
        if not self._control(payload, text):
            self._suspect_codec(payload)
            self._foreign(payload, text)

    def _suspect_codec(self, payload: bytes | bytearray) -> None:
        """Warn once if the two ends seem to have different codecs."""
        other = MsgpackCodec if self._text else JsonCodec
        violations = self._violated()
        if not violations.other_codec and other.claims(bytes(payload[:32])):
            violations.other_codec = True
            self._reporter.log(
                logging.WARNING,
                "ignored what looks like a message in %s, this side speaks %s: both ends need the same codec=",
                other.name,
                self._codec.name,
            )

    def _foreign(self, payload: bytes | bytearray, text: bool) -> None:
        """Give a message that is not ws-wrapper's to the raw handler, or count it."""
        view = self._observe(payload, text, None)
        if not self._raw(payload, text, view):
            self._ignored["foreign"] += 1
            finish(view)

    def _not_ours(self, payload: bytes | bytearray) -> None:
        """Give a decoded message of the application's own, as ``{"type":"ping"}``, to the raw handler, or count it."""
        if not self._raw_as_it_came(payload):
            self._ignored["foreign"] += 1

    def _raw_as_it_came(self, payload: bytes | bytearray) -> bool:
        """Give a decoded message to the raw handler; return False if there is none."""
        return self._raw(payload, payload.lstrip()[:1] == b"{")

    def _raw(self, payload: bytes | bytearray, text: bool, view: Message | None = None) -> bool:
        """Give a message to the raw handler; return False if there is none."""
        if not (self._own.takes_raw or self._shared.takes_raw) or (text and payload.startswith(CONTROL)):
            return False
        if text and not _is_utf8(payload):
            self._not_utf8()
            return True
        decode = raw_text if text else raw_binary
        self._deliver(decode(payload), payload, view, decode)
        return True

    def _observe(self, payload: bytes | bytearray, text: bool, decode: Decode | None) -> Message | None:
        """Show a message to the `message` handlers; return None if there are none."""
        if not (self._own.observed or self._shared.observed):
            return None
        view = Message(bytes(payload), text, decode)
        self._reporter.tell("message", view)
        return view

    # ------------------------------------------------------------ messages that are dropped

    @property
    def _ignored(self) -> Counter[str]:
        return self._dispatcher.answers.ignored

    def _violated(self) -> Violations:
        if self._violations is None:
            self._violations = Violations([])
        return self._violations

    def _drop_undecoded(
        self, payload: bytes | bytearray, text: bool, outline: WireMessage | None, kind: str, why: str
    ) -> None:
        """Count a message that is not decoded, and end whatever waits for it on either side."""
        if outline is not None:
            outline.i = id_from_wire(outline.i)
            if outline.ours is False or not _is_message(outline):
                self._foreign(payload, text)
                return
        view = self._observe(payload, text, None)
        if outline is None:
            if not self._raw(payload, text, view):
                finish(view)
                self._malformed(f"a message that {why}")
            return
        finish(view)
        i: Any = outline.i
        if outline.a is not UNSET and i is not UNSET and not is_id(i):
            self._malformed("a request whose id is not an integer from 1 to 2^53-1")
            return
        self._dispatcher.count(kind, f"a message was dropped: it {why}")
        if outline.a is not UNSET:
            self._drop_event(outline, why)
        elif outline.x is UNSET:
            pending = self._out.requests.find(outline.i)
            if pending is not None and pending.flight is not None:
                self._out.requests.fail(pending, BadResult(f"the answer to {pending.event!r} {why}"))
        elif outline.h is None:
            self._dispatcher.cancel(outline.i, RemoteError(ABORTED))
        elif (h := channel_id(outline.h)) is not None:
            self._channels.ended_by_peer(h, None, UNSET)

    def _drop_event(self, outline: WireMessage, why: str) -> None:
        """Reject a request that is not decoded, and end the channel whose reader misses the message."""
        i = outline.i
        if i is not UNSET and not self._admission.knows(i):
            self._dispatcher.reject(i, BadArguments(f"the message {why}"))
        h = channel_id(outline.h)
        channel = None if h is None else self._channels.find(h)
        if channel is not None and channel.recipients:
            error = f"a message on channel {h} {why}"
            channel.abort(RpcError(error), BadResult(error))

    def _malformed(self, why: str, payload: bytes | bytearray | None = None) -> None:
        """Count a message that breaks the protocol. Too many within a minute end the connection.

        A raw handler takes ``payload`` instead, if there is one and the payload is given.
        """
        if payload is not None and self._raw_as_it_came(payload):
            return
        self._ignored["malformed"] += 1
        self._reporter.tell("error", ProtocolError(f"ignored {why}"))
        times = self._violated().malformed_at
        now = self._out.loop.time()
        times.append(now)
        if len(times) > MOST_MALFORMED and now - times.pop(0) < MINUTE:
            self._fail(CloseCode.INVALID_DATA, f"more than {MOST_MALFORMED} malformed messages a minute")


def raw_text(payload: bytes | bytearray) -> WireMessage:
    """Return a raw message in the form in which handlers are called."""
    return WireMessage(["", payload.decode()], c=RAW)


def raw_binary(payload: bytes | bytearray) -> WireMessage:
    return WireMessage(["", bytes(payload)], c=RAW)


def raw_json(payload: bytes | bytearray) -> WireMessage:
    return WireMessage(["", msgspec.json.decode(payload)], c=RAW)


def _is_message(message: WireMessage) -> bool:
    """Return whether an outline is one of a message of the protocol."""
    if message.a is not UNSET:
        return bool(message.a)
    return is_id(message.i) or (message.x is not UNSET and message.h is not None)


def _is_utf8(payload: bytes | bytearray) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_text(name: object) -> str:
    return f"an event's name is text, got {type(name).__name__}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else str(value) if isinstance(value, (int, Exception)) else short(value)
    return text if len(text) <= 100 else f"{text[:99]}…"

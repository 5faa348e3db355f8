"""`Receiver`: receives the messages of one session. It decodes, validates and dispatches each one."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from msgspec import UNSET

from ..._base.closing import CloseCode
from ..._base.names import LONGEST_NAME, STREAM_EVENTS
from ...errors import (
    BadArguments,
    BadResult,
    ProtocolError,
    RemoteError,
    RpcError,
    UnexpectedChannel,
    short,
)
from ...limits import DEEPEST
from ..handlers.observation import Message, mark_processed
from ..sending.pending import SENT
from ..session.peer_host import PeerHost
from ..wire.codecs import Codec, NegotiatedCodec, strict_decoder
from ..wire.counting import SHARE, SMALL, decode_any
from ..wire.messages import LONGEST_CALL, Decode, WireMessage, channel_id, id_from_wire, is_id
from ..wire.rejections import ABORTED, reason_from_wire
from .dispatcher import Dispatcher

MOST_MALFORMED = 10
"""Malformed messages within a minute that do not end the connection."""
MINUTE = 60.0
ADDED_BY_NODES = 1024
"""Bytes that the nodes of a cluster may add to a name."""
NOT_TEXT = "name is not text"
TOO_DEEP = "nested too deep"
TOO_MANY_VALUES = "too many values"


class Receiver:
    """Receives the messages of one session: decodes, validates and dispatches each one. It never raises.

    The fields of a message decide what the message is, and what handles it:

    ==========================  =======================  =============================================================
    message                     fields                   goes to
    ==========================  =======================  =============================================================
    event, request              ``a``; ``i`` too         `Admission.arrived`, or straight to `Dispatcher.run`
    on an anonymous channel     ``a`` and ``h``          the channel's mailbox. Without a channel: an abort goes back
    response                    ``i``                    `PendingRequests.finish`; with ``h`` it opens a channel
    cancellation                ``x`` and ``i``          `Dispatcher.cancel`
    abort                       ``x`` and ``h``          `ChannelTable.ended_by_peer`
    control                     ``ws-wrapper``, false    `Session.receive_control`
    part of a message           see ``parts``            `Session.receive_part`, and as one message here again
    anything else                                        it is counted
    ==========================  =======================  =============================================================

    Messages that the protocol tells a peer to ignore are counted in `Peer.ignored`.
    """

    def __init__(self, host: PeerHost, dispatcher: Dispatcher) -> None:
        self._codec: Codec = host.settings.codec
        self._text = self._codec.text
        self._decode = strict_decoder(self._codec)
        self._other: Codec | None = None
        """Codec of messages of the other kind (binary or text). None until both sides have agreed on one."""
        self._limits = limits = host.settings.limits
        self._depth = limits.depth
        self._too_deep = f"nested more than {limits.depth} deep"
        self._small = min(SMALL, limits.values // SHARE)
        """Bytes of the largest message that cannot have too many values, and is therefore decoded at once."""
        self._longest_name = LONGEST_NAME + (ADDED_BY_NODES if host.settings.between_nodes else 0)
        self._short = self._longest_name // 4
        """Characters of a name that cannot be too long, because a character takes at most four bytes."""
        self._own = host.options.own
        self._shared = host.options.shared
        self._dispatcher = dispatcher
        self._active = dispatcher.active
        self._admission = dispatcher.admission
        self._writer = dispatcher.writer
        self._channels = dispatcher.channels
        self._answers = dispatcher.answers
        self._session = dispatcher.writer.session
        self._seeks_control = host.settings.extensions
        self._reporter = host.reporter
        self._malformed_at: list[float] | None = None
        """Times of malformed messages within the last minute. Most peers send none."""

    def agree(self, codec: NegotiatedCodec | None) -> None:
        """Receive binary messages, too, in ``codec``."""
        if codec is not None and codec is not self._codec:
            # Most messages are binary from now on.
            self._other, self._codec = self._codec, codec
            self._text = codec.text
            self._decode = strict_decoder(codec)

    # ------------------------------------------------------------ one message

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        """Receive one message from the transport: decode it, and pass it on.

        The strict decoder accepts nearly all messages, and makes most of the checks. `_decode_unusual` decodes all
        others.
        """
        try:
            decode = self._decode
            if text is not self._text:
                if self._other is None:
                    self._receive_other_kind(payload, text)
                    return
                decode = strict_decoder(self._other)
            size = len(payload)
            large = size > self._small
            if large and self._handle_part_or_refuse(payload, text):
                return
            try:
                message: WireMessage | None = decode_any(decode, payload) if large else decode(payload)
            except Exception:
                message = None  # handled below, so that an exception of a handler does not refer to this one
            if message is None or (
                size > self._depth and self._codec_of(text).nests_deeper(payload, message, self._depth)
            ):
                message, decode = self._decode_unusual(payload, text), self._codec_of(text).decode
                if message is None:
                    return
                view = self._observe(payload, text, decode, message)
                if not self._make_usual(message):
                    mark_processed(view)
                    return
            elif self._own.observed or self._shared.observed:
                view = self._observe(payload, text, decode, message)
            else:
                view = None
            if message.a is UNSET:
                if message.x is not UNSET:
                    self._stop(message)
                elif message.i is not UNSET:
                    self._receive_response(message)
                else:
                    self._not_ours()
            elif message.h is not None:
                self._receive_on_channel(message, payload, decode)
            elif (  # nearly all are on the main channel and have a short name
                message.c is None and (name := message.a[0]).__class__ is str and len(name) <= self._short
            ) or self._check_names(message):
                admission, dispatcher = self._admission, self._dispatcher
                if message.i in self._active or admission.needs_checks:
                    admission.arrived(dispatcher, message, payload, view, decode)
                    return
                if not admission.limiters or admission.spend_rate_or_refuse(dispatcher, message):
                    dispatcher.run(message, payload, view)
                    return
            if view is not None:
                mark_processed(view)
        except BaseException as exc:
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                raise
            self._dispatcher.fail_connection(exc)

    def _codec_of(self, text: bool) -> Codec:
        """Return the codec of text messages, or of binary ones."""
        return self._codec if text is self._text or self._other is None else self._other

    def _handle_part_or_refuse(self, payload: bytes | bytearray, text: bool) -> bool:
        """Take a part of a message, or refuse one that has too many values. Return whether that was done."""
        if self._session.receive_part(payload, text):
            return True
        codec, most = self._codec_of(text), self._limits.values
        if not codec.claims(payload) or (why := codec.objection(payload, most)) is None:
            return False
        if not self._control(payload, text):
            self._drop_undecoded(payload, text, codec.outline(payload), TOO_MANY_VALUES, f"holds {why}")
        return True

    # ------------------------------------------------------------ unusual messages

    def _decode_unusual(self, payload: bytes | bytearray, text: bool) -> WireMessage | None:
        """Decode a message that the strict decoder has refused, or that is nested too deep.

        Parts and control messages are handled here. Other programs send messages with fields of wrong types. JavaScript
        accepts these messages unless it needs the field.

        Returns:
            A message whose fields can have any type. None if the message was handled or dropped.
        """
        if text and not _is_utf8(payload):
            self._session.fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")  # RFC 6455, section 8.1
            return None
        if self._session.receive_part(payload, text) or self._control(payload, text):
            return None
        codec, depth = self._codec_of(text), self._depth
        try:
            message = decode_any(codec.decode, payload)
        except Exception as exc:  # a codec may be a user's, and raise anything
            too_deep, why = isinstance(exc, RecursionError), _short(exc)
        else:
            if codec.nests_deeper(payload, message, depth):
                self._drop_too_deep(payload, text, codec, message)
            elif message.ours is False:
                self._foreign(payload, text)
            else:
                message.i = id_from_wire(message.i)
                return message
            return None
        if not codec.claims(payload):
            self._foreign(payload, text)
            return None
        outline = codec.outline(payload)
        known, most = (WireMessage(), DEEPEST) if outline is None else (outline, depth)
        if too_deep:
            self._session.fail(CloseCode.INVALID_DATA, self._too_deep)
        elif codec.nests_deeper(payload, known, most):
            self._drop_too_deep(payload, text, codec, known)
        else:
            if outline is not None and ("truncated" in why or "surrogate" in why):  # msgspec's words, for JSON
                why = "text has half of a surrogate pair: send text.toWellFormed() in JavaScript"
            self._drop_undecoded(payload, text, outline, "unreadable", f"does not decode: {why}")
        return None

    def _make_usual(self, message: WireMessage) -> bool:
        """Convert the fields of a message to the types that a `StrictMessage` has.

        Returns:
            False if this is impossible. The message was then refused.
        """
        if message.a is not UNSET:
            return self._make_call_usual(message)
        if message.x is not UNSET:
            _make_end_usual(message)
        elif message.i is not UNSET and not _make_response_usual(message):
            self._not_ours()
            return False
        return True

    def _make_call_usual(self, message: WireMessage) -> bool:
        """Convert the fields of an event or a request, as `_make_usual` does."""
        a, i, h = message.a, message.i, message.h
        message.h = channel_id(h)
        if a.__class__ is not list or not a:
            self._not_ours()
        elif i is not UNSET and not is_id(i):
            self._malformed("a request whose id is not an integer from 1 to 2^53-1")
        elif len(a) > LONGEST_CALL and a[0].__class__ is str:
            why = f"got {len(a) - 1} arguments, at most {LONGEST_CALL - 1} are accepted"
            self._refuse(message, "too many arguments", why)
        elif h is not None and message.h is None:
            if i is not UNSET:
                self._reject(i, RemoteError(f"Anonymous channel '{_short(h)}' does not exist"))
        else:
            return True
        return False

    # ------------------------------------------------------------ events and requests

    def _receive_on_channel(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        """Deliver a message to an anonymous channel. If there is no such channel, abort it on the remote peer.

        An event for a channel that this side has ended was sent before the remote peer could know. It is therefore not
        counted in ``Peer.ignored``. The answer is an abort, unless an abort was sent before. (`AnonymousChannel.close`
        sends none.)
        """
        name, i, h = message.a[0], message.i, message.h
        channel = self._channels.find(h)
        if channel is not None and i is UNSET and name.__class__ is str and name in STREAM_EVENTS:
            message.c = None  # JavaScript ignores a channel name, too
            # Nearly always an item of a stream, to which none of the rules below applies.
            channel.mailbox.receive(message, payload, decode)
        elif i is not UNSET and self._dispatcher.knows(i):
            self._ignored["duplicate id"] += 1
        elif name.__class__ is str and self._is_long(name):
            self._refuse_long_name(message)
        elif channel is None:
            error = self._channels.refuse(h)
            if i is not UNSET:
                self._answers.reject(i, error)
        elif name.__class__ is not str:
            self._refuse(message, NOT_TEXT, _not_text(name))
        else:
            admission = self._admission
            if (
                not admission.limiters
                or name in STREAM_EVENTS
                or admission.spend_rate_or_refuse(self._dispatcher, message)
            ):
                message.c = None
                channel.mailbox.receive(message, payload, decode)

    def _check_names(self, message: WireMessage) -> bool:
        """Refuse a message whose names are not text, or too long. Return whether they are valid."""
        name, channel = message.a[0], message.c
        if name.__class__ is not str:
            self._refuse(message, NOT_TEXT, _not_text(name))
        elif channel is not None and channel.__class__ is not str:
            self._refuse(message, NOT_TEXT, f"Channel '{_short(channel)}' does not exist")
        elif (len(name) > self._short and self._is_long(name)) or (
            channel is not None and len(channel) > self._short and self._is_long(channel)
        ):
            self._refuse_long_name(message)
        else:
            return True
        return False

    def _is_long(self, name: str) -> bool:
        """Return whether a name is too long."""
        return len(name) > self._short and len(name.encode()) > self._longest_name

    def _refuse_long_name(self, message: WireMessage) -> None:
        self._refuse(message, "name too long", f"a name of more than {self._longest_name} bytes")

    def _refuse(self, message: WireMessage, kind: str, why: str) -> None:
        """Reject a request, or count an event."""
        if message.i is not UNSET:
            self._reject(message.i, BadArguments(why))
        else:
            self._answers.host.count(kind, f"an event was dropped: {why}")

    def _reject(self, i: int, error: RpcError) -> None:
        """Reject a request, unless it has the id of a request whose handler still runs."""
        if self._dispatcher.knows(i):
            self._ignored["duplicate id"] += 1
        else:
            self._answers.reject(i, error)

    # ------------------------------------------------------------ answers, cancellations, aborts

    def _receive_response(self, message: WireMessage) -> None:
        """End a request. If the response is a channel, open the channel, or abort it if the caller wants none."""
        requests, i, h = self._writer.requests, message.i, message.h
        pending = requests.finish(message)
        if pending is not None and h is None:
            return
        # `abandoned_answered` also makes room for another request, so it is called for every response.
        was_ours = pending is not None or requests.abandoned_answered(i)
        if was_ours and h is not None and message.e is UNSET:
            if pending is not None and pending.options.wants_channel:
                pending.channel = self._channels.open(i)
            else:
                self._channels.send_abort(i, UnexpectedChannel("nobody asked for a channel"))
        elif pending is None:
            self._ignored["response to no request"] += 1

    def _stop(self, message: WireMessage) -> None:
        """Cancel a request of the remote peer, or end an anonymous channel."""
        if message.h is not None:
            if not self._channels.ended_by_peer(message.h, message.x, message.flag):
                self._ignored["abort of no channel"] += 1
        elif not self._dispatcher.cancel(message.i, reason_from_wire(message.x, message.flag)):
            self._ignored["cancellation of no request"] += 1

    # ------------------------------------------------------------ control messages

    def _control(self, payload: bytes | bytearray, text: bool) -> bool:
        """Receive a control message, which `message` handlers do not see. Return False for any other message."""
        return text and self._seeks_control and self._session.receive_control(payload)

    # ------------------------------------------------------------ messages that are not ws-wrapper's

    def _receive_other_kind(self, payload: bytes | bytearray, text: bool) -> None:
        """Receive a text message although this side has a binary codec, or the reverse."""
        if self._session.receive_part(payload, text) or self._control(payload, text):
            return
        is_first = not self._ignored["foreign"]
        self._foreign(payload, text)
        if is_first:
            kinds = ("text", "binary") if text else ("binary", "text")
            self._reporter.log(
                logging.WARNING,
                "ignored a %s message, because the codec of this side uses %s: both sides need the same codec=",
                *kinds,
            )

    def _foreign(self, payload: bytes | bytearray, text: bool) -> None:
        """Count a message that is not of the protocol."""
        mark_processed(self._observe(payload, text, None, None))
        self._ignored["foreign"] += 1

    def _not_ours(self) -> None:
        """Count a decoded message that is not of the protocol, such as ``{"type":"ping"}``."""
        self._ignored["foreign"] += 1

    def _observe(
        self, payload: bytes | bytearray, text: bool, decode: Decode | None, message: WireMessage | None
    ) -> Message | None:
        """Show a message to the `message` handlers, and return its view. None if there are no handlers."""
        if not (self._own.observed or self._shared.observed):
            return None
        view = Message(bytes(payload), text, decode, message)
        self._reporter.notify("message", view)
        return view

    # ------------------------------------------------------------ messages that are dropped

    @property
    def _ignored(self) -> Counter[str]:
        return self._answers.ignored

    def _drop_too_deep(self, payload: bytes | bytearray, text: bool, codec: Codec, outline: WireMessage) -> None:
        """Drop a message that is nested too deep. End the connection if no honest peer would send it."""
        if codec.nests_deeper(payload, outline, DEEPEST):
            self._session.fail(CloseCode.INVALID_DATA, self._too_deep)
        else:
            self._drop_undecoded(payload, text, outline, TOO_DEEP, f"is {self._too_deep}")

    def _drop_undecoded(
        self, payload: bytes | bytearray, text: bool, outline: WireMessage | None, kind: str, why: str
    ) -> None:
        """Count a message that is not decoded, and end the request or channel on either side that waits for it."""
        if outline is not None:
            outline.i = id_from_wire(outline.i)
            if outline.ours is False or not _is_message(outline):
                self._foreign(payload, text)
                return
        mark_processed(self._observe(payload, text, None, None))
        if outline is None:
            self._malformed(f"a message that {why}")
            return
        i: Any = outline.i
        if outline.a is not UNSET and i is not UNSET and not is_id(i):
            self._malformed("a request whose id is not an integer from 1 to 2^53-1")
            return
        self._answers.host.count(kind, f"a message was dropped: it {why}")
        if outline.a is not UNSET:
            self._drop_event(outline, why)
        elif outline.x is UNSET:
            pending = self._writer.requests.find(outline.i)
            if pending is not None and pending.state is SENT:
                self._writer.requests.fail(pending, BadResult(f"the response to {pending.event!r} {why}"))
        elif outline.h is None:
            self._dispatcher.cancel(outline.i, RemoteError(ABORTED))
        elif (h := channel_id(outline.h)) is not None:
            self._channels.ended_by_peer(h, None, UNSET)

    def _drop_event(self, outline: WireMessage, why: str) -> None:
        """Reject a request that is not decoded, and end the channel whose reader does not get the message."""
        i = outline.i
        if i is not UNSET and not self._dispatcher.knows(i):
            self._answers.reject(i, BadArguments(f"the message {why}"))
        h = channel_id(outline.h)
        channel = None if h is None else self._channels.find(h)
        if channel is not None and channel.mailbox.recipients:
            error = f"a message on channel {h} {why}"
            channel.abort(RpcError(error), BadResult(error))

    def _malformed(self, why: str) -> None:
        """Count a message that breaks the protocol. Too many within a minute end the connection."""
        self._ignored["malformed"] += 1
        self._reporter.notify("error", ProtocolError(f"ignored {why}"))
        times = self._malformed_at = self._malformed_at or []
        now = self._writer.loop.time()
        times.append(now)
        if len(times) > MOST_MALFORMED and now - times.pop(0) < MINUTE:
            self._session.fail(CloseCode.INVALID_DATA, f"more than {MOST_MALFORMED} malformed messages a minute")


def _is_message(message: WireMessage) -> bool:
    """Return whether an outline is that of a message of the protocol."""
    if message.a is not UNSET:
        return message.a.__class__ is list and bool(message.a)
    return is_id(message.i) or (message.x is not UNSET and message.h is not None)


def _make_end_usual(message: WireMessage) -> None:
    """Convert the fields of a cancellation or an abort to the types that a `StrictMessage` has.

    A wrong id becomes 0, which no request and no channel has.
    """
    message.i = message.i if is_id(message.i) else 0
    if message.h is not None:
        message.h = channel_id(message.h) or 0


def _make_response_usual(message: WireMessage) -> bool:
    """Convert the fields of a response to the types that a `StrictMessage` has. A wrong id becomes 0.

    Returns:
        False if it is not a response.
    """
    if message.i.__class__ is not int:
        return False
    # JavaScript answers an event with the id -1 when its handler returns null.
    message.i = message.i if is_id(message.i) else 0
    message.h = 1 if message.h else None
    return True


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

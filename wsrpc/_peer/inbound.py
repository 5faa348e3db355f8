"""What arrives at a peer: told apart, checked and handed to who deals with it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from .._base.closing import CloseCode
from .._base.names import RAW, RESERVED_EVENTS
from .._base.scheduler import Scheduler
from .._channels.table import ChannelTable
from .._handlers.observation import Observation
from .._handlers.registry import Registry
from .._protocol.codecs import Codec, JsonCodec, MsgpackCodec, NegotiatedCodec
from .._protocol.control import Credit, read_control
from .._protocol.counting import SHARE, SMALL, decode_any, json_nests_deeper, json_objection
from .._protocol.messages import MAX_ID, Inbound, channel_id, is_id, place_on
from .._protocol.rejections import ABORTED, reason_from_wire
from .._sending.negotiation import Negotiation
from .._sending.outbound import Outbound
from .._sending.pending import Pending
from .._streams.inbox import Decode
from ..errors import BadArguments, BadResult, ProtocolError, RemoteError, RpcError, UnexpectedChannel, short
from ..limits import Limits
from .dispatch import Calls
from .running import Log

__all__ = ["Intake"]

MINUTE = 60.0
NOT_TEXT = "name is not text"
TOO_DEEP = "nested too deep"
HONEST_DEPTH = 512
"""Nesting that an honest peer's values may have. How much more a decoder reads depends on the version of Python: nearly
1,000 levels with 3.11, nearly 10,000 with 3.13."""
CONTROL = b'{"ws-wrapper":false,"wsrpc":'
"""What control messages begin with, those of other versions, too."""


class Intake:
    """The receiving half of a peer. `receive` never raises, whatever comes.

    What the protocol says to ignore is counted in ``ignored``. ``fail`` ends the connection with a code and a reason;
    ``fire`` calls the lifecycle handlers of an event, which may be coroutines, with one argument.
    """

    def __init__(
        self,
        codec: Codec,
        limits: Limits,
        own: Registry,
        shared: Registry,
        loop: Scheduler,
        *,
        calls: Calls,
        out: Outbound,
        channels: ChannelTable,
        negotiation: Negotiation | None,
        ignored: Counter[str],
        fail: Callable[[int, str], None],
        fire: Callable[[str, object], None],
        log: Log,
    ) -> None:
        self._codec: Codec = codec
        self._decode: Decode = codec.decode
        self._text = codec.text
        self._other: Codec | None = None
        """What the messages of the other kind (binary or text) are in, where there may be such."""
        self._channels = channels
        self._negotiation = negotiation
        self._limits = limits
        self._depth = limits.depth
        self._values = limits.values
        self._small = min(SMALL, limits.values // SHARE)
        """Bytes of the largest message that is decoded without a look."""
        # Four bytes are the most that a character takes, so that nearly no name needs encoding to be measured.
        self._short_name = limits.name // 4
        self._most_arguments = limits.arguments + 1
        self._own = own
        self._shared = shared
        self._loop = loop
        self._calls = calls
        self._admission = calls.admission
        self._out = out
        self._ignored = ignored
        self._fail = fail
        self._fire = fire
        self._log = log
        self._suspected = False
        self._malformed_at: list[float] = []

    @property
    def entry(self) -> Callable[[bytes | bytearray, bool], None]:
        """What is called with each message of a connection."""
        return self.receive_raw if self._shared.raw_only else self.receive

    @property
    def _too_deep(self) -> str:
        return f"nested more than {self._depth} deep"

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        """One message, from the transport. Nothing is raised, whatever it is."""
        try:
            if text is self._text:
                codec, decode = self._codec, self._decode
            elif self._other is not None:
                codec, decode = self._other, self._other.decode
            else:
                if not self._control(payload, text):
                    self._suspect_codec(payload)
                    self._foreign(payload, text)
                return
            size = len(payload)
            try:
                if size <= self._small:
                    message = decode(payload)
                elif not codec.claims(payload):
                    message = decode(payload)  # fails at its first byte
                elif (why := codec.objection(payload, self._values)) is None:
                    message = decode_any(decode, payload)
                else:
                    if not self._control(payload, text):
                        self._drop_undecoded(payload, text, codec.outline(payload), "too many values", f"holds {why}")
                    return
            except Exception as exc:
                # A codec may be a user's; whatever it raises means that this is no message.
                if not self._control(payload, text):
                    self._not_decoded(bytes(payload), text, codec, exc)
                return
            if text and not payload.isascii() and not _is_utf8(payload):
                self._fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")  # RFC 6455, section 8.1
                return
            if size > self._depth and codec.nests_deeper(payload, message, self._depth):
                if message.ours is False and self._control(payload, text):
                    return  # what two wsrpc peers say has a depth of its own
                if codec.nests_deeper(payload, message, max(self._depth, HONEST_DEPTH)):
                    self._fail(CloseCode.INVALID_DATA, self._too_deep)
                    return
                if message.a is not UNSET and message.a.__class__ is not list:
                    message.a = None  # as in an outline
                self._drop_undecoded(payload, text, message, TOO_DEEP, f"is {self._too_deep}")
                return
            if message.ours is False:
                if not self._control(payload, text):
                    self._foreign(payload, text)
                return
            view = None
            if self._own.observed or self._shared.observed:
                view = self._observe(payload, text, decode)
            a = message.a
            i = message.i
            h: Any = message.h
            if a.__class__ is list and a:
                name = a[0]
                if (
                    (i is UNSET or (i.__class__ is int and 0 < i <= MAX_ID))
                    and message.c is None
                    and h is None
                    and name.__class__ is str
                    and len(name) <= self._short_name
                    and len(a) <= self._most_arguments
                ):
                    if self._admission.busy:
                        self._admission.arrived(message, payload, view, decode)
                    else:
                        self._calls.dispatch(message, payload, view)
                elif (
                    i is UNSET
                    and type(h) is int
                    and name.__class__ is str
                    and len(a) <= self._most_arguments
                    and (channel := self._channels.find(h)) is not None
                    and (recipient := channel.mailbox.live.get(name)) is not None
                ):
                    recipient.receive(message, payload, decode)  # an item of a stream, most of the time
                    if view is not None:
                        view.finish()
                else:
                    self._examine(message, payload, view, decode)
                return
            if i.__class__ is int and i > 0 and a is UNSET and message.x is UNSET:
                self._answered(message)
            else:
                self._notice(message, payload)
            if view is not None:
                view.finish()
        except Exception as exc:
            # Ours would be a bug; a user's codec may do anything. Either way it is this connection's matter only.
            self._log(logging.ERROR, "a message could not be dealt with", exc_info=exc)
            self._fail(CloseCode.INTERNAL_ERROR, "a message could not be dealt with")

    def _examine(self, message: Inbound, payload: bytes | bytearray, view: Observation | None, decode: Decode) -> None:
        """An event or a request that is not the plainest kind: refuse what cannot reach a handler."""
        i = message.i
        a = message.a
        name = a[0]
        channel = message.c if message.h is None else None
        if i is not UNSET and not is_id(i):
            self._malformed("a request whose id is not an integer from 1 to 2^53-1", payload)
        elif i is not UNSET and self._admission.knows(i):
            # A rejection would settle the first one, which is still being worked on.
            self._ignored["duplicate id"] += 1
        elif name.__class__ is not str and message.h is None:
            self._refuse(message, NOT_TEXT, f"an event's name is text, got {type(name).__name__}", payload)
        elif channel is not None and channel.__class__ is not str:
            self._refuse(message, NOT_TEXT, f"Channel '{_short(channel)}' does not exist", payload)
        elif len(a) > self._most_arguments:
            most = self._limits.arguments
            self._refuse(message, "too many arguments", f"got {len(a) - 1} arguments, at most {most} are accepted")
        elif isinstance(name, str) and (self._too_long(name) or (isinstance(channel, str) and self._too_long(channel))):
            self._refuse(message, "name too long", f"a name of more than {self._limits.name} bytes")
        elif message.h is not None:
            self._on_channel(message, payload, decode)
        elif channel == "" and name in RESERVED_EVENTS:
            self._ignored["reserved event"] += 1
        elif self._admission.busy:
            self._admission.arrived(message, payload, view, decode)
            return
        else:
            self._calls.dispatch(message, payload, view)
            return
        if view is not None:
            view.finish()

    def _too_long(self, name: str) -> bool:
        return len(name) > self._short_name and len(name.encode()) > self._limits.name

    def _refuse(self, message: Inbound, kind: str, why: str, payload: bytes | bytearray | None = None) -> None:
        """Reject a request; count an event, unless a raw handler takes its ``payload``."""
        if message.i is not UNSET:
            self._calls.reject(message.i, BadArguments(why))
        elif payload is None or not self._raw_as_it_came(payload):
            self._calls.count(kind, f"an event was dropped: {why}")

    def _on_channel(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        """Something on an anonymous channel; if that is not there, say so, that the other side stops."""
        h = channel_id(message.h)
        channel = None if h is None else self._channels.find(h)
        if channel is not None and message.a[0].__class__ is str:
            place_on(message, h)
            channel.mailbox.receive(message, payload, decode)
            return
        if channel is not None:
            self._refuse(message, NOT_TEXT, f"an event's name is text, got {type(message.a[0]).__name__}")
            return
        error = RemoteError(f"Anonymous channel '{_short(message.h) if h is None else h}' does not exist")
        if h is not None:
            self._channels.send_abort(h, error)
        if message.i is not UNSET:
            self._calls.reject(message.i, error)

    def _answered(self, message: Inbound) -> None:
        pending = self._out.requests.settle(message)
        if pending is None and not self._out.requests.was_given_up(message.i):
            self._ignored["answer to no request"] += 1
        elif message.h and message.e is UNSET:
            self._answered_by_channel(message, pending)
        elif pending is None:
            self._ignored["answer to no request"] += 1

    def _answered_by_channel(self, message: Inbound, pending: Pending | None) -> None:
        """An answer that is a channel: if nobody will read it, whoever would write into it is stopped."""
        if pending is not None and pending.opens is not None:
            pending.channel = pending.opens(message.i)
            return
        self._channels.send_abort(message.i, UnexpectedChannel("nobody asked for a channel"))

    def _notice(self, message: Inbound, payload: bytes | bytearray) -> None:
        """Neither event nor request nor answer: a cancellation, an abort, or no message at all."""
        x = message.x
        if message.i.__class__ is int and message.a is UNSET and x is UNSET:
            # Ids of 0 and below are nobody's: JavaScript answers an event with -1 when its handler returns null.
            self._ignored["answer to no request"] += 1
        elif x is UNSET or message.a is not UNSET:
            # JSON of the application's own, which ws-wrapper ignores, too: `{"type":"ping"}`.
            if not self._raw_as_it_came(payload):
                self._ignored["foreign"] += 1
        elif message.h is not None:
            h = channel_id(message.h)
            if h is None or not self._channels.aborted(h, x, message.flag):
                self._ignored["abort of no channel"] += 1
        elif not is_id(message.i) or not self._calls.cancel(message.i, reason_from_wire(x, message.flag)):
            self._ignored["cancellation of no request"] += 1

    def _observe(self, payload: bytes | bytearray, text: bool, decode: Decode | None) -> Observation | None:
        """Show a message to the `message` handlers, where there are any."""
        if not (self._own.observed or self._shared.observed):
            return None
        view = Observation(bytes(payload), text, decode)
        self._fire("message", view.message)
        return view

    def _control(self, payload: bytes | bytearray, text: bool) -> bool:
        """Whether it is what only wsrpc peers say; it is dealt with here, and `message` handlers do not see it."""
        if self._negotiation is None or not text:
            return False
        control = read_control(payload)
        if control is None:
            return False
        if isinstance(control, Credit):
            self._credited(control)
        else:
            self._negotiation.received(control)
        return True

    def _credited(self, credit: Credit) -> None:
        channel = self._channels.find(credit.h)
        if channel is None:
            self._ignored["credit for no channel"] += 1
        elif not (0 <= credit.n <= MAX_ID and 0 <= credit.bytes <= MAX_ID):
            self._ignored["credit that makes no sense"] += 1
        else:
            channel.credited(credit.n, credit.bytes)

    def _foreign(self, payload: bytes | bytearray, text: bool) -> None:
        view = self._observe(payload, text, None)
        if self._raw(payload, text, view):
            return
        self._ignored["foreign"] += 1
        if view is not None:
            view.finish()

    def receive_raw(self, payload: bytes | bytearray, text: bool, /) -> None:
        """One message, in place of `receive` where there is no protocol."""
        try:
            view = self._observe(payload, text, None)
            if self._shared.raw_only == "json":
                if len(payload) > self._small and (why := json_objection(payload, self._values)) is not None:
                    _finish(view)
                    self._malformed(f"a message of {why}")
                    return
                if json_nests_deeper(payload, self._depth):
                    _finish(view)
                    self._fail(CloseCode.INVALID_DATA, self._too_deep)  # there is no caller to tell
                    return
                try:
                    message = decode_any(raw_json, payload)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                    self._malformed(f"a message that is not JSON: {exc}")
                    _finish(view)
                else:
                    self._dispatch_raw(message, payload, view, raw_json)
            elif not self._raw(payload, text, view):
                _finish(view)
        except Exception as exc:
            self._log(logging.ERROR, "a message could not be dealt with", exc_info=exc)
            self._fail(CloseCode.INTERNAL_ERROR, "a message could not be dealt with")

    def _raw(self, payload: bytes | bytearray, text: bool, view: Observation | None = None) -> bool:
        """Hand what is not protocol to the `on_raw` function; False if there is none."""
        if not (self._own.takes_raw or self._shared.takes_raw) or (text and payload.startswith(CONTROL)):
            return False
        if text and not _is_utf8(payload):
            self._fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")
            return True
        decode = raw_text if text else raw_binary
        self._dispatch_raw(decode(payload), payload, view, decode)
        return True

    def _dispatch_raw(
        self, message: Inbound, payload: bytes | bytearray, view: Observation | None, decode: Decode
    ) -> None:
        if self._admission.busy:
            self._admission.arrived(message, payload, view, decode)
        else:
            self._calls.dispatch(message, payload, view)

    def _suspect_codec(self, payload: bytes | bytearray) -> None:
        """Text where this side speaks binary or the reverse: perhaps the two ends have different codecs."""
        other = MsgpackCodec if self._text else JsonCodec
        if not self._suspected and other.claims(bytes(payload[:32])):
            self._suspected = True
            self._log(
                logging.WARNING,
                "ignored what looks like a message in %s, this side speaks %s: both ends need the same codec=",
                other.name,
                self._codec.name,
            )

    def _not_decoded(self, payload: bytes, text: bool, codec: Codec, exc: Exception) -> None:
        if text and not _is_utf8(payload):
            self._fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")
            return
        if not codec.claims(payload):
            self._foreign(payload, text)
            return
        outline = codec.outline(payload)
        too_deep = isinstance(exc, RecursionError)
        if outline is not None and not too_deep and len(payload) > self._depth:
            too_deep = codec.nests_deeper(payload, outline, self._depth)
        if too_deep:
            if outline is None or codec.nests_deeper(payload, outline, max(self._depth, HONEST_DEPTH)):
                self._fail(CloseCode.INVALID_DATA, self._too_deep)
            else:
                self._drop_undecoded(payload, text, outline, TOO_DEEP, f"is {self._too_deep}")
            return
        self._drop_undecoded(payload, text, outline, "unreadable", f"does not decode: {_short(exc)}")

    def _drop_undecoded(
        self, payload: bytes | bytearray, text: bool, outline: Inbound | None, kind: str, why: str
    ) -> None:
        """Deal with a message that is not decoded: count it, and end what waits for it, on either side."""
        if outline is not None and (outline.ours is False or not _is_message(outline)):
            self._foreign(payload, text)
            return
        view = self._observe(payload, text, None)
        if outline is None:
            if not self._raw(payload, text, view):
                _finish(view)
                self._malformed(f"a message that {why}")
            return
        _finish(view)
        i: Any = outline.i
        if outline.a is not UNSET and i is not UNSET and not is_id(i):
            self._malformed("a request whose id is not an integer from 1 to 2^53-1")
            return
        self._calls.count(kind, f"a message was dropped: it {why}")
        h = channel_id(outline.h)
        channel = None if h is None else self._channels.find(h)
        if outline.a is not UNSET:
            if i is not UNSET and not self._admission.knows(i):
                self._calls.reject(i, BadArguments(f"the message {why}"))
            if channel is not None and channel.mailbox.recipients:
                # Its reader would go on without what was lost, and not know.
                error = f"a message on channel {h} {why}"
                channel.abort(RpcError(error), BadResult(error))
        elif outline.x is not UNSET and outline.h is not None:
            if h is not None:
                self._channels.aborted(h, None, UNSET)
        elif outline.x is not UNSET:
            self._calls.cancel(outline.i, RemoteError(ABORTED))
        else:
            pending = self._out.requests.find(outline.i)
            if pending is not None and pending.flight is not None:
                self._out.requests.fail(pending, BadResult(f"the answer to {pending.event!r} {why}"))

    def _malformed(self, why: str, payload: bytes | bytearray | None = None) -> None:
        """Count what no peer that keeps to the protocol sends; too much of it in a minute ends the connection.

        A raw handler takes ``payload``, where there is one and the payload is given.
        """
        if payload is not None and self._raw_as_it_came(payload):
            return
        self._ignored["malformed"] += 1
        self._fire("error", ProtocolError(f"ignored {why}"))
        times = self._malformed_at
        now = self._loop.time()
        times.append(now)
        if len(times) > self._limits.undecodable and now - times.pop(0) < MINUTE:
            self._fail(CloseCode.INVALID_DATA, f"more than {self._limits.undecodable} malformed messages a minute")

    def _raw_as_it_came(self, payload: bytes | bytearray) -> bool:
        """Hand a message that decoded to the raw handler; False if there is none."""
        return self._raw(payload, payload.lstrip()[:1] == b"{")

    def agree(self, codec: NegotiatedCodec | None) -> None:
        """Take binary messages, too, in ``codec``."""
        if codec is not None and codec is not self._codec:
            # Most will be of that kind from now on.
            self._other, self._codec = self._codec, codec
            self._decode, self._text = codec.decode, codec.text


def raw_text(payload: bytes | bytearray) -> Inbound:
    """A raw message, as handlers are called."""
    return Inbound(["", payload.decode()], c=RAW)


def raw_binary(payload: bytes | bytearray) -> Inbound:
    return Inbound(["", bytes(payload)], c=RAW)


def raw_json(payload: bytes | bytearray) -> Inbound:
    return Inbound(["", msgspec.json.decode(payload)], c=RAW)


def _is_message(message: Inbound) -> bool:
    """Whether an outline is that of any kind of message that the protocol has."""
    if message.a is not UNSET:
        return bool(message.a)
    return is_id(message.i) or (message.x is not UNSET and message.h is not None)


def _finish(view: Observation | None) -> None:
    if view is not None:
        view.finish()


def _is_utf8(payload: bytes | bytearray) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _short(value: object) -> str:
    text = value if isinstance(value, str) else str(value) if isinstance(value, (int, Exception)) else short(value)
    return text if len(text) <= 100 else f"{text[:99]}…"

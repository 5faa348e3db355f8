"""Messages as structs: one struct for each kind of sent message; a tolerant and a strict struct for all received ones.

The options of a request are here, too, because this module decides which options its message contains.

The garbage collector tracks the structs that can hold users' values: an argument may refer to the exception or the
context of its own call, and these refer to the message.

Source: PROTOCOL.md of ws-wrapper 4.3.1, and the observed behaviour of its JavaScript and Go implementations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import replace

from ..._base.names import ChannelRef, Offline, Source
from ..._base.retry import Retry
from ...errors import BadArguments
from .call_context import CallContext, StrictCallContext, read_call_context

MAX_ID = 2**53 - 1
"""Largest integer that JavaScript holds exactly."""


class WireMessage(Struct):
    """Received message, as a codec decodes it. Fields have any type; the code that reads a field checks its type.

    A wrong type in a field that a message does not need must not make the message unreadable. ``UNSET`` means that a
    field is absent, which can differ from ``null``: the message ``{i}`` is a response, and ``{i, e: null}`` rejects a
    request. For ``c``, ``h`` and ``i``, an absent field and ``null`` have the same meaning; see `id_from_wire`.

    Attributes:
        a: the name of the event or request, and its arguments.
        i: the id of a request, also in the response to it and in its cancellation.
        c: the name of a channel.
        h: the id of an anonymous channel, or in a response, that the requester gets a channel.
        d: the result of a request.
        e: the error of a request.
        x: a cancellation of a request, or the end of an anonymous channel.
        flag: whether ``e`` was made from an exception.
        ours: false in the control messages of wsrpc peers.
        ctx: what travels with an event or a request besides its arguments; see `CallContext`.
        t: between nodes of a cluster, for a request that is passed on: the caller's ``timeout=`` and ``offline=``.
    """

    a: Any = UNSET
    i: Any = UNSET
    c: Any = None
    h: Any = None
    d: Any = UNSET
    e: Any = UNSET
    x: Any = UNSET
    flag: Any = field(default=UNSET, name="_")
    ours: Any = field(default=UNSET, name="ws-wrapper")
    ctx: Any = UNSET
    t: Any = UNSET


LONGEST_CALL = 1 + 64
"""Length of the longest ``a`` that is accepted: a name and its arguments. No honest program has so many arguments."""
Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
PassedOptions = tuple[Annotated[float, Meta(ge=0)] | None, Offline | None]
"""The options that a request of another node contains: ``timeout`` and ``offline``."""


class StrictMessage(WireMessage, forbid_unknown_fields=True):
    """Received message as nearly all peers send it. The decoder refuses all others, so these checks are made in C.

    msgspec checks that text is UTF-8, but skips the values of unknown fields. Without such fields, all text is checked.

    The channel name has any type, because few messages have one, and a wrong name has the same effect as an unknown
    event.
    """

    a: Annotated[list[Any], Meta(min_length=1, max_length=LONGEST_CALL)] | UnsetType = UNSET
    i: Id | UnsetType = UNSET
    h: Id | None = None
    ours: UnsetType | None = field(default=UNSET, name="ws-wrapper")
    ctx: StrictCallContext | UnsetType = UNSET
    t: PassedOptions | UnsetType = UNSET


Decode = Callable[[bytes | bytearray], WireMessage]
"""Decodes a message."""

CONTAINERS: frozenset[type] = frozenset({list, dict, tuple})
"""Types of values that contain other values. Arrays become tuples if they are keys of a map."""


class Event(Struct):
    """An event: ``a`` is its name and its arguments, ``c`` the name of a channel, ``h`` the id of an anonymous one."""

    a: tuple[Any, ...]
    c: str | UnsetType = UNSET
    h: int | UnsetType = UNSET
    ctx: CallContext | UnsetType = UNSET


class Request(Struct):
    """An event that wants an answer, with the id ``i``."""

    i: int
    a: tuple[Any, ...]
    c: str | UnsetType = UNSET
    h: int | UnsetType = UNSET
    ctx: CallContext | UnsetType = UNSET
    t: Any = UNSET


class RequestOptions(Struct, frozen=True, eq=False):
    """Options of one request. `Caller.request` describes the options of its caller.

    With ``is_passed_on``, the message contains some options in the field ``t``: `message` writes this field of
    `Request`, and `relayed` reads it from `WireMessage`. Options that `StrictMessage` does not accept are ignored.

    ``_core.api.options`` declares the options for users.
    """

    returns: Any = UNSET
    timeout: float | UnsetType | None = UNSET
    offline: Offline | None = None
    send: Source | None = None
    retry: Retry | None = None
    idempotent: bool = False
    context: CallContext | None = None
    """What travels with the request. `message` adds the remaining time."""
    sends_timeout: bool = False
    """Whether the request says how much time is left: its caller has set ``timeout``, or is a handler whose own time is
    limited in this way. (Requests do not send the default, `Limits.request_timeout`.)"""
    wants_channel: bool = False
    """Whether the answer must be a channel."""
    between_nodes: bool = False
    """Whether the request is from another node. With ``wants_channel``, any answer is then passed on, a channel or
    not."""
    within_call: bool = False
    """Whether the request belongs to a call that has started, which sends one such request at a time. `Limits.pending`
    does not count the request, because `TooManyRequests` would be raised too late."""
    is_passed_on: bool = False
    """Whether another node passes the request on. The other node applies the timeout, because it knows whether the
    request was sent."""
    member: str | None = None
    """The member of a contract that was called, such as ``Chat.say``. For error texts."""

    @property
    def has_key(self) -> bool:
        """Whether the call has a key. Then its handler runs once, however often the request is sent."""
        return self.context is not None and self.context.key is not UNSET

    def message(self, i: int, channel: ChannelRef, a: tuple[Any, ...]) -> Request:
        """Return the message of a request with these options."""
        if channel is None:
            message = Request(i, a)
        else:
            message = Request(i, a, UNSET, channel) if isinstance(channel, int) else Request(i, a, channel)
        if self.context is not None:
            message.ctx = replace(self.context)  # a copy, because the remaining time changes
        elif self.sends_timeout:
            message.ctx = CallContext()
        if self.is_passed_on:
            message.t = (self.timeout, self.offline)
        return message

    @classmethod
    def relayed(cls, message: WireMessage, *, wants_channel: bool) -> RequestOptions:
        """Return the options with which a node passes on a request of another node."""
        options = cls(wants_channel=wants_channel, between_nodes=True, within_call=message.h is not None)
        timeout, offline = message.t if message.t.__class__ is tuple else (None, None)
        options = replace(options, timeout=timeout, offline=offline)
        if message.ctx is UNSET:
            return options
        return replace(options, context=message.ctx, sends_timeout=message.ctx.remaining_ms is not UNSET)


NO_OPTIONS = RequestOptions()
"""The options of requests without options."""
EVENT_OPTIONS = RequestOptions(timeout=None)
"""The options of events without options. Events use only ``offline`` and ``context``."""


class Resolution(Struct):
    """The answer to request ``i``."""

    i: int
    d: Any


class Rejection(Struct):
    """Request ``i`` failed with ``e``. With the flag, ``e`` is an error object with a ``message``."""

    i: int
    e: Any
    flag: int | UnsetType = field(default=UNSET, name="_")


class Cancellation(Struct):
    """The sender of request ``i`` no longer waits for its answer, because of ``x``."""

    i: int
    x: Any
    flag: int | UnsetType = field(default=UNSET, name="_")


class ChannelCreated(Struct, gc=False):
    """The answer to request ``i`` is an anonymous channel, whose id is ``i``."""

    i: int
    h: int = 1


class ChannelAbort(Struct):
    """Anonymous channel ``h`` has ended, because of ``x``."""

    h: int
    x: Any
    flag: int | UnsetType = field(default=UNSET, name="_")


class Item(Struct):
    """The argument of ``next``: one item of a stream (ws-wrapper's iterator protocol)."""

    value: Any
    done: bool = False


class NoMoreItems(Struct, gc=False):
    """The argument of the last ``next``. JavaScript sends no value with it either."""

    done: bool = True


class ItemsFailed(Struct):
    """The argument of the last ``next`` on a named channel if the producer failed: named channels have no abort.

    ``e`` and the flag have the same meaning as in a `Rejection`. For JavaScript's iterator, the items end normally.
    """

    e: Any
    flag: int | UnsetType = field(default=UNSET, name="_")
    done: bool = True


def context_of(message: WireMessage) -> CallContext | None:
    """Return what travelled with a received event or request. None if nothing did."""
    context = message.ctx
    return context if isinstance(context, CallContext) else None


def aging(message: WireMessage, decode: Decode, time: Callable[[], float]) -> Decode:
    """Return the function that decodes a message again after it has waited: its caller then has less time left."""
    if message.ctx is UNSET:
        return decode
    try:
        read_call_context(message.ctx)
    except BadArguments:
        return decode  # the message is refused when it is handled
    arrived = time()

    def decode_again(payload: bytes | bytearray) -> WireMessage:
        again = decode(payload)
        again.ctx = aged = read_call_context(again.ctx)
        if aged.remaining_ms is not UNSET:
            aged.remaining_ms = max(0, aged.remaining_ms - int((time() - arrived) * 1000))
        return again

    return decode_again


def is_id(value: Any) -> bool:
    """Whether ``value`` can be a request's id: an integer (``True`` is not one) from 1 to 2^53-1."""
    return value.__class__ is int and 0 < value <= MAX_ID


def id_from_wire(value: Any) -> Any:
    """Return an id as JavaScript and Go read it: ``null`` is not an id, and ``1.0`` is the number 1 in JavaScript."""
    if value is None:
        return UNSET
    return int(value) if value.__class__ is float and value.is_integer() else value


def channel_id(value: Any) -> int | None:
    """Return the id of an anonymous channel: a number, or the string of digits that old JavaScript clients send."""
    value = id_from_wire(value)
    if value.__class__ is str and value.isdecimal() and value.isascii() and len(value) <= 16:
        value = int(value)
    return value if is_id(value) else None


def place_on(message: WireMessage, h: int | None) -> None:
    """Make ``message`` a message of anonymous channel ``h``.

    If the message also has a channel name, the name is removed, as in JavaScript, because middleware checks names.
    """
    message.h = h
    message.c = None


def event_on(channel: str | int | None, a: tuple[Any, ...], context: CallContext | None = None) -> Event:
    """Return an event on a named channel, on an anonymous channel (by its id), or on the main channel."""
    ctx = UNSET if context is None else context
    if channel is None:
        return Event(a, UNSET, UNSET, ctx)
    return Event(a, UNSET, channel, ctx) if isinstance(channel, int) else Event(a, channel, UNSET, ctx)

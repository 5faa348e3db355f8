"""All exceptions of wsrpc, as a tree.

::

    WsrpcError
    ├── ConnectionLost(code, reason, outcome)      also ConnectionError
    │   ├── SessionLost
    │   ├── EngineLost
    │   │   └── EngineRefused
    │   └── PeerNotFound(address, within)
    ├── ConnectFailed(attempts, last_error)        also ConnectionError
    ├── HandshakeRejected(status, body, headers)   also ConnectionError
    ├── RequestTimeout(event, timeout, outcome)    also TimeoutError
    ├── RpcError(message, code, data, fields)      raise it in a handler to reject the request
    │   └── RemoteError                            the remote peer rejected the request
    │       ├── BadArguments
    │       ├── UnknownEvent
    │       ├── Overloaded
    │       ├── Draining
    │       ├── HandlerTimeout
    │       ├── KeyReused
    │       ├── NotRead
    │       ├── ItemsGone(first)                   also for `Stream` with ``after=``
    │       ├── RunLost(outcome)
    │       └── HandlerFailed                      ``error_id``: the id of the traceback in the remote log
    ├── BadResult
    ├── MessageTooBig
    ├── ReservedEvent                              also ValueError
    ├── ChannelClosed(channel, reason)
    ├── ChannelNotReady
    ├── UnexpectedChannel
    ├── StreamOverflow
    ├── QueueFull
    ├── TooManyRequests
    ├── PeerError(peer)
    └── ProtocolError

If the remote peer rejects a request, the error is a `RemoteError`. If the remote peer violates the protocol, the error
is a `ProtocolError`. An error that wsrpc detects locally, such as a reserved name or a full queue, is not a
`RemoteError`, but has a class of its own.

``str()`` and ``repr()`` of each exception return one line of up to about 1,000 characters, without control characters.
This line is safe to show in logs and on terminals, even if it contains text from the remote peer. The attributes
(``message``, ``reason``, ``data``, ``body``) contain the complete values as they arrived.
"""

from __future__ import annotations

import re
import reprlib
from asyncio import CancelledError
from collections.abc import Mapping
from itertools import islice
from math import ceil, inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

from .headers import HeadersLike, any_case

if TYPE_CHECKING:
    from collections.abc import Callable

# All other exceptions are listed in `wsrpc.__all__`. Each public name is listed in one place.
__all__ = [
    "ChannelNotReady",
    "Draining",
    "EngineLost",
    "EngineRefused",
    "PeerError",
    "PeerNotFound",
    "ProtocolError",
    "ReservedEvent",
    "UnexpectedChannel",
]

Outcome = Literal["not_sent", "not_run", "ran", "unknown"]
"""Outcome of a failed call. Safe to repeat are ``"not_sent"``: nothing was sent, and ``"not_run"``: the remote peer has
refused the call before its handler began. After ``"ran"``, the handler has run, at least in part. ``"unknown"`` means
that it may have run."""

RESERVED_CODES = "wsrpc."
"""Prefix of the error codes that choose the class of the error on the caller's side. Only wsrpc itself sends them."""

RESERVED_FIELDS = {
    "message": "give it as message",
    "code": "give it as code=",
    "data": "give it as data=",
    "name": "it would replace the name of JavaScript's Error",
    "stack": "it would replace the stack of JavaScript's Error",
    "__proto__": "it would replace the class of JavaScript's Error",
}
"""Names that ``RpcError(fields=)`` refuses, and why. JavaScript makes each field a property of an `Error`."""

LONGEST_LINE = 1000
"""Maximum number of characters of a text in a log line or in ``str(error)``. Further characters are only counted."""
LONGEST_VALUE = 200
"""Maximum number of characters that are shown of the ``repr`` of a value."""

# Characters that end a line, move a cursor, change the direction of a text or cannot be encoded. Letters and marks of
# all languages are kept, and so are no-break spaces and the joiners within emoji.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


T = TypeVar("T")


def unless_it_fails(make: Callable[[Any], T], value: object) -> T | None:
    """Return ``make(value)``, or None if code of the user that this calls, such as ``__str__``, raises anything."""
    try:
        return make(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return None


def one_line(value: object, limit: int = LONGEST_LINE) -> str:
    """Return ``str(value)`` as one line of at most ``limit`` characters. Unsafe characters are escaped.

    If characters are left out, the number of these characters is appended. A short string without unsafe characters is
    returned unchanged.
    """
    try:
        text = str(value)
    except Exception:  # a user's `__str__`
        text = f"<{type(value).__name__}>"
    if len(text) <= limit and _UNSAFE.search(text) is None:
        return text
    shown: list[str] = []
    room = limit
    for char in text[:limit]:
        char = repr(char)[1:-1] if _UNSAFE.match(char) else char
        room -= len(char)
        if room < 0:
            break
        shown.append(char)
    left_out = len(text) - len(shown)
    return "".join(shown) + (f"… ({left_out:,} more characters)" if left_out else "")


def printable(text: str) -> str:
    """Return ``text`` with an escape for each unsafe character except tabs and line breaks.

    The escapes, such as ``\\u009b``, have the same meaning in JSON, TypeScript and Python. JSON stays the same value.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in "\t\n" else f"\\u{ord(found[0]):04x}", text)


class BoundedRepr(reprlib.Repr):
    """Like `reprlib.Repr`, but with at most 200 parts in total. The base class only limits the parts of each level."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = LONGEST_VALUE
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = 32
        self._parts = LONGEST_VALUE

    def repr1(self, x: Any, level: int) -> str:
        self._parts -= 1
        return super().repr1(x, level) if self._parts >= 0 else "..."

    def repr_str(self, x: str | bytes, level: int) -> str:
        # The base class shows both ends of a string, but a longer beginning is more useful.
        return repr(x[: self.maxstring]) + ("…" if len(x) > self.maxstring else "")

    repr_bytes = repr_str

    def repr_Ext(self, x: Any, level: int) -> str:
        # msgspec's own `repr` would show the remote peer an address in the memory of this process.
        return f"Ext({x.code}, {self.repr1(x.data, level - 1)})"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        # The base class sorts all keys.
        if x and level <= 0:
            return "{...}"
        shown = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in islice(x.items(), self.maxdict)
        ]
        return f"{{{', '.join(shown)}{', ...' if len(x) > self.maxdict else ''}}}"


def short(value: object) -> str:
    """Return ``repr(value)``, of at most about 200 characters and 6 levels."""
    # For example an integer of very many digits has no text, in Python 3.11.
    text = one_line(unless_it_fails(BoundedRepr().repr, value) or f"<{type(value).__name__}>")
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def as_text(value: object) -> str:
    """Return ``value`` as the message of an error: ``str(value)``, or the name of its class if ``str()`` fails."""
    if type(value) is str:
        return value
    return unless_it_fails(str, value) or type(value).__name__


def repr_of(options: Any) -> str:
    """Return the ``repr`` of a Struct that holds users' objects."""
    shown = (f"{name}={short(getattr(options, name))}" for name in options.__struct_fields__)
    return f"{type(options).__name__}({', '.join(shown)})"


def _restore(cls: type[WsrpcError], args: tuple[Any, ...], state: dict[str, Any]) -> WsrpcError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def named(error: BaseException) -> str:
    """Return the type of ``error`` and its text as one line. (Some errors have no text, such as a reset connection.)"""
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")


def named_with_notes(error: BaseException) -> str:
    """Return what `named` returns, and the notes of ``error``."""
    return "; ".join([named(error), *getattr(error, "__notes__", ())])


def check_code(code: object) -> None:
    """Refuse a code that only wsrpc may send.

    Raises:
        ValueError: the code is reserved.
    """
    if isinstance(code, str) and code.startswith(RESERVED_CODES):
        raise ValueError(f"error codes that begin with {RESERVED_CODES!r} are reserved, got {code!r}")


class WsrpcError(Exception):
    """Base class of all exceptions of wsrpc.

    Attributes:
        outcome: whether the handler of a failed call has run: ``"not_sent"``, ``"not_run"``, ``"ran"`` or
            ``"unknown"``.
    """

    outcome: Outcome = "not_sent"

    def __str__(self) -> str:
        try:
            return one_line(self._text())
        except Exception:  # a subclass did not call our `__init__`
            return ", ".join(map(short, self.args))

    def _text(self) -> str:
        return super().__str__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(short, self.args))})"

    def __reduce__(self) -> tuple[Callable[..., WsrpcError], tuple[Any, ...]]:
        # By default unpickling calls the class with `args`, which are not its parameters. Process pools and test
        # runners pickle exceptions, and would lose the real error.
        state = {name: value for name, value in vars(self).items() if name != _CHANNEL}
        return _restore, (type(self), self.args, state)


# ---------------------------------------------------------------- the connection


class ConnectionLost(WsrpcError, ConnectionError):
    """The connection ended before the call was complete, or there is no connection.

    Attributes:
        code: the close code of the connection. 1006 means that there was no Close frame.
        reason: the close reason.
        outcome: ``"not_sent"`` if nothing was sent, so that you can safely repeat the call, or ``"unknown"``, because
            the handler may have run.
    """

    def __init__(self, code: int = 1006, reason: str = "", outcome: Outcome = "unknown") -> None:
        super().__init__(code, reason, outcome)
        self.code = code
        self.reason = reason
        self.outcome: Outcome = outcome

    def for_outcome(self, outcome: Outcome) -> Self:
        """Return a copy of this error for another call, with the given ``outcome``."""
        return type(self)(self.code, self.reason, outcome)

    def _text(self) -> str:
        if self.outcome == "not_sent":
            return f"there is no connection ({self._how}); nothing was sent"
        return f"the connection ended ({self._how}); requests in flight may have run"

    @property
    def _how(self) -> str:
        return f"{self.code} {self.reason}".rstrip()


class SessionLost(ConnectionLost):
    """The connection ended before the call was complete, and its session could not be resumed on another connection.

    ``code`` says how the last connection ended, and ``reason`` says why the session was not resumed.
    """

    def _text(self) -> str:
        then = "nothing was sent" if self.outcome == "not_sent" else "requests in flight may have run"
        return f"the session is lost ({self._how}); {then}"


class EngineLost(ConnectionLost):
    """The engine of the cluster cannot be reached, so nothing was sent to other processes. ``reason`` says why.

    The engine is the message broker that connects the processes; see `wsrpc.cluster.engine`.
    """

    _what = "is lost"

    def __init__(self, reason: str = "", outcome: Outcome = "not_sent") -> None:
        super().__init__(1006, reason, outcome)
        self.args = (reason, outcome)

    def for_outcome(self, outcome: Outcome) -> Self:
        return type(self)(self.reason, outcome)

    def _text(self) -> str:
        return f"the engine of the cluster {self._what}: {self.reason}".removesuffix(": ")


class EngineRefused(EngineLost):
    """The engine of the cluster refuses the user or the password of this program. ``reason`` says why."""

    _what = "refuses the user or the password"


class PeerNotFound(ConnectionLost):
    """No process in the cluster has a peer with this ``address``, so nothing was sent.

    ``within`` is the ``deliver_within`` of a call that no such peer has taken, in seconds, or else None.
    """

    def __init__(self, address: str, within: float | None = None) -> None:
        super().__init__(1006, "no such peer", "not_sent")
        self.args = (address, within)
        self.address = address
        self.within = within

    def for_outcome(self, outcome: Outcome) -> Self:
        return type(self)(self.address, self.within)

    def _text(self) -> str:
        if self.within is not None:
            return f"no peer with the address {short(self.address)} was there, and not busy, within {self.within:g} s"
        return f"no node of the cluster has a peer with the address {short(self.address)}"


class ConnectFailed(WsrpcError, ConnectionError):
    """The client could not connect. ``attempts`` is the number of attempts, and ``last_error`` is the last error."""

    def __init__(self, attempts: int, last_error: BaseException | None) -> None:
        super().__init__(attempts)
        self.attempts = attempts
        self.last_error = last_error

    def _text(self) -> str:
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        last = self.last_error
        the_last = "; the last one" if self.attempts else ""
        why = "" if last is None else f"{the_last}: {named_with_notes(last)}"
        return f"could not connect in {times}{why}"


class HandshakeRejected(WsrpcError, ConnectionError):
    """The server responded to the opening handshake with an HTTP ``status`` other than 101.

    ``body`` (a string) and ``headers`` (whose names ignore case) are from the server's response. If you raise the
    exception in `on_handshake`, ``headers`` can also be a list of pairs, in which a name can be repeated. The text of
    the exception shows the URL of the server, without its query.
    """

    shown_url = ""
    """The URL for people. A client sets it."""

    def __init__(self, status: int, body: str = "", headers: HeadersLike | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = any_case(headers)

    def _text(self) -> str:
        at = f" at {self.shown_url}" if self.shown_url else ""
        text = f"the server{at} refused the connection with HTTP {self.status}"
        return f"{text}: {one_line(self.body.strip(), LONGEST_VALUE)}" if self.body.strip() else text

    def __repr__(self) -> str:
        text = super().__repr__()
        return f"{text[:-1]}, url={one_line(self.shown_url)})" if self.shown_url else text


# ---------------------------------------------------------------- a request


class RequestTimeout(WsrpcError, TimeoutError):
    """No response to a request, or no event for `wait_for`, arrived within ``timeout`` seconds.

    A request that timed out was cancelled. ``outcome`` is ``"not_sent"`` if the request was still waiting for a
    connection, in which case its handler has not run. Otherwise, ``outcome`` is ``"unknown"``.
    """

    def __init__(self, event: str, timeout: float, outcome: Outcome = "unknown") -> None:
        super().__init__(event)
        self.event = event
        self.timeout = timeout
        self.outcome: Outcome = outcome

    def _text(self) -> str:
        if _FOR_EVENT in vars(self):
            return f"no event {self.event!r} within {self.timeout:g} s"
        text = f"no response to {self.event!r} within {self.timeout:g} s"
        return f"{text}; nothing was sent" if self.outcome == "not_sent" else text


class RpcError(WsrpcError):
    """Error that a handler raises to reject a request. The caller gets a `RemoteError` with the same message.

    For any other exception, the caller only gets the message "internal error" and an id, because the text of the
    exception may contain details that are not meant for callers. An exception group with one `RpcError`, and besides
    that only cancellations, counts as this error.

    Args:
        message: a string for people to read. The complete string is sent; ``str(error)`` returns only its beginning, as
            one line. A value that is not a string is converted with ``str()``. (A `TypeError` would hide the error that
            you want to report.)
        code: a string or an integer for programs to check. Codes that begin with ``"wsrpc."`` are reserved.
        data: any value that the codec can encode.
        fields: further fields of the error, as a mapping of names to values that the codec can encode. The caller finds
            them in `RemoteError.fields`. In JavaScript, they are properties of the `Error`.

    Raises:
        TypeError: ``fields`` is not a mapping, or the name of a field is not a string.
        ValueError: ``code`` or the name of a field is reserved.
    """

    # Defaults for subclasses whose __init__ does not call this one: a rejection must work for them, too.
    message: str = ""
    code: str | int | None = None
    data: Any = None

    plain: bool = False
    """Whether the rejection is sent, or was received, as a single value instead of an error object."""

    _fields: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        message: str,
        code: str | int | None = None,
        data: Any = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        message = as_text(message)
        super().__init__(message)
        if not isinstance(self, RemoteError):
            check_code(code)
        self.message = message
        if code is not None:
            self.code = code
        self.data = data
        if fields:
            if not isinstance(self, RemoteError):
                _check_fields(fields)
            self._fields = dict(fields)

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of the error other than message, code and data, as a read-only mapping."""
        return MappingProxyType(self._fields)

    @classmethod
    def of_value(cls, value: Any) -> Self:
        """Return an error that is sent as ``value`` itself, like ``throw value`` in JavaScript.

        ``data`` is the value. If ``value`` is None, an error object with the message "Error" is sent instead.
        ws-wrapper in JavaScript also sends this object, and ws-server-wrapper-go would treat a rejection with null as
        success.
        """
        if value is None:
            return cls("Error")
        error = cls(value if isinstance(value, str) else f"rejected with {short(value)}", data=value)
        error.plain = True
        return error

    def _text(self) -> str:
        return self.message or super()._text()


def _check_fields(fields: Mapping[Any, Any]) -> None:
    if not hasattr(fields, "keys"):
        raise TypeError(f"fields= takes a mapping of names to values, got {short(fields)}")
    for name in fields:
        if not isinstance(name, str):
            raise TypeError(f"the name of an error field must be text, got {short(name)}")
        if name in RESERVED_FIELDS:
            raise ValueError(f"an error cannot have the field {short(name)}: {RESERVED_FIELDS[name]}")


class RemoteError(RpcError):
    """The remote peer rejected the request.

    ``message``, ``code`` and ``data`` are those of the remote peer's error, and ``fields`` is a read-only mapping of
    the error's other fields. ``message`` is exactly what the remote peer sent. ``str(error)`` is safe to log. If the
    rejection is a single value (``throw "text"`` in JavaScript), ``plain`` is true and ``data`` is the value.
    """

    outcome: Outcome = "ran"

    @property
    def retry_after(self) -> float | None:
        """The seconds after which a further attempt may succeed. None if the remote peer does not say."""
        value: Any = self._fields.get("retry_after")
        return value if type(value) in (int, float) and 0 <= value < inf else None


class BadArguments(RemoteError):
    """The arguments do not fit the handler on the remote peer. The handler did not run."""

    code = "wsrpc.bad_arguments"
    outcome: Outcome = "not_run"


class UnknownEvent(RemoteError):
    """The remote peer has no handler for the event."""

    code = "wsrpc.unknown_event"
    outcome: Outcome = "not_run"


class Overloaded(RemoteError):
    """The remote peer has reached one of its limits. The handler did not run. After a rate, it has `retry_after`.

    `Room.emit` of a room with ``keep=`` raises it here, and so does a call with ``deliver_within=``. If the store may
    have the event or the call, ``outcome`` is ``"unknown"``. If a handler lets it pass, its caller gets
    `HandlerFailed`, because the handler ran.
    """

    code = "wsrpc.overloaded"
    outcome: Outcome = "not_run"


class Draining(RemoteError):
    """The remote peer is closing and accepts no new requests. The handler did not run."""

    code = "wsrpc.draining"
    outcome: Outcome = "not_run"


class HandlerTimeout(RemoteError):
    """The handler on the remote peer reached its time limit while it was running, and was cancelled."""

    code = "wsrpc.handler_timeout"


class HandlerFailed(RemoteError):
    """The handler on the remote peer raised an exception that is not meant for callers.

    The log of the remote peer contains the traceback, with the id ``error_id``.
    """

    code = "wsrpc.internal"

    @property
    def error_id(self) -> str | None:
        """The id of the traceback in the log of the remote peer. None if the remote peer has sent no id."""
        value = self._fields.get("error_id")
        return value if isinstance(value, str) else None

    def _text(self) -> str:
        return self.message if self.error_id is None else f"{self.message} [{self.error_id}]"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({short(str(self))})"


class KeyReused(RemoteError):
    """A call with the same ``key=``, but other arguments, has run or runs. This one did not run."""

    code = "wsrpc.key_reused"
    outcome: Outcome = "not_run"


class NotRead(RemoteError):
    """The handler of a call with a key has not read a message of `Stream.send`: it has ended, or takes no more."""

    code = "wsrpc.not_read"
    outcome: Outcome = "not_run"


class ItemsGone(RemoteError):
    """Items after the position ``after=`` of a stream are no longer kept, or the position is of another run.

    ``first`` is the position of the first item that is kept: a stream with ``after=error.first - 1`` begins there. It
    is None if nothing is kept under this key; the handler may have run, and was not started again.
    """

    code = "wsrpc.items_gone"
    outcome: Outcome = "unknown"

    @property
    def first(self) -> int | None:
        """The position of the first item that is kept."""
        return self.data if isinstance(self.data, int) else None


class RunLost(RemoteError):
    """The process that ran the handler of a call with a key has ended, and what the handler did is unknown.

    ``outcome`` is ``"unknown"``, as for `ConnectionLost`. The handler does not run again for this key, as long as its
    result would have been kept.
    """

    code = "wsrpc.run_lost"
    outcome: Outcome = "unknown"


class BadResult(WsrpcError):
    """The response, or an item of a stream, does not fit ``returns=`` or cannot be decoded.

    In a handler, this exception means that an item of an upload does not fit the annotation of the parameter.
    """

    outcome: Outcome = "ran"


class MessageTooBig(WsrpcError):
    """A message was not sent, because it is larger than the remote peer accepts or `Limits.sent_message_bytes` allows.

    In a cluster, the message can also be too large for the engine that connects the processes (`wsrpc.cluster.engine`),
    or was given up, because the engine dropped each connection on which it was sent. It was not handled then either.
    On a `RawConnection`, this exception means that an inbound message is larger than ``receive(max_size=)`` allows.
    """


class ReservedEvent(WsrpcError, ValueError):
    """A lifecycle event, such as ``open`` or ``close``, cannot be emitted, requested or read on the main channel."""

    def __init__(self, event: str) -> None:
        super().__init__(event)
        self.event = event

    def _text(self) -> str:
        return (
            f"{self.event!r} is reserved on the main channel, where it reports on the connection: "
            "choose another name, or use it on a named channel"
        )


# ---------------------------------------------------------------- channels


class ChannelClosed(WsrpcError):
    """The channel is closed. ``reason`` is the reason that was given when the channel was closed."""

    outcome: Outcome = "unknown"

    def __init__(self, channel: str, reason: Any = None) -> None:
        super().__init__(channel)
        self.channel = channel
        self.reason = reason

    def _text(self) -> str:
        text = f"channel {self.channel!r} is closed"
        return text if self.reason is None else f"{text}: {short(self.reason)}"


class ChannelNotReady(WsrpcError):
    """The `AnonymousChannel` cannot send yet, because the response that opens it has not been sent."""


class UnexpectedChannel(WsrpcError):
    """The remote peer responded with a channel instead of a value, and wsrpc aborted the channel.

    Use `Peer.open_channel` or `Peer.stream` for this event.
    """

    outcome: Outcome = "ran"


class StreamOverflow(WsrpcError):
    """More unread items or events arrived than `Limits.stream_queue_bytes` or `Limits.unread_bytes` allow.

    It is also raised instead of the unread messages of an ended session that were dropped because of
    ``Server(detached_bytes=)``.
    """

    outcome: Outcome = "ran"


# ---------------------------------------------------------------- local limits


class QueueFull(WsrpcError):
    """The queue of messages to send is full. The message was not sent."""


class TooManyRequests(WsrpcError):
    """The number of pending requests has reached `Limits.pending`. The request was not sent."""


class PeerError(WsrpcError):
    """An event for several peers could not be sent to ``peer``. ``__cause__`` is the reason."""

    def __init__(self, peer: Any, message: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.message = message

    def _text(self) -> str:
        return f"{self.peer!r}: {self.message}"


class ProtocolError(WsrpcError):
    """The remote peer sent something that the protocol does not allow."""


# ---------------------------------------------------------------- private notes on errors

# These notes are entries of an error's `__dict__`, so that they travel with a pickled error. No public class declares
# them: users do not see them, and only the functions below read or write them.
_MADE_HERE = "_made_here"
_TEXT_FOR_LOG = "_text_for_log"
_CLOSED_HERE = "_closed_here"
_CHANNEL = "_channel"
_FOR_EVENT = "_for_event"

R = TypeVar("R", bound=RpcError)


def made_here(error: R) -> R:
    """Mark ``error`` as made by this side for its caller, and return it: `is_made_here` is then true."""
    vars(error)[_MADE_HERE] = True
    return error


def is_made_here(error: RpcError) -> bool:
    """Whether this side made ``error`` for its caller. (A `RemoteError` that arrived is not passed on unchanged.)"""
    return _MADE_HERE in vars(error)


def set_text_for_log(error: RpcError, text: str) -> None:
    """Let the log show ``text`` in place of the error's own text, which may quote values."""
    vars(error)[_TEXT_FOR_LOG] = text


def text_for_log(error: RpcError) -> object:
    """The text that the log shows for ``error``, or the error itself if its own text is safe."""
    return vars(error).get(_TEXT_FOR_LOG, error)


def parts_of(error: BaseException) -> list[BaseException]:
    """The errors in a group and in the groups inside it, without cancellations. Another error is its only part."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    remaining = [each for each in group.exceptions if not isinstance(each, (CancelledError, GeneratorExit))]
    return [part for each in remaining for part in parts_of(each)]


def ungrouped(error: BaseException) -> BaseException:
    """The error of wsrpc that is alone in a group, such as an `RpcError` of a task in a ``TaskGroup``. Or ``error``.

    Cancellations do not count: the first error cancels the other tasks of its group.
    """
    first, *others = parts_of(error) or [error]
    return first if isinstance(first, WsrpcError) and all(each is first for each in others) else error


def above_a_rate(why: str, seconds: float | None) -> Overloaded:
    """Return the error of a request that may succeed after so many seconds, or some time later. ``why`` has no end."""
    fields = None if seconds is None else {"retry_after": ceil(seconds * 1000) / 1000}
    return Overloaded(f"{why}, ask again later", fields=fields)


def closed_here(error: ConnectionLost) -> ConnectionLost:
    """Mark ``error`` as the result of a close by this side's user, and return it: `is_closed_here` is then true."""
    vars(error)[_CLOSED_HERE] = True
    return error


def is_closed_here(error: ConnectionLost) -> bool:
    """Whether this side's user closed the connection."""
    return _CLOSED_HERE in vars(error)


def add_member_note(error: BaseException, member: str | None) -> None:
    """Add a note to the error of a call: the member of a contract that was called. None for a call without a proxy."""
    if member is not None:
        error.add_note(f"called as {member}")


def bad_item(text: str, channel: object) -> BadResult:
    """Return the error for an item that does not fit and that arrived on the anonymous ``channel``."""
    error = BadResult(text)
    vars(error)[_CHANNEL] = channel
    return error


def channel_of_item(error: BadResult) -> Any:
    """The anonymous channel on which the item arrived; None if it was not an item."""
    return vars(error).get(_CHANNEL)


def event_timeout(event: str, timeout: float) -> RequestTimeout:
    """Return the error of a `wait_for` that saw no event."""
    error = RequestTimeout(event, timeout)
    vars(error)[_FOR_EVENT] = True
    return error

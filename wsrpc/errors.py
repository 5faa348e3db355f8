"""Every exception of wsrpc, as a tree.

::

    WsrpcError
    ├── ConnectionLost(code, reason, outcome)      also ConnectionError
    │   └── SessionLost
    ├── ConnectFailed(attempts, last_error)        also ConnectionError
    ├── HandshakeRejected(status, body, headers)   also ConnectionError
    ├── RequestTimeout(event, timeout)             also TimeoutError
    ├── RpcError(message, code, data, fields)      raise it in a handler: the caller gets it
    │   └── RemoteError                            what a caller gets
    │       ├── BadArguments
    │       ├── UnknownEvent
    │       ├── Overloaded
    │       ├── Draining
    │       ├── HandlerTimeout
    │       └── HandlerFailed                      ``error_id`` finds the traceback in the remote log
    ├── BadResult, MessageTooBig, ReservedEvent (also ValueError)
    ├── ChannelClosed(channel, reason), ChannelNotReady, UnexpectedChannel, StreamOverflow
    ├── QueueFull, TooManyRequests, PeerError(peer)
    └── ProtocolError

Something that you did wrong on this side (a reserved name, a full queue) has a class of its own;
what the other side did or said is a `RemoteError` or a `ProtocolError`.

``str()`` and ``repr()`` of each are one line of at most about 1,000 characters, without control characters, because
they end up in logs and on terminals, and the other side may have written the text. Programs read the attributes
(``message``, ``reason``, ``data``, ``body``), which hold everything as it came.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BadArguments",
    "BadResult",
    "ChannelClosed",
    "ChannelNotReady",
    "ConnectFailed",
    "ConnectionLost",
    "Draining",
    "HandlerFailed",
    "HandlerTimeout",
    "HandshakeRejected",
    "MessageTooBig",
    "Outcome",
    "Overloaded",
    "PeerError",
    "ProtocolError",
    "QueueFull",
    "RemoteError",
    "RequestTimeout",
    "ReservedEvent",
    "RpcError",
    "SessionLost",
    "StreamOverflow",
    "TooManyRequests",
    "UnexpectedChannel",
    "UnknownEvent",
    "WsrpcError",
]

Outcome = Literal["not_sent", "unknown"]

RESERVED_CODES = "wsrpc."
"""Error codes with this prefix choose the class on the caller's side, so only wsrpc itself sends them."""

RESERVED_FIELDS = {
    "message": "give it as message",
    "code": "give it as code=",
    "data": "give it as data=",
    "name": "it would replace the name of JavaScript's Error",
    "stack": "it would replace the stack of JavaScript's Error",
    "__proto__": "it would replace the class of JavaScript's Error",
}
"""Keys that ``RpcError(fields=)`` does not take, and why. JavaScript makes each field a property of an `Error`."""

LONGEST_LINE = 1000
"""Characters of a text in a log line or in ``str(error)``; of the rest only the number is given."""
LONGEST_VALUE = 200

# What ends a line, moves a cursor, changes the direction of a text or cannot be encoded. Letters and marks of all
# languages stay as they are, and so do no-break spaces and the joiners within emoji.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(value: object, limit: int = LONGEST_LINE) -> str:
    """``str(value)`` as one line: at most ``limit`` characters, then how many are left out; unsafe ones escaped.

    A text of one line that is short enough is returned as it is.
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


class BoundedRepr(reprlib.Repr):
    """Makes one text of at most 200 parts in all, by `repr`; the base class bounds each level by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = LONGEST_VALUE
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = 32
        self._parts = LONGEST_VALUE

    def repr1(self, x: Any, level: int) -> str:
        self._parts -= 1
        return super().repr1(x, level) if self._parts >= 0 else "..."

    def repr_str(self, x: str | bytes, level: int) -> str:
        # Its beginning says more than both of its ends, which is what the base class shows.
        return repr(x[: self.maxstring]) + ("…" if len(x) > self.maxstring else "")

    repr_bytes = repr_str

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
    """``repr(value)``, of at most about 200 characters and 6 levels."""
    try:
        text = one_line(BoundedRepr().repr(value))
    except Exception:  # an integer of very many digits, in Python 3.11
        text = f"<{type(value).__name__}>"
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def as_text(value: object) -> str:
    """``value`` as the message of an error: text as it is, anything else as by ``str()``, or its class's name."""
    if type(value) is str:
        return value
    try:
        text = str(value)
    except Exception:  # a user's `__str__`
        text = ""
    return text or type(value).__name__


def repr_of(options: Any) -> str:
    """``repr`` of a Struct that holds users' objects."""
    shown = (f"{name}={short(getattr(options, name))}" for name in options.__struct_fields__)
    return f"{type(options).__name__}({', '.join(shown)})"


def _restore(cls: type[WsrpcError], args: tuple[Any, ...], state: dict[str, Any]) -> WsrpcError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def named(error: BaseException) -> str:
    """The type of ``error`` and its text, if it has one, as one line: a connection that was reset has none."""
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")


def check_code(code: object) -> None:
    """Refuse a code that only wsrpc may send.

    Raises:
        ValueError: it is reserved.
    """
    if isinstance(code, str) and code.startswith(RESERVED_CODES):
        raise ValueError(f"error codes that begin with {RESERVED_CODES!r} are reserved, got {code!r}")


class WsrpcError(Exception):
    """The root of the tree."""

    def __str__(self) -> str:
        try:
            return one_line(self._text())
        except Exception:  # of a subclass that has not called our `__init__`
            return ", ".join(map(short, self.args))

    def _text(self) -> str:
        return super().__str__()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(short, self.args))})"

    def __reduce__(self) -> tuple[Callable[..., WsrpcError], tuple[Any, ...]]:
        # The default would call the class with `args`, which are not its parameters: process pools and
        # test runners pickle exceptions, and losing the real error there is a bad surprise.
        return _restore, (type(self), self.args, self.__dict__.copy())


# ---------------------------------------------------------------- the connection


class ConnectionLost(WsrpcError, ConnectionError):
    """The connection ended before the call did.

    ``outcome`` is ``"not_sent"`` if the message was still in wsrpc's own queue, so that asking again
    is safe; ``"unknown"`` if it was handed to the transport, so that it may have run. ``code`` and ``reason`` say how
    the connection ended (1006: without a Close frame).
    """

    _by_user = False
    """Whether this side closed the connection."""

    def __init__(self, code: int = 1006, reason: str = "", outcome: Outcome = "unknown") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.outcome: Outcome = outcome

    def _text(self) -> str:
        how = f"{self.code} {self.reason}".rstrip()
        if self.outcome == "not_sent":
            return f"there is no connection ({how}); nothing was sent"
        return f"the connection ended ({how}); what was in the air may have run"


class SessionLost(ConnectionLost):
    """The session could not be resumed. (Nothing raises it yet.)"""


class ConnectFailed(WsrpcError, ConnectionError):
    """No connection came about: ``attempts`` were made, the last one failed with ``last_error``."""

    def __init__(self, attempts: int, last_error: BaseException | None) -> None:
        super().__init__(attempts)
        self.attempts = attempts
        self.last_error = last_error

    def _text(self) -> str:
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        last = self.last_error
        the_last = "; the last one" if self.attempts else ""
        why = "" if last is None else f"{the_last}: {named(last)}"
        return f"could not connect in {times}{why}"


class HandshakeRejected(WsrpcError, ConnectionError):
    """The server answered the opening handshake with an HTTP ``status`` other than 101.

    ``body`` and ``headers`` (names in lower case) are what it said besides.
    """

    def __init__(self, status: int, body: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers: Mapping[str, str] = headers or {}
        self._reason = ""

    def _text(self) -> str:
        text = f"the server refused the connection with HTTP {self.status}{self._reason}"
        return f"{text}: {one_line(self.body.strip(), LONGEST_VALUE)}" if self.body.strip() else text


def redirect_not_followed(answer: HandshakeRejected, reason: str) -> HandshakeRejected:
    """Give ``answer`` the reason why its redirect is not followed."""
    # Of the same module: the public class gains no name for it.
    answer._reason = f", a redirect that is not followed: {reason}"  # pyright: ignore[reportPrivateUsage]
    return answer


# ---------------------------------------------------------------- a request


class RequestTimeout(WsrpcError, TimeoutError):
    """No answer within ``timeout`` seconds, and the other side was told to stop; or no ``event`` for `wait_for`."""

    def __init__(self, event: str, timeout: float) -> None:
        super().__init__(event)
        self.event = event
        self.timeout = timeout
        self._missing = "answer to"

    def _text(self) -> str:
        return f"no {self._missing} {self.event!r} within {self.timeout:g} s"


class RpcError(WsrpcError):
    """Raise it in a handler: the caller gets a `RemoteError` with the same message, code and data.

    Any other exception reaches the caller only as "internal error" with an id, because its text was
    not written for strangers.

    Args:
        message: for people. All of it is sent; ``str(error)`` is its beginning, as one line. What is not text becomes
            text by ``str()``, since refusing it would hide what has gone wrong.
        code: for programs, a string or an integer; ``"wsrpc."`` prefixes are reserved.
        data: any value that the codec can encode.
        fields: further fields of the error, by name, with values that the codec can encode. The caller finds them in
            `RemoteError.fields`; in JavaScript they are properties of the `Error`.

    Raises:
        TypeError, ValueError: ``fields`` is no mapping, or a name in it no text; that, or the code, is reserved.
    """

    # Defaults for subclasses whose __init__ does not call this one: a rejection must not fail on them.
    message: str = ""
    code: str | int | None = None
    data: Any = None

    plain: bool = False
    """Whether the rejection is (or becomes) a bare value on the wire instead of an error object."""

    _fields: Mapping[str, Any] = MappingProxyType({})

    # Whether this side made it for its caller; a `RemoteError` that came in is not passed on as it is.
    _made_here: bool = False
    # What the log says in place of the text, where that may quote values.
    _for_log: str | None = None

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
        """What the error has besides message, code and data; read-only."""
        return MappingProxyType(self._fields)

    @classmethod
    def of_value(cls, value: Any) -> Self:
        """An error that is ``value`` itself on the wire, as JavaScript's ``throw value``.

        ``data`` holds the value. ``None`` cannot be rejected with (Go reads it as success) and becomes
        the default error, as in JavaScript.
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
        raise TypeError(f"fields= is a mapping of names to values, got {short(fields)}")
    for name in fields:
        if not isinstance(name, str):
            raise TypeError(f"names of error fields are text, got {short(name)}")
        if name in RESERVED_FIELDS:
            raise ValueError(f"an error cannot have the field {short(name)}: {RESERVED_FIELDS[name]}")


class RemoteError(RpcError):
    """The other side rejected the request. Its text is in ``message``, unchanged; ``str(error)`` is safe to log.

    ``message``, ``code`` and ``data`` are what it said; ``fields`` is a read-only mapping with whatever
    else its error had. A rejection with a bare value (``throw "text"`` in JavaScript) has ``plain`` true
    and the value in ``data``.
    """


class BadArguments(RemoteError):
    """The arguments do not fit the remote handler, which did not run."""

    code = "wsrpc.bad_arguments"


class UnknownEvent(RemoteError):
    """The other side has no handler of that name, so none ran."""

    code = "wsrpc.unknown_event"


class Overloaded(RemoteError):
    """The other side has no place left for a request; it did not run."""

    code = "wsrpc.overloaded"


class Draining(RemoteError):
    """The other side is closing and takes no new requests; it did not run."""

    code = "wsrpc.draining"


class HandlerTimeout(RemoteError):
    """The remote handler reached its time limit, after it had begun. It was cancelled."""

    code = "wsrpc.handler_timeout"


class HandlerFailed(RemoteError):
    """The remote handler raised something that was not meant for callers.

    ``error_id`` stands in the remote log beside the traceback.
    """

    code = "wsrpc.internal"

    @property
    def error_id(self) -> str | None:
        value = self._fields.get("error_id")
        return value if isinstance(value, str) else None

    def _text(self) -> str:
        return self.message if self.error_id is None else f"{self.message} [{self.error_id}]"


class BadResult(WsrpcError):
    """The answer, or an item of a stream, came but is not what ``returns=`` asked for, or does not decode.

    A handler gets it for an item that its caller sends and that does not fit the annotation.
    """

    _channel: Any = None
    """The anonymous channel on which it came."""

    def __reduce__(self) -> tuple[Callable[..., WsrpcError], tuple[Any, ...]]:
        restore, (cls, args, state) = super().__reduce__()
        return restore, (cls, args, {name: value for name, value in state.items() if name != "_channel"})


class MessageTooBig(WsrpcError):
    """A message exceeds what the other side accepts, and was not sent; or it arrived on a raw connection, and
    ``receive(max_size=)`` allows less."""


class ReservedEvent(WsrpcError, ValueError):
    """A name like ``open`` or ``close`` cannot be emitted or requested on the main channel."""

    def __init__(self, event: str) -> None:
        super().__init__(event)
        self.event = event

    def _text(self) -> str:
        return (
            f"{self.event!r} is reserved on the main channel (it reports what happens to the connection): "
            "choose another name, or use it on a named channel"
        )


# ---------------------------------------------------------------- channels


class ChannelClosed(WsrpcError):
    """The channel was closed; ``reason`` is what it was closed with."""

    def __init__(self, channel: str, reason: Any = None) -> None:
        super().__init__(channel)
        self.channel = channel
        self.reason = reason

    def _text(self) -> str:
        text = f"channel {self.channel!r} is closed"
        return text if self.reason is None else f"{text}: {short(self.reason)}"


class ChannelNotReady(WsrpcError):
    """The anonymous channel has not been delivered to the requestor yet."""


class UnexpectedChannel(WsrpcError):
    """The answer is a channel that nobody asked for; it was aborted."""


class StreamOverflow(WsrpcError):
    """A producer without flow control sent more than may be kept."""


# ---------------------------------------------------------------- local limits


class QueueFull(WsrpcError):
    """The queue of messages to send is at its bound; nothing was sent."""


class TooManyRequests(WsrpcError):
    """As many requests are pending as `Limits.pending` allows; this one was not sent."""


class PeerError(WsrpcError):
    """Emitting to many failed for ``peer``; ``__cause__`` says why."""

    def __init__(self, peer: Any, message: str = "") -> None:
        super().__init__(message)
        self.peer = peer
        self.message = message

    def _text(self) -> str:
        return f"{self.peer!r}: {self.message}"


class ProtocolError(WsrpcError):
    """The other side sent what the protocol does not allow."""

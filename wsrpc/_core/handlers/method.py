"""`method`: the mark that makes a method a handler, with the name of its event and its options."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypedDict, Unpack, overload

from msgspec import UNSET, Struct, UnsetType

from ..._base.misuse import check_flag, check_function, check_number
from ..._base.names import F, check_event, check_timeout
from ...errors import short
from ...limits import Rate, rate_of

LONGEST_ADVICE = 200
"""Characters of ``deprecated=``, which is sent to callers."""
MARK = "_wsrpc_method"
"""Attribute of a function that `method` has decorated."""


class Keep(Struct, frozen=True):
    """What is kept of the calls of a handler that have a key, for ``keep=`` of `Server.on`.

    Attributes:
        seconds: the time for which the result or the items are kept after the handler has ended.
        scope: a function ``scope(peer, *args)`` that returns a text. It gets the arguments as the handler does. Callers
            for which it returns the same text share their keys: they get each other's results. If it raises an
            `RpcError`, the call is rejected. A function ``scope(peer, *, key)`` gets the key in place of the arguments:
            who continues a stream, or sends a message, then needs no arguments. Without ``scope``, a key is private to
            the `Peer.principal` of its caller, which must be a string or an integer; to the session of a caller without
            a principal, so that it is lost with the session; and to the client, for a handler of a client.
        unread: the time in seconds after which a handler without any reader is stopped. None: it runs to its end.
        attempts: how often the handler may begin for one key. If its process ends, another process that has the handler
            begins the next attempt, whose items follow those before it; see `Context.attempt` and `Context.earlier`. If
            this is more than 1, a process that closes hands its runs over, which is no attempt.
        on_end: a function that gets each run that has ended, as an `EndedRun`: at least once, in one of the processes
            that have the handler, also if the last attempt was lost. If it raises an error, it is called again, as long
            as the run is kept.
        inbox: the type of messages for the handler while it runs, which `Stream.send` sends; see `Context.inbox`. None:
            there are none.
        may_send: a function ``may_send(peer, message)``, plain or async, that returns whether a peer may send a
            message, or raises an `RpcError`. None: who has the key may.
        last_argument: whether peers that speak plain ws-wrapper can pass a key and a position: as one more argument
            after the others, ``{"wsrpc": {"key": "answer-42", "after": 17}}``.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """

    seconds: float
    scope: Callable[..., str] | None = None
    unread: float | None = None
    attempts: int = 1
    on_end: Callable[[Any], Any] | None = None
    inbox: Any = None
    may_send: Callable[[Any, Any], bool | Awaitable[bool]] | None = None
    last_argument: bool = False

    def __post_init__(self) -> None:
        check_number("keep= is a number of seconds, 1 or more", self.seconds, 1)
        check_function("scope", self.scope)
        check_function("on_end", self.on_end)
        check_function("may_send", self.may_send)
        if self.may_send is not None and self.inbox is None:
            raise TypeError("may_send= is about the messages of inbox=: give their type, too")
        if isinstance(self.attempts, float):
            raise TypeError(f"attempts= is a whole number, got {self.attempts!r}")
        check_number("attempts= is a whole number, 1 or more", self.attempts, 1)
        if self.unread is not None:
            check_number("unread= is a number of seconds, 0 or more", self.unread, 0)
        check_flag("last_argument", self.last_argument)

    @property
    def moves(self) -> bool:
        """Whether its runs do not depend on one process."""
        return self.attempts > 1 or self.on_end is not None


class HandlerOptions(Struct, frozen=True, kw_only=True):
    """Options of a handler; see `Server.on`.

    Raises:
        TypeError: an option has a wrong type.
        ValueError: ``timeout`` is not more than 0.
    """

    thread: bool = False
    ordered: bool = False
    timeout: float | UnsetType | None = UNSET
    """UNSET: `Limits.handler_timeout` applies."""
    hidden: bool = False
    keep: Keep | None = None
    deprecated: str | None = None
    rate: Rate | None = None

    def __post_init__(self) -> None:
        check_flag("thread", self.thread)
        check_flag("ordered", self.ordered)
        check_flag("hidden", self.hidden)
        check_timeout(self.timeout, more_than_0=True)
        why: Any = self.deprecated
        if why is not None and not (isinstance(why, str) and 0 < len(why) <= LONGEST_ADVICE):
            text = f"deprecated= is a text of at most {LONGEST_ADVICE} characters that says what to use instead"
            raise (ValueError if isinstance(why, str) else TypeError)(f"{text}; got {short(why)}")


DEFAULTS = HandlerOptions()


class BlockingOnOptions(TypedDict, total=False):
    """Options of a handler that runs in a thread. `Server.on` explains them."""

    ordered: bool
    hidden: bool
    deprecated: str | None
    rate: float | Rate | None


class OnOptions(BlockingOnOptions, total=False):
    """Options of `method` and `Server.on`, which explains them."""

    thread: bool
    timeout: float | UnsetType | None
    keep: float | Keep | None


def handler_options(options: OnOptions) -> HandlerOptions:
    """Return the options of a handler.

    Raises:
        TypeError, ValueError: there is no such option, or its value is wrong.
    """
    if unknown := ", ".join(options.keys() - OnOptions.__annotations__.keys()):
        raise TypeError(f"no such option of a handler: {unknown}; there are {', '.join(OnOptions.__annotations__)}")
    chosen: dict[str, Any] = {**options}
    keep = options.get("keep")
    if keep is not None and not isinstance(keep, Keep):
        chosen["keep"] = Keep(keep)
    if (rate := options.get("rate")) is not None:
        chosen["rate"] = rate_of("rate=", rate)
    return HandlerOptions(**chosen)


class Exposed(NamedTuple):
    """The arguments of `method`."""

    name: str | None = None
    options: HandlerOptions = DEFAULTS


@overload
def method(function: F, /) -> F: ...


@overload
def method(name: str | None = None, /, **options: Unpack[OnOptions]) -> Callable[[F], F]: ...


def method(name: Any = None, /, **options: Unpack[OnOptions]) -> Any:
    """Make a method of a `Service` the handler of an event. Works as a decorator.

    The name of the event is ``name`` or, by default, the name of the method. The options are those of `Server.on`. A
    subclass that overrides the method need not decorate it again.

    On a method of a contract, ``name`` is the name of the event, and ``deprecated`` the only option. On a method that
    implements a contract, the options apply to the handler.

    Raises:
        TypeError: the decorated object is not a plain method, or an option has a wrong type.
        ValueError: ``timeout`` is not more than 0, or ``name`` is not a valid name of an event.
    """
    if name is not None and not isinstance(name, str):
        return method()(name)
    if name is not None:
        check_event(name)

    chosen = handler_options(options)

    def mark(function: F) -> F:
        decorated: Any = function
        if not inspect.isfunction(decorated):
            raise TypeError(f"@wsrpc.method decorates plain methods, which take self; got {function!r}")
        setattr(function, MARK, Exposed(name, chosen))
        return function

    return mark


def mark_of(function: object) -> Exposed | None:
    """Return the arguments of `method` for a function that it has decorated, or for a wrapper of such a function."""
    mark = getattr(function, MARK, None)
    return mark if isinstance(mark, Exposed) else None


def mark_in(cls: type[Any], attribute: str) -> Exposed | None:
    """Return the mark of a method of a class, or of the method that it overrides."""
    marks = (mark_of(vars(base).get(attribute)) for base in cls.__mro__)
    return next((mark for mark in marks if mark is not None), None)

"""Proxies and emitters: objects with the methods of a contract, which send requests and events.

Their methods are generated as source text and compiled, once for each contract, as handlers are. So a call has no loop
over parameters, and costs what the hand-written ``request`` costs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from operator import attrgetter
from typing import Any, Literal, Never, Protocol, TypeVar
from weakref import WeakKeyDictionary

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from .._base.misuse import check_flag
from .._base.names import ChannelRef, Offline, check_offline, check_timeout
from .._handlers.contract import Contract, Kind, Member, check_emitted, read_contract
from .._sending.pending import RequestOptions
from .._sending.retry import Retry, check_retry
from .._sending.sender import Sender
from .._streams.stream import Stream
from ..errors import WsrpcError, note_member

__all__ = ["make_emitter", "make_proxy", "with_options"]

T = TypeVar("T")

_channel_of: Callable[[Any], ChannelRef] = attrgetter("_channel_name")
_sender_of: Callable[[Any], Sender] = attrgetter("_sender")
"""The sender of a caller, at the moment: a channel that is closed gets another one."""


class Emitting(Protocol):
    """What events can be emitted on: a caller, a server, a room, a channel of one of them."""

    @property
    def emit(self) -> Callable[..., Any]: ...


class Calling(Protocol):
    """What a proxy calls: a caller."""

    @property
    def open_channel(self) -> Callable[..., Coroutine[Any, Any, Any]]: ...


class TypedCaller:
    """Base class of the generated classes, which have one method for each member of a contract."""

    __slots__ = ("__weakref__", "_wsrpc_caller", "_wsrpc_contract")

    _wsrpc_blocking = False
    """Whether the contract is for callers that wait in a thread, as those of `wsrpc.blocking` do."""

    def __init__(self, contract: type[Any], caller: Any) -> None:
        self._wsrpc_contract = contract
        self._wsrpc_caller = caller

    def __getattr__(self, name: str) -> Never:
        if name.startswith("_"):  # also asked of an object that has no attributes yet, by `copy`
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        contract = self._wsrpc_contract
        raise AttributeError(f"contract {contract.__qualname__} has no member {name!r}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._wsrpc_caller!r}>"

    def _wsrpc_with(self, changes: dict[str, Any]) -> TypedCaller:
        """Return one like this with other options."""
        raise NotImplementedError


class Proxy(TypedCaller):
    """Base class of proxies, whose methods send requests on the channel of a caller.

    Args:
        given: the options of all calls, from `with_options`.
    """

    __slots__ = ("_wsrpc_given", "_wsrpc_options")

    def __init__(self, contract: type[Any], caller: Calling, given: RequestOptions) -> None:
        super().__init__(contract, caller)
        self._wsrpc_given = given
        read = read_contract(contract, "proxy()")
        read.refuse_lifecycle_events(_channel_of(caller))
        self._wsrpc_options = tuple(_options_of(member, caller, given) for member in read.members)
        for name, inner in read.channels.items():
            setattr(self, name, _new_proxy(inner, _channel(read, caller, name), given, self._wsrpc_blocking))

    def _wsrpc_with(self, changes: dict[str, Any]) -> Proxy:
        given = replace(self._wsrpc_given, **changes)
        return _new_proxy(self._wsrpc_contract, self._wsrpc_caller, given, self._wsrpc_blocking)


class Emitter(TypedCaller):
    """Base class of emitters, whose methods emit events.

    Args:
        options: keyword arguments of each call of ``emit``.
        takes_offline: ``emit`` of ``caller`` takes ``offline=``, because what it sends may wait for a connection.
    """

    __slots__ = ("_wsrpc_emit", "_wsrpc_emit_nowait", "_wsrpc_takes_offline", "_wsrpc_with_options")

    def __init__(self, contract: type[Any], caller: Emitting, takes_offline: bool, options: dict[str, Any]) -> None:
        super().__init__(contract, caller)
        self._wsrpc_takes_offline = takes_offline
        self._wsrpc_with_options = options
        read = read_contract(contract, "emitter()")
        read.refuse_lifecycle_events(_channel_of(caller))
        self._wsrpc_emit = partial(caller.emit, **options) if options else caller.emit
        emit_nowait = getattr(caller, "emit_nowait", _no_emit_nowait)
        self._wsrpc_emit_nowait = partial(emit_nowait, **options) if options else emit_nowait
        for name, inner in read.channels.items():
            channel = _channel(read, caller, name)
            setattr(self, name, _new_emitter(inner, channel, takes_offline, options, self._wsrpc_blocking))

    def _wsrpc_with(self, changes: dict[str, Any]) -> Emitter:
        other = ", ".join(f"{name}=" for name in changes if name != "offline")
        if other:
            raise TypeError(f"an event has no answer, so {other} does not apply to an emitter")
        if changes and not self._wsrpc_takes_offline:
            raise TypeError(f"offline= is for clients and peers, and not for {self._wsrpc_caller!r}")
        options = {**self._wsrpc_with_options, **changes}
        caller, takes_offline = self._wsrpc_caller, self._wsrpc_takes_offline
        return _new_emitter(self._wsrpc_contract, caller, takes_offline, options, self._wsrpc_blocking)


def _no_emit_nowait(*_: object, **__: object) -> Never:
    raise TypeError("what goes through the engine waits for it: declare the event as an `async def`")


# ---------------------------------------------------------------- making them


def make_proxy(contract: Any, caller: Calling, *, blocking: bool = False) -> Any:
    """Return a proxy; see `Caller.proxy`.

    Args:
        blocking: the contract is for callers that wait in a thread. The methods of the proxy are to be awaited in the
            event loop all the same.
    """
    return _new_proxy(contract, caller, RequestOptions(), blocking)


def make_emitter(
    contract: Any, caller: Emitting, *, takes_offline: bool = False, blocking: bool = False, **options: Any
) -> Any:
    """Return an emitter; see `Caller.emitter`. ``options`` that are None are left out.

    Args:
        takes_offline: ``emit`` of ``caller`` takes ``offline=``.
        blocking: the contract is for callers that wait in a thread, and ``emit`` of ``caller`` waits.
    """
    given = {key: value for key, value in options.items() if value is not None}
    return _new_emitter(contract, caller, takes_offline, given, blocking)


def with_options(
    proxy: T,
    /,
    *,
    timeout: float | UnsetType | None = UNSET,
    retry: Retry | UnsetType | None = UNSET,
    idempotent: bool | UnsetType = UNSET,
    offline: Offline | UnsetType | None = UNSET,
) -> T:
    """Return a copy of a proxy or emitter with other options: ``await with_options(chat, timeout=2).say("hi")``.

    The options have the same meaning as for `Client.request`. Options that you leave out keep their values. ``timeout``
    also applies to streams, uploads and conversations. ``retry`` and ``idempotent`` apply only to requests. With
    ``retry``, methods of the contract that are not requests raise `TypeError` when called. An emitter takes only
    ``offline``.

    Raises:
        TypeError, ValueError: an option has the wrong type or an invalid value, or does not apply.
    """
    given: Any = proxy
    if not isinstance(given, TypedCaller):
        raise TypeError(f"with_options() takes what proxy() or emitter() has returned, got {given!r}")
    check_timeout(timeout)
    if retry is not UNSET and retry is not None:
        check_retry(retry)
    if idempotent is not UNSET:
        check_flag("idempotent", idempotent)
    if offline is not UNSET and offline is not None:
        check_offline(offline)
    options = {"timeout": timeout, "retry": retry, "idempotent": idempotent, "offline": offline}
    changes = {name: value for name, value in options.items() if value is not UNSET}
    if retry is None:
        changes.setdefault("idempotent", False)  # which says what a retry may do
    made: Any = given._wsrpc_with(changes)  # pyright: ignore[reportPrivateUsage]
    return made  # type: ignore[no-any-return]


def _new_proxy(contract: Any, caller: Calling, given: RequestOptions, blocking: bool) -> Proxy:
    if given.idempotent and given.retry is None:
        raise TypeError("idempotent= says what retry= may ask again: give retry=wsrpc.Retry(), too")
    made: type[Proxy] = _class_of(contract, "proxy()", "request_again" if given.retry else "send_request", blocking)
    return made(contract, caller, given)


def _new_emitter(
    contract: Any, caller: Emitting, takes_offline: bool, options: dict[str, Any], blocking: bool
) -> Emitter:
    made: type[Emitter] = _class_of(contract, "emitter()", "emit", blocking)
    return made(contract, caller, takes_offline, options)


def _channel(read: Contract, caller: Any, name: str) -> Any:
    if _channel_of(caller) is not None or not hasattr(caller, "of"):
        raise TypeError(f"contract {read.name}: {name!r} is a named channel, but {caller!r} has no channels")
    return caller.of(name)


def _options_of(member: Member, caller: Calling, given: RequestOptions) -> RequestOptions:
    """Return the options of the calls of one member.

    Raises:
        TypeError: its result is not a type that an answer can have.
    """
    if member.kind is Kind.CONVERSATION:
        return replace(given, member=member.shown)
    returns = UNSET if member.result is Any else member.result
    if returns is not UNSET:
        try:
            _sender_of(caller).converter(returns)
        except TypeError as exc:
            raise member.refusal(None, f"its result cannot be received: {exc}") from exc.__cause__
    return replace(given, returns=returns, member=member.shown)


# ---------------------------------------------------------------- calls that are not plain requests


def _stream(proxy: Proxy, number: int, event: str, args: tuple[Any, ...], send: Any = None) -> Stream[Any]:
    caller, options = proxy._wsrpc_caller, _without_retry(proxy, number)  # pyright: ignore[reportPrivateUsage]
    sender, channel = _sender_of(caller), _channel_of(caller)
    convert = None if options.returns is UNSET else sender.converter(options.returns)
    opening = RequestOptions(timeout=options.timeout, offline=options.offline, send=send)
    return Stream(
        event,
        convert,
        open=lambda: _named(sender.open_stream(channel, event, args, opening), options.member),
        member=options.member,
    )


async def _upload(proxy: Proxy, number: int, event: str, args: tuple[Any, ...], send: Any) -> Any:
    caller, options = proxy._wsrpc_caller, _without_retry(proxy, number)  # pyright: ignore[reportPrivateUsage]
    sending = _sender_of(caller).upload(_channel_of(caller), event, args, replace(options, send=send))
    return await _named(sending, options.member)


async def _open_channel(proxy: Proxy, number: int, event: str, args: tuple[Any, ...]) -> Any:
    caller, options = proxy._wsrpc_caller, _without_retry(proxy, number)  # pyright: ignore[reportPrivateUsage]
    opening = caller.open_channel(event, *args, timeout=options.timeout, offline=options.offline)
    return await _named(opening, options.member)


async def _named(call: Coroutine[Any, Any, T], member: str | None) -> T:
    """Await a call, and note on its errors which member of the contract it was."""
    try:
        return await call
    except WsrpcError as exc:
        note_member(exc, member)
        raise


def _without_retry(proxy: Proxy, number: int) -> RequestOptions:
    options: RequestOptions = proxy._wsrpc_options[number]  # pyright: ignore[reportPrivateUsage]
    if options.retry is not None:
        raise TypeError(
            f"{options.member} is not a request, and retry= is for requests only: what was streamed cannot be sent or "
            "read a second time. Call it on the proxy without retry="
        )
    return options


# ---------------------------------------------------------------- the generated classes

Form = Literal["send_request", "request_again", "emit"]
"""What the methods of a generated class for requests call."""

_classes: WeakKeyDictionary[type[Any], dict[tuple[Form, bool], Any]] = WeakKeyDictionary()

_OMITTED = object()
"""The default of optional parameters: what is omitted at the end is not sent."""


def _class_of(contract: Any, used_by: str, form: Form, blocking: bool) -> Any:
    read = read_contract(contract, used_by)
    made = _classes.setdefault(contract, {})
    if (form, blocking) not in made:
        made[form, blocking] = _make_class(contract.__qualname__, read, form, blocking)
    return made[form, blocking]


def _make_class(name: str, read: Contract, form: Form, blocking: bool) -> Any:
    methods: dict[str, Any] = {"__slots__": tuple(read.channels), "_wsrpc_blocking": blocking}
    for number, member in enumerate(read.members):
        if blocking and not member.blocking:
            _refuse_for_loops(member)
        methods[member.name] = _method(number, member, form, blocking)
    base, ending = (Emitter, "Emitter") if form == "emit" else (Proxy, "Proxy")
    return type(f"{name}{ending}", (base,), methods)


def _refuse_for_loops(member: Member) -> Never:
    raise member.refusal(
        None,
        "it is for an event loop, and this caller waits in a thread: the contract of a blocking client has `def`, "
        "wsrpc.blocking.Stream and wsrpc.blocking.AnonymousChannel, and Iterable for the items of an upload",
    )


def _method(number: int, member: Member, form: Form, blocking: bool) -> Callable[..., Any]:
    """Return one method of a generated class.

    Raises:
        TypeError: the member cannot be called in this way.
    """
    signature = member.call_signature
    itself = next(iter(signature.parameters))
    if form == "emit":
        call = _event(member, itself, blocking)
    else:
        call = _request(number, member, itself, form, blocking)
    lines = [
        f"def {member.name}({_parameter_list(signature.parameters.values())}):",
        *(f"    {line}" for line in _calls(member, call)),
    ]
    namespace: dict[str, Any] = {
        "_wsrpc_omitted": _OMITTED,
        "_wsrpc_unknown": partial(_unknown, member),
        "_wsrpc_stream": _stream,
        "_wsrpc_upload": _upload,
        "_wsrpc_open_channel": _open_channel,
        "_wsrpc_items": partial(_items, member),
        **{f"_wsrpc_default_{p.name}": p.default for p in member.parameters},
    }
    exec(compile("\n".join(lines), f"<wsrpc {member.shown}>", "exec"), namespace)
    made = namespace[member.name]
    made.__qualname__, made.__module__ = member.function.__qualname__, member.function.__module__
    made.__doc__ = member.function.__doc__
    made.__wrapped__ = member.function  # whose module has the names in the annotations
    made.__signature__ = signature
    return made  # type: ignore[no-any-return]


def _parameter_list(parameters: Iterable[inspect.Parameter]) -> str:
    """Return source for the parameters of a method, where an optional one has the default ``_wsrpc_omitted``."""
    shown: list[str] = []
    positional_only = named_only = False
    for p in parameters:
        if positional_only and p.kind is not p.POSITIONAL_ONLY:
            shown.append("/")
        positional_only = p.kind is p.POSITIONAL_ONLY
        if p.kind is p.KEYWORD_ONLY and not named_only:
            shown.append("*")
        named_only = named_only or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        star = "*" if p.kind is p.VAR_POSITIONAL else ""
        shown.append(f"{star}{p.name}" if p.default is p.empty else f"{p.name}=_wsrpc_omitted")
    return ", ".join([*shown, "/"] if positional_only else shown)


def _request(number: int, member: Member, itself: str, form: Form, blocking: bool) -> Callable[[str], str]:
    """Return a function from source for the arguments to source for the call."""
    caller, event = f"{itself}._wsrpc_caller", repr(member.event)
    if member.blocking and not blocking:
        raise member.refusal(
            None,
            "a plain `def` is an event or a stream: write `async def` for a request, or return wsrpc.Stream[...] for a "
            "stream. (In a contract for wsrpc.blocking.Client, a plain `def` is a request.)",
        )
    match member.kind:
        case Kind.REQUEST:
            channel, options = f"{caller}._channel_name", f"{itself}._wsrpc_options[{number}]"
            return lambda args: f"{caller}._sender.{form}({channel}, {event}, {args}, {options})"
        case Kind.STREAM:
            return lambda args: f"_wsrpc_stream({itself}, {number}, {event}, {args})"
        case Kind.CONVERSATION:
            return lambda args: f"_wsrpc_open_channel({itself}, {number}, {event}, {args})"
        case Kind.UPLOAD | Kind.EXCHANGE:
            assert member.source is not None
            function = "_wsrpc_upload" if member.kind is Kind.UPLOAD else "_wsrpc_stream"
            items = f"_wsrpc_items({member.source.name})"
            return lambda args: f"{function}({itself}, {number}, {event}, {args}, {items})"


def _event(member: Member, itself: str, blocking: bool) -> Callable[[str], str]:
    check_emitted(member)
    method = "emit_nowait" if member.blocking and not blocking else "emit"
    return lambda args: f"{itself}._wsrpc_{method}({member.event!r}, *{args})"


def _calls(member: Member, call: Callable[[str], str]) -> list[str]:
    """Return source for the body of a method: one call for each number of arguments.

    Optional parameters at the end that are omitted are not sent. One that is omitted before an argument that is given
    is sent with its default.
    """
    wire = [p for p in member.parameters if p.source == "wire"]
    rest = next((p for p in member.parameters if p.source == "rest"), None)
    always = max((number + 1 for number, p in enumerate(wire) if p.required), default=0)

    def arguments(count: int, *more: str) -> str:
        filled = [p.name if p.required else _filled(p) for p in wire[:count]]
        return f"({''.join(f'{each}, ' for each in [*filled, *more])})"

    lines: list[str] = []
    if rest is not None:
        lines += [f"if {rest.name}:", f"    return {call(arguments(len(wire), f'*{rest.name}'))}"]
    for count in range(len(wire), always, -1):
        last = wire[count - 1].name
        lines += [f"if {last} is not _wsrpc_omitted:", f"    return {call(arguments(count - 1, last))}"]
    return [*lines, f"return {call(arguments(always))}"]


def _filled(p: Any) -> str:
    """Return source for an optional argument, or its default if it is omitted."""
    default = f"_wsrpc_unknown({p.name!r})" if p.default is ... else f"_wsrpc_default_{p.name}"
    return f"({default} if {p.name} is _wsrpc_omitted else {p.name})"


def _items(member: Member, source: Any) -> Any:
    """Return what gives the items of an upload or an exchange, which elsewhere is None if there are none to send."""
    if source is None:
        raise TypeError(f"{member.shown}() takes an iterable or async iterable of the items that it sends, got None")
    return source


def _unknown(member: Member, name: str) -> Never:
    raise TypeError(
        f"{member.shown}() needs {name!r} where an argument after it is given: arguments travel by place, and the "
        "contract does not say its default"
    )

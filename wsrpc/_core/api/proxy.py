"""Proxies and emitters: objects with the methods of a contract, which send requests and events.

There is one class for each contract, whose methods are made when the contract is first used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from functools import partial
from math import inf
from operator import attrgetter
from typing import Any, Never, TypeVar, Unpack

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ..._base.misuse import check_flag
from ..._base.names import ChannelRef
from ..._base.retry import Retry, check_retry
from ..._values.caching import memoized
from ...errors import WsrpcError, add_member_note
from ..handlers.contract import Contract, Member, check_emitted, read_contract
from ..handlers.introspection import Kind, Parameter
from ..sending.sender import Sender
from ..wire.messages import NO_OPTIONS, RequestOptions
from . import calls
from .options import EventOptions, StreamOptions, changed
from .stream import Stream

T = TypeVar("T")
Made = TypeVar("Made", bound="TypedCaller")

_channel_of: Callable[[Any], ChannelRef] = attrgetter("_channel_name")
_sender_of: Callable[[Any], Sender] = attrgetter("_sender")
"""Returns the present sender of a caller. A channel gets another sender when it is closed."""
_opening_of: Callable[[Any], Callable[..., Coroutine[Any, Any, Any]]] = attrgetter("_open")
"""Returns the function of a caller that opens an anonymous channel by a request."""


class TypedCaller:
    """Base class of the classes that `typed` makes, which have one method for each member of a contract."""

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

    @classmethod
    def _wsrpc_method(cls, number: int, member: Member) -> Callable[..., Any]:
        """Return the method for the member of the contract with this ``number``.

        Raises:
            TypeError: the member cannot be called in this way.
        """
        raise NotImplementedError

    def _wsrpc_with(self, changes: dict[str, Any]) -> TypedCaller:
        """Return a copy with other options."""
        raise NotImplementedError


class Proxy(TypedCaller):
    """Base class of proxies, whose methods send requests on the channel of a caller.

    Args:
        common: the options of all calls, from `with_options`.
    """

    __slots__ = ("_wsrpc_common", "_wsrpc_options")

    def __init__(self, contract: type[Any], caller: Any, common: RequestOptions) -> None:
        if common.idempotent and common.retry is None:
            raise TypeError("idempotent= says what retry= may ask again: give retry=wsrpc.Retry(), too")
        super().__init__(contract, caller)
        self._wsrpc_common = common
        read = read_contract(contract, "proxy()")
        read.refuse_lifecycle_events(_channel_of(caller))
        self._wsrpc_options = tuple(_options_of(member, caller, common) for member in read.members)
        for name, inner in read.channels.items():
            setattr(self, name, self._wsrpc_new(inner, _channel(read, caller, name), common))

    @classmethod
    def _wsrpc_method(cls, number: int, member: Member) -> Callable[..., Any]:
        if member.blocking and not cls._wsrpc_blocking:
            raise member.refusal(
                None,
                "a plain `def` is an event or a stream: write `async def` for a request, or return wsrpc.Stream[...] "
                "for a stream. (In a contract for wsrpc.blocking.Client, a plain `def` is a request.)",
            )
        arranged, call = _arranging(member), _CALLS[member.kind]

        def called(self: Proxy, /, *args: Any, **named: Any) -> Any:
            values, items = arranged(self, args, named)
            send = None if member.source is None else self._wsrpc_source(items)
            return call(self._wsrpc_caller, member.event, values, self._wsrpc_options[number], send)

        return called

    def _wsrpc_new(self, contract: type[Any], caller: Any, common: RequestOptions) -> Proxy:
        return typed(Proxy, contract, caller, common)

    def _wsrpc_source(self, items: Any) -> Any:
        """Return ``send=`` for the items that the user has passed."""
        return items

    def _wsrpc_with(self, changes: dict[str, Any]) -> Proxy:
        own = {name: changes.pop(name) for name in ("retry", "idempotent") if name in changes}
        common = changed(replace(self._wsrpc_common, **own), changes, StreamOptions, with_options)
        return self._wsrpc_new(self._wsrpc_contract, self._wsrpc_caller, common)


class Emitter(TypedCaller):
    """Base class of emitters, whose methods emit events.

    Args:
        accepts_offline: ``emit`` of ``caller`` takes ``offline=``, because its events may wait for a connection.
        options: keyword arguments of each call of ``emit``.
    """

    __slots__ = ("_wsrpc_accepts_offline", "_wsrpc_emit", "_wsrpc_emit_nowait", "_wsrpc_options")

    def __init__(self, contract: type[Any], caller: Any, accepts_offline: bool, options: dict[str, Any]) -> None:
        super().__init__(contract, caller)
        self._wsrpc_accepts_offline = accepts_offline
        self._wsrpc_options = options
        read = read_contract(contract, "emitter()")
        read.refuse_lifecycle_events(_channel_of(caller))
        self._wsrpc_emit = partial(caller.emit, **options)
        self._wsrpc_emit_nowait = partial(getattr(caller, "emit_nowait", _no_emit_nowait), **options)
        for name, inner in read.channels.items():
            setattr(self, name, self._wsrpc_new(inner, _channel(read, caller, name), options))

    @classmethod
    def _wsrpc_method(cls, number: int, member: Member) -> Callable[..., Any]:
        check_emitted(member)
        arranged = _arranging(member)
        at_once = member.blocking and not cls._wsrpc_blocking

        def called(self: Emitter, /, *args: Any, **named: Any) -> Any:
            values, _ = arranged(self, args, named)
            return (self._wsrpc_emit_nowait if at_once else self._wsrpc_emit)(member.event, *values)

        return called

    def _wsrpc_new(self, contract: type[Any], caller: Any, options: dict[str, Any]) -> Emitter:
        base = BlockingEmitter if self._wsrpc_blocking else Emitter
        return typed(base, contract, caller, self._wsrpc_accepts_offline, options)

    def _wsrpc_with(self, changes: dict[str, Any]) -> Emitter:
        other = ", ".join(f"{name}=" for name in changes if name not in EventOptions.__annotations__)
        if other:
            raise TypeError(f"an event has no response, so {other} does not apply to an emitter")
        if "offline" in changes and not self._wsrpc_accepts_offline:
            raise TypeError(f"offline= is for clients and peers, and not for {self._wsrpc_caller!r}")
        changed(NO_OPTIONS, changes, EventOptions, with_options)  # raises if a value is wrong
        return self._wsrpc_new(self._wsrpc_contract, self._wsrpc_caller, {**self._wsrpc_options, **changes})


class BlockingEmitter(Emitter):
    """Base class of emitters for contracts of callers that wait in a thread."""

    __slots__ = ()

    _wsrpc_blocking = True


def _no_emit_nowait(*_: object, **__: object) -> Never:
    raise TypeError("what goes through the engine waits for it: declare the event as an `async def`")


# ---------------------------------------------------------------- making them


def make_proxy(contract: Any, caller: Any) -> Any:
    """Return a proxy; see `Caller.proxy`."""
    return typed(Proxy, contract, caller, RequestOptions())


def make_emitter(
    contract: Any, caller: Any, *, accepts_offline: bool = False, blocking: bool = False, **options: Any
) -> Any:
    """Return an emitter; see `Caller.emitter`. ``options`` that are None are left out.

    Args:
        accepts_offline: ``emit`` of ``caller`` takes ``offline=``.
        blocking: the contract is for callers that wait in a thread, and ``emit`` of ``caller`` waits.
    """
    chosen = {key: value for key, value in options.items() if value is not None}
    return typed(BlockingEmitter if blocking else Emitter, contract, caller, accepts_offline, chosen)


def with_options(
    proxy: T,
    /,
    *,
    retry: Retry | UnsetType | None = UNSET,
    idempotent: bool | UnsetType = UNSET,
    **options: Unpack[StreamOptions],
) -> T:
    """Return a copy of a proxy or emitter with other options: ``await with_options(chat, timeout=2).say("hi")``.

    The options have the same meaning as for `Client.request`. Options that you leave out keep their values. ``timeout``
    also applies to streams, uploads and conversations. ``retry`` and ``idempotent`` apply only to requests. With
    ``retry``, methods of the contract that are not requests raise `TypeError` when called. An emitter takes only
    ``offline`` and ``metadata``.

    Raises:
        TypeError, ValueError: an option has the wrong type or an invalid value, or does not apply.
    """
    typed_caller: Any = proxy
    if not isinstance(typed_caller, TypedCaller):
        raise TypeError(f"with_options() takes what proxy() or emitter() has returned, got {typed_caller!r}")
    changes: dict[str, Any] = {**options}
    if retry is not UNSET and retry is not None:
        check_retry(retry)
    if idempotent is not UNSET:
        check_flag("idempotent", idempotent)
    more = {"retry": retry, "idempotent": idempotent}
    changes |= {name: value for name, value in more.items() if value is not UNSET}
    if retry is None:
        changes.setdefault("idempotent", False)  # which says what a retry may do
    made: Any = typed_caller._wsrpc_with(changes)  # pyright: ignore[reportPrivateUsage]
    return made  # type: ignore[no-any-return]


def _channel(read: Contract, caller: Any, name: str) -> Any:
    if _channel_of(caller) is not None or not hasattr(caller, "of"):
        raise TypeError(f"contract {read.name}: {name!r} is a named channel, but {caller!r} has no channels")
    return caller.of(name)


def _options_of(member: Member, caller: Any, common: RequestOptions) -> RequestOptions:
    """Return the options of the calls of one member.

    Raises:
        TypeError: its result is not a type that a response can have.
    """
    if member.kind is Kind.CONVERSATION:
        return replace(common, wants_channel=True, member=member.shown)
    returns = UNSET if member.result is Any else member.result
    if returns is not UNSET:
        try:
            _sender_of(caller).converter(returns)
        except TypeError as exc:
            raise member.refusal(None, f"its result cannot be received: {exc}") from exc.__cause__
    return replace(common, returns=returns, member=member.shown)


# ---------------------------------------------------------------- calls of a proxy


def _request(caller: Any, event: str, args: tuple[Any, ...], options: RequestOptions, _: Any) -> Any:
    return calls.request(_sender_of(caller), (_channel_of(caller), event, args), options)


def _stream(caller: Any, event: str, args: tuple[Any, ...], options: RequestOptions, send: Any) -> Stream[Any]:
    _refuse_retry(options)
    sender, channel = _sender_of(caller), _channel_of(caller)
    convert = None if options.returns is UNSET else sender.converter(options.returns)
    opening = replace(options, send=send)
    return Stream(
        event,
        convert,
        open=lambda: _named(calls.open_stream(sender, (channel, event, args), opening), options.member),
        member=options.member,
        context=options.context,
        send_message=partial(calls.send_message, sender, (channel, event, args), options),
    )


async def _upload(caller: Any, event: str, args: tuple[Any, ...], options: RequestOptions, send: Any) -> Any:
    _refuse_retry(options)
    sending = calls.request(_sender_of(caller), (_channel_of(caller), event, args), replace(options, send=send))
    return await _named(sending, options.member)


async def _open_channel(caller: Any, event: str, args: tuple[Any, ...], options: RequestOptions, _: Any) -> Any:
    _refuse_retry(options)
    return await _opening_of(caller)(event, args, options)


_CALLS: dict[Kind, Callable[..., Any]] = {
    Kind.REQUEST: _request,
    Kind.STREAM: _stream,
    Kind.EXCHANGE: _stream,
    Kind.UPLOAD: _upload,
    Kind.CONVERSATION: _open_channel,
}


async def _named(call: Coroutine[Any, Any, T], member: str | None) -> T:
    """Await a call, and add the member of the contract to its errors."""
    try:
        return await call
    except WsrpcError as exc:
        add_member_note(exc, member)
        raise


def _refuse_retry(options: RequestOptions) -> None:
    if options.retry is not None:
        raise TypeError(
            f"{options.member} is not a request, and retry= is for requests only: what was streamed cannot be sent or "
            "read a second time. Call it on the proxy without retry="
        )


# ---------------------------------------------------------------- the classes


def typed(base: type[Made], contract: Any, caller: Any, *args: Any) -> Made:
    """Return an object with the methods of a contract. Its class derives from ``base``.

    Args:
        args: further arguments of ``base``.

    Raises:
        TypeError: the contract cannot work; the text names the member.
    """
    read_contract(contract, "emitter()" if issubclass(base, Emitter) else "proxy()")
    found: type[Made] = _class_for(base, contract)
    return found(contract, caller, *args)


@memoized  # in a cache with a bound, as contracts may be made at run time
def _class_for(base: type[TypedCaller], contract: Any) -> Any:
    read = read_contract(contract, "proxy()")
    methods: dict[str, Any] = {"__slots__": tuple(read.channels)}
    for number, member in enumerate(read.members):
        if base._wsrpc_blocking and not member.blocking:  # pyright: ignore[reportPrivateUsage]
            raise member.refusal(
                None,
                "it is for an event loop, and this caller waits in a thread: the contract of a blocking client has "
                "`def`, wsrpc.blocking.Stream and wsrpc.blocking.AnonymousChannel, and Iterable for the items of an "
                "upload",
            )
        made = base._wsrpc_method(number, member)  # pyright: ignore[reportPrivateUsage]
        functools.update_wrapper(made, member.function, updated=())
        made.__signature__ = member.call_signature  # type: ignore[attr-defined]
        methods[member.name] = made
    return type(f"{contract.__qualname__}{'Emitter' if issubclass(base, Emitter) else 'Proxy'}", (base,), methods)


# ---------------------------------------------------------------- the arguments of a call

Arranged = Callable[[TypedCaller, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], Any]]
"""Returns the arguments of a call in the order in which they travel, and the items of an upload."""


def _arranging(member: Member) -> Arranged:
    """Return the function that arranges the arguments of a member's calls.

    Optional arguments at the end that are omitted are not sent. One that is omitted before an argument that is given is
    sent with its default.
    """
    signature = member.call_signature
    wire = [p for p in member.parameters if p.source == "wire"]
    rest = next((p.name for p in member.parameters if p.source == "rest"), None)
    least = sum(p.required for p in wire)
    most = inf if rest is not None else sum(not p.keyword for p in wire)
    if member.source is not None or any(p.keyword and p.required for p in wire):
        most = -1  # not all arguments can be given by place alone

    def arranged(proxy: TypedCaller, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        if not named and least <= len(args) <= most:
            return args, None
        try:
            arguments = signature.bind(proxy, *args, **named).arguments
        except TypeError as exc:
            raise TypeError(f"{member.shown}(): {exc}") from None
        values: list[Any] = []
        omitted: list[Parameter] = []
        for p in wire:
            if p.name in arguments:
                values += [*(_default(member, each) for each in omitted), arguments[p.name]]
                omitted.clear()
            else:
                omitted.append(p)
        if rest is not None:
            values += arguments.get(rest, ())
        items = None if member.source is None else arguments[member.source.name]
        if member.source is not None and items is None:  # elsewhere None stands for nothing to send
            raise TypeError(
                f"{member.shown}() takes an iterable or async iterable of the items that it sends, got None"
            )
        return tuple(values), items

    return arranged


def _default(member: Member, p: Parameter) -> Any:
    if p.default is ...:
        raise TypeError(
            f"{member.shown}() needs {p.name!r} where an argument after it is given: arguments travel by place, and "
            "the contract does not say its default"
        )
    return p.default

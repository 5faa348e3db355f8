"""Contracts: a `typing.Protocol` read as events. Each event has a kind, parameters and a result.

Proxies, emitters, implementations and declarations are all made from the result of `read_contract`.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from ..._base.names import RESERVED_EVENTS, ChannelRef
from ..._values.caching import memoized
from .introspection import (
    Facts,
    Kind,
    Parameter,
    Result,
    annotations_of,
    channel_parameters,
    read_annotation,
    read_signature,
    result_of,
    signature_of,
)
from .method import Exposed, HandlerOptions, mark_of


@dataclass(frozen=True)
class Conversation:
    """Contracts of the events of a conversation, as in ``channel: Annotated[AnonymousChannel, Conversation(Asks)]``.

    Descriptions, `wsrpc diff` and generated TypeScript contain these events. As with `Server.declare`, nothing else
    changes at run time. A handler without a parameter for the channel annotates its result.

    Attributes:
        handles: the contract of the events and requests that the caller sends.
        emits: the contract of those that the handler sends. A method that returns None stands for an event.

    Raises:
        TypeError: a contract cannot work. The text names the member.
    """

    handles: type[Any] | None = None
    emits: type[Any] | None = None

    def __post_init__(self) -> None:
        self.members()

    def members(self) -> tuple[list[Member], list[Member]]:
        """Return the members of ``handles`` and ``emits``."""
        sides = ((self.handles, True), (self.emits, False))
        handles, emits = (placed_members(each, 0, requests=asked) if each else [] for each, asked in sides)
        return [member for _, member in handles], [member for _, member in emits]


class Member(NamedTuple):
    """One event of a contract."""

    name: str
    """The name of the method."""
    event: str
    """The name of the event: the argument of `method`, or by default the name of the method."""
    kind: Kind
    parameters: tuple[Parameter, ...]
    """The parameters that are sent as arguments, in their order."""
    source: Parameter | None
    """The parameter with the items of an upload or an exchange."""
    result: Any
    """The type of the answer, or of each item of a stream. None for a conversation."""
    signature: Facts
    function: Callable[..., Any]
    """The method in the contract."""
    deprecated: str | None
    """What callers should use instead. None if the event is not deprecated."""
    blocking: bool
    """Whether the caller waits in a thread: the method is a plain function, and its items and channel are for threads.
    In an event loop, such a method of an emitter sends its event without waiting."""

    @property
    def shown(self) -> str:
        """The name of the member in error texts, such as ``Chat.say``."""
        return self.function.__qualname__

    @property
    def call_signature(self) -> inspect.Signature:
        """The signature of the method, without parameters that a caller does not pass, such as a channel."""
        signature = signature_of(self.function)
        itself, *others = signature.parameters.values()
        names = {p.name for p in (*self.parameters, self.source) if p is not None}
        return signature.replace(parameters=[itself, *(p for p in others if p.name in names)])

    def refusal(self, parameter: str | None, text: str) -> TypeError:
        """Return the error for a member that cannot work."""
        return self.signature.refusal(parameter, text)


class Contract(NamedTuple):
    """The events and the channels of a contract."""

    name: str
    """Module and qualified name."""
    members: tuple[Member, ...]
    channels: dict[str, type[Any]]
    """The contracts of named channels, by name: attributes that are annotated with another contract."""

    def refuse_lifecycle_events(self, channel: ChannelRef) -> None:
        """Refuse a contract that has a lifecycle event on the main channel, where such an event is never sent.

        Raises:
            TypeError: the contract has such an event. The text names the member.
        """
        if channel is None:
            for member in self.members:
                if member.event in RESERVED_EVENTS:
                    text = f"{member.event!r} is a lifecycle event on the main channel, and never sent: use a channel"
                    raise member.refusal(None, text)


def read_contract(contract: Any, used_by: str) -> Contract:
    """Return the events of a contract. ``used_by`` is the public method that gets the contract, for error texts.

    Raises:
        TypeError: ``contract`` is not a Protocol, or one of its members cannot work. The text names the member.
    """
    if not is_contract(contract):
        base = next((base for base in getattr(contract, "__mro__", ()) if is_contract(base)), None)
        if base is not None:
            name = contract.__qualname__
            raise TypeError(
                f"{used_by} takes a contract: {name} derives from {base.__qualname__}, but is not a contract itself; "
                f"write `class {name}({base.__qualname__}, Protocol)`"
            )
        raise TypeError(
            f"{used_by} takes a contract, which is a class that derives from typing.Protocol itself; got {contract!r}"
        )
    return _read_members(contract)


def is_contract(value: Any) -> bool:
    """Return whether ``value`` is a class that derives directly from `typing.Protocol`."""
    return isinstance(value, type) and bool(getattr(value, "_is_protocol", False))


@memoized  # in a cache of limited size, because contracts may be made at run time
def _read_members(contract: type[Any]) -> Contract:
    name = f"{contract.__module__}.{contract.__qualname__}"
    if getattr(contract, "__parameters__", ()):
        raise TypeError(f"contract {name} is generic, but a contract says which types travel: write its types out")
    members: dict[str, Member] = {}
    channels: dict[str, type[Any]] = {}
    for base in reversed([base for base in contract.__mro__ if is_contract(base)]):
        for attribute, value in _attributes(base):
            members.pop(attribute, None)
            channels.pop(attribute, None)
            if isinstance(value, types.FunctionType):
                if value.__name__ == "_overload_dummy":
                    raise TypeError(f"contract {name}: {attribute!r} is overloaded, but an event has one signature")
                members[attribute] = _member(attribute, value)
            else:
                channels[attribute] = _channel(name, attribute, value, base)
    _refuse_double(name, members)
    return Contract(name, tuple(members.values()), channels)


def _attributes(base: type[Any]) -> list[tuple[str, Any]]:
    """Return the declarations of one class of a contract: functions, other attributes, and annotations.

    Raises:
        TypeError: a name starts with an underscore.
    """
    declared = {**annotations_of(base), **vars(base)}
    found = [(name, value) for name, value in declared.items() if name not in _OWN and not _is_dunder(name)]
    for name, value in declared.items():
        # Python adds functions of its own to the class, for example `__init__`.
        if _is_dunder(name) and isinstance(value, types.FunctionType) and value.__module__ == base.__module__:
            raise TypeError(
                f"contract {base.__module__}.{base.__qualname__}: {name} is a method of Python's own and not an event; "
                f'an event of that name can be declared as @wsrpc.method("{name}")'
            )
    for name, _ in found:
        if name.startswith("_"):
            raise TypeError(
                f"contract {base.__module__}.{base.__qualname__}: {name!r} begins with an underscore, and a contract "
                f'has no private members; an event of that name can be declared as @wsrpc.method("{name}")'
            )
    return found


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class _Bare(typing.Protocol): ...


_OWN = frozenset(vars(_Bare)) | {"_is_runtime_protocol", "__protocol_attrs__"}
"""Attributes that Python itself adds to a Protocol."""


def _channel(contract: str, attribute: str, value: Any, base: type[Any]) -> type[Any]:
    annotation = signature_of(value.fget).return_annotation if isinstance(value, property) and value.fget else value
    try:
        wanted = read_annotation(annotation, base)
    except Exception as exc:  # anything that evaluating an annotation raises
        raise TypeError(f"contract {contract}: the annotation of {attribute!r} cannot be resolved: {exc}") from exc
    if not is_contract(wanted):
        raise TypeError(
            f"contract {contract}: a contract has methods, and channels, which are attributes that are annotated with "
            f"another contract; {attribute!r} is {wanted!r}"
        )
    if _has_channels(wanted):
        raise TypeError(
            f"contract {contract}: the contract of channel {attribute!r}, {wanted.__qualname__}, has channels of its "
            "own, but channels are names on one connection, and have no channels"
        )
    read_contract(wanted, contract)
    made: type[Any] = wanted
    return made


def _has_channels(contract: type[Any]) -> bool:
    """Return whether a contract has attributes that are not methods.

    This function does not call `read_contract`, because a contract may have itself as a channel.
    """
    bases = [base for base in contract.__mro__ if is_contract(base)]
    return any(not isinstance(value, types.FunctionType) for base in bases for _, value in _attributes(base))


def _refuse_double(contract: str, members: dict[str, Member]) -> None:
    events: dict[str, str] = {}
    for member in members.values():
        if member.event in events:
            raise TypeError(
                f"contract {contract}: {events[member.event]!r} and {member.name!r} are both for {member.event!r}"
            )
        events[member.event] = member.name


def _member(attribute: str, function: Any) -> Member:
    read = read_signature(function, "contract")
    mark = mark_of(function) or Exposed()
    deprecated = mark.options.deprecated
    if mark.options != HandlerOptions(deprecated=deprecated):
        text = "only the name and deprecated= belong here; other options belong to the method that implements it"
        raise read.refusal(None, text)
    first, *others = read.parameters or (None,)
    if first is None or first.source != "wire" or first.keyword:
        raise read.refusal(None, "a method of a contract takes self first")
    read = read._replace(parameters=tuple(others))
    _refuse_parameters(read, function)
    try:
        result = result_of(function)
    except TypeError as exc:
        text = f"{exc}: define it at module level, and import it outside `if TYPE_CHECKING:`"
        raise read.refusal(None, text) from exc.__cause__
    waits = read.is_coroutine or result.awaited
    blocks = {*_blocks(read, result)}
    if not waits and False not in blocks:
        read = read._replace(parameters=tuple(map(_as_source, others)))
    source = next((p for p in read.parameters if p.source == "stream"), None)
    kind = _kind(read, result, waits=waits, blocks=blocks)
    blocking = not waits and False not in blocks
    declared = None if kind is Kind.CONVERSATION else result.type
    if _has_type_variable(declared):
        raise read.refusal(None, "its result has a type variable, but a contract says which types travel")
    parameters = tuple(p for p in read.parameters if p.source in ("wire", "rest"))
    event = mark.name or attribute
    return Member(attribute, event, kind, parameters, source, declared, read, function, deprecated, blocking)


def _refuse_parameters(read: Facts, function: Any) -> None:
    """Refuse parameters that a caller cannot pass."""
    for param in signature_of(function).parameters.values():
        if param.kind is param.VAR_KEYWORD:
            raise read.refusal(param.name, "arguments travel by place, so **kwargs would never arrive: name them")
        known = next((p for p in read.parameters if p.name == param.name), None)
        if known is None and param.kind is param.KEYWORD_ONLY:
            raise read.refusal(param.name, "it follows *args, which takes all further arguments, so it has no place")
        if known is not None and known.source == "stream" and param.default is not param.empty:
            raise read.refusal(param.name, "the items that the caller sends are never missing: leave out its default")
    for p in read.parameters:
        if p.injection is not None and not p.injection.conversation:
            raise read.refusal(
                p.name, "the side that handles the call gets it, no caller gives it: leave it to the implementation"
            )
        if _has_type_variable(p.type):
            raise read.refusal(p.name, "its type has a type variable, but a contract says which types travel")


def _as_source(p: Parameter) -> Parameter:
    """Return a parameter of a plain function. An iterable parameter has the items of an upload."""
    if p.source != "wire" or not p.required or (typing.get_origin(p.type) or p.type) not in (Iterable, Iterator):
        return p
    item, *_ = (*typing.get_args(p.type), Any)
    return p._replace(source="stream", type=item)


def _kind(read: Facts, result: Result, *, waits: bool, blocks: set[bool]) -> Kind:
    """Return the kind of a member.

    Args:
        waits: whether the caller awaits the member.
        blocks: the values of `_blocks`.
    """
    talking, reads = channel_parameters(read)
    talks = bool(talking) or result.kind is Kind.CONVERSATION
    if len(blocks) > 1:
        raise read.refusal(
            None,
            "part of it is for an event loop and part of it for threads: take all of wsrpc, or all of wsrpc.blocking",
        )
    if result.kind is Kind.STREAM:
        if result.origin is AsyncGenerator:
            raise read.refusal(None, "a stream can only be read: declare wsrpc.Stream[...] as its result")
        if waits:
            raise read.refusal(None, "a stream is opened when it is entered or read: declare it as a plain `def`")
        return Kind.EXCHANGE if reads else Kind.STREAM
    if talks and reads:
        raise read.refusal(None, "one request opens one channel: it is a conversation or an upload, not both")
    if False in blocks and not waits:
        raise read.refusal(None, "a call that is awaited is declared as an `async def`")
    if True in blocks and waits:
        raise read.refusal(None, "a call that opens a channel for threads is declared as a plain `def`")
    if talks:
        return Kind.CONVERSATION
    return Kind.UPLOAD if reads else Kind.REQUEST


def _blocks(read: Facts, result: Result) -> Iterator[bool]:
    """Yield for the channel, the items and the stream of a member whether they are for threads."""
    for p in read.parameters:
        if p.source == "stream":
            yield False
        elif p.injection is not None and p.injection.conversation:
            yield p.injection.blocking
    if result.kind is not Kind.REQUEST:
        yield result.blocking


def _has_type_variable(tp: Any) -> bool:
    return isinstance(tp, TypeVar) or any(map(_has_type_variable, typing.get_args(tp)))


# ---------------------------------------------------------------- contracts of events


def check_emitted(member: Member) -> None:
    """Refuse a member that cannot be emitted as an event.

    Raises:
        TypeError: the member has an answer, or opens a channel.
    """
    if not _is_event(member):
        text = "an event has no response, and opens no channel: declare None as its result"
        if member.kind is Kind.UPLOAD and member.blocking:
            text = f"{member.source and member.source.name!r} gives the items of an upload: an event takes a list"
        raise member.refusal(None, text)


def _is_event(member: Member) -> bool:
    """Return whether an emitter takes a member."""
    return member.kind is Kind.REQUEST and member.result in (type(None), Any)


def placed_members(contract: Any, channel: ChannelRef, *, requests: bool) -> list[tuple[ChannelRef, Member]]:
    """Return the members of a contract with their channels. Members of the contract itself are on ``channel``.

    Members that an emitter takes are events, unless ``requests`` is true.

    Raises:
        TypeError: the contract cannot work. The text names the member.
    """
    read = read_contract(contract, "declare()")
    if read.channels and channel is not None:
        names = ", ".join(read.channels)
        raise TypeError(f"contract {read.name} has channels ({names}), so it is declared on the main channel")
    read.refuse_lifecycle_events(channel)
    found = [(channel, member) for member in read.members]
    for name, inner in read.channels.items():
        found += [(name, member) for member in read_contract(inner, read.name).members]
    return [
        (at, member if requests or not _is_event(member) else member._replace(kind=Kind.EVENT)) for at, member in found
    ]

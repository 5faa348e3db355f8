"""Implementations of contracts: whether the methods of an object do what a contract declares, and as which handlers.

The types of parameters and results are compared as they travel: a parameter may be wider than in the contract, and a
result narrower. Arguments have to fit both types: the contract's, and then the implementation's, to which they are
converted.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from datetime import date, datetime
from typing import Annotated, Any, Literal, NamedTuple

from .._base.names import ChannelRef
from .._conversion.convert import type_name
from .._conversion.survey import UNIONS, unwrapped
from .contract import Contract, Kind, Member, read_contract
from .introspection import Facts, Parameter, Role, by_place, introspect, location, result_of, signature_of
from .method import Exposed, mark_in, mark_of


class Method(NamedTuple):
    """A method of a class that is a handler."""

    mark: Exposed
    function: Callable[..., Any]
    member: Member | None = None
    """The member of a contract that it implements."""


Methods = dict[str, Method]
"""Methods of a class that are handlers, by event."""


def implementing(contract: Any, implementation: object, channel: ChannelRef) -> list[tuple[ChannelRef, Member, Method]]:
    """Return the handlers that ``implementation`` has for the events of a contract, which are on ``channel``.

    Raises:
        TypeError: a member is missing or has another signature; the text names both signatures.
    """
    read = read_contract(contract, "implement()")
    if read.channels and channel is not None:
        names = ", ".join(read.channels)
        raise TypeError(f"contract {read.name} has channels ({names}), so it is implemented on the main channel")
    found = [(channel, *each) for each in _methods(read, implementation, channel)]
    for name, inner in read.channels.items():
        part = getattr(implementation, name)
        found += [(name, *each) for each in _methods(read_contract(inner, read.name), part, name)]
    return found


def methods_of(cls: type[Any], contract: Any, channel: ChannelRef) -> Methods:
    """Return the methods by which objects of a class implement a contract, by event.

    Raises:
        TypeError: as for `implementing`.
    """
    read = read_contract(contract, "implements=")
    if read.channels:
        raise TypeError(f"contract {read.name} has channels ({', '.join(read.channels)}), and a service has one")
    return {member.event: method for member, method in _methods(read, cls, channel, is_service=True)}


def _methods(
    read: Contract, owner: Any, channel: ChannelRef, *, is_service: bool = False
) -> Iterator[tuple[Member, Method]]:
    """Yield the methods that implement a contract. ``owner`` has them: an object, or the class of a service."""
    cls: Any = owner if is_service else owner.__class__
    if isinstance(owner, type) and not is_service:
        raise TypeError(
            f"implement() takes an object that has the methods of {read.name}: {owner.__qualname__}(), not the class. "
            "(A Service is added with add_service(..., implements=...).)"
        )
    read.refuse_lifecycle_events(channel)
    _refuse_missing(read, owner, cls.__qualname__)
    for member in read.members:
        function = inspect.getattr_static(owner, member.name) if is_service else getattr(owner, member.name)
        name = f"{cls.__qualname__}.{member.name} implements {member.shown}"
        if is_service and not inspect.isfunction(function):
            raise TypeError(f"{name}, and is a {type(function).__name__}: a service implements with plain methods")
        if not callable(function):
            raise TypeError(f"{name}, and is not a function: it is {function!r}")
        _check(member, function, is_method=is_service)
        yield member, Method(_mark(member, function, cls), function, member)


def _refuse_missing(read: Contract, implementation: object, name: str) -> None:
    missing = [member.name for member in read.members if _is_missing(member, implementation)]
    missing += [channel for channel in read.channels if not hasattr(implementation, channel)]
    if missing:
        raise TypeError(f"{name} does not implement {read.name}: it has no {', '.join(missing)}")


def _is_missing(member: Member, implementation: object) -> bool:
    """Return whether an object, or a class, has no method for a member, or only the one of the contract itself."""
    found = getattr(implementation, member.name, _MISSING)
    return found is _MISSING or getattr(found, "__func__", found) is member.function


_MISSING = object()


def _mark(member: Member, function: object, cls: type[Any]) -> Exposed:
    mark = mark_of(function) or mark_in(cls, member.name) or Exposed()
    if mark.name not in (None, member.event):
        raise TypeError(
            f"{_signature(function)} implements {member.shown}, so its event is {member.event!r}, and "
            f"@wsrpc.method names it {mark.name!r}"
        )
    return mark


def _check(member: Member, function: Any, *, is_method: bool = False) -> None:
    """Check that a function does what a member of a contract declares.

    Raises:
        TypeError: it does not; the text names both signatures.
    """
    facts = introspect(function)
    if is_method:
        facts = facts._replace(parameters=facts.parameters[1:])
    why = _difference(member, facts, function)
    if why is not None:
        declared = f"{_signature(member.function)} ({location(member.function)})"
        raise TypeError(f"{_signature(function)} ({facts.where}) does not implement {declared}: {why}")


class _Bare(str):
    """An annotation that is text, to be shown without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _signature(function: Any) -> str:
    def bare(annotation: Any) -> Any:
        return _Bare(annotation) if isinstance(annotation, str) else annotation

    given = signature_of(function)
    parameters = [p.replace(annotation=bare(p.annotation)) for p in given.parameters.values()]
    shown = given.replace(parameters=parameters, return_annotation=bare(given.return_annotation))
    return f"{getattr(function, '__qualname__', repr(function))}{shown}"


def completed(facts: Facts, function: Callable[..., Any], member: Member) -> tuple[Facts, tuple[Any, ...]]:
    """Return facts in which the parameters from the wire are those that the contract declares, and its types of them.

    A parameter without an annotation has the type that the contract declares. One that the contract does not have gets
    no value, so that no caller can set it. ``*args`` takes the place of those that only the contract names. The types
    have an item for each parameter of the facts.
    """
    given = signature_of(function).parameters
    wanted = [p for p in member.parameters if p.source == "wire"]
    parameters: list[Parameter] = []
    declared: list[Any] = []

    def add(p: Parameter, typed: bool, tp: Any) -> None:
        parameters.append(p if typed else p._replace(type=tp))
        declared.append(tp)

    for p in facts.parameters:
        typed = p.source in ("wire", "rest") and given[p.name].annotation is not inspect.Parameter.empty
        if p.source == "wire":
            if wanted:
                add(p, typed, wanted.pop(0).type)
        elif p.source == "rest":
            for q in wanted:
                add(q._replace(type=p.type, keyword=False), typed, q.type)
            rest = next((q.type for q in member.parameters if q.source == "rest"), None)
            if rest is not None:
                add(p, typed, rest)
            wanted = []
        else:
            add(p, True, member.source.type if p.source == "stream" and member.source is not None else Any)
    return facts._replace(parameters=tuple(parameters)), tuple(declared)


# ---------------------------------------------------------------- signatures


_KINDS = {Role.UPLOAD: Kind.UPLOAD, Role.EXCHANGE: Kind.EXCHANGE, Role.CONVERSATION: Kind.CONVERSATION}


def _difference(member: Member, facts: Facts, function: Any) -> str | None:
    """Say what a function does otherwise than a member of a contract declares; None if nothing."""
    try:
        result = result_of(function)
    except TypeError as exc:
        raise TypeError(f"{_signature(function)} ({facts.where}): {exc}") from exc.__cause__
    if facts.role is Role.RESULT:
        is_stream = facts.is_generator or result.kind == "stream"
        kind = Kind.STREAM if is_stream else Kind.CONVERSATION if result.kind == "channel" else Kind.REQUEST
    else:
        kind = _KINDS[facts.role]
    says_nothing = kind is Kind.REQUEST and result.type is Any and member.kind in (Kind.STREAM, Kind.CONVERSATION)
    if kind is not member.kind and not says_nothing:
        return f"the contract declares {member.kind.value}, and this is {kind.value}"
    return (
        _other_parameters(by_place(member.parameters), facts.parameters)
        or _other_items(member, facts)
        or _other_result(member, result.type, says_nothing=says_nothing)
    )


def _other_parameters(declared: tuple[Parameter, ...], own: tuple[Parameter, ...]) -> str | None:
    wire = [p for p in own if p.source == "wire"]
    rest = next((p for p in own if p.source == "rest"), None)
    wanted = [p for p in declared if p.source == "wire"]
    wanted_rest = next((p for p in declared if p.source == "rest"), None)
    places = {p.name: number for number, p in enumerate(wire)}
    if (more := next((p for p in wire[len(wanted) :] if p.required), None)) is not None:
        return f"it requires {more.name!r}, which the contract does not have"
    for number, p in enumerate(wanted):
        q = wire[number] if number < len(wire) else rest
        if q is None:
            return f"it has no parameter for {p.name!r}"
        if places.get(p.name, number) != number:
            return f"parameter {p.name!r} is in another place, and arguments travel by place"
        if (why := _other_parameter(p, q)) is not None:
            return why
    if wanted_rest is not None:
        if rest is None or len(wire) > len(wanted):
            return f"it does not take *{wanted_rest.name} after the same parameters"
        return _other_parameter(wanted_rest, rest)
    return None


def _other_parameter(p: Parameter, q: Parameter) -> str | None:
    if not _fits(p.type, q.type):
        return f"parameter {p.name!r} is {type_name(p.type)} in the contract, and {type_name(q.type)} here"
    if p.source == q.source == "wire" and not p.required:
        if q.required:
            return f"parameter {p.name!r} is optional in the contract, and required here"
        if p.default is not ... and not _equal(p.default, q.default):
            return f"parameter {p.name!r} has the default {p.default!r} in the contract, and {q.default!r} here"
    return None


def _equal(one: Any, other: Any) -> bool:
    """Return whether two defaults travel alike."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return one is other or bool(one == other) or repr(one) == repr(other)  # NaN equals nothing


def _other_items(member: Member, facts: Facts) -> str | None:
    source = next((p for p in facts.parameters if p.source == "stream"), None)
    if member.source is None or source is None or _fits(member.source.type, source.type):
        return None
    declared, own = type_name(member.source.type), type_name(source.type)
    return f"the items of {member.source.name!r} are {declared} in the contract, and {own} here"


def _other_result(member: Member, result: Any, *, says_nothing: bool) -> str | None:
    if says_nothing or member.kind is Kind.CONVERSATION or _fits(result, member.result):
        return None
    what = "each item" if member.kind in (Kind.STREAM, Kind.EXCHANGE) else "the result"
    return f"{what} is {type_name(member.result)} in the contract, and {type_name(result)} here"


# ---------------------------------------------------------------- types

_EXACT = frozenset({bool, int, float, str, bytes, date, datetime})
"""Types of which a subclass or a base class travels otherwise, or is refused."""


def _fits(narrow: Any, wide: Any) -> bool:
    """Return whether each value of the type ``narrow`` may be given where ``wide`` is expected, as far as is known."""
    narrow, wide = _bare(narrow), _bare(wide)
    if narrow is Any or wide is Any or narrow == wide:
        return True
    if typing.get_origin(narrow) in UNIONS:
        return all(_fits(each, wide) for each in typing.get_args(narrow))
    if typing.get_origin(wide) in UNIONS:
        return any(_fits(narrow, each) for each in typing.get_args(wide))
    if typing.get_origin(narrow) is Literal:
        return _fits_literal(typing.get_args(narrow), wide)
    if narrow is int and wide is float:
        return True
    if narrow in _EXACT or typing.get_origin(wide) is Literal:
        return False
    return _fits_class(narrow, wide)


def _fits_literal(values: tuple[Any, ...], wide: Any) -> bool:
    if typing.get_origin(wide) is Literal:
        return set(map(repr, values)) <= set(map(repr, typing.get_args(wide)))
    return all(_fits(type(value), wide) for value in values)


def _fits_class(narrow: Any, wide: Any) -> bool:
    own, other = typing.get_origin(narrow) or narrow, typing.get_origin(wide) or wide
    try:
        if not issubclass(own, other):
            return False
    except TypeError:  # not classes, or of a kind that knows no subclasses, such as TypedDict
        return bool(own == other)
    inner, outer = typing.get_args(narrow), typing.get_args(wide)
    if own is other is tuple and inner and outer:
        return _fits_tuple(inner, outer)
    if len(inner) != len(outer):
        return True  # list[int] and list, or tuple[int, str] and Sequence[Any]
    return all(_fits(one, other) for one, other in zip(inner, outer, strict=True))


def _fits_tuple(narrow: tuple[Any, ...], wide: tuple[Any, ...]) -> bool:
    """Return whether a tuple fits another one, by the arguments of both types."""
    if wide[-1] is Ellipsis:
        return all(_fits(each, wide[0]) for each in narrow if each is not Ellipsis)
    return len(narrow) == len(wide) and narrow[-1] is not Ellipsis and all(map(_fits, narrow, wide))


def _bare(tp: Any) -> Any:
    """Return a type without what does not change how it travels: metadata, and other names for it."""
    while True:
        if typing.get_origin(tp) is Annotated:
            tp = typing.get_args(tp)[0]
        elif (inner := unwrapped(tp)) is not None:
            tp = inner
        else:
            return type(None) if tp is None else Any if tp is object else tp

"""Implementations of contracts: checks the methods of an object against a contract, and returns their handlers.

Kinds and parameters are compared. Types are not compared: arguments must fit the types of the contract, and are then
converted to the types of the implementation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..._base.names import ChannelRef
from .callables import location
from .contract import Contract, Member, read_contract
from .introspection import Facts, Kind, Parameter, by_place, introspect, result_of, signature_of
from .method import Exposed, mark_in, mark_of


class Method(NamedTuple):
    """A method of a class that is a handler."""

    mark: Exposed
    function: Callable[..., Any]
    attribute: str
    """Its name in the class."""
    member: Member | None = None
    """The member of a contract that it implements."""


Methods = dict[str, Method]
"""Methods of a class that are handlers, by event."""


def implementing(contract: Any, implementation: object, channel: ChannelRef) -> list[tuple[ChannelRef, Member, Method]]:
    """Return the methods of ``implementation`` that handle the events of a contract on ``channel``.

    Raises:
        TypeError: a member is missing or has another signature. The text names both signatures.
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
    """Yield the methods of ``owner`` that implement a contract. ``owner`` is an object, or the class of a service."""
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
        yield member, Method(_mark(member, function, cls), function, member.name, member)


def _refuse_missing(read: Contract, implementation: object, name: str) -> None:
    missing = [member.name for member in read.members if _is_missing(member, implementation)]
    missing += [channel for channel in read.channels if not hasattr(implementation, channel)]
    if missing:
        raise TypeError(f"{name} does not implement {read.name}: it has no {', '.join(missing)}")


def _is_missing(member: Member, implementation: object) -> bool:
    """Return whether an object or a class has no method for a member, apart from the method of the contract itself."""
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
        TypeError: the function does something else. The text names both signatures.
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
    """Return facts with the parameters that the contract declares, and the contract's type of each parameter.

    A parameter without an annotation gets the type that the contract declares. A parameter that the contract does not
    have gets no value, so that no caller can set it. ``*args`` stands for the parameters that only the contract has.
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


def _difference(member: Member, facts: Facts, function: Any) -> str | None:
    """Return how a function differs from a member of a contract. None if it does not differ."""
    try:
        result = result_of(function)
    except TypeError as exc:
        raise TypeError(f"{_signature(function)} ({facts.where}): {exc}") from exc.__cause__
    kind = result.kind if facts.kind is Kind.REQUEST else facts.kind
    says_nothing = kind is Kind.REQUEST and result.type is Any and member.kind in (Kind.STREAM, Kind.CONVERSATION)
    if kind is not member.kind and not says_nothing:
        return f"the contract declares {member.kind.value}, and this is {kind.value}"
    return _other_parameters(by_place(member.parameters), facts.parameters)


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
        if q.source == "wire" and not p.required:
            if q.required:
                return f"parameter {p.name!r} is optional in the contract, and required here"
            if p.default is not ... and not _equal(p.default, q.default):
                return f"parameter {p.name!r} has the default {p.default!r} in the contract, and {q.default!r} here"
    if wanted_rest is not None and (rest is None or len(wire) > len(wanted)):
        return f"it does not take *{wanted_rest.name} after the same parameters"
    return None


def _equal(one: Any, other: Any) -> bool:
    """Return whether two defaults are encoded in the same way."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return one is other or bool(one == other) or repr(one) == repr(other)  # NaN equals nothing

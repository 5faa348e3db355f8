"""Compiled handlers: one call that converts the arguments, injects the other parameters and runs the function.

The call is generated as source text and compiled, as dataclasses and attrs do. A general call would loop over the
parameters for each message. Here the loop ran when the handler was registered, and what is left for
``def add(a: int, b: int)`` is what one would write by hand: two type checks and ``add(v0, v1)``. Names in the source
stand for functions and types in the namespace of the generated call (see `_generate`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType

from .._base.names import check_timeout
from .._conversion.caching import memoized
from .._conversion.convert import (
    EXACT_TYPES,
    DecHook,
    convert_options,
    converter,
    make_dec_hook,
    prepare,
)
from .._conversion.survey import UNIONS
from .._conversion.validation import Checked
from .arguments import ArgumentsRefused, Explainer
from .contract import Member
from .implementation import completed
from .injections import Injection
from .introspection import Facts, Parameter, Role, introspect, location, name_of, refusal
from .invocation import Invocation

__all__ = ["ArgumentsRefused", "Handler"]


# ---------------------------------------------------------------- the generated call


def _check(tp: Any, value: str) -> str | None:
    """Return source for "``value`` is exactly a ``tp``"; "" if any value is; None if only msgspec can say."""
    if tp is Any:
        return ""
    if isinstance(tp, type) and tp in EXACT_TYPES:
        return f"type({value}) is {tp.__name__}"
    if get_origin(tp) in UNIONS:
        inner, *more = (arg for arg in get_args(tp) if arg is not type(None))
        if not more and isinstance(inner, type) and inner in EXACT_TYPES:
            return f"({value} is None or type({value}) is {inner.__name__})"
    return None


def _getters(parameters: Iterable[Parameter]) -> dict[str, Callable[[Invocation], Any]]:
    """Return the functions that get injected values, by their names in the source."""
    return {f"get_{p.name}": p.injection.get for p in parameters if p.injection is not None}


def _value(p: Parameter) -> str:
    """Return source for the value of a parameter that takes no argument from the wire."""
    if p.injection is None:
        return f"read_items(invocation, items_of_{p.name}, {p.name!r})"
    return f"get_{p.name}(invocation)"


def _arguments(parameters: tuple[Parameter, ...], given: list[str], rest: str = "") -> str:
    """Return source for the argument list of the function.

    ``given`` is source for the values from the wire that came, and ``rest`` for those of ``*args``.

    Parameters without a value are left out, so that Python itself applies the default. Only if an injected parameter
    follows, the default is written out (``default_<name>``).
    """
    positional: list[str] = []
    length = index = 0
    keywords: list[str] = []
    for p in parameters:
        if p.source == "wire" and p.keyword:
            if index < len(given):
                keywords.append(f"{p.name}={given[index]}")
            index += 1
        elif p.source == "wire":
            has_value = index < len(given)
            positional.append(given[index] if has_value else f"default_{p.name}")
            length = len(positional) if has_value else length
            index += 1
        elif p.source == "rest":
            if rest:
                positional.append(f"*{rest}")
                length = len(positional)
        elif p.keyword:
            keywords.append(f"{p.name}={_value(p)}")
        else:
            positional.append(_value(p))
            length = len(positional)
    return ", ".join(positional[:length] + keywords)


class _Source:
    """Writes the source of the generated call: ``call(invocation, a)``, where ``a`` is the event and its arguments."""

    def __init__(self, parameters: tuple[Parameter, ...], options: str, rest_options: str) -> None:
        self._parameters = parameters
        self._wire = [p for p in parameters if p.source == "wire"]
        self._rest = next((p for p in parameters if p.source == "rest"), None)
        self._least, self._most = sum(p.required for p in self._wire), len(self._wire)
        self._converts = any(p.type is not Any for p in self._wire)
        self._options = options
        self._rest_options = rest_options
        self._size = "len(a)" if self._rest is None and self._least == self._most else "size"
        self._lines: list[str] = []

    def write(self) -> str:
        self._add(0, "def call(invocation, a):")
        if self._size == "size":
            self._add(1, "size = len(a)")
        self._call_without_conversion()
        if self._rest is None:
            self._drop_surplus()
        if self._converts:
            self._add(1, "try:", f"    s = convert(a, Arguments{self._options})", "except ValidationError as exc:")
            self._add(2, "raise refused(exc, a) from exc")
        if self._rest is not None:
            self._call_with_rest(self._rest)
        if self._converts:
            self._call_converted()
        else:
            self._add(1, "raise refused(None, a)")
        return "\n".join(self._lines)

    def _add(self, depth: int, *more: str) -> None:
        self._lines.extend("    " * depth + line for line in more)

    def _call_without_conversion(self) -> None:
        """The fast path: arguments that have exactly the right types are passed on without msgspec."""
        names = [f"v{i}" for i in range(self._most)]
        checks = [_check(p.type, name) for p, name in zip(self._wire, names, strict=True)]
        for count in range(self._most, self._least - 1, -1):
            if None in checks[:count]:
                continue
            tests = [check for check in checks[:count] if check]
            self._add(1, f"if {self._size} == {count + 1}:")
            if count:
                self._add(2, f"{', '.join(['_', *names[:count]])} = a")
            if tests:
                self._add(2, f"if {' and '.join(tests)}:")
            self._add(3 if tests else 2, f"return function({_arguments(self._parameters, names[:count])})")

    def _drop_surplus(self) -> None:
        """Drop the surplus arguments of an event; those of a request are refused later."""
        most = self._most
        self._add(1, f"if {self._size} > {most + 1}:", f"    a = without_surplus(invocation, a, {most + 1})")
        if self._size == "size":
            self._add(2, "size = len(a)")
        if not self._converts:
            self._add(2, f"if len(a) == {most + 1}:")
            self._add(3, f"return function({_arguments(self._parameters, [f'a[{i + 1}]' for i in range(most)])})")

    def _call_with_rest(self, rest: Parameter) -> None:
        most = self._most
        values = [f"s.p{i}" if self._converts else f"a[{i + 1}]" for i in range(most)]
        self._add(1, f"if size > {most + 1}:")
        tail = f"a[{most + 1}:]"
        if rest.type is not Any:
            self._add(2, "try:", f"    rest = convert(({tail},), Rest{self._rest_options}).rest")
            self._add(2, "except ValidationError as exc:", "    raise refused(exc, a, True) from exc")
            tail = "rest"
        self._add(2, f"return function({_arguments(self._parameters, values, tail)})")

    def _call_converted(self) -> None:
        values = [f"s.p{i}" for i in range(self._most)]
        for count in range(self._most, self._least - 1, -1):
            last = count == self._least
            if not last:
                self._add(1, f"if size == {count + 1}:")
            self._add(1 if last else 2, f"return function({_arguments(self._parameters, values[:count])})")


@lru_cache(maxsize=256)
def _code(source: str) -> CodeType:
    module = compile(source, "<wsrpc>", "exec")
    return next(const for const in module.co_consts if isinstance(const, CodeType))


def _make_struct(wire: tuple[Any, ...], required: int, exact: bool) -> type[msgspec.Struct]:
    """Make the type of the arguments as msgspec sees them: an array of the event's name and then the parameters.

    Optional parameters have a default only so that the array may be shorter; the default is never read.
    """
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [("event", Any)]
    fields += [(f"p{i}", tp) if i < required else (f"p{i}", tp, None) for i, tp in enumerate(wire)]
    return msgspec.defstruct("Arguments", fields, array_like=True, forbid_unknown_fields=exact)


_struct = memoized(_make_struct)


def _keywords(options: dict[str, Any]) -> str:
    return "".join(f", {key}={key}" if callable(value) else f", {key}={value}" for key, value in options.items())


def _generate(
    function: Callable[..., Any], facts: Facts, dec_hook: DecHook | None, lax: bool
) -> Callable[[Invocation, list[Any]], Any]:
    needs_options = False
    rest: Parameter | None = None
    rest_options: dict[str, Any] = {}
    items: dict[str, Any] = {}
    parameters: list[Parameter] = []
    for p in facts.parameters:
        try:
            if p.source == "stream":
                items[f"items_of_{p.name}"] = converter(p.type, dec_hook=dec_hook, lax=lax)
            elif p.source != "injected":
                prepared = prepare(p.type, dec_hook, lax)
                p = p._replace(type=prepared.type)
                if p.source == "rest":
                    rest, rest_options = p, convert_options(prepared.needs_options, dec_hook, lax)
                else:
                    needs_options |= prepared.needs_options
        except TypeError as exc:
            raise refusal(facts.name, facts.where, p.name, str(exc)) from exc
        parameters.append(p)
    wire = [p for p in parameters if p.source == "wire"]
    # A `Checked` may hold the hook, and a hook may be the method of an object that no cache should keep alive.
    holds_hook = dec_hook is not None and any(isinstance(p.type, Checked) for p in wire)
    make_struct = _make_struct if holds_hook else _struct
    namespace: dict[str, Any] = {
        "function": function,
        "convert": msgspec.convert,
        "ValidationError": msgspec.ValidationError,
        "refused": Explainer(facts.parameters).refused,
        "read_items": Invocation.read_items,
        "without_surplus": Invocation.without_surplus,
        "dec_hook": make_dec_hook(dec_hook),
        "Arguments": make_struct(tuple(p.type for p in wire), sum(p.required for p in wire), rest is None),
        **{f"default_{p.name}": p.default for p in wire if not p.required},
        **items,
        **_getters(parameters),
    }
    if rest is not None:
        several: Any = list.__class_getitem__(rest.type)
        namespace["Rest"] = msgspec.defstruct("Rest", [("rest", several)], array_like=True)
    options = _keywords(convert_options(needs_options, dec_hook, lax))
    source = _Source(tuple(parameters), options, _keywords(rest_options)).write()
    # Handlers of the same shape have the same source, which is compiled once. But each gets a copy of the code, because
    # the interpreter specialises code for the function that it calls.
    code = _code(source).replace(co_filename=f"<wsrpc call of {facts.name}>")
    return FunctionType(code, namespace, "call")


# ---------------------------------------------------------------- the handler


def _as_method(facts: Facts, instance: Injection) -> Facts:
    if not facts.parameters or facts.parameters[0].source != "wire":
        raise refusal(facts.name, facts.where, None, "a method takes self first")
    first, *others = facts.parameters
    itself = Parameter(first.name, "injected", injection=instance)
    return facts._replace(parameters=(itself, *others))


def _why_no_timeout(facts: Facts, thread: bool) -> str:
    """Say why a handler cannot have a timeout, and what to do instead; "" if it can."""
    if thread:
        return "a thread cannot be stopped, so check the time in the function itself"
    if facts.role is not Role.RESULT or facts.is_generator:
        return "this one lasts as long as its stream or channel, so use `async with asyncio.timeout()` in its body"
    return "" if facts.is_coroutine else "a plain function cannot be cancelled, so make it an `async def`"


class Handler:
    """A registered function, compiled."""

    __slots__ = (
        "__weakref__",
        "call",
        "facts",
        "function",
        "gives_channel",
        "hidden",
        "is_method",
        "lane",
        "member",
        "most",
        "opens",
        "taken",
        "thread",
        "timeout",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        dec_hook: DecHook | None = None,
        lax: bool = False,
        thread: bool = False,
        ordered: bool = False,
        lane: Hashable = None,
        timeout: float | UnsetType | None = UNSET,
        hidden: bool = False,
        instance: Injection | None = None,
        member: Member | None = None,
        shown_as: Callable[..., Any] | None = None,
        call: Callable[[Invocation, list[Any]], Any] | None = None,
    ) -> None:
        """
        Args:
            function: any callable.
            dec_hook: converts to types that msgspec does not know.
            lax: let msgspec convert leniently.
            thread: the handler runs in a thread.
            ordered: calls run one after another.
            lane: the handler runs one after another with the other handlers of this lane.
            timeout: seconds that a call may take; UNSET: as `Limits.handler` says.
            hidden: no description has it.
            instance: ``function`` is a method, and this is how its ``self`` is found.
            member: the member of a contract that ``function`` implements, whose types unannotated parameters have.
            shown_as: logs show the name and the place of this function.
            call: is called in place of ``function``, with the invocation and all values as they arrived.

        Raises:
            TypeError: it cannot work; the text names the handler and the parameter and says what to do.
            ValueError: ``timeout`` is not a valid duration.
        """
        facts = introspect(function)
        if instance is not None:
            facts = _as_method(facts, instance)
        if member is not None:
            facts = completed(facts, function, member)
        if shown_as is not None:
            facts = facts._replace(name=name_of(shown_as), where=location(shown_as))
        if thread and (facts.is_coroutine or facts.role is not Role.RESULT or inspect.isasyncgenfunction(function)):
            text = "thread=True is for plain functions: an `async def` runs in the event loop, leave it out"
            raise refusal(facts.name, facts.where, None, text)
        check_timeout(timeout, more_than_0=True)
        if timeout not in (UNSET, None) and (why := _why_no_timeout(facts, thread)):
            raise refusal(facts.name, facts.where, None, f"timeout= is for an `async def` that gives one result: {why}")
        self.function = function
        """The user's object, unchanged."""
        self.facts = facts
        self.call = _generate(function, facts, dec_hook, lax) if call is None else call
        """``call(invocation, a)``: ``a`` is the event's name and then the arguments, as they arrived.

        Returns what the function returns, which may be an awaitable. Raises `ArgumentsRefused` before the function is
        called; any other exception comes from the function, from a ``dec_hook`` or from a type's own constructor.
        """
        self.is_method = instance is not None
        """Whether it is a method of a `Service`."""
        self.member = member
        """The member of a contract that it implements."""
        self.hidden = hidden
        """Whether descriptions leave it out."""
        self.taken = False
        """Whether it was registered with `once`, and a call holds it that may still end without calling it."""
        self.thread = thread
        self.timeout = timeout
        """Seconds that it may run once it was called; UNSET: as `Limits.handler` says."""
        self.opens = facts.role is not Role.RESULT
        """Whether a channel is the answer before the result of ``call`` (a coroutine or an async generator) runs."""
        self.gives_channel = self.opens or facts.is_generator
        """Whether a request is known to be answered by a channel: ``opens``, and generators."""
        self.lane: Hashable = self if lane is None and ordered else lane
        """The handler itself, or a scope: handlers of one lane run one after another. None: calls may overlap."""
        sources = [p.source for p in facts.parameters]
        self.most = None if "rest" in sources else sources.count("wire") + 1
        """The longest ``a`` that ``call`` takes; None if there is no bound."""

    def put_back(self) -> None:
        """Let another call have it, if it was registered with `once` and has not been called."""
        self.taken = False

    @property
    def name(self) -> str:
        """Module and qualified name, for logs."""
        return self.facts.name

    @property
    def where(self) -> str:
        """``file:line`` of the function if it has one, else its name."""
        return self.facts.where

    def __repr__(self) -> str:
        return f"<Handler {self.name} ({self.where})>"

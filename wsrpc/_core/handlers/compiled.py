"""Compiled handlers: one call that converts the arguments, injects the other parameters and runs the function."""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import lru_cache, partial
from itertools import compress
from types import CodeType, FunctionType
from typing import Any, get_args, get_origin

import msgspec
from msgspec import UNSET
from msgspec.structs import astuple

from ..._values.caching import memoized
from ..._values.convert import EXACT_TYPES, DecHook, convert_options, converter, needs_options, older_names_in
from ..._values.older_names import reading_arguments
from ..._values.type_survey import UNIONS, unsent
from .arguments import refused
from .callables import why_unbound
from .contract import Member
from .implementation import completed
from .introspection import Facts, Injection, Kind, Parameter, introspect, result_of
from .invocation import Call, Invocation
from .method import DEFAULTS, HandlerOptions

# ---------------------------------------------------------------- the call


@memoized
def _struct(wire: tuple[Any, ...], required: int, exact: bool) -> type[msgspec.Struct]:
    """Make the type of the arguments as msgspec sees them: an array of the event's name and then the parameters.

    Optional parameters have a default only so that the array may be shorter; the default is never read.
    """
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [("event", Any)]
    fields += [(f"p{i}", tp) if i < required else (f"p{i}", tp, None) for i, tp in enumerate(wire)]
    return msgspec.defstruct("Arguments", fields, array_like=True, forbid_unknown_fields=exact)


def _compile(function: Callable[..., Any], facts: Facts, declared: tuple[Any, ...], dec_hook: DecHook | None) -> Call:
    """Return `Handler.call`.

    Args:
        declared: for each parameter, the type in the contract that ``function`` implements. Empty without a contract.

    Raises:
        TypeError: a parameter has a type that cannot be enforced.
    """
    convert_items: dict[str, Callable[[Any], Any]] = {}

    def prepared(read: tuple[Parameter, ...], check: Converting | None) -> tuple[list[Parameter], Converting]:
        parameters: list[Parameter] = []
        has_options = False
        for p in read:
            try:
                if p.source == "stream":
                    convert_items[p.name] = _both(convert_items.get(p.name), converter(p.type, dec_hook=dec_hook))
                elif p.source != "injected":
                    has_options |= needs_options(p.type, dec_hook is not None) and p.source == "wire"
            except TypeError as exc:
                raise facts.refusal(p.name, str(exc)) from exc
            parameters.append(p)
        return parameters, _converting(parameters, has_options, dec_hook, check)

    check = None
    if any(tp not in (p.type, Any, object) for tp, p in zip(declared, facts.parameters, strict=False)):
        # The implementation may accept more than the contract, so the types of the contract are checked first.
        of_contract = (p._replace(type=tp) for tp, p in zip(declared, facts.parameters, strict=True))
        _, check = prepared(tuple(of_contract), None)
    parameters, convert = prepared(facts.parameters, check)

    def call(invocation: Invocation, a: list[Any]) -> Any:
        values = convert(invocation, a)
        args: list[Any] = []
        named: dict[str, Any] = {}
        omitted: list[Any] = []
        """Defaults of parameters without an argument. Needed only if a parameter with a value follows them."""
        for p in parameters:
            if p.source == "rest":
                args += values
                continue
            if p.source == "wire" and not values:
                if not p.keyword:
                    omitted.append(p.default)
                continue
            if p.source == "wire":
                value = values.pop(0)
            elif p.injection is not None:
                value = p.injection.get(invocation)
            else:
                value = invocation.read_items(convert_items[p.name], p.name)
            if p.keyword:
                named[p.name] = value
            else:
                args += [*omitted, value]
                omitted.clear()
        return function(*args, **named)

    return _with_fast_path(function, parameters, call) if check is None else call


def _compile_arguments(facts: Facts, declared: tuple[Any, ...], dec_hook: DecHook | None) -> Call:
    """Return `Handler.arguments_of`."""
    passed = [p.source in ("wire", "rest") for p in facts.parameters]
    of_caller = facts._replace(parameters=tuple(compress(facts.parameters, passed)))
    defaults = [p.default for p in of_caller.parameters if p.source == "wire"]

    def listed(*args: Any, **named: Any) -> list[Any]:
        values = [*args, *named.values()]
        return values + defaults[len(values) :]

    return _compile(listed, of_caller, tuple(compress(declared, passed)), dec_hook)


def _both(check: Callable[[Any], Any] | None, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that converts a value, unless ``check`` refuses it."""
    return convert if check is None else lambda value: (check(value), convert(value))[1]


Converting = Callable[[Invocation, list[Any]], list[Any]]


def _converting(
    parameters: list[Parameter], has_options: bool, dec_hook: DecHook | None, check: Converting | None
) -> Converting:
    """Return the function that converts the arguments of a call, and checks their number. ``check`` runs first."""
    wire = [p for p in parameters if p.source == "wire"]
    rest = next((p for p in parameters if p.source == "rest"), None)
    least, most = sum(p.required for p in wire) + 1, len(wire) + 1
    arguments = _struct(tuple(p.type for p in wire), least - 1, rest is None)
    convert: Callable[..., Any] = partial(msgspec.convert, type=arguments, **convert_options(has_options, dec_hook))
    older = [older_names_in(p.type) for p in wire]
    if any(older):
        convert = reading_arguments(convert, older)
    convert_rest = None
    if rest is not None and rest.type is not Any:
        convert_rest = converter(list.__class_getitem__(rest.type), dec_hook=dec_hook)
    untyped = all(p.type is Any for p in wire)

    def converted(invocation: Invocation, a: list[Any]) -> list[Any]:
        size = len(a)
        if size > most and rest is None:
            a = invocation.without_surplus(a, most)
            size = len(a)
        if check is not None:
            check(invocation, a)
        if untyped:
            if size < least or (size > most and rest is None):
                raise refused(parameters, None, a)
            values = a[1:most]
        else:
            try:
                values = list(astuple(convert(a)))[1:size]
            except msgspec.ValidationError as exc:
                raise refused(parameters, exc, a) from exc
        if size > most:
            try:
                values += a[most:] if convert_rest is None else convert_rest(a[most:])
            except msgspec.ValidationError as exc:
                raise refused(parameters, exc, a, in_rest=True) from exc
        return values

    return converted


# ---------------------------------------------------------------- the fast path


def _with_fast_path(function: Callable[..., Any], parameters: list[Parameter], call: Call) -> Call:
    """Return a call without conversion for arguments that have exactly the right types, and ``call`` for all others.

    The fast path saves more than a tenth of the CPU time of small requests. It is generated as source text and
    compiled, like the methods of dataclasses. For ``def add(a: int, b: int)``, the source has two type checks and
    ``function(v0, v1)``. Names in the source stand for functions and types in the namespace.
    """
    wire = [p for p in parameters if p.source == "wire"]
    checks = [_check(p.type, f"v{number}") for number, p in enumerate(wire)]
    namespace = {f"get_{p.name}": p.injection.get for p in parameters if p.injection is not None}
    values = {p.name: f"v{number}" for number, p in enumerate(wire)}
    lines: list[str] = []
    for count in range(len(wire), sum(p.required for p in wire) - 1, -1):
        passed = [p for p in parameters if p not in wire[count:]]
        # Python applies the defaults of parameters at the end.
        by_place = passed == parameters[: len(passed)] and not any(p.keyword for p in passed)
        if None in checks[:count] or not by_place or any(p.source in ("rest", "stream") for p in passed):
            continue
        tests = " and ".join(filter(None, checks[:count])) or "True"
        names = "".join(f", v{number}" for number in range(count))
        arguments = ", ".join(values.get(p.name, f"get_{p.name}(invocation)") for p in passed)
        lines += [f"    if len(a) == {count + 1}:", f"        _{names}{'' if names else ','} = a"]
        lines += [f"        if {tests}:", f"            return function({arguments})"]
    if not lines:
        return call
    source = "\n".join(["def fast_path(invocation, a):", *lines, "    return call(invocation, a)"])
    # Each handler gets a copy of the code, because the interpreter specialises code for the function that it calls.
    return FunctionType(_code(source).replace(), {**namespace, "function": function, "call": call}, "fast_path")


def _check(tp: Any, value: str) -> str | None:
    """Return source that checks for exactly the type ``tp``. "" if any value fits. None if only msgspec can check."""
    if tp is Any:
        return ""
    if isinstance(tp, type) and tp in EXACT_TYPES:
        return f"type({value}) is {tp.__name__}"
    if get_origin(tp) in UNIONS:
        inner, *more = (arg for arg in get_args(tp) if arg is not type(None))
        if not more and isinstance(inner, type) and inner in EXACT_TYPES:
            return f"({value} is None or type({value}) is {inner.__name__})"
    return None


@lru_cache(maxsize=256)
def _code(source: str) -> CodeType:
    module = compile(source, "<wsrpc call>", "exec")
    return next(const for const in module.co_consts if isinstance(const, CodeType))


# ---------------------------------------------------------------- the handler


def _as_method(facts: Facts, instance: Injection) -> Facts:
    if not facts.parameters or facts.parameters[0].source != "wire":
        raise facts.refusal(None, "a method takes self first")
    first, *others = facts.parameters
    itself = Parameter(first.name, "injected", injection=instance)
    return facts._replace(parameters=(itself, *others))


def _why_no_timeout(facts: Facts, thread: bool) -> str:
    """Return why a handler cannot have a timeout, and what to do instead. Return an empty text if it can."""
    if thread:
        return "a thread cannot be stopped, so check the time in the function itself"
    if facts.kind is not Kind.REQUEST:
        return "this one lasts as long as its stream or channel, so use `async with asyncio.timeout()` in its body"
    return "" if facts.is_coroutine else "a plain function cannot be cancelled, so make it an `async def`"


def _why_no_keep(facts: Facts, options: HandlerOptions) -> str:
    """Return why calls of a handler cannot have keys. Return an empty text if they can."""
    if facts.kind.opens_before_body:
        return f"this one is {facts.kind.value}"
    if options.timeout is not UNSET:
        return "timeout= is for the caller's wait, so use `async with asyncio.timeout()` in its body"
    if options.thread or not (facts.is_coroutine or facts.kind is Kind.STREAM):
        return "this one is a plain function"
    return ""


class Handler:
    """A registered function, compiled."""

    __slots__ = (
        "__weakref__",
        "arguments_of",
        "call",
        "deprecated",
        "facts",
        "function",
        "hidden",
        "is_fallback",
        "is_method",
        "keep",
        "lane",
        "member",
        "rate",
        "thread",
        "timeout",
        "to_message",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        options: HandlerOptions = DEFAULTS,
        *,
        dec_hook: DecHook | None = None,
        lane: Hashable = None,
        instance: Injection | None = None,
        member: Member | None = None,
        call: Call | None = None,
    ) -> None:
        """
        Args:
            function: any callable.
            dec_hook: converts to types that msgspec does not know.
            lane: the handlers of one lane run one after another.
            instance: finds the bound method of the object, if ``function`` is a method of its class.
            member: the member of a contract that ``function`` implements. The arguments must also fit its types.
            call: is called in place of ``function``, with the invocation and all values as they arrived.

        Raises:
            TypeError: ``function`` cannot be a handler. The text names the handler and the parameter, and says what to
                do.
        """
        facts = introspect(function)
        if instance is not None:
            facts = _as_method(facts, instance)
        why = "" if instance is not None else why_unbound(function, next((p.name for p in facts.parameters), None))
        with suppress(TypeError):  # an annotation that cannot be resolved concerns only descriptions
            why = why or (unsent(result_of(function).type) if "attr" in sys.modules else "")
        if why:
            raise facts.refusal(None, why)
        declared: tuple[Any, ...] = ()
        if member is not None:
            facts, declared = completed(facts, function, member)
        thread, timeout = options.thread, options.timeout
        if thread and (facts.is_coroutine or facts.kind.opens_before_body or inspect.isasyncgenfunction(function)):
            text = "thread=True is for plain functions: an `async def` runs in the event loop, leave it out"
            raise facts.refusal(None, text)
        if timeout not in (UNSET, None) and (why := _why_no_timeout(facts, thread)):
            raise facts.refusal(None, f"timeout= is for an `async def` that gives one result: {why}")
        if options.keep is not None and (why := _why_no_keep(facts, options)):
            raise facts.refusal(None, f"keep= is for an `async def` that returns a value or yields items: {why}")
        self.function = function
        """The user's object, unchanged."""
        self.facts = facts
        # The class of the object may override the method, so it is the object's own method that is called.
        called = function if instance is None else operator.call
        self.call = _compile(called, facts, declared, dec_hook) if call is None else call
        """``call(invocation, a)``: ``a`` is the event's name and then the arguments, as they arrived.

        Returns what the function returns, which may be an awaitable. Raises `CallRefused` before the function is
        called; any other exception comes from the function, from a ``dec_hook`` or from a type's own constructor.
        """
        self.arguments_of = None if options.keep is None else _compile_arguments(facts, declared, dec_hook)
        """As ``call``, but it returns the caller's arguments as ``function`` gets them, with the defaults of those that
        are left out. None without ``keep``."""
        inbox = None if options.keep is None else options.keep.inbox
        try:
            self.to_message = None if inbox is None else converter(inbox, dec_hook=dec_hook)
        except TypeError as exc:
            raise facts.refusal(None, f"inbox= is the type of a message, got {inbox!r}: {exc}") from exc
        """Converts a message for a run. None: there are none."""
        self.is_method = instance is not None
        """Whether ``function`` is a method of a `Service`."""
        self.member = member
        """The member of a contract that the handler implements."""
        self.hidden = options.hidden
        """Whether descriptions do not contain the handler."""
        self.deprecated = options.deprecated or (None if member is None else member.deprecated)
        """What callers should use instead. None if the event is not deprecated."""
        self.rate = options.rate
        """Maximum number of calls per second. None: there is no limit."""
        self.is_fallback = False
        """Whether the handler gets messages that have no handler, of any name."""
        self.thread = thread
        self.timeout = timeout
        """Maximum seconds from its call to its end. UNSET: `Limits.handler_timeout` applies."""
        self.keep = options.keep
        """What is kept of its calls with a key. None: it has none."""
        self.lane: Hashable = self if lane is None and options.ordered else lane
        """The lane: the handler itself, or a scope. Handlers of one lane run one after another. None: calls may
        overlap."""

    @property
    def name(self) -> str:
        """Module and qualified name, for logs."""
        return self.facts.name

    @property
    def where(self) -> str:
        """``file:line`` of the function, or its name if its place is unknown."""
        return self.facts.where

    def __repr__(self) -> str:
        return f"<Handler {self.name} ({self.where})>"

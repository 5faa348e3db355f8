"""A handler, compiled: one call that converts what came, injects what is ours and runs the function.

The call is generated as source text and compiled, as dataclasses and attrs do. A general one would loop
over the parameters for each message; this one has the loop behind it, and what is left for
``def add(a: int, b: int)`` is what one would write by hand: two type checks and ``add(v0, v1)``.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Hashable
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType

from .._base.introspection import Facts, Parameter, Role, injectable, introspect, readable, refusal
from .._base.names import check_timeout
from .._conversion.convert import (
    EXACT_TYPES,
    DecHook,
    Needs,
    convert_options,
    converter,
    make_dec_hook,
    memoized,
    prepare,
)
from .._conversion.validation import Checked
from ..errors import BadArguments
from .arguments import ArgumentsRefused, Explainer

__all__ = ["ArgumentsRefused", "Handler", "Role", "compile_handler", "injectable", "readable"]


# ---------------------------------------------------------------- the generated call


def _check(tp: Any, value: str) -> str | None:
    """Source for "``value`` is a ``tp`` as it is"; "" if anything is; None if only msgspec can say."""
    if tp is Any:
        return ""
    if isinstance(tp, type) and tp in EXACT_TYPES:
        return f"type({value}) is {tp.__name__}"
    if get_origin(tp) in (Union, types.UnionType):
        inner, *more = (arg for arg in get_args(tp) if arg is not type(None))
        if not more and isinstance(inner, type) and inner in EXACT_TYPES:
            return f"({value} is None or type({value}) is {inner.__name__})"
    return None


def _arguments(parameters: tuple[Parameter, ...], given: list[str], rest: str) -> str:
    """The argument list, when the wire brought the values ``given`` and, for ``*args``, ``rest``.

    Parameters that got nothing are left out, so that Python itself applies the default; only where an
    injected one follows, the default must be written down (``default_<name>``).
    """
    positional: list[str] = []
    length = index = 0
    keywords: list[str] = []
    for p in parameters:
        if p.source == "wire":
            has_value = index < len(given)
            positional.append(given[index] if has_value else f"default_{p.name}")
            length = len(positional) if has_value else length
            index += 1
        elif p.source == "rest":
            if rest:
                positional.append(f"*{rest}")
                length = len(positional)
        elif p.keyword:
            keywords.append(f"{p.name}={p.expression}")
        else:
            positional.append(p.expression)
            length = len(positional)
    return ", ".join(positional[:length] + keywords)


def _source(parameters: tuple[Parameter, ...], options: str, rest_options: str) -> str:
    wire = [p for p in parameters if p.source == "wire"]
    rest = next((p for p in parameters if p.source == "rest"), None)
    least, most = sum(p.required for p in wire), len(wire)
    names = [f"v{i}" for i in range(most)]
    checks = [_check(p.type, name) for p, name in zip(wire, names, strict=True)]
    converts = any(p.type is not Any for p in wire)
    lines = ["def call(ctx, a):"]

    def add(depth: int, *more: str) -> None:
        lines.extend("    " * depth + line for line in more)

    size = "len(a)"
    if rest is not None or least != most:
        add(1, "size = len(a)")
        size = "size"
    # First without conversion: what has the right types already.
    for count in range(most, least - 1, -1):
        if None in checks[:count]:
            continue
        tests = [check for check in checks[:count] if check]
        add(1, f"if {size} == {count + 1}:")
        if count:
            add(2, f"{', '.join(['_', *names[:count]])} = a")
        if tests:
            add(2, f"if {' and '.join(tests)}:")
        add(3 if tests else 2, f"return function({_arguments(parameters, names[:count], '')})")
    if rest is None:
        # What an event has too much; a request is refused below.
        add(1, f"if {size} > {most + 1}:", f"    a = ctx._without_surplus(a, {most + 1})")
        if size == "size":
            add(2, "size = len(a)")
        if not converts:
            add(2, f"if len(a) == {most + 1}:")
            add(3, f"return function({_arguments(parameters, [f'a[{i + 1}]' for i in range(most)], '')})")
    # Then with conversion, or with the reason why not.
    if converts:
        add(1, "try:", f"    s = convert(a, Arguments{options})", "except ValidationError as exc:")
        add(2, "raise refused(exc, a) from exc")
        values = [f"s.p{i}" for i in range(most)]
    else:
        values = [f"a[{i + 1}]" for i in range(most)]
    if rest is not None:
        add(1, f"if size > {most + 1}:")
        tail = f"a[{most + 1}:]"
        if rest.type is not Any:
            add(2, "try:", f"    rest = convert(({tail},), Rest{rest_options}).rest")
            add(2, "except ValidationError as exc:", "    raise refused(exc, a, True) from exc")
            tail = "rest"
        add(2, f"return function({_arguments(parameters, values, tail)})")
    if converts:
        for count in range(most, least - 1, -1):
            last = count == least
            if not last:
                add(1, f"if size == {count + 1}:")
            add(1 if last else 2, f"return function({_arguments(parameters, values[:count], '')})")
    else:
        add(1, "raise refused(None, a)")
    return "\n".join(lines)


@lru_cache(maxsize=256)
def _code(source: str) -> CodeType:
    module = compile(source, "<wsrpc>", "exec")
    return next(const for const in module.co_consts if isinstance(const, CodeType))


def _make_struct(wire: tuple[Any, ...], required: int, exact: bool, scalar: bool) -> type[msgspec.Struct]:
    """The arguments as msgspec sees them: an array with the event's name and then the parameters.

    Optional ones have a default only so that the array may be shorter: it is never read.
    """
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [("event", Any)]
    fields += [(f"p{i}", tp) if i < required else (f"p{i}", tp, None) for i, tp in enumerate(wire)]
    # gc=False: the garbage collector need not look at it, which saves a tenth. Only for scalars: an argument
    # that keeps the handler's exception refers, through the traceback, to the object that is made here.
    return msgspec.defstruct("Arguments", fields, array_like=True, forbid_unknown_fields=exact, gc=not scalar)


_struct = memoized(_make_struct)


def _keywords(options: dict[str, Any]) -> str:
    return "".join(f", {key}={key}" if callable(value) else f", {key}={value}" for key, value in options.items())


def _generate(
    function: Callable[..., Any], facts: Facts, explainer: Explainer, dec_hook: DecHook | None, lax: bool
) -> Callable[[Any, list[Any]], Any]:
    wire_needs: list[Needs] = []
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
                    rest, rest_options = p, convert_options(prepared.needs, dec_hook, lax)
                else:
                    wire_needs.append(prepared.needs)
        except TypeError as exc:
            raise refusal(facts.name, facts.where, p.name, str(exc)) from exc
        parameters.append(p)
    wire = [p for p in parameters if p.source == "wire"]
    options = convert_options(
        Needs(
            dec_hook=any(needs.dec_hook for needs in wire_needs),
            str_keys=any(needs.str_keys for needs in wire_needs),
            scalar=all(needs.scalar for needs in wire_needs),
        ),
        dec_hook,
        lax,
    )
    # A `Checked` may hold the hook, which may be the method of an object that is not to be kept alive by a cache.
    holds_hook = dec_hook is not None and any(isinstance(p.type, Checked) for p in wire)
    make_struct = _make_struct if holds_hook else _struct
    namespace: dict[str, Any] = {
        "function": function,
        "convert": msgspec.convert,
        "ValidationError": msgspec.ValidationError,
        "refused": explainer.refused,
        "dec_hook": make_dec_hook(dec_hook),
        "Arguments": make_struct(
            tuple(p.type for p in wire),
            sum(p.required for p in wire),
            rest is None,
            all(needs.scalar for needs in wire_needs),
        ),
        **{f"default_{p.name}": p.default for p in wire if not p.required},
        **items,
    }
    if rest is not None:
        several: Any = list.__class_getitem__(rest.type)
        namespace["Rest"] = msgspec.defstruct("Rest", [("rest", several)], array_like=True)
    source = _source(tuple(parameters), _keywords(options), _keywords(rest_options))
    # Handlers of the same shape have the same text, so it is compiled once. But each gets a copy of the
    # code, because the interpreter specialises code for the function that it calls.
    code = _code(source).replace(co_filename=f"<wsrpc call of {facts.name}>")
    return FunctionType(code, namespace, "call")


# ---------------------------------------------------------------- the handler


class Handler:
    """What a peer keeps for a registered function."""

    __slots__ = (
        "__weakref__",
        "_explainer",
        "bare",
        "call",
        "function",
        "gives_channel",
        "inline",
        "is_coroutine",
        "is_method",
        "lane",
        "most",
        "name",
        "opens",
        "ordered",
        "parameters",
        "role",
        "taken",
        "thread",
        "timeout",
        "where",
    )

    function: Callable[..., Any]
    """The user's object, unchanged."""
    call: Callable[[Any, list[Any]], Any]
    """``call(ctx, a)``: ``a`` is the event's name and then the arguments, as they came. Returns what the
    function returns, which may be an awaitable. Raises `ArgumentsRefused` before the function is called;
    anything else comes from the function, from a ``dec_hook`` or from a type's own constructor."""
    is_coroutine: bool
    """Whether it is known to return a coroutine. A function that is not may still return an awaitable."""
    bare: bool
    """Whether it is a coroutine function that is simply called and awaited: it has no lane and opens no channel."""
    timeout: float | UnsetType | None
    """Seconds that it may run once it was called; UNSET: as `Limits.handler` says."""
    is_method: bool
    """Whether it is one of a `Service`."""
    thread: bool
    ordered: bool
    taken: bool
    """Whether it was registered with `once`, and a call has it that may still end without calling it."""
    inline: bool
    """Whether the call may be made at once, in the event loop, because it does not wait as far as is known."""
    role: Role
    opens: bool
    """Whether a channel is the answer, before what ``call`` returns (a coroutine or an async generator) runs."""
    gives_channel: bool
    """Whether it is known that a request is answered by a channel: ``opens``, and generators."""
    lane: Hashable
    """Ordered handlers with the same lane run one after another: the handler itself, or its channel."""
    name: str
    """Module and qualified name, for logs."""
    where: str
    """``file:line`` of the function, as far as it has one, else its name."""
    parameters: tuple[Parameter, ...]
    """Those that get a value, in the order of the signature."""
    most: int | None
    """The longest ``a`` that ``call`` takes; None if there is no bound."""

    def __init__(
        self,
        function: Callable[..., Any],
        facts: Facts,
        *,
        dec_hook: DecHook | None,
        lax: bool,
        thread: bool,
        ordered: bool,
        timeout: float | UnsetType | None,
    ) -> None:
        self.function = function
        self._explainer = Explainer(facts.parameters)
        self.call = _generate(function, facts, self._explainer, dec_hook, lax)
        self.is_coroutine = facts.is_coroutine
        self.is_method = self.taken = False
        self.thread = thread
        self.ordered = False
        self.role = facts.role
        self.opens = facts.role is not Role.RESULT
        self.gives_channel = self.opens or facts.is_generator
        self.inline = not (thread or facts.is_coroutine or facts.is_generator)
        self.timeout = timeout
        self.bare = facts.is_coroutine and not self.opens
        if ordered:
            self.put_in_lane(self)
        self.name = facts.name
        self.where = facts.where
        self.parameters = facts.parameters
        sources = [p.source for p in facts.parameters]
        self.most = None if "rest" in sources else sources.count("wire") + 1

    def put_in_lane(self, lane: Hashable) -> None:
        """Let it run one call after another, with whatever else is in the same lane."""
        self.ordered = True
        self.inline = self.bare = False
        self.lane = lane

    def __repr__(self) -> str:
        return f"<Handler {self.name} ({self.where})>"

    def explain(self, exc: msgspec.ValidationError | None, a: list[Any]) -> BadArguments:
        """The error for the caller whose ``a`` did not convert, which ``exc`` was raised for."""
        return self._explainer.explain(exc, a)


def _method(facts: Facts, instance: str) -> Facts:
    if not facts.parameters or facts.parameters[0].source != "wire":
        raise refusal(facts.name, facts.where, None, "a method takes self first")
    first, *others = facts.parameters
    itself = Parameter(first.name, "injected", expression=instance)
    return facts._replace(parameters=(itself, *others))


def _unlimited(facts: Facts, thread: bool) -> str:
    """Why a handler cannot have a time limit, and what to do instead; "" if it can."""
    if thread:
        return "a thread cannot be stopped, so check the time in the function itself"
    if facts.role is not Role.RESULT or facts.is_generator:
        return "this one lasts as long as its stream or channel, so use `async with asyncio.timeout()` in its body"
    return "" if facts.is_coroutine else "a plain function cannot be cancelled, so make it an `async def`"


def compile_handler(
    function: Callable[..., Any],
    *,
    dec_hook: DecHook | None = None,
    lax: bool = False,
    thread: bool = False,
    ordered: bool = False,
    timeout: float | UnsetType | None = UNSET,
    instance: str | None = None,
) -> Handler:
    """Make a handler of any callable.

    ``instance``: it is a method, whose ``self`` is what this expression gives, in terms of ``ctx`` as for `injectable`.

    Raises:
        TypeError: it cannot work; the text names the handler and the parameter and says what to do.
        ValueError: ``timeout`` is not a time.
    """
    facts = introspect(function)
    if instance is not None:
        facts = _method(facts, instance)
    if thread and (facts.is_coroutine or facts.role is not Role.RESULT or inspect.isasyncgenfunction(function)):
        text = "thread=True is for plain functions: an `async def` runs in the event loop, leave it out"
        raise refusal(facts.name, facts.where, None, text)
    check_timeout(timeout, more_than_0=True)
    if timeout not in (UNSET, None) and (why := _unlimited(facts, thread)):
        raise refusal(facts.name, facts.where, None, f"timeout= is for an `async def` that gives one result: {why}")
    handler = Handler(function, facts, dec_hook=dec_hook, lax=lax, thread=thread, ordered=ordered, timeout=timeout)
    handler.is_method = instance is not None
    return handler

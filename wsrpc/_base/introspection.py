"""What can be known about a handler before it runs: its name, its place, its parameters and their types.

Whatever cannot work is refused here, with a `TypeError` that names the handler and the parameter and
says what to do, so that it happens when the program starts and not when a message arrives.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

__all__ = [
    "CONVERSATIONS",
    "STREAMS",
    "Facts",
    "Parameter",
    "Role",
    "body_of",
    "injectable",
    "injection_of",
    "introspect",
    "layers_of",
    "location",
    "readable",
    "refusal",
    "resolve",
    "signature_of",
    "without_partials",
]

_C = TypeVar("_C", bound=type[Any])
_INJECTED: dict[type[Any], str] = {}
STREAMS: set[Any] = {AsyncIterator, AsyncIterable}
"""Annotations of a parameter that reads what the caller sends with ``send=``."""
_LIBRARIES = frozenset({"annotated_types", "msgspec", "pydantic"})
CONVERSATIONS: set[str] = set()
"""Injected expressions whose handlers run for as long as a channel is open."""


class Parameter(NamedTuple):
    """One parameter that gets a value: from the wire (one, or all the rest), or injected."""

    name: str
    source: Literal["wire", "rest", "injected", "stream"]
    type: Any = Any
    required: bool = True
    default: Any = None
    keyword: bool = False  # injected and stream only: passed by name
    expression: str = ""  # injected and stream only: Python source in terms of `ctx`


class Role(Enum):
    """What a handler does with its request. But for the first, a channel is the answer before its body runs."""

    RESULT = "gives a value, or a stream: what it returns tells"
    CONVERSATION = "talks with its caller over a channel of their own"
    UPLOAD = "reads what its caller sends, and its result answers the end of that"
    EXCHANGE = "reads what its caller sends, and yields items meanwhile"


class Facts(NamedTuple):
    """What introspection found out about a handler."""

    name: str
    where: str
    is_coroutine: bool
    is_generator: bool
    role: Role
    parameters: tuple[Parameter, ...]


def readable(cls: _C) -> _C:
    """Class decorator: as with ``AsyncIterator[T]``, a parameter of this class reads what the caller sends."""
    STREAMS.add(cls)
    return cls


def injectable(expression: str, *, conversation: bool = False) -> Callable[[_C], _C]:
    """Class decorator: parameters annotated with the class get the value of ``expression``.

    ``expression`` is Python source with one name, ``ctx``, the call's context. Such a parameter (also as
    ``Cls | None``) takes no argument from the wire. Subclasses are not meant by it: what arrives for them
    could be any instance of the class. ``conversation``: the handler's body runs while the injected channel is open.
    """

    def register(cls: _C) -> _C:
        _INJECTED[cls] = expression
        if conversation:
            CONVERSATIONS.add(expression)
        return cls

    return register


def refusal(name: str, where: str, parameter: str | None, text: str) -> TypeError:
    """The error for a handler that cannot work."""
    place = "" if parameter is None else f", parameter {parameter!r}"
    return TypeError(f"handler {name} ({where}){place}: {text}")


# ---------------------------------------------------------------- layers: name, place, kind


def layers_of(function: Any) -> list[Any]:
    """The callable and what it wraps, outermost first.

    Annotations belong to the innermost: text in them must be read in the module that wrote it.
    """
    layers: list[Any] = []
    while len(layers) < 100:  # an object may claim to wrap itself
        layers.append(function)
        if isinstance(function, functools.partial):
            function = typing.cast(Any, function).func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif isinstance(function, type):
            makers = [getattr(function, name) for name in ("__init__", "__new__")]
            function = next((maker for maker in makers if isinstance(maker, types.FunctionType)), None)
        elif not isinstance(function, types.FunctionType) and hasattr(type(function).__call__, "__code__"):
            function = type(function).__call__
        else:
            break
        if function is None:
            break
    return layers


def without_partials(function: Any) -> Any:
    """What a partial calls in the end; anything else as it is."""
    while isinstance(function, functools.partial):
        function = typing.cast(Any, function).func
    return function


def body_of(function: Any) -> Any:
    """What actually runs when the handler is called, for asking whether it is a coroutine function."""
    function = without_partials(function)
    if inspect.isroutine(function) or inspect.iscoroutinefunction(function):
        return function
    # An object runs its __call__. So does a class, its metaclass's: that makes an instance, and whether
    # the instance's own __call__ is a coroutine function does not matter.
    return typing.cast(Any, type(function)).__call__


def _name(function: Any) -> str:
    function = without_partials(function)
    named = function
    if not isinstance(getattr(function, "__qualname__", None), str):
        named = typing.cast(Any, type(function))
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def _where(layers: list[Any], name: str) -> str:
    for layer in reversed(layers):
        code = getattr(layer, "__code__", None)
        # Generated functions (a dataclass's __init__) come from "<string>", which helps nobody.
        if isinstance(code, types.CodeType) and not code.co_filename.startswith("<"):
            return f"{code.co_filename}:{code.co_firstlineno}"
    return name


def location(function: Any) -> str:
    """``file:line`` of a callable, as far as it has one, else its name."""
    return _where(layers_of(function), _name(function))


# ---------------------------------------------------------------- annotations


def _namespaces(layers: list[Any]) -> list[dict[str, Any]]:
    """Where names in annotations may be found, best first."""
    found: list[dict[str, Any]] = []
    for layer in reversed(layers):
        spaces: list[Any] = [getattr(layer, "__globals__", None)]
        if isinstance(layer, type):
            # A generated __init__ has the annotations of inherited fields, from other modules.
            spaces += [getattr(sys.modules.get(base.__module__), "__dict__", None) for base in layer.__mro__]
        found += [space for space in spaces if isinstance(space, dict)]
    return found or [{}]


def resolve(annotation: Any, layers: list[Any]) -> Any:
    """The type that one annotation means, with names in text looked up. `Annotated` stays."""
    if annotation is inspect.Parameter.empty or annotation is Any or annotation is object:
        return Any
    if isinstance(annotation, type) and not typing.get_origin(annotation):
        return annotation

    def holder() -> None: ...

    # `get_type_hints` is the documented way to resolve text, but it takes a whole object, and one broken
    # annotation spoils them all: hence an object with this annotation only.
    holder.__annotations__ = {"it": annotation}
    if parameters := getattr(layers[-1], "__type_params__", None):
        holder.__type_params__ = parameters  # type: ignore[attr-defined]
    error: Exception | None = None
    for space in _namespaces(layers):
        try:
            found = typing.get_type_hints(holder, space, include_extras=True)["it"]
            return Any if found is object else found
        except Exception as exc:
            error = error or exc
    assert error is not None
    raise error


def _alternatives(tp: Any) -> list[Any]:
    """The classes that an annotation names, `None` left out: ``Annotated[Peer, …]``, ``Peer | None``."""
    origin = typing.get_origin(tp)
    if origin is Annotated:
        return _alternatives(typing.get_args(tp)[0])
    if origin is Union or origin is types.UnionType:
        inner = [_alternatives(arg) for arg in typing.get_args(tp) if arg is not type(None)]
        return [cls for classes in inner for cls in classes]
    return [tp if origin is None else origin]


def injection_of(tp: Any) -> str | None:
    """The expression that gives a parameter of this type its value, if that does not come from the wire."""
    classes = _alternatives(tp)
    expressions = {_INJECTED.get(cls) if isinstance(cls, type) else None for cls in classes}
    return expressions.pop() if len(expressions) == 1 else None


# ---------------------------------------------------------------- the whole handler


def signature_of(function: Any) -> inspect.Signature:
    """The signature, with annotations as they were written."""
    if sys.version_info >= (3, 14):
        # Annotations are evaluated on demand there; a broken one must not spoil the others.
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _must_not_restrict(tp: Any) -> None:
    """Refuse constraints of what is not converted."""
    metadata = typing.get_args(tp)[1:] if typing.get_origin(tp) is Annotated else ()
    if any(type(each).__module__.partition(".")[0] in _LIBRARIES for each in metadata):
        raise TypeError("no library can enforce a constraint on a stream or on what is injected: annotate the items")


def _parameter(given: inspect.Parameter, layers: list[Any], bound: Mapping[str, Any]) -> Parameter | None:
    """What to do about one parameter of the signature; None: nothing. Raises `TypeError` with advice."""
    if given.kind is given.VAR_KEYWORD or (given.kind is given.KEYWORD_ONLY and given.name in bound):
        return None
    keyword = given.kind is given.KEYWORD_ONLY
    required = given.default is given.empty
    try:
        tp = resolve(given.annotation, layers)
    except NameError as exc:
        raise TypeError(
            f"cannot resolve the annotation {given.annotation!r} ({exc}): define it at module level, and "
            "import it outside `if TYPE_CHECKING:`"
        ) from exc
    except Exception as exc:
        raise TypeError(f"the annotation {given.annotation!r} is not a type: {exc}") from exc
    expression = injection_of(tp)
    if expression is not None:
        _must_not_restrict(tp)
        if given.kind is given.VAR_POSITIONAL:
            raise TypeError("this class is injected, which works for one parameter and not for *args")
        default = None if required else given.default
        return Parameter(given.name, "injected", tp, required, default, keyword, expression)
    while typing.get_origin(tp) is Annotated and set(_alternatives(tp)) & STREAMS:
        _must_not_restrict(tp)
        tp = typing.get_args(tp)[0]
    classes = _alternatives(tp)
    if any(cls in STREAMS for cls in classes if isinstance(cls, type)):
        if typing.get_origin(tp) not in STREAMS and tp not in STREAMS:
            raise TypeError("what the caller sends is always there: annotate AsyncIterator[...] itself")
        if given.kind is given.VAR_POSITIONAL:
            raise TypeError("one parameter reads what the caller sends, *args cannot")
        item, *_ = (*typing.get_args(tp), Any)
        return Parameter(
            given.name, "stream", item, True, None, keyword, f"ctx._incoming(items_of_{given.name}, {given.name!r})"
        )
    if any(cls is AsyncGenerator for cls in classes):
        raise TypeError("what the caller sends is read, not sent to: annotate AsyncIterator[...]")
    if type(given.default).__module__ == "pydantic.fields":
        raise TypeError("its default is pydantic's Field(...): write `name: Annotated[..., Field(...)] = default`")
    if keyword:
        if required:
            raise TypeError(
                "it is keyword-only without a default, and arguments from the wire have no names: "
                "make it positional, or give it a default"
            )
        return None
    for cls in classes:
        base = next((base for base in getattr(cls, "__mro__", ()) if base in _INJECTED), None)
        if base is not None:
            name = base.__qualname__
            raise TypeError(f"only {name} itself is injected: annotate {name} or {name} | None")
    if given.kind is given.VAR_POSITIONAL:
        return Parameter(given.name, "rest", tp)
    return Parameter(given.name, "wire", tp, required, None if required else given.default)


def introspect(function: Any) -> Facts:
    """Everything that is asked about a handler, asked once.

    Raises:
        TypeError: it cannot be a handler; the text says why and what to do.
    """
    if not callable(function):
        called = ", which is what a call of the function gives: leave out its parentheses"
        raise TypeError(f"a handler is a function, got {function!r}{called if inspect.iscoroutine(function) else ''}")
    layers = layers_of(function)
    name = _name(function)
    where = _where(layers, name)
    body = body_of(function)
    try:
        signature = signature_of(function)
    except (ValueError, TypeError) as exc:
        advice = "wrap it in a function with annotated parameters"
        raise refusal(name, where, None, f"its signature cannot be read ({exc}): {advice}") from exc
    # What a partial has bound by name stays bound, although it looks like a default.
    bound: Mapping[str, Any] = function.keywords if isinstance(function, functools.partial) else {}
    parameters: list[Parameter] = []
    for given in signature.parameters.values():
        try:
            parameter = _parameter(given, layers, bound)
        except TypeError as exc:
            raise refusal(name, where, given.name, str(exc)) from exc.__cause__
        if parameter is not None:
            parameters.append(parameter)
    is_coroutine = inspect.iscoroutinefunction(body)
    is_generator = inspect.isasyncgenfunction(body) or inspect.isgeneratorfunction(body)
    talks = [p.name for p in parameters if p.expression in CONVERSATIONS]
    reads = [p.name for p in parameters if p.source == "stream"]
    if len(talks) + len(reads) > 1:
        text = "one request opens one channel, so only one parameter can be that or read what the caller sends"
        raise refusal(name, where, [*talks, *reads][1], text)
    if talks and not is_coroutine:
        text = (
            "the body is the conversation, so it has to be an `async def` that does not yield; in another function "
            "take ctx.channel(), register handlers on it and return it"
        )
        raise refusal(name, where, talks[0], text)
    if reads and not (is_coroutine or inspect.isasyncgenfunction(body)):
        raise refusal(name, where, reads[0], "reading what the caller sends takes an `async def`")
    role = Role.CONVERSATION if talks else Role.RESULT
    if reads:
        role = Role.UPLOAD if is_coroutine else Role.EXCHANGE
    return Facts(name, where, is_coroutine, is_generator, role, tuple(parameters))

"""Introspection of handlers before they run: name, place in the code, parameters, types and result.

A function that cannot be a handler is refused here with a `TypeError`, which names the handler and the parameter and
says what to do. So a mistake is found when the program starts, not when a message arrives.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
)
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Struct

from ..._values.convert import for_msgspec
from ..._values.type_survey import UNIONS, unwrapped
from .callables import body_of, full_name, is_generator, layers_of, place_of, without_partials
from .invocation import Invocation


class Injection(Struct, frozen=True):
    """How a parameter gets an object that is not an argument of the message."""

    get: Callable[[Invocation], Any]
    """Returns the object. It runs in each call of the handler, so it should be a function written in C if possible."""
    conversation: bool = False
    """The object is a channel, and the handler's body runs while that channel is open."""
    blocking: bool = False
    """The class is for threads: its methods wait instead of being awaited."""


injections: dict[type[Any], Injection] = {Invocation: Injection(lambda invocation: invocation)}
"""By class: how a parameter annotated with it, or with ``Cls | None``, gets its value. Higher layers add their classes.

A subclass of such a class is not injected, because the object may be any instance of the class.
"""

stream_annotations: set[Any] = {AsyncIterator, AsyncIterable}
"""Annotations of a parameter that reads the items of the caller's ``send=``. A higher layer adds `Stream`."""


_LIBRARIES = frozenset({"annotated_types", "msgspec", "pydantic"})
_FRAMEWORKS = frozenset({"fastapi.params", "litestar.di", "litestar.params"})
"""Modules of the classes of ``Depends(...)``, ``Header()``, ``Dependency()`` and so on. They tell a web framework where
to find the value of a parameter. Only their names are here, so that no framework is imported."""


class Parameter(NamedTuple):
    """One parameter that gets a value: one argument, all remaining arguments, a stream, or an injected object."""

    name: str
    source: Literal["wire", "rest", "injected", "stream"]
    type: Any = Any
    required: bool = True
    default: Any = None
    keyword: bool = False  # passed by name
    injection: Injection | None = None  # injected only


class Kind(Enum):
    """Kind of a call, as its caller sees it. All but the first two are answered with a channel."""

    REQUEST = "a request"
    EVENT = "an event"
    STREAM = "a stream"
    UPLOAD = "an upload"
    EXCHANGE = "a stream of items in both directions"
    CONVERSATION = "a conversation"

    @property
    def opens_before_body(self) -> bool:
        """Whether the request is answered with a channel before the body of the handler runs."""
        return self in (Kind.UPLOAD, Kind.EXCHANGE, Kind.CONVERSATION)


class Facts(NamedTuple):
    """The result of introspection of a function. ``what`` describes the function in error texts."""

    what: str
    name: str
    """Module and qualified name, for logs."""
    where: str
    """``file:line`` of the function, or its name if its place is unknown."""
    is_coroutine: bool
    parameters: tuple[Parameter, ...] = ()
    """The parameters that get a value, in the order of the signature."""
    kind: Kind = Kind.REQUEST
    """How the function answers as a handler. One that returns a value may also return an iterator, or a channel."""

    def refusal(self, parameter: str | None, text: str) -> TypeError:
        """Return the error for a function that cannot serve its purpose."""
        place = "" if parameter is None else f", parameter {parameter!r}"
        return TypeError(f"{self.what} {self.name} ({self.where}){place}: {text}")


# ---------------------------------------------------------------- annotations


def _namespaces(layers: list[Any]) -> list[dict[str, Any]]:
    """Return the namespaces in which names in annotations are looked up, the best first."""
    found: list[dict[str, Any]] = []
    for layer in reversed(layers):
        spaces: list[Any] = [getattr(layer, "__globals__", None)]
        if isinstance(layer, type):
            # A generated __init__ has the annotations of inherited fields, from other modules.
            spaces += [getattr(sys.modules.get(base.__module__), "__dict__", None) for base in layer.__mro__]
        found += [space for space in spaces if isinstance(space, dict)]
    return found or [{}]


def _resolve(annotation: Any, layers: list[Any]) -> Any:
    """Return the type of one annotation. Names in text are looked up. `Annotated` is kept.

    Raises:
        Exception: anything that evaluating the annotation raises.
    """
    if annotation is inspect.Parameter.empty or annotation is Any or annotation is object:
        return Any
    if isinstance(annotation, type) and not typing.get_origin(annotation):
        return annotation

    def holder() -> None: ...

    # `get_type_hints` is the documented function that resolves text. It resolves all annotations of an object, and
    # fails if one of them is broken. So it gets an object that has only this annotation.
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
    """Return the classes that an annotation names, without `None`: ``Annotated[Peer, …]``, ``Peer | None``."""
    origin = typing.get_origin(tp)
    if origin is Annotated:
        return _alternatives(typing.get_args(tp)[0])
    if origin in UNIONS:
        inner = [_alternatives(arg) for arg in typing.get_args(tp) if arg is not type(None)]
        return [cls for classes in inner for cls in classes]
    return [tp if origin is None else origin]


def _injection_of(tp: Any) -> Injection | None:
    """Return how a parameter of this type gets its object. None if the value is an argument."""
    classes = _alternatives(tp)
    found = {injections.get(cls) if isinstance(cls, type) else None for cls in classes}
    return found.pop() if len(found) == 1 else None


def annotations_of(cls: type[Any]) -> dict[str, Any]:
    """Return the annotations of a class, as they were written."""
    if sys.version_info >= (3, 14):
        # For the same reason as in `signature_of`.
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


def read_annotation(annotation: Any, owner: Any) -> Any:
    """Return the type that an annotation of ``owner``, a function or a class, means.

    Raises:
        Exception: anything that evaluating the annotation raises.
    """
    return _resolve(annotation, [owner] if isinstance(owner, type) else layers_of(owner))


# ---------------------------------------------------------------- the whole handler


def signature_of(function: Any) -> inspect.Signature:
    """Return the signature, with annotations as they were written."""
    if sys.version_info >= (3, 14):
        # From 3.14 on, annotations are evaluated on demand. A broken annotation must not affect the others.
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def _must_not_restrict(tp: Any) -> None:
    """Refuse constraints on a value that is not converted."""
    metadata = typing.get_args(tp)[1:] if typing.get_origin(tp) is Annotated else ()
    if any(type(each).__module__.partition(".")[0] in _LIBRARIES for each in metadata):
        raise TypeError(
            "a constraint on a stream or on an injected value cannot be enforced: annotate the items of the stream"
        )


def of_framework(value: Any) -> str:
    """Return why a parameter cannot have ``value`` as its default or type, if it contains ``Depends(...)`` or the like.

    Otherwise the caller could pass a value that only the framework should find, such as the user. And as a default,
    such an object counts as true.
    """
    if any(base.__module__ in _FRAMEWORKS for base in type(value).__mro__):
        return (
            f"{type(value).__name__}(...) is for the routes of a web framework, and wsrpc would not resolve it: set "
            "the value as handshake.state[...] in on_handshake, or as state= of serve_websocket, and read peer.state"
        )
    if typing.get_origin(value) is Annotated or typing.get_origin(value) in UNIONS:
        parts: tuple[Any, ...] = typing.get_args(value)
        return next((text for part in parts if (text := of_framework(part))), "")
    inner = unwrapped(value)
    return "" if inner is None else of_framework(inner)


def _annotated_type(declared: inspect.Parameter, layers: list[Any]) -> Any:
    try:
        return _resolve(declared.annotation, layers)
    except NameError as exc:
        raise TypeError(
            f"cannot resolve the annotation {declared.annotation!r} ({exc}): define it at module level, and "
            "import it outside `if TYPE_CHECKING:`"
        ) from exc
    except Exception as exc:
        raise TypeError(f"the annotation {declared.annotation!r} is not a type: {exc}") from exc


def _parameter(declared: inspect.Parameter, layers: list[Any], preset: Collection[str]) -> Parameter | None:
    """Decide how one parameter of the signature gets its value. Return None if it gets no value.

    Raises:
        TypeError: the parameter cannot work. The text says what to do.
    """
    if declared.kind is declared.VAR_KEYWORD or (declared.kind is declared.KEYWORD_ONLY and declared.name in preset):
        return None
    tp = _annotated_type(declared, layers)
    if text := of_framework(declared.default) or of_framework(tp):
        raise TypeError(text)
    required, keyword = declared.default is declared.empty, declared.kind is declared.KEYWORD_ONLY
    read = Parameter(declared.name, "wire", tp, required, None if required else declared.default, keyword)
    if (injection := _injection_of(tp)) is not None:
        return _injected_parameter(declared, read, injection)
    while typing.get_origin(tp) is Annotated and set(_alternatives(tp)) & stream_annotations:
        _must_not_restrict(tp)
        tp = typing.get_args(tp)[0]
    if any(cls in stream_annotations for cls in _alternatives(tp) if isinstance(cls, type)):
        return _stream_parameter(declared, read._replace(type=tp))
    return _wire_parameter(declared, read)


def _injected_parameter(declared: inspect.Parameter, read: Parameter, injection: Injection) -> Parameter:
    _must_not_restrict(read.type)
    if declared.kind is declared.VAR_POSITIONAL:
        raise TypeError("this class is injected, which works for one parameter and not for *args")
    return read._replace(source="injected", injection=injection)


def _stream_parameter(declared: inspect.Parameter, read: Parameter) -> Parameter:
    tp = read.type
    if typing.get_origin(tp) not in stream_annotations and tp not in stream_annotations:
        raise TypeError("the stream that the caller sends stands alone: annotate AsyncIterator[...], without `|`")
    if declared.kind is declared.VAR_POSITIONAL:
        raise TypeError("one parameter reads the stream that the caller sends, *args cannot")
    item, *_ = (*typing.get_args(tp), Any)
    return read._replace(source="stream", type=for_msgspec(item), required=True, default=None)


def _wire_parameter(declared: inspect.Parameter, read: Parameter) -> Parameter:
    classes = _alternatives(read.type)
    if any(cls is AsyncGenerator for cls in classes):
        raise TypeError("a stream that the caller sends is only read: annotate AsyncIterator[...]")
    if type(declared.default).__module__ == "pydantic.fields":
        raise TypeError("its default is pydantic's Field(...): write `name: Annotated[..., Field(...)] = default`")
    for cls in classes:
        base = next((base for base in getattr(cls, "__mro__", ()) if base in injections), None)
        if base is not None:
            name = base.__qualname__
            raise TypeError(f"only {name} itself is injected: annotate {name} or {name} | None")
    rest = declared.kind is declared.VAR_POSITIONAL
    return read._replace(source="rest" if rest else "wire", type=for_msgspec(read.type))


def read_signature(function: Any, what: str = "handler") -> Facts:
    """Read the signature of a function: its parameters get their values from the wire and by injection.

    Raises:
        TypeError: a parameter cannot work. The text says why, and what to do.
    """
    layers = layers_of(function)
    body, name = body_of(function), full_name(function)
    read = Facts(what, name, place_of(layers, name), inspect.iscoroutinefunction(body))
    try:
        signature = signature_of(function)
    except (ValueError, TypeError) as exc:
        advice = "wrap it in a function with annotated parameters"
        raise read.refusal(None, f"its signature cannot be read ({exc}): {advice}") from exc
    # An argument that a partial has set by name stays set, although it looks like a default.
    preset = {name for layer in layers if isinstance(layer, functools.partial) for name in layer.keywords}
    parameters: list[Parameter] = []
    for declared in signature.parameters.values():
        try:
            parameter = _parameter(declared, layers, preset)
            if parameter is not None and parameter.keyword and any(p.source == "rest" for p in parameters):
                parameter = _after_rest(parameter)
        except TypeError as exc:
            raise read.refusal(declared.name, str(exc)) from exc.__cause__
        if parameter is not None:
            parameters.append(parameter)
    return read._replace(parameters=tuple(parameters))


def _after_rest(parameter: Parameter) -> Parameter | None:
    """Return a parameter after ``*args``, which gets all arguments of the message. None if it gets no value."""
    if parameter.source != "wire":
        return parameter
    if parameter.required:
        raise TypeError(
            "it follows *args, which takes all further arguments, and arguments from the wire have no names: "
            "put it before *args, or give it a default"
        )
    return None


def introspect(function: Any) -> Facts:
    """Find out everything about a handler, once, when it is registered.

    Raises:
        TypeError: ``function`` cannot be a handler. The text says why, and what to do.
    """
    if not callable(function):
        called = ", the result of calling the function: leave out the parentheses"
        raise TypeError(f"a handler is a function, got {function!r}{called if inspect.iscoroutine(function) else ''}")
    read = read_signature(function)
    return read._replace(parameters=by_place(read.parameters), kind=_kind(read, function))


def by_place(parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """Return the parameters in the order in which positional arguments fill them.

    A keyword-only parameter may be required although a parameter before it has a default. Callers then have to send
    both.
    """
    wire = [p for p in parameters if p.source == "wire"]
    last = max((number for number, p in enumerate(wire) if p.required), default=0)
    needed = {p.name for p in wire[:last]}
    return tuple(p._replace(required=True) if p.name in needed else p for p in parameters)


def _kind(read: Facts, function: Any) -> Kind:
    talks, reads = channel_parameters(read)
    if talks and not read.is_coroutine:
        text = (
            "the body is the conversation, so it has to be an `async def` that does not yield; in another function "
            "take ctx.channel(), register handlers on it and return it"
        )
        raise read.refusal(talks[0], text)
    if reads and not (read.is_coroutine or inspect.isasyncgenfunction(body_of(function))):
        raise read.refusal(reads[0], "reading the stream that the caller sends takes an `async def`")
    if reads:
        return Kind.UPLOAD if read.is_coroutine else Kind.EXCHANGE
    if talks:
        return Kind.CONVERSATION
    return Kind.STREAM if is_generator(body_of(function)) else Kind.REQUEST


def channel_parameters(read: Facts) -> tuple[list[str], list[str]]:
    """Return the names of the parameters that are a channel, and of those that are a stream: at most one in total.

    Raises:
        TypeError: there are several such parameters.
    """
    talks = [p.name for p in read.parameters if p.injection is not None and p.injection.conversation]
    reads = [p.name for p in read.parameters if p.source == "stream"]
    if len(talks) + len(reads) > 1:
        text = "one request opens one channel, so only one parameter can be a channel or a stream"
        raise read.refusal([*talks, *reads][1], text)
    return talks, reads


# ---------------------------------------------------------------- the result, for descriptions and contracts

_AWAITED = (Awaitable, Coroutine, asyncio.Future, asyncio.Task)


class Result(NamedTuple):
    """The result of a handler by its annotation: one value of the type, a stream of such items, or a channel."""

    kind: Kind
    """A request, a stream or a conversation."""
    type: Any = Any
    origin: Any = None
    """The class of a stream, without its brackets."""
    awaited: bool = False
    """Whether the annotation is an awaitable of the result."""
    blocking: bool = False
    """Whether the stream or the channel is for threads: a plain iterator, or a class of `wsrpc.blocking`."""


def _annotated_result(function: Any) -> Any:
    called = without_partials(function)
    if isinstance(called, type):  # calling a class makes an instance, whatever the annotation of its __init__ says
        return called
    return _resolve(signature_of(function).return_annotation, layers_of(function))


def result_of(function: Any) -> Result:
    """Return the result of a handler according to its annotation. Calls do not need it.

    Raises:
        TypeError: the annotation cannot be resolved.
    """
    yields = is_generator(body_of(function))
    try:
        tp = _annotated_result(function)
    except Exception as exc:  # anything that evaluating an annotation raises
        raise TypeError(f"the annotation of its result cannot be resolved: {exc}") from exc
    awaited = False
    while True:
        origin = typing.get_origin(tp) or tp
        if origin in _AWAITED:
            awaited = True
            tp = typing.get_args(tp)[-1] if typing.get_args(tp) else Any
        elif origin is Annotated and (typing.get_origin(typing.get_args(tp)[0]) or typing.get_args(tp)[0]) in _AWAITED:
            tp = typing.get_args(tp)[0]
        else:
            break
    cls: Any = origin
    iterates = (isinstance(cls, type) and issubclass(cls, Iterator)) or (yields and origin is Iterable)
    if iterates or origin in stream_annotations or origin is AsyncGenerator:
        item, *_ = (*typing.get_args(tp), Any)
        return Result(Kind.STREAM, item, origin, awaited, iterates)
    if yields:
        return Result(Kind.STREAM)
    injection = _injection_of(tp)
    if injection is not None and injection.conversation:
        return Result(Kind.CONVERSATION, tp, awaited=awaited, blocking=injection.blocking)
    return Result(Kind.REQUEST, tp, awaited=awaited)

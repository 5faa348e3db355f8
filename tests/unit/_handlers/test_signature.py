# No `from __future__ import annotations` here: most handlers are defined inside tests, and annotations
# that are text could not see their classes. Those are in future_annotated.py.
import asyncio
import functools
import gc
import inspect
import itertools
import math
import operator
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import future_annotated as future
import msgspec
import pydantic
import pytest
from msgspec import Meta

from wsrpc import Context
from wsrpc._handlers import compiled
from wsrpc._handlers.arguments import refused as refused_arguments
from wsrpc._handlers.compiled import ArgumentsRefused, Handler
from wsrpc._handlers.injections import Injection, injections
from wsrpc._handlers.invocation import Invocation
from wsrpc._handlers.method import HandlerOptions
from wsrpc._protocol.messages import WireMessage
from wsrpc.errors import BadArguments


class FakePeer:
    pass


injections[FakePeer] = Injection(operator.attrgetter("peer"))


class SubPeer(FakePeer):
    pass


PEER: Any = FakePeer()
CALL = Invocation(PEER, WireMessage(i=1))
CTX = CALL.context


def made(function: Callable[..., Any], *, dec_hook: Any = None, **options: Any) -> Handler:
    return Handler(function, HandlerOptions(**options), dec_hook=dec_hook)


def run(function: Callable[..., Any] | Handler, *arguments: Any, **options: Any) -> Any:
    handler = function if isinstance(function, Handler) else made(function, **options)
    return handler.call(CALL, ["event", *arguments])


def refused(function: Callable[..., Any] | Handler, *arguments: Any, **options: Any) -> BadArguments:
    with pytest.raises(ArgumentsRefused) as caught:
        run(function, *arguments, **options)
    return caught.value.error


def refusal(function: Any, **options: Any) -> str:
    with pytest.raises(TypeError) as caught:
        made(function, **options)
    return str(caught.value)


def add(a: int, b: int) -> int:
    return a + b


class User(msgspec.Struct):
    name: str
    tags: list[str] = []


@dataclass
class Point:
    x: int
    y: int = 0


Counted = TypedDict("Counted", {"a": int})  # noqa: UP013


class Model(pydantic.BaseModel):
    id: int


class Opaque:
    def __init__(self, value: Any) -> None:
        self.value = value


def opaque_hook(tp: type[Any], value: Any) -> Any:
    if tp is Fraction:
        return Fraction(value)
    assert tp is Opaque
    return Opaque(value)


# ---------------------------------------------------------------- conversion


def test_arguments_that_fit_are_passed_on() -> None:
    assert run(add, 1, 2) == 3


def test_a_handler_without_parameters() -> None:
    assert run(lambda: "Ada") == "Ada"
    error = refused(lambda: "Ada", 1)
    assert error.message == "event(): expected no arguments, got 1"


@pytest.mark.parametrize(
    ("tp", "value", "expected"),
    [
        (int, 1, 1),
        (float, 1, 1.0),
        (str, "x", "x"),
        (bytes, "YQ==", b"a"),
        (bytes, b"a", b"a"),
        (bool, False, False),
        (None, None, None),
        (list, [1], [1]),
        (dict, {1: 2}, {1: 2}),
        (int | None, None, None),
        (int | None, 5, 5),
        (float | None, 5, 5.0),
        (int | str, "x", "x"),
        (User, {"name": "Ada", "tags": ["x"]}, User("Ada", ["x"])),
        (User | None, None, None),
        (list[User], [{"name": "Ada"}], [User("Ada")]),
        (Point, {"x": 1}, Point(1)),
        (set[int], [1, 1], {1}),
        (tuple[int, str], [1, "x"], (1, "x")),
        (dict[int, int], {"1": 2}, {1: 2}),
        (Literal["a", "b"], "a", "a"),
        (datetime, "2024-01-02T03:04:05Z", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (UUID, "00000000-0000-0000-0000-000000000001", UUID(int=1)),
        (Decimal, "1.5", Decimal("1.5")),
        (Annotated[int, Meta(ge=1)], 1, 1),
        (Annotated[int, ["unhashable"]], 1, 1),
        (Model, {"id": 1}, Model(id=1)),
        (list[Model], [{"id": 1}], [Model(id=1)]),
        (Model | None, None, None),
        (Model | None, {"id": 1}, Model(id=1)),
        (Counted, {"a": 1}, {"a": 1}),
        (NamedTuple("N", [("a", int)]), [1], (1,)),
        (TypeVar("V"), [1], [1]),
    ],
)
def test_types(tp: Any, value: Any, expected: Any) -> None:
    def echo(value: tp) -> Any:
        return value

    def beside(before: int, value: tp, after: Any = None) -> Any:
        return value

    def rest(*values: tp) -> Any:
        return values[1]

    for result in (
        run(echo, value),
        run(beside, 1, value),
        run(beside, 1, value, 2),
        run(rest, value, value),
    ):
        assert result == expected
        assert type(result) is type(expected) or isinstance(result, tuple)


def test_what_is_not_annotated_is_not_touched() -> None:
    value = {"a": [1]}
    assert run(lambda a, b: (a, b), value, None)[0] is value

    def mixed(a, b: User, c: Any):  # type: ignore[no-untyped-def]
        return a, b, c

    a, b, c = run(mixed, value, {"name": "Ada"}, value)
    assert a is value and b == User("Ada") and c is value


def test_what_is_annotated_with_object_is_not_touched_either() -> None:
    def handler(one: object, two: "object" = None, *rest: object) -> object:
        return [one, two, *rest]

    def mixed(number: int, things: list[object]) -> object:
        return [number, *things]

    value = {"a": [1]}
    assert run(handler, value)[0] is value
    assert run(handler, value, "b", 3, None) == [value, "b", 3, None]
    assert run(mixed, 1, [value, "b"]) == [1, value, "b"]
    assert run(mixed, 1, [value, "b"], dec_hook=opaque_hook) == [1, value, "b"]
    assert "number" in str(refused(mixed, "1", []))


def test_lax_takes_numeric_text_and_integral_floats() -> None:
    assert run(add, "1", 2.0, lax=True) == 3
    assert run(lambda *n: n, "1", lax=True) == ("1",)

    def total(*numbers: int) -> int:
        return sum(numbers)

    assert run(total, "1", 2.0, lax=True) == 3
    assert refused(add, "1", 2).data["got"] == "str"


def test_bool_is_not_an_int() -> None:
    assert refused(add, True, 2).message == "event(): argument 'a' (1st): expected int, got bool"


def test_dec_hook_converts_custom_classes_also_in_containers_and_rest() -> None:
    def unwrap(one: Opaque, some: list[Opaque], *more: Opaque) -> Any:
        return one.value, [o.value for o in some], [o.value for o in more]

    assert run(unwrap, 1, [2], 3, 4, dec_hook=opaque_hook) == (1, [2], [3, 4])


def test_dec_hook_that_refuses() -> None:
    def half(value: Fraction) -> Fraction:
        return value / 2

    assert run(half, "1/2", dec_hook=opaque_hook) == Fraction(1, 4)
    error = refused(half, "x", dec_hook=opaque_hook)
    assert error.message == "event(): argument 'value' (1st): Invalid literal for Fraction: 'x'"


def test_dec_hook_that_fails_otherwise_is_not_the_callers_fault() -> None:
    def half(value: Fraction) -> Fraction:
        return value / 2

    with pytest.raises(ZeroDivisionError):
        run(half, "1/0", dec_hook=opaque_hook)


def test_a_hook_with_msgspec_inside_does_not_confuse_the_path() -> None:
    def hook(tp: type[Any], value: Any) -> Any:
        return Opaque(msgspec.convert(value, list[list[int]]))

    def handler(value: Opaque) -> Any:
        return value.value

    error = refused(handler, [[0]] * 9 + [["x"]], dec_hook=hook)
    assert "expected int, got str" in error.message.lower().replace("`", "")


# ---------------------------------------------------------------- counts and defaults


def test_too_few_and_too_many() -> None:
    error = refused(add, 1)
    assert error.message == "event(): missing argument 'b': expected 2 arguments, got 1"
    assert error.data == {"parameter": "b", "expected": 2, "got": 1}
    error = refused(add, 1, 2, 3)
    assert error.message == "event(): expected at most 2 arguments, got 3"
    assert error.data == {"expected": 2, "got": 3}


def test_too_few_and_too_many_without_annotations() -> None:
    def untyped(a, b=2):  # type: ignore[no-untyped-def]
        return a, b

    assert run(untyped, 1) == (1, 2)
    assert run(untyped, 1, None) == (1, None)
    assert refused(untyped).message == "event(): missing argument 'a': expected at least 1 argument, got 0"
    assert refused(untyped, 1, 2, 3).message == "event(): expected at most 2 arguments, got 3"


def test_too_few_for_args() -> None:
    def handler(a: int, b: int, *rest: int) -> Any:
        return a, b, rest

    expected = "event(): missing argument 'b': expected at least 2 arguments, got 1"
    assert refused(handler, 1).message == expected


def test_defaults_apply_for_each_number_of_arguments() -> None:
    def handler(a: int, b: str = "b", c: User | None = None, d: float = 1.5) -> Any:
        return a, b, c, d

    assert run(handler, 1) == (1, "b", None, 1.5)
    assert run(handler, 1, "x") == (1, "x", None, 1.5)
    assert run(handler, 1, "x", {"name": "Ada"}) == (1, "x", User("Ada"), 1.5)
    assert run(handler, 1, "x", None, 2) == (1, "x", None, 2.0)
    assert refused(handler, 1, "x", None, 2, 3).data == {"expected": 4, "got": 5}
    assert refused(handler, 1, 2).data == {"parameter": "b", "expected": "str", "got": "int"}


def test_a_default_is_the_very_same_object_and_need_not_fit_the_type() -> None:
    shared: list[int] = [1, 2]
    missing = object()

    def handler(a: list[int] = shared, peer: FakePeer = PEER, b: int = missing) -> Any:  # type: ignore[assignment]
        return a, b

    a, b = run(handler)
    assert a is shared and b is missing
    a, b = run(handler, [3])
    assert a == [3] and b is missing

    def converted(a: User, b: dict[str, list[int]] = {"x": shared}) -> Any:  # noqa: B006
        return b

    assert run(converted, {"name": "Ada"})["x"] is shared


def test_null_is_a_value_and_not_a_missing_argument() -> None:
    def handler(a: int = 1) -> int:
        return a

    assert refused(handler, None).message == "event(): argument 'a' (1st): expected int, got null"


# ---------------------------------------------------------------- kinds of parameters


def test_positional_only() -> None:
    def handler(a: int, b: int = 2, /, c: int = 3) -> Any:
        return a, b, c

    assert run(handler, 1) == (1, 2, 3)
    assert run(handler, 1, 5, 6) == (1, 5, 6)


def test_keyword_only_parameters_are_filled_by_place() -> None:
    def handler(a: int, *, b: int = 2, c: datetime | None = None, **more: int) -> Any:
        return a, b, c, more

    assert run(handler, 1) == (1, 2, None, {})
    assert run(handler, 1, 5) == (1, 5, None, {})
    assert run(handler, 1, 5, "2026-01-02T03:04:05") == (1, 5, datetime(2026, 1, 2, 3, 4, 5), {})
    assert refused(handler, 1, "5").data["parameter"] == "b"
    assert refused(handler, 1, 2, None, 4).message == "event(): expected at most 3 arguments, got 4"


def test_a_required_keyword_only_parameter_makes_those_before_it_required() -> None:
    def handler(a: int, b: int = 2, *, peer: FakePeer, c: int, d: int = 4) -> Any:
        return a, b, peer, c, d

    assert run(handler, 1, 5, 6) == (1, 5, PEER, 6, 4)
    assert run(handler, 1, 5, 6, 7) == (1, 5, PEER, 6, 7)
    error = refused(handler, 1, 5)
    assert error.message == "event(): missing argument 'c': expected at least 3 arguments, got 2"
    assert refused(handler, 1).data["parameter"] == "b"


def test_keyword_only_parameters_after_args_keep_their_defaults() -> None:
    def handler(*args: int, b: int = 2) -> Any:
        return args, b

    assert run(handler, 1, 5, 6) == ((1, 5, 6), 2)


def test_args() -> None:
    def typed(first: int = 0, *rest: float) -> Any:
        return first, rest

    assert run(typed) == (0, ())
    assert run(typed, 1) == (1, ())
    assert run(typed, 1, 2, 3.5) == (1, (2.0, 3.5))
    assert type(run(typed, 1, 2)[1][0]) is float
    error = refused(typed, 1, 2, "x")
    assert error.message == "event(): argument 'rest'[1]: expected float, got str"
    assert error.data == {"parameter": "rest", "path": "[1]", "expected": "float", "got": "str"}
    assert refused(typed, "x", "y").data["parameter"] == "first"


def test_args_without_annotation() -> None:
    assert run(lambda *a: a) == ()
    assert run(lambda *a: a, 1, "x", None) == (1, "x", None)
    assert run(lambda a, *b: (a, b), 1, 2, 3) == (1, (2, 3))

    def half(a: User, *b):  # type: ignore[no-untyped-def]
        return a, b

    assert run(half, {"name": "Ada"}, 1, "x") == (User("Ada"), (1, "x"))


def test_args_of_structs() -> None:
    def names(*users: User) -> list[str]:
        return [user.name for user in users]

    assert run(names, {"name": "Ada"}, {"name": "Bob"}) == ["Ada", "Bob"]
    assert refused(names, {"name": "Ada"}, {"name": 1}).message == (
        "event(): argument 'users'[1].name: expected str, got int"
    )


def test_parameters_may_be_named_like_anything_in_the_generated_call() -> None:
    def handler(
        ctx: int, a: int, function: int, convert: int, s: int, size: int, _: int, call: Any, refused: User
    ) -> Any:
        return ctx, a, function, convert, s, size, _, call, refused

    assert run(handler, 1, 2, 3, 4, 5, 6, 7, 8, {"name": "x"}) == (1, 2, 3, 4, 5, 6, 7, 8, User("x"))

    def twice(__len: int, type: int, int: User | None = None, größe: str = "g") -> Any:
        return __len, type, int, größe

    assert run(twice, 1, 2) == (1, 2, None, "g")


def test_the_fast_path_gives_what_conversion_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    def optional(a: int, b: str | None = "b", c: Any = 3) -> Any:
        return a, b, c

    def injected(a: int, peer: FakePeer, b: int = 2) -> Any:
        return a, peer, b

    def around(peer: FakePeer, a: list[Any] = [1], ctx: Context | None = None) -> Any:  # noqa: B006
        return peer, a, type(ctx)

    def named(a: float, *, peer: FakePeer, b: dict[str, Any]) -> Any:
        return a, peer, b

    def rest(a: Any, *more: Any) -> Any:
        return a, more

    def outcome(handler: Handler, arguments: list[Any]) -> Any:
        try:
            return run(handler, *arguments)
        except ArgumentsRefused as exc:
            return exc.error.message

    functions: list[Callable[..., Any]] = [add, optional, injected, around, named, rest]
    fast = [Handler(function) for function in functions]
    monkeypatch.setattr(compiled, "_with_fast_path", lambda function, parameters, call: call)
    slow = [Handler(function) for function in functions]
    values: list[Any] = [1, True, 1.5, "x", None, [1], {"x": 1}]
    for size in range(4):
        for arguments in itertools.product(values, repeat=size):
            for one, other in zip(fast, slow, strict=True):
                assert repr(outcome(one, [*arguments])) == repr(outcome(other, [*arguments]))


# ---------------------------------------------------------------- injection


def test_injection_takes_no_argument() -> None:
    def handler(peer: FakePeer) -> Any:
        return peer

    assert run(handler) is PEER
    assert refused(handler, 1).message == "event(): expected no arguments, got 1"


def test_injection_in_any_place() -> None:
    def first(peer: FakePeer, a: int) -> Any:
        return peer, a

    def middle(a: int, peer: FakePeer, b: User) -> Any:
        return a, peer, b

    def last(a: int, b: str, /, peer: FakePeer) -> Any:
        return a, b, peer

    def keyword(a: int, *, peer: FakePeer, context: Context) -> Any:
        return a, peer, context

    def with_rest(a: int, peer: FakePeer, *rest: int, context: Context) -> Any:
        return a, peer, rest, context

    assert run(first, 1) == (PEER, 1)
    assert run(middle, 1, {"name": "Ada"}) == (1, PEER, User("Ada"))
    assert run(last, 1, "x") == (1, "x", PEER)
    assert run(keyword, 1) == (1, PEER, CTX)
    assert run(with_rest, 1) == (1, PEER, (), CTX)
    assert run(with_rest, 1, 2, 3) == (1, PEER, (2, 3), CTX)


def test_injection_among_defaults() -> None:
    def handler(a: int = 1, peer: FakePeer | None = None, b: int = 2, *rest: int, key: int = 3) -> Any:
        return a, peer, b, rest, key

    assert run(handler) == (1, PEER, 2, (), 3)
    assert run(handler, 5) == (5, PEER, 2, (), 3)
    assert run(handler, 5, 6) == (5, PEER, 6, (), 3)
    assert run(handler, 5, 6, 7) == (5, PEER, 6, (7,), 3)
    assert refused(handler, 5, "x").message == "event(): argument 'b' (2nd): expected int, got str"


def test_an_optional_or_annotated_class_is_injected() -> None:
    def optional(peer: FakePeer | None = None) -> Any:
        return peer

    def annotated(peer: Annotated[FakePeer, "doc"]) -> Any:
        return peer

    assert run(optional) is PEER
    assert run(annotated) is PEER


def test_a_subclass_or_a_union_with_others_is_refused() -> None:
    def sub(peer: SubPeer) -> None: ...

    def union(peer: FakePeer | int) -> None: ...

    def rest(*peers: FakePeer) -> None: ...

    assert "parameter 'peer': only FakePeer itself is injected: annotate FakePeer" in refusal(sub)
    assert "parameter 'peer': only FakePeer itself is injected" in refusal(union)
    assert "parameter 'peers': this class is injected" in refusal(rest)


# ---------------------------------------------------------------- callables


def test_bound_methods_classmethods_staticmethods_and_callable_objects() -> None:
    store = future.Store()
    assert run(store.add, {"name": "Ada"}) == 1
    assert store.users == [future.User("Ada")]
    assert run(future.Store.kind, {"name": "Ada"}) == ("Store", "Ada")
    assert run(future.Store.greet, {"name": "Ada"}) == "hello Ada"
    assert run(store, {"name": "Ada"}) == "called with Ada"
    assert refused(store.add, {"name": 1}).message == "event(): argument 'user'.name: expected str, got int"


def test_partial_with_positional_arguments() -> None:
    handler = functools.partial(future.rename, future.User("Ada"))
    assert run(handler).name == "ADA"
    assert run(handler, "Bob").name == "Bob"
    assert refused(handler, 1).data["parameter"] == "name"


def test_partial_with_keywords() -> None:
    assert run(functools.partial(add, b=10), 1) == 11
    assert run(functools.partial(add, a=10), 1) == 11


def test_a_decorated_partial_keeps_what_it_bound() -> None:
    def handler(a: int, *, user: str = "nobody") -> Any:
        return a, user

    bound = functools.partial(handler, user="admin")

    @functools.wraps(bound)
    def logged(*args: Any, **more: Any) -> Any:
        return bound(*args, **more)

    assert run(logged, 1) == (1, "admin")
    assert refused(logged, 1, "mallory").message == "event(): expected at most 1 argument, got 2"


def test_partial_keeps_what_it_bound() -> None:
    def handler(a: int, *, peer: FakePeer) -> Any:
        return peer

    mine = FakePeer()
    assert run(functools.partial(handler, peer=mine), 1) is mine
    assert run(functools.partial(handler, 1)) is PEER


def test_classes_as_callables() -> None:
    assert run(Point, 1) == Point(1, 0)
    assert refused(Point, "x").data["parameter"] == "x"
    assert run(User, "Ada", ["x"]) == User("Ada", ["x"])
    assert run(future.Point, 1, 2, [{"x": 3}]) == future.Point(1, 2, [future.Point(3)])

    class Inherits(future.Labelled):
        """Its fields' annotations are text of another module."""

    assert run(Inherits, 1, 2, [{"x": 3}], "l").path == [future.Point(3)]


def test_wrapped_functions_are_resolved_where_they_were_written() -> None:
    @functools.wraps(future.rename)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return future.rename(*args, **kwargs)

    assert run(wrapper, {"name": "ada"}).name == "ADA"
    assert run(future.logged(add), 1, 2) == ("logged", 3)
    assert refused(future.logged(add), 1, "x").data["parameter"] == "b"
    assert run(functools.lru_cache(future.logged(add)), 1, 2) == ("logged", 3)


def test_builtins() -> None:
    assert run(math.sqrt, 4) == 2
    assert run(len, [1, 2]) == 2
    assert run(divmod, 7, 2) == (3, 1)
    assert run(operator.add, 1, 2) == 3
    assert run([1, 2].append, 3) is None
    assert refused(math.sqrt).message == "event(): missing argument 'x': expected 1 argument, got 0"


def test_a_builtin_without_a_signature_is_refused_with_advice() -> None:
    for function in (max, getattr, int):
        text = refusal(function)
        assert f"handler builtins.{function.__name__} " in text
        assert "its signature cannot be read" in text and "wrap it in a function" in text


def test_a_function_that_is_given_a_signature() -> None:
    def anything(*args: Any) -> Any:
        return args

    parameter = inspect.Parameter("n", inspect.Parameter.POSITIONAL_ONLY, annotation="Annotated[int, Meta(ge=1)]")
    anything.__signature__ = inspect.Signature([parameter])  # type: ignore[attr-defined]
    assert run(anything, 1) == (1,)
    assert refused(anything, 0).message == "event(): argument 'n' (1st): expected int >= 1"


async def test_coroutine_functions_and_functions_that_return_awaitables() -> None:
    async def slow(a: int) -> int:
        await asyncio.sleep(0)
        return a + 1

    def passes_on(a: int) -> Awaitable[int]:
        return slow(a)

    class Caller:
        async def __call__(self, a: int) -> int:
            return await slow(a)

    functions: list[tuple[Callable[..., Any], bool]] = [
        (slow, True),
        (functools.partial(slow, 1), True),
        (Caller(), True),
        (Caller().__call__, True),
        (functools.partial(Caller()), True),
        (passes_on, False),
        (functools.wraps(slow)(lambda a: slow(a)), False),
    ]
    for function, known in functions:
        handler = Handler(function)
        assert handler.facts.is_coroutine is known
        arguments = [] if isinstance(function, functools.partial) and function.args else [1]
        assert await run(handler, *arguments) == 2
    assert Handler(add).facts.is_coroutine is False
    assert Handler(Point).facts.is_coroutine is False
    assert Handler(Caller).facts.is_coroutine is False


# ---------------------------------------------------------------- annotations that are text


def test_text_annotations_forward_references_and_meta() -> None:
    ada = {"name": "Ada", "friend": {"name": "Bob"}}
    assert run(future.rename, ada, None).name == "ADA"
    assert run(future.later, {"word": "yes"}) == "yes"
    assert run(future.many, [ada, {"name": "Cy"}], 2) == ["Ada", "Cy"]
    assert refused(future.many, [], 0).message == "event(): argument 'limits' (2nd): expected int >= 1"
    assert refused(future.rename, {"name": "Ada", "friend": {"name": 1}}).data["path"] == ".friend.name"


def test_forward_references_inside_other_annotations() -> None:
    def handler(points: list["Point"], one: "Point | None" = None) -> Any:
        return points, one

    assert run(handler, [{"x": 1}], {"x": 2}) == ([Point(1)], Point(2))


def test_a_broken_return_annotation_does_not_matter() -> None:
    assert run(future.broken_return, 1, 2) == 3


def test_an_annotation_that_cannot_be_resolved_is_refused() -> None:
    text = refusal(future.unresolvable)
    assert "handler future_annotated.unresolvable (" in text and "future_annotated.py:" in text
    assert "parameter 'thing': cannot resolve the annotation 'DefinedNowhere'" in text
    assert "define it at module level" in text
    assert "import it outside `if TYPE_CHECKING:`" in refusal(future.only_for_checkers)


def test_a_local_class_as_text_is_refused_with_advice() -> None:
    class Local(msgspec.Struct):
        pass

    def handler(value: "Local") -> Any:
        return value

    assert "parameter 'value': cannot resolve the annotation 'Local'" in refusal(handler)


def test_other_annotations_that_are_no_types_are_refused() -> None:
    def number(value: 3) -> None: ...  # type: ignore[valid-type]

    def syntax(value: "int |") -> None: ...  # type: ignore[valid-type]  # noqa: F722

    assert "parameter 'value'" in refusal(future.not_a_type)
    assert "parameter 'value'" in refusal(number)
    assert "parameter 'value': the annotation 'int |' is not a type" in refusal(syntax)
    assert "parameter 'value': " in refusal(future.broken_inside)
    assert "has a field whose type cannot be resolved: name 'DefinedNowhere'" in refusal(future.broken_inside)


# ---------------------------------------------------------------- refused at registration


def test_what_is_not_callable_is_refused() -> None:
    assert refusal("add") == "a handler is a function, got 'add'"
    assert refusal(None) == "a handler is a function, got None"


def test_keyword_only_without_a_default_after_args_is_refused() -> None:
    def handler(*args: int, flag: bool) -> None: ...

    text = refusal(handler)
    assert "parameter 'flag': it follows *args, which takes all further arguments" in text
    assert "put it before *args, or give it a default" in text


def test_types_that_cannot_work_are_refused() -> None:
    def union(when: str | datetime) -> None: ...

    def custom(a: int, *things: Opaque) -> None: ...

    def nested(things: dict[str, list[Opaque]]) -> None: ...

    def mixed(thing: Opaque | int) -> None: ...

    assert "parameter 'when': str | datetime.datetime cannot be decided: unions may not contain" in refusal(union)
    text = refusal(custom)
    assert f"parameter 'things': values from the wire cannot be converted to {__name__}.Opaque" in text
    assert "dec_hook=" in text
    assert "parameter 'things'" in refusal(nested)
    assert (
        "parameter 'thing': msgspec cannot enforce test_signature.Opaque | int, and pydantic refuses the type"
        in refusal(mixed)
    )
    Handler(custom, dec_hook=opaque_hook)
    Handler(nested, dec_hook=opaque_hook)


def test_thread_for_a_coroutine_function_is_refused() -> None:
    async def handler() -> None: ...

    assert "thread=True is for plain functions" in refusal(handler, thread=True)
    assert Handler(add, HandlerOptions(thread=True)).thread is True


# ---------------------------------------------------------------- what the caller is told


def test_the_error_names_what_was_called() -> None:
    handler = Handler(add)
    for name, expected in [("sum", "sum(): "), (7, "handler: "), ("n" * 999, "n" * 64 + "(): ")]:
        with pytest.raises(ArgumentsRefused) as caught:
            handler.call(CALL, [name, 1, "x"])
        assert caught.value.error.message == f"{expected}argument 'b' (2nd): expected int, got str"


def test_the_error_says_where_in_the_argument() -> None:
    def handler(count: int, user: User, scores: dict[int, list[int]]) -> None: ...

    error = refused(handler, 1, {"name": "Ada", "tags": ["a", "b", 3]}, {})
    assert error.message == "event(): argument 'user'.tags[2]: expected str, got int"
    assert error.data == {"parameter": "user", "path": ".tags[2]", "expected": "str", "got": "int"}
    assert refused(handler, 1, {}, {}).message == (
        "event(): argument 'user' (2nd): Object missing required field `name`"
    )
    assert refused(handler, 1, {"name": "x"}, {"1": [2, "x"]}).message == (
        "event(): argument 'scores'[...][1]: expected int, got str"
    )
    assert refused(handler, 1, {"name": "x"}, {"x": []}).message == (
        "event(): a key of argument 'scores' (3rd): expected int, got str"
    )


def test_ordinals() -> None:
    names = [f"p{n}" for n in range(1, 24)]
    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY, annotation=int) for n in names]

    def handler(*args: Any) -> Any:
        return args

    handler.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    for wrong, ordinal in [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (13, "13th"),
        (22, "22nd"),
    ]:
        values: list[Any] = [0] * 23
        values[wrong - 1] = "x"
        assert f"argument 'p{wrong}' ({ordinal}): " in refused(handler, *values).message


def test_pydantic_errors_name_the_field_and_not_the_value() -> None:
    def handler(model: Model) -> None: ...

    error = refused(handler, {"id": "secret"})
    assert error.message == (
        "event(): argument 'model' (1st): id: Input should be a valid integer, unable to parse string as an integer"
    )


def test_large_values_are_not_echoed() -> None:
    def handler(color: Literal["red"], names: dict[str, int]) -> None: ...

    arguments: tuple[str, dict[str, int]]
    for arguments in [("x" * 100_000, {}), ("red` - at `$[7]`" * 10_000, {})]:
        error = refused(handler, *arguments)
        assert "argument 'color' (1st): Invalid enum value" in error.message
        assert len(error.message) < 400
        assert len(msgspec.json.encode(error.data)) < 400


def test_explain_is_the_same_for_a_conversion_done_elsewhere() -> None:
    parameters = Handler(add).facts.parameters
    exc = msgspec.ValidationError("Expected `int`, got `str` - at `$[2]`")
    error = refused_arguments(parameters, exc, ["e", 1, "x"]).error
    assert isinstance(error, BadArguments)
    assert error.message == "e(): argument 'b' (2nd): expected int, got str"
    for text in ("something else", "Expected `int`, got `str` - at `$[9]`", "bad - at `$[0]`"):
        assert text in refused_arguments(parameters, msgspec.ValidationError(text), ["e", 1, 2]).error.message


# ---------------------------------------------------------------- whose error it is


def test_errors_of_the_handler_come_through_as_they_are() -> None:
    nested = BadArguments("from a nested request")

    def fails(a: int, user: User | None = None) -> None:
        raise nested

    def validates(a: int, user: User | None = None) -> None:
        msgspec.convert("x", int)

    def type_error(a: int, user: User | None = None) -> None:
        len(a)  # type: ignore[arg-type]

    for arguments in [(1,), (1, {"name": "Ada"})]:
        with pytest.raises(BadArguments) as caught:
            run(fails, *arguments)
        assert caught.value is nested
        with pytest.raises(msgspec.ValidationError):
            run(validates, *arguments)
        with pytest.raises(TypeError, match="has no len"):
            run(type_error, *arguments)


def test_a_handler_that_is_refused_does_not_run() -> None:
    calls: list[Any] = []

    def handler(a: int, *rest: int) -> None:
        calls.append(a)

    refused(handler, "x")
    refused(handler, 1, "x")
    refused(handler)
    assert calls == []


# ---------------------------------------------------------------- the handler object


def test_the_handler_knows_its_name_and_place() -> None:
    line = add.__code__.co_firstlineno
    handler = Handler(add, HandlerOptions(ordered=True))
    assert handler.function is add
    assert handler.name == f"{__name__}.add"
    assert handler.where == f"{__file__}:{line}"
    assert (handler.thread, handler.lane) == (False, handler)
    assert [p.name for p in handler.facts.parameters] == ["a", "b"]
    assert repr(handler) == f"<Handler {handler.name} ({handler.where})>"

    wrapped = Handler(functools.partial(future.logged(add), 1))
    assert (wrapped.name, wrapped.where) == (handler.name, handler.where)
    assert Handler(future.Store().add).name == "future_annotated.Store.add"
    assert Handler(future.Store()).name == "future_annotated.Store"
    assert Handler(math.sqrt).where == "math.sqrt"
    assert Handler(Point).where == f"{__name__}.Point"


def test_handlers_of_one_shape_do_not_share_anything_that_matters() -> None:
    handlers = [Handler(functools.partial(lambda n, a, b=0: (n, a, b), n)) for n in range(3)]
    assert [run(handler, "a") for handler in handlers] == [(0, "a", 0), (1, "a", 0), (2, "a", 0)]


def test_a_handler_goes_with_its_last_reference_without_the_collector() -> None:
    class Room:
        def say(self, text: str, user: User | None = None) -> str:
            return text

    room = Room()
    gone = weakref.ref(room)
    handler = Handler(room.say)
    assert run(handler, "x", None) == "x"
    gc.disable()
    try:
        del room, handler
        assert gone() is None
    finally:
        gc.enable()


def test_an_argument_that_keeps_the_handlers_exception_can_be_collected() -> None:
    class Keeper:
        pass

    def handler(keeper: Opaque, text: str) -> None:
        error = ValueError(text)
        keeper.value.error = error
        raise error

    keeper = Keeper()
    gone = weakref.ref(keeper)
    with pytest.raises(ValueError):
        run(handler, keeper, "x", dec_hook=lambda tp, value: Opaque(value))
    del keeper
    gc.collect()
    assert gone() is None

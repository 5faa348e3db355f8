# No `from __future__ import annotations` here: most handlers are defined inside tests, and annotations
# that are text could not see their classes. Those are in future_annotated.py.
import functools
import inspect
import itertools
import operator
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

import attrs
import fastapi
import future_annotated as future
import litestar.di
import litestar.params
import msgspec
import pydantic
import pytest
import typing_extensions
from core_driver import Driven
from leftovers import nothing_left as nothing_left
from stream_driver import emptied

from wsrpc import AnonymousChannel, Context, Peer, Server, Service, Stream, method
from wsrpc._core.handlers import compiled
from wsrpc._core.handlers.arguments import CallRefused
from wsrpc._core.handlers.compiled import Handler
from wsrpc._core.handlers.introspection import Injection, injections
from wsrpc._core.handlers.invocation import Invocation
from wsrpc._core.handlers.method import HandlerOptions
from wsrpc._core.wire.messages import WireMessage
from wsrpc.errors import BadArguments
from wsrpc.testing import pair


class FakePeer:
    pass


injections[FakePeer] = Injection(operator.attrgetter("peer"))


class SubPeer(FakePeer):
    pass


PEER: Any = FakePeer()
CALL = Invocation(PEER, WireMessage(i=1))
CTX = CALL.context


def run(function: Callable[..., Any] | Handler, *arguments: Any, dec_hook: Any = None, **options: Any) -> Any:
    if not isinstance(function, Handler):
        function = Handler(function, HandlerOptions(**options), dec_hook=dec_hook)
    return function.call(CALL, ["event", *arguments])


def refused(function: Callable[..., Any], *arguments: Any, **options: Any) -> BadArguments:
    with pytest.raises(CallRefused) as caught:
        run(function, *arguments, **options)
    error = caught.value.error
    assert isinstance(error, BadArguments)
    return error


class User(msgspec.Struct):
    name: str
    tags: list[str] = []


class Model(pydantic.BaseModel):
    id: int


class Opaque:
    def __init__(self, value: Any) -> None:
        self.value = value


def opaque_hook(tp: type[Any], value: Any) -> Any:
    assert tp is Opaque
    return Opaque(value)


ADA = {"name": "Ada"}

# ---------------------------------------------------------------- calls: what a function is called with


def add(a: int, b: int) -> int:
    return a + b


def keywords(a: int, *, b: int = 2, c: datetime | None = None, **more: int) -> Any:
    return a, b, c, more


def required_keyword(a: int, b: int = 2, *, peer: FakePeer, c: int, d: int = 4) -> Any:
    return a, b, peer, c, d


def typed_args(first: int = 0, *rest: float) -> Any:
    return first, rest


def odd_names(ctx: int, function: int, convert: int, size: int, call: Any, refused: User) -> Any:
    return ctx, function, convert, size, call, refused


def first(peer: FakePeer, a: int) -> Any:
    return peer, a


def with_rest(a: int, peer: FakePeer, *rest: int, context: Context) -> Any:
    return a, peer, rest, context


def among_defaults(
    a: int = 1, peer: Annotated[FakePeer | None, "doc"] = None, b: int = 2, *rest: int, key: int = 3
) -> Any:
    return a, peer, b, rest, key


def unhashable(a: Annotated[int, ["what is no key of a cache"]]) -> int:
    return a


def bound_by_keyword(a: int, *, user: str = "nobody", peer: FakePeer) -> Any:
    return a, user, peer


BOUND = functools.partial(bound_by_keyword, user="admin")


@functools.wraps(BOUND)
def logged(*args: Any, **more: Any) -> Any:
    return BOUND(*args, **more)


class Inherits(future.Labelled):
    """Its fields' annotations are text of another module."""


STORE = future.Store()
FRIENDS = {"name": "Ada", "friend": {"name": "Bob"}}
CALLS: list[tuple[Callable[..., Any], list[Any], Any]] = [
    (add, [1, 2], 3),
    (unhashable, [1], 1),
    (keywords, [1, 5, "2026-01-02T03:04:05"], (1, 5, datetime(2026, 1, 2, 3, 4, 5), {})),
    (required_keyword, [1, 5, 6, 7], (1, 5, PEER, 6, 7)),
    (typed_args, [1, 2, 3.5], (1, (2.0, 3.5))),
    (odd_names, [1, 2, 3, 4, 5, {"name": "x"}], (1, 2, 3, 4, 5, User("x"))),
    # Injected.
    (with_rest, [1, 2, 3], (1, PEER, (2, 3), CTX)),
    (among_defaults, [5, 6, 7], (5, PEER, 6, (7,), 3)),
    # Callables of all kinds, also of a module whose annotations are text.
    (STORE.add, [ADA], 1),
    (future.Store.kind, [ADA], ("Store", "Ada")),
    (STORE, [ADA], "called with Ada"),
    (functools.partial(future.rename, future.User("Ada")), [], future.User("ADA")),
    (logged, [1], (1, "admin", PEER)),
    (Inherits, [1, 2, [{"x": 3}], "l"], Inherits(1, 2, [future.Point(3)], "l")),
    (future.logged(add), [1, 2], ("logged", 3)),
    ([1, 2].append, [3], None),
    (future.rename, [FRIENDS, None], future.User("ADA")),
    (future.later, [{"word": "yes"}], "yes"),
    (future.broken_return, [1, 2], 3),
]


def name_of(value: Any) -> str | None:
    return getattr(value, "__qualname__", None) if inspect.isroutine(value) else None  # a partial is one from 3.14 on


@pytest.mark.parametrize(("function", "arguments", "expected"), CALLS, ids=name_of)
def test_what_a_function_is_called_with(function: Callable[..., Any], arguments: list[Any], expected: Any) -> None:
    result = run(function, *arguments)
    assert result == expected
    if isinstance(expected, tuple):
        assert [type(each) for each in result] == [type(each) for each in expected]


def scored(count: int, user: User, scores: dict[int, list[int]]) -> None: ...


def takes_model(model: Model) -> None: ...


PYDANTIC = "id: Input should be a valid integer, unable to parse string as an integer"

UNFIT: list[tuple[Callable[..., Any], list[Any], str]] = [
    (lambda: "Ada", [1], "event(): expected no arguments, got 1"),
    (add, [1], "event(): missing argument 'b': expected 2 arguments, got 1"),
    (
        lambda ctx, a, b: (ctx, a, b),
        [1, 2],
        "event(): missing argument 'b': expected 3 arguments, got 2; "
        "if 'ctx' is no argument, annotate it: `ctx: Context`",
    ),
    (keywords, [1, 2, None, 4], "event(): expected at most 3 arguments, got 4"),
    (required_keyword, [1, 5], "event(): missing argument 'c': expected at least 3 arguments, got 2"),
    (typed_args, [1, 2, "x"], "event(): argument 'rest'[1]: expected float, got str"),
    (among_defaults, [5, "x"], "event(): argument 'b' (2nd): expected int, got str"),
    (scored, [1, {**ADA, "tags": ["a", 3]}, {}], "event(): argument 'user'.tags[1]: expected str, got int"),
    (scored, [1, ADA, {"1": [2, "x"]}], "event(): argument 'scores'[...][1]: expected int, got str"),
    (scored, [1, ADA, {"x": []}], "event(): a key of argument 'scores' (3rd): expected int, got str"),
    (takes_model, [{"id": "secret"}], f"event(): argument 'model' (1st): {PYDANTIC}"),
]


@pytest.mark.parametrize(("function", "arguments", "message"), UNFIT, ids=name_of)
def test_what_does_not_fit_is_refused_and_nothing_runs(
    function: Callable[..., Any], arguments: list[Any], message: str
) -> None:
    assert refused(function, *arguments).message == message


def test_the_data_of_the_error_says_the_same() -> None:
    assert refused(add, 1).data == {"parameter": "b", "expected": 2, "got": 1}
    assert refused(add, 1, 2, 3).data == {"expected": 2, "got": 3}
    assert refused(add, 1, "x").data == {"parameter": "b", "expected": "int", "got": "str"}
    error = refused(typed_args, 1, 2, "x")
    assert error.data == {"parameter": "rest", "path": "[1]", "expected": "float", "got": "str"}


class Order(pydantic.BaseModel):
    items: dict[str, list[Model | int]] = pydantic.Field(default={}, alias="cups")
    place: Model | None = None


PATHS: list[tuple[Any, Any, str | None]] = [
    (Model, {"id": "x"}, ".id"),
    (Model, {}, None),  # as msgspec, which does not count a missing field to the path
    (Order, {"cups": {"tea": [1, {"id": "x"}]}}, ".cups.tea[1]"),
]


@pytest.mark.parametrize(("tp", "value", "path"), PATHS)
def test_errors_of_pydantic_say_the_path(tp: Any, value: Any, path: str | None) -> None:
    """They did not: `data` named the parameter only."""

    def handler(value: tp, *rest: tp) -> None: ...

    data = refused(handler, value).data
    assert isinstance(data, dict)
    assert data.get("path") == path
    fits = {Model: {"id": 1}, Order: {}}[tp]
    error = refused(handler, fits, fits, value)
    assert error.data == {**data, "parameter": "rest", "path": f"[1]{path or ''}"}


def test_the_fast_path_gives_what_conversion_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    def around(peer: FakePeer, a: list[Any] = [1], ctx: Context | None = None) -> Any:  # noqa: B006
        return peer, a, type(ctx)

    def named(a: float, *, peer: FakePeer, b: dict[str, Any]) -> Any:
        return a, peer, b

    def rest(a: Any, *more: Any) -> Any:
        return a, more

    def outcome(handler: Handler, arguments: list[Any]) -> Any:
        try:
            return run(handler, *arguments)
        except CallRefused as exc:
            return exc.error.message

    functions: list[Callable[..., Any]] = [add, around, named, rest]
    fast = [Handler(function) for function in functions]
    monkeypatch.setattr(compiled, "_with_fast_path", lambda function, parameters, call: call)
    slow = [Handler(function) for function in functions]
    values: list[Any] = [1, True, 1.5, "x", None, [1], {"x": 1}]
    for size in range(4):
        for arguments in itertools.product(values, repeat=size):
            for one, other in zip(fast, slow, strict=True):
                assert repr(outcome(one, [*arguments])) == repr(outcome(other, [*arguments]))


# ---------------------------------------------------------------- what the caller is told


def test_the_error_names_what_was_called() -> None:
    handler = Handler(add)
    for name, expected in [("sum", "sum(): "), (7, "handler: "), ("n" * 999, "n" * 64 + "(): ")]:
        with pytest.raises(CallRefused) as caught:
            handler.call(CALL, [name, 1, "x"])
        assert caught.value.error.message == f"{expected}argument 'b' (2nd): expected int, got str"


def test_large_values_are_not_echoed() -> None:
    def handler(color: Literal["red"], names: dict[str, int]) -> None: ...

    error = refused(handler, "red` - at `$[7]`" * 10_000, {})
    assert "argument 'color' (1st): Invalid enum value" in error.message
    assert len(error.message) < 400 and len(msgspec.json.encode(error.data)) < 400


# ---------------------------------------------------------------- refused at registration


async def two_readers(a: AsyncIterator[int], b: AsyncIterator[int]) -> None: ...


def plain_conversation(channel: AnonymousChannel) -> None: ...


def plain_upload(chunks: AsyncIterator[int]) -> None: ...


async def to_send_to(chunks: AsyncGenerator[int, None]) -> None: ...


class Mine(AnonymousChannel):
    pass


async def own_channel(channel: Mine) -> None: ...


async def feed() -> AsyncIterator[int]:
    yield 1


def subclass(peer: SubPeer) -> None: ...


def syntax(value: "int |") -> None: ...  # type: ignore[valid-type]  # noqa: F722


def keyword_only_after_args(*args: int, flag: bool) -> None: ...


def custom(a: int, *things: Opaque) -> None: ...


def local() -> Any:
    class Local(msgspec.Struct):
        pass

    def handler(value: "Local") -> Any:
        return value

    return handler


@attrs.define
class Document:
    _id: str


def find() -> Document:
    return Document("1")


REFUSED: list[tuple[Any, str]] = [
    ("add", "a handler is a function, got 'add'"),
    (max, r"handler builtins\.max .*signature cannot be read.*wrap it"),
    (two_readers, "'b'.*one channel"),
    (plain_conversation, r"'channel'.*async def.*ctx\.channel\(\)"),
    (plain_upload, "'chunks'.*async def"),
    (to_send_to, r"AsyncIterator\[\.\.\.\]"),
    (own_channel, "only AnonymousChannel itself"),
    (subclass, "parameter 'peer': only FakePeer itself is injected: annotate FakePeer"),
    (syntax, r"parameter 'value': the annotation 'int \|' is not a type"),
    (local(), "parameter 'value': cannot resolve the annotation 'Local'.*define it at module level"),
    (keyword_only_after_args, r"'flag': it follows \*args, which takes all.*put it before \*args, or give it a def"),
    (custom, rf"parameter 'things': values from the wire cannot be converted to {__name__}\.Opaque.*dec_hook="),
    (find, "Document._id would not be sent: rename it, or make"),
    (future.unresolvable, r"future_annotated.unresolvable \(.*annotated\.py:.*'thing': cannot resolve.*Nowhere'"),
    (future.only_for_checkers, "import it outside `if TYPE_CHECKING:`"),
    (future.not_a_type, "parameter 'value'"),
    (future.broken_inside, "'value': .*a field whose type cannot be resolved: name 'DefinedNowhere'"),
]


@pytest.mark.parametrize(("handler", "text"), REFUSED, ids=name_of)
def test_types_that_cannot_work_are_refused(handler: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text) as caught:
        Handler(handler)
    if getattr(handler, "__module__", "") == __name__:
        assert f"{__file__}:" in str(caught.value), "it says where the handler is"


def current_user() -> str:
    return "root"


CurrentUser = Annotated[str, fastapi.Depends(current_user)]
AliasOfUser = typing_extensions.TypeAliasType("AliasOfUser", CurrentUser)


class OfTheApplication(type(fastapi.Depends(current_user))):  # type: ignore[misc]
    """A subclass of the framework's class, in a module of the application."""


MARKS = [
    *(fastapi.Depends(current_user), fastapi.Header(), fastapi.File(), OfTheApplication(current_user)),
    *(*litestar.di.NamedDependency.__metadata__, litestar.params.HeaderParameter()),
]


def name_of_mark(mark: Any) -> str:
    return type(mark).__name__


@pytest.mark.parametrize("mark", MARKS, ids=name_of_mark)
@pytest.mark.parametrize("event", ["delete", "open", "on_handshake"])
def test_what_a_web_framework_would_find_is_refused(mark: Any, event: str) -> None:
    """The caller gave the user, and a default that nobody had resolved counted as a user."""

    async def by_annotation(row: int, user: Annotated[str, mark]) -> None: ...

    async def by_default(row: int, user: str | None = mark) -> None: ...

    server = Server()
    register: Callable[[Any], object] = server.on_handshake if event == "on_handshake" else server.on(event)
    text = rf"parameter 'user'.*{name_of_mark(mark)}\(\.\.\.\) is for the routes of a web framework.*peer\.state"
    with pytest.raises(TypeError, match=text):
        register(by_default)
    if event == "delete":
        with pytest.raises(TypeError, match=text):
            register(by_annotation)


FOR_ROUTES = r"parameter 'user': Depends\(\.\.\.\) is for the routes"


def optional(user: CurrentUser | None = None) -> None: ...


def alias_of_alias(user: AliasOfUser) -> None: ...


def rest(*user: CurrentUser) -> None: ...


def injected_as_well(user: Annotated[FakePeer, fastapi.Depends(current_user)]) -> None: ...


@pytest.mark.parametrize("function", [optional, alias_of_alias, rest, injected_as_well], ids=name_of)
def test_such_a_parameter_is_found_wherever_it_stands(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=FOR_ROUTES):
        Handler(function)


def test_methods_of_services_and_contracts_have_no_such_parameter_either() -> None:
    class Rows(Service):
        @method
        def delete(self, row: int, user: CurrentUser) -> None: ...

    class Contract(Protocol):
        async def delete(self, row: int, user: CurrentUser) -> None: ...

    class Factory(Service):
        def __init__(self, peer: Peer, user: str = fastapi.Depends(current_user)) -> None: ...

    with pytest.raises(TypeError, match=f"handler .*Rows.delete .*{FOR_ROUTES}"):
        Server().add_service(Rows)
    with pytest.raises(TypeError, match=f"contract .*Contract.delete .*{FOR_ROUTES}"):
        Server().declare(Contract)
    with pytest.raises(TypeError, match="add_service, parameter 'user'"):
        Server().add_service(Factory)


@dataclass
class Chunk:
    offset: int
    data: bytes


async def by_iterator(name: str, chunks: AsyncIterator[Chunk]) -> list[Any]:
    return [name, [chunk async for chunk in chunks]]


async def keyword_only(peer: Peer, name: str, ctx: Context, *, chunks: Stream[Chunk]) -> list[Any]:
    assert ctx.peer is peer
    return [name, [chunk async for chunk in chunks]]


async def with_more(chunks: "Annotated[AsyncIterable[Chunk], 'the file']", *names: str) -> list[Any]:
    return [*names, [chunk async for chunk in chunks]]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("handler", [by_iterator, keyword_only, with_more])
async def test_a_parameter_that_reads_what_is_sent(handler: Any) -> None:
    async with pair() as (left, right):
        right.on("up", handler)
        chunks = [Chunk(0, b"a"), Chunk(1, b"b")]
        name, got = await left.request("up", "n", send=chunks, returns=tuple[str, list[Chunk]])
        assert (name, got) == ("n", chunks)
        await emptied(left, right)


@pytest.mark.usefixtures("nothing_left")
async def test_an_event_for_a_handler_that_reads_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    ran: list[int] = []

    async def up(chunks: AsyncIterator[int]) -> None:
        ran.append(1)

    d.peer.on("up", up)
    assert await d.fed({"a": ["up"]}) == []
    assert ran == [] and "has to be requested" in caplog.text
    d.assert_empty()

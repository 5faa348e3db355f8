"""`implement`: what fits a contract, what does not, and where it is registered."""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncIterable, Iterator
from typing import Annotated, Any, Literal, Protocol

import msgspec
import pytest
from chat_contract import Chat, ChatImplementation, Line, try_out
from leftovers import nothing_left as nothing_left

import wsrpc
from wsrpc import AnonymousChannel, BadArguments, Client, Peer, Server, Service, Stream
from wsrpc.schema import describe
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


# ------------------------------------------------------------ where


class ChatService(ChatImplementation, Service):
    def say(self, text: str, urgent: bool = False, *, peer: Peer | None = None) -> int:
        assert peer is self.peer
        return len(text) + 100 * urgent

    @wsrpc.method
    def extra(self) -> str:
        return "extra"


async def test_by_a_service() -> None:
    server = Server()
    server.add_service(ChatService, channel="chat", implements=Chat)
    async with connect(server) as client:
        await try_out(client.of("chat").proxy(Chat))
        assert await client.of("chat").request("extra") == "extra"
        with pytest.raises(wsrpc.UnknownEvent):
            await client.of("chat").request("not_in_the_contract", "x")


class App(Protocol):
    chat: Chat

    async def ping(self) -> str: ...


class AppImplementation:
    chat = ChatImplementation()

    def ping(self) -> str:
        return "pong"


async def test_attributes_implement_the_channels() -> None:
    server = Server()
    server.implement(App, AppImplementation())
    async with connect(server) as client:
        assert await client.proxy(App).ping() == "pong"
        await try_out(client.proxy(App).chat)
    with pytest.raises(TypeError, match=r"has channels \(chat\), so it is implemented on the main channel"):
        Server().of("x").implement(App, AppImplementation())
    with pytest.raises(TypeError, match=r"has channels \(chat\), and a service has one"):
        server.add_service(ChatService, implements=App)


Positive = Annotated[int, msgspec.Meta(gt=0)]

ENFORCED: list[tuple[Any, Any, Any, Any]] = [
    (Literal["a", "b"], str, "a", "c"),
    (Positive, int, 1, 0),
    (int, Positive, 1, 0),  # the implementation may refuse more
    (Positive, Annotated[int, msgspec.Meta(lt=10)], 1, 10),
    (dict[str, Positive], dict[str, int], {"x": 1}, {"x": 0}),
    (dict[str, Any], dict[str, Positive], {"x": 1}, {"x": 0}),
    (list[int], list, [1], ["a"]),
    (int, Any, 1, "a"),
]


def taking(tp: Any, base: type[Any]) -> Any:
    """A class with methods that take arguments and items of a type; a contract if ``base`` is Protocol."""

    async def one(self: Any, value: Any) -> None: ...
    async def more(self: Any, *values: Any) -> None: ...
    async def load(self: Any, values: Any) -> int:
        return len([each async for each in values])

    one.__annotations__["value"] = more.__annotations__["values"] = tp
    load.__annotations__["values"] = AsyncIterable[tp]
    return types.new_class("Taking", (base,), {}, lambda body: body.update(one=one, more=more, load=load))


@pytest.mark.parametrize(("declared", "own", "fitting", "wrong"), ENFORCED)
async def test_arguments_fit_both_types(declared: Any, own: Any, fitting: Any, wrong: Any) -> None:
    """Only the type of the implementation was enforced, so it got values that its contract excludes."""
    server = Server()
    server.implement(taking(declared, Protocol), taking(own, object)())
    async with connect(server) as client:
        await client.request("one", fitting)
        await client.request("more", fitting, fitting)
        assert await client.request("load", send=[fitting]) == 1
        for event, arguments in (("one", [wrong]), ("more", [wrong]), ("more", [fitting, wrong])):
            with pytest.raises(BadArguments):
                await client.request(event, *arguments)
        with pytest.raises(wsrpc.RemoteError) as caught:
            await client.request("load", send=[wrong])
        assert caught.value.code == "wsrpc.bad_item"


class Lines(Protocol):
    async def add(self, line: Line, *more: Line) -> Line:
        """Add some lines."""
        ...

    def all(self) -> Stream[Line]: ...

    async def talk(self, name: str) -> AnonymousChannel: ...


class Unannotated:
    def add(self, line, *more):  # type: ignore[no-untyped-def]
        return [line, *more][-1]

    def all(self): ...  # type: ignore[no-untyped-def]

    def talk(self, name): ...  # type: ignore[no-untyped-def]


async def test_what_is_not_annotated_has_the_types_of_the_contract() -> None:
    server = Server()
    server.implement(Lines, Unannotated())
    async with connect(server) as client:
        assert await client.proxy(Lines).add(Line("Ada", "a"), Line("Bob", "b")) == Line("Bob", "b")
        for arguments, wrong in ((["text"], "line"), ([Line("Ada", "a"), "text"], "more")):
            with pytest.raises(BadArguments, match=f"argument '{wrong}'"):
                await client.request("add", *arguments)
    add, all_, talk = describe(server).events
    assert add.doc == "Add some lines." and add.result == {"$ref": "#/$defs/Line"}
    assert [p.schema for p in add.parameters] == [{"$ref": "#/$defs/Line"}] * 2
    assert (all_.kind, all_.items, talk.kind) == ("stream", {"$ref": "#/$defs/Line"}, "conversation")


class AnyOrder:
    def add(self, *args, as_admin: bool = False, log: Any = print):  # type: ignore[no-untyped-def]
        assert not as_admin
        return sum(args)


async def test_args_take_what_the_contract_names_and_callers_can_set_nothing_else() -> None:
    server = Server()
    server.implement(Adds, AnyOrder())
    async with connect(server) as client:
        assert await client.request("add", 1, 2) == 3
        with pytest.raises(BadArguments, match="argument 'a'"):
            await client.request("add", "x")
        with pytest.raises(BadArguments, match="expected at most 2 arguments, got 3"):
            await client.request("add", 1, 2, True)
    [add] = describe(server).events
    assert [p.name for p in add.parameters] == ["a", "b"]


# ------------------------------------------------------------ what does not


class Adds(Protocol):
    async def add(self, a: int, b: int = 1) -> int: ...


class Mine:
    """Implements `Adds` by the function of a row."""


class DerivedOnly(Adds):
    """Has the method only as the contract declares it."""


def too_few(self: Any, a: int) -> int: ...  # type: ignore[empty-body]
def too_many(self: Any, a: int, b: int = 1, *, c: int) -> int: ...  # type: ignore[empty-body]
def required(self: Any, a: int, b: int) -> int: ...  # type: ignore[empty-body]
def turned(self: Any, b: int, a: int = 1) -> int: ...  # type: ignore[empty-body]
def equal_default(self: Any, a: int, b: int = True) -> int: ...  # type: ignore[empty-body]
def streams(self: Any, a: int, b: int = 1) -> Iterator[int]:
    yield a


async def talks(self: Any, a: int, b: int = 1, *, channel: AnonymousChannel) -> int: ...  # type: ignore[empty-body]
@wsrpc.method("plus")
def named(self: Any, a: int, b: int = 1) -> int: ...  # type: ignore[empty-body]
@wsrpc.method(thread=True)
async def no_handler(self: Any, a: int, b: int = 1) -> int: ...  # type: ignore[empty-body]


MISMATCHES: list[tuple[Any, str]] = [
    (too_few, r"it has no parameter for 'b'"),
    (too_many, r"it requires 'c', which the contract does not have"),
    (required, r"parameter 'b' is optional in the contract, and required here"),
    (equal_default, r"parameter 'b' has the default 1 in the contract, and True here"),
    (turned, r"parameter 'a' is in another place"),
    (streams, r"the contract declares a request, and this is a stream"),
    (talks, r"the contract declares a request, and this is a conversation"),
    (named, r"its event is 'add', and @wsrpc\.method names it 'plus'"),
    (no_handler, r"no_handler .*thread=True is for plain functions"),
    (None, r"Mine\.add implements Adds\.add, and is not a function: it is None"),
    (Mine(), r"Mine does not implement .*Adds: it has no add"),
    (DerivedOnly(), r"DerivedOnly does not implement .*Adds: it has no add"),  # type: ignore[abstract]
    (Mine, r"takes an object that has the methods of .*Adds: Mine\(\), not the class"),
]


@pytest.mark.parametrize(("wrong", "text"), MISMATCHES, ids=lambda value: getattr(value, "__name__", None))
def test_a_mismatch_is_refused_and_nothing_is_registered(wrong: Any, text: str) -> None:
    class Both(Protocol):
        add: Adds

        async def fine(self) -> int: ...

    class Implementation:
        add: Any

        def fine(self) -> int:
            return 1

    server, both = Server(), Implementation()
    both.add = type("Mine", (), {"add": wrong})() if wrong is None or inspect.isfunction(wrong) else wrong
    with pytest.raises(TypeError, match=text) as caught:
        server.implement(Adds, both.add)
    if " here" in str(caught.value):
        assert "Adds.add(self, a: int, b: int = 1) -> int" in str(caught.value)
        assert f"{wrong.__name__}(" in str(caught.value) and __file__ in str(caught.value)
    with pytest.raises(TypeError):
        server.implement(Both, both)
    assert describe(server).events == ()


class Twice(ChatImplementation, Service):
    @wsrpc.method("say")
    def other(self) -> None: ...


def test_what_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"are both for the event 'say'"):
        Server().add_service(Twice, implements=Chat)
    with pytest.raises(TypeError, match=r"Service does not implement .*Chat: it has no say, history, upload"):
        Server().add_service(Service, implements=Chat)
    server = Server()
    server.add_service(ChatService, implements=Chat)
    with pytest.raises(ValueError, match="'say' is a method of a service"):
        server.implement(Chat, ChatImplementation())


async def test_a_closed_channel_takes_no_implementation() -> None:
    channel = Client().of("chat")
    channel.close()
    with pytest.raises(wsrpc.ChannelClosed):
        channel.implement(Chat, ChatImplementation())

"""Proxies: what their methods send, what they return and raise, and which contracts are refused."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterable, Awaitable
from typing import Any, Protocol, TypeVar, overload

import pytest
from chat_contract import Chat, ChatImplementation
from leftovers import nothing_left as nothing_left

import wsrpc
from wsrpc import (
    AnonymousChannel,
    BadArguments,
    BadResult,
    Peer,
    RemoteError,
    RequestTimeout,
    Retry,
    RpcError,
    Server,
    Stream,
    UnknownEvent,
    with_options,
)
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


def chat_server() -> Server:
    server = Server()
    server.of("chat").implement(Chat, ChatImplementation())
    server.on("ping", lambda: "pong")
    return server


# ------------------------------------------------------------ each kind of member


class Base(Protocol):
    async def ping(self) -> str: ...


class Counter(Protocol):
    async def read(self) -> int: ...


class Members(Base, Protocol):
    counter: Counter  # `typing` has a Counter, too; the name is looked up here

    @property
    def chat(self) -> Talkative: ...

    @wsrpc.method("get-user")
    async def get_user(self, id: int) -> str: ...

    def add(self, a: int, b: int) -> Awaitable[int]: ...


class Talkative(Protocol):
    async def say(self, text: str) -> int: ...

    async def talk(self, name: str, channel: AnonymousChannel | None = None) -> AnonymousChannel: ...


async def test_members_in_other_forms() -> None:
    server = chat_server()
    server.of("counter").on("read", lambda: 5)
    server.on("get-user", lambda id: f"user {id}")
    server.on("add", lambda a, b: a + b)
    async with connect(server) as client:
        members = client.proxy(Members)
        assert (await members.ping(), await members.counter.read()) == ("pong", 5)
        assert (await members.get_user(5), await members.add(2, 3)) == ("user 5", 5)
        assert await members.chat.say("hi") == await with_options(members, timeout=5).chat.say("hi") == 2
        async with await members.chat.talk("Bob") as channel:
            assert await channel.wait_for("hello", timeout=5) == "Bob"


# ------------------------------------------------------------ arguments


class Places(Protocol):
    async def unknown(self, a: int = ..., b: int = ...) -> list[int]: ...


async def test_misuse_is_a_type_error_that_names_the_member() -> None:
    async with connect(chat_server()) as client:
        chat: Any = client.of("chat").proxy(Chat)
        places: Any = client.proxy(Places)
        for wrong, text in (
            (lambda: chat.say(), r"Chat\.say\(\): missing a required argument: 'text'"),
            (lambda: places.unknown(b=5), r"Places\.unknown\(\) needs 'a' where an argument after it is given"),
            (lambda: chat.shout(), r"Chat\.shout\(\): missing a required argument: 'words'"),
            (lambda: chat.shout(None), r"Chat.shout\(\) takes an iterable or async iterable .*, got None"),
            (
                lambda: with_options(client, timeout=1),
                r"with_options\(\) takes what proxy\(\) or emitter\(\) has returned",
            ),
        ):
            with pytest.raises(TypeError, match=text):
                wrong()
        with pytest.raises(AttributeError, match=r"contract Chat has no member 'sya'"):
            chat.sya("hi")
        with pytest.raises(AttributeError, match="'ChatProxy' object has no attribute '_private'"):
            _ = chat._private
        with pytest.raises(AttributeError):
            chat.other = 5


# ------------------------------------------------------------ errors


async def test_errors_name_the_member() -> None:
    server = chat_server()

    @server.of("chat").on("say")
    def say(text: str) -> Any:
        if text == "refused":
            raise RpcError("not now", code="later")
        return "not a number"

    async with connect(server) as client:
        chat: Any = client.of("chat").proxy(Chat)
        for args, error in ((("refused",), RemoteError), ((5,), BadArguments), (("hi",), BadResult)):
            with pytest.raises(error) as caught:
                await chat.say(*args)
            assert caught.value.__notes__ == ["called as Chat.say"]
        assert "is not what Chat.say declares" in str(caught.value)
        server.of("chat").on("history", None)
        with pytest.raises(UnknownEvent) as unknown:
            await anext(chat.history(1))
        assert unknown.value.__notes__ == ["called as Chat.history"]


# ------------------------------------------------------------ options


async def test_options_go_with_all_calls_of_the_new_proxy() -> None:
    server = Server()
    attempts: list[int] = []

    @server.on("ping")
    def ping() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise RpcError("busy", code="busy")
        return "pong"

    retry = Retry(initial=0, max=0, retry=lambda error: isinstance(error, RemoteError) and error.code == "busy")
    async with connect(server) as client:
        base = client.proxy(Base)
        patient = with_options(base, timeout=None, retry=retry)
        assert await with_options(patient, offline="fail").ping() == "pong" and len(attempts) == 3
        for again in (base, with_options(patient, retry=None)):
            attempts.clear()
            with pytest.raises(RemoteError, match="busy"):
                await again.ping()
        with pytest.raises(RequestTimeout):
            await with_options(base, timeout=0).ping()


async def test_retry_is_refused_by_what_cannot_be_asked_again() -> None:
    async with connect(chat_server()) as client:
        chat = with_options(client.of("chat").proxy(Chat), retry=Retry())
        assert await chat.say("hi") == 2
        with pytest.raises(TypeError, match=r"Chat\.history is not a request, and retry= is for requests only"):
            chat.history(0)
        with pytest.raises(TypeError, match=r"Chat\.talk is not a request"):
            await chat.talk("x")


@pytest.mark.parametrize(("options", "text"), [({"timeout": -1}, "timeout="), ({"idempotent": True}, "give retry=")])
async def test_wrong_options_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    async with connect(Server()) as client:
        with pytest.raises((TypeError, ValueError), match=text):
            with_options(client.proxy(Base), **options)


# ------------------------------------------------------------ contracts that cannot work


class NotAProtocol:
    async def ping(self) -> str: ...  # type: ignore[empty-body]


class Implemented(Base):
    """Derives from a contract without being one."""


class Overloaded(Protocol):
    @overload
    async def ping(self) -> str: ...

    @overload
    async def ping(self, name: str) -> str: ...


class OfItself(Protocol):
    child: OfItself


class Private(Protocol):
    async def _ping(self) -> str: ...


class Attribute(Protocol):
    ping: int


class Doubled(Protocol):
    async def ping(self) -> str: ...

    @wsrpc.method("ping")
    async def other(self) -> str: ...


class Lifecycle(Protocol):
    async def close(self) -> str: ...


T_co = TypeVar("T_co", covariant=True)


class Generic(Protocol[T_co]):
    async def ping(self) -> T_co: ...


REFUSED: list[tuple[Any, str]] = [
    (NotAProtocol, r"proxy\(\) takes a contract, which is a class that derives from typing\.Protocol itself; got"),
    (Implemented, r"Implemented derives from Base, but is not a contract itself; write `class Implemented\(Base"),
    (Overloaded, r"Overloaded: 'ping' is overloaded, but an event has one signature"),
    (OfItself, r"OfItself: the contract of channel 'child', OfItself, has channels of its own"),
    (Private, r"Private: '_ping' begins with an underscore"),
    (Attribute, r"Attribute: a contract has methods, and channels.*'ping' is <class 'int'>"),
    (Doubled, r"Doubled: 'ping' and 'other' are both for 'ping'"),
    (Lifecycle, r"Lifecycle\.close .*'close' is a lifecycle event on the main channel"),
    (Generic, r"Generic is generic.*write its types out"),
]


@pytest.mark.parametrize(("contract", "text"), REFUSED, ids=lambda value: getattr(value, "__name__", None))
async def test_a_contract_that_cannot_work_is_refused(contract: Any, text: str) -> None:
    async with connect(Server()) as client:
        with pytest.raises(TypeError, match=text):
            client.proxy(contract)


def neither_async_nor_stream(self: Any) -> str: ...  # type: ignore[empty-body]
async def keywords(self: Any, **options: int) -> str: ...  # type: ignore[empty-body]
async def after_rest(self: Any, *names: str, loud: bool = False) -> str: ...  # type: ignore[empty-body]
async def injected(self: Any, peer: Peer) -> str: ...  # type: ignore[empty-body]
async def async_stream(self: Any) -> Stream[int]: ...  # type: ignore[empty-body]
async def two_uploads(self: Any, a: AsyncIterable[int], b: AsyncIterable[int]) -> str: ...  # type: ignore[empty-body]
def plain_upload(self: Any, a: AsyncIterable[int]) -> str: ...  # type: ignore[empty-body]
async def both(self: Any, a: AsyncIterable[int]) -> AnonymousChannel: ...  # type: ignore[empty-body]
async def optional_upload(self: Any, a: AsyncIterable[int] = ()) -> int: ...  # type: ignore[assignment, empty-body]  # pyright: ignore
async def no_self() -> str: ...  # type: ignore[empty-body]
async def unresolved(self: Any) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821
async def not_convertible(self: Any) -> asyncio.Event: ...  # type: ignore[empty-body]
@wsrpc.method(ordered=True)
async def with_option(self: Any) -> str: ...  # type: ignore[empty-body]


METHODS: list[tuple[Any, str]] = [
    (neither_async_nor_stream, r": a plain `def` is an event or a stream: write `async def`"),
    (keywords, r"parameter 'options': arguments travel by place, so \*\*kwargs would never arrive"),
    (after_rest, r"parameter 'loud': it follows \*args"),
    (injected, r"parameter 'peer': .* leave it to the implementation"),
    (async_stream, r"declare it as a plain `def`"),
    (two_uploads, r"parameter 'b': one request opens one channel"),
    (plain_upload, r"declared as an `async def`"),
    (both, r"not both"),
    (optional_upload, r"parameter 'a': the items that the caller sends are never missing"),
    (no_self, r"takes self first"),
    (unresolved, r"Nowhere"),
    (not_convertible, r"its result cannot be received: .*Event"),
    (with_option, r"options belong to the method that implements it"),
]


@pytest.mark.parametrize(("function", "text"), METHODS, ids=lambda value: getattr(value, "__name__", None))
async def test_a_method_that_cannot_work_is_refused(function: Any, text: str) -> None:
    contract = types.new_class("Bad", (Protocol,), exec_body=lambda names: names.update(ping=function))
    contract.__module__ = __name__
    async with connect(Server()) as client:
        with pytest.raises(TypeError, match=rf"contract {__name__}\.{function.__name__} .*{text}"):
            client.proxy(contract)

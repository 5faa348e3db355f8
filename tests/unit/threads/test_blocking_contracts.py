"""Contracts with `def`: blocking proxies and emitters, and what implements such contracts on either side."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import msgspec
import pytest
from in_a_thread import Served, serving

import wsrpc
from wsrpc import Server
from wsrpc import Stream as AsyncStream
from wsrpc.blocking import AnonymousChannel, Client, Stream

pytestmark = pytest.mark.usefixtures("threads_end")

T = TypeVar("T")


class Line(msgspec.Struct):
    who: str
    text: str


class Chat(Protocol):
    """The contract of the asynchronous side."""

    async def say(self, text: str, *, urgent: bool = False) -> int: ...
    def history(self, since: int = 0) -> AsyncStream[Line]: ...
    async def upload(self, name: str, chunks: AsyncIterable[bytes]) -> int: ...
    def shout(self, words: AsyncIterable[str]) -> AsyncStream[str]: ...
    async def talk(self, greeting: str) -> wsrpc.AnonymousChannel: ...


class BlockingChat(Protocol):
    """The same for threads."""

    def say(self, text: str, *, urgent: bool = False) -> int: ...
    def history(self, since: int = 0) -> Stream[Line]: ...
    def upload(self, name: str, chunks: Iterable[bytes]) -> int: ...
    def shout(self, words: Iterable[str]) -> Stream[str]: ...
    def talk(self, greeting: str) -> AnonymousChannel: ...


class BlockingEvents(Protocol):
    def said(self, who: str, text: str = "") -> None: ...


class ChatImplementation:
    def __init__(self) -> None:
        self.lines = [Line("Ada", "hi"), Line("Bob", "ho")]

    def say(self, text: str, urgent: bool = False) -> int:
        self.lines.append(Line("Cy", text.upper() if urgent else text))
        return len(self.lines)

    async def history(self, since: int = 0) -> AsyncIterator[Line]:
        for line in self.lines[since:]:
            yield line

    async def upload(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        return sum([len(chunk) async for chunk in chunks])

    async def shout(self, words: AsyncIterator[str]) -> AsyncIterator[str]:
        async for word in words:
            yield word.upper()

    async def talk(self, channel: wsrpc.AnonymousChannel, greeting: str) -> None:
        await channel.emit("said", greeting)
        await channel.wait_for("bye")


@pytest.fixture(params=[Chat, BlockingChat], ids=["async contract", "blocking contract"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """The server has implemented either contract."""
    server = Server()
    server.of("chat").implement(request.param, ChatImplementation())
    with serving(server) as served:
        yield served


# ------------------------------------------------------------ proxies and emitters


def test_a_proxy_calls_what_either_contract_declares(client: Client) -> None:
    chat = client.of("chat").proxy(BlockingChat)
    assert chat.say("hi") == 3 and chat.say("fire", urgent=True) == 4
    with chat.history(2) as lines:
        assert [*lines] == [Line("Cy", "hi"), Line("Cy", "FIRE")]
    assert next(chat.history()) == Line("Ada", "hi")
    assert chat.upload("f", (b"ab" for _ in range(3))) == 6 == chat.upload("f", chunks=[b"abc", b"def"])
    assert [*chat.shout(word for word in ("hey", "ho"))] == ["HEY", "HO"]
    with chat.talk("hello") as channel:
        assert channel.wait_for("said", returns=str) == "hello"
        channel.emit("bye")
    with pytest.raises(TypeError, match=r"BlockingChat\.say\(\): missing a required argument: 'text'"):
        chat.say()  # type: ignore[call-arg]


def test_an_emitter_emits(served: Served, client: Client) -> None:
    shown: queue.SimpleQueue[Any] = queue.SimpleQueue()

    class Screen:
        def said(self, who: str, text: str = "") -> None:
            shown.put((who, text))

    async def implement() -> None:
        served.server.of("events").implement(BlockingEvents, Screen())
        served.server.of("events").declare(BlockingEvents)

    served.run(implement())
    events = client.of("events").emitter(BlockingEvents)
    events.said("Ada", text="hi")
    assert shown.get() == ("Ada", "hi")


class Mixed(Protocol):
    def shout(self, words: AsyncIterable[str]) -> Stream[str]: ...


class Uploads(Protocol):
    def said(self, words: Iterable[str]) -> None: ...


def test_what_the_other_kind_of_client_calls_is_refused() -> None:
    client = Client("ws://127.0.0.1:1")
    with pytest.raises(TypeError, match=r"Chat\.say .*it is for an event loop, and this caller waits in a thread"):
        client.proxy(Chat)
    with pytest.raises(TypeError, match="part of it is for an event loop and part of it for threads"):
        client.proxy(Mixed)
    with pytest.raises(TypeError, match="'words' gives the items of an upload: an event takes a list"):
        client.emitter(Uploads)
    with pytest.raises(TypeError, match=r"contract for wsrpc\.blocking\.Client, a plain `def` is a request"):
        wsrpc.Client().proxy(BlockingChat)


# ------------------------------------------------------------ implementations on a blocking client


class Local:
    """Implements `Chat` in threads."""

    def __init__(self) -> None:
        self.threads: set[str] = set()

    def say(self, text: str, urgent: bool = False) -> int:
        self.threads.add(threading.current_thread().name)
        return len(text) + urgent

    def history(self, since: int = 0) -> Iterator[Line]:
        self.threads.add(threading.current_thread().name)
        yield Line("Ada", str(since))

    def upload(self, name: str, chunks: Iterator[bytes]) -> int:
        return sum(map(len, chunks))

    def shout(self, words: Iterator[str]) -> Iterator[str]:
        yield from map(str.upper, words)

    def talk(self, channel: AnonymousChannel, greeting: str) -> None:
        channel.emit("said", greeting)
        channel.wait_for("bye")


async def call_all(chat: Chat) -> None:
    assert await chat.say("hi", urgent=True) == 3
    assert [line async for line in chat.history(7)] == [Line("Ada", "7")]
    assert await chat.upload("f", items(b"ab", b"c")) == 3
    assert [word async for word in chat.shout(items("hey", "ho"))] == ["HEY", "HO"]
    async with await chat.talk("hello") as channel:
        assert await channel.wait_for("said", returns=str) == "hello"
        await channel.emit("bye")
        await channel.wait_closed()


async def items(*given: T) -> AsyncIterator[T]:
    for each in given:
        yield each


@pytest.mark.parametrize("contract", [Chat, BlockingChat])
def test_a_blocking_client_implements_either_contract(served: Served, client: Client, contract: Any) -> None:
    local = Local()
    client.of("local").implement(contract, local)
    client.of("local").declare(BlockingEvents)
    served.run(call_all(served.peer().of("local").proxy(Chat)))
    assert local.threads and all("worker" in name for name in local.threads)

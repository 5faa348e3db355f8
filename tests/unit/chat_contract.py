"""A contract with a method of each kind, an implementation of it, and calls that try it out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any, Protocol

import msgspec

from wsrpc import AnonymousChannel, Context, Peer, Stream


class Line(msgspec.Struct):
    who: str
    text: str


class LongLine(Line):
    more: str = ""


class Chat(Protocol):
    """What a chat can do."""

    async def say(self, text: str, *, urgent: bool = False) -> int:
        """Say something."""
        ...

    def history(self, since: int) -> Stream[Line]: ...

    async def upload(self, name: str, chunks: AsyncIterable[bytes]) -> int: ...

    def shout(self, words: AsyncIterable[str]) -> Stream[str]: ...

    async def talk(self, name: str) -> AnonymousChannel: ...


class ChatImplementation:
    """Plain and async, with injected parameters and options, as handlers may be."""

    def say(self, text: str, urgent: bool = False, *, peer: Peer | None = None) -> int:
        assert peer is not None
        return len(text) + 100 * urgent

    async def history(self, since: int) -> AsyncGenerator[LongLine]:
        yield LongLine("Ada", f"{since}")

    async def upload(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        return sum([len(chunk) async for chunk in chunks])

    async def shout(self, words: AsyncIterator[str], ctx: Context | None = None) -> AsyncIterator[str]:
        async for word in words:
            yield word.upper()

    async def talk(self, name: str, channel: AnonymousChannel) -> None:
        await channel.emit("hello", name)

    async def not_in_the_contract(self, secret: str) -> str:
        return secret


async def parts(*given: Any) -> AsyncIterator[Any]:
    for each in given:
        yield each


async def try_out(chat: Chat) -> None:
    assert await chat.say("hi") == 2
    assert await chat.say("hi", urgent=True) == 102
    async with chat.history(7) as lines:
        assert [line async for line in lines] == [Line("Ada", "7")]
    assert await chat.upload("f", parts(b"abc", b"d")) == 4
    async with chat.shout(parts("a", "b")) as shouted:
        assert [word async for word in shouted] == ["A", "B"]
    async with await chat.talk("Ada") as channel:
        assert await channel.wait_for("hello", timeout=10) == "Ada"

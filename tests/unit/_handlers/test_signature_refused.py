# No `from __future__ import annotations` here, as in test_signature.py.
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import attrs
import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import AnonymousChannel
from wsrpc._handlers.compiled import Handler
from wsrpc._handlers.method import HandlerOptions


def refused(handler: Any, **options: Any) -> str:
    with pytest.raises(TypeError) as caught:
        Handler(handler, HandlerOptions(**options))
    text = str(caught.value)
    assert "test_signature_refused" in text, "it says where the handler is"
    return text


def test_two_of_them_are_one_too_many() -> None:
    async def two_readers(a: AsyncIterator[int], b: AsyncIterator[int]) -> None: ...
    async def both_kinds(channel: AnonymousChannel, chunks: AsyncIterator[int]) -> None: ...
    async def two_channels(a: AnonymousChannel, b: AnonymousChannel) -> None: ...

    for handler, parameter in ((two_readers, "'b'"), (both_kinds, "'chunks'"), (two_channels, "'b'")):
        text = refused(handler)
        assert parameter in text and "one channel" in text


def test_a_conversation_is_an_async_def_that_does_not_yield() -> None:
    def plain(channel: AnonymousChannel) -> None: ...

    async def yields(channel: AnonymousChannel) -> AsyncIterator[int]:
        yield 1

    def generator(channel: AnonymousChannel) -> Iterator[int]:
        yield 1

    for handler in (plain, yields, generator):
        text = refused(handler)
        assert "'channel'" in text and "async def" in text and "ctx.channel()" in text


def test_reading_takes_an_async_def() -> None:
    def plain(chunks: AsyncIterator[int]) -> None: ...

    def generator(chunks: AsyncIterator[int]) -> Iterator[int]:
        yield 1

    for handler in (plain, generator):
        text = refused(handler)
        assert "'chunks'" in text and "async def" in text


def test_what_cannot_be_meant() -> None:
    async def optional(chunks: AsyncIterator[int] | None = None) -> None: ...
    async def rest(*chunks: AsyncIterator[int]) -> None: ...
    async def rest_of_channels(*channels: AnonymousChannel) -> None: ...
    async def to_send_to(chunks: AsyncGenerator[int, None]) -> None: ...
    async def impossible(chunks: AsyncIterator[object()]) -> None: ...  # type: ignore[valid-type]

    class Mine(AnonymousChannel):
        pass

    async def subclass(channel: Mine) -> None: ...

    assert "'chunks'" in refused(optional) and "AsyncIterator[...]" in refused(optional)
    assert "'chunks'" in refused(rest)
    assert "'channels'" in refused(rest_of_channels)
    assert "AsyncIterator[...]" in refused(to_send_to)
    assert "'chunks'" in refused(impossible)
    assert "only AnonymousChannel itself" in refused(subclass)


def test_threads_are_for_plain_functions() -> None:
    async def feed() -> AsyncIterator[int]:
        yield 1

    async def up(chunks: AsyncIterator[int]) -> None: ...
    async def talk(channel: AnonymousChannel) -> None: ...

    for handler in (feed, up, talk):
        assert "thread=True" in refused(handler, thread=True)

    def generator() -> Iterator[int]:
        yield 1

    Handler(generator, HandlerOptions(thread=True))


def test_a_field_without_an_annotation_is_named() -> None:
    @attrs.define
    class Seats:
        left = attrs.field()  # type: ignore[var-annotated]

    def handler(seats: Seats) -> None: ...

    assert "parameter 'seats': " in refused(handler) and "field 'left' has no annotation" in refused(handler)

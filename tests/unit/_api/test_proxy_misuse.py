"""Proxies that are used in ways that cannot work, and what their callers are told."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Protocol

import pytest

from wsrpc import Server, Stream, with_options
from wsrpc.testing import connect


class Files(Protocol):
    async def size(self, name: str) -> int: ...

    async def upload(self, chunks: AsyncIterable[bytes]) -> int: ...

    def reverse(self, chunks: AsyncIterable[bytes]) -> Stream[bytes]: ...


NO_CHUNKS: tuple[bytes, ...] = ()


class WithDefault(Protocol):
    async def upload(self, chunks: AsyncIterable[bytes] = NO_CHUNKS) -> int: ...  # type: ignore[assignment]  # pyright: ignore


class Disk:
    def size(self, name: str) -> int:
        return len(name)

    async def upload(self, chunks: AsyncIterator[bytes]) -> int:
        return sum([len(chunk) async for chunk in chunks])

    async def reverse(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk[::-1]


async def test_items_have_no_default() -> None:
    async with connect(Server()) as client:
        with pytest.raises(TypeError, match=r"parameter 'chunks': the items that the caller sends are never missing"):
            client.proxy(WithDefault)


async def test_items_that_are_none_are_refused() -> None:
    server = Server()
    server.implement(Files, Disk())
    nothing: Any = None
    async with connect(server) as client:
        files = client.proxy(Files)
        with pytest.raises(TypeError, match=r"Files.upload\(\) takes an iterable or async iterable .*, got None"):
            await files.upload(nothing)
        with pytest.raises(TypeError, match=r"Files.reverse\(\) takes an iterable or async iterable .*, got None"):
            files.reverse(nothing)


async def test_a_proxy_can_be_copied() -> None:
    server = Server()
    server.implement(Files, Disk())
    async with connect(server) as client:
        copied = copy.copy(client.proxy(Files))
        assert await copied.size("abc") == 3


async def test_a_private_name_is_no_member() -> None:
    async with connect(Server()) as client:
        files: Any = client.proxy(Files)
        with pytest.raises(AttributeError, match="'FilesProxy' object has no attribute '_size'"):
            _ = files._size


async def test_idempotent_is_true_or_false() -> None:
    yes: Any = "yes"
    async with connect(Server()) as client:
        with pytest.raises(TypeError, match="idempotent= is True or False, got 'yes'"):
            with_options(client.proxy(Files), idempotent=yes)

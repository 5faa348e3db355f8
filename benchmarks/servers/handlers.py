"""What every server offers, as plain functions, and what a server is told on its command line."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
BACKLOG = 4096
"""Connections that the system keeps until they are accepted: the generators open them faster than servers accept."""
LARGEST_MESSAGE = 4 * 2**20
"""Bytes: wsrpc's default, given to the libraries that have a lower one."""
CHUNK = bytes(64 * 1024)
"""One piece of an upload or a download."""
TICK = "x" * 100
"""What a broadcast says."""

CERTIFICATES = Path(__file__).resolve().parents[2] / "tests" / "certificates"

Item = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """The command line of a server."""

    tls: bool = False
    redis: int | None = None
    """The port of a Redis server, through which broadcasts reach the members of a room in all processes."""

    @property
    def ssl(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATES / "server.pem", CERTIFICATES / "server.key")
        return context


Serve = Callable[[Options], Coroutine[Any, Any, None] | None]


def say_port(port: int) -> None:
    print(port, flush=True)


async def parent_left() -> None:
    """Returns at the end of stdin."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, ended.set)
    await ended.wait()
    loop.remove_reader(sys.stdin)


def add(a: int, b: int) -> int:
    return a + b


async def add_async(a: int, b: int) -> int:
    return a + b


def echo(text: str) -> str:
    return text


def echo_bytes(data: bytes) -> bytes:
    return data


def small_item(n: int) -> Item:
    return {"n": n, "x": 1.5}


async def items() -> AsyncIterator[Item]:
    for n in itertools.count():
        yield small_item(n)


async def download(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // len(CHUNK)):
        yield CHUNK


async def upload(pieces: AsyncIterator[bytes]) -> int:
    size = 0
    async for piece in pieces:
        size += len(piece)
    return size

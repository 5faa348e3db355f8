"""What the tests of channels and streams have in common: what travels, and that nothing is left afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any

import msgspec
import pytest
from core_driver import Driven, left_of_channels
from waiting import settled

from wsrpc import Peer
from wsrpc.testing import pair

WINDOW = 512
"""`Limits.stream_window`."""

CLOSED = {"message": "closed", "code": "wsrpc.closed"}
"""What an abort says that is a good end."""


# ---------------------------------------------------------------- what travels


def control(t: str, **fields: Any) -> dict[str, Any]:
    """A message of the extension."""
    return {"ws-wrapper": False, "wsrpc": {"t": t, **fields}}


def hello(*features: str, t: str = "hello", v: int = 1, **limits: Any) -> dict[str, Any]:
    return control(t, v=v, features=list(features), limits=limits)


def welcome(*features: str, **limits: Any) -> dict[str, Any]:
    return hello(*features, t="welcome", **limits)


def resumable(**limits: Any) -> dict[str, Any]:
    """The welcome to a session that can resume."""
    return control("welcome", features=["resume"], limits=limits, sid="session", token="secret", ttl=60.0)


def credit(h: int, n: int, size: int = 2**40) -> dict[str, Any]:
    return control("credit", h=h, n=n, bytes=size)


def item(h: int, value: Any, i: int | None = None) -> dict[str, Any]:
    """One item of a stream, as an event or (with an id) as a request."""
    message: dict[str, Any] = {"h": h, "a": ["next", {"value": value, "done": False}]}
    return message if i is None else {"i": i, **message}


def done(h: int, i: int | None = None) -> dict[str, Any]:
    message: dict[str, Any] = {"h": h, "a": ["next", {"done": True}]}
    return message if i is None else {"i": i, **message}


def values(sent: list[Any]) -> list[Any]:
    """The values of the items among ``sent``."""
    nexts = [message["a"][1] for message in sent if message.get("a", [""])[0] == "next"]
    return [argument["value"] for argument in nexts if not argument["done"]]


def decoded(sent: list[Any]) -> list[Any]:
    """``sent`` with its binary messages decoded from MessagePack."""
    return [msgspec.msgpack.decode(message) if isinstance(message, bytes) else message for message in sent]


PLAIN: list[tuple[str, ...] | None] = [None, (), ("resume", "probe")]
"""The features of peers that are plain ones in everything but their session, and connection. None: without a hello."""
WSRPC = ("credit",)
"""The features of a wsrpc peer with nothing more."""


async def agreed(d: Driven, *features: str, **limits: Any) -> None:
    """Let the other side of ``d``, which accepted, be a wsrpc peer with these features."""
    sent = await d.fed(hello(*features, **limits))
    assert [message["wsrpc"]["t"] for message in sent] == ["welcome"]


# ---------------------------------------------------------------- what is left


def left_of(peer: Peer) -> tuple[object, ...]:
    """Numbers of channels, requests and calls, then `left_of_channels`."""
    return (peer.anonymous_channels, peer.pending, peer.active, *left_of_channels(peer))


async def emptied(*peers: Peer) -> None:
    """Let what was sent arrive, then assert that nothing is left at any of ``peers``."""
    await settled()
    left = {repr(peer): left_of(peer) for peer in peers if any(left_of(peer))}
    assert not left, f"(channels, pending, active, undelivered, read by credit, unread bytes) are left: {left}"


Both = tuple[Peer, Peer]
Log = pytest.LogCaptureFixture


@pytest.fixture(params=[True, False], ids=["wsrpc", "plain"])
async def both(request: pytest.FixtureRequest) -> AsyncGenerator[Both]:
    """Two connected peers, of which nothing is left afterwards, whatever the test did."""
    async with pair(extensions=request.param) as peers:
        yield peers
        await emptied(*peers)


# ---------------------------------------------------------------- what is sent and read


class Feed:
    """A handler that streams 0, 1, 2 …, and remembers what became of it.

    ``finished`` is set by its ``finally`` block. With ``limit`` it ends after so many; with ``gate`` it waits there
    for good.
    """

    def __init__(self, limit: int = 1_000_000, gate: int | None = None, error: Exception | None = None) -> None:
        self.limit = limit
        self.gate = gate
        self.error = error
        self.made = 0
        self.finished = asyncio.Event()
        self.waiting = asyncio.Event()

    async def __call__(self) -> AsyncIterator[int]:
        try:
            for number in range(self.limit):
                if number == self.gate:
                    self.waiting.set()
                    await asyncio.Event().wait()
                self.made += 1
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.finished.set()


async def total(chunks: AsyncIterator[int]) -> int:
    """A handler that adds up what is sent."""
    return sum([chunk async for chunk in chunks])


async def collect(items: AsyncIterable[Any], into: list[Any] | None = None) -> list[Any]:
    """All items; what came before an error is in ``into``."""
    into = [] if into is None else into
    async for value in items:
        into.append(value)
    return into

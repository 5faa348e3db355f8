"""``str()`` and ``repr()`` of whatever is public, and errors whose message is no text: nothing there raises."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from core_driver import messages, turns
from leftovers import nothing_left as nothing_left

import wsrpc
import wsrpc.cluster
import wsrpc.codecs
import wsrpc.errors
import wsrpc.stats
import wsrpc.transport
import wsrpc.types
from wsrpc import (
    AnonymousChannel,
    KeepLatest,
    Reconnect,
    RemoteError,
    Retry,
    RpcError,
    Server,
    WsrpcError,
    current_context,
)
from wsrpc.testing import connect, pair


class Hostile:
    def __repr__(self) -> str:
        raise LookupError("no repr")

    __str__ = __repr__


class Lying:
    def __repr__(self) -> Any:
        return 5

    __str__ = __repr__


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(10_000):
        value = [value]
    return value


def _cycle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = [value]
    return value


VALUES: dict[str, Callable[[], Any]] = {
    "hostile": Hostile,
    "lying": Lying,
    "a hostile exception": lambda: ValueError(Hostile()),
    "deep": _deep,
    "cycle": _cycle,
    "huge number": lambda: 10**10_000,
    "huge text": lambda: "x\n" * 100_000,
    "half a surrogate": lambda: "\ud800",
    "None": lambda: None,
    "a number": lambda: 404,
}
values = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
MODULES = (wsrpc, wsrpc.cluster, wsrpc.codecs, wsrpc.errors, wsrpc.stats, wsrpc.transport, wsrpc.types)
PUBLIC = list(
    dict.fromkeys(
        found for module in MODULES for name in module.__all__ if inspect.isclass(found := getattr(module, name))
    )
)
ERRORS = [cls for cls in PUBLIC if issubclass(cls, WsrpcError)]


def survives(thing: object) -> None:
    for text in (str(thing), repr(thing), f"{thing}", f"{thing!r:>10}"):
        assert text.isascii() or "\n" not in text
        assert len(text) < 3000


def made(cls: type[Any], value: Any) -> Any:
    """One of which every part is ``value``, as far as its constructor takes that."""
    try:
        parameters = inspect.signature(cls).parameters.values()
        return cls(*(value for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD))
    except (TypeError, ValueError):
        return cls.__new__(cls, value)


@values
def test_errors(value: Callable[[], Any]) -> None:
    for cls in ERRORS:
        error = made(cls, value())
        survives(error)
        for name in list(vars(error)) or ["message"]:
            setattr(error, name, value())
        survives(error)


@values
async def test_what_users_hold(value: Callable[[], Any]) -> None:
    seen: list[Any] = []
    server = Server()

    async def talk(channel: AnonymousChannel) -> None:
        seen.extend([channel, current_context()])
        await channel.wait_closed()

    server.on("talk", talk)
    server.on("message", lambda peer, message: seen.append(message))
    async with connect(server) as client:
        [peer] = server.peers
        server.state = peer.state["user"] = value()
        seen += [server, client, client.peer, peer, peer.info, server.room("r"), client.of("x"), client.stream("talk")]
        channel = await client.open_channel("talk")
        await turns()
        channel.close(value())
        await turns()
        for thing in (*seen, channel, KeepLatest(), Retry(), Reconnect()):
            survives(thing)


# ---------------------------------------------------------------- an error whose message is no text


@values
async def test_a_message_that_is_no_text(
    value: Callable[[], Any], nothing_left: None, caplog: pytest.LogCaptureFixture
) -> None:
    given = value()

    def plain() -> None:
        raise RpcError(given)

    def assigned() -> None:
        error = RpcError("text")
        error.message = given
        raise error

    async def aborts(channel: AnonymousChannel) -> None:
        await channel.abort(given)

    async def streams() -> Any:
        yield 1
        plain()

    async with pair() as (left, right):
        for handler in (plain, assigned, aborts, streams):
            right.on(handler.__name__, handler)
        for event in ("plain", "assigned"):
            await left.emit(event)
            with pytest.raises(RemoteError) as caught:
                await left.request(event)
            survives(caught.value)
            assert type(caught.value.message) is str
        for event in ("aborts", "streams"):
            with suppress(RpcError):  # an abort without a reason is none
                async for _ in left.stream(event):
                    pass
        await turns()
        assert left.connected and right.connected
        assert messages(caplog)


def test_an_exception_or_a_number_becomes_its_text() -> None:
    class Code(str):
        pass

    given: Any
    for given, text in ((KeyError("k"), "'k'"), (ValueError(), "ValueError"), (404, "404"), (Code("a"), "a")):
        error = RpcError(given)
        assert (error.message, error.args) == (text, (text,))

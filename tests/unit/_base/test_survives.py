"""``str()`` and ``repr()`` of whatever is public, and errors whose message is no text: nothing there raises."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from core_driver import messages
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import AnonymousChannel, RemoteError, RpcError, Server, current_context, errors
from wsrpc.testing import connect


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
}
values = pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
ERRORS: list[Any] = [
    cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, errors.WsrpcError)
]


def survives(*things: object) -> None:
    for thing in things:
        for text in (str(thing), repr(thing), f"{thing}", f"{thing!r:>10}"):
            assert text.isascii() or "\n" not in text
            assert len(text) < 3000


@values
def test_errors(value: Callable[[], Any]) -> None:
    for cls in ERRORS:
        try:
            parameters = inspect.signature(cls).parameters.values()
            error: Any = cls(*(value() for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD))
        except (TypeError, ValueError):
            error = cls.__new__(cls, value())
        survives(error)
        for name in list(vars(error)) or ["message"]:
            setattr(error, name, value())
        survives(error)


@values
async def test_what_users_hold_and_messages_that_are_no_text(
    value: Callable[[], Any], nothing_left: None, caplog: pytest.LogCaptureFixture
) -> None:
    given = value()
    server = Server()

    def plain() -> None:
        raise RpcError(given)

    def assigned() -> None:
        error = RpcError("text")
        error.message = given
        raise error

    async def aborts(channel: AnonymousChannel) -> None:
        survives(channel, current_context())
        await channel.abort(given)

    async def streams() -> Any:
        yield 1
        plain()

    for handler in (plain, assigned, aborts, streams):
        server.on(handler.__name__, handler)
    async with connect(server) as client:
        [peer] = server.peers
        server.state = peer.state["user"] = given
        survives(server, client, client.peer, peer, peer.info, server.room("r"), client.of("x"), client.stream("plain"))
        for event in ("plain", "assigned"):
            await client.emit(event)
            with pytest.raises(RemoteError) as caught:
                await client.request(event)
            survives(caught.value)
            assert type(caught.value.message) is str
        for event in ("aborts", "streams"):
            with suppress(RpcError):  # an abort without a reason raises no RpcError
                async for _ in client.stream(event):
                    pass
        await settled()
        assert client.connected and peer.connected
        assert messages(caplog)

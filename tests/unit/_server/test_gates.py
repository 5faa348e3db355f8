"""Functions that decide who may do what: a mistake in one of them lets nobody pass."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import HandshakeRejected, RemoteError, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- mistakes: what each returns counts as true


async def refuse(subject: object, room: str = "") -> bool:
    return False


def with_yield(subject: object, room: str = "") -> Generator[bool]:
    yield False


class WithYield:
    async def __call__(self, subject: object, room: str = "") -> AsyncGenerator[bool]:
        yield False


async def forgets_await(subject: object, room: str = "") -> object:
    return refuse(subject)


def returns_a_generator(subject: object, room: str = "") -> object:
    return with_yield(subject)


def returns_a_future(subject: object, room: str = "") -> object:
    later = Future[bool]()  # as ThreadPoolExecutor.submit does
    later.set_result(False)
    return later


# ---------------------------------------------------------------- the functions that decide


def on_handshake(function: Any) -> Server:
    server = Server()
    server.on_handshake(function)
    return server


def allow(function: Any) -> Server:
    server = Server()
    server.room("prices", allow=function)
    return server


def on_join(function: Any) -> Server:
    server = Server()
    server.on_join(function)
    return server


def offer_description(function: Any) -> Server:
    server = Server()
    server.offer_description(allow=function)
    return server


def admin(function: Any) -> Server:
    return Server(admin=function)


def expose_errors(function: Any) -> Server:
    server = Server(expose_errors=function)

    @server.on("fail")
    def fail() -> None:
        raise KeyError("secret")

    return server


def origins(function: Any) -> Server:
    return Server(origins=function)


Gate = Callable[[Any], Server]
PLAIN: list[Gate] = [origins, expose_errors]
MAYBE_ASYNC: list[Gate] = [on_handshake, allow, on_join, offer_description, admin]


async def passes(server: Server, gate: Gate) -> bool:
    """Whether a client gets what the gate is there to keep."""
    if gate in (on_handshake, origins):
        try:
            async with connect(server, headers={"Origin": "https://a.example"} if gate is origins else {}):
                pass
        except HandshakeRejected as refusal:
            return refusal.status != 500
        return True
    async with connect(server) as client:
        try:
            if gate is expose_errors:
                await client.request("fail")
            elif gate is offer_description:
                await client.of("wsrpc").request("describe")
            elif gate is admin:
                async with client.of("wsrpc").stream("peers") as rows:
                    assert [row async for row in rows]
            else:
                await client.of("rooms").request("join", "prices")
        except RemoteError as error:
            return "secret" in str(error)
    return True


@pytest.mark.parametrize("gate", [*PLAIN, *MAYBE_ASYNC])
@pytest.mark.parametrize("function", [with_yield, WithYield()])
def test_a_function_with_a_yield_is_refused_at_once(gate: Gate, function: Any) -> None:
    with pytest.raises(TypeError, match="takes a function without a `yield`"):
        gate(function)


@pytest.mark.parametrize(
    ("gate", "text"),
    [
        (on_handshake, "on_handshake"),
        (allow, r"allow= takes a function that is called with \(peer\), got"),
        (on_join, r"on_join takes a function that is called with \(peer, room\), got"),
        (offer_description, r"allow= takes a function that is called with \(peer\), got"),
        (admin, r"admin= takes a function that is called with \(peer, action\), got"),
    ],
)
def test_what_cannot_be_called_is_refused_at_once(gate: Gate, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        gate(lambda a, b, c: True)


@pytest.mark.parametrize("gate", PLAIN)
def test_an_async_one_is_refused_at_once_where_nothing_waits(gate: Gate) -> None:
    with pytest.raises(TypeError, match="takes a plain function, not an async one"):
        gate(refuse)


@pytest.mark.parametrize(
    ("gate", "function"),
    [(gate, function) for gate in (*PLAIN, *MAYBE_ASYNC) for function in (returns_a_generator, returns_a_future)]
    + [(gate, lambda subject, room="": refuse) for gate in (*PLAIN, *MAYBE_ASYNC)]
    + [(gate, lambda subject, room="": refuse(subject)) for gate in PLAIN]
    + [(gate, forgets_await) for gate in MAYBE_ASYNC],
)
async def test_what_has_not_run_lets_nobody_pass(gate: Gate, function: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert not await passes(gate(function), gate)
    assert "which has not run: was an `await` or a call forgotten" in caplog.text


@pytest.mark.parametrize("gate", MAYBE_ASYNC[1:])
@pytest.mark.parametrize("decision", ["denied", (False, "no"), 1])
async def test_what_is_neither_true_nor_false_lets_nobody_pass(
    gate: Gate, decision: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert not await passes(gate(lambda subject, room="": decision), gate)
    text = f" returned {type(decision).__name__}, which is only logged once: return True or False"
    assert caplog.text.count(text) == 1


@pytest.mark.parametrize("gate", [*PLAIN, *MAYBE_ASYNC])
async def test_one_that_decides_is_asked(gate: Gate) -> None:
    """So that the tests above refuse because of the mistake."""
    allows = None if gate is on_handshake else True
    assert await passes(gate(lambda subject, room="": allows), gate)

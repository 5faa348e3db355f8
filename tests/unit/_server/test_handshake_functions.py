"""`on_handshake` functions that fail or never end, besides the rules for each host.

tests/adapters/test_host_handshake.py has those rules.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import Blocked
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import ask, head_of
from raw_websocket import handshake as request_for

from wsrpc import Handshake, HandshakeRejected, Limits, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


def gated(function: Callable[..., Any], **options: Any) -> Server:
    server = Server(**{"limits": LIMITS, **options})
    server.on("echo", lambda value: value)
    server.on_handshake(function)
    return server


def let_in(handshake: Handshake) -> None:
    handshake.state["by"] = "me"


async def let_in_later(handshake: Handshake) -> None:
    await asyncio.sleep(0)
    handshake.state["by"] = "me"


# ---------------------------------------------------------------- those that fail


def reject(*args: Any, **kwargs: Any) -> Callable[[Handshake], None]:
    return lambda handshake: handshake.reject(*args, **kwargs)


def sets(name: str, value: Callable[[], Any]) -> Callable[[Handshake], None]:
    return lambda handshake: setattr(handshake, name, value())


def answers(name: Any, value: Any) -> Callable[[Handshake], None]:
    return lambda handshake: handshake.response_headers.__setitem__(name, value)


def returns(value: Any) -> Callable[[Handshake], Any]:
    return lambda handshake: value


async def returns_later(handshake: Handshake) -> bool:
    await asyncio.sleep(0)
    return True


async def answers_later(handshake: Handshake) -> None:
    await asyncio.sleep(0)
    handshake.response_headers["upgrade"] = "h2c"


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (reject(101), "status of a refusal must be from 400 to 599, got 101"),
        (reject(401, "\ud800"), "has lone surrogates"),
        (answers(5, "a"), "the name of a header is a word"),
        (answers("X-A", 5), "'X-A' must be text, got int"),
        (answers_later, "belongs to the handshake itself"),
        (sets("limits", lambda: {"message": 5}), "handshake.limits must be a wsrpc.Limits"),
        (sets("expires", lambda: "soon"), "handshake.expires is a time in seconds"),
        (sets("expires", lambda: 3600), "such as time.time() + 3600, got 3600"),
        (sets("expires", lambda: 1.7e12), "such as time.time() + 3600, got 1700000000000.0"),
        (sets("expires", lambda: 10**400), "such as time.time() + 3600, got 1000"),
        (sets("principle", lambda: "ada"), "handshake.principle does not exist: for values of your own, use"),
        (
            returns(False),
            "on_handshake returns None, got bool: to refuse a connection, call handshake.reject(401, ...)",
        ),
        (returns(HandshakeRejected(401, "no")), "on_handshake returns None, got HandshakeRejected: to refuse"),
        (returns(("unauthorized", 401)), "on_handshake returns None, got tuple: to refuse"),
        (returns_later, "on_handshake returns None, got bool: to refuse"),
        (sets("response_headers", lambda: {"X-A": "token\r\nX-B: b"}), "'X-A' has a character that cannot be sent"),
    ],
)
async def test_what_cannot_be_answered_is_said_here_and_refuses_with_500(
    function: Callable[[Handshake], Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HandshakeRejected) as refused:
        async with connect(gated(function), headers={"Sec-WebSocket-Protocol": "a, b"}):
            pytest.fail("let in")
    assert (refused.value.status, refused.value.body) == (500, "internal error\n")
    assert "x-b" not in refused.value.headers
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "on_handshake failed" in record.getMessage()
    assert record.exc_info is not None and text in str(record.exc_info[1])
    assert "token" not in str(record.exc_info[1])


async def test_credentials_that_never_expire() -> None:
    async with connect(gated(sets("expires", lambda: math.inf))) as client:
        assert await client.request("echo", 1) == 1


async def test_a_refusal_that_is_alone_in_a_group_is_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    """It was answered with 500, and logged with its traceback."""

    async def look_up(handshake: Handshake) -> None:
        await asyncio.sleep(0)
        handshake.reject(401, "who are you?\n")

    async def decide(handshake: Handshake) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(look_up(handshake))
            group.create_task(asyncio.Event().wait())

    with pytest.raises(HandshakeRejected) as refused:
        async with connect(gated(decide)):
            pytest.fail("let in")
    assert (refused.value.status, refused.value.body) == (401, "who are you?\n")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("given", [{}, {"Server": "mine/1"}])
async def test_headers_that_the_library_sets(given: dict[str, str]) -> None:
    server = gated(lambda handshake: handshake.response_headers.update(given))
    async with server.listen() as listener:
        head = await head_of(listener.port, request_for("/"))
    assert head.lower().count(b"server:") == head.count(b"mine/1") == len(given)


# ---------------------------------------------------------------- those that never end


async def test_a_server_that_closes_meanwhile_waits_for_nobody() -> None:
    """Nor is somebody let in who was asked about before the server was opened again."""
    stuck = Blocked()
    server = gated(stuck, limits=LIMITS.replace(open_timeout=1000.0))
    async with server.listen() as listener:
        waiting = asyncio.create_task(ask(listener.port, request_for()))
        in_memory = asyncio.create_task(server.handshake(Handshake("/", {})))
        await turns_until(lambda: len(stuck.started) == 2)
        await server.close()
        await server.open()
        with pytest.raises(HandshakeRejected, match="503"):
            await in_memory
        assert server.stats().refused == {}, "it was of the run before"
    assert len(stuck.cancelled) == 2
    assert not (await waiting).startswith(b"HTTP/1.1 101")

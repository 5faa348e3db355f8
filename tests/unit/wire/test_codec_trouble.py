"""A codec of the user's that goes wrong harms one connection and is in the log; caches keep nobody alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import Driven, messages
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import Limits, Server
from wsrpc.codecs import JsonCodec
from wsrpc.testing import ScriptedTransport, connect

clean = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
MARK = 9_007_199_254_740


class Bug(RuntimeError):
    pass


def bug(*_: object) -> Any:
    raise Bug("the codec's own")


DEEP = '{"i":1,"a":["echo","' + "x" * 100 + '"]}'
BROKEN = '{"i":1,"a":["echo","\\ud800"]}'

TROUBLE = [
    pytest.param({"claims": bug}, BROKEN, id="claims raises"),
    pytest.param({"outline": bug}, BROKEN, id="outline raises"),
    pytest.param({"outline": lambda payload: {"i": 1}}, BROKEN, id="outline returns nonsense"),
    pytest.param({"nests_deeper": bug}, DEEP, id="nests_deeper raises"),
    pytest.param({"decode": lambda payload: {"i": 1, "a": ["echo"]}}, DEEP, id="decode returns nonsense"),
    pytest.param({"encode": bug}, DEEP, id="encode raises, also for rejections"),
    pytest.param({"encode": bug}, '{"i":1,"a":["async"]}', id="encode raises, also for rejections, in a task"),
]


def serving(codec: JsonCodec | None = None) -> Server:
    server = Server(limits=LIMITS, codec=codec)
    server.on("echo", lambda *args: list(args))

    async def later() -> int:
        await asyncio.sleep(0)
        return 1

    server.on("async", later)
    return server


class Selective(JsonCodec):
    """Goes wrong as another codec does, but only for messages that have a mark: what others send is fine."""

    def __init__(self, methods: dict[str, Callable[..., Any]], mark: bytes) -> None:
        super().__init__()
        for name, method in methods.items():
            setattr(self, name, self._choose(getattr(self, name), method, mark))

    def _choose(self, plain: Callable[..., Any], odd: Callable[..., Any], mark: bytes) -> Callable[..., Any]:
        def choose(first: Any, *more: Any) -> Any:
            seen = first if isinstance(first, bytes | bytearray) else repr(first).encode()
            return odd(first, *more) if mark in seen else plain(first, *more)

        return choose


@clean
@pytest.mark.parametrize(("methods", "payload"), TROUBLE)
async def test_only_the_connection_that_meets_it_is_closed(
    methods: dict[str, Callable[..., Any]], payload: str, caplog: pytest.LogCaptureFixture
) -> None:
    # The id is the mark, because answers have it, too. Nobody else's message has so long a number.
    server = serving(Selective(methods, str(MARK).encode()))
    line = ScriptedTransport()
    async with connect(server) as bystander:
        await server.accept(line)
        line.feed(payload.replace('"i":1', f'"i":{MARK}'))
        await settled()
        assert line.closed is not None and line.closed.code in (1007, 1011)
        assert await bystander.request("echo", 1) == [1]
        assert len(server.peers) == 1
    assert messages(caplog, logging.WARNING)


@clean
async def test_decode_that_raises_means_no_message_and_a_request_is_still_answered() -> None:
    d = Driven(codec=Selective({"decode": bug}, b""))
    sent = await d.fed({"i": 1, "a": ["echo"]})
    assert [message["i"] for message in sent] == [1]
    assert sent[0]["e"]["code"] == "wsrpc.bad_arguments"
    assert d.ignored == {"unreadable": 1}
    assert d.peer.connected

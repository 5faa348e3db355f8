"""Deprecated events: calls are logged on both sides, few of them, and nothing else changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import pytest
from core_driver import Driven, idle, messages
from leftovers import nothing_left as nothing_left
from stream_driver import agreed, control, welcome
from waiting import settled, until

from wsrpc import Client, Context, Router, Server, Service, method
from wsrpc.testing import VirtualTimeLoop, connect

pytestmark = pytest.mark.usefixtures("nothing_left")

COUNTED = "further calls are counted in stats().deprecated"
WARNED = f"event 'report' was called, and is deprecated: use 'measured' ({COUNTED})"
TOLD = control("deprecated", event="report", why="use 'measured'")


async def later(value: int) -> int:
    return value


def now(value: int) -> int:
    return value


OPTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "def": (now, {}),
    "async def": (later, {}),
    "ordered": (later, {"ordered": True}),
    "time limit": (later, {"timeout": 5}),
}


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("kind", OPTIONS)
async def test_each_peer_is_warned_once(kind: str, middleware: bool, caplog: pytest.LogCaptureFixture) -> None:
    handler, options = OPTIONS[kind]
    d = Driven(extensions=True)
    await agreed(d, "credit")
    d.peer.on("measured", handler)
    d.peer.on("report", handler, deprecated="use 'measured'", **options)
    if middleware:

        @d.peer.use
        async def pass_on(ctx: Context, call_next: Any) -> Any:
            return await call_next(ctx)

    d.feed({"i": 1, "a": ["report", 1]}, {"a": ["report", 2]}, {"i": 3, "a": ["measured", 3]})
    await idle(d)
    await settled()
    sent = d.take()
    assert [message for message in sent if "wsrpc" in message] == [TOLD]
    assert {message["i"]: message["d"] for message in sent if "i" in message} == {1: 1, 3: 3}
    assert messages(caplog) == [WARNED]
    assert (d.ignored, d.peer.stats().misfits, d.peer.stats().deprecated) == ({}, {}, {"report": 2})


async def test_a_plain_peer_gets_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven(extensions=True)
    d.peer.on("report", now, deprecated="use 'measured'")
    assert await d.fed({"i": 1, "a": ["report", 1]}) == [{"i": 1, "d": 1}]
    assert messages(caplog) == [WARNED]


async def test_the_caller_logs_a_warning_once_and_few_of_a_flood(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven(dialer=True, extensions=True)
    await d.fed(TOLD)
    assert (messages(caplog), d.ignored) == ([], {"control message out of place": 1})
    await d.fed(welcome("credit"), TOLD, TOLD)
    assert messages(caplog) == [
        "event 'report' is deprecated at the remote peer: use 'measured' (further calls are not logged)"
    ]
    await d.fed(*(control("deprecated", event=f"{number}\n", why="\x1b[2J" * 99) for number in range(1000)))
    assert len(messages(caplog)) == 32 and not any("\n" in text or "\x1b" in text for text in messages(caplog))
    await d.fed(control("deprecated", event=5, why="x"), control("deprecated", event="x"))
    assert d.ignored == {"control message out of place": 1, "unknown control message": 2}


class Station(Service):
    @method(deprecated="use 'measured'")
    def report(self, value: int) -> int:
        return value


class Reports(Protocol):
    @method(deprecated="use 'measured'")
    async def report(self, value: int) -> int: ...


class Implementation:
    def report(self, value: int) -> int:
        return value


def by_a_router(server: Server) -> None:
    router = Router()
    router.on("report", deprecated="use 'measured'")(now)
    server.include(router)


REGISTER: list[Callable[[Server], object]] = [
    by_a_router,
    lambda server: server.add_service(Station),
    lambda server: server.implement(Reports, Implementation()),
]


@pytest.mark.parametrize("register", REGISTER)
async def test_two_programs_see_each_other_in_the_log(register: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(program="center/2.0")
    register(server)
    server.of("old").on("report", now, deprecated="x" * 200)
    async with connect(server, client=Client(program="station/1.0")) as client:
        for _ in range(3):
            assert await client.request("report", 1) == await client.of("old").request("report", 1) == 1
        await until(lambda: len(messages(caplog)) == 4)
        assert server.stats().deprecated == {"station/1.0": 6}
        [peer] = server.peers
        assert peer.stats().deprecated == {"report": 3, "old:report": 3}
    await until(lambda: not server.peers)
    assert server.stats().deprecated == {"station/1.0": 6}
    found = [(vars(each)["program"], "was called" in each.getMessage()) for each in caplog.records]
    assert sorted(found) == [("center/2.0", False)] * 2 + [("station/1.0", True)] * 2
    assert {each.levelno for each in caplog.records} == {logging.WARNING}
    assert sum("'old:report'" in text for text in messages(caplog)) == 2


def test_a_process_logs_a_deprecated_event_once_in_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    """It did so for each connection: 255 times in four minutes."""
    server = Server()
    server.on("report", now, deprecated="use 'measured'")
    server.on("other", now, deprecated="use 'measured'")

    async def call(event: str, times: int) -> list[str]:
        caplog.clear()
        for _ in range(times):
            async with connect(server) as client:
                await client.request(event, 1)
        return [text for text in messages(caplog) if "was called" in text]

    async def main() -> None:
        assert len(await call("report", 5)) == len(await call("other", 5)) == 1
        await asyncio.sleep(3500)
        assert await call("report", 5) == []
        await asyncio.sleep(200)
        assert len(await call("report", 5)) == 1
        assert sum(server.stats().deprecated.values()) == 20
        async with server.listen() as listener:
            for _ in range(3):  # the line of the caller, too
                async with Client(listener.url) as client:
                    await client.request("report", 1)
        assert len([text for text in caplog.messages if listener.url in text]) == 1
        await server.close()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


@pytest.mark.parametrize(("value", "error"), [("", ValueError), ("x" * 201, ValueError), (True, TypeError)])
def test_what_it_can_be(value: Any, error: type[Exception]) -> None:
    for register in (Server().on, Router().on):
        with pytest.raises(error, match="deprecated= is a text of at most 200 characters that says what to use inst"):
            register("report", now, deprecated=value)
    with pytest.raises(TypeError, match=r"'open' reports on the connection: .* deprecated= and rate= do not apply"):
        Server().on("open", lambda peer: None, deprecated="use 'connect'")

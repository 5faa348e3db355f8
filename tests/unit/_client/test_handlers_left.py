"""A handler that runs while a connection opens, and raises `ConnectionLost` because that connection ends.

It has not failed, and the log says that at INFO, wherever the connection is at that moment: the transport may have
refused a message before the client is told of the end, or another connection may be there already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from core_driver import said_in
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost, Limits
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


class Line(ScriptedTransport):
    """A connection that may refuse messages before it says that it has ended."""

    refuses = False

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self.refuses:
            raise ConnectionLost(1006, "the connection has been reset", "not_sent")
        super().send(payload, text)


class Scene:
    """A client with a handler, on a connection that ends in the handler, or on which nothing ends."""

    def __init__(self, event: str, handler: Callable[[Scene], Any], moment: str) -> None:
        self.client = Client(limits=LIMITS, extensions=False)
        self.event = event
        self.moment = moment
        self.line = Line()
        self.tasks: list[asyncio.Task[None]] = []
        self.called = False
        self.done = False

        def handle() -> Any:
            called, self.called = self.called, True
            return None if called else handler(self)

        self.handle = handle

    async def play(self) -> None:
        if self.event == "open":
            self.client.on("open", self.handle)
        else:
            first = Line()
            await self.client.bind(first)
            self.client.on_reconnect(self.handle)
            first.lose()
        self.start(self.client.bind(self.line))
        await turns_until(lambda: self.done)
        for _ in range(5):
            await asyncio.sleep(0)
        self.client.on("open", None)
        await self.client.close()
        self.line.lose()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def start(self, call: Any) -> None:
        self.tasks.append(asyncio.ensure_future(call))

    async def reach(self) -> None:
        """Let happen to the connection what is to happen while the handler runs."""
        match self.moment:
            case "is replaced":
                self.start(self.client.bind(Line()))
                await turns_until(lambda: self.client.peer.transport is not self.line)
            case "is closed":
                self.start(self.client.close(4000, "enough"))
                await turns_until(lambda: self.client.state in ("closing", "closed"))
            case _:
                self.end()

    def end(self) -> None:
        if self.moment == "refuses":
            self.line.refuses = True
        elif self.moment == "is lost":
            self.line.lose()
        elif self.moment == "refuses, then is lost":
            self.line.refuses = True
            asyncio.get_running_loop().call_soon(self.line.lose)


def emits(scene: Scene) -> None:
    """A plain function that emits."""
    scene.done = True
    scene.end()
    scene.client.emit_nowait("note", offline="fail")


async def emits_later(scene: Scene) -> None:
    try:
        await asyncio.sleep(0)
        with suppress(asyncio.CancelledError):
            await scene.reach()
        await scene.client.emit("note", offline="fail")
    finally:
        scene.done = True


async def asks(scene: Scene) -> None:
    """Waits for an answer, whatever happens, and so is told by its request how the connection ended."""
    asking = asyncio.ensure_future(scene.client.request("park"))
    try:
        await asyncio.sleep(0)
        with suppress(asyncio.CancelledError):
            await scene.reach()
        while not asking.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([asking])
        asking.result()
    finally:
        scene.done = True


async def asks_in_a_group(scene: Scene) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(scene.client.request("park"))
            group.create_task(scene.client.request("park"))
            await asyncio.sleep(0)
            scene.start(scene.client.close(4000, "enough"))
    finally:
        scene.done = True


ENDINGS = [
    (emits, "refuses"),
    (emits, "is lost"),
    (emits, "refuses, then is lost"),
    (emits_later, "refuses"),
    (emits_later, "is lost"),
    (emits_later, "refuses, then is lost"),
    (emits_later, "is closed"),
    (asks, "is lost"),
    (asks, "refuses, then is lost"),
    (asks, "is replaced"),
    (asks, "is closed"),
    (asks_in_a_group, "is closed"),
]


def about_handlers(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """The log's lines about handlers, each with its level."""
    lines = [(record.levelno, said_in(record)) for record in caplog.records]
    return [(level, text) for level, text in lines if "the handler of" in text or level >= logging.ERROR]


@pytest.mark.parametrize("event", ["open", "on_reconnect"])
@pytest.mark.parametrize(("handler", "moment"), ENDINGS, ids=[f"{each.__name__}-{when}" for each, when in ENDINGS])
async def test_a_handler_did_not_fail_if_only_its_connection_did(
    event: str, handler: Callable[[Scene], Any], moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene(event, handler, moment)
    await scene.play()
    [(level, text)] = about_handlers(caplog)
    assert level == logging.INFO
    assert text.startswith(
        f"the handler of {event!r}, {scene.handle.__qualname__}, did not finish, as the connection ended: "
    )


async def loses_another(scene: Scene) -> None:
    scene.done = True
    raise ConnectionLost(1006, "of another client")


def loses_another_at_once(scene: Scene) -> None:
    scene.done = True
    raise ConnectionLost(1006, "of another client")


async def fails_in_the_end(scene: Scene) -> None:
    """Fails for a reason of its own when the connection is lost."""
    try:
        with suppress(asyncio.CancelledError):
            scene.line.lose()
            await asyncio.sleep(0)
        raise ExceptionGroup("both", [ConnectionLost(1006, "dropped"), ZeroDivisionError()])
    finally:
        scene.done = True


@pytest.mark.parametrize("event", ["open", "on_reconnect"])
@pytest.mark.parametrize("handler", [loses_another, loses_another_at_once, fails_in_the_end])
async def test_any_other_error_is_a_failure(
    event: str, handler: Callable[[Scene], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene(event, handler, "nothing")
    await scene.play()
    assert about_handlers(caplog) == [(logging.ERROR, f"the handler of {event!r}, {scene.handle.__qualname__}, failed")]

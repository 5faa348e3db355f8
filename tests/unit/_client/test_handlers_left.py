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
from client_driver import LIMITS
from core_driver import said_in, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")


class Line(ScriptedTransport):
    """A connection that may refuse messages before it says that it has ended."""

    refuses = False

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self.refuses:
            raise ConnectionLost(1006, "the connection has been reset", "not_sent")
        super().send(payload, text)


class Scene:
    """A client, and the connection to which something happens while a handler runs."""

    def __init__(self, moment: str) -> None:
        self.client = Client(limits=LIMITS, extensions=False)
        self.moment = moment
        self.line = Line()
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, call: Any) -> None:
        self.tasks.append(asyncio.ensure_future(call))

    def end(self) -> None:
        self.line.refuses = "refuses" in self.moment
        if self.moment == "is lost":
            self.line.lose()
        elif self.moment == "refuses, then is lost":
            asyncio.get_running_loop().call_soon(self.line.lose)

    async def reach(self) -> None:
        """Let happen to the connection what is to happen."""
        with suppress(asyncio.CancelledError):
            if self.moment == "is replaced":
                self.start(self.client.bind(Line()))
                await turns_until(lambda: self.client.peer.transport is not self.line)
            elif self.moment == "is closed":
                self.start(self.client.close(4000, "enough"))
                await turns_until(lambda: self.client.state in ("closing", "closed"))
            else:
                self.end()


def emits(scene: Scene) -> None:
    """A plain function that emits."""
    scene.end()
    scene.client.emit_nowait("note", offline="fail")


async def asks(scene: Scene) -> None:
    """Waits for an answer, whatever happens, and so is told by its request how the connection ended."""
    asking = asyncio.ensure_future(scene.client.request("park"))
    await asyncio.sleep(0)
    await scene.reach()
    while not asking.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([asking])
    asking.result()


async def loses_another(scene: Scene) -> None:
    raise ConnectionLost(1006, "of another client")


async def fails_in_the_end(scene: Scene) -> None:
    """Fails for a reason of its own when the connection is lost."""
    await scene.reach()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    raise ExceptionGroup("both", [ConnectionLost(1006, "dropped"), ZeroDivisionError()])


LEFT, FAILED = "did not finish, as the connection ended: ", "failed"
ROWS = [
    (emits, "refuses", LEFT),
    (emits, "is lost", LEFT),
    (emits, "refuses, then is lost", LEFT),
    (asks, "is lost", LEFT),
    (asks, "is replaced", LEFT),
    (asks, "is closed", LEFT),
    (loses_another, "goes on", FAILED),
    (fails_in_the_end, "is lost", FAILED),
]


@pytest.mark.parametrize("event", ["open", "on_reconnect"])
@pytest.mark.parametrize(("handler", "moment", "said"), ROWS, ids=[f"{row[0].__name__}-{row[1]}" for row in ROWS])
async def test_a_handler_did_not_fail_if_only_its_connection_did(
    event: str, handler: Callable[[Scene], Any], moment: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene(moment)
    calls = [handler]

    def handle() -> Any:
        return calls.pop()(scene) if calls else None

    def logged() -> list[tuple[int, str]]:
        lines = [(record.levelno, said_in(record)) for record in caplog.records]
        return [(level, text) for level, text in lines if "the handler of" in text or level >= logging.ERROR]

    if event == "open":
        scene.client.on("open", handle)
    else:
        first = Line()
        await scene.client.bind(first)
        scene.client.on_reconnect(handle)
        first.lose()
    scene.start(scene.client.bind(scene.line))
    await turns_until(logged)
    await turns(5)
    await scene.client.close()
    scene.line.lose()
    await asyncio.gather(*scene.tasks, return_exceptions=True)
    [(level, text)] = logged()
    assert level == (logging.INFO if said is LEFT else logging.ERROR)
    assert text.startswith(f"the handler of {event!r}, {handle.__qualname__}, {said}")

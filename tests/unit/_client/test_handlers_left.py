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


class Line(ScriptedTransport):
    """A connection that may refuse messages before it says that it has ended."""

    refuses = False

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self.refuses:
            raise ConnectionLost(1006, "the connection has been reset", "not_sent")
        super().send(payload, text)


MOMENTS: dict[str, Callable[[Client, Line], Any]] = {
    "refuses": lambda client, line: setattr(line, "refuses", True),
    "is lost": lambda client, line: line.lose(),
    "is replaced": lambda client, line: asyncio.ensure_future(client.bind(ScriptedTransport())),
    "is closed": lambda client, line: asyncio.ensure_future(client.close(4000, "enough")),
    "goes on": lambda client, line: None,
}


def emits(client: Client, happen: Callable[[], Any]) -> None:
    happen()
    client.emit_nowait("note", offline="fail")


async def asks(client: Client, happen: Callable[[], Any]) -> None:
    """Waits for an answer, whatever happens, and so is told by its request how the connection ended."""
    asking = asyncio.ensure_future(client.request("park"))
    await asyncio.sleep(0)
    happen()
    while not asking.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([asking])
    asking.result()


async def loses_another(client: Client, happen: Callable[[], Any]) -> None:
    raise ConnectionLost(1006, "of another client")


async def fails_in_the_end(client: Client, happen: Callable[[], Any]) -> None:
    """Fails for a reason of its own when the connection is lost."""
    happen()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    raise ExceptionGroup("both", [ConnectionLost(1006, "dropped"), ZeroDivisionError()])


LEFT, FAILED = "did not finish, as the connection ended: ", "failed"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("handler", "moment", "said"),
    [
        (emits, "refuses", LEFT),
        (asks, "is lost", LEFT),
        (asks, "is replaced", LEFT),
        (asks, "is closed", LEFT),
        (loses_another, "goes on", FAILED),
        (fails_in_the_end, "is lost", FAILED),
    ],
)
async def test_a_handler_did_not_fail_if_only_its_connection_did(
    handler: Callable[..., Any], moment: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client, line = Client(limits=LIMITS, extensions=False), Line()
    calls, tasks = [handler], list[Any]()

    def handle() -> Any:
        return calls.pop()(client, lambda: tasks.append(MOMENTS[moment](client, line))) if calls else None

    def logged() -> list[tuple[int, str]]:
        lines = [(record.levelno, said_in(record)) for record in caplog.records]
        return [(level, text) for level, text in lines if "the handler of" in text or level >= logging.ERROR]

    client.on("open", handle)
    tasks.append(asyncio.ensure_future(client.bind(line)))
    await turns_until(logged)
    await turns(5)
    await client.close()
    line.lose()
    await asyncio.gather(*filter(None, tasks), return_exceptions=True)
    [(level, text)] = logged()
    assert level == (logging.INFO if said is LEFT else logging.ERROR)
    assert text.startswith(f"the handler of 'open', {handle.__qualname__}, {said}")

"""A handler that runs while a connection opens, and raises `ConnectionLost` because that connection ends.

It has not failed, and the log says that at INFO, wherever the connection is at that moment: the transport may have
refused a message before the client is told of the end, or another connection may be there already.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
from client_driver import LIMITS
from core_driver import said_in
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost
from wsrpc.testing import ScriptedTransport


class Line(ScriptedTransport):
    """A connection that refuses messages before it says that it has ended."""

    def send(self, payload: bytes, text: bool = True, /) -> None:
        raise ConnectionLost(1006, "the connection has been reset", "not_sent")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("moment", ["refuses", "is lost", "of another client"])
async def test_a_handler_did_not_fail_if_only_its_connection_did(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client = Client(limits=LIMITS, extensions=False)
    line = Line() if moment == "refuses" else ScriptedTransport()

    async def handle() -> None:
        if moment == "of another client":
            raise ConnectionLost(1006, moment)
        if moment == "refuses":
            client.emit_nowait("note", offline="fail")
        asking = asyncio.ensure_future(client.request("park"))
        await asyncio.sleep(0)
        line.lose()
        while not asking.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([asking])
        asking.result()

    def logged() -> list[tuple[int, str]]:
        lines = [(record.levelno, said_in(record)) for record in caplog.records]
        return [(level, text) for level, text in lines if "the handler of" in text or level >= logging.ERROR]

    client.once("open", handle)
    binding = asyncio.ensure_future(client.bind(line))
    await turns_until(logged)
    await client.close()
    line.lose()
    await asyncio.gather(binding, return_exceptions=True)
    [(level, text)] = logged()
    failed = moment == "of another client"
    assert level == (logging.ERROR if failed else logging.INFO)
    said = "failed" if failed else "did not finish, as the connection ended: "
    assert text.startswith(f"the handler of 'open', {handle.__qualname__}, {said}")

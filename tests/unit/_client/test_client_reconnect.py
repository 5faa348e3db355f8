"""`Client` after a drop: it dials again, tells what happens, keeps what waits, and knows when to give up."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from client_driver import AT_ONCE, LIMITS, attempts_in, lost, world
from core_driver import Played, messages, said_in
from leftovers import nothing_left as nothing_left
from tenacity import stop_after_attempt
from waiting import settled, until

from wsrpc import Client, ConnectFailed, ConnectionLost, HandshakeRejected, Reconnect

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("ends", ["drop", "close frame"])
async def test_a_drop_and_the_way_back(ends: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world() as w:
        await w.expect("open")
        for number in range(3):
            w.failures = [OSError()] * number
            expected = (1006, "aborted", False) if ends == "drop" else (1001, "leaving", True)
            if ends == "drop":
                w.drop()
            else:
                await w.peer.close(1001, "leaving")
            await w.expect("close", "open", "back")
            info, back = w.closed[-1], w.back[-1]
            assert (info.code, info.reason, info.was_clean) == expected
            assert (info.user_closed, info.will_reconnect) == (False, True)
            assert (back.resumed, back.attempts, back.downtime >= 0, back.lost) == (False, number + 1, True, None)
        assert len(attempts_in(caplog)) == 0 + 1 + 2
    assert w.notified.qsize() == 1 and len(w.dialed) == 1 + 1 + 2 + 3


class End(NamedTuple):
    """Why a client does not come back after a drop."""

    reconnect: Reconnect | None
    raises: type[Exception]
    """What `wait_connected` raises then."""
    log: str
    code: int = 1006
    failures: list[Exception] = []  # noqa: RUF012
    notified: bool = True
    """Whether the `error` handlers get it: the user has made no call that would raise it."""


def mistaken(_: BaseException) -> bool:
    raise LookupError("a mistake")


def all_but_4401(error: BaseException) -> bool:
    return not (isinstance(error, ConnectionLost) and error.code == 4401)


REFUSED = HandshakeRejected(401, "", {"Wsrpc-Refused": "1"})
"""By the server itself."""
NO_RETRY = r"the connection ended \(%s why\), and Reconnect\(retry=\) allows no other attempt"
ENDS = {
    "no reconnect": End(None, ConnectionLost, "", notified=False),
    "stop, after failures": End(
        Reconnect(initial=0, max=0, stop=stop_after_attempt(4)),
        ConnectFailed,
        "could not connect in 3 attempts",
        failures=[OSError()] * 3,
    ),
    "stop, at the drop": End(
        Reconnect(stop=stop_after_attempt(1)), ConnectionLost, r"1006 aborted.*Reconnect\(stop=\)", notified=False
    ),
    "a fatal refusal": End(AT_ONCE, HandshakeRejected, "HTTP 401", failures=[OSError(), REFUSED]),
    "1008": End(AT_ONCE, ConnectionLost, r"1008 why\), and a client does not dial again after", 1008, notified=False),
    "a function says no": End(Reconnect(retry=all_but_4401), ConnectionLost, NO_RETRY % 4401, 4401, notified=False),
    "a function fails": End(Reconnect(retry=mistaken), LookupError, "a mistake", notified=False),
}


@pytest.mark.parametrize("row", ENDS.values(), ids=ENDS)
async def test_a_client_that_gives_up_says_why_and_may_connect_again(
    row: End, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(reconnect=row.reconnect) as w:
        notified: list[Exception] = []
        w.client.on("error", lambda peer, error: notified.append(error))
        w.failures = list(row.failures)
        if row.code == 1006:
            w.drop()
        else:
            await w.peer.close(row.code, "why")
        await w.client.peer.wait_closed()
        assert w.closed[0].code == row.code
        queued = asyncio.create_task(w.client.request("echo", 1)) if row.failures else None
        await until(lambda: w.client.state == "closed")
        assert w.closed[0].will_reconnect == bool(row.failures)
        with pytest.raises(row.raises) as caught:
            await w.client.wait_connected()
        if isinstance(caught.value, ConnectFailed):
            assert caught.value.attempts == len(row.failures)  # the drop was no attempt
        assert notified == ([caught.value] if row.notified else [])
        for call in filter(None, (queued, w.client.request("echo", 1))):
            await lost(call, "not_sent")
        logged = messages(caplog, logging.ERROR)
        assert len(logged) == bool(row.log)
        if row.log:
            assert re.match("the client gives up: .*" + row.log, logged[0])
        if not isinstance(caught.value, LookupError):
            await w.client.connect()
            assert await w.client.request("echo", 2) == 2


@pytest.mark.parametrize("before", ["the first connection", "the next one", "bind"])
async def test_what_is_sent_without_a_connection_leaves_in_order_after_the_open_handlers(before: str) -> None:
    async with world(connect=False, url=None if before == "bind" else "ws://server/") as w:
        if before == "the next one":
            await w.client.connect()
            await w.dropped()

        @w.client.on("connect")
        async def opened() -> None:
            await asyncio.sleep(0)
            await w.client.emit("note", "in open")

        w.server.on("ask", w.received.put_nowait)
        await w.client.emit("note", 1)
        request = asyncio.create_task(w.client.request("ask", 2))
        leaves = asyncio.create_task(w.client.request("ask", "cancelled"))
        await asyncio.sleep(0)
        w.client.emit_nowait("note", 3)
        leaves.cancel()
        await (w.bind() if before == "bind" else w.client.connect())
        await w.client.emit("note", 4)
        await w.hears("in open", 1, 2, 3, 4)
        await request
        assert w.client.peer.pending == 0


async def test_what_others_send_and_events_that_arrive_wait_for_them_and_requests_do_not() -> None:
    async with world(connect=False, url=None) as w:
        entered, may_end = asyncio.Event(), asyncio.Event()
        notified: list[str] = []
        w.server.on("ask", w.received.put_nowait)
        w.client.on("tell", notified.append)
        w.client.on("name", lambda: "Ada")
        (await w.bind()).abort()
        await settled()

        @w.client.on_reconnect
        async def subscribe() -> None:
            entered.set()
            await may_end.wait()
            await w.client.request("ask", "subscribed")
            notified.append("returns")

        binding = asyncio.create_task(w.bind())
        await entered.wait()
        await settled()
        await w.peer.emit("tell", "news")
        assert await w.peer.request("name") == "Ada"
        w.client.emit_nowait("note", "one")
        others = [asyncio.create_task(w.client.request("ask", "two")), asyncio.create_task(w.client.wait_connected())]
        await settled()
        assert (w.client.state, w.client.connected) == ("opening", True)
        assert w.received.empty() and notified == [] and not any(task.done() for task in (binding, *others))
        may_end.set()
        await asyncio.gather(binding, *others)
        assert w.client.state == "connected"
        await w.hears("subscribed", "one", "two")
        await settled()
        assert notified == ["returns", "news"]


@pytest.mark.parametrize("moment", ["refuses", "is lost", "of another client"])
async def test_a_handler_did_not_fail_if_only_its_connection_did(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    client = Client(limits=LIMITS, extensions=False)
    line = Played(takes=0 if moment == "refuses" else 1000)

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
    await settled()
    await client.close()
    line.lose()
    await asyncio.gather(binding, return_exceptions=True)
    [(level, text)] = logged()
    failed = moment == "of another client"
    assert level == (logging.ERROR if failed else logging.INFO)
    said = "failed" if failed else "did not finish, as the connection ended: "
    assert text.startswith(f"the handler of 'open', {handle.__qualname__}, {said}")


async def test_a_connection_that_has_refused_a_message_is_over_before_its_end_is_reported() -> None:
    lines = list[Played]()

    async def dial(url: str, **options: Any) -> Played:
        lines.append(Played(takes=len(lines) * 2))
        return lines[-1]

    async with world(dial=dial, extensions=False, connect_timeout=30.0) as w:
        w.client.emit_nowait("note", 1)
        assert (w.client.state, w.client.connected) == ("connected", False)
        waiting = asyncio.create_task(w.client.wait_connected())
        with pytest.raises(ConnectFailed, match="no connection within connect_timeout="):
            await w.client.connect()
        assert (w.client.state, w.client.connected, waiting.done()) == ("connected", False, False)
        lines[0].lose()
        await waiting
        assert (w.client.state, w.client.connected) == ("connected", True)
        w.client.emit_nowait("note", 2)
        lines[1].expect({"a": ["note", 1]}, {"a": ["note", 2]})

"""`Client.connect`, `start`, `bind` and `close`: which attempts are repeated, what is raised, what still leaves."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

import pytest
from client_driver import AT_ONCE, LIMITS, NEVER, attempts_in, lost, never, world
from leftovers import living_objects
from leftovers import nothing_left as nothing_left
from leftovers import only_objects_of_the_test as only_objects_of_the_test
from tenacity import stop_after_attempt
from waiting import settled

from wsrpc import Client, ConnectFailed, HandshakeRejected, Reconnect, Server, current_context
from wsrpc.testing import Line

pytestmark = pytest.mark.usefixtures("nothing_left")

THRICE = Reconnect(initial=0, max=0, stop=stop_after_attempt(3))
REFUSING = Reconnect(retry=lambda error: False)


# ---------------------------------------------------------------- attempts that fail


async def test_a_connect_that_is_cancelled_goes_on_for_another_one() -> None:
    server, may_dial = Server(), asyncio.Event()
    line = Line(server)

    async def dial(url: str, **options: Any) -> Any:
        await may_dial.wait()
        return await line.dial(url, **options)

    client = Client("ws://server/", dial=dial)
    cancelled, other = [asyncio.ensure_future(client.connect()) for _ in range(2)]
    await settled()
    cancelled.cancel()
    await settled()
    may_dial.set()
    await other
    await client.close()
    await server.close()


class Raised(NamedTuple):
    """What `connect` raises where each attempt fails in this way."""

    reconnect: Reconnect | None
    failures: list[Exception]
    raises: type[Exception]
    said: str = ""


RAISED = {
    "401": Raised(AT_ONCE, [HandshakeRejected(401, "who are you?")], HandshakeRejected, "HTTP 401: who"),
    "429, no reconnect": Raised(None, [HandshakeRejected(429, "slow down")], HandshakeRejected, "HTTP 429: slow down"),
    "503, and stop": Raised(THRICE, [HandshakeRejected(503)] * 3, ConnectFailed, "in 3 attempts; .*HTTP 503"),
    "no reconnect": Raised(
        None, [OSError("gone")], ConnectFailed, "could not connect in 1 attempt; the last one: OSError: gone"
    ),
    "stop after three": Raised(THRICE, [OSError("no"), OSError("no"), OSError("gone")], ConnectFailed, "in 3 attempts"),
    "retry says no": Raised(REFUSING, [TimeoutError("no token")], TimeoutError, "no token"),  # no `connect_timeout`
}


@pytest.mark.parametrize("row", RAISED.values(), ids=RAISED)
async def test_what_connect_raises(row: Raised, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world(*row.failures * 3, connect=False, reconnect=row.reconnect) as w:
        for attempts in (1, 2):  # it may be told to dial again
            queued = asyncio.create_task(w.client.request("echo", 1))
            with pytest.raises(row.raises, match=row.said) as caught:
                await w.client.connect()
            error = caught.value
            if isinstance(error, ConnectFailed):
                assert (error.attempts, error.last_error) == (len(row.failures), row.failures[-1])
            assert (w.client.state, len(w.dialed)) == ("closed", attempts * len(row.failures))
            for call in (queued, w.client.request("echo", 1)):
                assert "the client gave up" in (await lost(call, "not_sent")).reason
        assert len(attempts_in(caplog)) == 2 * (len(row.failures) - 1)  # what follows the last one is another line
        last = [each for each in caplog.records if "gives up" in each.getMessage()]
        assert [each.levelname for each in last] == ["WARNING"] * 2 and row.said.split(".*")[-1] in caplog.text
        assert all("at ws://server/" in each.getMessage() for each in last)
        with pytest.raises(row.raises):
            async with w.client:
                pytest.fail("entered")


# ---------------------------------------------------------------- options


class Odd(BaseException):
    """As pytest's own outcomes are, and other libraries' cancellations."""


async def raise_later(error: BaseException) -> Any:
    await asyncio.sleep(0)
    raise error


def raise_now(error: BaseException) -> Any:
    raise error


GOOD: dict[str, Any] = {"url": "ws://server/", "headers": {}, "auth": "token"}
RAISES = [RuntimeError("no token yet"), asyncio.CancelledError("of the token"), Odd("odd")]


@pytest.mark.parametrize(
    ("option", "bad", "said"),
    [
        *(("auth", lambda e=e, r=r: r(e), str(e)) for e in RAISES for r in (raise_now, raise_later)),
        *((option, lambda: raise_later(RAISES[0]), "no token yet") for option in ("url", "headers")),
    ],
)
async def test_an_option_that_fails_is_an_attempt_that_failed(
    option: str, bad: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([bad, GOOD[option]])

    def ask() -> Any:
        answer = next(answers)
        return answer() if callable(answer) else answer

    given: dict[str, Any] = {option: ask}
    async with world(**given) as w:
        assert await w.client.request("echo", 1) == 1
    [warning] = attempts_in(caplog)
    assert said in warning
    assert "sec" not in caplog.text, "what may be a secret is not in the log"


# ---------------------------------------------------------------- connect_timeout


class Late(NamedTuple):
    """Where the client is when its time ends, and what is said of that."""

    state: str
    said: str
    options: dict[str, Any]
    opens: Any = None
    """The client's `open` handler."""


LATE = {
    "an attempt takes long": Late("connecting", "1 attempt; .*connect_timeout=30.0", {"dial": never}),
    "the delay is long": Late("waiting", "1 attempt; .*line is down", {"reconnect": NEVER}),
    "open handlers take long": Late("opening", "1 attempt; .*`open` handlers.*connect_timeout=30.0", {}, opens=never),
}


@pytest.mark.parametrize("row", LATE.values(), ids=LATE)
async def test_connect_timeout_ends_the_first_connection_with_its_open_handlers(row: Late) -> None:
    limits = LIMITS.replace(open_timeout=3600.0)
    async with world(connect=False, connect_timeout=30.0, limits=limits, **row.options) as w:
        cancelled: list[str] = []

        async def opens() -> None:
            try:
                await never()
            finally:
                cancelled.append("cancelled")

        if row.opens is not None:
            w.client.on("connect", opens)
        w.line.down = row.state == "waiting"
        queued = asyncio.create_task(w.client.request("echo"))
        connecting = asyncio.create_task(w.client.connect())
        await asyncio.sleep(29.9)
        assert w.client.state == row.state
        with pytest.raises(ConnectFailed, match=row.said) as caught:
            await connecting
        assert caught.value.__cause__ is caught.value.last_error
        assert w.client.state == "closed" and bool(cancelled) == (row.opens is not None)
        await lost(queued, "not_sent")


BY_HAND: dict[str, Any] = {"connect": False, "url": None}


async def test_what_cannot_be_bound_changes_nothing() -> None:
    async with world(**BY_HAND) as w:
        given: Any
        for given, said in ((await w.bind(), "bound already"), (object(), "takes a transport")):
            with pytest.raises((TypeError, ValueError), match=said):
                await w.client.bind(given)
        assert w.client.state == "connected" and await w.client.request("echo", 1) == 1


# ---------------------------------------------------------------- memory


@pytest.mark.usefixtures("only_objects_of_the_test")
async def test_what_a_user_keeps_from_one_session_keeps_no_later_ones() -> None:
    async with world(**BY_HAND) as w:
        w.server.on("conversation", lambda: current_context().channel())
        kept: list[Any] = []
        for _ in range(10):
            transport = await w.bind()
            if not kept:
                kept += [w.client.events("news"), await w.client.open_channel("conversation")]
            transport.abort()
            await settled()
        assert (await living_objects())["PeerSession"] <= 3, "the latest, and both ends of that of `kept`"
        del kept

"""`Reconnect` and `is_transient`: when a client dials again, and when not."""

from __future__ import annotations

import asyncio
import math
import ssl
from typing import Any

import pytest
from client_driver import LIMITS, never
from tenacity import retry_if_exception_type, stop_after_attempt, wait_exponential, wait_fixed
from websockets.exceptions import InvalidHandshake

from wsrpc import Client, ConnectionLost, HandshakeRejected, Limits, Reconnect, Server, is_transient
from wsrpc._net.dialing.client_handshake import ResponseTooLarge
from wsrpc._net.dialing.client_sockets import ProxyRefused
from wsrpc.testing import Line, MemoryTransport


def bad_url() -> Exception:
    with pytest.raises(ValueError) as caught:
        Client("http://x")
    return caught.value


TRANSIENT: list[BaseException] = [
    *(ConnectionRefusedError(), TimeoutError(), OSError("no route"), InvalidHandshake(), EOFError()),
    *(HandshakeRejected(status) for status in (408, 425, 429, 500, 502, 503, 504)),
    *(
        ConnectionLost(code)
        for code in (1000, 1001, 1002, 1003, 1006, 1007, 1009, 1011, 1012, 1013, 3008, 4000, 4401, 4411)
    ),
    ssl.SSLEOFError(),
    ssl.SSLError(1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error"),
]
STATUSES = (400, 401, 403, 404, 405, 407, 410, 414, 426, 431, 501, 505)
FATAL_AT_FIRST: list[BaseException] = [
    *map(HandshakeRejected, STATUSES),
    *(ProxyRefused(status, "") for status in STATUSES),
    ssl.SSLCertVerificationError(1, "not trusted"),
    ResponseTooLarge(),
]
FATAL: list[BaseException] = [
    *(HandshakeRejected(status, "", {"Wsrpc-Refused": "1"}) for status in STATUSES),
    *(ConnectionLost(code) for code in (1008, 3000, 3003, 4410)),
    *(bad_url(), asyncio.CancelledError(), KeyboardInterrupt()),
]


def test_which_errors_are_worth_another_attempt() -> None:
    for connected in (False, True):
        assert [error for error in TRANSIENT if not is_transient(error, connected=connected)] == []
        assert [error for error in FATAL if is_transient(error, connected=connected)] == []
        assert [error for error in FATAL_AT_FIRST if is_transient(error, connected=connected) is not connected] == []


# Without randomness a client waits 1, 2, 4, ... seconds. A step is an attempt that fails, or a connection that lasts
# for some seconds and ends with a code, perhaps one on which the session resumes; and the delay after it, None if there
# is no other attempt.
FAIL = OSError()
What = Exception | tuple[float, int] | tuple[float, int, str]
RESUMED = "resumed"
PAST, FAR = "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"


def after(said: str) -> Exception:
    return HandshakeRejected(503, "", {"retry-after": said})


async def play(reconnect: Reconnect, steps: list[What]) -> list[float | None]:
    """Let a client dial, and return its delays."""
    kept = any(RESUMED in what for what in steps if isinstance(what, tuple))
    limits = (Limits() if kept else LIMITS).replace(open_timeout=1e6)
    server = Server(limits=limits, detached_timeout=1e6)
    line, loop, left = Line(server), asyncio.get_running_loop(), [*steps]
    ended, delays, resumed = list[float](), list[float | None](), list[bool]()
    ending = list[asyncio.Task[None]]()

    async def end(seconds: float, code: int) -> None:
        await asyncio.sleep(seconds or 0.001)
        ended.append(loop.time())
        if code == 1006:
            line.cut()
        else:
            await server.peers[0].close(code)

    async def dial(url: str, **options: Any) -> MemoryTransport:
        delays.extend(loop.time() - when for when in ended[-1:])
        what = left.pop(0) if left else await never()
        if isinstance(what, Exception):
            ended.append(loop.time())
            raise what
        ending.append(asyncio.create_task(end(*what[:2])))
        return await line.dial(url, **options)

    client = Client("ws://server/", dial=dial, reconnect=reconnect, connect_timeout=None, limits=limits)
    client.on_reconnect(lambda info: resumed.append(info.resumed))
    client.start()
    await asyncio.sleep(100_000)
    assert resumed == [RESUMED in what for what in steps if isinstance(what, tuple)][1:]
    delays += [None] * (client.state == "closed")
    await client.close()
    await server.close()
    return delays


async def test_the_delay_is_random_between_nothing_and_a_bound_that_doubles() -> None:
    found = await asyncio.gather(*(play(Reconnect(initial=2.0, max=30.0), [FAIL] * 8) for _ in range(80)))
    for position in range(8):
        delays = [each[position] or 0.0 for each in found]
        bound = min(30.0, 2.0 * 2**position)
        assert 0 <= min(delays) < bound / 4, "full jitter begins at nothing"
        assert bound * 3 / 4 < max(delays) <= bound
    assert (Reconnect().initial, Reconnect().max, Reconnect().stable) == (2.0, 30.0, 60.0)


@pytest.mark.parametrize(
    ("code", "initial", "least", "most"), [(1012, 2.0, 0.5, 0.8), (1006, 2.0, 1.0, 2.0), (1012, 0.0, -1.0, 0.0)]
)
async def test_a_restart_delays_clients_for_a_moment_and_not_all_by_the_same(
    code: int, initial: float, least: float, most: float
) -> None:
    found = await asyncio.gather(*(play(Reconnect(initial=initial), [(60.0, code)]) for _ in range(80)))
    assert least < max(delays[0] or 0.0 for delays in found) <= most


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        pytest.param({}, [(FAIL, 1), ((0, 1006), 2), ((59.9, 1006), 4), (FAIL, 8)], id="drops count as failures"),
        pytest.param({}, [(FAIL, 1), (FAIL, 2), ((60.0, 1006), 1), (FAIL, 2)], id="a minute ends the count"),
        pytest.param({}, [(FAIL, 1), (FAIL, 2), *[((1.0, 1012), 1)] * 9, (FAIL, 1)], id="a restart is no failure"),
        pytest.param(
            {},
            [((5.0, 1006), 1), *[((1.0, 1006, RESUMED), 1)] * 9, (FAIL, 2), ((0.9, 1006, RESUMED), 4)],
            id="a resume",
        ),
        pytest.param({}, [((0.99, 1006, RESUMED), 2**number) for number in range(4)], id="resumes, and drops at once"),
        pytest.param(
            {"stable": 0.5},
            [(FAIL, 1), ((0.5, 1006), 1), ((0.4, 1006, RESUMED), 2), ((0.5, 1006, RESUMED), 1)],
            id="a shorter stable",
        ),
        pytest.param(
            {"stop": stop_after_attempt(3)}, [*[((1.0, 4411), 0)] * 9, ((0, 1006), 1)], id="expired credentials"
        ),
        # A server may take a token whose time is over: with a `leeway`, or because its clock is wrong.
        pytest.param({}, [((0.99, 4411), 1), ((0.99, 4411), 2), ((0.99, 4411), 4)], id="expired again and again"),
        pytest.param({}, [((0, 1013), 11), ((0, 1006), 2)], id="1013 asks for ten seconds more"),
        pytest.param(
            {}, [(after("7"), 8), (after(PAST), 2), (after(FAR), 24 * 3600 + 4), (after("soon"), 8)], id="Retry-After"
        ),
        pytest.param({"wait": wait_fixed(-1.0)}, [(FAIL, 0)], id="a delay below 0"),
        pytest.param({"wait": wait_fixed(math.nan)}, [(FAIL, 0)], id="a delay that is no number"),
        pytest.param({}, [(FAIL, 1), (HandshakeRejected(403), None)], id="a fatal error"),
        pytest.param({"stop": stop_after_attempt(3)}, [(FAIL, 1), (FAIL, 2), (FAIL, None)], id="stop"),
        pytest.param({"retry": retry_if_exception_type(OSError)}, [(FAIL, 1), (ValueError(), None)], id="retry"),
        pytest.param(
            {"retry": lambda error: getattr(error, "code", 0) != 4401},
            [((0, 1006), 1), ((0, 4401), None)],
            id="a function as retry",
        ),
    ],
)
async def test_the_delays_after_failures_and_connections(
    options: dict[str, Any], steps: list[tuple[What, float | None]]
) -> None:
    found = await play(Reconnect(**{"wait": wait_exponential(), **options}), [what for what, _ in steps])
    assert found == pytest.approx([delay for _, delay in steps], abs=0.01)

"""What a Close frame keeps from starting, and which codes and reasons may be sent."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from core_driver import Blocked, Driven, idle, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, CloseCode, Limits, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


@pytest.mark.parametrize("how", ["close", "violation"])
@pytest.mark.parametrize("waits", ["place", "order"])
async def test_a_handler_that_waits_does_not_start_once_a_close_frame_is_queued(waits: str, how: str) -> None:
    d, work = Driven(limits=Limits(running=1 if waits == "place" else 1024)), Blocked()
    codes: list[int | None] = []

    async def close(code: int | None = 1000, reason: str = "") -> None:  # the remote peer does not answer the frame
        codes.append(code)
        await work.go.wait()

    vars(d.transport)["close"] = close
    d.peer.on("work", work, ordered=waits == "order")
    d.feed({"a": ["work", 0]}, {"a": ["work", 1]}, {"i": 1, "a": ["work", 2]}, {"a": ["work", 3]})
    await turns()
    if how == "close":
        closing = start(d.peer.close(4001, "logged out"))
    else:
        d.feed(*['{"a":["work"'] * 12)
    await turns()
    assert codes == [4001 if how == "close" else 1007]
    work.go.set()
    await turns(20)
    d.transport.lose()
    if how == "close":
        await closing
    await turns()
    assert work.started == [(0,)]
    assert d.ignored["dropped at the end"] == (3 if waits == "place" else 2)
    assert d.peer.active == 0


async def test_a_handler_that_waits_for_a_thread_does_not_start_either() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    d, go, started = Driven(), threading.Event(), list[int]()

    async def close(code: int | None = 1000, reason: str = "") -> None:
        go.set()

    def work(n: int) -> None:
        started.append(n)
        go.wait(8)

    vars(d.transport)["close"] = close
    d.peer.on("work", work, thread=True)
    d.feed({"a": ["work", 0]}, {"a": ["work", 1]})
    await turns_until(lambda: started)
    d.feed(*["{"] * 12)
    await turns_until(lambda: d.peer.active == 1)
    d.transport.lose()
    await idle(d)
    assert started == [0]


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        *((code, "", "may not be sent") for code in (999, 1004, 1005, 1015, 1016, 2999, 5000)),
        *((1000, reason, "123 bytes") for reason in ("x" * 124, "ü" * 62)),
    ],
)
async def test_a_code_or_reason_that_may_not_be_sent_is_a_local_error(code: int, reason: str, text: str) -> None:
    async with Server(limits=LIMITS).listen() as listener:
        async with Client(listener.url, limits=LIMITS, proxy=None) as client:
            for closable in (client, client.peer, client.peer.transport):
                assert closable is not None
                with pytest.raises(ValueError, match=text):
                    await closable.close(code, reason)
            assert client.connected


def test_every_code_that_has_a_name() -> None:
    """Those of the IANA registry, and wsrpc's own."""
    registered = {*range(1000, 1004), *range(1005, 1016), 3000, 3003, 3008}
    ours = {4400, 4408, 4409, 4410, 4411, 4412}
    assert {int(code) for code in CloseCode} == registered | ours

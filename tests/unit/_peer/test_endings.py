"""What a Close frame keeps from starting, and which codes and reasons may be sent."""

from __future__ import annotations

import asyncio
import json

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, TEXT, raw_client

from wsrpc import Client, CloseCode, Limits, Server
from wsrpc._server.peers import served_peer

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


@pytest.mark.parametrize("how", ["close", "violation", "expires"])
@pytest.mark.parametrize("waits", ["place", "order"])
async def test_a_handler_that_waits_does_not_start_once_a_close_frame_is_queued(waits: str, how: str) -> None:
    server = Server(limits=LIMITS.replace(running=1 if waits == "place" else 1024))
    started: list[int] = []
    exited, go_on = asyncio.Event(), asyncio.Event()

    @server.on("work", ordered=waits == "order")
    async def work(n: int) -> None:
        started.append(n)
        await go_on.wait()
        exited.set()

    async with server.listen() as listener, raw_client(listener.port) as raw:
        await turns_until(lambda: server.peers)
        [peer] = server.peers
        messages = [{"a": ["work", 0]}, {"a": ["work", 1]}, {"i": 1, "a": ["work", 2]}, {"a": ["work", 3]}]
        await raw.send(*[raw.frame(TEXT, json.dumps(message)) for message in messages])
        await turns_until(lambda: started and peer.stats().messages_in == len(messages))
        closing = None
        if how == "close":
            closing = asyncio.create_task(peer.close(4001, "logged out"))
        elif how == "violation":
            await raw.send(*[raw.frame(TEXT, '{"a":["work"') for _ in range(12)])
        else:
            served = served_peer(peer)
            assert served is not None
            served.expire_at(0.0)
        await raw.next_of(CLOSE)
        go_on.set()
        await exited.wait()
        await turns(50)
        raw.drop()
        await turns_until(lambda: server.peers == () and peer.active == 0)
        if closing is not None:
            await closing
        assert started == [0]
        assert peer.ignored["dropped at the end"] == (3 if waits == "place" else 2)
        await turns_until(lambda: server.stats().ignored == peer.ignored)


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
    ours = {4400, 4408, 4409, 4410, 4411}
    assert {int(code) for code in CloseCode} == registered | ours

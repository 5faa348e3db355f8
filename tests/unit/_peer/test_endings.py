"""How a connection ended, as `close` handlers are told; and what may be said at the end."""

from __future__ import annotations

import asyncio
import json

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, TEXT, RawPeer, raw_client, raw_server

from wsrpc import Client, CloseCode, CloseInfo, Limits, Server
from wsrpc._server.peers import served_peer

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)

Ending = tuple[int, str, bool, bool]


def told(info: CloseInfo) -> Ending:
    return info.code, info.reason, info.was_clean, info.user_closed


async def say(raw: RawPeer, frame: bytes) -> None:
    """A Close frame, and the end of the TCP connection once it is answered."""
    await raw.send(frame)
    await raw.next_of(CLOSE)


@pytest.mark.parametrize(
    ("left_by", "code"),
    [
        # A Close frame without a code, and no Close frame, are two things.
        *((code, code) for code in (1000, 3999, 4001)),
        (None, CloseCode.NO_STATUS),
        ("drop", CloseCode.ABNORMAL),
        ("reset", CloseCode.ABNORMAL),
        # Codes that may not be sent are the client's violation.
        *((code, 1002) for code in (0, 1004, 1005, 1006, 2999, 5000)),
    ],
)
async def test_a_server_learns_how_its_client_left(left_by: int | str | None, code: int) -> None:
    server = Server(limits=LIMITS)
    endings: list[CloseInfo] = []
    server.on("close", lambda peer, info: endings.append(info))
    async with server.listen() as listener, raw_client(listener.port) as raw:
        if left_by == "drop":
            raw.drop()
        elif left_by == "reset":
            raw.reset()
        else:
            assert not isinstance(left_by, str)
            await raw.send(raw.close_frame(left_by, "bye" if left_by else ""))
            assert (await raw.next_of(CLOSE)).code == code
        raw.sock.close()
        await turns_until(lambda: endings)
    [info] = endings
    assert (info.code, info.user_closed, info.will_reconnect) == (code, False, False)
    assert info.was_clean == (code not in (1002, CloseCode.ABNORMAL))
    assert (info.reason == "bye") == (code == left_by)


async def test_a_client_learns_of_a_close_without_a_code() -> None:
    endings: list[Ending] = []
    async with raw_server() as plain:
        client = Client(plain.url, limits=LIMITS, reconnect=None, proxy=None)
        client.on("close", lambda peer, info: endings.append(told(info)))
        connecting = asyncio.create_task(client.connect())
        raw = await plain.accept()
        await connecting
        await say(raw, raw.close_frame(None))
        raw.drop()
        await turns_until(lambda: endings)
        await client.close()
    assert endings == [(CloseCode.NO_STATUS, "", True, False)]


# ---------------------------------------------------------------- what has not started by then


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


# ---------------------------------------------------------------- what may be said


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

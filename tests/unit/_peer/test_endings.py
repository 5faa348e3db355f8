"""How a connection ended, as `close` handlers are told; and what may be said at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, RawPeer, raw_client, raw_server

from wsrpc import Client, CloseCode, CloseInfo, Limits, Peer, Server, dial

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)

Ending = tuple[int, str, bool, bool]


def told(info: CloseInfo) -> Ending:
    return info.code, info.reason, info.was_clean, info.user_closed


async def say(raw: RawPeer, frame: bytes) -> None:
    """A Close frame, and the end of the TCP connection once it is answered."""
    await raw.send(frame)
    await raw.next_of(CLOSE)


async def drop(raw: RawPeer) -> None:
    raw.drop()


async def reset(raw: RawPeer) -> None:
    raw.reset()


@pytest.mark.parametrize(
    ("end", "code", "clean"),
    [
        (lambda raw: say(raw, raw.close_frame(4001, "bye")), 4001, True),
        (lambda raw: say(raw, raw.close_frame(1000)), 1000, True),
        (lambda raw: say(raw, raw.close_frame(3999)), 3999, True),
        # A Close frame without a code, and no Close frame, are two things.
        (lambda raw: say(raw, raw.close_frame(None)), CloseCode.NO_STATUS, True),
        (drop, CloseCode.ABNORMAL, False),
        (reset, CloseCode.ABNORMAL, False),
    ],
    ids=["code and reason", "normal", "private", "no code", "drop", "reset"],
)
async def test_a_server_learns_how_its_client_left(
    end: Callable[[RawPeer], Awaitable[None]], code: int, clean: bool
) -> None:
    server = Server(limits=LIMITS)
    endings: list[CloseInfo] = []
    server.on("close", lambda peer, info: endings.append(info))
    async with server.listen() as listener:
        async with raw_client(listener.port) as raw:
            await end(raw)
            raw.sock.close()
            await turns_until(lambda: endings)
    [info] = endings
    assert (info.code, info.was_clean, info.user_closed, info.will_reconnect) == (code, clean, False, False)
    assert (info.reason == "bye") is (code == 4001)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
async def test_a_code_that_may_not_be_sent_is_the_other_side_s_violation(code: int) -> None:
    server = Server(limits=LIMITS)
    endings: list[CloseInfo] = []
    server.on("close", lambda peer, info: endings.append(info))
    async with server.listen() as listener:
        async with raw_client(listener.port) as raw:
            await raw.send(raw.close_frame(code))
            assert (await raw.next_of(CLOSE)).code == 1002
            raw.sock.close()
            await turns_until(lambda: endings)
    assert endings[0].code == 1002


async def test_both_sides_of_a_close() -> None:
    server = Server(limits=LIMITS)
    here: list[Ending] = []
    there: list[Ending] = []
    server.on("close", lambda peer, info: here.append(told(info)))

    @server.on("leave")
    async def leave(peer: Peer) -> None:
        await peer.close(4001, "as you wish")

    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS, reconnect=None, proxy=None)
        client.on("close", lambda peer, info: there.append(told(info)))
        await client.connect()
        await client.emit("leave")
        await turns_until(lambda: here and there)
        assert (here, there) == ([(4001, "as you wish", True, True)], [(4001, "as you wish", True, False)])
        await client.connect()
        await client.close(4002, "enough")
        await turns_until(lambda: len(here) == 2)
        assert (here[1], there[1]) == ((4002, "enough", True, False), (4002, "enough", True, True))


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


# ---------------------------------------------------------------- what may be said


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535])
async def test_a_code_that_may_not_be_sent_is_a_local_error(code: int) -> None:
    await nothing_is_closed_by(code, "", "may not be sent")


@pytest.mark.parametrize("reason", ["x" * 124, "ü" * 62])
async def test_a_reason_that_is_too_long_is_a_local_error(reason: str) -> None:
    await nothing_is_closed_by(1000, reason, "123 bytes")


async def nothing_is_closed_by(code: int, reason: str, text: str) -> None:
    async with Server(limits=LIMITS).listen() as listener:
        async with Client(listener.url, limits=LIMITS, proxy=None) as client:
            transport = client.peer.transport
            assert transport is not None
            closables: list[Any] = [client, client.peer, transport]
            for closable in closables:
                with pytest.raises(ValueError, match=text):
                    await closable.close(code, reason)
            assert client.connected


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1008, 1011, 1013, 1014, 3000, 3999, 4000, 4999])
async def test_others_arrive(code: int) -> None:
    server = Server(limits=LIMITS)
    endings: list[Ending] = []
    server.on("close", lambda peer, info: endings.append(told(info)))
    async with server.listen() as listener:
        transport = await dial(listener.url, limits=LIMITS, proxy=None)
        await transport.close(code, "x" * 123)
        await turns_until(lambda: endings)
    assert endings == [(code, "x" * 123, True, False)]


def test_every_code_that_has_a_name() -> None:
    """Those of the IANA registry, and wsrpc's own."""
    registered = {*range(1000, 1004), *range(1005, 1016), 3000, 3003, 3008}
    ours = {4400, 4408, 4409, 4410, 4411}
    assert {int(code) for code in CloseCode} == registered | ours

"""What the other side announced: a message that it would not take is refused here, before it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import agreed, collect, emptied, welcome

from wsrpc import AnonymousChannel, Client, Limits, MessageTooBig, Peer, RemoteError, RequestTimeout, RpcError, Server
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMIT = 2000
BIG = "x" * (LIMIT + 1)

Both = tuple[Peer, Peer]


@pytest.fixture
async def both() -> AsyncGenerator[Both]:
    async with pair(limits=Limits(message=LIMIT)) as peers:
        peers[1].on("echo", lambda value: value)
        await peers[0].request("echo", 1)  # welcome is here now
        yield peers
        await emptied(*peers)
        assert await peers[0].request("echo", "still here") == "still here"


@pytest.mark.parametrize("side", [0, 1])
async def test_what_is_sent_is_refused_before_sending(both: Both, side: int) -> None:
    peer = both[side]
    sends: list[Any] = [
        lambda: peer.request("echo", BIG),
        lambda: peer.emit("echo", BIG),
        lambda: peer.of("c").request("echo", BIG),
        lambda: peer.open_channel("echo", BIG),
        lambda: collect(peer.stream("echo", BIG)),
        lambda: peer.request("echo", BIG, send=[1]),
    ]
    for send in sends:
        with pytest.raises(MessageTooBig, match=str(LIMIT)):
            await send()
    with pytest.raises(MessageTooBig, match=r"Limits\.message"):
        peer.emit_nowait("echo", BIG)


@pytest.mark.parametrize("tight", [Limits(message=512), Limits(depth=2), Limits(name=1, running=1)])
async def test_two_wsrpc_peers_find_each_other_with_the_tightest_limits(tight: Limits) -> None:
    server = Server(limits=tight)
    server.on("e", lambda value: value)
    async with asyncio.timeout(8), server.listen() as listener, Client(listener.url, limits=tight) as client:
        assert await client.request("e", 5) == 5
        assert client.peer._out.terms.largest == tight.message  # they have agreed


async def test_the_limit_is_the_other_sides_and_exact() -> None:
    d = Driven(extensions=True, limits=Limits(message=1024))
    await agreed(d, "credit", message=1000)
    room = 1000 - len('{"a":["e",""]}')
    await d.peer.emit("e", "x" * room)
    assert len(d.take()) == 1
    with pytest.raises(MessageTooBig, match="1001 bytes"):
        await d.peer.emit("e", "x" * (room + 1))
    d.expect()


async def test_a_reply_that_is_too_big_is_an_error_of_the_caller_that_says_so(both: Both) -> None:
    left, right = both

    async def slowly() -> str:
        await asyncio.sleep(0)
        return BIG

    right.on("inline", lambda: BIG)
    right.on("slowly", slowly)
    right.on("thread", lambda: BIG, thread=True)
    for event in ("inline", "slowly", "thread"):
        with pytest.raises(RemoteError, match="too big"):
            await left.request(event)


async def test_an_error_that_is_too_big_arrives_without_its_data_and_fields(both: Both) -> None:
    left, right = both

    def fails() -> None:
        raise RpcError("see data", data=BIG)

    def shouts() -> None:
        raise RpcError(BIG)

    def details() -> None:
        raise RpcError("see fields", "E", fields={"details": BIG})

    right.on("fails", fails)
    right.on("shouts", shouts)
    right.on("details", details)
    with pytest.raises(RemoteError, match="see data"):
        await left.request("fails")
    with pytest.raises(RemoteError, match=r"see fields \(data and fields left out: ") as caught:
        await left.request("details")
    assert caught.value.code == "E" and not caught.value.fields
    with pytest.raises(RemoteError, match="xxx"):
        await left.request("shouts")


async def test_an_item_that_is_too_big_ends_the_stream_with_an_error_that_says_so(both: Both) -> None:
    left, right = both
    finished: list[bool] = []

    async def feed() -> AsyncIterator[str]:
        try:
            yield "small"
            yield BIG
        finally:
            finished.append(True)

    right.on("feed", feed)
    got: list[Any] = []
    with pytest.raises(RemoteError, match="too big"):
        await collect(left.stream("feed"), got)
    assert got == ["small"] and finished == [True]


async def test_an_item_of_an_upload_that_is_too_big_is_the_callers_error(both: Both) -> None:
    left, right = both
    seen: list[Any] = []

    async def up(chunks: AsyncIterator[str]) -> None:
        async for chunk in chunks:
            seen.append(chunk)

    right.on("up", up)
    with pytest.raises(MessageTooBig):
        await left.request("up", send=["small", BIG])
    await emptied(left, right)
    assert seen in ([], ["small"])


async def test_on_a_channel(both: Both) -> None:
    left, right = both

    async def talk(channel: AnonymousChannel) -> None:
        channel.on("ask", lambda: BIG)
        await asyncio.Event().wait()

    right.on("talk", talk)
    channel = await left.open_channel("talk")
    with pytest.raises(MessageTooBig):
        await channel.emit("e", BIG)
    with pytest.raises(MessageTooBig):
        await channel.request("e", BIG)
    with pytest.raises(RemoteError, match="too big"):
        await channel.request("ask")
    assert not channel.closed
    await channel.abort()


async def test_pulled_values_that_are_too_big_together_come_in_parts_or_fail(both: Both) -> None:
    left, right = both

    async def feed() -> AsyncIterator[str]:
        for _ in range(10):
            yield "x" * 500

    right.on("feed", feed)
    channel = await left.open_channel("feed")
    count = 0
    while True:
        answer = await channel.request("pull", 10)
        count += len(answer["values"])
        if answer["done"]:
            break
    assert count == 10


# ---------------------------------------------------------------- reasons


async def test_a_cancellation_goes_though_its_reason_is_too_big() -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    await d.fed(welcome("credit", message=LIMIT))
    task, i = await d.asks("q")
    task.cancel(BIG)
    await turns()
    assert task.cancelled()
    [cancellation] = d.take()
    assert cancellation["i"] == i and cancellation["_"] == 1
    d.assert_empty()


async def test_an_abort_goes_though_its_reason_is_too_big() -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    await d.fed(welcome("credit", message=LIMIT))
    opening = start(d.peer.open_channel("c"))
    await turns()
    i = d.take()[-1]["i"]
    d.feed({"i": i, "h": 1})
    channel = await opening
    await channel.abort(BIG)
    assert channel.closed and channel.close_reason == BIG
    [abort] = d.take()
    assert abort["h"] == i and abort["_"] == 1
    d.assert_empty()


@pytest.mark.parametrize("limit", [2**53, 2**200])
async def test_an_enormous_limit_is_as_good_as_none(limit: int) -> None:
    d = Driven(dialer=True, extensions=True)
    d.take()
    await d.fed(welcome("credit", message=limit))
    for _ in range(2):
        task = start(d.peer.request("q", timeout=5.0))
        await turns()
        d.clock.advance(5.0)
        with pytest.raises(RequestTimeout):
            await task
    d.transport.lose()
    await turns()
    d.assert_empty()

"""`RawConnection`: sending, whole and piece by piece, from many tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from raw_driver import raw_connection, raw_serving
from raw_websocket import BINARY, CLOSE, CONT, TEXT, RawPeer
from waiting import until

from wsrpc import ConnectionLost, Limits, Server
from wsrpc._raw.raw_connection import link_of
from wsrpc.types import EmitReport, RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


async def next_message(raw: RawPeer) -> tuple[int, list[bytes]]:
    """The opcode and the frames of a message."""
    frame = await raw.next_frame()
    assert frame.opcode in (TEXT, BINARY), frame
    opcode, parts = frame.opcode, [frame.payload]
    while not frame.fin:
        frame = await raw.next_frame()
        assert frame.opcode == CONT, f"{frame} within a message"
        parts.append(frame.payload)
    return opcode, parts


async def test_str_is_text_and_bytes_are_binary() -> None:
    async with raw_connection() as (connection, raw):
        message: Any  # whatever has the buffer protocol goes, though only `bytes` is declared
        for message in ("grüße", b"\x00\xff", memoryview(b"mv"), ""):
            await connection.send(message)
        await connection.send_json({"a": [1, "ü"]})
        await connection.send_json({"a": range(2)})
        assert [await next_message(raw) for _ in range(6)] == [
            (TEXT, ["grüße".encode()]),
            (BINARY, [b"\x00\xff"]),
            (BINARY, [b"mv"]),
            (TEXT, [b""]),
            (TEXT, ['{"a":[1,"ü"]}'.encode()]),
            (TEXT, [b'{"a":[0,1]}']),
        ]


async def test_an_iterable_leaves_piece_by_piece() -> None:
    asked = asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        yield "ü"
        await asked.wait()
        yield "z"

    async with raw_connection() as (connection, raw):
        await connection.send([b"one", b"two"])
        assert await next_message(raw) == (BINARY, [b"one", b"two", b""])
        sending = asyncio.create_task(connection.send(slow()))
        frame = await raw.next_frame()
        assert (frame.opcode, frame.payload, frame.fin) == (TEXT, "ü".encode(), False)
        asked.set()
        assert [(await raw.next_frame()).payload for _ in range(2)] == [b"z", b""]
        await sending


NO_MESSAGES: list[tuple[Any, str]] = [
    (5, "a raw message is str or bytes, got int"),
    ({"a": 1}, "got a mapping: encode it first"),
    ([], "there are no pieces"),
    ("\ud800", "surrogates"),
]


async def test_what_is_no_message_is_refused_and_nothing_is_sent() -> None:
    async with raw_connection() as (connection, raw):
        for message, text in NO_MESSAGES:
            with pytest.raises((TypeError, ValueError), match=text):
                await connection.send(message)
        await connection.send("next")
        assert await next_message(raw) == (TEXT, [b"next"])


@pytest.mark.parametrize("fails", [True, False])
async def test_a_message_that_cannot_be_finished_closes_with_1011(fails: bool) -> None:
    """But not before its first piece."""
    asked, closed = asyncio.Event(), asyncio.Event()

    async def endless(*first: str | bytes) -> AsyncIterator[str | bytes]:
        try:
            for piece in first:
                yield piece
            asked.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with raw_connection() as (connection, raw):
        unbegun = asyncio.create_task(connection.send(endless()))
        await asked.wait()
        unbegun.cancel()
        await asyncio.wait({unbegun})
        assert closed.is_set() and not connection.closed
        asked.clear()
        closed.clear()
        sending = asyncio.create_task(connection.send(endless("one", *[b"two"] * fails)))
        behind = asyncio.create_task(connection.send("behind"))
        if not fails:
            await asked.wait()
            sending.cancel()
        with pytest.raises(TypeError if fails else asyncio.CancelledError):
            await sending
        assert closed.is_set()
        for late in (behind, connection.send("never")):
            with pytest.raises(ConnectionLost, match="unfinished") as caught:
                await late
            assert caught.value.outcome == "not_sent"
        frame = await raw.next_frame()
        assert (frame.opcode, frame.payload, frame.fin) == (TEXT, b"one", False)
        assert (await raw.next_of(CLOSE)).code == 1011
        await raw.send(raw.close_frame(1011))
        raw.drop()
        await connection.wait_closed()


@pytest.mark.parametrize("breaks", [False, True])
async def test_sending_waits_while_the_connection_is_full_and_keeps_the_order(breaks: bool) -> None:
    """A caller that waits for room learns of the end."""
    async with raw_connection(Limits(high_water_bytes=1000)) as (connection, raw):
        sending = [asyncio.create_task(connection.send(b"%05d" % n + bytes(100_000))) for n in range(200)]
        sending.append(asyncio.create_task(connection.send(bytes(1000) for _ in range(10))))
        await until(lambda: link_of(connection).full)
        assert not all(task.done() for task in sending)
        if breaks:
            raw.reset()
            lost = [error for error in await asyncio.gather(*sending, return_exceptions=True) if error is not None]
            assert lost and all(isinstance(error, ConnectionLost) for error in lost)
        else:
            assert [int((await next_message(raw))[1][0][:5]) for _ in range(200)] == list(range(200))
            await asyncio.gather(*sending)


async def test_closing_sends_the_broadcasts_that_wait_and_refuses_later_ones() -> None:
    server = Server(limits=Limits(high_water_bytes=1000, close_timeout=60.0), slow="drop_oldest")
    async with raw_serving(RawConnection.wait_closed, server) as (_, raw):
        [connection] = server.raw_connections
        sending = asyncio.create_task(connection.send(b"x" * 20_000_000))  # more than sockets hold: it does not read
        await until(lambda: server.stats().slow_peers)
        assert await server.send_raw("waits") == EmitReport(1)
        closing = asyncio.create_task(connection.close(4001, "enough"))
        await until(lambda: connection.closed)
        report = await server.send_raw("late")
        assert (report.sent, [error.peer for error in report.errors]) == (0, [connection])
        with pytest.raises(ConnectionLost) as caught:
            await connection.send("late, too")
        assert (caught.value.code, caught.value.outcome) == (4001, "not_sent")
        with pytest.raises(ConnectionLost):
            server.room("other").add(connection)
        frames = [await raw.next_frame() for _ in range(3)]
        assert [len(frames[0].payload), frames[1].payload, frames[2].code] == [20_000_000, b"waits", 4001]
        await raw.send(raw.close_frame(1000))
        raw.drop()
        await asyncio.gather(sending, closing)

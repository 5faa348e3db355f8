"""`RawConnection`: who receives, where several would, and what is left for whom."""

from __future__ import annotations

import asyncio

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_connection
from raw_websocket import CONT, TEXT

from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


async def all_pieces(connection: RawConnection) -> list[str | bytes]:
    return [piece async for piece in connection.pieces()]


async def test_a_refused_reader_takes_nothing_from_the_one_that_receives() -> None:
    async with raw_connection() as (connection, raw):
        reading = asyncio.create_task(all_pieces(connection))
        await raw.send(raw.frame(TEXT, "a", fin=False))
        await turns_until(lambda: connection._unfinished and connection._link.feed._reader is not None)
        for refused in (connection.receive(), all_pieces(connection), connection.receive_text(max_size=1)):
            with pytest.raises(RuntimeError, match="another task receives from this connection already"):
                await refused
        await raw.send(raw.frame(CONT, "b"), raw.frame(TEXT, "next"))
        assert await reading == ["a", "b"]
        assert await connection.receive() == "next"


async def test_another_message_may_be_received_after_the_last_piece_of_one() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(
            raw.frame(TEXT, "a", fin=False), raw.frame(CONT, "b"), raw.frame(TEXT, "c"), raw.frame(TEXT, "d")
        )
        got: list[str | bytes] = []
        async for piece in connection.pieces():
            got.append(piece)
            if piece == "b":
                got.append(await connection.receive())
        assert got == ["a", "b", "c"]
        assert await connection.receive() == "d"

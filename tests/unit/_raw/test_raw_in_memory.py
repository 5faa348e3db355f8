"""`RawConnection` in memory, where it is known what has arrived."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_driver import raw_accepted
from waiting import settled

from wsrpc import Limits
from wsrpc.testing import ScriptedTransport, VirtualTimeLoop, memory_transports
from wsrpc.types import RawConnection


async def all_pieces(connection: RawConnection) -> list[str | bytes]:
    return [piece async for piece in connection.pieces()]


async def test_a_refused_reader_takes_nothing_from_the_one_that_receives() -> None:
    ours, theirs = memory_transports()
    async with raw_accepted(theirs, Limits()) as connection:
        reading = asyncio.create_task(all_pieces(connection))
        ours.send_piece(b"a", True, False)
        await settled()
        for refused in (connection.receive(), all_pieces(connection), connection.receive_text(max_size=1)):
            with pytest.raises(RuntimeError, match="another task receives from this connection already"):
                await refused
        ours.send_piece(b"b", True, True)
        ours.send(b"next")
        assert await reading == ["a", "b"]
        assert await connection.receive() == "next"


async def test_cancelling_receive_loses_nothing_not_even_in_the_midst_of_a_message() -> None:
    ours, theirs = memory_transports()
    async with raw_accepted(theirs, Limits()) as connection:
        for pieces in (0, 2):
            receiving = asyncio.create_task(connection.receive())
            for _ in range(pieces):
                ours.send_piece(b"one ", True, False)
            await settled()
            receiving.cancel()
            await asyncio.wait([receiving])
        ours.send_piece(b"two", True, True)
        assert await connection.receive() == "one one two"


@pytest.mark.parametrize("size", [100, 0])
async def test_while_nobody_receives_the_other_side_is_slowed_down(size: int) -> None:
    """Also by empty messages: each counts for 64 bytes more than it has."""
    transport, each = ScriptedTransport(), size + 64
    bound = 6 * each
    async with raw_accepted(transport, Limits(high_water_bytes=bound)) as connection:
        waiting = 0
        while transport.receiving:
            transport.feed(bytes(size))
            waiting += each
        assert bound < waiting <= bound + each
        while not transport.receiving:
            assert await connection.receive() == bytes(size)
            waiting -= each
        assert bound // 2 - each < waiting <= bound // 2


PIECES = st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=4)
MESSAGES = st.lists(st.one_of(st.binary(max_size=50), PIECES), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(messages=MESSAGES, seed=st.integers())
def test_messages_of_many_tasks_never_mix(messages: list[Any], seed: int) -> None:
    chance = random.Random(seed)

    async def slowly(pieces: list[bytes]) -> AsyncIterator[bytes]:
        for piece in pieces:
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            yield piece

    async def receive(reader: RawConnection) -> list[str | bytes]:
        return [await reader.receive() for _ in messages]

    async def main() -> None:
        limits = Limits(high_water_bytes=60)
        ours, theirs = memory_transports(limits=limits)
        async with raw_accepted(theirs, limits) as sender, raw_accepted(ours, limits) as reader:
            sending = [sender.send(each if isinstance(each, bytes) else slowly(each)) for each in messages]
            got, *_ = await asyncio.gather(receive(reader), *sending)
        assert got == [each if isinstance(each, bytes) else b"".join(each) for each in messages]

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())

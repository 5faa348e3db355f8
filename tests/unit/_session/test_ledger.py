"""`ReplayBuffer` and `Acknowledger`: what is kept, and when acknowledgements leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from wsrpc import Limits
from wsrpc._protocol.control import Ack, read_control
from wsrpc._session.ledger import ACK_BYTES, ACK_MESSAGES, ACK_SECONDS, Acknowledger, ReplayBuffer
from wsrpc.testing import Clock


class Received:
    """Messages that arrive, and the acknowledgements that leave."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.acks: list[Ack] = []
        self.writes_soon = False
        self.messages = Acknowledger(
            self.clock, lambda ack: self.acks.append(read_control(ack)), lambda: self.writes_soon
        )
        self.receive: Callable[[bytes, bool], None] = self.messages.through(lambda payload, text: None)


async def test_an_acknowledgement_leaves_with_what_is_about_to_be_written() -> None:
    received = Received()
    received.writes_soon = True
    for _ in range(ACK_MESSAGES):
        assert received.acks == []
        received.receive(b"ab", True)
    assert received.acks == [Ack(ACK_MESSAGES, 2 * ACK_MESSAGES)]


@pytest.mark.parametrize(("count", "size"), [(ACK_MESSAGES, 1), (3 * ACK_MESSAGES, 1), (1, ACK_BYTES)])
async def test_otherwise_one_leaves_in_the_next_turn_for_all_that_has_come(count: int, size: int) -> None:
    received = Received()
    for _ in range(count):
        received.receive(b"x" * size, True)
    assert received.acks == []
    await asyncio.sleep(0)
    assert received.acks == [Ack(count, count * size)]
    received.clock.advance(ACK_SECONDS)
    assert len(received.acks) == 1


async def test_the_rest_is_acknowledged_in_time_and_nothing_after_the_end() -> None:
    received = Received()
    received.receive(b"x", True)
    received.clock.advance(ACK_SECONDS)
    assert received.acks == [Ack(1, 1)]
    for _ in range(ACK_MESSAGES):
        received.receive(b"x", True)
    received.messages.stop()
    await asyncio.sleep(0)
    received.clock.advance(ACK_SECONDS)
    assert len(received.acks) == 1


def test_once_too_much_was_sent_nothing_is_kept_any_more_be_it_small() -> None:
    limits = Limits().replace(replay=128 * 1024, hard_cap=128 * 1024)
    sent = ReplayBuffer(limits, lambda: None, lambda: sent.forget())
    for size in (200_000, 200_000, 1):
        sent.keep(b"x" * size, True)
    assert (sent.size, len(sent), sent.full) == (0, 0, False)

"""Places in the turns of an event loop, for what costs much."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from wsrpc._transports.fairness import AT_ONCE, IN_ONE_READ, READ, READ_OF_LARGE, Turns, next_read


class Loop:
    """Turns when it is told to."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        callbacks, self.soon = self.soon, []
        for callback in callbacks:
            callback()


def test_who_waits_goes_on_in_later_turns_first_come_first_served_and_before_who_comes_then() -> None:
    turns = Turns(loop := Loop())
    went: list[int] = []
    assert turns.take(AT_ONCE)
    for number in range(3):
        turns.wait(AT_ONCE, partial(went.append, number))
    for expected in ([0], [0, 1], [0, 1, 2]):
        loop.turn()
        assert went == expected
        assert not turns.take(0.0)
    loop.turn()
    assert turns.take(AT_ONCE)


def test_what_is_little_costs_no_turn_of_its_own() -> None:
    turns = Turns(loop := Loop())
    assert turns.take(AT_ONCE / 2) and loop.soon == []
    assert turns.take(AT_ONCE / 2) and loop.soon != []
    loop.turn()
    assert loop.soon == []


@pytest.mark.parametrize(
    ("each", "room"),
    [
        (6, READ),
        (READ // IN_ONE_READ, READ),
        (2 * READ // IN_ONE_READ, 2 * READ),
        (1024, 64 * 1024),
        (100_000, READ_OF_LARGE),
    ],
)
def test_a_read_makes_room_for_as_many_messages_as_it_may_hold(each: int, room: int) -> None:
    for messages in (1, 3, 1000):
        assert next_read(each * messages, messages) == room
    assert next_read(READ, 0) == READ_OF_LARGE, "it is the middle of a large message"
    assert next_read(10, 0) == READ

"""`BoundedQueue`: items in order of arrival, within bounds, taken out by ticket or replaced by key."""

from __future__ import annotations

from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wsrpc._base.queues import BoundedQueue

MAX_SIZE = 20
MAX_ITEMS = 5


class Item(NamedTuple):
    number: int
    size: int


class Model(RuleBasedStateMachine):
    """The queue beside a plain list of (ticket, key, item), which does everything the slow way."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: BoundedQueue[Item] = BoundedQueue(lambda item: item.size, MAX_SIZE, MAX_ITEMS)
        self.entries: list[tuple[int, str | None, Item]] = []
        self.tickets: list[int] = []
        self.number = 0

    @rule(size=st.integers(0, 12), key=st.sampled_from(["a", "b", None, None]))
    def put(self, size: int, key: str | None) -> None:
        self.number += 1
        item = Item(self.number, size)
        places = [number for number, entry in enumerate(self.entries) if key is not None and entry[1] == key]
        ticket = self.queue.put(item, key)
        if places:
            assert ticket == self.entries[places[0]][0], "it has the place of the one before"
            self.entries[places[0]] = (ticket, key, item)
        else:
            assert not self.tickets or ticket > max(self.tickets), "later items have higher tickets"
            self.tickets.append(ticket)
            self.entries.append((ticket, key, item))

    @rule(which=st.integers(0, 30))
    def take(self, which: int) -> None:
        if not self.tickets:
            return
        ticket = self.tickets[which % len(self.tickets)]
        expected = next((item for at, _, item in self.entries if at == ticket), None)
        assert self.queue.take(ticket) == expected
        self.entries = [entry for entry in self.entries if entry[0] != ticket]

    @rule(key=st.sampled_from("ab"))
    def take_by_key(self, key: str) -> None:
        found = [entry for entry in self.entries if entry[1] == key]
        assert self.queue.take_key(key) == (found[0][2] if found else None)
        self.entries = [entry for entry in self.entries if entry[1] != key]

    @rule()
    def pop(self) -> None:
        if self.entries:
            assert self.queue.pop() == self.entries.pop(0)[2]
        else:
            with pytest.raises(IndexError, match="empty"):
                self.queue.pop()

    @rule()
    def drop_oldest(self) -> None:
        expected: list[Item] = []
        while len(self.entries) > 1 and (
            sum(item.size for _, _, item in self.entries) > MAX_SIZE or len(self.entries) > MAX_ITEMS
        ):
            expected.append(self.entries.pop(0)[2])
        assert self.queue.drop_oldest() == expected

    @rule()
    def clear(self) -> None:
        assert self.queue.clear() == [item for _, _, item in self.entries]
        self.entries = []

    @invariant()
    def they_are_the_same(self) -> None:
        queue = self.queue
        size = sum(item.size for _, _, item in self.entries)
        assert len(queue) == len(self.entries) and bool(queue) is bool(self.entries)
        assert list(queue.items.items()) == [(ticket, item) for ticket, _, item in self.entries]
        assert queue.first() == next(iter(queue.items.items()), None)
        assert queue.size == size
        assert [queue.has_key(key) for key in "ab"] == [any(key == at for _, at, _ in self.entries) for key in "ab"]
        for more in (0, 1, MAX_SIZE):
            assert queue.fits(more) is (len(self.entries) < MAX_ITEMS and size + more <= MAX_SIZE)


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestModel = Model.TestCase

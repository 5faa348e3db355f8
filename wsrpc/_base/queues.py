"""Bounded queue from which items can be removed out of order, by ticket."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """Queue of items in order of arrival, limited by the sum of their sizes.

    Each item gets a ticket, by which it can be removed. Later items have higher tickets. An item may have a key. It
    then replaces an older item with the same key, at the place of the older item.

    The queue does not decide what happens at its limit. Call `fits` first and refuse the item, or call `append` and
    then `drop_oldest`. `append` itself accepts every item.

    Args:
        size_of: returns the size of an item. It must return the same for the same item each time.
        max_size: the most that the sizes may add up to.
    """

    __slots__ = ("_first", "_keys", "_next", "_size_of", "_tickets", "items", "max_size", "size")

    def __init__(self, size_of: Callable[[T], int], max_size: int) -> None:
        self._size_of = size_of
        self.max_size = max_size
        self.size = 0
        """The sizes of all items together."""
        self.items: dict[int, T] = {}
        """All items by ticket, oldest first. Only the queue's methods change it."""
        # The search for the oldest item starts at this ticket. A dict that loses its first entries one by one finds its
        # first entry ever more slowly.
        self._first = 0
        self._next = 0
        # Keys in both directions. Most queues have none.
        self._tickets: dict[Hashable, int] | None = None
        self._keys: dict[int, Hashable] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)} items, size {self.size} of {self.max_size}>"

    def fits(self, size: int) -> bool:
        """Return whether the queue would stay within its limit with one more item of that size."""
        return self.size + size <= self.max_size

    def append(self, item: T, key: Hashable = None) -> int:
        """Append an item, or replace the item with the same ``key``. Return the ticket of the item."""
        ticket = None if key is None else self._ticket_of(key)
        if ticket is None:
            ticket = self._next
            self._next += 1
            if key is not None:
                self._remember(key, ticket)
        else:
            self.size -= self._size_of(self.items[ticket])
        self.items[ticket] = item
        self.size += self._size_of(item)
        return ticket

    def _ticket_of(self, key: Hashable) -> int | None:
        return None if self._tickets is None else self._tickets.get(key)

    def _remember(self, key: Hashable, ticket: int) -> None:
        if self._tickets is None or self._keys is None:
            self._tickets, self._keys = {}, {}
        self._tickets[key] = ticket
        self._keys[ticket] = key

    def has_key(self, key: Hashable) -> bool:
        """Return whether an item with that key is in the queue."""
        return self._ticket_of(key) is not None

    def pop(self, ticket: int) -> T:
        """Remove and return an item. The item must be in the queue."""
        item = self.items.pop(ticket)
        self.size -= self._size_of(item)
        if self._tickets is not None and self._keys is not None and ticket in self._keys:
            del self._tickets[self._keys.pop(ticket)]
        return item

    def pop_key(self, key: Hashable) -> T | None:
        """Remove and return the item with that key. Return None if there is no such item."""
        ticket = self._ticket_of(key)
        return None if ticket is None else self.pop(ticket)

    def pop_oldest(self) -> T:
        """Remove and return the oldest item. The queue must not be empty."""
        while self._first not in self.items:
            self._first += 1
        return self.pop(self._first)

    def drop_oldest(self) -> list[T]:
        """Remove the oldest items until the queue is within its limit, or has one item. Return the removed items."""
        dropped: list[T] = []
        while len(self.items) > 1 and self.size > self.max_size:
            dropped.append(self.pop_oldest())
        return dropped

    def clear(self) -> list[T]:
        """Remove all items, and return them, the oldest first."""
        items = list(self.items.values())
        self.items.clear()
        self._tickets = self._keys = None
        self._first = self._next
        self.size = 0
        return items

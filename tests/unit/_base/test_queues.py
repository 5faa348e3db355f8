"""`BoundedQueue` where nothing waits. What it does for slow readers: tests/property/test_slow_machine.py."""

from __future__ import annotations

import pytest

from wsrpc._base.queues import BoundedQueue


def test_an_empty_queue_has_nothing_to_take() -> None:
    queue: BoundedQueue[str] = BoundedQueue(len, 10, 10)
    ticket = queue.put("one", "key")
    assert queue.clear() == ["one"] and (len(queue), queue.size) == (0, 0)
    assert [queue.first(), queue.take(ticket), queue.take_key("key")] == [None] * 3
    with pytest.raises(IndexError, match="empty"):
        queue.pop()
    queue.put("two")
    assert (queue.first(), queue.pop()) == ((ticket + 1, "two"), "two")

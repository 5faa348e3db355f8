"""`Pulls`: the requests of a consumer that pulls the items of a stream."""

from __future__ import annotations

from collections import deque
from typing import Any

from msgspec import UNSET

from ..errors import BadArguments, Overloaded
from .core import ChannelCore

LARGEST_PULL = 100_000
MOST_PULLS = 64
"""Pulls that may wait for their items. A consumer that asks ahead does so by one or two."""


class Pulls:
    """Queue of the requests ``pull`` on a channel. Each is answered with as many items as it asks for."""

    __slots__ = ("_channel", "waiting")

    def __init__(self, channel: ChannelCore) -> None:
        self._channel = channel
        self.waiting: deque[tuple[int, int]] = deque()
        """The id of each request, and how many items it wants."""

    @property
    def wanted(self) -> int:
        """Number of items that the oldest request wants."""
        return self.waiting[0][1]

    def ask(self, i: Any, args: list[Any], *, started: bool) -> bool:
        """Queue a request, or refuse it. Return whether it was queued.

        Args:
            started: the items come by themselves.
        """
        if i is UNSET:
            return False  # nobody waits for an answer, so nobody gets items
        n = args[0] if args else 1
        if n.__class__ is not int or not 0 < n <= LARGEST_PULL:
            text = f"pull: expected how many items, 1 to {LARGEST_PULL}, got {str(n)[:100]}"
            self._channel.refuse(i, BadArguments(text))
        elif len(self.waiting) >= MOST_PULLS:
            self._channel.refuse(i, Overloaded(f"pull: {MOST_PULLS} wait already, await some of them first"))
        elif started:
            text = "pull: this stream was started, so its items come by themselves; pull instead of `start`"
            self._channel.refuse(i, BadArguments(text))
        else:
            self.waiting.append((i, n))
            return True
        return False

    def answer(self, values: list[Any], done: bool) -> None:
        """Answer the oldest request. ``done``: there are no more items.

        Raises:
            Exception: the values cannot be sent. The request is rejected with the error.
        """
        i, _ = self.waiting.popleft()
        try:
            self._channel.answer(i, {"values": values, "done": done})
        except Exception as exc:
            self._channel.refuse(i, exc)
            raise

    def refuse(self, error: Exception) -> None:
        """Reject all requests."""
        while self.waiting:
            self._channel.refuse(self.waiting.popleft()[0], error)

    def take_request_ids(self) -> list[int]:
        """Return the ids of the requests, and forget them."""
        ids = [i for i, _ in self.waiting]
        self.waiting.clear()
        return ids

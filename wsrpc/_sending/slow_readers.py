"""What is emitted to many, and one of them reads too slowly: the policies, and what waits for such a peer."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Literal

import msgspec

from ..errors import ConnectionLost, repr_of

__all__ = ["KeepLatest", "Slow", "SlowReaderQueue", "check_slow"]

ENTRY = 256
"""Bytes that a waiting message takes besides its payload, which it may share with other peers."""


class KeepLatest(msgspec.Struct, frozen=True):
    """A slow policy: of the messages with the same key that wait for a slow reader, only the latest is kept.

    ``key`` is a function of the event's arguments, for instance ``KeepLatest(lambda symbol, price: symbol)``; without
    one, all messages of an event have the same. Channels, events and rooms do not get in each other's way.
    """

    key: Callable[..., Hashable] | None = None

    def __repr__(self) -> str:
        return repr_of(self)

    def __post_init__(self) -> None:
        key: Any = self.key
        if key is not None and (not callable(key) or inspect.iscoroutinefunction(key)):
            raise TypeError(f"KeepLatest(key) takes a plain function of the event's arguments, got {key!r}")


Slow = Literal["close", "drop_newest", "drop_oldest"] | KeepLatest
"""What becomes of what is emitted to many, for one whose line is full."""


def check_slow(slow: Any) -> None:
    """Refuse what is no policy.

    Raises:
        ValueError: says which there are.
    """
    if isinstance(slow, KeepLatest) or (isinstance(slow, str) and slow in ("close", "drop_newest", "drop_oldest")):
        return
    hint = ", with brackets" if slow is KeepLatest else ""
    raise ValueError(f'slow= is "close", "drop_newest", "drop_oldest" or wsrpc.KeepLatest(){hint}; got {slow!r}')


class SlowReaderQueue:
    """Broadcasts that wait until one peer's transport has drained: what the transport has got could not be taken back.

    They leave before any caller that waits for its turn. They take at most ``limit`` bytes, or are one message.

    Args:
        send, is_full: of the connection.
        dropped: called with how many messages were left out.
    """

    __slots__ = ("_bytes", "_dropped", "_is_full", "_limit", "_messages", "_send", "_warn", "_warned")

    def __init__(
        self,
        send: Callable[[bytes, bool], None],
        is_full: Callable[[], bool],
        limit: int,
        warn: Callable[..., None],
        dropped: Callable[[int], None],
    ) -> None:
        self._send = send
        self._is_full = is_full
        self._limit = limit
        self._warn = warn
        self._dropped = dropped
        self._messages: OrderedDict[Hashable, tuple[bytes, bool]] = OrderedDict()
        self._bytes = 0
        self._warned = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, payload: bytes, text: bool, slow: Slow, key: Hashable, /) -> bool:
        """Keep a message until the transport has drained, as ``slow`` says; False if it is left out.

        One with the ``key`` of another takes its place.
        """
        messages = self._messages
        size = len(payload) + ENTRY
        if slow == "drop_newest" and messages and self._bytes + size > self._limit:
            self._drop(1, slow)
            return False
        dropped = 0
        if not isinstance(slow, KeepLatest):
            key = object()
        elif (old := messages.get(key)) is not None:
            self._bytes -= len(old[0]) + ENTRY
            dropped = 1
        messages[key] = (payload, text)
        self._bytes += size
        while self._bytes > self._limit and len(messages) > 1:
            self._bytes -= len(messages.popitem(last=False)[1][0]) + ENTRY
            dropped += 1
        if dropped:
            self._drop(dropped, slow)
        return key in messages  # in the place of an older one it may be the oldest, and too much

    def _drop(self, count: int, slow: Slow) -> None:
        self._dropped(count)
        if not self._warned:
            self._warned = True
            name = slow if isinstance(slow, str) else "keep_latest"
            self._warn("reads too slowly: until its line has drained, broadcasts are dropped (%s)", name)

    def flush(self, *, everything: bool = False) -> None:
        """Send what the transport has room for, oldest first, or all of it."""
        messages = self._messages
        while messages and (everything or not self._is_full()):
            payload, text = messages.popitem(last=False)[1]
            self._bytes -= len(payload) + ENTRY
            try:
                self._send(payload, text)
            except ConnectionLost:  # the link reports that itself
                messages.clear()
                self._bytes = 0
        if not messages and not self._is_full():
            self._warned = False

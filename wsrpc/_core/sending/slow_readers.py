"""Slow readers: the policies for their broadcasts, and `SlowReaderQueue`, in which broadcasts wait for one reader."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any, Literal

import msgspec

from ..._base.queues import BoundedQueue
from ...errors import ConnectionLost, repr_of

BYTES_PER_BROADCAST = 256
"""Bytes that a waiting message takes besides its payload. (Peers may share the payload.)"""


class KeepLatest(msgspec.Struct, frozen=True):
    """Policy for slow readers (``slow=`` of `Server`) that keeps only the latest queued message for each key.

    ``key`` is a function that takes the event's arguments and returns the key, for example ``KeepLatest(lambda symbol,
    price: symbol)``. Without a function, all messages of an event have the same key. Messages of different channels,
    events or rooms never have the same key. The function is called in the process that emits. Only a
    `ClusterClient` does not know it: for its events, the function is called where the members are, with plain values,
    such as a dict instead of a Struct.

    A policy acts while the connection of a client is full. If only the client's handler is slow, all messages arrive,
    and wait there for the handler, which gets ever older values. Let such a client read with ``events(...,
    keep="newest")``.

    Raises:
        TypeError: ``key`` is not a plain function.
    """

    key: Callable[..., Hashable] | None = None

    def __repr__(self) -> str:
        return repr_of(self)

    def __post_init__(self) -> None:
        key: Any = self.key
        if key is not None and (not callable(key) or inspect.iscoroutinefunction(key)):
            raise TypeError(f"KeepLatest(key) takes a plain function of the event's arguments, got {key!r}")


Slow = Literal["close", "drop_newest", "drop_oldest"] | KeepLatest
"""What happens to broadcasts for a peer whose connection is full."""


def check_slow(slow: Any) -> None:
    """Check a slow policy.

    Raises:
        ValueError: ``slow`` is not a policy. The error names all policies.
    """
    if isinstance(slow, KeepLatest) or (isinstance(slow, str) and slow in ("close", "drop_newest", "drop_oldest")):
        return
    hint = ", with brackets" if slow is KeepLatest else ""
    raise ValueError(f'slow= is "close", "drop_newest", "drop_oldest" or wsrpc.KeepLatest(){hint}; got {slow!r}')


Message = tuple[bytes, bool]
"""A payload, and whether it is text."""


def _size(message: Message) -> int:
    return len(message[0]) + BYTES_PER_BROADCAST


class SlowReaderQueue(BoundedQueue[Message]):
    """Queue of the broadcasts that wait until the transport of one peer has drained.

    They wait here and not in the transport, because a policy may drop them. They are sent before the messages of
    callers that wait for room. They take at most ``limit`` bytes together, but a single message always fits.

    Args:
        send: sends on the connection.
        is_full: whether the connection is above its high-water mark.
        warn: writes a line into the log.
        dropped: is called with the number of messages that were dropped.
    """

    __slots__ = ("_dropped", "_is_full", "_send", "_warn", "_warned")

    def __init__(
        self,
        send: Callable[[bytes, bool], None],
        is_full: Callable[[], bool],
        limit: int,
        warn: Callable[..., None],
        dropped: Callable[[int], None],
    ) -> None:
        super().__init__(_size, limit)
        self._send = send
        self._is_full = is_full
        self._warn = warn
        self._dropped = dropped
        self._warned = False

    def add(self, payload: bytes, text: bool, slow: Slow, key: Hashable, /) -> bool:
        """Add a message, which waits until the transport has drained. Return False if the policy drops the message.

        With `KeepLatest`, the message takes the place of the message with the same ``key``.
        """
        if slow == "drop_newest" and self.items and not self.fits(len(payload) + BYTES_PER_BROADCAST):
            self._drop(1, slow)
            return False
        before = len(self)
        ticket = self.append((payload, text), key if isinstance(slow, KeepLatest) else None)
        replaced = before + 1 - len(self)
        dropped = replaced + len(self.drop_oldest())
        if dropped:
            self._drop(dropped, slow)
        return ticket in self.items  # in the place of an older message it may be the oldest one, and too large

    def _drop(self, count: int, slow: Slow) -> None:
        self._dropped(count)
        if not self._warned:
            self._warned = True
            name = slow if isinstance(slow, str) else "keep_latest"
            self._warn("reads too slowly: until its connection has drained, broadcasts are dropped (%s)", name)

    def flush(self, *, everything: bool = False) -> None:
        """Send the oldest messages, as many as the transport has room for, or all of them."""
        while self.items and (everything or not self._is_full()):
            try:
                self._send(*self.pop_oldest())
            except ConnectionLost:  # which the session reports
                self.clear()
        if not self.items and not self._is_full():
            self._warned = False

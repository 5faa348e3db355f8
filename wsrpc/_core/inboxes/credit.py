"""Credit of a stream: how many items and bytes its producer may send. The consumer grants credit to the producer.

Both sides count totals since the beginning of the stream, each for itself:

- `GrantedCredit`, in the consumer's `Inbox`, counts what the consumer has granted. It says when to grant more.
- `CreditToSend`, in the `Producer`, counts what was granted so far, and what the producer has sent.

Granted credit is never taken back. Credit is a total, so a credit message that is repeated or late changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

SMALLEST_SHARE = 32 * 1024
"""Bytes of one stream that may be in flight, however many streams there are. (Less makes them wait for credit.) The
first credit of each stream has this many bytes, because other streams may start at the same time."""


class GrantedCredit:
    """The consumer's half: what the remote producer may send.

    The producer gets a window of items and bytes beyond what was read. It gets more once half of the window is free.

    Args:
        window: items of the window.
        share: returns the bytes of the window, which depend on the number of streams.
        send: sends the totals to the producer.
    """

    __slots__ = ("_send", "_share", "_window", "bytes", "items", "renew_at", "renew_bytes_at", "window_bytes")

    def __init__(self, window: int, share: Callable[[], int], send: Callable[[int, int], None]) -> None:
        self._window = window
        self._share = share
        self._send = send
        self.items = self.bytes = 0
        """Totals that the producer may send."""
        self.renew_at = self.renew_bytes_at = 0
        """Totals of what was read, from which on the producer gets more."""
        self.window_bytes = 0
        """Bytes of the window when credit was last granted."""

    def __repr__(self) -> str:
        return f"<GrantedCredit {self.items} items, {self.bytes} bytes>"

    def covers(self, received: int, received_bytes: int) -> bool:
        """Return whether another message may arrive after these. The last message may exceed the bytes."""
        return received < self.items and received_bytes < self.bytes

    def is_due(self, read_count: int, read_bytes: int) -> bool:
        """Return whether the producer gets more, after so many items and bytes were read."""
        return read_count >= self.renew_at or read_bytes >= self.renew_bytes_at

    def renew(self, read_count: int, read_bytes: int) -> None:
        """Grant a full window of items and bytes beyond what was read."""
        window, window_bytes = self._window, self._share()
        if not self.items:
            window_bytes = min(window_bytes, SMALLEST_SHARE)
        self.window_bytes = window_bytes
        self.items = read_count + window
        self.bytes = max(self.bytes, read_bytes + window_bytes)
        self.renew_at = read_count + (window + 1) // 2
        self.renew_bytes_at = read_bytes + (window_bytes + 1) // 2
        self._send(self.items, self.bytes)


class CreditToSend:
    """The producer's half: what the consumer has granted, and what was sent."""

    __slots__ = ("bytes", "items", "sent", "sent_bytes")

    def __init__(self) -> None:
        self.items = self.bytes = 0
        """Totals that the consumer has granted."""
        self.sent = self.sent_bytes = 0
        """Totals of what was sent."""

    def __repr__(self) -> str:
        return f"<CreditToSend {self.sent} of {self.items} items, {self.sent_bytes} of {self.bytes} bytes>"

    @property
    def has_room(self) -> bool:
        """Whether another item may be sent. The last item may exceed the bytes."""
        return self.sent < self.items and self.sent_bytes < self.bytes

    def raise_to(self, items: int, bytes: int) -> None:
        """Raise the granted totals. Lower totals are of an earlier credit message."""
        self.items = max(self.items, items)
        self.bytes = max(self.bytes, bytes)

    def count_sent(self, items: int, bytes: int) -> None:
        self.sent += items
        self.sent_bytes += bytes

"""`Credit`: what the remote producer of a stream may send."""

from __future__ import annotations

SMALLEST_SHARE = 32 * 1024
"""Bytes of one stream that may be in flight, however many streams there are. (Less makes them wait for credit.) Each
stream begins with these: how many others begin at the same time shows only later, and granted credit is never taken
back."""


class Credit:
    """What the remote producer of a stream may send: totals of items and bytes since the beginning of the stream.

    The producer has one window beyond what was read, and gets more once half of that is free. Granted credit is never
    taken back.
    """

    __slots__ = ("bytes", "items", "renew_at", "renew_bytes_at", "window_bytes")

    def __init__(self) -> None:
        self.items = self.bytes = 0
        self.renew_at = self.renew_bytes_at = 0
        """Totals of what was read, from which on the producer gets more."""
        self.window_bytes = 0
        """Bytes of the window when credit was last granted."""

    def __repr__(self) -> str:
        return f"<Credit {self.items} items, {self.bytes} bytes>"

    def covers(self, received: int, received_bytes: int) -> bool:
        """Return whether another message may arrive. If any bytes are left, it may have more than these."""
        return received < self.items and received_bytes < self.bytes

    def is_due(self, read_count: int, read_bytes: int) -> bool:
        """Return whether the producer gets more, after so many items and bytes were read."""
        return read_count >= self.renew_at or read_bytes >= self.renew_bytes_at

    def renew(self, read_count: int, read_bytes: int, window: int, window_bytes: int) -> None:
        """Raise the totals to a full window of items and bytes beyond what was read."""
        if not self.items:
            window_bytes = min(window_bytes, SMALLEST_SHARE)
        self.window_bytes = window_bytes
        self.items = read_count + window
        self.bytes = max(self.bytes, read_bytes + window_bytes)
        self.renew_at = read_count + (window + 1) // 2
        self.renew_bytes_at = read_bytes + (window_bytes + 1) // 2

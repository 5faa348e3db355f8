"""`SilenceWatch`: warns if a plain peer sends nothing on the channels that it was given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .._base.scheduler import Scheduler, Timer
from .core import ChannelCore

PATIENCE = 5.0
"""Seconds within which a program that has requested a stream begins to read it."""


class SilenceWatch:
    """Warns once if a plain peer sends nothing on a channel that it was given.

    It watches one channel at a time, until the peer has sent something on one of them, or the warning was logged.

    Args:
        unread: `Limits.unread`, the seconds after which a stream that nobody reads ends.
    """

    __slots__ = ("_loop", "_over", "_patience", "_timer", "_warn", "_watched")

    def __init__(self, loop: Scheduler, unread: float, warn: Callable[..., None]) -> None:
        self._loop = loop
        self._patience = min(PATIENCE, unread)
        self._warn = warn
        self._watched: ChannelCore | None = None
        self._timer: Timer | None = None
        self._over = False

    def given(self, channel: ChannelCore, event: str) -> None:
        """Take note that the request ``event`` was answered with ``channel``."""
        if not self._over and self._watched is None:
            self._watched = channel
            self._timer = self._loop.call_at(self._loop.time() + self._patience, partial(self._check, channel, event))

    def ended(self, channel: ChannelCore) -> None:
        """Take note that the channel has ended."""
        if channel is self._watched and self._timer is not None:
            self._timer.cancel()
            self._forget(channel)

    def _forget(self, channel: ChannelCore) -> None:
        self._watched = self._timer = None
        self._over = self._over or channel.heard

    def _check(self, channel: ChannelCore, event: str) -> None:
        self._forget(channel)
        if self._over or channel.in_use:
            return  # where this side speaks, the peer may just listen
        self._over = True
        self._warn(
            "the peer has requested %r and has sent nothing on its channel for %g s: ws-wrapper 3 and older have no "
            'streams or other channels, and resolve such a request with undefined. profile="ws-wrapper-3" rejects it',
            event,
            self._patience,
        )

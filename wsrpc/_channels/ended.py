"""What is remembered of the channels of a session that have ended."""

from __future__ import annotations

from typing import TypeVar

from .._sending.pending import MAX_REMEMBERED
from ..errors import RpcError

__all__ = ["EndedChannels"]

V = TypeVar("V")


class EndedChannels:
    """Ids of ended channels for which messages may still arrive. The oldest ones are forgotten."""

    __slots__ = ("_aborted", "_produced")

    def __init__(self) -> None:
        self._aborted: dict[int, RpcError | None] = {}
        """Those that this side has aborted. If the abort waits until something arrives, the value is its reason."""
        self._produced: dict[int, None] = {}
        """Those on which this side has produced."""

    def reused(self, h: int) -> None:
        """Forget that channel ``h`` was aborted: a new channel has this id."""
        self._aborted.pop(h, None)

    def abort(self, h: int) -> bool:
        """Take note that channel ``h`` is aborted now. Return False if it was aborted before.

        Events on it may still arrive, and an abort is never answered, so each channel is aborted once.
        """
        if self.was_aborted(h):
            return False
        _remember(self._aborted, h, None)
        return True

    def was_aborted(self, h: int) -> bool:
        """Return whether this side has aborted channel ``h``, and has said so."""
        return h in self._aborted and self._aborted[h] is None

    def abort_later(self, h: int, reason: RpcError) -> None:
        """Keep the reason for which channel ``h`` is aborted when something arrives on it."""
        _remember(self._aborted, h, reason)

    def reason(self, h: int) -> RpcError | None:
        """Return the reason for which channel ``h`` is to be aborted, if it was not aborted yet."""
        return self._aborted.get(h)

    def produced(self, h: int) -> None:
        """Take note that this side has produced on channel ``h``. Credit may still arrive for it."""
        _remember(self._produced, h, None)

    def has_produced(self, h: int) -> bool:
        return h in self._produced


def _remember(ids: dict[int, V], h: int, value: V) -> None:
    ids[h] = value
    if len(ids) > MAX_REMEMBERED:
        del ids[next(iter(ids))]

"""`TokenBucket`: limits how often something may happen."""

from __future__ import annotations

from math import inf

ENOUGH = 1 - 1e-6
"""The part of a token that counts as a whole one. (With floats, ten times 0.1 s may be a little less than 1 s.)"""


class TokenBucket:
    """Bucket of at most ``most`` tokens, full at first. It gets ``per_second`` new tokens. Callers pass the time."""

    __slots__ = ("_at", "_most", "_per_second", "_remaining")

    def __init__(self, most: float, per_second: float) -> None:
        self._most = most
        self._per_second = per_second
        self._remaining = float(most)
        self._at = inf

    def __repr__(self) -> str:
        return f"<TokenBucket {self._remaining:.3g} of {self._most} left, {self._per_second}/s>"

    def spend(self, now: float) -> bool:
        """Spend a token. Return False if there is no token.

        Args:
            now: the time in seconds. If it is before the last time, because of another clock, no token is added.
        """
        remaining = self._remaining
        if now > self._at:
            remaining += (now - self._at) * self._per_second
            if remaining > self._most:  # without `min`: this runs for each request of a user with quotas
                remaining = self._most
        self._at = now
        enough = remaining >= ENOUGH
        self._remaining = remaining - enough
        return enough

    def charge(self, now: float, amount: float) -> float:
        """Spend ``amount`` tokens, even if there are fewer. Return the seconds until none is owed."""
        spent = self.spend(now)
        self._remaining += spent - amount
        return -self._remaining / self._per_second if self._remaining < 0 else 0.0

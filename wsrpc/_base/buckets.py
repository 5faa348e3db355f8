"""`TokenBucket`: limits how often something may happen. `bucket_of`: the bucket of a `Rate`."""

from __future__ import annotations

from math import ceil, inf

from ..limits import Rate

ENOUGH = 1 - 1e-6
"""The part of a token that counts as a whole one. (With floats, ten times 0.1 s may be a little less than 1 s.)"""
UNTOLD = 1 / 8
"""The part of the tokens and, over all processes, of the rate that other processes need not know."""


class TokenBucket:
    """Bucket of at most ``most`` tokens, full at first. It gets ``per_second`` new tokens. Callers pass the time.

    Buckets in several processes can hold one rate together: each tells the others what `untold` returns, and charges
    what it is told by `spend_elsewhere`.
    """

    __slots__ = ("_at", "_owed", "_per_second", "_rate", "_remaining", "most", "notified", "spent")

    def __init__(self, most: float, per_second: float) -> None:
        # Floats, because Python 3.11 adds an integer to a float slowly, and `spend` runs for each request.
        self.most = float(most)
        self._remaining: float = self.most
        self._per_second = self._rate = float(per_second)
        """The new tokens per second: those that callers get at present, and all."""
        self._at = inf
        self.spent = 0.0
        """Total number of tokens that were spent here."""
        self.notified = 0.0
        """How many of them other processes need not be told any more."""
        self._owed = 0.0
        """Tokens that were spent elsewhere, and were not there."""

    def __repr__(self) -> str:
        return f"<TokenBucket {self._remaining:.3g} of {self.most:g} left, {self._per_second:g}/s>"

    def spend(self, now: float) -> bool:
        """Spend a token. Return False if there is no token.

        Args:
            now: the time in seconds. If it is before the last time, because of another clock, no token is added.
        """
        remaining = self._remaining
        if now > self._at:
            remaining += (now - self._at) * self._per_second
            if remaining > self.most:  # without `min`: this runs for each request of a user with quotas
                remaining = self.most
        self._at = now
        if remaining < ENOUGH:
            self._remaining = remaining
            return False
        self._remaining = remaining - 1.0
        self.spent += 1.0
        return True

    def wait(self) -> float:
        """Return the seconds until there is a token, after a `spend` that returned False."""
        return (1.0 - self._remaining) / self._per_second

    @property
    def little(self) -> float:
        """The number of tokens that nobody needs to remember: they are soon there again."""
        return min(self.most, self._rate) * UNTOLD

    def refund(self) -> None:
        """Add the token of a successful `spend` again, because something else refuses what it was spent for."""
        self._remaining = min(self.most, self._remaining + 1.0)
        self.spent -= 1.0

    def charge(self, now: float, amount: float) -> float:
        """Spend ``amount`` tokens, even if there are fewer. Return the seconds until none is owed."""
        self._add_new(now)
        self._remaining -= amount
        self.spent += amount
        return -self._remaining / self._per_second if self._remaining < 0 else 0.0

    def _add_new(self, now: float) -> None:
        if now > self._at:
            self._remaining = min(self.most, self._remaining + (now - self._at) * self._per_second)
        self._at = now

    def untold(self, seconds: float, processes: int) -> int:
        """Return how many tokens other processes must be told, each once. 0 if they are few for their time.

        Args:
            seconds: the time since the last call.
        """
        untold = self.spent - self.notified - self._rate * seconds * UNTOLD / processes
        found = ceil(untold) if untold > self.most * UNTOLD / processes else 0
        self.notified = self.spent - (0.0 if found else max(0.0, untold))
        return found

    def spend_elsewhere(self, now: float, amount: float, processes: int) -> None:
        """Spend tokens that another process has spent. What is lacking is owed: at most a full bucket each.

        Nobody is locked out: this process keeps its share of the tokens, and of the new ones.
        """
        self._add_new(now)
        charged = max(0.0, min(amount, self._remaining - self.most / processes))
        self._remaining -= charged
        self._owed = min(self._owed + amount - charged, processes * max(self.most, 1.0))

    def repay(self, now: float, seconds: float, processes: int) -> bool:
        """Pay what is owed with new tokens. Return whether anything is owed.

        Args:
            seconds: the time since the last call, and about the time until the next one.
        """
        self._add_new(now)
        self._owed = max(0.0, self._owed - (self._rate - self._per_second) * seconds)
        self._per_second = self._rate - min(self._owed / seconds, self._rate * (1 - 1 / max(2, processes)))
        return self._owed > 0

    def forgive(self) -> None:
        """Owe nothing any more."""
        self._owed, self._per_second = 0.0, self._rate


def bucket_of(rate: Rate) -> TokenBucket:
    """Return a full bucket of this rate."""
    return TokenBucket(max(1.0, rate.count) if rate.burst is None else rate.burst, rate.count / rate.per)


def above(rate: Rate, what: str) -> str:
    """Return why something is refused: "more than 20 calls per 60 s, or 5 at once"."""
    per = "per second" if rate.per == 1 else f"per {rate.per:g} s"
    at_once = "" if rate.burst is None else f", or {rate.burst:g} at once"
    return f"more than {rate.count} {what} {per}{at_once}"

"""`BalancePlan`: decides how many clients servers move, until all servers have as many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter

EVEN = 0.1
"""The part of the mean by which the servers may differ from it at the end."""

ROUND_PAUSE = 1.0
"""Seconds in which each server moves a batch of clients. They connect again meanwhile."""

ROUNDS = 20
"""Number of batches without progress after which a plan gives up."""

CHANCES, SLOW = 5, 3
"""It gives up, too, if this many clients for each server have moved, and the emptiest server has got none, which at
random happens in less than 1 % of the cases; but not in the first batches, because clients may dial slowly."""

WHY = "see the load balancer, and the clients' lists of URLs, such as Client([url, url])"


class BalancePlan:
    """Decides, batch by batch, how many clients servers move.

    Clients may return to the server from which they were moved, so the number of batches is not fixed.

    Args:
        peers: the number of clients of each server.
        rate: the clients that a server moves at most in a batch.

    Attributes:
        total: the number of clients that were moved.
        why_not: why the plan was given up. None if it was not.
    """

    def __init__(self, peers: Mapping[str, int], rate: int) -> None:
        self._emptiest, self._fewest = min(peers.items(), key=itemgetter(1))
        self._rate = rate
        self._is_reached = False
        """Whether the emptiest server has got clients."""
        self._rounds, self._best = 0, math.inf
        self.total = 0
        self.why_not: str | None = None

    def next(self, peers: Mapping[str, int], moved: int) -> tuple[int, int] | None:
        """Return the most clients that a server moves now, and to how many it comes down at most. None: it is over.

        The plan is over if all servers have as many, or if some batches were without progress, or no client reaches the
        emptiest server.

        Args:
            peers: the number of clients of each server, before the last batch.
            moved: the number of clients that were moved in the last batch.
        """
        self.total += moved
        self._is_reached |= peers.get(self._emptiest, math.inf) > self._fewest
        mean, is_even = sum(peers.values()) // max(1, len(peers)), _are_even(peers)
        if is_even and not moved:
            return None
        above = sum(max(0, count - mean) for count in peers.values()) + moved  # some of these are not back yet
        self._rounds, self._best = (0, above) if above < self._best else (self._rounds + 1, self._best)
        done = f"moved {self.total} clients, but"
        if self._rounds == ROUNDS:
            self.why_not = f"{done} the servers are not even: the others are busy, or return to the same servers: {WHY}"
        elif not self._is_reached and self._rounds >= SLOW and self.total - moved >= CHANCES * len(peers):
            self.why_not = f"{done} none reaches {self._emptiest}, which has {self._fewest}: {WHY}"
        return None if self.why_not else (0 if is_even else self._rate, mean)


def _are_even(peers: Mapping[str, int]) -> bool:
    mean = sum(peers.values()) / max(1, len(peers))
    return all(abs(count - mean) <= max(1, EVEN * mean) for count in peers.values())

"""`Claims`: which node has which address. It has no clock and no network.

Two nodes may claim the same address, for example when a client has moved and the first node has not noticed. A claim
has a counter, which is one above the highest counter that the node knows for the address. The higher claim wins. If the
counters are equal, the node with the higher name wins. So all nodes that know both claims agree, without clocks.

The higher claim may belong to a session without a connection, while the client is connected at the node with the lower
claim. So a node keeps its lower claim until it knows that the peer of the higher claim has a connection. Then
`Addresses` calls `release`. A node that has just started does not know the claims of other nodes yet. So it raises its
own claims when it receives theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ..._server.joined_cluster import MOST

NEW = 1.5
"""Seconds after its start in which a node may not know the claims of other nodes."""
REMEMBERED = 60.0
"""Seconds for which the counter of a released claim is kept."""


class Claim(NamedTuple):
    """The right to an address. The highest one counts."""

    counter: int
    node: str


class Claims:
    """The claims of all nodes to addresses, as the node ``me`` knows them. `Directory` applies those of other nodes.

    Args:
        publish: a function that is called when this node has changes, which are to be published.
    """

    def __init__(self, me: str, publish: Callable[[], object]) -> None:
        self._me = me
        self._publish = publish
        self.claimed_elsewhere: Callable[[str], object] = lambda address: None
        """A function that is called when another node has claimed an address. `Addresses` sets it."""
        self._started_at: float | None = None
        """The time at which this node started to receive messages of other nodes."""
        self._own: dict[str, int] = {}
        """Addresses of this node, each with the counter of its claim."""
        self._others: dict[str, dict[str, int]] = {}
        """The same for each other node that has claimed an address."""
        self._changed: dict[str, int | None] = {}
        """Claims that were not published yet. The counter is None for a released claim."""
        self._released: dict[str, tuple[int, float]] = {}
        """Released claims: the counter, and the time of the release, the oldest first."""

    def __len__(self) -> int:
        """Return the number of claims. An address that two nodes claim counts twice."""
        return len(self._own) + sum(map(len, self._others.values()))

    def of(self, node: str) -> Mapping[str, int]:
        """Return the addresses that a node has claimed, each with the counter of its claim."""
        return self._own if node == self._me else self._others.get(node, {})

    def locate(self, address: str) -> str | None:
        """Return the node that has an address, or None."""
        if address in self._own:
            return self._me
        highest = self.highest_elsewhere(address)
        return None if highest is None else highest.node

    def higher(self, address: str) -> Claim | None:
        """Return another node's claim to an address of this node if that claim is higher, otherwise None."""
        if address not in self._own:
            return None
        theirs = self.highest_elsewhere(address)
        return theirs if theirs is not None and theirs > Claim(self._own[address], self._me) else None

    def highest_elsewhere(self, address: str) -> Claim | None:
        """Return the highest claim of another node to an address, or None."""
        claims = (Claim(counters[address], node) for node, counters in self._others.items() if address in counters)
        return max(claims, default=None)

    # ------------------------------------------------------------ what this node claims

    def claim(self, address: str) -> Claim:
        """Claim an address for this node."""
        counter = 1 + max(
            self._own.get(address, 0),
            self._released.get(address, (0, 0.0))[0],
            *(counters.get(address, 0) for counters in self._others.values()),
            0,
        )
        self._own[address] = self._changed[address] = counter = min(counter, MOST)
        self._publish()
        return Claim(counter, self._me)

    def release(self, address: str, now: float) -> None:
        """Release this node's claim to an address. Idempotent."""
        counter = self._own.pop(address, None)
        if counter is not None:
            self._changed[address] = None
            self._remember(address, counter, now)
            self._publish()

    def pop_changes(self) -> list[tuple[str, int | None]]:
        """Remove and return the claims of this node that have changed since the last call, None if it has released."""
        changed, self._changed = self._changed, {}
        return [*changed.items()]

    # ------------------------------------------------------------ what other nodes claim

    def apply(
        self, node: str, claims: Mapping[str, int], released: Iterable[str], now: float, *, first: bool = False
    ) -> None:
        """Apply a change of another node. ``first``: nothing of that node was known before."""
        counters = self._others.setdefault(node, {})
        for address in released:
            if (counter := counters.pop(address, None)) is not None:
                self._remember(address, counter, now)
        raises = first and (self._started_at is None or now < self._started_at + NEW)
        for address, counter in claims.items():
            counters[address] = counter
            self._released.pop(address, None)
            if raises and self.higher(address) is not None:
                self.claim(address)
            self.claimed_elsewhere(address)

    def drop(self, node: str, now: float) -> None:
        """Release the claims of a node that has ended."""
        self.apply(node, {}, [*self.of(node)], now)
        del self._others[node]

    def tick(self, now: float, *, receives: bool) -> None:
        """Forget released claims that are old; see `Directory.tick`."""
        if self._started_at is None and receives:
            self._started_at = now
        while self._released and (oldest := next(iter(self._released.items())))[1][1] + REMEMBERED <= now:
            del self._released[oldest[0]]

    def _remember(self, address: str, counter: int, now: float) -> None:
        before = self._released.pop(address, (0, 0.0))[0]
        self._released[address] = (max(before, counter), now)

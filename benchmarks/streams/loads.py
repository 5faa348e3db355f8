"""What is measured of streams, and what a client says about it."""

from __future__ import annotations

import msgspec

ITEM_BYTES = 16 * 1024
"""Of each item on the line that three streams fill."""

STREAMS = 3


class Task(msgspec.Struct, frozen=True):
    """One slot for a client: a line of JSON on its stdin."""

    warm: float
    seconds: float
    rate: float = 0.0
    """Bytes per second that the line is to carry. 0: as many as it can, for wsrpc alone."""


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What three streams and small requests got of one line."""

    requests: int
    seconds: float
    p50: float
    p99: float
    """Seconds that a small request took, one at a time."""
    rate: float
    """Bytes of items per second."""
    fairness: float
    """Items of the stream that got the fewest, as a share of those of the one that got the most."""
    wrong: int = 0


class Pairs(msgspec.Struct, kw_only=True):
    """All rounds; each pairs one of wsrpc with a bare one at the same byte rate, a moment later."""

    bare: list[Shared]
    wsrpc: list[Shared]

    @property
    def ratios(self) -> list[float]:
        """The p99 of wsrpc to that of the bare echo, round by round: lower is better."""
        return [ours.p99 / theirs.p99 for ours, theirs in zip(self.wsrpc, self.bare, strict=True)]

    @property
    def wrong(self) -> int:
        return sum(sample.wrong for sample in [*self.bare, *self.wsrpc])


class SharedResult(msgspec.Struct, kw_only=True):
    """Small requests beside streams that fill the line, and beside the same at a rate that leaves both ends time."""

    filled: Pairs
    paced: Pairs

    @property
    def wrong(self) -> int:
        return self.filled.wrong + self.paced.wrong

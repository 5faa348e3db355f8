"""The outcome of the cuts: a document that is written as JSON, and the table that is made of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec

__all__ = ["COLUMNS", "KINDS", "Cuts", "Kind", "Outcome", "Seen", "load", "rows", "save"]

Kind = Literal["before any event", "in a flow", "half open"]
"""Of cuts. After a half-open one, the server still has the old connection when the client comes back."""
KINDS: tuple[Kind, ...] = ("before any event", "in a flow", "half open")

COLUMNS = ["", *KINDS, "lost to the server", "lost to the client", "duplicated", "out of order"]


class Seen(msgspec.Struct):
    """Events of one direction that were sent, and what has come of them."""

    sent: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0

    def add(self, sent: int, got: list[int]) -> None:
        """Count the events of a session: of the numbers below ``sent``, those that came."""
        self.sent += sent
        self.lost += len(set(range(sent)) - set(got))
        self.doubled += len(got) - len(set(got))
        self.out_of_order += sum(after < before for before, after in pairwise(got))


class Outcome(msgspec.Struct):
    """What has become of one system."""

    cuts: dict[Kind, int] = msgspec.field(default_factory=dict)
    """How many of each kind there were."""
    recovered: dict[Kind, int] = msgspec.field(default_factory=dict)
    """After how many of them the session went on."""
    up: Seen = msgspec.field(default_factory=Seen)
    """To the server."""
    down: Seen = msgspec.field(default_factory=Seen)
    """To the client."""
    seconds: float = 0.0

    @property
    def faultless(self) -> bool:
        """Whether each session went on, and each event came once and in order."""
        events = (self.up, self.down)
        return self.cuts == self.recovered and not any(e.lost or e.doubled or e.out_of_order for e in events)


class Cuts(msgspec.Struct, kw_only=True):
    """A run."""

    date: str
    machine: dict[str, str]
    """Versions of what took part."""
    systems: dict[str, Outcome]
    """By title, in the order of the table."""


def load(path: Path) -> Cuts:
    return msgspec.json.decode(path.read_bytes(), type=Cuts)


def save(run: Cuts, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")


def rows(run: Cuts) -> list[list[str]]:
    """A row of the table for each system."""
    return [
        [
            title,
            *(f"{outcome.recovered.get(kind, 0)} of {outcome.cuts.get(kind, 0)}" for kind in KINDS),
            *(f"{way.lost:,} of {way.sent:,}" for way in (outcome.up, outcome.down)),
            f"{outcome.up.doubled + outcome.down.doubled:,}",
            str(outcome.up.out_of_order + outcome.down.out_of_order),
        ]
        for title, outcome in run.systems.items()
    ]

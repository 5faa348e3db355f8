"""wsrpc in its simulated world. To repeat a failure: ``make simulate SEED=17``."""

from __future__ import annotations

import os

import pytest
from world import world

from wsrpc.testing import simulate

SEED = os.environ.get("WSRPC_SEED")
PARTS, SEEDS = 8, 25


@pytest.mark.parametrize("part", [None] if SEED else range(PARTS))
@pytest.mark.timeout(600)  # a failure is run again, to shorten its story
def test_what_must_hold_holds_whatever_happens(part: int | None) -> None:
    seeds = [int(str(SEED))] if part is None else range(part * SEEDS, (part + 1) * SEEDS)
    simulate(world, seed=seeds)

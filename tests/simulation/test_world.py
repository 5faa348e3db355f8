"""wsrpc in its simulated world. To repeat a failure: ``make explore SEED=17``."""

from __future__ import annotations

import pytest
from answers import answers
from boards import SAFE, boards
from effort import MAIN
from world import world

from wsrpc.testing import simulate

PARTS, SEEDS = 2 if MAIN else 4, 15


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.timeout(600)  # a failure is run again, to shorten its story
def test_what_must_hold_holds_whatever_happens(part: int) -> None:
    simulate(world, seed=range(part * SEEDS, (part + 1) * SEEDS))


@pytest.mark.timeout(600)
def test_rooms_show_their_state_whatever_happens() -> None:
    simulate(boards, seed=range(SEEDS), faults=SAFE)


@pytest.mark.timeout(600)
def test_runs_go_on_whatever_happens() -> None:
    simulate(answers, seed=range(2 * SEEDS), faults=SAFE)

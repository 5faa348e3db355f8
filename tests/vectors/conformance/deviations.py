"""Scenarios that wsrpc plays otherwise on purpose, one by one: what it must show instead.

``deviations.json`` holds, by scenario and number of the stimulus, all reactions to it, in the recordings' notation (a
frame may stand as JSON instead of text; ``{"$text": part}`` is any text that has the part). The reasons are in
interop/DEVIATIONS.md.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from .adapting import adapted
from .answers import other_answers, with_other_answers
from .scenario import Scenario

FILE = Path(__file__).parent.parent / "deviations.json"

DEVIATIONS: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(FILE.read_text(encoding="utf-8"))


def with_deviations(scenario: Scenario) -> Scenario:
    """The scenario with the reactions that are listed for it."""
    stimuli = list(scenario.stimuli)
    for number, reactions in DEVIATIONS.get(scenario.name, {}).items():
        stimuli[int(number)] = replace(stimuli[int(number)], reactions=tuple(reactions))
    return scenario.having(stimuli)


def for_wsrpc(scenario: Scenario) -> tuple[Scenario, set[str]]:
    """The scenario as wsrpc must play it, and the names of the rules that changed something besides the list."""
    return adapted(with_deviations(scenario))


def for_pair(left: Scenario, right: Scenario) -> tuple[Scenario, Scenario]:
    """Both halves of a session as two wsrpc peers must play them: each hears what the other says in its own words."""
    halves = with_deviations(left), with_deviations(right)
    heard = [
        with_other_answers(half, other_answers(other, adapted(other)[0])) for half, other in (halves, reversed(halves))
    ]
    return adapted(heard[0], paired=True)[0], adapted(heard[1], paired=True)[0]

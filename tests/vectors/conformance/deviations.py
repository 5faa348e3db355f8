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

from .channel_rules import ChannelRules
from .rules import Rules
from .scenario import Scenario, Step, Stimulus
from .steps import told

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


# ---------------------------------------------------------------- by rules


def adapted(scenario: Scenario) -> tuple[Scenario, set[str]]:
    """The scenario as wsrpc must play it, and the names of the rules that made a difference."""
    applied: set[str] = set()
    channels = ChannelRules(scenario.opens, applied)
    rules = Rules(channels)
    stimuli: list[Stimulus] = []
    sockets = 0
    for stimulus in scenario.stimuli:
        sockets += stimulus.op in ("create", "bind") and stimulus.value["socket"] != "none"
        reactions = tuple(step for step in stimulus.reactions if not _is_pending(step))
        for part in channels.adapt(replace(stimulus, reactions=reactions)):
            stimuli.append(_on_socket(rules.adapt(part), f"s{max(sockets, 1)}"))
    if stimuli:
        pending = [step for stimulus in scenario.stimuli for step in stimulus.reactions if _is_pending(step)]
        pending = rules.at_the_end(channels.at_the_end(pending))
        stimuli[-1] = replace(stimuli[-1], reactions=(*stimuli[-1].reactions, *pending))
    return scenario.having(stimuli), applied


def _is_pending(step: Step) -> bool:
    """Whether a step says what is open at the end."""
    return told(step).get("type") == "pending"


def _on_socket(stimulus: Stimulus, socket: str) -> Stimulus:
    """With the frames that rules have made on the socket that there is."""
    reactions = [
        {"socket": socket, **step} if isinstance(step.get("sent"), dict) else step for step in stimulus.reactions
    ]
    return replace(stimulus, reactions=tuple(reactions))

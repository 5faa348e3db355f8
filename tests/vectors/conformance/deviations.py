"""Scenarios that wsrpc plays otherwise on purpose, one by one: what it must show instead.

``deviations.json`` holds, by scenario and number of the stimulus, all reactions to it, in the recordings' notation (a
frame may stand as JSON instead of text; ``{"$text": part}`` is any text that has the part). The reasons are in
interop/DEVIATIONS.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .channel_rules import ChannelRules
from .conversations import reason_of
from .rules import Rules
from .scenario import Scenario, Step, Stimulus, parsed
from .steps import outcome, told

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


# ---------------------------------------------------------------- by rules


def adapted(scenario: Scenario, *, paired: bool = False) -> tuple[Scenario, set[str]]:
    """The scenario as wsrpc must play it, and the names of the rules that made a difference.

    ``paired``: the other side is wsrpc, too.
    """
    applied: set[str] = set()
    channels = ChannelRules(scenario.opens, applied, paired=paired)
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


# ---------------------------------------------------------------- what the other half of a recorded session hears


Frame = dict[str, Any]


def other_answers(recorded: Scenario, played: Scenario) -> list[tuple[Frame, Frame]]:
    """What the recording sends and what wsrpc sends instead: rejections for channels, other reasons of aborts."""
    instead = list(_sent(played))
    found: list[tuple[Frame, Frame]] = []
    for frame in _sent(recorded):
        if "a" in frame or "h" not in frame:
            continue
        key = "i" if "i" in frame else "h"
        same_kind = [other for other in instead if other.get(key) == frame[key] and _kind(other) == key]
        if same_kind and frame not in same_kind:
            found.append((frame, same_kind[0]))
    return found


def _kind(frame: Frame) -> str | None:
    """Whether it rejects a request, or aborts a channel."""
    if "a" in frame:
        return None
    return "i" if "e" in frame else "h" if "x" in frame and "i" not in frame else None


def _sent(scenario: Scenario) -> Iterator[Frame]:
    for stimulus in scenario.stimuli:
        for step in stimulus.reactions:
            sent = parsed(step["sent"]) if isinstance(step.get("sent"), str) else step.get("sent")
            if isinstance(sent, dict):
                yield sent


def with_other_answers(scenario: Scenario, answers: list[tuple[Frame, Frame]]) -> Scenario:
    """The scenario when those answers arrive instead."""
    return scenario.having([_hearing(stimulus, answers) for stimulus in scenario.stimuli])


def _hearing(stimulus: Stimulus, answers: list[tuple[Frame, Frame]]) -> Stimulus:
    for recorded, instead in answers:
        if stimulus.kind == "feed" and stimulus.frames() == [recorded]:
            reactions = tuple(_reacting(step, instead) for step in stimulus.reactions)
            return replace(stimulus, value=json.dumps(instead), reactions=reactions)
    return stimulus


def _reacting(step: Step, instead: Frame) -> Step:
    content = told(step)
    if content.get("type") == "resolved" and "e" in instead:
        return outcome("rejected", ref=content["ref"], error=reason_of(instead["e"], instead.get("_")))
    if content.get("type") == "channel_closed" and "x" in instead:
        return outcome("channel_closed", channel=content["channel"], reason=reason_of(instead["x"], instead.get("_")))
    return step

"""Answers that wsrpc words otherwise than JavaScript, as the other half of a recorded session hears them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .conversations import reason_of
from .scenario import Scenario, Step, Stimulus, parsed
from .steps import outcome, told

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

"""Rewriting a recorded scenario to what wsrpc must show."""

from __future__ import annotations

from dataclasses import replace

from .channel_rules import ChannelRules
from .rules import Rules
from .scenario import Scenario, Step, Stimulus
from .steps import told


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

"""wsrpc does what ws-wrapper 4.3.1 was recorded to do, frame by frame."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vectors.conformance.mirror import Mirror
from vectors.conformance.replay import replay
from vectors.conformance.scenario import Scenario, for_wsrpc, load, load_other_versions, parsed
from waiting import settled

DATA = Path(__file__).parent / "data"
SCENARIOS = [*load(DATA), *load(DATA / "further")]
TAGS = {scenario.name: scenario.tags for scenario in SCENARIOS}
OTHERS = [replace(other, tags=TAGS[other.name]) for other in load_other_versions(DATA) if other.name in TAGS]


def name_of(scenario: Scenario) -> str:
    return f"{scenario.source}:{scenario.name}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
async def test_scenario(scenario: Scenario) -> None:
    await replay(for_wsrpc(scenario))

    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS + OTHERS if not each.tagged], ids=name_of)
async def test_whatever_javascript_sends_is_a_message(scenario: Scenario) -> None:
    """Nothing that a conforming peer sends counts as malformed, which closes connections."""
    mirror = Mirror({**scenario.stimuli[0].value, "socket": "open"})
    raw = {stimulus.value["data"] for stimulus in scenario.stimuli if stimulus.op == "send_raw"}
    sent = [step["sent"] for stimulus in scenario.stimuli for step in stimulus.reactions if "sent" in step]
    messages = [text for text in sent if text not in raw]
    try:
        for text in messages:
            mirror.feed(None, text)
        await settled()

        assert mirror.peer.connected
        assert mirror.peer.ignored["foreign"] == 0
        assert mirror.peer.ignored["malformed"] == 0
        # Unpaired surrogates are the one thing that JavaScript sends and Python does not read.
        assert mirror.peer.ignored["unreadable"] == sum(has_lone_surrogate(parsed(text)) for text in messages)
    finally:
        await mirror.finish()


def has_lone_surrogate(message: Any) -> bool:
    left = [message]  # a list instead of recursion, because recordings nest deeper than Python calls
    while left:
        part = left.pop()
        if isinstance(part, str) and any(0xD800 <= ord(character) < 0xE000 for character in part):
            return True
        if isinstance(part, list | dict):
            left += [*part, *part.values()] if isinstance(part, dict) else part
    return False


def test_enough_is_replayed() -> None:
    """No scenario is left out by mistake: the numbers are those of the recordings."""
    assert (len(SCENARIOS), sum(not scenario.tagged for scenario in SCENARIOS), len(OTHERS)) == (332, 302, 30)

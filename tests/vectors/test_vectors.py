"""wsrpc does what ws-wrapper 4.3.1 was recorded to do, frame by frame."""

from __future__ import annotations

import asyncio

from vectors.conformance.deviations import for_wsrpc
from vectors.conformance.mirror import Mirror, idle
from vectors.conformance.replay import replay
from vectors.conformance.scenario import Scenario, parsed
from vectors.conformance.steps import has_lone_surrogate


async def test_scenario(scenario: Scenario) -> None:
    expected, _ = for_wsrpc(scenario)

    await replay(expected)

    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_whatever_javascript_sends_is_a_message(any_scenario: Scenario) -> None:
    """Nothing that a conforming peer sends counts as malformed, which closes connections."""
    if any_scenario.tagged:
        return
    mirror = Mirror({**any_scenario.stimuli[0].value, "socket": "open"})
    raw = {stimulus.value["data"] for stimulus in any_scenario.stimuli if stimulus.op == "send_raw"}
    sent = [step["sent"] for stimulus in any_scenario.stimuli for step in stimulus.reactions if "sent" in step]
    messages = [text for text in sent if text not in raw]
    try:
        for text in messages:
            mirror.feed(None, text)
        await idle()

        assert mirror.peer.connected
        assert mirror.peer.ignored["foreign"] == 0
        assert mirror.peer.ignored["malformed"] == 0
        # Unpaired surrogates are the one thing that JavaScript sends and Python does not read.
        assert mirror.peer.ignored["unreadable"] == sum(has_lone_surrogate(parsed(text)) for text in messages)
    finally:
        await mirror.finish()


def test_enough_is_replayed(recorded: list[Scenario], further: list[Scenario], own_recordings: bool) -> None:
    """No scenario is left out by mistake: the numbers are those of the recordings that come with the tests."""
    if own_recordings:
        assert len(recorded) == 159
        assert sum(not scenario.tagged for scenario in recorded) >= 120
        assert len(further) >= 170

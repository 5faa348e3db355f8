"""Random pairs of contracts: what `wsrpc diff` calls compatible works, and means the same, in both roles.

The clients are written by hand, and generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest
from effort import examples
from hypothesis import HealthCheck, event, given, settings
from random_versions import pairs
from two_versions import Version, played, played_by_generated, played_by_url

from wsrpc._schema.contract_diff import compare
from wsrpc.testing import VirtualTimeLoop


def worst(outcomes: Collection[str]) -> str:
    return next((each for each in ("fails", "meaning") if each in outcomes), "works")


@pytest.mark.timeout(600)
@settings(max_examples=examples(750), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(pairs)
def test_what_is_called_compatible_means_the_same(both: tuple[Version, Version]) -> None:
    old, new = both
    descriptions = [each.describe() for each in both]
    players: list[Any]
    # Only classes that were written by hand check all that their peers send.
    for checked, players in ((False, [played_by_generated]), (True, [played, played_by_url])):
        changes = compare(descriptions[0], descriptions[1], checked=checked)
        for caller, handler, predicted in (
            (old, new, {change.old_caller for change in changes}),
            (new, old, {change.new_caller for change in changes}),
        ):
            for player in players:
                handler.got.clear()
                with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
                    observed = runner.run(player(caller, handler))
                event(f"{observed}, and the worst rule says {worst(predicted)}")
                assert observed == "works" or not predicted <= {"works"}, (player, changes)

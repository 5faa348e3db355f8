"""Each scenario that wsrpc plays otherwise is explained in interop/DEVIATIONS.md, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

from vectors.conformance.deviations import DEVIATIONS, for_wsrpc
from vectors.conformance.scenario import Scenario

PAGE = Path(__file__).parents[2] / "interop" / "DEVIATIONS.md"
NAME = re.compile(r"`((?:[a-z]+)/[a-z0-9/-]+)`")


def explained() -> set[str]:
    """The scenarios that the tables name."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return {name for row in rows for name in NAME.findall(row)}


def test_whatever_is_played_otherwise_is_explained(recorded: list[Scenario], own_recordings: bool) -> None:
    otherwise = {scenario.name for scenario in recorded if scenario.name in DEVIATIONS or for_wsrpc(scenario)[1]}

    if own_recordings:
        assert otherwise == explained()
    else:  # a rule may apply to scenarios that this project has not seen
        assert {name for name in otherwise if name in DEVIATIONS} <= explained()


def test_each_rule_has_a_row(recorded: list[Scenario], further: list[Scenario]) -> None:
    applied = {rule for scenario in recorded + further for rule in for_wsrpc(scenario)[1]}
    rows = PAGE.read_text(encoding="utf-8").splitlines()

    assert [rule for rule in applied if not any(row.startswith(f"| {rule} |") for row in rows)] == []


def test_further_scenarios_need_no_list(further: list[Scenario]) -> None:
    assert [scenario.name for scenario in further if scenario.name in DEVIATIONS] == []

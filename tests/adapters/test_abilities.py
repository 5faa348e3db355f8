"""The abilities of hosts, which docs/reference/adapters.md shows, are what the tests look up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hosts import ABILITIES, Host
from served import hosts

TESTS = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))


@hosts
def test_a_host_is_unable_only_to_do_what_has_a_row(host: Host) -> None:
    assert host.cannot.keys() <= ABILITIES.keys()
    assert all(host.cannot.values())


@pytest.mark.parametrize("ability", ABILITIES)
def test_every_ability_is_looked_up_by_a_test(ability: str) -> None:
    assert f'"{ability}"' in TESTS, f"no test depends on {ability!r}"


def test_whatever_only_some_are_tested_for_is_tested_otherwise_with_the_others() -> None:
    able, unable = (set(re.findall(rf'@{name}\("(.+?)"\)', TESTS)) for name in ("able", "unable"))
    assert able and able <= unable <= ABILITIES.keys()

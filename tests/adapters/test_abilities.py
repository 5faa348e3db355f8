"""The abilities of hosts, which docs/reference/adapters.md shows, are what the tests look up."""

from __future__ import annotations

import re
from pathlib import Path

from hosts import ABILITIES, HOSTS

TESTS = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))


def test_each_ability_is_looked_up_by_a_test_and_what_only_some_are_tested_for_is_tested_with_the_others() -> None:
    assert [ability for ability in ABILITIES if f'"{ability}"' not in TESTS] == []
    assert all(host.cannot.keys() <= ABILITIES.keys() and all(host.cannot.values()) for host in HOSTS)
    able, unable = (set(re.findall(rf'@{name}\("(.+?)"\)', TESTS)) for name in ("able", "unable"))
    assert able and able <= unable <= ABILITIES.keys()

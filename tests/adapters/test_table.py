"""The table in docs/reference/adapters.md says what the tests know."""

from __future__ import annotations

import re

import pytest
from hosts import ABILITIES, Host
from served import hosts
from table import PAGE, PLACE, table


def test_the_page_has_the_table_of_today() -> None:
    found = PLACE.search(PAGE.read_text("utf-8"))
    assert found is not None
    assert found[0] == table(), "write it anew: python tests/adapters/table.py"


@hosts
def test_a_host_is_unable_only_to_do_what_has_a_row(host: Host) -> None:
    assert host.cannot.keys() <= ABILITIES.keys()
    assert all(host.cannot.values())


@pytest.mark.parametrize("ability", ABILITIES)
def test_every_ability_is_looked_up_by_a_test(ability: str) -> None:
    texts = [path.read_text("utf-8") for path in PAGE.parents[2].glob("tests/adapters/test_*.py")]
    assert any(f'"{ability}"' in text for text in texts), f"no test depends on {ability!r}"


def test_whatever_only_some_are_tested_for_is_tested_otherwise_with_the_others() -> None:
    text = "".join(path.read_text("utf-8") for path in PAGE.parents[2].glob("tests/adapters/test_*.py"))
    able, unable = (set(re.findall(rf'@{name}\("(.+?)"\)', text)) for name in ("able", "unable"))
    assert able and able <= unable <= ABILITIES.keys()

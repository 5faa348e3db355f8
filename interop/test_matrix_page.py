"""docs/reference/compatibility.md is made of what the tests have found."""

from __future__ import annotations

import pytest

from interop.matrix import COLUMNS, ROLES, ROWS, Cell, load
from interop.peers import COUNTERPARTS


def test_each_counterpart_has_a_whole_column() -> None:
    kept = load()
    for library, role in COUNTERPARTS:
        assert list(ROWS) == [row for row in ROWS if row in kept[f"{COLUMNS[library]} {ROLES[role]}"]]


def test_a_note_is_a_row_of_the_deviations() -> None:
    with pytest.raises(AssertionError, match="no row 'nonesuch'"):
        Cell([]).note("nonesuch")

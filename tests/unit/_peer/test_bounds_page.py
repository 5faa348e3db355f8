"""docs/reference/limits.md says of every bound what it is, and names the tests that go over it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from wsrpc import Limits

HERE = Path(__file__).parent
PAGE = (HERE.parents[2] / "docs" / "reference" / "limits.md").read_text("utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|$", PAGE, re.MULTILINE)
UNITS = {"KiB": 1024, "MiB": 1024 * 1024, "s": 1.0, "": 1}


def value(text: str) -> float | None:
    """``64 KiB``, ``10,000``, ``20 s`` or ``None`` as the value that it stands for."""
    if text == "None":
        return None
    number, _, unit = text.replace(",", "").partition(" ")
    return int(number) * UNITS[unit]


def test_every_field_has_a_row_with_its_default() -> None:
    assert {field: value(default) for field, default, *_ in ROWS} == msgspec.structs.asdict(Limits())
    assert len(ROWS) == len(Limits.__struct_fields__), "each once"


def test_every_row_names_tests_that_exist_and_every_such_test_is_named() -> None:
    shared = {  # what all connections have in common
        HERE.parent / "_transports" / name for name in ("test_crowd.py", "test_read_fairness.py")
    }
    there = {
        name
        for path in {*HERE.glob("test_bounds_*.py"), *shared} - {Path(__file__)}
        for name in re.findall(r"^async def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    for field, _, _, _, tests in ROWS:
        assert re.findall(r"`(test_\w+)`", tests), field
    assert set(re.findall(r"`(test_\w+)`", PAGE)) == there

"""docs/contributing/features.md: every feature has its line, and each test that a line names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "contributing" / "features.md").read_text("utf-8")
ASKED = {"W": 31, "C": 6, "E": 8, "S": 7, "K": 4, "N": 14, "R": 7, "T": 5, "B": 8, "L": 8, "I": 12}
NAMED = re.compile(r"`((?:tests|interop)/[\w/]+\.py)::(\w+)`")


def rows() -> Iterator[tuple[str, str]]:
    """Each feature of the page: its id, and its tests."""
    for line in PAGE.splitlines():
        if line.startswith("- "):
            found = re.fullmatch(r"- \*\*([A-Z]\d+)\*\* .+?\. ((?:`[^` ]+` ?)+)", line)
            assert found, f"a line has an id, a text with a full stop, and tests: {line}"
            yield found[1], found[2]


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_every_feature_has_its_line_and_only_one() -> None:
    asked = [f"{letter}{number}" for letter, last in ASKED.items() for number in range(1, last + 1)]
    assert [row for row, _ in rows()] == asked


@pytest.mark.parametrize(("row", "shown"), list(rows()), ids=lambda value: value if len(value) < 4 else "")
def test_the_tests_of_a_line_exist(row: str, shown: str) -> None:
    named = NAMED.findall(shown)
    assert named, f"{row} names no test"
    assert NAMED.sub("", shown).split() == [], f"{row}: only tests, as `path::name`, stand after the text"
    for path, name in named:
        assert (ROOT / path).exists(), f"{row}: there is no {path}"
        assert name.startswith("test_") and name in names_in(ROOT / path), f"{row}: {path} has no {name}"

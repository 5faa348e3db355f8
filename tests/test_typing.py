"""User-shaped code under mypy and pyright: what must type-check does, and the marked lines, only those, do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
USAGE = ROOT / "tests" / "typing" / "usage.py"
MISUSE = ROOT / "tests" / "typing" / "misuse.py"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

Findings = dict[Path, dict[int, str]]
"""File → line → what the checker says there."""


def run(*command: str, **env: str) -> str:
    """The output of a checker, which says by its status whether it found anything; 2 and more is a failure."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), f"{done.stdout}\n{done.stderr}"
    return done.stdout


def mypy() -> Findings:
    # A cache of its own: the options are not those of `make check`, which would have to start anew after this.
    cache = ROOT / ".mypy_cache" / "user-code"
    options = ["--strict", "--config-file=", "--output=json", "--follow-imports=silent", f"--cache-dir={cache}"]
    files = [str(file) for file in (USAGE, MISUSE, *EXAMPLES)]
    found: Findings = {}
    for line in run("mypy", *options, *files, MYPYPATH=str(ROOT)).splitlines():
        item: dict[str, Any] = json.loads(line)
        if item["severity"] == "error":
            found.setdefault(ROOT / item["file"], {})[item["line"]] = item["message"]
    return found


def pyright() -> Findings:
    # Files named here take the place of those in pyproject.toml, whose other settings hold: strict ones.
    files = [str(file) for file in (USAGE, MISUSE, *EXAMPLES)]
    report = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable, *files))
    assert report["summary"]["filesAnalyzed"] == len(files)
    found: Findings = {}
    for item in report["generalDiagnostics"]:
        if item["severity"] == "error":
            line = item["range"]["start"]["line"] + 1
            found.setdefault(Path(item["file"]), {})[line] = item["message"]
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("checker", [mypy, pyright], ids=["mypy", "pyright"])
def test_user_code_is_judged_as_it_should_be(checker: Callable[[], Findings]) -> None:
    found: Findings = checker()
    misuse = found.pop(MISUSE, {})
    assert found == {}
    lines = enumerate(MISUSE.read_text("utf-8").splitlines(), 1)
    wanted = {number for number, line in lines if line.endswith("# error")}
    assert wanted
    assert {number: text for number, text in misuse.items() if number not in wanted} == {}
    assert wanted - misuse.keys() == set(), "lines that should be refused and are not"

"""The program that plays Go: it is built, formatted, vetted, and says what is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from interop import golang


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=golang.SOURCE, env=golang.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_source_is_formatted() -> None:
    root = Path(run(golang.find_go(), "env", "GOROOT").strip())
    assert run(str(root / "bin" / "gofmt"), "-l", ".") == ""


@pytest.mark.parametrize("tags", ["", "wrapper16"])
def test_the_source_is_vetted(tags: str) -> None:
    run(golang.find_go(), "vet", "-tags", tags, ".", golang.MODULE + "/...")

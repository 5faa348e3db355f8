"""The modules for pages in wsrpc/browser are what the sources in browser/ give, and the sources hold their types."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from interop.node import find_node

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "browser"
MODULES = ROOT / "wsrpc" / "browser"


def npm(*arguments: str) -> None:
    find_node()
    if not (SOURCES / "node_modules").exists():
        pytest.fail("the packages of browser/ are missing: run `make test`, or `npm install` in browser/")
    done = subprocess.run(["npm", "run", "--silent", *arguments], cwd=SOURCES, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_committed_modules_are_those_of_the_sources(tmp_path: Path) -> None:
    npm("bundle", "--", f"--outdir={tmp_path}")
    built = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text("utf-8") for path in MODULES.iterdir()}
    assert committed == built, "run `make modules`"


def test_the_sources_have_no_type_errors() -> None:
    npm("check")

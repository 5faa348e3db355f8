"""The modules for pages in wsrpc/browser are what the sources in browser/ give, and the sources hold their types."""

from __future__ import annotations

import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from interop.node import find_node
from wsrpc import ConnectionLost
from wsrpc._client.reconnect_policy import is_transient

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


def test_both_clients_give_up_after_the_same_close_codes() -> None:
    """Pages gave up after 4401 and 4403, of which no reference spoke, and clients in Python did not."""
    [codes] = re.findall(r"const FINAL = new Set\(\[([\d, ]+)\]\)", (SOURCES / "src" / "backoff.ts").read_text("utf-8"))
    in_python = [code for code in range(1000, 5000) if not is_transient(ConnectionLost(code))]
    assert [*map(int, codes.split(", "))] == in_python == [1008, 3000, 3003, 4410]
    for page in ("reference/close-codes.md", "how-to/client.md", "how-to/browser.md"):
        text = " ".join((ROOT / "docs" / page).read_text("utf-8").split())
        assert "1008, 3000, 3003 and 4410" in text and "4401" not in text and "4403" not in text


def test_the_sources_have_no_type_errors() -> None:
    npm("check")


def test_no_source_imports_itself_by_way_of_others() -> None:
    """Types count, too: what two modules need of each other stands in a module below them."""
    sources = {path.stem: path.read_text("utf-8") for path in (SOURCES / "src").glob("*.ts")}
    imports = {name: re.findall(r'from "\./(\w+)\.js"', text) for name, text in sources.items()}
    TopologicalSorter(imports).prepare()  # its error names the modules of a circle

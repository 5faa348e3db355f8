"""What the library and the command import: neither imports what it may not need."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from command_process import COMMAND, environment, prints, serving

ROOT = Path(__file__).parent.parent
SHOW = "import sys; print(*sys.modules, sep='\\n')"


def test_the_library_imports_nothing_of_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import wsrpc; {SHOW}"], env=environment(), capture_output=True, text=True, check=True
    )
    found = {name for name in done.stdout.splitlines() if name in ("argparse", "rich") or "_command" in name}
    assert found == set()


async def test_a_call_imports_neither_rich_nor_other_commands(tmp_path: Path) -> None:
    """At its end, by the module that Python imports in every process if it is there."""
    report = tmp_path / "modules"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib, sys\n"
        "leave = os._exit\n"
        "def told(code):\n"
        f"    pathlib.Path({str(report)!r}).write_text(' '.join(sys.modules))\n"
        "    leave(code)\n"
        "os._exit = told\n",
        "utf-8",
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    async with serving() as played:
        assert await prints("call", played.url, "add", "2", "3", env={"PYTHONPATH": path}) == "5\n"
    found = set(report.read_text("utf-8").split())
    assert "wsrpc._command.calling" in found
    assert not found & {"rich", "wsrpc._codegen", "wsrpc._command.describing", "wsrpc._command.generating"}


def test_the_console_script_is_the_same_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["wsrpc"].partition(":")
    words = [sys.executable, "-c", f"import sys; from {module} import {function}; {function}()", "--version"]
    ours = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    theirs = subprocess.run([*COMMAND, "--version"], env=environment(), capture_output=True, text=True, check=True)
    assert ours.stdout == theirs.stdout and ours.stdout.startswith("wsrpc ")

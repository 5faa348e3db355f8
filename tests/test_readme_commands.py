"""Every command in README.md works as it is printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def commands() -> list[str]:
    """The indented lines that are commands, without their comments, and the commands within sentences."""
    indented = [
        line.partition("    #")[0].strip() for line in re.findall(r"^    (?:make|pip|python) .*$", README, re.M)
    ]
    within = re.findall(r"`((?:make|pip|python -m)\s[^`]+)`", README)
    return [*indented, *(" ".join(command.split()) for command in within)]


def run(command: str, folder: Path, **environment: str) -> str:
    """Run a command as a shell does; its output. It must succeed."""
    outside_make = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    ran = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**outside_make, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, f"{command} ended with {ran.returncode}:\n{ran.stdout}"
    return ran.stdout


def test_the_commands_are_those_that_are_tried_here() -> None:
    assert commands() == [
        "make demo",
        "make test",
        "pip install .",
        "pip install '.[aiohttp,picows]'",
        "python -m wsrpc types app:server -o events.d.ts",
        "make demo",
        "make bench",
    ]


def test_make_demo_runs_the_main_job() -> None:
    assert run("make demo", ROOT).rstrip().endswith("'done by the second'")


@pytest.mark.timeout(300)
def test_installing_from_a_clone_gives_a_package_that_works(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for command in [each for each in commands() if each.startswith("pip ")]:
        run(command, ROOT, PATH=path, PYTHONPATH="")
    used = "import wsrpc, wsrpc_adapters.aiohttp, wsrpc_adapters.picows; print(wsrpc.__file__)"
    assert str(tmp_path) in run(f'python -c "{used}"', tmp_path, PATH=path, PYTHONPATH="")


def test_declarations_are_written(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from wsrpc import Server\nserver = Server()\nserver.on('add', lambda a, b: a + b)\n"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run("python -m wsrpc types app:server -o events.d.ts", tmp_path, PATH=path, PYTHONPATH=str(ROOT))
    assert "add" in (tmp_path / "events.d.ts").read_text()


@pytest.mark.parametrize("target", ["test", "bench"])
def test_make_has_the_target(target: str) -> None:
    """What it does takes minutes: these tests are run by the one, and CI's machine is too noisy for the other."""
    assert "python -m" in run(f"make --dry-run {target}", ROOT)

"""Every command in README.md works as it is printed there."""

from __future__ import annotations

import html
import os
import re
import subprocess
import venv
from pathlib import Path

import pytest
from programs import ROOT

README = (ROOT / "README.md").read_text("utf-8")
PICTURE = ROOT / "docs" / "images" / "demo.svg"


def commands() -> list[str]:
    """The lines after a prompt, without their comments, and the commands within sentences."""
    prompts = [line.partition("    #")[0].strip() for line in re.findall(r"^\$ (.*)$", README, re.M)]
    within = re.findall(r"`((?:make|pip|python -m)\s[^`]+)`", README)
    return [*prompts, *(" ".join(command.split()) for command in within)]


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
        *("pip install .", "pip install '.[uvicorn,aiohttp]'"),
        *("make demo", "make test", "make test-all", "make docs", "make docs-serve"),
    ]


def test_make_demo_runs_the_main_job() -> None:
    printed = run("make demo", ROOT).splitlines()
    begin = next(number for number, line in enumerate(printed) if line.startswith("client"))
    shown = html.unescape(re.sub(r"<title>.*?</title>|<style>.*?</style>|<[^>]+>", "\n", PICTURE.read_text("utf-8")))
    # Each line is two texts in the picture, which its tags divide.
    assert "".join(printed[begin:]) == shown.partition("$ make demo")[2].replace("\n", "")


@pytest.mark.timeout(300)
def test_installing_from_a_clone_gives_a_package_that_works(tmp_path: Path) -> None:
    """With the extras: without them, pip does a part of the same."""
    venv.create(tmp_path / "venv", with_pip=True)
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    *_, command = [each for each in commands() if each.startswith("pip ")]
    run(command, ROOT, PATH=path, PYTHONPATH="")
    used = "import wsrpc, wsrpc_adapters.aiohttp, wsrpc_adapters.uvicorn; print(wsrpc.__file__)"
    assert str(tmp_path) in run(f'python -c "{used}"', tmp_path, PATH=path, PYTHONPATH="")

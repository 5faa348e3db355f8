"""What the library and the command import, and what an interrupt does meanwhile. Each test starts a new Python."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_process import COMMAND, environment, serving
from programs import ROOT

INSTALLED = [sys.executable, "-W", "error", "-c", "from wsrpc.__main__ import run; run()"]
"""The command as pip installs it."""


def begins_with(folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program in which Python runs ``code`` first, as the module that it imports in every process."""
    (folder / "sitecustomize.py").write_text(code, "utf-8")
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(words, env=environment({"PYTHONPATH": path}), cwd=folder, capture_output=True, text=True)


def interrupted_at_import(folder: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program, which gets SIGINT at the moment when it begins to import ``module``."""
    code = (
        "import os, signal, sys\n"
        "def interrupt(event, args):\n"
        f"    if event == 'import' and args[0] == {module!r}:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(interrupt)\n"
    )
    return begins_with(folder, code, *words)


async def test_a_call_imports_no_other_commands(tmp_path: Path) -> None:
    code = "import os, sys\nleave = os._exit\nos._exit = lambda code: print(*sys.modules, flush=True) or leave(code)\n"
    async with serving() as played:
        done = await asyncio.to_thread(begins_with, tmp_path, code, *COMMAND, "call", played.url, "add", "2", "3")
    answer, modules = done.stdout.splitlines()
    assert answer == "5" and "wsrpc._command.calling" in modules.split()
    unused = {"wsrpc.codegen", "wsrpc.cluster", "wsrpc._command.describing", "wsrpc._command.generating"}
    assert not unused & set(modules.split())


def test_the_console_script_is_the_same_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["wsrpc"].partition(":")
    assert INSTALLED[-1] == f"from {module} import {function}; {function}()"
    for command in (INSTALLED, COMMAND):
        out = subprocess.run([*command, "--version"], env=environment(), capture_output=True, text=True).stdout
        assert out.startswith("wsrpc ")


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (INSTALLED, "asyncio"),  # before the library
        ([sys.executable, "-mwsrpc"], "wsrpc._base"),
        (COMMAND, "wsrpc._command.command_values"),
    ],
)
def test_an_interrupt_during_the_imports_ends_the_command_without_a_word(
    tmp_path: Path, module: str, command: list[str]
) -> None:
    done = interrupted_at_import(tmp_path, module, *command, "call", "ws://127.0.0.1:1", "add")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_application_that_is_run_as_a_module_keeps_its_own_interrupts(tmp_path: Path) -> None:
    (tmp_path / "application").mkdir()
    (tmp_path / "application" / "__init__.py").write_text("from wsrpc import Client\n", "utf-8")
    (tmp_path / "application" / "__main__.py").write_text("", "utf-8")
    done = interrupted_at_import(tmp_path, "wsrpc.errors", sys.executable, "-m", "application", "wsrpc")
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_an_interrupt_while_an_application_is_imported(tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", "utf-8")
    done = begins_with(tmp_path, "", *INSTALLED, "types", "application:server")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "wsrpc: interrupted\n")


@pytest.mark.parametrize(
    ("missing", "words", "said"),
    [
        ("click", [*INSTALLED, "call"], "the command needs the extra cli: pip install 'python-wsrpc[cli]'"),
        ("click", [*COMMAND, "call"], "the command needs the extra cli: pip install 'python-wsrpc[cli]'"),
        (
            "uvicorn",
            [*INSTALLED, "serve", "app:app"],
            "wsrpc_adapters.uvicorn needs uvicorn 0.53 or later: pip install 'python-wsrpc[uvicorn]'",
        ),
    ],
)
def test_without_an_extra_the_command_says_what_it_needs(
    missing: str, words: list[str], said: str, tmp_path: Path
) -> None:
    done = begins_with(tmp_path, f"import sys\nsys.modules[{missing!r}] = None\n", *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"wsrpc: {said}\n")

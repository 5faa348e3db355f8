"""What the library and the command import: neither imports what it may not need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_process import COMMAND, environment, prints, serving

ROOT = Path(__file__).parent.parent.parent
INSTALLED = [sys.executable, "-W", "error", "-c", "from wsrpc.__main__ import run; run()"]
"""The command as pip installs it."""
SHOW = "import sys; print(*sys.modules, sep='\\n')"


def test_the_library_imports_nothing_of_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import wsrpc; {SHOW}"], env=environment(), capture_output=True, text=True, check=True
    )
    found = {name for name in done.stdout.splitlines() if name in ("click", "rich") or "_command" in name}
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
    assert INSTALLED[-1] == f"from {module} import {function}; {function}()"
    words = [*INSTALLED, "--version"]
    ours = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    theirs = subprocess.run([*COMMAND, "--version"], env=environment(), capture_output=True, text=True, check=True)
    assert ours.stdout == theirs.stdout and ours.stdout.startswith("wsrpc ")


def interrupted_at_import(folder: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program, which gets SIGINT at the moment when it begins to import ``module``."""
    (folder / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def interrupt(event, args):\n"
        f"    if event == 'import' and args[0] == {module!r}:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(interrupt)\n",
        "utf-8",
    )
    path = os.pathsep.join([str(folder), environment()["PYTHONPATH"]])
    return subprocess.run(words, env=environment({"PYTHONPATH": path}), capture_output=True, text=True)


@pytest.mark.parametrize(
    "command", [INSTALLED, COMMAND, [sys.executable, "-mwsrpc"]], ids=["installed", "-m", "-mwsrpc"]
)
@pytest.mark.parametrize("module", ["wsrpc._base", "wsrpc._client.client", "click", "wsrpc._command.values"])
def test_an_interrupt_during_the_imports_ends_the_command_without_a_word(
    tmp_path: Path, module: str, command: list[str]
) -> None:
    done = interrupted_at_import(tmp_path, module, *command, "call", "ws://127.0.0.1:1", "add")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_interrupt_before_the_library_ends_the_installed_command_without_a_word(tmp_path: Path) -> None:
    done = interrupted_at_import(tmp_path, "asyncio", *INSTALLED, "call", "ws://127.0.0.1:1", "add")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_application_that_is_run_as_a_module_keeps_its_own_interrupts(tmp_path: Path) -> None:
    (tmp_path / "application").mkdir()
    (tmp_path / "application" / "__init__.py").write_text("from wsrpc import Client\n", "utf-8")
    (tmp_path / "application" / "__main__.py").write_text("", "utf-8")
    words = [sys.executable, "-m", "application", "wsrpc"]
    done = interrupted_at_import(tmp_path, "wsrpc.errors", *words)
    assert done.stderr.endswith("KeyboardInterrupt\n")


def test_an_interrupt_while_an_application_is_imported(tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", "utf-8")
    words = [*INSTALLED, "types", "application:server"]
    done = subprocess.run(words, env=environment(), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "wsrpc: interrupted\n")


def test_without_the_extra_the_command_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n",
        "utf-8",
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    said = "wsrpc: the command needs the extra cli: pip install 'python-wsrpc[cli]'\n"
    for command in (INSTALLED, COMMAND):
        done = subprocess.run([*command, "call"], env=environment({"PYTHONPATH": path}), capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)

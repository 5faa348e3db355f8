"""A generated module, and what is done with it, under mypy and pyright in strict mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from generated import formatting, lint
from wide_server import server

from wsrpc.python_client import client_module
from wsrpc.schema import describe

ROOT = Path(__file__).parent.parent

USES = """
import api
import wsrpc


class Listener:
    async def said(self, who: str, text: str, *, urgent: bool = False) -> None: ...


async def use(client: wsrpc.Client, peer: wsrpc.Peer) -> None:
    main = api.main(client)
    cups: list[api.Cup] = await main.brew([api.Cup("tea", size=api.Size.LARGE)], strong=True)
    node: api.Node = await main.tree(api.Node(1), api.Pair(1), api.Film("Alien"), api.Odd())
    chat = api.chat(peer)
    length: int = await chat.say("hi")
    async with chat.history(0) as found:
        async for cup in found:
            cups.append(cup)
    client.of("chat").implement(api.ChatEvents, Listener())
    api.chat("server")  # error
    await main.brew([{"drink": "tea"}])  # error
    await main.pets([], api.Lion(mane="yes"), api.Point(1, 2))  # error
    await chat.say(1)  # error
    chat.shout(["a"])  # error
    await main.serve()  # error
    wrong: str = await chat.say("hi")  # error
    print(node, length, wrong)
"""


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_GLOBAL_NODE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), f"{done.stdout}\n{done.stderr}"
    return done.stdout


def mypy(folder: Path) -> set[tuple[str, int]]:
    cache = ROOT / ".mypy_cache" / "generated"
    options = ["--strict", "--output=json", "--follow-imports=silent", f"--cache-dir={cache}"]
    lines = run(folder, "mypy", *options, "api.py", "uses.py").splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
    return {(item["file"], item["line"]) for item in found if item["severity"] == "error"}


def pyright(folder: Path) -> set[tuple[str, int]]:
    config = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "include": ["api.py", "uses.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config), "utf-8")
    report = json.loads(run(folder, "pyright", "--outputjson", "--pythonpath", sys.executable))
    assert report["summary"]["filesAnalyzed"] == 2
    items = [item for item in report["generalDiagnostics"] if item["severity"] == "error"]
    return {(Path(item["file"]).name, item["range"]["start"]["line"] + 1) for item in items}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("checker", [mypy, pyright])
@pytest.mark.parametrize("models", ["structs", "dataclasses"])
def test_a_module_and_its_uses_are_judged_as_they_should_be(tmp_path: Path, models: Any, checker: Any) -> None:
    (tmp_path / "api.py").write_text(client_module(describe(server), models=models), "utf-8")
    (tmp_path / "uses.py").write_text(USES, "utf-8")
    wanted = {("uses.py", n) for n, line in enumerate(USES.splitlines(), 1) if line.endswith("# error")}
    assert len(wanted) == 7
    assert checker(tmp_path) == wanted


@pytest.mark.parametrize("models", ["structs", "dataclasses"])
def test_ruff_finds_nothing(tmp_path: Path, models: Any) -> None:
    (tmp_path / "api.py").write_text(client_module(describe(server), models=models), "utf-8")
    assert formatting(tmp_path) == "" and lint(tmp_path) == ""

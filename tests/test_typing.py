"""Code under mypy and pyright: what must type-check does, and the lines marked ``# error``, only those, do not.

The code is what users write (tests/typing, examples), and generated modules with what is done with them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from generated import lint
from programs import ROOT
from wide_server import server

from wsrpc.codegen.python_client import client_module
from wsrpc.schema import describe

CODE = [*sorted((ROOT / "tests" / "typing").glob("*.py")), *sorted((ROOT / "examples").glob("*.py"))]
USES = """
import api
import wsrpc


class Listener:
    async def said(self, who: str, text: str, *, urgent: bool = False) -> None: ...


async def use(client: wsrpc.Client, peer: wsrpc.Peer) -> None:
    main = api.main(client)
    cups: list[api.Cup] = await main.brew([api.Cup("tea", size=api.Size.LARGE)], strong=True)
    node: api.Node = await main.tree(api.Node(1), api.Pair(1, 2), api.Movie("Alien"), api.Odd())
    chat = api.chat(peer)
    length: int = await chat.say("hi")
    async with chat.history(0) as found:
        async for line in found:
            cups.append(api.Cup(line.text))
    client.of("chat").implement(api.ChatEvents, Listener())
    api.chat("server")  # error
    await main.brew([{"drink": "tea"}])  # error
    await main.pets([], api.Lion(mane="yes"))  # error
    await chat.say(1)  # error
    chat.shout(["a"])  # error
    await main.serve()  # error
    await main.cook([])  # error
    wrong: str = await chat.say("hi")  # error
    print(node, length, wrong)
"""

Findings = dict[tuple[str, int], str]
"""What the checker says, by file and line."""


def run(folder: Path, *command: str) -> str:
    """The output of a checker, which says by its status whether it found anything; 2 and more is a failure."""
    env = {**os.environ, "MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_GLOBAL_NODE": "0"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), f"{done.stdout}\n{done.stderr}"
    return done.stdout


def mypy(folder: Path) -> Findings:
    # A cache of its own: the options are not those of `make check`, which would have to start anew after this.
    cache = ROOT / ".mypy_cache" / "user-code"
    options = [
        "--strict",
        "--enable-error-code=deprecated",
        "--output=json",
        "--follow-imports=silent",
        f"--cache-dir={cache}",
    ]
    lines = run(folder, "mypy", *options, ".").splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
    return {(Path(item["file"]).name, item["line"]): item["message"] for item in found if item["severity"] == "error"}


def pyright(folder: Path) -> Findings:
    config = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)], "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(config), "utf-8")
    report = json.loads(run(folder, "pyright", "--outputjson", "--pythonpath", sys.executable))
    assert report["summary"]["filesAnalyzed"] == len(list(folder.glob("*.py")))
    return {
        (Path(item["file"]).name, item["range"]["start"]["line"] + 1): item["message"]
        for item in report["generalDiagnostics"]
        if item["severity"] == "error"
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_code_is_judged_as_it_should_be(checker: Callable[[Path], Findings], tmp_path: Path) -> None:
    texts = {file.name: file.read_text("utf-8") for file in CODE}
    texts["api.py"] = client_module(describe(server))
    texts["uses_api.py"] = USES
    for name, text in texts.items():
        (tmp_path / name).write_text(text, "utf-8")
    lines = [(name, number, line) for name in texts for number, line in enumerate(texts[name].splitlines(), 1)]
    wanted = {(name, number) for name, number, line in lines if line.endswith("# error")}
    assert {name for name, _ in wanted} == {"misuse.py", "uses_api.py"}
    found = checker(tmp_path)
    assert {place: text for place, text in found.items() if place not in wanted} == {}
    assert wanted - found.keys() == set(), "lines that should be refused and are not"


def test_ruff_finds_nothing_in_generated_modules(tmp_path: Path) -> None:
    (tmp_path / "api.py").write_text(client_module(describe(server)), "utf-8")
    assert lint(tmp_path) == ""

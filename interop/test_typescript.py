"""`python -m wsrpc types`, as a user has it: what `tsc --strict` says of clients, and what these get of the server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from programs import PYTHON, ROOT, start, talking

from interop.installed import install
from interop.node import JS, available_libraries, find_node

HERE = Path(__file__).parent / "typescript"
LIBRARIES = [name for name, _ in available_libraries() if name != "ws-server-wrapper"] + ["plain-4"]
WITH_STREAMS = [name for name in LIBRARIES if name != "ws-wrapper"]
TYPED = [name for name in LIBRARIES if name == "ws-wrapper-4"]
OPTIONS = {"strict": True, "noUncheckedIndexedAccess": True, "target": "es2022", "module": "nodenext", "outDir": "out"}
OPTIONS |= {"lib": ["es2022", "dom"], "types": [], "skipLibCheck": False}

COMPILER = [find_node(), str(JS / "node_modules" / "typescript" / "bin" / "tsc"), "--pretty", "false"]
Diagnostics = list[tuple[str, int, int]]
"""File, line, number of the error."""


async def output_of(*command: str, folder: Path, statuses: Collection[int] = (0,)) -> str:
    process = await start(*command, cwd=folder)
    out, err = await process.communicate()
    assert process.returncode in statuses, (out + err).decode()
    return out.decode()


async def tsc(folder: Path, *files: str) -> Diagnostics:
    """Where the compiler finds errors in ``files`` and what they import; it writes JavaScript to ``out``."""
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": files}), "utf-8")
    out = await output_of(*COMPILER, folder=folder, statuses=(0, 1, 2))
    found = re.findall(r"^(\S+?)\((\d+),\d+\): error TS(\d+):", out, re.MULTILINE)
    assert len(found) == out.count("error TS"), out  # others are of the project, not of a file
    return [(file, int(line), int(number)) for file, line, number in found]


def project(library: str, folder: Path) -> list[str]:
    """A user's folder, with the clients; returns the declarations that the user adds there."""
    install(library, folder)
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    for file in HERE.glob("*.ts"):
        shutil.copy(file, folder)
    return ["node.d.ts"] if library in TYPED else ["node.d.ts", "untyped.d.ts"]


async def generate(file: Path, *options: str, target: str = "app:server") -> None:
    await output_of(*PYTHON, "-m", "wsrpc", "types", target, "-o", str(file), *options, folder=HERE)


async def run(program: str, folder: Path, app: str = "app.py") -> list[list[object]]:
    async with talking(await start(*PYTHON, app, cwd=HERE), interrupt=False) as screen:
        url = await screen.line()
        printed = await output_of(find_node(), str(folder / "out" / program), url, folder=folder)
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.parametrize("library", LIBRARIES)
async def test_answers_have_the_types_that_were_declared(library: str, tmp_path: Path) -> None:
    cups = [{"drink": "tea", "size": "l"}, {"drink": "milk", "size": "s"}]
    first = {"cups": cups, "forTable": 0, "follows": None}
    answers = [
        *(["add", 2], ["add", 3.75], ["nothing", None], ["order", first]),
        *(["order", {"cups": [], "forTable": 3, "follows": first}], ["l", "s"]),
        *(["adopt", [{"type": "Dog", "name": "Rex"}]], ["adopt", [{"type": "Cat", "lives": 9}]], ["adopt", []]),
        *(["move", {"x": 2, "y": 1, "tags": []}], ["move", {"x": 1.5, "y": 2.5, "tags": []}]),
        *(["echo_point", {"x": 1, "tags": []}], ["swap", ["one", 1]], ["swap", ["", 1]], ["search", {"depth": 3}]),
        *(["search", {"depth": 1, "follow": True}], ["reverse", "Y2Jh"], ["levels", {"2": 2}], ["times", TIMES]),
        *(["set-name", {"name": {"any": "thing"}}], ["tick", 1], ["tick", 7], ["YWJj"]),
    ]
    await check_program("calls", library, tmp_path, answers)


TIMES = {"at": "2026-05-04T12:00:00Z", "day": "2026-05-04", "took": "P2D", "price": "1.50", "id": f"{UUID(int=1)}"}


STREAMS = [
    *(["count", "0", "s", "none"], ["count", "1", "s", "none"], ["next", ["0", "1", "2"]], ["total", None, 101]),
    *(["doubled", [8], None], ["talk", "HI"]),
]
LISTENS = [
    *(["open"], ["rang", 20, None], ["let_in", "Ada,Bob"], ["cup-served", {"drink": "tea", "size": "s"}, True, 4]),
    *(["ring", None], ["news", "all"], ["rang", 20, None], ["ring", None]),
]


async def check_program(name: str, library: str, folder: Path, printed: list[Any]) -> None:
    added = project(library, folder)
    await generate(folder / "events.d.ts")
    assert await tsc(folder, f"{name}.ts", *added) == []
    assert await run(f"{name}.js", folder) == printed


@pytest.mark.parametrize("library", WITH_STREAMS)
async def test_streams_and_channels_have_the_types_that_were_declared(library: str, tmp_path: Path) -> None:
    await check_program("streams", library, tmp_path, STREAMS)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_what_the_server_emits_has_the_types_that_were_declared(library: str, tmp_path: Path) -> None:
    await check_program("listens", library, tmp_path, LISTENS)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_what_is_wrong_does_not_compile(library: str, tmp_path: Path) -> None:
    added = project(library, tmp_path)
    await generate(tmp_path / "events.d.ts")
    lines = enumerate((HERE / "misuse.ts").read_text("utf-8").splitlines(), 1)
    wanted = [("misuse.ts", number, int(mark[1])) for number, line in lines if (mark := re.search(r" // (\d+)$", line))]
    assert len(wanted) > 30
    assert await tsc(tmp_path, "misuse.ts", *added) == wanted
    if library in TYPED:  # its own types take the events as they are
        assert await tsc(tmp_path, "own_types.ts", "node.d.ts") == []


BOARD = ROOT / "examples" / "contract" / "page"
"""A page whose types are in comments. Its declarations are made from the server of the example."""


MISTAKES = {
    ("", ""): [],
    ('board.request("remove", note.id)', 'board.request("remove", note.text)'): ["2345"],
    ('board.on("posted", show)', 'board.on("psted", show)'): ["2345"],
    ("item.className = note.color", "item.className = note.colour"): ["2551"],
}


@pytest.mark.parametrize("library", WITH_STREAMS)
async def test_the_page_of_the_example_is_checked(library: str, tmp_path: Path) -> None:
    install(library, tmp_path)
    for file in BOARD.glob("*"):
        shutil.copy(file, tmp_path)
    text = (BOARD / "main.js").read_text("utf-8")
    if library not in TYPED:
        shutil.copy(HERE / "untyped.d.ts", tmp_path)
        text = f"/// <reference path='untyped.d.ts' />\n{text}"
    for (right, wrong), numbers in MISTAKES.items():
        assert right in text
        (tmp_path / "main.js").write_text(text.replace(right, wrong), "utf-8")
        out = await output_of(*COMPILER, folder=tmp_path, statuses=(0, 1, 2))
        assert re.findall(r"error TS(\d+):", out) == numbers, out

"""What docs/how-to/typescript.md shows: its declarations are those that are made, and its clients compile and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from interop.installed import build_client, install, install_client
from interop.node import find_node
from interop.test_typescript import HERE, LIBRARIES, TYPED, WITH_STREAMS, output_of, tsc
from wsrpc.codegen.typescript import declarations
from wsrpc.schema import describe

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "typescript.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
FILES = {text.partition("\n")[0].removeprefix("// "): text for language, text in BLOCKS if language == "ts"}


def server_of_the_page() -> Any:
    names: dict[str, Any] = {"__name__": "page_of_typescript"}
    exec(compile(next(text for language, text in BLOCKS if language == "python"), str(PAGE), "exec"), names)
    return names["server"]


def project(library: str, folder: Path) -> list[str]:
    """The files of the page, in a folder with what they import; returns the declarations that are added."""
    if library == "python-wsrpc":
        (folder / "package").mkdir()
        install_client(build_client(folder / "package"), folder)
    else:
        install(library, folder)
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    (folder / "node.d.ts").write_text((HERE / "node.d.ts").read_text("utf-8"), "utf-8")
    made = {**FILES, "api.d.ts": declarations(describe(server_of_the_page()))}
    for name, text in made.items():
        (folder / name).write_text(text, "utf-8")
    return ["node.d.ts"] if library in (*TYPED, "python-wsrpc") else ["node.d.ts", "untyped.d.ts"]


def test_the_declarations_are_those_that_are_made() -> None:
    made = declarations(describe(server_of_the_page()))
    shown = FILES["api.d.ts"].partition("\n")[2].split("\n\n")
    assert len(shown) == 4
    for part in shown:
        assert part.strip() in made


def test_every_file_is_looked_at() -> None:
    for_client = ["api.d.ts", "client.ts", "mistakes.ts", "conversation.ts", "context.ts", "bytes.ts"]
    for_wrapper = ["wrapper.ts", "wrapper-mistakes.ts", "both.ts", "untyped.d.ts"]
    assert list(FILES) == [*for_client, *for_wrapper]


PROGRAMS = [("python-wsrpc", "client", "Hello, Grace!\ntea\ncoffee\n250\na.txt")]
PROGRAMS += [(library, "wrapper", "a.txt\ntea\ncoffee") for library in WITH_STREAMS]


@pytest.mark.parametrize(("library", "program", "printed"), PROGRAMS)
async def test_the_client_runs(library: str, program: str, printed: str, tmp_path: Path) -> None:
    assert await tsc(tmp_path, f"{program}.ts", *project(library, tmp_path)) == []
    async with server_of_the_page().listen() as listener:
        got = await output_of(find_node(), f"out/{program}.js", listener.url, folder=tmp_path)
    assert got == f"tea\n200\n{printed}\n"


def errors_of(program: str) -> set[tuple[str, int]]:
    lines = enumerate(FILES[program].splitlines(), 1)
    return {(program, number) for number, line in lines if "// error" in line}


@pytest.mark.parametrize("library", LIBRARIES)
async def test_the_mistakes_are_found(library: str, tmp_path: Path) -> None:
    found = await tsc(tmp_path, "wrapper.ts", "wrapper-mistakes.ts", *project(library, tmp_path))
    assert {(file, line) for file, line, _ in found} == errors_of("wrapper-mistakes.ts")
    if library in TYPED:  # what only its own types let fit together
        assert await tsc(tmp_path, "both.ts", "node.d.ts") == []


async def test_the_mistakes_with_the_client_are_found(tmp_path: Path) -> None:
    programs = ["conversation.ts", "context.ts", "bytes.ts", "mistakes.ts"]
    found = await tsc(tmp_path, *programs, *project("python-wsrpc", tmp_path))
    assert [(file, line) for file, line, _ in found] == sorted(errors_of("mistakes.ts"))

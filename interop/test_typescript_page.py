"""What docs/how-to/typescript.md shows: its declarations are those that are made, and its clients compile and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from interop.installed import install
from interop.node import find_node
from interop.test_typescript import HERE, LIBRARIES, TYPED, WITH_STREAMS, output_of, tsc
from wsrpc.schema import describe
from wsrpc.typescript import declarations

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "typescript.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
FILES = {text.partition("\n")[0].removeprefix("// "): text for language, text in BLOCKS if language == "ts"}


def server_of_the_page() -> Any:
    names: dict[str, Any] = {"__name__": "page_of_typescript"}
    exec(compile(next(text for language, text in BLOCKS if language == "python"), str(PAGE), "exec"), names)
    return names["server"]


def project(library: str, folder: Path) -> list[str]:
    """The files of the page, in a folder with what they import; returns the declarations that are added."""
    install(library, folder)
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    (folder / "node.d.ts").write_text((HERE / "node.d.ts").read_text("utf-8"), "utf-8")
    made = {**FILES, "events.d.ts": declarations(describe(server_of_the_page()))}
    for name, text in made.items():
        (folder / name).write_text(text, "utf-8")
    return ["node.d.ts"] if library in TYPED else ["node.d.ts", "untyped.d.ts"]


def test_the_declarations_are_those_that_are_made() -> None:
    made = declarations(describe(server_of_the_page()))
    shown = FILES["events.d.ts"].partition("\n")[2].split("\n\n")
    assert len(shown) == 6
    for part in shown:
        assert part.strip() in made


def test_every_file_is_looked_at() -> None:
    assert list(FILES) == ["events.d.ts", "client.ts", "mistakes.ts", "both.ts", "untyped.d.ts"]


@pytest.mark.parametrize("library", WITH_STREAMS)
async def test_the_client_runs(library: str, tmp_path: Path) -> None:
    assert await tsc(tmp_path, "client.ts", *project(library, tmp_path)) == []
    async with server_of_the_page().listen() as listener:
        printed = await output_of(find_node(), "out/client.js", listener.url, folder=tmp_path)
    assert printed.split() == ["tea", "200", "a.txt", "tea", "coffee"]


@pytest.mark.parametrize("library", LIBRARIES)
async def test_the_mistakes_are_found(library: str, tmp_path: Path) -> None:
    found = await tsc(tmp_path, "client.ts", "mistakes.ts", *project(library, tmp_path))
    lines = enumerate(FILES["mistakes.ts"].splitlines(), 1)
    assert {(file, line) for file, line, _ in found} == {
        ("mistakes.ts", number) for number, line in lines if "// error" in line
    }
    if library in TYPED:  # what only its own types let fit together
        assert await tsc(tmp_path, "both.ts", "node.d.ts") == []

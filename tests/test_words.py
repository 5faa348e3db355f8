"""Names in the code use the words of docs/contributing/modules.md, and not those that its table lists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "contributing" / "modules.md"
ALLOWED = {
    "Gone": "the protocol has a message of this name",
    "ItemsGone": "HTTP's word for what was there and is no more",
    "LogGone": "HTTP's word for what was there and is no more",
    "take_over": "as a phrase: of a connection that another library has opened",
}
"""Names that have such a word, each with its reason."""
SOURCES = [
    path
    for folder in ("wsrpc", "adapters/wsrpc_adapters", "browser/src")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".ts")
]


@cache
def forbidden() -> dict[str, str]:
    """Each word that is not used in names, with what the table says instead."""
    table = PAGE.read_text("utf-8").partition("| not in names | write instead |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([a-zA-Z, ]+) \| (.+) \|$", table, re.MULTILINE)
    return {word: instead for words, instead in rows for word in words.split(", ")}


def words_of(name: str) -> set[str]:
    """The words of a name, in small letters. Those of a constant also in capitals: some are only refused there."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return {word.lower() for word in words} | {word for word in words if name.isupper()}


def names_in_python(text: str) -> Iterator[str]:
    """Names of functions, classes, parameters, attributes, fields and constants."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
                yield from (each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))
            case ast.ClassDef():
                yield node.name
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) if name.isupper():
                yield name


def names_in_typescript(text: str) -> Iterator[str]:
    """All words of the code, without comments and the texts of strings."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    code = re.sub(r'"(?:\\.|[^"\\\n])*"', " ", code)
    for template in re.findall(r"`(?:\\.|[^`\\])*`", code):
        code = code.replace(template, " ".join(re.findall(r"\$\{([^}]*)\}", template)))
    yield from (name for name in re.findall(r"[A-Za-z_$][\w$]*", code) if name != "let")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_has_a_word_of_the_table(path: Path) -> None:
    text = path.read_text("utf-8")
    names = {path.stem, *(names_in_python(text) if path.suffix == ".py" else names_in_typescript(text))}
    found = {
        f"{name}: not {word!r}, but {forbidden()[word]}"
        for name in names - ALLOWED.keys()
        for word in words_of(name) & forbidden().keys()
    }
    assert not found, "\n".join(sorted(found))


def test_the_table_is_read_and_each_exception_is_in_use() -> None:
    assert len(forbidden()) > 30
    python = {name for path in SOURCES if path.suffix == ".py" for name in names_in_python(path.read_text("utf-8"))}
    assert ALLOWED.keys() <= python


def test_module_names_are_unique_in_the_core() -> None:
    core = [path.stem for path in (ROOT / "wsrpc" / "_core").rglob("*.py") if path.stem != "__init__"]
    assert len(set(core)) == len(core), sorted(name for name in set(core) if core.count(name) > 1)

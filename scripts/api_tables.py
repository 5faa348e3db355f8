"""The tables of the API reference: the names that a page describes and their members, made from the docstrings.

The site shows the names, and below them the complete descriptions, which it makes itself. A clone has both tables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe

from scripts.docs_names import MADE_BY_THE_LIBRARY, REFERENCE, UNSUPPORTED, describe_members

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(page for page in REFERENCE.glob("*.md") if page.name != "index.md")
HEAD = ["| name | description |", "|---|---|"]


def described(page: Path) -> list[str]:
    """Return the names that a page of the reference describes, in its order."""
    return re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)


def names(page: Path) -> str:
    """Return a table of the names of a page. Each is a link to the module that defines it."""
    rows = []
    for name in described(page):
        found = _object(name)
        assert isinstance(found.filepath, Path)
        source = os.path.relpath(found.filepath, page.parent)
        rows.append(f"| [`{name}`]({source}) | {_subject(found)} |")
    return "\n".join([*HEAD, *rows])


def members(page: Path) -> str:
    """Return a table of the functions of a page, and one for each class: its methods and attributes."""
    objects = {name: _object(name) for name in described(page)}
    functions = {name: found for name, found in objects.items() if isinstance(found, griffe.Function)}
    parts: list[str] = []
    if functions:
        calls = [f"| `{_call(name, found)}` | {_subject(found)} |" for name, found in functions.items()]
        parts += ["### Functions", "", *HEAD, *calls, ""]
    for name, found in objects.items():
        if isinstance(found, griffe.Class) and (rows := list(_members(found))):
            parts += [f"### Members of `{name}`", "", *HEAD, *rows, ""]
    return "\n".join(parts).rstrip()


def _members(cls: griffe.Class) -> Iterator[str]:
    found = {
        name: member.final_target if isinstance(member, griffe.Alias) else member
        for name, member in cls.all_members.items()
    }
    if cls.name not in MADE_BY_THE_LIBRARY and isinstance(made := found.get("__init__"), griffe.Function):
        yield f"| `{_call(cls.name, made)}` | Create an object. |"
    for name, member in found.items():
        if not name.startswith("_") and member.docstring is not None:
            shown = _call(name, member) if isinstance(member, griffe.Function) else name
            yield f"| `{shown}` | {_subject(member)} |"


def _call(name: str, function: griffe.Function) -> str:
    """A call, with the names of the parameters, and ``=`` after those that can only be passed by name."""
    shown: list[str] = []
    for parameter in function.parameters:
        if parameter.name in ("self", "cls", UNSUPPORTED):
            continue
        before = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
        after = "=" if parameter.kind is griffe.ParameterKind.keyword_only else ""
        shown.append(f"{before.get(parameter.kind, '') if parameter.kind else ''}{parameter.name}{after}")
    return f"{name}({', '.join(shown)})"


def _subject(described: griffe.Object) -> str:
    """The first paragraph of a docstring, as one line, in Markdown."""
    text = described.docstring.value if described.docstring else ""
    return " ".join(text.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


def _object(name: str) -> griffe.Object:
    found = _packages()[name]
    return found.final_target if isinstance(found, griffe.Alias) else found


@cache
def _packages() -> griffe.ModulesCollection:
    loader = griffe.GriffeLoader(search_paths=[ROOT, ROOT / "adapters"])
    for package in ("wsrpc", "wsrpc_adapters"):
        loader.load(package)
    loader.resolve_aliases(external=False)
    for page in PAGES:
        for name in described(page):
            found = loader.modules_collection[name]
            if isinstance(found, griffe.Class) and found.docstring is not None:
                describe_members(found, found.docstring)
    return loader.modules_collection

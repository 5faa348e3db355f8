"""The layers of the package, and the tables of modules in docs/contributing/modules.md, made from the docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "wsrpc"

LAYERS = [
    ["errors", "headers", "limits", "stats"],
    ["_base"],
    ["handshake", "transport"],
    ["_values"],
    ["_core.wire"],
    ["_core.session", "_core.inboxes"],
    ["_core.handlers"],
    ["_schema", "_core.sending"],
    ["_core.channels"],
    ["_core.peer"],
    ["_core.api"],
    ["_net", "_raw"],
    ["_keyed"],
    ["_client", "_server"],
    ["store"],
    ["cluster"],
    ["adapting", "blocking", "codegen", "schema", "testing"],
    ["__init__", "codecs", "types"],
    ["_command"],
    ["__main__"],
]
"""Lowest first. A package imports from itself and from lower layers; the modules of a layer from each other, too."""

HEAD = ["| module | contents |", "|---|---|"]


def tables() -> str:
    """One table for each package, the lowest layer first. Modules beside the packages have one table together."""
    names = [name for layer in LAYERS for name in layer]
    single = [PACKAGE / f"{name}.py" for name in names if (PACKAGE / f"{name}.py").exists()]
    parts = ["### Modules directly in `wsrpc`", "", *HEAD, *map(_row, single), ""]
    for folder in (PACKAGE.joinpath(*name.split(".")) for name in names):
        if (folder / "__init__.py").exists():
            files = sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py")
            parts += [
                f"### `{'.'.join(folder.relative_to(PACKAGE).parts)}`",
                "",
                _subject(folder / "__init__.py"),
                "",
                *HEAD,
                *map(_row, files),
                "",
            ]
    return "\n".join(parts)


def _row(path: Path) -> str:
    return f"| `{'.'.join(path.relative_to(PACKAGE).with_suffix('').parts)}` | {_subject(path)} |"


def _subject(path: Path) -> str:
    """The first paragraph of a module's docstring, as one line, in Markdown."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")

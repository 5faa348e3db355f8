"""The tables of modules in docs/contributing/modules.md, made from the docstrings of the modules.

``python scripts/module_table.py`` writes them. A test compares the page with what this would write.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "contributing" / "modules.md"
TABLES = re.compile(r"(?<=<!-- modules -->\n).*(?=<!-- end of modules -->)", re.DOTALL)


def subject(path: Path) -> str:
    """The first paragraph of a module's docstring, as one line, in Markdown."""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    line = " ".join(text.partition("\n\n")[0].split())
    return line.replace("``", "`").replace("|", "\\|")


def rows(folder: Path) -> list[str]:
    files = sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py")
    return [row(path) for path in files]


def row(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT / "wsrpc").with_suffix("").parts)
    return f"| `{name}` | {subject(path)} |"


def tables(layers: list[list[str]]) -> str:
    """One table for each package, the lowest layer first. Modules beside the packages have one table together."""
    package = ROOT / "wsrpc"
    names = [name for layer in layers for name in layer]
    single = [package / f"{name}.py" for name in names if (package / f"{name}.py").exists()]
    parts = ["", "### Modules directly in `wsrpc`", "", *head(), *map(row, single), ""]
    for name in names:
        if (package / name / "__init__.py").exists():
            parts += [
                f"### `{name}`",
                "",
                subject(package / name / "__init__.py"),
                "",
                *head(),
                *rows(package / name),
                "",
            ]
    return "\n".join(parts) + "\n"


def head() -> list[str]:
    return ["| module | contents |", "|---|---|"]


def page(layers: list[list[str]]) -> str:
    """The page as it should be."""
    return TABLES.sub(lambda _: tables(layers), PAGE.read_text("utf-8"))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from test_structure import LAYERS

    PAGE.write_text(page(LAYERS), "utf-8")

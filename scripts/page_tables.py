"""Writes into the pages of docs/ what is made from the code, or from what tests and benchmarks have recorded.

A block of a page that begins with a line ``<!-- made by make tables: NAME -->`` and ends with ``<!-- end -->`` is
replaced by the table of this name. The tables are committed, so that the pages can be read in a clone.

Usage: python -m scripts.page_tables
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import griffe

from benchmarks.report import pages
from scripts import tables
from scripts.api_reference import Reference
from scripts.docs_names import Prepare, by_page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(<!-- made by make tables: ([\w .]+) -->)\n.*?^<!-- end -->$", re.DOTALL | re.MULTILINE)
REFERENCE = re.compile(r"\]\[(wsrpc(?:_adapters)?(?:\.\w+)*)\]")
"""Of a link to a name in the API reference."""
TARGETS = "targets of links"
"""The block in which a page says where the API reference describes the names that the page links to."""


API = by_page()


@cache
def _reference() -> Reference:
    loader = griffe.GriffeLoader(extensions=griffe.load_extensions(Prepare()), search_paths=[ROOT, ROOT / "adapters"])
    for package in ("wsrpc", "wsrpc_adapters"):
        loader.load(package)
    loader.resolve_aliases(external=False)
    return Reference(loader.modules_collection)


def names(page: Path) -> str:
    """Return a table of the names that a page of the API reference describes, with links to their descriptions."""
    rows = ["| name | description |", "|---|---|"]
    rows += [f"| [`{name}`](#{name}) | {_reference().summary(name)} |" for name in API[page]]
    return "\n".join(rows)


def description(name: str) -> str:
    """Return the description of a name, which takes a block of its own on a page of the API reference."""
    return _reference().description(name)


MAKERS: dict[str, Callable[[], str]] = {
    **pages.TABLES,
    **tables.MAKERS,
    **{f"names of {page.stem}": partial(names, page) for page, here in API.items() if here},
    **{name: partial(description, name) for here in API.values() for name in here},
}


def filled(page: Path) -> str:
    """Return the text of a page, with each block as it has to be."""
    text = page.read_text("utf-8")
    text = BLOCK.sub(lambda found: f"{found[1]}\n\n{_made(found[2], page, text)}\n\n<!-- end -->", text)
    if REFERENCE.search(text) and f": {TARGETS} -->" not in text:
        text = f"{text}\n<!-- made by make tables: {TARGETS} -->\n\n{_targets(page, text)}\n\n<!-- end -->\n"
    return text


def _made(name: str, page: Path, text: str) -> str:
    return _targets(page, text) if name == TARGETS else MAKERS[name]()


def _targets(page: Path, text: str) -> str:
    at = sorted(set(REFERENCE.findall(text)))
    return "\n".join(f"[{name}]: {os.path.relpath(_place(name), page.parent)}#{name}" for name in at)


def _place(name: str) -> Path:
    """The page that describes a name."""
    if name not in (places := _reference().page_of_anchor):
        raise KeyError(f"no page of docs/reference/api describes {name}")
    return places[name]


def files() -> Iterator[tuple[Path, str]]:
    """Yield each file that this module writes, as it has to be: the pages, and the plots that they show."""
    for page in sorted(DOCS.rglob("*.md")):
        yield page, filled(page)
    for name, svg in pages.drawings().items():
        yield DOCS / "performance" / name, svg


if __name__ == "__main__":
    for file, wanted in files():
        if not file.exists() or file.read_text("utf-8") != wanted:
            file.write_text(wanted, "utf-8")
            print(f"written: {file.relative_to(DOCS.parent)}")

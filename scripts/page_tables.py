"""Writes into the pages of docs/ what is made from the code, or from what tests and benchmarks have recorded.

A block of a page that begins with a line ``<!-- made by make tables: NAME -->`` and ends with ``<!-- end -->`` is
replaced by the table of this name. The tables are committed, so that the pages can be read in a clone.

Usage: python -m scripts.page_tables
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.report import pages
from scripts import reference_text, tables
from scripts.docs_names import described

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(<!-- made by make tables: ([\w .]+) -->)\n.*?^<!-- end -->$", re.DOTALL | re.MULTILINE)
REFERENCE = re.compile(r"\]\[(wsrpc(?:_adapters)?(?:\.\w+)*)\]")
"""Of a link to a name in the API reference."""
TARGETS = "targets of links"
"""The block in which a page says where the API reference describes the names that the page links to."""


def names(page: Path) -> str:
    """Return a table of the names that a page of the API reference describes, with links to their descriptions."""
    rows = ["| name | description |", "|---|---|"]
    for name in described(page):
        # "::" begins an indented block, which is not shown here.
        line = re.sub(r"\s*::$", ".", " ".join(reference_text.summary(name).split()))
        line = re.split(r"(?<=\.) (?=[A-Z`])", line, maxsplit=1)[0]  # the rest is further down
        line = line.replace("``", "`").replace("|", r"\|")
        rows.append(f"| [`{name}`](#{name}) | {line} |")
    return "\n".join(rows)


def text(page: Path) -> str:
    """Return the descriptions of the names of a page. On the site, mkdocstrings writes them."""
    return "\n\n".join(map(reference_text.description, described(page)))


API = {page: described(page) for page in sorted((DOCS / "reference" / "api").glob("*.md"))}
MAKERS: dict[str, Callable[[], str]] = {
    **pages.TABLES,
    **tables.MAKERS,
    **{f"names of {page.stem}": partial(names, page) for page, here in API.items() if here},
    **{f"text of {page.stem}": partial(text, page) for page, here in API.items() if here},
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
    """The page that describes a name, which may be a member of a name with a description."""
    for page, here in API.items():
        if name in here:
            return page
    if "." not in name:
        raise KeyError(f"no page of docs/reference/api describes {name}")
    return _place(name.rpartition(".")[0])


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

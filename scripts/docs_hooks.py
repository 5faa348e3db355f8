"""What the site needs beyond MkDocs: diagrams, anchors of the API reference, and pages of files outside of docs/.

MkDocs calls the functions ``on_…`` while it builds the site; mkdocs.yml names this module.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent.parent))
from scripts.sequence_diagrams import BadDiagram, draw

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FOLDER = "files"
"""Where the site shows files of the repository: examples, the changelog and others."""
LANGUAGES = {".py": "python", ".mjs": "js", ".conf": "nginx", "": "text"}
"""Those of files whose suffix is not the name of their language."""
LINK = re.compile(r"\]\(((?:\.\./)+[^)\s#]+)(#[^)\s]*)?\)")
"""A link out of a folder, as those from docs/ to other files of the repository are."""
ANCHOR = re.compile(r'^<a id="([\w.]+)"></a>\n\n(#+ .+)$', re.MULTILINE)
"""The name of a heading. On the site, the table of contents links to it."""
SOURCE = re.compile(r"^\[source\]\([^)]+\)\n\n", re.MULTILINE)
"""A link from the API reference to a module, which the site does not show."""
ANY_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let fences of Mermaid's language be drawn when the site is built."""
    fences: list[dict[str, Any]] = (
        config["mdx_configs"].setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    )
    fences.append({"name": "mermaid", "class": "sequence", "format": _drawn})
    return config


def _drawn(source: str, *_: object, **__: object) -> str:
    try:
        return f'<div class="sequence">{draw(source)}</div>'
    except BadDiagram as exc:
        raise PluginError(f"{exc}, in:\n{source}") from None


def _outside(page: Path, target: str) -> Path | None:
    """The file of the repository, outside of docs/, that a page links to."""
    file = Path(os.path.normpath(page.parent / target))
    if file.is_relative_to(DOCS) or not file.is_relative_to(ROOT) or not file.exists():
        return None
    return file / "README.md" if file.is_dir() else file


def _shown_at(file: Path) -> str:
    """Where the site shows a file of the repository."""
    name = file.relative_to(ROOT)
    return f"{FOLDER}/{name}" if name.suffix == ".md" else f"{FOLDER}/{name}.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that pages link to, directly or by such a file."""
    found: set[Path] = set()
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        links = LINK if page.is_relative_to(DOCS) else ANY_LINK
        for target, _ in links.findall(SOURCE.sub("", page.read_text("utf-8"))):
            file = _outside(page, target)
            if file is not None and file not in found:
                found.add(file)
                if file.suffix == ".md":
                    waiting.append(file)
    for file in sorted(found):
        text = file.read_text("utf-8")
        if file.suffix != ".md":
            fence = "````"
            text = (
                f"# `{file.relative_to(ROOT)}`\n\n{fence}{LANGUAGES.get(file.suffix, file.suffix[1:])}\n{text}{fence}\n"
            )
        files.append(File.generated(config, _shown_at(file), content=_moved(file, text)))
    return files


def _moved(file: Path, text: str) -> str:
    """Make the links of a file lead to the same pages from where the site shows it."""

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        linked = Path(os.path.normpath(file.parent / target))
        if re.match(r"\w+:", target) or not linked.exists():
            return match[0]
        shown = linked.relative_to(DOCS) if linked.is_relative_to(DOCS) else Path(_shown_at(_file(linked)))
        return f"]({os.path.relpath(shown, Path(_shown_at(file)).parent)}{anchor})"

    return ANY_LINK.sub(link, text) if file.suffix == ".md" else text


def _file(path: Path) -> Path:
    return path / "README.md" if path.is_dir() else path


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let headings have their anchors, and let links to files of the repository lead to their pages."""
    markdown = SOURCE.sub("", markdown)
    markdown = ANCHOR.sub(r"\2 { #\1 }", markdown)
    if page.file.src_uri.startswith(f"{FOLDER}/"):
        return markdown
    source = DOCS / page.file.src_uri

    def link(match: re.Match[str]) -> str:
        file = _outside(source, match[1])
        if file is None:
            return match[0]
        return f"]({os.path.relpath(_shown_at(file), Path(page.file.src_uri).parent)}{match[2] or ''})"

    return LINK.sub(link, markdown)

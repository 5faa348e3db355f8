"""Links the names in docstrings to the API reference, where docs/reference/api has them.

A docstring writes the name of something public in single backticks: ``Client.request``, or ``request`` for a member of
the same class. mkdocs.yml names this module as an extension of Griffe, which reads the docstrings for mkdocstrings.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

REFERENCE = Path(__file__).parent.parent / "docs" / "reference" / "api"
NAME = re.compile(r"(?<!`)`([A-Za-z_]\w*(?:\.\w+)*)`(?!`)")


def described() -> dict[str, dict[str, str]]:
    """The names that the reference describes, by the package or module that they are documented in, then by name."""
    found: dict[str, dict[str, str]] = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for path in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE):
            module, _, name = path.rpartition(".")
            found.setdefault(module, {})[name] = path
    return found


class LinkNames(griffe.Extension):
    """Extension of Griffe that changes each docstring once it has read a package."""

    def __init__(self) -> None:
        self._described = described()

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Link the names in all docstrings of a package."""
        self._link_in(pkg)

    def _link_in(self, within: griffe.Module | griffe.Class) -> None:
        for each in [within, *within.members.values()]:
            if isinstance(each, griffe.Object) and each.docstring is not None:
                self._link(each, each.docstring)
        for each in within.members.values():
            if isinstance(each, griffe.Module | griffe.Class):
                self._link_in(each)

    def _link(self, owner: griffe.Object, docstring: griffe.Docstring) -> None:
        def link(found: re.Match[str]) -> str:
            path = self._path_of(owner, found[1])
            if path is None:
                return found[0]
            return f'<autoref optional identifier="{path}"><code>{found[1]}</code></autoref>'

        docstring.value = NAME.sub(link, docstring.value)

    def _path_of(self, owner: griffe.Object, name: str) -> str | None:
        first, _, rest = name.partition(".")
        blocking = owner.canonical_path.startswith("wsrpc.blocking")
        names = {**self._described["wsrpc"], **(self._described["wsrpc.blocking"] if blocking else {})}
        if first in names:
            return f"{names[first]}.{rest}" if rest else names[first]
        if first == "wsrpc":
            return name
        scope = owner if isinstance(owner, griffe.Class) else owner.parent
        if isinstance(scope, griffe.Class) and first in scope.all_members:
            return f"{scope.all_members[first].canonical_path}{f'.{rest}' if rest else ''}"
        return None

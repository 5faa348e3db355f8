"""Prepares docstrings and signatures for the API reference.

Names in docstrings become links, where docs/reference/api has them.

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


def described(page: Path) -> list[str]:
    """The names that a page of the reference describes, in its order."""
    return re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)


def by_module() -> dict[str, dict[str, str]]:
    """The names that the reference describes, by the package or module that they are documented in, then by name."""
    found: dict[str, dict[str, str]] = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for path in described(page):
            module, _, name = path.rpartition(".")
            found.setdefault(module, {})[name] = path
    return found


MADE_BY_THE_LIBRARY = frozenset(
    {
        *("AnonymousChannel", "Channel", "ClusterPeer", "ClusterPeerChannel", "ClusterRoom", "ClusterRoomChannel"),
        *("Context", "Listening", "Message", "Peer", "RawConnection", "Room", "RoomChannel", "RouterChannel"),
        *("ServerChannel", "Stream"),
    }
)
"""Classes whose objects users get and do not make, so that the reference omits how they are made."""
FIRST_LAST = [f"wsrpc.{module}" for module in ("types", "transport", "stats", "errors", "codecs", "cluster")]
FIRST_LAST.append("wsrpc")
"""The modules whose names docstrings use without their module. The later ones have precedence."""
OPTIONS = "options"
"""Parameter that stands for the keyword arguments of a class."""
UNSUPPORTED = "unsupported"
"""Parameter of functions that refuse unknown keywords with a sentence. It is no option, so the reference omits it."""


class Prepare(griffe.Extension):
    """Extension of Griffe that changes docstrings and signatures once it has read a package."""

    def __init__(self) -> None:
        self._described = by_module()

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Prepare a package."""
        self._prepare(pkg)

    def _prepare(self, within: griffe.Module | griffe.Class) -> None:
        if within.docstring is not None:
            if isinstance(within, griffe.Class):
                describe_members(within, within.docstring)
            self._link(within, within.docstring)
        for each in within.members.values():
            if isinstance(each, griffe.Module | griffe.Class):
                self._prepare(each)
            elif isinstance(each, griffe.Object) and each.docstring is not None:
                self._link(each, each.docstring)
            if isinstance(each, griffe.Attribute):
                show_type_alone(each)
            if isinstance(each, griffe.Class) and each.name in MADE_BY_THE_LIBRARY:
                each.members.pop("__init__", None)
            if isinstance(each, griffe.Function):
                for form in [each, *(each.overloads or [])]:
                    if UNSUPPORTED in form.parameters:
                        del form.parameters[UNSUPPORTED]
                    if OPTIONS in form.parameters:
                        show_options(form)

    def _link(self, owner: griffe.Object, docstring: griffe.Docstring) -> None:
        def link(found: re.Match[str]) -> str:
            path = self._path_of(owner, found[1])
            if path is None:
                return found[0]
            return f'<autoref optional identifier="{path}"><code>{found[1]}</code></autoref>'

        # Markdown needs no "::" before an indented block.
        text = re.sub(r"(?<=\S)::(?=\n\n    )", ":", docstring.value)
        text = re.sub(r"(\n\n| )::(?=\n\n    )", "", text)
        docstring.value = NAME.sub(link, text)

    def _path_of(self, owner: griffe.Object, name: str) -> str | None:
        first, _, rest = name.partition(".")
        blocking = owner.canonical_path.startswith("wsrpc.blocking")
        modules = [*FIRST_LAST, *(["wsrpc.blocking"] if blocking else [])]
        names = {name: path for module in modules for name, path in self._described[module].items()}
        if first in names:
            return f"{names[first]}.{rest}" if rest else names[first]
        if first == "wsrpc":
            return name
        scope = owner if isinstance(owner, griffe.Class) else owner.parent
        if isinstance(scope, griffe.Class) and first in scope.all_members:
            return f"{scope.all_members[first].canonical_path}{f'.{rest}' if rest else ''}"
        return None


def show_options(function: griffe.Function) -> None:
    """Show ``**options: Unpack[CallOptions]`` as the keyword arguments that the class has."""
    annotation = function.parameters[OPTIONS].annotation
    if not isinstance(annotation, griffe.ExprSubscript) or annotation.canonical_name != "Unpack":
        return
    assert isinstance(annotation.slice, griffe.Expr)
    options = function.modules_collection[annotation.slice.canonical_path]
    del function.parameters[OPTIONS]
    for cls in [options, *options.mro()]:
        for name, each in cls.attributes.items():
            if name not in function.parameters:
                kind = griffe.ParameterKind.keyword_only
                function.parameters.add(griffe.Parameter(name, annotation=each.annotation, kind=kind, default="..."))


def show_type_alone(attribute: griffe.Attribute) -> None:
    """Show an attribute of another object, such as ``name: SameAttribute[str] = SameAttribute()``, as ``name: str``."""
    if isinstance(attribute.annotation, griffe.ExprSubscript) and str(attribute.value) == "SameAttribute()":
        attribute.annotation, attribute.value = attribute.annotation.slice, None


def describe_members(cls: griffe.Class, docstring: griffe.Docstring) -> None:
    """Move the descriptions in the section "Attributes" to the members of a class, so that links to these work."""
    before, heading, section = docstring.value.partition("\n\nAttributes:\n")
    if not heading:
        return
    section, blank, after = section.partition("\n\n")
    left: list[str] = []
    for entry in re.split(r"\n(?=    \S)", section):
        name, _, text = entry.strip().partition(": ")
        member = cls.members.get(name)
        if isinstance(member, griffe.Attribute) and member.docstring is None:
            text = " ".join(text.split())
            member.docstring = griffe.Docstring(text[0].upper() + text[1:], parent=member)
        else:
            left.append(entry)
    kept = heading + "\n".join(left) if left else ""
    docstring.value = f"{before}{kept}{blank}{after}"

"""Finds the names that the API reference describes, and prepares docstrings and signatures for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "api"


def by_page() -> dict[Path, list[str]]:
    """The names that each page of the reference describes, in its order."""
    block = re.compile(r"^<!-- made by make tables: (wsrpc[\w.]*) -->$", re.MULTILINE)
    return {page: block.findall(page.read_text("utf-8")) for page in sorted(REFERENCE.glob("*.md"))}


def by_module() -> dict[str, dict[str, str]]:
    """The names that the reference describes, by the package or module that they are documented in, then by name."""
    found: dict[str, dict[str, str]] = {}
    for path in (path for paths in by_page().values() for path in paths):
        module, _, name = path.rpartition(".")
        found.setdefault(module, {})[name] = path
    return found


MADE_BY_THE_LIBRARY = frozenset(
    {
        *("AnonymousChannel", "Channel", "ClusterPeer", "ClusterPeerChannel", "ClusterRoom", "ClusterRoomChannel"),
        *(
            "Context",
            "Following",
            "Listening",
            "Message",
            "Peer",
            "RawConnection",
            "Room",
            "RoomChannel",
            "RouterChannel",
        ),
        *("ServerChannel", "Stream"),
    }
)
"""Classes whose objects users get and do not make, so that the reference omits how they are made."""
OPTIONS = "options"
"""Parameter that stands for the keyword arguments of a class."""
UNSUPPORTED = "unsupported"
"""Parameter of functions that refuse unknown keywords with a sentence. It is no option, so the reference omits it."""


class Prepare(griffe.Extension):
    """Extension of Griffe that changes docstrings and signatures once it has read a package."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Prepare a package."""
        self._prepare(pkg)

    def _prepare(self, within: griffe.Module | griffe.Class) -> None:
        if within.docstring is not None and isinstance(within, griffe.Class):
            describe_members(within, within.docstring)
        for each in within.members.values():
            if isinstance(each, griffe.Module | griffe.Class):
                self._prepare(each)
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
        names, _, text = entry.strip().partition(": ")
        text = " ".join(text.split())
        for name in names.split(", "):
            member = cls.members.get(name)
            if isinstance(member, griffe.Attribute) and member.docstring is None:
                member.docstring = griffe.Docstring(text[0].upper() + text[1:], parent=member)
            else:
                left.append(f"    {name}: {text}")
    kept = heading + "\n".join(left) if left else ""
    docstring.value = f"{before}{kept}{blank}{after}"

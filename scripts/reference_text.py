"""Writes the descriptions of public names as Markdown, for those who read the API reference in a clone.

The site describes the same names by mkdocstrings, and leaves this text out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe

from scripts.docs_names import Prepare

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
"""Of a signature in one line."""
LINK = re.compile(r'<autoref optional identifier="([\w.]+)"><code>([\w.]+)</code></autoref>')
"""A name in a docstring, as `Prepare` has marked it."""


@cache
def _packages() -> griffe.ModulesCollection:
    paths = [ROOT, ROOT / "adapters"]
    loader = griffe.GriffeLoader(search_paths=paths, extensions=griffe.load_extensions(Prepare()))
    for package in ("wsrpc", "wsrpc_adapters"):
        loader.load(package)
    loader.resolve_aliases(external=False)
    return loader.modules_collection


def summary(name: str) -> str:
    """Return the first paragraph of the docstring of a name."""
    docstring = _final(_packages()[name]).docstring
    return LINK.sub(r"`\2`", docstring.value.partition("\n\n")[0] if docstring else "")


def description(name: str) -> str:
    """Return the signature and the docstring of a name and of its members."""
    return "\n\n".join(_described(_final(_packages()[name]), name, name))


def _final(found: griffe.Object | griffe.Alias) -> Any:
    return found.final_target if isinstance(found, griffe.Alias) else found


def _described(found: Any, name: str, root: str) -> Iterator[str]:
    yield f'{"##" if name == root else "###"} <a id="{name}"></a>`{name.removeprefix(root + ".")}`'
    made = _final(found.all_members["__init__"]) if found.is_class and "__init__" in found.all_members else None
    if not found.is_module:
        yield "```python\n" + "\n".join(_signatures(found, name.rpartition(".")[2], made)) + "\n```"
    for each in (found, made):
        if each is not None and each.docstring is not None:
            for section in each.docstring.parse("google", warnings=False):
                yield LINK.sub(r"`\2`", _section(section))
    if found.is_class:
        own = [member for member in found.members if member in found.all_members]
        for member in dict.fromkeys([*own, *found.all_members]):
            within = _final(found.all_members[member])
            if not member.startswith("_") and within.docstring is not None and not within.is_module:
                yield from _described(within, f"{name}.{member}", root)


def _signatures(found: Any, name: str, made: griffe.Function | None) -> Iterator[str]:
    if found.is_class:
        yield f"class {name}"
        for form in (made.overloads or [made]) if made else ():
            yield _wrapped(form.signature(name=name, return_type=False))
    elif found.is_function:
        mark = "async def" if "async" in found.labels else "def"
        for form in found.overloads or [found]:
            yield from (f"@{label}" for label in ("classmethod", "staticmethod") if label in found.labels)
            yield f"{mark} {_wrapped(form.signature(name=name))}"
    else:
        value = "" if found.value is None or "property" in found.labels else f" = {found.value}"
        yield f"{name}{f': {found.annotation}' if found.annotation else ''}{value}"


def _wrapped(signature: str) -> str:
    """Put each parameter on a line of its own, where one line is too long."""
    if len(signature) <= WIDTH:
        return signature
    depth, text = 0, ""
    for at, character in enumerate(signature):
        depth += (character in "([{") - (character in ")]}")
        if character == ")" and depth == 0:
            return f"{text},\n{signature[at:]}"
        if character == " " and depth == 1 and text.endswith(","):
            text += "\n    "
        else:
            text += character
            text += "\n    " if character == "(" and depth == 1 else ""
    return text


def _section(section: griffe.DocstringSection) -> str:
    if section.kind is griffe.DocstringSectionKind.text:
        return str(section.value)
    if section.kind is griffe.DocstringSectionKind.admonition:
        return f"**{section.title}:** {section.value.contents}"
    lines = [f"**{section.title or section.kind.value.capitalize()}:**", ""]
    for each in section.value:
        named = getattr(each, "name", "") or (section.kind.value == "raises" and str(each.annotation).strip("()"))
        lines.append(f"- {f'`{named}`: ' if named else ''}" + each.description.replace("\n", "\n  "))
    return "\n".join(lines)

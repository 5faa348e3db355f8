"""Describes the public names of wsrpc as Markdown: signatures, and docstrings with links to other names.

What a class inherits from a public class is listed with links. What it inherits from a private class is described
where a page first has it, and elsewhere shown as its signature, its first paragraph and a link.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from textwrap import indent

import griffe

from scripts.docs_names import MADE_BY_THE_LIBRARY, by_module, by_page

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"(?<![`\w])`([A-Za-z_]\w*(?:\.\w+)*)`(?!`)")
"""A docstring writes the name of something public so: ``Client.request``, or ``request`` in the same class."""
FIRST_LAST = [f"wsrpc.{module}" for module in ("types", "transport", "stats", "errors", "codecs", "cluster")]
FIRST_LAST.append("wsrpc")
"""The modules whose names docstrings use without their module. The later ones have precedence."""
WIDTH = 100
"""Characters of a line of a signature."""

Documented = griffe.Module | griffe.Class | griffe.Function | griffe.Attribute | griffe.TypeAlias


class Reference:
    """The names that pages describe, and the packages in which they are."""

    def __init__(self, packages: griffe.ModulesCollection) -> None:
        self._packages = packages
        self.page_of = {path: page for page, paths in by_page().items() for path in paths}
        self._path_of = {self.object(path).path: path for path in self.page_of}
        self._names = by_module()

    def object(self, path: str) -> Documented:
        """What a public name stands for."""
        found = self._packages[path]
        found = found.final_target if isinstance(found, griffe.Alias) else found
        assert isinstance(found, Documented)
        return found

    @cached_property
    def _described_at(self) -> dict[str, str]:
        """The public name under which each member of a class is described completely, by its own path."""
        found: dict[str, str] = {}
        for path in self.page_of:
            for member in self._members(path):
                found.setdefault(member.path, f"{path}.{member.name}")
        return found

    def _members(self, path: str) -> list[Documented]:
        """The members that are described with a class: its own, and those of its private bases."""
        return [member for base, member in self._public(path) if base is None]

    def _public(self, path: str) -> Iterator[tuple[str | None, Documented]]:
        """Yield each public member of a class, and the public class that it is inherited from."""
        cls = self.object(path)
        seen: set[str] = set()
        for each in [cls, *cls.mro()] if isinstance(cls, griffe.Class) else []:
            base = None if each is cls else self._path_of.get(each.path)
            for name, member in each.members.items():
                if name not in seen and isinstance(member, Documented):
                    seen.add(name)
                    if not name.startswith("_") and member.docstring is not None:
                        yield base, member

    @cached_property
    def page_of_anchor(self) -> dict[str, Path]:
        """The page of each name, also of members."""
        found = dict(self.page_of)
        for path, page in self.page_of.items():
            found.update({f"{path}.{member.name}": page for _, member in self._public(path)})
        return found

    def summary(self, path: str) -> str:
        """The first sentence of a description, for a row of a table."""
        line = re.sub(r"\s*::$", ".", " ".join(_first_paragraph(self.object(path)).split()))
        return re.split(r"(?<=\.) (?=[A-Z`])", line, maxsplit=1)[0].replace("``", "`").replace("|", r"\|")

    def description(self, path: str) -> str:
        """Describe a name and its members."""
        found = self.object(path)
        assert isinstance(found.filepath, Path)
        source = os.path.relpath(found.filepath, self.page_of[path].parent)
        parts = [f'<a id="{path}"></a>', f"## `{path}`", f"[source]({source})", _signatures(found, path)]
        parts.append(self._text(found, path))
        members = self._members(path)
        attributes = [each for each in members if isinstance(each, griffe.Attribute)]
        if attributes:
            parts += ["**Attributes**", *(self._attribute(each, path) for each in attributes)]
        for member in members:
            if not isinstance(member, griffe.Attribute):
                parts += self._member(member, path)
        inherited: dict[str, list[str]] = {}
        for base, member in self._public(path):
            if base is not None:
                inherited.setdefault(base, []).append(member.name)
        for base, names in inherited.items():
            links = ", ".join(f'<a id="{path}.{name}"></a>{self._link(f"{base}.{name}", name, path)}' for name in names)
            parts.append(f"Inherited from {self._link(base, base, path)}: {links}.")
        return "\n\n".join(part for part in parts if part)

    def _attribute(self, member: griffe.Attribute, path: str) -> str:
        text = self._text(member, path)
        if self._described_at[member.path] != f"{path}.{member.name}":
            text = self._start(member, path)
        signature = _double_quoted(_attribute(member, member.name))
        # Backticks would end the code.
        assert "`" not in signature, signature
        return f'- <a id="{path}.{member.name}"></a>**`{signature}`**\n\n{indent(text, "    ")}'

    def _member(self, member: Documented, path: str) -> Iterator[str]:
        anchor = f"{path}.{member.name}"
        yield f'<a id="{anchor}"></a>'
        yield f"### `{path.rpartition('.')[2]}.{member.name}`"
        yield _signatures(member, anchor)
        yield self._text(member, path) if self._described_at[member.path] == anchor else self._start(member, path)

    def _start(self, member: Documented, path: str) -> str:
        """The first paragraph of a description, and a link to the rest."""
        whole = self._described_at[member.path]
        first = self._linked(_first_paragraph(member), path)
        more = member.docstring is not None and "\n\n" in member.docstring.value
        return f"{first}\n\nMore: {self._link(whole, '.'.join(whole.split('.')[-2:]), path)}." if more else first

    def _text(self, owner: Documented, path: str) -> str:
        """The docstring of an object, which a class shares with its ``__init__``."""
        parts = list(self._sections(owner, path))
        if isinstance(owner, griffe.Class) and isinstance(init := owner.all_members.get("__init__"), griffe.Function):
            parts += self._sections(init, path)
        return "\n\n".join(parts)

    def _sections(self, owner: Documented, path: str) -> Iterator[str]:
        for section in owner.docstring.parse("google") if owner.docstring is not None else ():
            match section:
                case griffe.DocstringSectionText():
                    yield self._linked(section.value, path)
                case griffe.DocstringSectionParameters() | griffe.DocstringSectionAttributes():
                    yield "**Args**" if isinstance(section, griffe.DocstringSectionParameters) else "**Attributes**"
                    yield "\n".join(self._item(f"`{each.name}`", each.description, path) for each in section.value)
                case griffe.DocstringSectionRaises():
                    yield "**Raises**"
                    yield "\n".join(
                        self._item(self._raised(each, path), each.description, path) for each in section.value
                    )
                case griffe.DocstringSectionReturns():
                    yield "**Returns**"
                    yield "\n\n".join(self._linked(each.description, path) for each in section.value)
                case griffe.DocstringSectionAdmonition():
                    yield f"**{section.title}**\n\n{self._linked(section.value.description, path)}"
                case _:
                    raise NotImplementedError(f"{owner.path} has a section {section.kind.value!r}")

    def _raised(self, each: griffe.DocstringRaise, path: str) -> str:
        names = re.findall(r"[\w.]+", str(each.annotation))
        return ", ".join(self._linked(f"`{name}`", path) for name in names)

    def _item(self, name: str, text: str, path: str) -> str:
        return f"- {name}: {indent(self._linked(text, path), '    ').lstrip()}"

    def _linked(self, text: str, path: str) -> str:
        """Text of a docstring as Markdown, with links to what it names."""
        # Markdown needs no "::" before an indented block.
        text = re.sub(r"(?<=\S)::(?=\n\n    )", ":", text)
        text = re.sub(r"(\n\n| )::(?=\n\n    )", "", text)
        code = "    "
        return "\n".join(
            line if line.startswith(code) else NAME.sub(lambda found: self._named(found[1], path), line)
            for line in text.split("\n")
        )

    def _named(self, name: str, path: str) -> str:
        target = self._target(name, path)
        return f"`{name}`" if target is None else self._link(target, name, path)

    def _target(self, name: str, path: str) -> str | None:
        modules = [*FIRST_LAST, *(["wsrpc.blocking"] if path.startswith("wsrpc.blocking") else [])]
        names = {name: path for module in modules for name, path in self._names[module].items()}
        first, dot, rest = name.partition(".")
        module = path.rpartition(".")[0]
        for whole in (f"{names.get(first)}{dot}{rest}", name, f"{path}.{name}", f"{module}.{name}"):
            if whole in self.page_of_anchor:
                return whole
        return None

    def _link(self, target: str, text: str, path: str) -> str:
        page, here = self.page_of_anchor[target], self.page_of[path]
        return f"[`{text}`]({'' if page == here else page.name}#{target})"


def _first_paragraph(found: Documented) -> str:
    return found.docstring.value.partition("\n\n")[0] if found.docstring else ""


def _signatures(found: Documented, path: str) -> str:
    """The signature of a name as a block of code, or several: a function may be overloaded."""
    if isinstance(found, griffe.Module):
        return ""
    lines = _lines(found, path.rpartition(".")[2])  # with the name of an alias
    return "\n".join(["```python", _double_quoted("\n".join(lines)), "```"])


def _undescribed(cls: griffe.Class) -> Iterator[Documented]:
    """The members of a Protocol or a Struct that have no docstring of their own."""
    if any(str(base).partition("[")[0].rpartition(".")[2] in ("Protocol", "Struct") for base in cls.bases):
        for name, each in cls.members.items():
            if isinstance(each, Documented) and (name == "__call__" or (name[0] != "_" and each.docstring is None)):
                yield each


def _lines(found: Documented, name: str) -> list[str]:
    lines: list[str] = []
    match found:
        case griffe.Class():
            init = found.all_members.get("__init__")
            if isinstance(init, griffe.Function) and found.name not in MADE_BY_THE_LIBRARY:
                lines += _forms(f"class {name}", init)
            else:
                lines.append(f"class {name}")
            if body := [indent(line, "    ") for each in _undescribed(found) for line in _lines(each, each.name)]:
                lines = [f"{lines[0]}:", *body]
        case griffe.Function():
            lines += [f"@{label}" for label in ("classmethod", "staticmethod") if label in found.labels]
            lines += _forms(f"{'async ' if 'async' in found.labels else ''}def {name}", found)
        case griffe.TypeAlias():
            lines.append(f"type {name} = {found.value}")
        case _:
            assert isinstance(found, griffe.Attribute)
            lines.append(_attribute(found, name))
    return lines


def _double_quoted(code: str) -> str:
    """Griffe writes texts in single quotes."""
    return code if '"' in code else code.replace("'", '"')


def _forms(start: str, function: griffe.Function) -> Iterator[str]:
    for form in function.overloads or [function]:
        end = f" -> {form.annotation}" if form.annotation and not start.startswith("class ") else ""
        yield _signature(start, list(_parameters(form)), end)


def _signature(start: str, parameters: list[str], end: str) -> str:
    line = f"{start}({', '.join(parameters)}){end}"
    if len(line) <= WIDTH or not parameters:
        return line
    return "\n".join([f"{start}(", *(f"    {each}," for each in parameters), f"){end}"])


def _attribute(found: griffe.Attribute, name: str) -> str:
    annotation = f": {found.annotation}" if found.annotation else ""
    # Without an annotation, what ``__init__`` assigns is an expression of its parameters.
    shown = found.value is not None and "property" not in found.labels
    shown = shown and (bool(annotation) or "class-attribute" in found.labels or "module-attribute" in found.labels)
    return f"{name}{annotation}{f' = {found.value}' if shown else ''}"


def _parameters(function: griffe.Function) -> Iterator[str]:
    kinds = griffe.ParameterKind
    before: griffe.ParameterKind | None = None
    for each in function.parameters:
        if each.name in ("self", "cls") and before is None and function.parent and function.parent.is_class:
            continue
        if before is kinds.positional_only and each.kind is not before:
            yield "/"
        if each.kind is kinds.keyword_only and before not in (kinds.keyword_only, kinds.var_positional):
            yield "*"
        stars = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(each.kind, "")
        annotation = f": {each.annotation}" if each.annotation else ""
        default = "" if stars or each.default is None else f" = {each.default}" if annotation else f"={each.default}"
        yield f"{stars}{each.name}{annotation}{default}"
        before = each.kind
    if before is kinds.positional_only:
        yield "/"

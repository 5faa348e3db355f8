"""Texts of Python source. Each statement is one line, and formatters leave a generated module alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterable


def subscript(head: str, *items: str) -> str:
    """Return ``head[items]``."""
    return f"{head}[{', '.join(items)}]"


def union(members: Iterable[str]) -> str:
    """Return ``A | B``."""
    return " | ".join(members)


def class_head(name: str, bases: Iterable[str] = ()) -> str:
    """Return ``class name(bases):``."""
    inside = ", ".join(bases)
    return f"class {name}({inside}):" if inside else f"class {name}:"


def _escaped(text: str) -> str:
    """Return ``text`` with an escape for each backslash and each character that is not printable."""
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode("ascii") for char in text
    )


def literal(value: str | float | bool | None) -> str:
    """Return a value as a literal."""
    if not isinstance(value, str):
        return repr(value).replace("e+", "e")
    quote = "'" if value.count('"') > value.count("'") else '"'
    inside = _escaped(value).replace(quote, "\\" + quote)
    return f"{quote}{inside}{quote}"


def comment(text: str, indent: str = "") -> list[str]:
    """Return the lines of a comment: one line for each of ``text``."""
    return [f"{indent}# {_escaped(line.strip())}".rstrip() for line in text.splitlines()]


def docstring(text: str, indent: str = "") -> list[str]:
    """Return the lines of a docstring; none for no text."""
    text = text.encode(errors="replace").decode()  # Python 3.13 compiles no docstring with half of a surrogate pair
    lines = inspect.cleandoc(text.replace("\r\n", "\n")).strip().split("\n")
    lines = [_escaped(line.rstrip()) for line in lines]
    if '"""' in text or lines[0].startswith('"') or lines[-1].endswith('"'):
        lines = [line.replace('"', '\\"') for line in lines]
    if lines == [""]:
        return []
    if len(lines) == 1:
        return [f'{indent}"""{lines[0]}"""']
    return [f'{indent}"""{lines[0]}', *(f"{indent}{line}".rstrip() for line in lines[1:]), f'{indent}"""']

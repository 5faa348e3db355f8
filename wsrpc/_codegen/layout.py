"""Layout of Python source: expressions and statements on lines of at most 88 characters, as ``ruff format`` has them.

An expression is built of a few kinds of parts, and then laid out as a whole: on one line if it fits, else broken at its
outermost brackets.
"""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 88


class Bracketed(NamedTuple):
    """Items in brackets after a head: ``list[int]``, ``field(default=1)``."""

    head: str
    brackets: str
    items: tuple[Expression, ...]


class Union(NamedTuple):
    """``A | B``."""

    members: tuple[Expression, ...]


class Keyword(NamedTuple):
    """``name=value`` in a call, or ``name: value`` in a signature with ``between=": "``."""

    name: str
    value: Expression
    between: str = "="
    default: str = ""


Expression = str | Bracketed | Union | Keyword


def subscript(head: str, *items: Expression) -> Bracketed:
    """Return ``head[items]``."""
    return Bracketed(head, "[]", items)


def call(head: str, *items: Expression) -> Bracketed:
    """Return ``head(items)``."""
    return Bracketed(head, "()", items)


def text_of(expression: Expression) -> str:
    """Return an expression on one line."""
    match expression:
        case str():
            return expression
        case Bracketed(head, brackets, items):
            return f"{head}{brackets[0]}{', '.join(map(text_of, items))}{brackets[1]}"
        case Union(members):
            return " | ".join(map(text_of, members))
        case Keyword(name, value, between, default):
            return f"{name}{between}{text_of(value)}{default}"


# ---------------------------------------------------------------- lines


def _width(text: str) -> int:
    """Return how wide a text is: ruff counts wide characters twice, and marks on other characters not at all."""
    if text.isascii():
        return len(text)
    marks = sum(unicodedata.category(char) in ("Mn", "Me") for char in text)
    return len(text) - marks + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def fits(text: str) -> bool:
    """Whether a line is not too long."""
    return _width(text) <= WIDTH


def _broken(expression: Expression, indent: str, before: str, after: str) -> list[str]:
    """Return the lines of an expression in brackets: on one line if it fits, else over several.

    ``before`` and ``after`` are the texts on the same lines. The first line begins with ``indent``.
    """
    flat = f"{indent}{before}{text_of(expression)}{after}"
    if fits(flat):
        return [flat]
    match expression:
        case str():
            return [flat]
        case Keyword(name, value, between, default):
            return _broken(value, indent, f"{before}{name}{between}", f"{default}{after}")
        case Union(members):
            lines = _broken(members[0], indent, before, "" if len(members) > 1 else after)
            for number, member in enumerate(members[1:], 2):
                lines += _broken(member, indent, "| ", after if number == len(members) else "")
            return lines
        case Bracketed(head, brackets, items):
            if not items:
                return [flat]
            inner = _items(items, f"{indent}    ")
            return [f"{indent}{before}{head}{brackets[0]}", *inner, f"{indent}{brackets[1]}{after}"]


def _items(items: Sequence[Expression], indent: str, comma_after_one: bool = False) -> list[str]:
    """Return the lines of the items in broken brackets: all on one line if they fit, else one item on each line."""
    if len(items) == 1:
        return _broken(items[0], indent, "", "," if comma_after_one else "")
    together = indent + ", ".join(map(text_of, items))
    if fits(together):
        return [together]
    return [line for item in items for line in _broken(item, indent, "", ",")]


def _in_parentheses(expression: Expression, indent: str, before: str, after: str) -> list[str]:
    return [f"{indent}{before}(", *_broken(expression, f"{indent}    ", "", ""), f"{indent}){after}"]


def _alone(expression: Expression, indent: str, before: str, after: str) -> list[str]:
    """Return the lines of an expression that stands in no brackets, so that it may need parentheses."""
    flat = f"{indent}{before}{text_of(expression)}{after}"
    if fits(flat):
        return [flat]
    match expression:
        case Union():
            return _in_parentheses(expression, indent, before, after)
        case str():
            inner = f"{indent}    {expression}"
            return _in_parentheses(expression, indent, before, after) if fits(inner) else [flat]
        case _:
            return _broken(expression, indent, before, after)


# ---------------------------------------------------------------- statements


def statement(expression: Expression, indent: str = "") -> list[str]:
    """Return the lines of an expression as a statement or a decorator."""
    return _broken(expression, indent, "", "")


def assignment(name: str, annotation: Expression | None, value: Expression | None, indent: str = "") -> list[str]:
    """Return the lines of ``name: annotation = value``."""
    if annotation is None:
        assert value is not None
        return _alone(value, indent, f"{name} = ", "")
    if value is None:
        return _alone(annotation, indent, f"{name}: ", "")
    flat = f"{indent}{name}: {text_of(annotation)} = {text_of(value)}"
    if fits(flat):
        return [flat]
    before = f"{name}: {text_of(annotation)} = "
    if isinstance(value, Bracketed) and fits(f"{indent}{before}{value.head}{value.brackets[0]}"):
        return _broken(value, indent, before, "")
    lines = _in_parentheses(value, indent, before, "")
    negative = isinstance(value, str) and value.startswith("-")
    if isinstance(annotation, str):
        parentheses = isinstance(value, Union) or all(map(fits, lines))
    else:
        parentheses = fits(lines[0]) and not negative
    if parentheses:
        return lines
    if isinstance(annotation, str):
        return _broken(value, indent, before, "")
    *lines, last = _alone(annotation, indent, f"{name}: ", f" = {text_of(value)}")
    if fits(last):
        return [*lines, last]
    return [*lines, *_broken(value, indent, f"{last[len(indent)]} = ", "")]  # after the closing bracket


def class_head(name: str, bases: Sequence[Expression]) -> list[str]:
    """Return the lines of ``class name(bases):``."""
    return _broken(call(f"class {name}", *bases) if bases else f"class {name}", "", "", ":")


def function_head(
    head: str, parameters: Sequence[Expression], result: Expression, end: str, indent: str = ""
) -> list[str]:
    """Return the lines of ``head(parameters) -> result`` and ``end``."""
    flat = f"{indent}{head}({', '.join(map(text_of, parameters))}) -> {text_of(result)}{end}"
    if fits(flat):
        return [flat]
    inner = _items(parameters, f"{indent}    ", comma_after_one=True)
    return [f"{indent}{head}(", *inner, *_alone(result, indent, ") -> ", end)]


def import_from(module: str, names: Sequence[str]) -> list[str]:
    """Return the lines of ``from module import names``."""
    flat = f"from {module} import {', '.join(names)}"
    return [flat] if fits(flat) else [f"from {module} import (", *(f"    {name}," for name in names), ")"]


# ---------------------------------------------------------------- texts


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

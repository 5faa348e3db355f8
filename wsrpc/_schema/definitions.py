"""Definitions to which JSON Schemas refer: which of them are in use, their names, and the references to them.

Before they are named, their keys are ``form:library:name``: the form of the schema and the library that made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

__all__ = ["MEMBER_NAMES", "PREFIX", "Form", "Schema", "named", "reachable", "renamed"]

Schema = dict[str, Any]
Form = Literal["sent", "given"]
PREFIX = "#/$defs/"
MEMBER_NAMES = "x-enum-varnames"
"""Keyword of an enumeration: the names of its members, in the order of the values. Other generators read it, too."""


def _refs(schema: Any) -> Iterator[str]:
    if schema.__class__ is list:
        for item in schema:
            yield from _refs(item)
    elif schema.__class__ is dict:
        for key, value in schema.items():
            if key == "$ref" and value.__class__ is str:  # else it is a property of that name
                yield value.removeprefix(PREFIX)
            else:
                yield from _refs(value)


def reachable(roots: list[Schema], definitions: dict[str, Schema]) -> list[str]:
    """Return the keys of the definitions to which ``roots`` refer, directly or not."""
    found: dict[str, None] = {}
    todo = [ref for root in roots for ref in _refs(root)]
    while todo:
        key = todo.pop()
        if key not in found:
            found[key] = None
            todo.extend(_refs(definitions[key]))
    return sorted(found)


def named(definitions: dict[str, Schema]) -> dict[str, str]:
    """Return the final name of each definition: one name for both forms if they are equal."""

    def of(form: str) -> set[str]:
        return {name for known, _, name in (key.partition(":") for key in definitions) if known == form}

    both = same = of("sent") & of("given")
    while True:  # a definition that refers to a differing one differs, too
        names = {f"{form}:{name}": name for name in same for form in ("sent", "given")}
        alike = {
            name
            for name in same
            if renamed(definitions[f"sent:{name}"], names) == renamed(definitions[f"given:{name}"], names)
        }
        if alike == same:
            break
        same = alike
    chosen: dict[str, str] = {}
    for key in sorted(definitions):  # "given" sorts before "sent", so it keeps the plain name
        form, _, name = key.partition(":")
        if form == "sent" and name in same:
            chosen[key] = chosen[f"given:{name}"]
            continue
        wanted = name.partition(":")[2] + ("Input" if form == "sent" and name in both else "")
        free, number = wanted, 2
        while free in chosen.values():
            free, number = f"{wanted}_{number}", number + 1
        chosen[key] = free
    return chosen


def renamed(schema: Any, names: dict[str, str]) -> Any:
    """Return ``schema`` with its references renamed."""

    def new(ref: str) -> str:
        key = ref.removeprefix(PREFIX)
        return PREFIX + names.get(key, key)

    if schema.__class__ is list:
        return [renamed(item, names) for item in schema]
    if schema.__class__ is not dict:
        return schema
    made: Schema = {}
    for key, value in schema.items():
        if key == "$ref" and value.__class__ is str:
            made[key] = new(value)
        elif key == "discriminator" and value.__class__ is dict and value.get("mapping").__class__ is dict:
            mapping = {tag: new(ref) if ref.__class__ is str else ref for tag, ref in value["mapping"].items()}
            made[key] = {**value, "mapping": mapping}
        else:
            made[key] = renamed(value, names)
    return made

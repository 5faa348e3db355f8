"""Definitions that JSON Schemas refer to: which are in use, what they are called, and what refers to them.

Until they are named, their keys are ``form:library:name``: the form in which msgspec or pydantic made them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

__all__ = ["PREFIX", "Form", "Schema", "named", "reachable", "renamed"]

Schema = dict[str, Any]
Form = Literal["sent", "given"]
PREFIX = "#/$defs/"


def _refs(schema: Any) -> Iterator[str]:
    if schema.__class__ is list:
        for item in schema:
            yield from _refs(item)
    elif schema.__class__ is dict:
        for key, value in schema.items():
            if key == "$ref":
                yield value.removeprefix(PREFIX)
            else:
                yield from _refs(value)


def reachable(roots: list[Schema], definitions: dict[str, Schema]) -> list[str]:
    found: dict[str, None] = {}
    todo = [ref for root in roots for ref in _refs(root)]
    while todo:
        key = todo.pop()
        if key not in found:
            found[key] = None
            todo.extend(_refs(definitions[key]))
    return sorted(found)


def named(definitions: dict[str, Schema]) -> dict[str, str]:
    """What each definition is called in the end: one name for both forms where they are the same."""

    def of(form: str) -> set[str]:
        return {name for known, _, name in (key.partition(":") for key in definitions) if known == form}

    both = same = of("sent") & of("given")
    while True:  # what refers to something that differs, differs
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
    for key in sorted(definitions):  # "given" comes before "sent": what comes back keeps its name
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
    def new(ref: str) -> str:
        key = ref.removeprefix(PREFIX)
        return PREFIX + names.get(key, key)

    if schema.__class__ is list:
        return [renamed(item, names) for item in schema]
    if schema.__class__ is not dict:
        return schema
    made: Schema = {}
    for key, value in schema.items():
        if key == "$ref":
            made[key] = new(value)
        elif key == "discriminator" and value.__class__ is dict and "mapping" in value:
            made[key] = {**value, "mapping": {tag: new(ref) for tag, ref in value["mapping"].items()}}
        else:
            made[key] = renamed(value, names)
    return made

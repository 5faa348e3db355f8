"""Definitions to which JSON Schemas refer: which definitions are used, their names, and the references to them.

Until `named` has chosen its name, a definition has the key ``form:library:name``, with the form of the schema and the
library that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal

Schema = dict[str, Any]
Form = Literal["sent", "given"]
PREFIX = "#/$defs/"
UNIT = "unit"
"""Keyword for the unit of a number, as in RFC 9880 (Semantic Definition Format)."""
FLAGS = "x-flags"
"""Keyword for the values of the flags that a sum consists of, by their names."""
TIMEZONE = "x-timezone"
"""Keyword for a time: true if it has to have a time zone, false if it must have none."""
MEMBER_NAMES = "x-enum-varnames"
"""Keyword for the names of an enumeration's members, in the order of the values. Other generators know it, too."""


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield each object in JSON, outer ones first."""
    if value.__class__ is dict:
        yield value
        value = list(value.values())
    if value.__class__ in (list, tuple):
        for item in value:
            yield from objects(item)


def rebuilt(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return JSON in which ``change`` has replaced each object, inner objects first."""
    if value.__class__ in (list, tuple):
        return [rebuilt(item, change) for item in value]
    if value.__class__ is dict:
        return change({key: rebuilt(item, change) for key, item in value.items()})
    return value


def refs_in(schema: Any) -> list[str]:
    """Return the names of the definitions to which a schema refers itself."""
    found = (each.get("$ref") for each in objects(schema))
    # A "$ref" that is not text is a property of that name.
    return [ref.removeprefix(PREFIX) for ref in found if isinstance(ref, str)]


def reachable(roots: list[Schema], definitions: dict[str, Schema]) -> list[str]:
    """Return the keys of the definitions to which ``roots`` refer, directly or not.

    A value, such as a default, may look like a reference to a definition that does not exist.
    """
    found: dict[str, None] = {}
    todo = [ref for root in roots for ref in refs_in(root)]
    while todo:
        key = todo.pop()
        if key in definitions and key not in found:
            found[key] = None
            todo.extend(refs_in(definitions[key]))
    return sorted(found)


def named(definitions: dict[str, Schema]) -> dict[str, str]:
    """Return the final name of each definition: one name for both forms if they are equal."""

    def of(form: str) -> set[str]:
        return {name for known, _, name in (key.partition(":") for key in definitions) if known == form}

    both = same = of("sent") & of("given")
    while True:  # if two definitions differ, all definitions that refer to them differ, too
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
        chosen[key] = unused(wanted, chosen.values())
    return chosen


def unused(wanted: str, used: Collection[str]) -> str:
    """Return ``wanted``, with a number appended if the name is used already."""
    name, number = wanted, 2
    while name in used:
        name, number = f"{wanted}_{number}", number + 1
    return name


def renamed(schema: Any, names: Mapping[str, str], prefix: str = PREFIX) -> Any:
    """Return ``schema`` with its references renamed. They then begin with ``prefix``."""

    def new(ref: Any) -> Any:
        if not isinstance(ref, str):
            return ref
        key = ref.removeprefix(PREFIX)
        return prefix + names.get(key, key)

    def change(each: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in each:
            each["$ref"] = new(each["$ref"])
        discriminator: Any = each.get("discriminator")
        mapping: Any = discriminator.get("mapping") if discriminator.__class__ is dict else None
        if mapping.__class__ is dict:
            discriminator["mapping"] = {tag: new(ref) for tag, ref in mapping.items()}
        return each

    return rebuilt(schema, change)


def stores_no_defaults(cls: Any) -> bool:
    """Return whether objects of a class may lack fields with simple defaults when they are encoded.

    When msgspec converts to a plain dataclass, it does not store such defaults in the object. So it does not encode
    them later.
    """
    is_plain = hasattr(cls, "__dataclass_fields__") and not hasattr(cls, "__pydantic_fields__")
    return is_plain and cls.__dictoffset__ != 0

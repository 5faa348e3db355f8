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


_DATA = frozenset({"const", "default", "enum", "examples"})
"""Keywords of a schema whose values are data, which may look like schemas."""
_MAPS = frozenset(
    {"$defs", "channels", "mapping", "messages", "operations", "paths", "patternProperties", "properties", "schemas"}
)
"""Keywords of schemas and documents for objects whose keys are names."""


def objects(value: Any, key: str = "") -> Iterator[dict[str, Any]]:
    """Yield each object with keywords in a schema or document, outer ones first: neither data nor maps of names."""
    if value.__class__ in (list, tuple):
        for item in value:
            yield from objects(item, key)
    elif value.__class__ is dict and key not in _DATA:
        is_map = key in _MAPS
        if not is_map:
            yield value
        for name, item in value.items():
            yield from objects(item, "" if is_map else name)


def rebuilt(value: Any, change: Callable[[dict[str, Any], str], dict[str, Any]], key: str = "") -> Any:
    """Return a schema or document in which ``change`` has replaced each object with keywords, inner objects first.

    Args:
        change: gets an object, and the keyword under which it stands, or its list. Empty for an object under a name.
    """
    if value.__class__ in (list, tuple):
        return [rebuilt(item, change, key) for item in value]
    if value.__class__ is not dict or key in _DATA:
        return value
    if key in _MAPS:
        return {name: rebuilt(item, change) for name, item in value.items()}
    return change({name: rebuilt(item, change, name) for name, item in value.items()}, key)


def refs_in(schema: Any) -> list[str]:
    """Return the names of the definitions to which a schema refers itself."""
    return [each["$ref"].removeprefix(PREFIX) for each in objects(schema) if "$ref" in each]


def reachable(roots: list[Schema], definitions: dict[str, Schema]) -> list[str]:
    """Return the keys of the definitions to which ``roots`` refer, directly or not.

    A schema of the user may refer to something else.
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

    def new(ref: str) -> str:
        key = ref.removeprefix(PREFIX)
        return prefix + names.get(key, key)

    def change(each: dict[str, Any], key: str) -> dict[str, Any]:
        if "$ref" in each:
            each["$ref"] = new(each["$ref"])
        if key == "discriminator" and "mapping" in each:
            each["mapping"] = {tag: new(ref) for tag, ref in each["mapping"].items()}
        return each

    return rebuilt(schema, change)


def stores_no_defaults(cls: Any) -> bool:
    """Return whether objects of a class may lack fields with simple defaults when they are encoded.

    When msgspec converts to a plain dataclass, it does not store such defaults in the object. So it does not encode
    them later.
    """
    is_plain = hasattr(cls, "__dataclass_fields__") and not hasattr(cls, "__pydantic_fields__")
    return is_plain and cls.__dictoffset__ != 0

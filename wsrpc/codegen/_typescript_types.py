"""TypeScript types from JSON Schemas, with the names and comments that TypeScript allows."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from .._schema.definitions import PREFIX, Schema
from ._checking import prose_of
from ._name_table import NameTable

BASE64 = "Base64"
"""The name of the type of bytes in JSON."""

_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)

_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """arguments await break case catch class const continue debugger default delete do else enum eval export
        extends false finally for function if implements import in instanceof interface let new null package private
        protected public return static super switch this throw true try typeof var void while with yield""",
    )
)
"""Words that cannot be the name of a parameter."""
_OWN_TYPES = frozenset(
    re.findall(
        r"\w+",
        """any asserts bigint boolean infer keyof never number object readonly string symbol undefined unique
        unknown""",
    )
)
"""TypeScript's own types, and words with which a type may begin in TypeScript: ``x: readonly[]``."""


class Names(NamedTuple):
    """The names of a document's types in TypeScript."""

    definitions: Mapping[str, str]
    bytes: str = BASE64


def type_names(definitions: Iterable[str], reserved: Iterable[str]) -> dict[str, str]:
    """Return the name of each definition in TypeScript. The ``reserved`` names mean something else."""
    table = NameTable({*_RESERVED, *_OWN_TYPES, *reserved})
    return {name: table.unique(_identifier(name)) for name in definitions}


def _identifier(wanted: str) -> str:
    if _is_identifier(wanted):
        return wanted
    name = re.sub(r"[^\w$]+", "_", wanted, flags=re.ASCII)
    return name if _is_identifier(name) else f"_{name}"


def parameter_names(wanted: Iterable[str]) -> list[str]:
    """Return names for the parameters of one function, as close to the ``wanted`` names as TypeScript allows."""
    table = NameTable(_RESERVED)
    return [table.unique(_identifier(name)) for name in wanted]


def property_name(name: str) -> str:
    """Return ``name`` as the name of a property, quoted if necessary."""
    return name if _is_identifier(name) else json.dumps(name)


def _is_identifier(name: str) -> bool:
    return bool(_IDENTIFIER.fullmatch(name)) or name.isidentifier()


def comment(text: str, indent: str = "") -> str:
    """Return a doc comment that ends with a line break. An empty text if ``text`` is empty."""
    lines = [line.rstrip() for line in inspect.cleandoc(text).strip().replace("*/", "*\\/").splitlines()]
    if len(lines) > 1:
        return "".join(f"{indent}{line}\n" for line in ["/**", *(f" * {line}".rstrip() for line in lines), " */"])
    return f"{indent}/** {lines[0]} */\n" if lines else ""


# ---------------------------------------------------------------- types


def endless_types(definitions: Mapping[str, Any]) -> set[str]:
    """Return the definitions that TypeScript refuses as types, because they are endless.

    An endless definition refers to itself, or to another endless definition, outside arrays and objects.
    """
    sorter = TopologicalSorter({name: set(_direct(schema)) for name, schema in definitions.items()})
    with suppress(CycleError):
        sorter.prepare()
    found = set(definitions)
    while ready := sorter.get_ready():
        found.difference_update(ready)
        sorter.done(*ready)
    return found


def _direct(schema: Any) -> Iterator[str]:
    """Yield the definitions to which a type refers outside arrays and objects."""
    if schema.__class__ is not dict:
        return
    if "$ref" in schema:
        yield schema["$ref"].removeprefix(PREFIX)
    elif "const" not in schema and "enum" not in schema:
        for key in ("anyOf", "oneOf", "allOf"):
            for each in schema.get(key, ()):
                yield from _direct(each)


def type_of(schema: Any, names: Names, indent: str = "") -> str:
    """Return the type of the values that a schema describes, without its constraints (bounds, patterns)."""
    if schema is False:
        return "never"
    if schema.__class__ is not dict:
        return "unknown"
    if "$ref" in schema:
        return names.definitions[schema["$ref"].removeprefix(PREFIX)]
    if "const" in schema:
        return _literal(schema["const"])
    if "enum" in schema:
        return _union(_literal(value) for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _union(type_of(each, names, indent) for each in schema[key])
    if "allOf" in schema:
        parts = dict.fromkeys(in_parentheses(type_of(each, names, indent)) for each in schema["allOf"])
        return " & ".join(parts)
    kinds: Any = schema.get("type", "object" if "properties" in schema else "")
    if kinds.__class__ is list:
        return _union(type_of({**schema, "type": kind}, names, indent) for kind in kinds)
    match kinds:
        case "string":
            return names.bytes if schema.get("contentEncoding") == "base64" else "string"
        case "integer" | "number":
            return "number"
        case "boolean" | "null":
            return str(kinds)
        case "array":
            return _array(schema, names, indent)
        case "object":
            return _object(schema, names, indent)
        case _:
            return "unknown"


def has_properties(schema: Any) -> bool:
    """Return whether the type of a schema is one object with properties, which can be an interface."""
    if schema.__class__ is not dict or schema.keys() & {"$ref", "const", "enum", "anyOf", "oneOf", "allOf"}:
        return False
    return bool(schema.get("properties")) and schema.get("type", "object") == "object"


def _literal(value: Any) -> str:
    return json.dumps(value)


def _union(members: Iterable[str]) -> str:
    distinct = dict.fromkeys(members)
    if "unknown" in distinct:
        return "unknown"
    ordered = [member for member in distinct if member not in ("null", "never")]
    return " | ".join([*ordered, *(["null"] if "null" in distinct else [])]) or "never"


def in_parentheses(member: str) -> str:
    """Return a type for use inside another type, in parentheses if it is a union or an intersection."""
    return f"({member})" if " | " in member or " & " in member else member


def _array(schema: Schema, names: Names, indent: str) -> str:
    first = schema.get("prefixItems")
    if first is None and schema.get("maxItems") == 0:
        return "[]"
    items = schema.get("items", {})
    if first is None:
        return f"{in_parentheses(type_of(items, names, indent))}[]"
    least = schema.get("minItems", 0)
    members = [type_of(each, names, indent) for each in first]
    members = [each if number < least else f"{in_parentheses(each)}?" for number, each in enumerate(members)]
    if items is True or (items.__class__ is dict and items):
        members.append(f"...{in_parentheses(type_of(items, names, indent))}[]")
    return f"[{', '.join(members)}]"


def _object(schema: Schema, names: Names, indent: str) -> str:
    properties: Schema = schema.get("properties", {})
    further = schema.get("additionalProperties", not properties)
    if not properties:
        # Not Record, because a type cannot refer to itself inside Record.
        return f"{{ [key: string]: {type_of(further, names, indent)} }}"
    inner = indent + "  "
    text = "{\n"
    for name, each in properties.items():
        mark = "" if name in schema.get("required", ()) else "?"
        text += comment(_about(each), inner)
        text += f"{inner}{property_name(name)}{mark}: {type_of(each, names, inner)}\n"
    if further:
        text += f"{inner}[key: string]: unknown\n"
    return f"{text}{indent}}}"


def _about(schema: Any) -> str:
    if schema.__class__ is not dict:
        return ""
    text = prose_of(schema)
    return f"{text}\n@deprecated".strip() if schema.get("deprecated") is True else text

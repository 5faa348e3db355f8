"""What AsyncAPI and OpenAPI documents have in common: `Info`, and the schemas of a description as components.

The names of components have only ASCII letters, digits, ``.``, ``_`` and ``-``. Schemas are in ``components/schemas``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import msgspec

from .definitions import Schema, renamed, unused
from .description import Description, EventSchema

SCHEMAS = "#/components/schemas/"
ERROR_NAME = "WsrpcError"
STRING: Schema = {"type": "string"}


class Info(NamedTuple):
    """Title, version and URL of an API."""

    title: str
    version: str
    url: str | None
    """Where the API is served. None if that is not known."""


def object_of(required: str, **properties: Any) -> Schema:
    """Return the schema of an object. ``required`` has the names of the properties that it must have."""
    return {"type": "object", "properties": properties, "required": required.split()}


ERROR: Schema = {
    "description": "`code` is for programs. An error can have further properties.",
    **object_of("message", message=STRING, code={"type": ["string", "integer"]}, data={}),
}
"""Schema of an error."""


def schema_ref(name: str) -> Schema:
    return {"$ref": SCHEMAS + name}


def legal_name(wanted: str, used: Collection[str] = ()) -> str:
    """Return ``wanted`` as the name of a component, with a number appended if the name is used already."""
    return unused(re.sub("[^A-Za-z0-9._-]", "_", wanted) or "_", used)


def with_components(description: Description, reserved: Iterable[str]) -> Description:
    """Return a description whose definitions have names of components, and whose references lead to `SCHEMAS`.

    Args:
        reserved: names that the definitions must not have.
    """
    used = set(reserved)
    names: dict[str, str] = {}
    for name in description.definitions:
        names[name] = legal_name(name, used)
        used.add(names[name])
    built = renamed(msgspec.to_builtins(description), names, SCHEMAS)
    # Generators name classes by titles, which are those of Python: two definitions can have the same title.
    titled = {names[name]: {**schema, "title": names[name]} for name, schema in built["$defs"].items()}
    built["$defs"] = titled
    return msgspec.convert(built, Description)


def arguments_of(event: EventSchema, *first: Schema) -> Schema:
    """Return the schema of an array with the arguments of an event, after items with the schemas ``first``."""
    items = [*first]
    rest: Schema | None = None
    for parameter in event.parameters:
        schema = {"title": parameter.name, **parameter.schema}
        if parameter.rest:
            rest = schema
        else:
            items.append(schema)
    least = len(first) + sum(not (parameter.optional or parameter.rest) for parameter in event.parameters)
    ends = {"maxItems": len(items)} if rest is None else {"items": rest}
    return {"type": "array", **({"prefixItems": items} if items else {}), "minItems": least, **ends}


def about(event: EventSchema) -> dict[str, str]:
    """Return the summary of an event: the first line of its docstring. If there is more, also the description."""
    summary = {"summary": event.doc.partition("\n")[0]} if event.doc else {}
    more = [event.doc] * ("\n" in event.doc) + [f"Deprecated: {event.deprecated}"] * bool(event.deprecated)
    return {**summary, "description": "\n\n".join(more)} if more else summary


def deprecation(event: EventSchema) -> dict[str, bool]:
    """Return the keyword of a deprecated event. AsyncAPI has it for schemas, OpenAPI for operations."""
    return {"deprecated": True} if event.deprecated else {}

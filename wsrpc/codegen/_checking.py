"""Check of a description, which may come from elsewhere, before source text is generated from it.

After the check, the generators rely on this: each keyword of a schema that they read has the shape that JSON Schema
defines, and each reference leads to a definition.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct, field

from .._base.names import RESERVED_EVENTS, check_channel, check_event
from .._schema.definitions import MEMBER_NAMES, PREFIX, UNIT, objects, reachable
from .._schema.description import Description, EventSchema
from .._values.older_names import OLDER_NAMES
from ..errors import short

MOST_TYPES = 7
"""Number of the types that JSON Schema has."""


class InvalidDescription(ValueError):
    """A description cannot be used, because it has a wrong shape or is too large."""


@contextmanager
def bounded_depth() -> Generator[None]:
    """Refuse a description that is nested more deeply than Python or msgspec can follow.

    Raises:
        InvalidDescription: the block has exceeded a limit of the interpreter.
    """
    try:
        yield
    except (RecursionError, MemoryError, SyntaxError) as exc:  # the last two are from Python's parser
        raise InvalidDescription("its types are nested too deeply, or name each other too often") from exc


class _Discriminator(Struct):
    property: str = field(name="propertyName", default="")
    mapping: dict[str | int, str] = {}


class _Schema(Struct):
    """The keywords that are read, with the shapes that JSON Schema gives them."""

    ref: str = field(name="$ref", default="")
    title: str = ""
    description: str = ""
    format: str = ""
    encoding: str = field(name="contentEncoding", default="")
    type: str | list[str] = ""
    enum: list[Any] = []
    member_names: list[str] = field(name=MEMBER_NAMES, default=[])
    older_names: list[str] = field(name=OLDER_NAMES, default=[])
    required: list[str] = []
    properties: dict[str, _Schema | bool] = {}
    further: _Schema | bool = field(name="additionalProperties", default=True)
    items: _Schema | bool = True
    first: list[_Schema | bool] = field(name="prefixItems", default=[])
    any_of: list[_Schema | bool] | None = field(name="anyOf", default=None)
    one_of: list[_Schema | bool] | None = field(name="oneOf", default=None)
    all_of: list[_Schema | bool] | None = field(name="allOf", default=None)
    discriminator: _Discriminator | None = None
    least_items: int = field(name="minItems", default=0)
    most_items: int = field(name="maxItems", default=0)

    def __post_init__(self) -> None:
        # Each type is written with the items of the schema. If a type could be repeated, the text would double on each
        # level.
        if self.type.__class__ is not str and not 0 < len(self.type) == len(set(self.type)) <= MOST_TYPES:
            raise ValueError("a list of types has different ones")
        if [] in (self.any_of, self.one_of, self.all_of):
            raise ValueError("a union has members")


def _check_schema(schema: Any, definitions: Iterable[str], where: str) -> None:
    """Check one schema.

    Args:
        definitions: the names to which ``{"$ref": ...}`` may refer. A set or a dict is fast.
        where: the place of the schema, for the error.

    Raises:
        InvalidDescription: the schema has a wrong shape. The text says where, and what was expected.
    """
    try:
        msgspec.convert(schema, _Schema | bool)
    except msgspec.ValidationError as exc:
        raise InvalidDescription(f"{where}: in its schema: {exc}") from exc
    for each in objects(schema):
        ref = each.get("$ref")
        if ref is not None and (
            not isinstance(ref, str) or not ref.startswith(PREFIX) or ref.removeprefix(PREFIX) not in definitions
        ):
            raise InvalidDescription(f"{where}: {short(ref)} refers to no definition of the description")


def schemas_of_event(event: EventSchema) -> list[Any]:
    """Return the schemas of one event: of its parameters, its items in both directions, its result, and its channel."""
    found = [parameter.schema for parameter in event.parameters]
    found += [each for each in (event.sends, event.items, event.result) if each is not None]
    return [*found, *(schema for inner in (*event.events, *event.emits) for schema in schemas_of_event(inner))]


def prose_of(schema: Mapping[str, Any]) -> str:
    """Return the description of a type, and the unit that it declares."""
    units = [each.get(UNIT) for each in (schema, *(schema.get("anyOf") or ())) if each.__class__ is dict]
    unit = next((f"Unit: {each}" for each in units if each.__class__ is str), "")
    return "\n".join(filter(None, [schema.get("description", ""), unit]))


def read_tolerantly(description: Description) -> Description:
    """Check a description, and return one whose classes that are only received may lack some fields.

    Those have a default, or may be null. So generated clients also work with a later version without such a field.

    Raises:
        InvalidDescription: as `check_description`.
    """
    check_description(description)
    definitions = description.definitions
    sides: tuple[list[Any], list[Any]] = [], []  # what is sent, and what is received
    todo = [*((each, 0) for each in description.events), *((each, 1) for each in description.emits)]
    for event, side in todo:
        sides[side].extend([*(parameter.schema for parameter in event.parameters), event.sends])
        sides[1 - side].extend([event.items, event.result])
        todo += [*((each, side) for each in event.events), *((each, 1 - side) for each in event.emits)]
    sent, received = (reachable(side, definitions) for side in sides)
    only = {*received} - {*sent}
    made = {name: _tolerant(schema) if name in only else schema for name, schema in definitions.items()}
    return msgspec.structs.replace(description, definitions=made)


def _tolerant(schema: dict[str, Any]) -> dict[str, Any]:
    changed, items = {**schema}, list(schema.get("prefixItems", ()))
    if optional := {name: found for name, each in schema.get("properties", {}).items() if (found := _optional(each))}:
        required = [name for name in schema.get("required", ()) if name not in optional]
        changed |= {"properties": {**schema["properties"], **optional}, "required": required}
    if items and "maxItems" not in schema:
        changed["items"] = True
    for number in reversed(range(len(items))):
        if (found := _optional(items[number])) is None:
            break
        items[number] = found
        changed |= {"prefixItems": items, "minItems": min(number, schema.get("minItems", 0))}
    return changed


def _optional(schema: Any) -> dict[str, Any] | None:
    """Return the schema of a field with its default, if the field has one or may be null. A tag is always there."""
    if schema.__class__ is not dict or "const" in schema or len(schema.get("enum", ())) == 1:
        return None
    members = [schema, *(each for each in schema.get("anyOf", ()) if each.__class__ is dict)]
    is_nullable = any("null" in each.get("type", "") or None in each.get("enum", ()) for each in members)
    return {"default": None, **schema} if is_nullable or "default" in schema else None


def by_channel(events: Iterable[EventSchema]) -> dict[str | None, list[EventSchema]]:
    """Return the events of each channel."""
    channels: dict[str | None, list[EventSchema]] = {}
    for event in events:
        channels.setdefault(event.channel, []).append(event)
    return channels


@bounded_depth()
def check_description(description: Description) -> None:
    """Check a description.

    Raises:
        InvalidDescription: the description has a wrong shape, or contains an event that cannot be called. The text says
            where.
    """
    definitions = description.definitions
    for name, schema in definitions.items():
        _check_schema(schema, definitions, f"definition {short(name)}")
    for events in (description.events, description.emits):
        seen: set[tuple[str | None, str]] = set()
        for event in events:
            where = f"event {short(event.event)}"
            if (event.channel, event.event) in seen:
                raise InvalidDescription(f"{where} is there twice on one channel")
            seen.add((event.channel, event.event))
            _check_event(event, definitions, where)


def _check_event(event: EventSchema, definitions: Iterable[str], where: str, *, inner: bool = False) -> None:
    try:
        check_event(event.event)
        if event.channel is not None:
            check_channel(event.channel)
    except (TypeError, ValueError) as exc:
        raise InvalidDescription(f"{where}: {exc}") from exc
    for each in (*event.events, *event.emits):
        if inner:
            raise InvalidDescription(f"{where}: a conversation within a conversation is not described")
        _check_event(each, definitions, f"{where}: event {short(each.event)}", inner=True)
    if event.channel is None and event.event in RESERVED_EVENTS and not inner:
        raise InvalidDescription(f"{where} is a lifecycle event on the main channel, and never sent")
    for schema in schemas_of_event(event):
        _check_schema(schema, definitions, where)
    if any(parameter.rest for parameter in event.parameters[:-1]):
        raise InvalidDescription(f"{where} has a parameter after the one that takes all further arguments")

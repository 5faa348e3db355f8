"""JSON Schemas of pydantic models, made by pydantic itself."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from msgspec import inspect as mi

from .._values.convert import nodes_of, type_name
from .._values.pydantic_types import core_schema_of, is_pydantic
from .definitions import FLAGS, MEMBER_NAMES, TIMEZONE, Form, Schema, renamed

MODES: dict[Form, Literal["validation", "serialization"]] = {"sent": "validation", "given": "serialization"}


class Models(NamedTuple):
    """The schema of each model, by form, and the definitions to which the schemas refer."""

    schemas: dict[tuple[type[Any], Form], Schema]
    definitions: dict[str, Schema]


def models_in(tp: Any) -> list[type[Any]]:
    """Return the models in a type, without those that only pydantic sees."""
    return [
        node.cls for node in nodes_of(mi.type_info(tp)) if isinstance(node, mi.CustomType) and is_pydantic(node.cls)
    ]


def describe_models(types: Iterable[Any]) -> Models:
    """Describe the models in ``types``, in both forms."""
    found = {cls for tp in types for cls in models_in(tp)}
    if not found:
        return Models({}, {})
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def field_is_required(self, field: Any, total: bool) -> bool:
            # A model is encoded with all its fields, including fields with defaults.
            if self.mode == "serialization" and field["type"] != "typed-dict-field":
                return not (field.get("serialization_exclude") or field.get("serialization_exclude_if"))
            return super().field_is_required(field, total)

        def datetime_schema(self, schema: Any) -> dict[str, Any]:
            zone = schema.get("tz_constraint")
            return {**super().datetime_schema(schema), **({TIMEZONE: zone == "aware"} if isinstance(zone, str) else {})}

        def enum_schema(self, schema: Any) -> dict[str, Any]:
            described = super().enum_schema(schema)
            if issubclass(schema["cls"], enum.Flag):
                # pydantic's schema has only the single flags, but pydantic also accepts and returns their sums.
                described.pop("enum", None)
                described.pop("const", None)
                described |= {"type": "integer", FLAGS: {member.name: member.value for member in schema["cls"]}}
            elif "enum" in described:
                described[MEMBER_NAMES] = [member.name for member in schema["members"]]
            return described

    ordered = sorted(found, key=type_name)
    generator: Any = Generator()
    made, definitions = generator.generate_definitions(
        [(cls, mode, core_schema_of(cls)) for cls in ordered for mode in MODES.values()]
    )
    # If a model has two forms, pydantic distinguishes them by endings of their names.
    keys = {name: _key(name) for name in definitions}
    schemas: dict[tuple[type[Any], Form], Schema]
    schemas = {(cls, form): renamed(made[cls, mode], keys) for cls in ordered for form, mode in MODES.items()}
    return Models(schemas, {keys[name]: renamed(schema, keys) for name, schema in definitions.items()})


def _key(name: str) -> str:
    for form, ending in (("sent", "-Input"), ("given", "-Output")):
        if name.endswith(ending):
            return f"{form}:pydantic:{name.removesuffix(ending)}"
    return f"model:pydantic:{name}"

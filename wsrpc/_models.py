"""pydantic models as JSON Schema, which pydantic itself makes. It is imported only where there are models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from msgspec import inspect as mi

from ._convert import BYTES_OPTIONS, is_pydantic, nodes_of, type_name
from ._definitions import Form, Schema, renamed

__all__ = ["MODES", "Models", "describe_models", "models_in"]

MODES: dict[Form, Literal["validation", "serialization"]] = {"sent": "validation", "given": "serialization"}


class Models(NamedTuple):
    """Where the schema of each model is, by form, and the definitions that this takes."""

    refs: dict[tuple[type[Any], Form], str]
    definitions: dict[str, Schema]


def models_in(tp: Any) -> list[type[Any]]:
    """The models that a type holds, as far as msgspec looks into it."""
    classes = [node.cls for node in nodes_of(mi.type_info(tp)) if isinstance(node, mi.CustomType)]
    return [cls for cls in classes if is_pydantic(cls)]


def describe_models(types: Iterable[Any]) -> Models:
    """The models that types hold, in both forms."""
    found = {cls for tp in types for cls in models_in(tp)}
    if not found:
        return Models({}, {})
    from pydantic.json_schema import GenerateJsonSchema, models_json_schema

    class Generator(GenerateJsonSchema):
        def field_is_required(self, field: Any, total: bool) -> bool:
            # A model is sent with all its fields, so what has a default is there, too.
            if self.mode == "serialization" and field["type"] != "typed-dict-field":
                return not (field.get("serialization_exclude") or field.get("serialization_exclude_if"))
            return super().field_is_required(field, total)

        def bytes_schema(self, schema: Any) -> dict[str, Any]:
            described = super().bytes_schema(schema)
            if BYTES_OPTIONS.isdisjoint(self._config.config_dict):
                del described["format"]  # pydantic's own way, text in UTF-8
                described["contentEncoding"] = "base64"
            return described

    ordered: list[tuple[type[Any], Form]] = [(cls, form) for cls in sorted(found, key=type_name) for form in MODES]
    refs, document = models_json_schema([(cls, MODES[form]) for cls, form in ordered], schema_generator=Generator)
    # pydantic itself tells the forms apart, by endings, where a model has both.
    schemas: dict[str, Schema] = document.get("$defs", {})
    keys = {name: _key(name) for name in schemas}
    known: dict[tuple[type[Any], Form], str] = {}
    for cls, form in ordered:
        known[cls, form] = renamed(refs[cls, MODES[form]], keys)["$ref"]
    return Models(known, {keys[name]: renamed(schema, keys) for name, schema in schemas.items()})


def _key(name: str) -> str:
    for form, ending in (("sent", "-Input"), ("given", "-Output")):
        if name.endswith(ending):
            return f"{form}:pydantic:{name.removesuffix(ending)}"
    return f"model:pydantic:{name}"

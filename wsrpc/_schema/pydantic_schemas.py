"""JSON Schemas of pydantic models, and of other types that pydantic validates, made by pydantic itself."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from msgspec import inspect as mi

from .._values.convert import nodes_of, type_name
from .._values.pydantic_types import BYTES_OPTIONS, core_schema_of, is_pydantic
from .._values.validation import Checked
from .definitions import MEMBER_NAMES, Form, Schema, renamed, stores_no_defaults

MODES: dict[Form, Literal["validation", "serialization"]] = {"sent": "validation", "given": "serialization"}


class Models(NamedTuple):
    """The schema of each class that pydantic describes, by form, and the definitions to which the schemas refer."""

    schemas: dict[tuple[type[Any], Form], Schema]
    definitions: dict[str, Schema]


def models_in(tp: Any) -> list[type[Any]]:
    """Return the models and the `Checked` types in a type, without those that only pydantic sees."""
    classes = [node.cls for node in nodes_of(mi.type_info(tp)) if isinstance(node, mi.CustomType)]
    return [cls for cls in classes if is_pydantic(cls) or isinstance(cls, Checked)]


def _core_schema(cls: Any) -> Any:
    """Return the core schema of a model or of a `Checked` type."""
    return core_schema_of(cls.original if isinstance(cls, Checked) else cls)


def describe_models(types: Iterable[Any]) -> Models:
    """Describe the models and the `Checked` types in ``types``, in both forms."""
    found = {cls for tp in types for cls in models_in(tp)}
    if not found:
        return Models({}, {})
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def field_is_required(self, field: Any, total: bool) -> bool:
            # A model is encoded with all its fields, including fields with defaults. An object that msgspec has
            # converted may lack fields with defaults when it is returned.
            if self.mode == "serialization" and field["type"] != "typed-dict-field":
                excluded = field.get("serialization_exclude") or field.get("serialization_exclude_if")
                return not (excluded or (self._stores_no_defaults and "default" in field["schema"]))
            return super().field_is_required(field, total)

        _in_model = _stores_no_defaults = False

        def dataclass_schema(self, schema: Any) -> dict[str, Any]:
            before = self._stores_no_defaults
            self._stores_no_defaults = not self._in_model and stores_no_defaults(schema["cls"])
            try:
                return super().dataclass_schema(schema)
            finally:
                self._stores_no_defaults = before

        def model_schema(self, schema: Any) -> dict[str, Any]:
            return self._named(super().model_schema, schema, by_alias=True)

        def dataclass_args_schema(self, schema: Any) -> dict[str, Any]:
            return self._named(super().dataclass_args_schema, schema, by_alias=False)

        def typed_dict_schema(self, schema: Any) -> dict[str, Any]:
            return self._named(super().typed_dict_schema, schema, by_alias=False)

        def _named(self, describe: Any, schema: Any, *, by_alias: bool) -> dict[str, Any]:
            # pydantic encodes a model and everything in it. msgspec encodes the rest, without aliases.
            before = self.by_alias, self._in_model
            if self.mode == "serialization" and not self._in_model:
                self.by_alias = self._in_model = by_alias
            try:
                described: dict[str, Any] = describe(schema)
            finally:
                self.by_alias, self._in_model = before
            return described

        def bytes_schema(self, schema: Any) -> dict[str, Any]:
            described = super().bytes_schema(schema)
            if BYTES_OPTIONS.isdisjoint(self._config.config_dict):
                del described["format"]  # it stands for pydantic's default encoding, UTF-8 text
                described["contentEncoding"] = "base64"
            return described

        def enum_schema(self, schema: Any) -> dict[str, Any]:
            described = super().enum_schema(schema)
            if issubclass(schema["cls"], enum.Flag):
                # pydantic's schema has only the single flags, but pydantic also accepts and returns their sums.
                described.pop("enum", None)
                described.pop("const", None)
                described["type"] = "integer"
            elif "enum" in described:
                described[MEMBER_NAMES] = [member.name for member in schema["members"]]
            return described

    ordered = sorted(found, key=type_name)
    generator: Any = Generator()
    made, definitions = generator.generate_definitions(
        [(cls, mode, _core_schema(cls)) for cls in ordered for mode in MODES.values()]
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

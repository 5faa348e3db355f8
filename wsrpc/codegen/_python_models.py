"""The classes of a Python module that is generated from a description: Structs, enumerations and aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .._schema.definitions import Schema
from ._checking import prose_of
from ._name_table import NameTable
from ._python_plan import Plan, Tag
from ._python_text import comment, docstring, is_plain, literal, plain_identifier
from ._python_types import ANY, Form, Types, default_of


class Models:
    """The classes of a module, each with the definition from which it is generated."""

    def __init__(self, definitions: Mapping[str, Schema], types: Iterable[Any], names: NameTable) -> None:
        """
        Args:
            types: the schemas of parameters and results.
            names: the names that the module uses.
        """
        self.plan = Plan(definitions, types, names)
        self.reserved = set(self.plan.reserved)
        """Names that fields and methods cannot have."""
        self._aliases: dict[str, Form] = {}
        self._notes: dict[str, list[str]] = {}
        self._open: list[str] = []
        """The aliases that are being generated now, the outermost first."""

    def types(self, members: Iterable[str] = ()) -> Types:
        """Return the object that makes the types for a class with these members."""
        return Types(self.plan, self._alias, members=tuple(members))

    def written(self) -> list[str]:
        """Return the text of each definition: enumerations first, because defaults name their members."""
        kinds = self.plan.kinds
        parts = [self._enumeration(name) for name in self.plan.definitions if kinds[name] == "enum"]
        for kind in ("struct", "array"):
            parts += [self._class(name) for name in self.plan.definitions if kinds[name] == kind]
        for name in self.plan.definitions:
            if kinds[name] == "alias":
                self._alias(name)
        # Each alias is written after the aliases that it mentions.
        aliases = [line for name in self._aliases for line in self._written_alias(name)]
        return ["\n".join(lines) for lines in (*parts, aliases) if lines]

    # ------------------------------------------------------------ aliases

    def _alias(self, name: str) -> Form:
        """Return the type of a definition that becomes an alias."""
        if name in self._aliases:
            return self._aliases[name]._replace(expression=self.plan.names[name])
        if name in self._open:
            for each in self._open[self._open.index(name) :]:
                self._notes.setdefault(each, []).append("The type contains itself: it is Any there.")
            return ANY
        self._open.append(name)
        types = self.types()
        form = types.of(self.plan.definitions[name])
        self._open.pop()
        self._notes.setdefault(name, []).extend(types.notes)
        self._aliases[name] = form
        return form._replace(expression=self.plan.names[name])

    def _written_alias(self, name: str) -> list[str]:
        about = str(self.plan.definitions[name].get("description", ""))
        notes = [about, *dict.fromkeys(self._notes[name])]
        value = self._aliases[name].expression
        return [*comment("\n".join(filter(None, notes))), f"{self.plan.names[name]}: TypeAlias = {value}"]

    # ------------------------------------------------------------ classes

    def _enumeration(self, name: str) -> list[str]:
        schema = self.plan.definitions[name]
        lines = [f"class {self.plan.names[name]}(enum.Enum):", *_about(schema, blank=True)]
        for value, member in self.plan.enumerations[name].items():
            lines.append(f"    {member.rpartition('.')[2]} = {literal(value)}")
        return lines

    def _class(self, name: str) -> list[str]:
        schema, kind, tag = self.plan.definitions[name], self.plan.kinds[name], self.plan.tags.get(name)
        fields = _fields_of_array(schema, tag) if kind == "array" else _fields_of_object(schema, tag)
        table = NameTable(self.reserved)
        called = [table.unique(field.wanted) for field in fields]
        types = self.types(called)
        lines: list[str] = []
        options = ["array_like=True"] if kind == "array" else []
        required = [field.required for field in fields]
        if sorted(required, reverse=True) != required:
            options.append("kw_only=True")
        for field, each in zip(fields, called, strict=True):
            lines += self._field(field, each, types)
        if tag is not None:
            if tag.field != "type" and kind != "array":
                options.append(f"tag_field={literal(tag.field)}")
            options.append(f"tag={literal(tag.value)}")
        head = f"class {self.plan.names[name]}({', '.join(['msgspec.Struct', *options])}):"
        about = _about(schema, blank=bool(lines))
        return [head, *about, *(lines or ([] if about else ["    pass"]))]

    def _field(self, field: _Field, name: str, types: Types) -> list[str]:
        types.notes.clear()
        schema: Schema = field.schema if field.schema.__class__ is dict else {}
        form = types.of(field.schema)
        about = prose_of(schema)
        marked = ["deprecated"] if schema.get("deprecated") is True else []
        lines = comment("\n".join(filter(None, [about, *marked, *types.notes])), "    ")
        annotation = form.expression
        value: str | None = None
        if not field.required:
            value = default_of(schema["default"], form) if "default" in schema else None
            if value is None:
                value = "msgspec.UNSET"
                annotation = f"{annotation} | msgspec.UnsetType"
            if value == "set()":
                value = f"{types.builtin('set')}()"
        if field.key not in (None, name):
            default = "" if value is None else f"default={value}, "
            value = f"msgspec.field({default}name={literal(field.key)})"
        return [*lines, f"    {name}: {annotation}" + (f" = {value}" if value is not None else "")]


class _Field(NamedTuple):
    """Field of a class."""

    key: str | None
    """The name of the field in JSON. None for an item of an array."""
    wanted: str
    schema: Any
    required: bool


def _fields_of_object(schema: Schema, tag: Tag | None) -> list[_Field]:
    required = set(schema.get("required", ()))
    return [
        _Field(key, plain_identifier(key, "field"), each, key in required)
        for key, each in schema["properties"].items()
        if tag is None or key != tag.field
    ]


def _fields_of_array(schema: Schema, tag: Tag | None) -> list[_Field]:
    items = schema["prefixItems"][0 if tag is None else 1 :]
    least = schema.get("minItems", 0) - (tag is not None)
    return [
        _Field(None, _item_name(each, number + 1), each, number < least or not _has_default_from(items[number:]))
        for number, each in enumerate(items)
    ]


def _has_default_from(items: Iterable[Any]) -> bool:
    return all(each.__class__ is dict and "default" in each for each in items)


def _item_name(schema: Any, number: int) -> str:
    title = schema.get("title", "") if schema.__class__ is dict else ""
    return f"item_{number}" if not is_plain(title) else title


def _about(schema: Schema, *, blank: bool) -> list[str]:
    lines = docstring(str(schema.get("description", "")), "    ")
    return [*lines, ""] if lines and blank else lines

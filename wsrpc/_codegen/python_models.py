"""The classes of a Python module that is made of a description: Structs, dataclasses, enumerations and aliases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._schema.definitions import MEMBER_NAMES, Schema
from .checking import InvalidDescription
from .layout import Expression, Keyword, Union, assignment, call, class_head, comment, docstring, literal, statement
from .name_table import NameTable
from .python_names import IMPORTS, class_name, identifier, is_plain, member_name
from .python_plan import Plan
from .python_types import ANY, Form, Types, default_of

__all__ = ["Models"]

MOST_ALIASES = 30
"""How many aliases may be named in each other: Python evaluates them as one type."""
MOST_MENTIONS = 100_000
"""How often aliases may be named in all, counting what each alias names itself. (16,000 take Python 0.8 s.)"""


class Models:
    """The classes of a module, by the definitions of which they are made."""

    def __init__(
        self, definitions: Mapping[str, Schema], types: Iterable[Any], names: NameTable, *, dataclasses: bool
    ) -> None:
        """
        Args:
            types: the schemas of parameters and results.
            names: the names in use in the module.
            dataclasses: make dataclasses where that is possible.
        """
        self.names = {name: names.claim(class_name(name, "Model")) for name in definitions}
        self.reserved = {*IMPORTS, *self.names.values()}
        """Names that fields and methods cannot have."""
        self.plan = Plan(definitions, types, frozenset(self.reserved), dataclasses=dataclasses)
        self._definitions = definitions
        self._members: dict[str, dict[Any, str]] = {
            name: _member_names(definitions[name]["enum"], definitions[name].get(MEMBER_NAMES, ()))
            for name in self.plan.values
        }
        self._aliases: dict[str, Form] = {}
        self._notes: dict[str, list[str]] = {}
        self._open: list[str] = []
        """The aliases that are being made."""
        self._mentions = 0
        """How often aliases were named so far."""
        self._sizes: dict[str, int] = {}
        """How many mentions one mention of an alias counts as."""

    def types(self, members: Iterable[str] = (), **options: bool) -> Types:
        """Return what makes the types of a class with these members."""
        return Types(self.plan, self.names, self._alias, members=tuple(members), **options)

    def default(self, value: Any, form: Form) -> str | None:
        """Return a default as Python, None if that is not possible."""
        return default_of(value, form, self._member)

    def _member(self, name: str, value: str | int) -> str | None:
        member = self._members[name].get(value)
        return None if member is None else f"{self.names[name]}.{member}"

    def written(self) -> list[str]:
        """Return the text of each definition: enumerations first, because defaults name their members."""
        kinds = self.plan.kinds
        parts = [self._enumeration(name) for name in self._definitions if kinds[name] == "enum"]
        parts += [self._class(name) for name in self._definitions if kinds[name] in ("struct", "dataclass")]
        parts += [self._array(name) for name in self._definitions if kinds[name] == "array"]
        for name in self._definitions:
            if kinds[name] == "alias":
                self._alias(name)
        aliases = [
            line for name in self._aliases for line in self._written_alias(name)
        ]  # each after those that it names
        return ["\n".join(lines) for lines in (*parts, aliases) if lines]

    # ------------------------------------------------------------ aliases

    def _alias(self, name: str) -> Form:
        """Return the type of a definition that becomes an alias."""
        if name in self._aliases:
            self._mention(self._sizes[name])
            return self._aliases[name]._replace(expression=self.names[name])
        if name in self._open:
            for each in self._open[self._open.index(name) :]:
                self._notes.setdefault(each, []).append("The type contains itself: it is Any there.")
            return ANY
        if len(self._open) == MOST_ALIASES:
            raise InvalidDescription(f"more than {MOST_ALIASES} definitions are named in each other, without a class")
        self._open.append(name)
        before = self._mentions
        self._mention(1)
        types = self.types(constrained=True)
        form = types.of(self._definitions[name])
        self._open.pop()
        self._notes.setdefault(name, []).extend(types.notes)
        self._aliases[name] = form
        self._sizes[name] = self._mentions - before
        return form._replace(expression=self.names[name])

    def _mention(self, count: int) -> None:
        self._mentions += count
        if self._mentions > MOST_MENTIONS:
            raise InvalidDescription(f"the types name each other more than {MOST_MENTIONS:,} times, without a class")

    def _written_alias(self, name: str) -> list[str]:
        about = str(self._definitions[name].get("description", ""))
        notes = [about, *dict.fromkeys(self._notes[name])]
        value = self._aliases[name].expression
        return [*comment("\n".join(filter(None, notes))), *assignment(self.names[name], "TypeAlias", value)]

    # ------------------------------------------------------------ classes

    def _enumeration(self, name: str) -> list[str]:
        schema = self._definitions[name]
        lines = class_head(self.names[name], ["enum.Enum"]) + _about(schema, blank=True)
        for value, member in self._members[name].items():
            lines += assignment(member, None, literal(value), "    ")
        return lines

    def _class(self, name: str) -> list[str]:
        schema = self._definitions[name]
        tag = self.plan.tags.get(name)
        is_struct = self.plan.kinds[name] == "struct"
        properties = {key: each for key, each in schema["properties"].items() if tag is None or key != tag.field}
        table = NameTable(self.reserved)
        called = {key: table.claim(key) if is_plain(key) else table.claim(_field_name(key)) for key in properties}
        types = self.types(called.values(), constrained=name not in self.plan.by_pydantic)
        required = set(schema.get("required", ()))
        fields: list[str] = []
        keyword_only, optional = False, False
        for key, each in properties.items():
            fields += self._field(key, called[key], each, types, required=key in required, is_struct=is_struct)
            keyword_only = keyword_only or (optional and key in required)
            optional = optional or key not in required
        options = [Keyword("kw_only", "True")] if keyword_only else []
        if is_struct:
            if tag is not None and tag.field != "type":
                options.append(Keyword("tag_field", literal(tag.field)))
            if tag is not None:
                options.append(Keyword("tag", literal(tag.value)))
            head = class_head(self.names[name], ["msgspec.Struct", *options])
        else:
            decorator = call("@dataclasses.dataclass", Keyword("slots", "True"), *options)
            head = [*statement(decorator), *class_head(self.names[name], [])]
        about = _about(schema, blank=bool(fields))
        return [*head, *about, *(fields or ([] if about else ["    pass"]))]

    def _field(self, key: str, name: str, schema: Any, types: Types, *, required: bool, is_struct: bool) -> list[str]:
        types.notes.clear()
        form = types.of(schema)
        about = str(schema.get("description", "")) if schema.__class__ is dict else ""
        lines = comment("\n".join(filter(None, [about, *types.notes])), "    ")
        annotation = form.expression
        options: list[Keyword] = []
        default: str | None = None
        if not required:
            default = (
                self.default(schema["default"], form) if schema.__class__ is dict and "default" in schema else None
            )
            if default is None:
                default = "msgspec.UNSET"
                annotation = _or_unset(form)
            if default == "set()":
                default = f"{types.builtin('set')}()"
            if _needs_function(default, is_struct=is_struct):
                options.append(Keyword("default_factory", f"lambda: {default}"))
            else:
                options.append(Keyword("default", default))
        if key != name:
            options.append(Keyword("name", literal(key)))
        value: Expression | None = default
        if options and (options[0].name == "default_factory" or key != name):
            value = call("msgspec.field" if is_struct else "dataclasses.field", *options)
        return lines + assignment(name, annotation, value, "    ")

    def _array(self, name: str) -> list[str]:
        """Return the lines of a class that travels as an array; its fields have no names in a description."""
        schema = self._definitions[name]
        tag = self.plan.tags.get(name)
        items = schema["prefixItems"][0 if tag is None else 1 :]
        table = NameTable(self.reserved)
        called = [table.claim(_item_name(each, number)) for number, each in enumerate(items, 1)]
        types = self.types(called, constrained=True)
        least = schema.get("minItems", 0) - (tag is not None)
        lines: list[str] = []
        for number, (field, each) in enumerate(zip(called, items, strict=True)):
            required = number < least or not _has_default_from(items[number:])
            lines += self._field(field, field, each, types, required=required, is_struct=True)
        options = [Keyword("array_like", "True")]
        if tag is not None:
            options.append(Keyword("tag", literal(tag.value)))
        about = _about(schema, blank=bool(lines))
        head = class_head(self.names[name], ["msgspec.Struct", *options])
        return [*head, *about, *(lines or ([] if about else ["    pass"]))]


def _has_default_from(items: Iterable[Any]) -> bool:
    return all(each.__class__ is dict and "default" in each for each in items)


def _or_unset(form: Form) -> Expression:
    if form.kind == "any":
        return Union((form.expression, "msgspec.UnsetType"))
    members = (
        tuple(each.expression for each in form.inner) if isinstance(form.expression, Union) else (form.expression,)
    )
    return Union((*members, "msgspec.UnsetType"))


def _needs_function(default: str, *, is_struct: bool) -> bool:
    """Whether a default is made by a function: msgspec copies an empty container for each object, and no other one."""
    if default in ("[]", "{}") or default.endswith("set()"):
        return not is_struct
    return default[0] in "[{"


def _field_name(key: str) -> str:
    """Return the name of a field that travels as ``key``, which is no name."""
    name = identifier(key, "field")
    return name if is_plain(name) else f"{name}_"


def _item_name(schema: Any, number: int) -> str:
    title = schema.get("title", "") if schema.__class__ is dict else ""
    return f"item_{number}" if not is_plain(title) else title


def _member_names(values: Sequence[Any], called: Sequence[str]) -> dict[Any, str]:
    """Return the name of each member: as the enumeration has it on the server, else a name like its value."""
    table = NameTable(("mro", "name", "value"))
    known = dict(zip(values, called, strict=False))
    names: dict[Any, str] = {}
    for value in dict.fromkeys(values):
        name = known.get(value, "")
        names[value] = table.claim(name if is_plain(name) else member_name(value))
    return names


def _about(schema: Schema, *, blank: bool) -> list[str]:
    lines = docstring(str(schema.get("description", "")), "    ")
    return [*lines, ""] if lines and blank else lines

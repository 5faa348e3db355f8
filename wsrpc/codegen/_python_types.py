"""Python types from JSON Schemas: each type as an expression, with facts about its values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec

from .._schema.definitions import PREFIX, Schema
from ._python_plan import Plan
from ._python_text import literal, subscript

Kind = Literal[
    "any", "null", "bool", "integer", "number", "string", "text", "enum", "literal", "list", "set", "tuple", "dict",
    "array", "object", "union",
]  # fmt: skip
"""The kind of a type. ``"text"`` is a type whose values are text in JSON, such as a date; ``"array"`` and
``"object"`` are classes."""


class Form(NamedTuple):
    """A Python type."""

    kind: Kind
    expression: str
    inner: tuple[Form, ...] = ()
    """The members of a union; the type of the items of a list, a set or a dict."""
    values: tuple[Any, ...] = ()
    """The values of a literal."""
    members: Mapping[Any, str] = {}
    """The members of an enumeration, by their values."""
    class_name: str = ""
    """The definition of a class."""


ANY = Form("any", "Any")
_NULL = Form("null", "None")

_SCALARS = frozenset({"bool", "integer", "number", "string", "text", "enum", "literal"})
_TEXTS = {
    "date-time": "dt.datetime",
    "date": "dt.date",
    "time": "dt.time",
    "partial-time": "dt.time",
    "duration": "dt.timedelta",
    "uuid": "UUID",
    "decimal": "Decimal",
}
_CLASSES: dict[str, type[Any]] = {"bytes": bytes, "UUID": UUID, "Decimal": Decimal} | {
    f"dt.{cls.__name__}": cls for cls in (dt.datetime, dt.date, dt.time, dt.timedelta)
}
_LARGEST_NUMBER = 2**53
"""Larger numbers are left out as defaults, because JSON may have changed them."""


class Types:
    """Makes the types of one scope: of the fields of a class, or of the parameters and results of a contract."""

    def __init__(self, plan: Plan, alias: Callable[[str], Form], *, members: Collection[str] = ()) -> None:
        """
        Args:
            alias: returns the type of a definition that becomes an alias.
            members: the names of the fields or methods of the surrounding class. They hide builtins of the same name.
        """
        self._plan = plan
        self._alias = alias
        self._members = frozenset(members)
        self.notes: dict[str, None] = {}
        """Sentences about the parts of schemas that the types do not express."""

    def builtin(self, name: str) -> str:
        """Return the name of a builtin type."""
        return f"builtins.{name}" if name in self._members else name

    def of(self, schema: Any) -> Form:
        """Return the type of the values that a schema describes."""
        if schema.__class__ is not dict:
            return ANY
        if "$ref" in schema:
            return self._of_definition(schema["$ref"].removeprefix(PREFIX))
        if "const" in schema or schema.get("enum"):
            return self._of_values([schema["const"]] if "const" in schema else schema["enum"])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self.union(map(self.of, schema[key]))
        if "allOf" in schema:
            return self._of_all(schema)
        kinds: Any = schema.get("type", "object" if "properties" in schema else "")
        if kinds.__class__ in (list, tuple):
            return self.union([self.of({**schema, "type": kind}) for kind in kinds])
        return self._of_type(schema, kinds)

    def _of_definition(self, name: str) -> Form:
        kind = self._plan.kinds[name]
        if kind == "alias":
            return self._alias(name)
        called = self._plan.names[name]
        if kind == "enum":
            return Form("enum", called, members=self._plan.enumerations[name])
        return Form("array" if kind == "array" else "object", called, class_name=name)

    def _of_values(self, values: Iterable[Any]) -> Form:
        literals = tuple({(each.__class__, each): each for each in values if _is_literal(each)}.values())
        others = [each for each in values if not _is_literal(each)]
        forms = [Form("literal", _literal_of(literals), values=literals)] if literals else []
        # Python's Literal cannot contain numbers with a fraction or containers.
        kinds = {int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
        for each in others:
            forms.append(_NULL if each is None else self._of_type({}, kinds.get(each.__class__, "")))
        return self.union(forms)

    def _of_all(self, schema: Schema) -> Form:
        if len(schema["allOf"]) == 1:
            return self.of(schema["allOf"][0])
        self.notes["Several schemas hold at once for one value, which no type of Python says: it is Any."] = None
        return ANY

    def _of_type(self, schema: Schema, kind: str) -> Form:
        match kind:
            case "null":
                return _NULL
            case "boolean":
                return Form("bool", self.builtin("bool"))
            case "integer":
                return Form("integer", self.builtin("int"))
            case "number":
                return Form("number", self.builtin("float"))
            case "string":
                return self._of_string(schema)
            case "array":
                return self._of_array(schema)
            case "object":
                value: Any = {} if "properties" in schema else schema.get("additionalProperties", {})
                inner = self.of(value)
                return self._dict(inner)
            case _:
                return ANY

    def _of_string(self, schema: Schema) -> Form:
        if schema.get("contentEncoding") == "base64":
            return Form("text", self.builtin("bytes"))
        if name := _TEXTS.get(schema.get("format", "")):
            return Form("text", name)
        return Form("string", self.builtin("str"))

    def _dict(self, inner: Form) -> Form:
        return Form("dict", subscript(self.builtin("dict"), self.builtin("str"), inner.expression), (inner,))

    def _of_array(self, schema: Schema) -> Form:
        first = schema.get("prefixItems", ())
        if first:
            forms = [self.of(each) for each in first]
            if schema.get("minItems", 0) == len(first) and (
                schema.get("items", False) is False or schema.get("maxItems") == len(first)
            ):
                return Form(
                    "tuple", subscript(self.builtin("tuple"), *(each.expression for each in forms)), tuple(forms)
                )
            further = schema.get("items", {})
            inner = self.union([*forms, *([self.of(further)] if further is not False else [])])
            return Form("list", subscript(self.builtin("list"), inner.expression), (inner,))
        if schema.get("maxItems") == 0:
            return Form("tuple", subscript(self.builtin("tuple"), "()"))
        inner = self.of(schema.get("items", {}))
        kind: Literal["list", "set"] = "set" if schema.get("uniqueItems") is True and _is_scalar(inner) else "list"
        return Form(kind, subscript(self.builtin(kind), inner.expression), (inner,))

    # ------------------------------------------------------------ unions

    def union(self, forms: Iterable[Form]) -> Form:
        """Return the union of these types, if msgspec can decide between them. Otherwise return a wider type."""
        members: dict[tuple[str, str], Form] = {}
        for form in forms:
            for each in form.inner if form.kind == "union" else (form,):
                # Python refuses None | None, which two aliases of None would become.
                each = _NULL if each.kind == "null" else each
                members[each.kind, each.expression] = each
        found = list(members.values())
        if not found or any(each.kind == "any" for each in found):
            return ANY
        if len(found) == 1:
            return found[0]
        scalars = self._scalars([each for each in found if each.kind in _SCALARS])
        arrays = self._arrays([each for each in found if each.kind in ("list", "set", "tuple", "array")])
        objects = self._objects([each for each in found if each.kind in ("dict", "object")])
        if objects is None or self._are_mixed_structs(arrays, objects):
            return ANY
        nulls = [each for each in found if each.kind == "null"]
        joined = [*scalars, *arrays, *objects, *nulls]
        if len(joined) == 1:
            return joined[0]
        return Form("union", _shown(joined), tuple(joined))

    def _scalars(self, found: list[Form]) -> list[Form]:
        """Return the scalars of a union. msgspec accepts one type of text, one type of integers and one of floats."""
        values = tuple({(v.__class__, v): v for each in found if each.kind == "literal" for v in each.values}.values())
        joined = [each for each in found if each.kind != "literal"]
        bools = {each for each in values if each.__class__ is bool}
        if bools and any(each.kind == "bool" for each in joined):
            values = tuple(each for each in values if each.__class__ is not bool)
        for base, kinds, plain in (
            (str, ("string", "text"), Form("string", self.builtin("str"))),
            (int, ("integer",), Form("integer", self.builtin("int"))),
            (float, ("number",), Form("number", self.builtin("float"))),
        ):
            others = [
                each
                for each in joined
                if each.kind not in kinds and (each.kind != "enum" or next(iter(each.members)).__class__ is not base)
            ]
            other_values = tuple(each for each in values if each.__class__ is not base)
            alike = len(joined) - len(others)
            if alike and alike + (other_values != values) > 1:
                joined, values = [plain, *others], other_values
        return [*([Form("literal", _literal_of(values), values=values)] if values else []), *joined]

    def _arrays(self, found: list[Form]) -> list[Form]:
        if len(found) < 2 or (
            all(each.kind == "array" for each in found) and self._plan.is_tagged([each.class_name for each in found])
        ):
            return found
        self.notes["Nothing tells several kinds of arrays apart: they are lists of Any."] = None
        return [Form("list", subscript(self.builtin("list"), "Any"), (ANY,))]

    def _objects(self, found: list[Form]) -> list[Form] | None:
        """Return the objects of a union. None if msgspec cannot decide between them."""
        if len(found) < 2:
            return found
        if all(each.kind == "dict" for each in found):
            return [self._dict(ANY)]
        names = [each.class_name for each in found]
        if all(names) and self._plan.is_tagged(names):
            return found
        self.notes[_UNDECIDED.format(_shown(found))] = None
        return None

    def _are_mixed_structs(self, arrays: list[Form], objects: list[Form]) -> bool:
        """Whether some Structs are encoded as arrays and others as objects. msgspec does not accept such a union."""
        mixed = any(each.kind == "array" for each in arrays) and any(each.kind == "object" for each in objects)
        if mixed:
            self.notes[_UNDECIDED.format(_shown([*arrays, *objects]))] = None
        return mixed


# ---------------------------------------------------------------- parts


_UNDECIDED = "Nothing tells the members of {} apart: it is Any."


def _shown(forms: Iterable[Form]) -> str:
    return " | ".join(each.expression for each in forms)


def _is_literal(value: Any) -> bool:
    return value.__class__ in (str, bool) or (value.__class__ is int and -(2**63) <= value < 2**63)


def _literal_of(values: tuple[Any, ...]) -> str:
    return subscript("Literal", *map(literal, values))


def _is_scalar(form: Form) -> bool:
    """Whether the values are hashable."""
    return form.kind in _SCALARS or (form.kind == "union" and all(map(_is_scalar, form.inner)))


# ---------------------------------------------------------------- defaults


def default_of(value: Any, form: Form) -> str | None:
    """Return a default as Python source. None if the default does not fit the type, or its source would be long."""
    found = _default_of(value, form)
    return found if found is not None and len(found) <= 60 else None


def _default_of(value: Any, form: Form) -> str | None:
    kind, cls = form.kind, value.__class__
    if kind == "union":
        found = (_default_of(value, each) for each in form.inner)
        return next((each for each in found if each is not None), None)
    if kind == "enum":
        return form.members.get(value) if cls in (str, int) else None
    if kind == "literal":
        return literal(value) if any(each.__class__ is cls and each == value for each in form.values) else None
    if value is None:
        return "None" if kind in ("null", "any") else None
    if kind == "text" and cls is str:
        return _text_of(value, _CLASSES[form.expression.removeprefix("builtins.")])
    if cls in (list, tuple):
        return {"list": "[]", "any": "[]", "set": "set()"}.get(kind) if not value else None
    if cls is dict:
        return "{}" if not value and kind in ("dict", "any") else None
    wanted: dict[type, tuple[str, ...]] = {
        bool: ("bool", "any"),
        int: ("integer", "number", "any"),
        float: ("number", "any"),
        str: ("string", "any"),
    }
    if kind not in wanted.get(cls, ()) or (cls in (int, float) and not abs(value) < _LARGEST_NUMBER):
        return None
    return literal(value)


def _text_of(value: str, cls: type[Any]) -> str | None:
    """Return the source of an object that is text in JSON."""
    try:
        made = repr(msgspec.convert(value, cls))
    except ValueError:
        return None
    return made.replace("datetime.", "dt.") if made.startswith("datetime.") else made

"""Random pairs of contracts: two versions of one event, as sources, each with a call."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from two_versions import Version

__all__ = ["pairs"]

Type = tuple[Any, ...]
"""A type as data, so that a version can change a part of it. The first item says what kind of type it is."""
SCALARS = {
    "int": ["0", "-1", "5", "2 ** 53 + 1"],
    "float": ["1.5", "5.0"],
    "str": ["'a'", "'abcd'", "'2026-01-02'", "''"],
    "bool": ["True", "False"],
    "bytes": ["b'abc'", "b''"],
    "date": ["date(2026, 1, 2)"],
    "datetime": ["datetime(2026, 1, 2)"],
    "Decimal": ["Decimal('1.5')", "Decimal(5)"],
    "None": ["None"],
    "Literal['a', 'abcd']": ["'a'", "'abcd'"],
    "Literal[5, 6]": ["5", "6"],
    "Annotated[int, Meta(ge=0)]": ["0", "5"],
    "Annotated[int, Meta(gt=0)]": ["1", "5"],
    "Annotated[int, Meta(gt=-1)]": ["0", "5"],
    "Annotated[float, Meta(ge=0)]": ["0.0", "1.5"],
    "Annotated[float, Meta(gt=0)]": ["1.5"],
    "Annotated[datetime, Meta(tz=True)]": ["datetime.fromisoformat('2026-01-02T00:00:00Z')"],
    "Annotated[str, Meta(max_length=2)]": ["'a'", "''"],
}
NAMES = ["a", "b", "size_mm", "size_cm", "type"]
scalars = st.sampled_from([("scalar", each) for each in SCALARS])
enums = st.tuples(st.sampled_from(["IntEnum", "Flag"]), st.permutations(["RED", "GREEN", "BLUE"])).flatmap(
    lambda found: st.integers(1, 3).map(lambda n: ("enum", found[0], *zip(found[1][:n], (1, 2, 4), strict=False)))
)


@st.composite
def named(draw: st.DrawFn, inner: st.SearchStrategy[Type]) -> Any:
    """Fields or parameters: their names, types and defaults."""
    names = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    return tuple((name, draw(st.tuples(inner, st.none()) | scalars.flatmap(with_default))) for name in names)


def structs(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    options = st.sampled_from(["", "", "", "array_like=True", "forbid_unknown_fields=True", "omit_defaults=True"])
    others = st.sampled_from(["pydantic.BaseModel", "dataclass"])
    return st.tuples(st.just("struct"), options | others, named(inner))


def unions(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    """Unions of classes with tags, which are the same in each version."""
    members = st.lists(st.tuples(st.sampled_from("ABC"), named(inner)), min_size=2, unique_by=lambda each: each[0])
    return members.map(lambda found: ("union", *sorted(found, key=lambda each: each[0])))


def with_default(scalar: Type) -> st.SearchStrategy[tuple[Type, str]]:
    return st.tuples(st.just(scalar), st.sampled_from(SCALARS[scalar[1]]))


def containers(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    plain = [st.tuples(st.just(kind), inner) for kind in ("list", "dict", "optional")]
    sets, tuples = st.tuples(st.just("set"), scalars), st.tuples(st.just("tuple"), inner, inner)
    return st.one_of(*plain, sets, tuples, structs(inner), unions(inner))


types = st.recursive(scalars | enums, containers, max_leaves=4)
parameters = named(types)


@st.composite
def changed(draw: st.DrawFn, tp: Type) -> Type:
    """The type in another version: the same, one with a part that has changed, or any other."""
    if draw(st.integers(0, 3)) == 0:
        return draw(types)
    if tp[0] in ("list", "dict", "optional"):
        return tp[0], draw(changed(tp[1]))
    if tp[0] == "enum":
        return draw(enums)
    if tp[0] == "struct":
        return "struct", tp[1], tuple(draw(changed_list(tp[2], draw(structs(types))[2])))
    if tp[0] == "union":
        kept = tp[1:-1] if len(tp) > 3 and draw(st.booleans()) else tp[1:]
        changes = [
            (tag, tuple(draw(changed_list(fields, ()))) if draw(st.booleans()) else fields) for tag, fields in kept
        ]
        new = draw(unions(types))[1:] if draw(st.booleans()) else ()
        return "union", *changes, *(each for each in new if each[0] not in dict(kept))
    return tp


@st.composite
def changed_list(draw: st.DrawFn, before: Any, others: Any) -> list[Any]:
    """Fields or parameters in another version: some moved, renamed, removed, added, or of another type."""
    found: dict[str, Any] = {}
    for name, (tp, default) in draw(st.permutations(before)) if draw(st.booleans()) else before:
        action = draw(st.sampled_from(["keep", "keep", "change", "rename", "older", "remove", "default"]))
        if action == "change":
            tp, default = draw(changed(tp)), None
        if action == "default" and tp[0] == "scalar":
            default = None if default is not None and draw(st.booleans()) else draw(st.sampled_from(SCALARS[tp[1]]))
        if action == "older":
            tp, action = ("older", tp, name), "rename"
        if action != "remove":
            found[draw(st.sampled_from(NAMES)) if action == "rename" else name] = tp, default
    if others and draw(st.booleans()):
        found.setdefault(others[0][0], others[0][1])
    return without_clashes(found)


def without_clashes(found: dict[str, Any]) -> list[Any]:
    """Without older names that another has, too: a class refuses them."""
    older = [tp[2] for tp, _ in found.values() if tp[0] == "older"]
    clash = {name for name in older if older.count(name) > 1 or name in found}
    return [(n, (tp[1] if tp[0] == "older" and tp[2] in clash else tp, default)) for n, (tp, default) in found.items()]


def in_order(found: Any) -> list[Any]:
    """Those without defaults first."""
    return sorted(found, key=lambda each: each[1][1] is not None)


def written(tp: Type, classes: list[str]) -> tuple[str, st.SearchStrategy[str]]:
    """Return the source of a type, and of its values. Classes in it are added to ``classes``."""
    kind, *rest = tp
    if kind == "scalar":
        return rest[0], st.sampled_from(SCALARS[rest[0]])
    if kind == "enum":
        name = f"T{len(classes)}"
        base, *members = rest
        classes.append(f"class {name}(enum.{base}): " + "; ".join(f"{member} = {value}" for member, value in members))
        return name, st.sampled_from([f"{name}.{member}" for member, _ in members])
    if kind == "older":
        source, values = written(rest[0], classes)
        return f"Annotated[{source}, older_names('{rest[1]}')]", values
    if kind == "union":
        found = [written(("struct", f"tag_field='kind', tag='{tag}'", fields), classes) for tag, fields in rest]
        return " | ".join(each[0] for each in found), st.one_of(*(each[1] for each in found))
    if kind == "struct":
        options, fields = rest
        if options == "pydantic.BaseModel":  # it knows neither classes nor constraints of msgspec
            scalar = [each for each in fields if each[1][0][0] == "scalar"]
            fields = [each for each in scalar if each[1][0][1] != "bytes" and "Meta" not in each[1][0][1]]
        made = [(field, *written(inner, classes), default) for field, (inner, default) in in_order(fields)]
        name = f"T{len(classes)}"
        body = [f"{field}: {source}{'' if default is None else f' = {default}'}" for field, source, _, default in made]
        head = {"pydantic.BaseModel": f"class {name}({options})", "dataclass": f"@dataclass\nclass {name}"}
        classes.append(f"{head.get(options, f'class {name}(Struct, {options})')}: {'; '.join(body) or 'pass'}")
        given = {field: values.map(f"{field}={{}}".format) for field, _, values, default in made if default is None}
        more = {field: values.map(f"{field}={{}}".format) for field, _, values, default in made if default is not None}
        values = st.fixed_dictionaries(given, optional=more).map(lambda found: f"{name}({', '.join(found.values())})")
        return name, values
    parts = [written(each, classes) for each in rest]
    sources, items = [each[0] for each in parts], [each[1] for each in parts]
    shapes: dict[str, tuple[str, st.SearchStrategy[str]]] = {
        "optional": ("Optional[{}]", st.just("None") | items[0]),
        "list": ("list[{}]", st.lists(items[0], max_size=2).map(lambda found: f"[{', '.join(found)}]")),
        "set": ("set[{}]", st.lists(items[0], max_size=2).map(lambda found: f"{{*[{', '.join(found)}]}}")),
        "dict": ("dict[str, {}]", items[0].map("{{'k': {}}}".format)),
        "tuple": ("tuple[{}, {}]", st.tuples(*items).map(lambda found: f"({', '.join(found)},)")),
    }
    shape, values = shapes[kind]
    return shape.format(*sources), values


@st.composite
def versions(draw: st.DrawFn) -> tuple[Version, Version]:
    """Two versions of one event, each with a call."""
    emits: Any = draw(st.sampled_from(["", "", "", "event", "request"]))
    kinds: list[Any] = ["value"] if emits else ["value", "value", "value", "stream", "exchange"]
    takes: Any = draw(parameters)
    returns, sends, kind = draw(types), draw(types), draw(st.sampled_from(kinds))
    made: list[Version] = []
    for number in range(2):
        if number:
            takes = draw(changed_list(takes, draw(parameters)))
            returns, sends = draw(changed(returns)), draw(changed(sends))
            kind = draw(st.sampled_from([kind, kind, kind, *kinds]))
        classes: list[str] = []
        shown: list[str] = []
        passed: list[str] = []
        omitted = False
        for name, (tp, default) in in_order(takes):
            source, values = written(tp, classes)
            shown.append(f"{name}: {source}{'' if default is None else f' = {default}'}")
            omitted = omitted or (default is not None and draw(st.booleans()))
            if not omitted:
                passed.append(draw(values))
        if draw(st.integers(0, 3)) == 0:
            source, values = written(draw(scalars), classes)
            shown.append(f"*more: {source}")
            passed += [] if omitted else draw(st.lists(values, max_size=2))
        result = ("None", st.just("None")) if emits == "event" else written(returns, classes)
        items = written(sends, classes)
        made.append(
            Version(
                *(", ".join(shown), ", ".join(passed), result[0], draw(result[1]), "\n".join(classes)),
                kind=kind,
                sends=items[0],
                items=draw(items[1]),
                emits=emits,
            )
        )
    return made[0], made[1]


def _accepted(version: Version) -> bool:
    try:
        description = version.describe()
    except TypeError:  # such as for a set of floats or None
        return False
    # A request that is answered with None is described like an event, which has no response.
    return version.emits != "request" or description.emits[0].result is not None


pairs = versions().filter(lambda both: all(map(_accepted, both)))
"""Those that can be registered."""

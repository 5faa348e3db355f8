"""The changes of contracts that tests play: for each rule of the table, an old and a new version of a program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from two_versions import Version as V

from wsrpc import Keep

__all__ = ["CASES", "DEPRECATED", "HINTS", "UNCHECKED", "Case"]

UNCHECKED = "constraint-unchecked"
"""The rule for what generated clients accept, and classes that were written by hand refuse."""
HINTS = {"added-field-refused", "removed-field-refused"}
"""Rules that are only found together with a rule for each of the two fields."""


class Case(NamedTuple):
    rule: str
    old: V
    new: V
    others: str = ""
    """Further rules that are found, separated by blanks."""
    page_only: bool = False
    """Whether only a page fares as badly as the table says."""


SECONDS, MILLISECONDS = (f"Meta(extra_json_schema={{'unit': '{each}'}})" for each in ("s", "ms"))
DEPRECATED = "Meta(extra_json_schema={'deprecated': True})"
Two = tuple[V, V]
"""An old and a new version."""
AWARE = "datetime.fromisoformat('2026-01-02T00:00:00Z')"


NUMBERS = ("int", "int | None", "int | str")


def both(old: tuple[str, str, str], new: tuple[str, str, str]) -> tuple[Two, Two]:
    """The versions of a type, each with a value and the source of its class, as an argument and as a result."""
    (old_type, old_value, olds), (new_type, new_value, news) = old, new
    return (
        (V(f"x: {old_type}", old_value, types=olds), V(f"x: {new_type}", new_value, types=news)),
        (V(returns=old_type, gives=old_value, types=olds), V(returns=new_type, gives=new_value, types=news)),
    )


def of_class(head: str, old: tuple[str, str], new: tuple[str, str]) -> tuple[Two, Two]:
    """The same for a class ``T``, with its fields and a value in each version."""
    return both(("T", old[1], head + old[0]), ("T", new[1], head + new[0]))


def types() -> Iterator[Case]:
    """Changes of a type. Each is played with an argument and with a result of that type."""
    color = "class T(enum.IntEnum): "
    a, b, c = (f"class {name}(Struct, tag=True): x: int\n" for name in "ABC")
    pattern = "Annotated[str, Meta(pattern='^{}')]".format
    days = ("date", "date(2026, 1, 2)"), ("datetime", "datetime(2026, 1, 2)")
    rows: list[tuple[str, tuple[str, str], tuple[str, str]]] = [
        ("type-changed", ("int", "1"), ("str", "'a'")),
        ("type-changed", ("list[int]", "[1]"), ("list[str]", "['a']")),
        ("type-changed", ("dict[str, int]", "{'a': 1}"), ("dict[str, str]", "{'a': 'b'}")),
        ("type-changed", *days),
        ("type-narrowed", ("Decimal", "Decimal('1.5')"), ("float", "1.5")),
        ("type-widened", ("int", "1"), ("int | str", "'a'")),
        ("type-widened", days[0], ("str", "'a'")),
        ("type-widened", ("int", "1"), ("Any", "'a'")),
        ("type-widened", ("Literal['a']", "'a'"), ("str", "'b'")),
        ("type-widened", ("tuple[int, int]", "(1, 2)"), ("list[int]", "[1]")),
        ("type-narrowed", ("int | str", "'a'"), ("int", "1")),
        ("type-narrowed", ("Any", "'a'"), ("int", "1")),
        ("type-narrowed", ("str", "'a'"), days[1]),
        ("null-allowed", ("int", "1"), ("int | None", "None")),
        ("null-refused", ("int | None", "None"), ("int", "1")),
        ("integer-to-number", ("int", "2 ** 53 + 1"), ("float", "1.5")),
        ("number-to-integer", ("float", "1.5"), ("int", "2 ** 53 + 1")),
        ("text-to-bytes", ("str", "'abcd'"), ("bytes", "b'abc'")),
        ("bytes-to-text", ("bytes", "b'abc'"), ("str", "'abcd'")),
        ("list-to-set", ("list[int]", "[1, 1]"), ("set[int]", "{1}")),
        ("set-to-list", ("set[int]", "{1}"), ("list[int]", "[1, 1]")),
        ("constraint-tightened", ("int", "-1"), ("Annotated[int, Meta(ge=0)]", "1")),
        ("constraint-tightened", ("str", "'abc'"), ("Annotated[str, Meta(max_length=2)]", "'a'")),
        ("constraint-loosened", ("Annotated[int, Meta(lt=5)]", "1"), ("Annotated[int, Meta(lt=9)]", "7")),
        ("constraint-loosened", ("Annotated[str, Meta(pattern='a')]", "'a'"), ("str", "'b'")),
        ("constraint-changed", (pattern("a"), "'a'"), (pattern("b"), "'b'")),
        ("enum-value-added", ("Literal['a']", "'a'"), ("Literal['a', 'b']", "'b'")),
    ]
    # A class T in both versions, with a value of each.
    one, sparse = "class T(Struct): a: int", "class T(Struct, omit_defaults=True): a: int = "
    array = "class T(Struct, array_like=True): "
    units = [[f"class T(Struct): a: Annotated[{tp}, {each}]" for each in (SECONDS, MILLISECONDS)] for tp in NUMBERS]
    classes = [
        *(("unit-changed", "T(1)", "T(1)", *each) for each in units),
        ("unit-removed", "T(1)", "T(1)", units[0][0], one),
        ("enum-value-added", "T.A", "T.B", f"{color}A = 1", f"{color}A = 1; B = 2"),
        ("enum-value-added", "T.A", "T.B", *(f"class T(enum.Flag): {each}" for each in ("A = 1", "A = 1; B = 2"))),
        ("enum-value-removed", "T.B", "T.A", f"{color}A = 1; B = 2", f"{color}A = 1"),
        ("enum-renumbered", "T.A", "T.A", f"{color}A = 1; B = 2", f"{color}A = 2; B = 1"),
        (
            "enum-renumbered",
            "T.A",
            "T.A",
            *(f"class T(enum.Flag): {each}" for each in ("A = 1; B = 2", "A = 2; B = 1")),
        ),
        ("enum-member-renamed", "T.A", "T.C", f"{color}A = 1; B = 2", f"{color}C = 1; B = 2"),
        ("tag-changed", "T(1)", "T(1)", *(f"class T(Struct, tag='{each}'): x: int" for each in "ab")),
        ("field-required", "T()", "T(1)", f"{sparse}0", one),
        ("field-optional", "T(1)", "T()", one, f"{sparse}0"),
        ("default-changed", "T()", "T()", f"{sparse}0", f"{sparse}5"),
        ("field-deprecated", "T(1)", "T(1)", one, f"class T(Struct): a: Annotated[int, {DEPRECATED}]"),
        ("position-renamed", "T(1)", "T(1)", *(f"class T(NamedTuple): {each}: int" for each in "ab")),
        ("positions-reordered", "T(1, 2)", "T(1, 2)", f"{array}a: int; b: int", f"{array}b: int; a: int"),
    ]
    models = "class A(pydantic.BaseModel): a: int\nclass B(pydantic.BaseModel): b: int"
    more: list[Any] = [
        ("type-narrowed", ("dict[str, int]", "{}"), ("T", "T(1)"), "", one),
        ("dict-to-class", ("dict[str, int]", "{'b': 1}"), ("T", "T()"), "", f"{one} = 1"),
        ("class-to-dict", ("T", "T()"), ("dict[str, int]", "{'b': 1}"), f"{one} = 1", ""),
        ("constraint-tightened", ("dict[str, int]", "{'b': 1}"), ("dict[int, int]", "{1: 1}"), "", ""),
        ("constraint-tightened", ("int", "-1"), ("pydantic.PositiveInt", "1"), "", ""),
        ("variant-removed", ("A | B", "B(b=1)"), ("A", "A(a=1)"), models, models),
        (
            "constraint-tightened",
            ("datetime", "datetime(2026, 1, 2)"),
            ("Annotated[datetime, Meta(tz=True)]", AWARE),
            "",
            "",
        ),
        (
            "constraint-tightened",
            ("T", "T(a=datetime(2026, 1, 2))"),
            ("T", f"T(a={AWARE})"),
            *(f"class T(pydantic.BaseModel): a: {each}" for each in ("datetime", "pydantic.AwareDatetime")),
        ),
        ("variant-added", ("A | B", "A(1)"), ("A | B | C", "C(1)"), a + b, a + b + c),
        ("variant-removed", ("A | B | C", "C(1)"), ("A | B", "A(1)"), a + b + c, a + b),
        *((rule, ("T", old), ("T", new), *types) for rule, old, new, *types in classes),
        *((*row, "", "") for row in rows),
    ]
    for rule, (old_type, old_value), (new_type, new_value), old_types, new_types in more:
        argument, result = both((old_type, old_value, old_types), (new_type, new_value, new_types))
        others = "dict-to-class" if rule == "type-narrowed" and new_type == "T" else ""
        yield Case(rule, *argument, others)
        is_decimal = (old_type, new_type) == ("Decimal", "float")  # read as such in Python, and text in TypeScript
        rule = UNCHECKED if rule.startswith("constraint-") else "type-changed" if is_decimal else rule
        yield Case(rule, *result, others, is_decimal)


def parameters() -> Iterator[Case]:
    """Changes of parameters, of requests and of emitted events, whose senders get no answer."""
    one, two = ("a: int", "1"), ("a: int, b: int", "1, 2")
    optional = "a: int, b: int = 5", "1, 2"
    rest = "a: int, *more: int", "1, 2"
    rows = [
        ("parameter-added", one, two),
        ("parameter-added-optional", one, optional),
        ("parameter-removed", two, one),
        ("parameter-removed-optional", optional, one),
        ("parameter-added-optional", one, rest),
        ("parameter-removed-optional", rest, one),
    ]
    for rule, old, new in rows:
        yield Case(rule, V(*old), V(*new))
        answered = [V(*each, emits="request", returns="int", gives="1") for each in (old, new)]
        yield Case(rule, answered[0], answered[1])
        yield Case(f"emitted-{rule}", V(*old, emits="event"), V(*new, emits="event"))
    omitted, before_rest = ("a: int, b: int = 5", "1"), ("a: int, b: int = 5, *more: int", "1, 2")
    others: list[tuple[str, tuple[str, str], tuple[str, str], str]] = [
        ("parameter-required", omitted, two, ""),
        ("parameter-optional", two, omitted, ""),
        ("default-changed", omitted, ("a: int, b: int = 6", "1"), ""),
        ("parameter-renamed", one, ("b: int", "1"), ""),
        ("parameter-renamed", rest, ("a: int, *others: int", "1, 2"), ""),
        ("parameter-renamed", ("timeout_s: int", "1"), ("timeout_ms: int", "1000"), ""),
        ("positions-reordered", two, ("b: int, a: int", "2, 1"), ""),
        ("positions-reordered", ("a: int, b: str", "1, 'b'"), ("b: str, a: int", "'b', 1"), "type-changed"),
        ("parameter-before-rest", rest, before_rest, "parameter-added-optional"),
        ("parameter-before-rest", before_rest, rest, "parameter-removed-optional"),
        (
            "parameter-before-rest",
            (rest[0], "1"),
            ("a: int, b: int, *more: int", "1, 2"),
            "parameter-added-optional parameter-required",
        ),
    ]
    for rule, old, new, more in others:
        yield Case(rule, V(*old), V(*new), more)
    # Only the arguments of what handlers of this program get can have names.
    yield Case("position-renamed", V(*one, emits="event"), V("b: int", emits="event"))
    yield Case("parameter-before-rest", V(*rest, emits="event"), V(*before_rest, emits="event"))


def renames() -> Iterator[Case]:
    """Older names that are declared: of parameters, and of fields that the described program reads."""
    new = "y: Annotated[int, older_names('x')]"
    for kind, emits in (("value", ""), ("stream", ""), ("value", "event")):
        calls: Any = {"kind": kind, "emits": emits}
        yield Case("" if emits else "parameter-name-added", V(**calls), V(new, **calls))
    first, last = (V(f"x: Annotated[int, older_names({names})]") for names in ("'c', 'd'", "'d'"))
    yield Case("older-name-removed", first, last)
    for start, suffix in (("", ""), (" = 5", "-optional")):
        old = f"class T(Struct): a: int{start}"
        new, both = (
            f"class T(Struct): b: Annotated[int, older_names({names})]{start}" for names in ("'a'", "'c', 'a'")
        )
        for calls in ({"takes": "x: T", "call": "T(1)"}, {"emits": "request", "returns": "T", "gives": "T(1)"}):
            yield Case(f"older-name-added{suffix}", V(types=old, **calls), V(types=new, **calls))
        calls = {"takes": "x: T", "call": "T(1)", "kind": "upload", "sends": "T", "items": "T(2)"}
        yield Case(f"older-name-added{suffix}", V(types=old, **calls), V(types=new, **calls))
        yield Case("older-name-removed", V(types=both, **calls), V(types=new, **calls))


def events() -> Iterator[Case]:
    yield Case("", V("x: float = 0", ""), V("x: float = 0.0", ""))
    yield Case("", V("x: Any = {'a': [True, 1.0]}", ""), V("x: Any = {'a': [True, 1]}", ""))
    inside, outside = ("Annotated[int, {}] | None".format, "Annotated[int | None, {}]".format)
    for one, other in ((inside, outside), (outside, inside)):
        yield Case("", V(f"x: {one(SECONDS)}"), V(f"x: {other(SECONDS)}"))
    yield Case("unit-declared", V("x: int | None"), V(f"x: {outside(SECONDS)}"))
    yield Case("event-added", V(kind=""), V())
    yield Case("event-removed", V(), V(kind=""))
    slow: Any = {"kind": "stream", "returns": "int", "gives": "1"}
    kept: Any = {**slow, "options": {"keep": 60}, "key": "k"}
    yield Case("keep-added", V(**slow), V(**kept))
    yield Case("keep-removed", V(**kept), V(**slow))
    short: Any = {**kept, "options": {"keep": 30}}
    yield Case("keep-extended", V(**short, again=20), V(**kept, again=50))
    yield Case("keep-shortened", V(**kept, again=50), V(**short, again=20))
    steered: Any = {**kept, "kind": "messages", "options": {"keep": Keep(60, inbox=int)}}
    yield Case("messages-added", V(**kept), V(**steered))
    yield Case("messages-removed", V(**steered), V(**kept))
    text: Any = {**steered, "options": {"keep": Keep(60, inbox=str)}, "sends": "str", "items": "'a'"}
    yield Case("type-changed", V(**steered), V(**text))
    says = "class Says(Protocol):\n    async def say(self, text: str) -> None: ..."
    yield Case("", V(kind="conversation"), V(kind="conversation", talks="handles=Says", types=says))
    yield Case("event-deprecated", V(), V(deprecated="use 'g'"))
    yield Case("event-deprecated", V(emits="event"), V(emits="event", deprecated="use 'g'"))
    answer: Any = {"returns": "int", "gives": "1"}
    yield Case("event-added", V(kind="", emits="request", **answer), V(emits="request", **answer))
    yield Case("emitted-event-added", V(kind="", emits="event"), V(emits="event"))
    yield Case("emitted-event-removed", V(emits="event"), V(kind="", emits="event"))
    yield Case("emitted-request-removed", V(emits="request", **answer), V(kind="", emits="request", **answer))
    yield Case("emit-to-request", V(emits="event"), V(emits="request", **answer))
    yield Case("request-to-emit", V(emits="request", **answer), V(emits="event"))
    yield Case("", V(emits="event"), V(emits="request"))
    yield Case("", V(emits="request"), V(emits="event"))
    kinds: list[tuple[Any, Any]] = [("value", each) for each in ("stream", "upload", "conversation", "exchange")]
    kinds += [("upload", "stream"), ("upload", "exchange"), ("stream", "conversation"), ("exchange", "conversation")]
    for one, other in kinds:
        yield Case("kind-changed", V(kind=one), V(kind=other))
        yield Case("kind-changed", V(kind=other), V(kind=one))
    # In Python, a handler that takes no items ignores them silently.
    yield Case("kind-changed", V(kind="stream", **answer), V(kind="exchange", **answer), page_only=True)
    yield Case("kind-changed", V(kind="exchange", **answer), V(kind="stream", **answer), page_only=True)


def fields() -> Iterator[Case]:
    """Changes of fields, of objects and of classes that are sent as arrays."""
    heads = {
        "object": "class T(Struct): ",
        "array": "class T(Struct, array_like=True): ",
        "model": "class T(pydantic.BaseModel): ",
    }
    one, two, default = ("a: int", "T(a=1)"), ("a: int; b: int", "T(a=1, b=2)"), ("a: int; b: int = 5", "T(a=1, b=2)")
    unset = "a: int; b: int | UnsetType = UNSET", "T(1, 2)"
    null = "a: int; b: int | None = None", "T(a=1, b=2)"
    changes = [(one, two, ""), (one, default, "-default"), (one, unset, "-optional"), (one, null, "-optional")]
    added = [(old, new, suffix, "added") for old, new, suffix in changes]
    for old, new, suffix, action in (*added, *((new, old, suffix, "removed") for old, new, suffix, _ in added)):
        for form, head in heads.items():
            if unset not in (old, new) or form == "object":
                rule = f"field-{action}{suffix}"
                argument, result = of_class(head, old, new)
                yield Case(rule.replace("-default", "-optional"), *argument)
                yield Case(f"result-{rule}", *result)
    strict = "class T(Struct, forbid_unknown_fields=True): "
    for step in (1, -1):
        free, closed = "class T(Struct): a: int", f"{strict}a: int"
        versions = [V("x: T", "{'a': 1, 'more': 2}", types=free), V("x: T", "T(1)", types=closed)]
        first, second = versions[::step]
        yield Case(f"constraint-{'tightened' if step > 0 else 'loosened'}", first, second)
    for old, new, action in ((one, two, "added"), (two, one, "removed")):
        argument, result = of_class(strict, old, new)
        yield Case(f"{action}-field-refused", *argument, f"field-{action}")
        yield Case(f"{action}-field-refused", *result, f"result-field-{action}")


CASES = [*types(), *parameters(), *renames(), *events(), *fields()]

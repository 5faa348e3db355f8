"""Each rule of the table, played: old and new programs meet in both roles, and what happens is what the rule says.

The clients are written by hand, and generated. interop/test_contract_changes.py plays the same with TypeScript.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest
from contract_changes import CASES, DEPRECATED, HINTS, UNCHECKED, Case
from two_versions import Version as V
from two_versions import played, played_by_generated, played_by_url

from wsrpc import Server
from wsrpc._schema.change_rules import RULES, Outcome
from wsrpc._schema.contract_diff import compare
from wsrpc.schema import Description, describe


def worst(outcomes: list[Outcome]) -> Outcome:
    return "fails" if "fails" in outcomes else "meaning" if "meaning" in outcomes else "works"


@pytest.mark.parametrize(
    ("case", "checked"),
    [*((each, False) for each in CASES), *((each, True) for each in CASES if each.rule == UNCHECKED)],
    ids=lambda each: each.rule if isinstance(each, Case) else "",
)
async def test_what_the_table_says_is_what_happens(case: Case, checked: bool) -> None:
    """What peers do that have generated clients, or the classes that the program of their version had."""
    changes = compare(case.old.describe(), case.new.describe(), checked=checked)
    assert checked or {change.rule for change in changes} == {*case.rule.split(), *case.others.split()}
    predicted = [worst([each.old_caller for each in changes]), worst([each.new_caller for each in changes])]
    by_hand = [] if case.rule == UNCHECKED and not checked else [played, played_by_url]
    for old, new, expected in ((case.old, case.new, predicted[0]), (case.new, case.old, predicted[1])):
        found: list[Outcome] = []
        for player in (*by_hand, played_by_generated):
            new.got.clear()
            found.append(await player(old, new))
        assert worst(found) == expected or (case.page_only and expected == "fails"), found


def test_the_text_says_that_a_removed_event_was_deprecated() -> None:
    [change] = compare(V(deprecated="use 'g'").describe(), V(kind="").describe())
    assert (change.rule, change.kinds) == ("event-removed", ("breaks callers",))
    assert change.text == "Old callers still send the event. It was deprecated: use 'g'."


@pytest.mark.parametrize(
    ("call", "happens"),
    [
        ({"takes": "x: T", "call": "T(1)"}, "New handlers ignore it silently; old ones miss it."),
        ({"returns": "T", "gives": "T(1)"}, "Old callers miss the field."),
    ],
)
def test_the_text_says_that_a_removed_field_was_deprecated(call: Any, happens: str) -> None:
    types = "class T(Struct): a: int", f"class T(Struct): a: int; b: Annotated[int, {DEPRECATED}]"
    none, some = (V(types=each, **call).describe() for each in types)
    assert [change.text for change in compare(some, none)] == [f"{happens} It was deprecated."]
    assert not [change for change in compare(none, some) if "deprecated" in change.text]


@pytest.mark.parametrize(
    ("emits", "returns", "added", "removed"),
    [
        ("", "int", "works", "fails"),
        ("event", "None", "meaning", "meaning"),
        ("request", "int", "fails", "meaning"),
    ],
)
def test_a_new_program_does_not_fit_peers_that_wait_for_what_it_no_longer_emits(
    emits: Any, returns: str, added: Outcome, removed: Outcome
) -> None:
    none, some = V(kind="").describe(), V(emits=emits, returns=returns).describe()
    assert [change.old_peers for each in ((none, some), (some, none)) for change in compare(*each)] == [added, removed]


@pytest.mark.parametrize(
    ("old", "new", "who"),
    [
        (V(kind=""), V(), "this program"),
        (V(kind="", emits="event"), V(emits="event"), "its peers"),
        (V("x: int"), V("x: int | None"), "this program"),
        (V("x: int", emits="event"), V("x: int | None", emits="event"), "its peers"),
        (V(returns="int"), V(returns="int | None"), "its peers"),
        (V(returns="int", emits="request"), V(returns="int | None", emits="request"), "this program"),
    ],
)
def test_the_advice_says_which_side_is_deployed_first(old: V, new: V, who: str) -> None:
    [change] = compare(old.describe(), new.describe())
    assert change.do in (f"Deploy the handlers ({who}) first.", f"Deploy the readers ({who}) first.")


def test_older_names_of_a_class_that_is_sent_as_an_array_say_that_nothing_has_changed() -> None:
    array = "class T(Struct, array_like=True): {}".format
    old, new = (V("x: T", types=array(each)) for each in ("a: int", "b: Annotated[int, older_names('a')]"))
    assert compare(old.describe(), new.describe()) == []


@pytest.mark.parametrize(
    "types",
    [
        ("class T(enum.Enum): A = 1; B = 2", "class T(enum.Enum): B = 1; A = 2"),
        ("class T(enum.Flag): A = 1; B = 2", "class T(enum.Flag): B = 1; A = 2"),
        ("class T(Struct, array_like=True): a: int", "class T(Struct, array_like=True): b: int"),
    ],
)
def test_a_change_of_meaning_is_one_of_fingerprints_too(types: tuple[str, str]) -> None:
    one, other = (V("x: T", types=each).describe().fingerprint for each in types)
    assert one != other


def test_an_item_of_an_array_may_lose_its_default_too() -> None:
    old, new = (V("x: T", types=f"class T(Struct, array_like=True): a: int{each}").describe() for each in (" = 0", ""))
    assert [change.rule for change in compare(old, new)] == ["field-required"]


def test_the_unit_of_a_class_is_compared_at_each_place_though_its_definition_does_not_say_it() -> None:
    old, new = (
        V(
            f"x: T, y: Annotated[T, Meta(extra_json_schema={{'unit': '{unit}'}})]",
            types="class T(Struct): a: int",
        )
        for unit in ("s", "ms")
    )
    [change] = compare(old.describe(), new.describe())
    assert (change.rule, change.place, change.old, change.new) == ("unit-changed", "f(y)", "s", "ms")


def test_every_rule_is_played() -> None:
    assert {case.rule for case in CASES if case.rule} == RULES.keys()
    assert {case.rule for case in CASES if case.rule and not case.others} == RULES.keys() - HINTS


IN_A_CONVERSATION: Any = {"kind": "conversation", "talks": "handles=Asks, emits=Tells"}
TELLS = "class Tells(Protocol):\n    async def told(self, text: str) -> None: ...\n"


@pytest.mark.parametrize(
    ("asks", "tells", "changes"),
    [
        ("ask(self, text: str)", TELLS, {}),
        ("asked(self, text: str)", TELLS, {"event-added": "f.asked", "event-removed": "f.ask"}),
        ("ask(self, text: int)", TELLS, {"type-changed": "f.ask(text)"}),
        (
            "ask(self, text: str)",
            TELLS.replace("told", "said"),
            {
                "emitted-event-added": "emits f.said",
                "emitted-event-removed": "emits f.told",
            },
        ),
    ],
)
@pytest.mark.parametrize("emits", ["", "request"])
def test_the_events_of_a_conversation_are_compared_as_others_are(
    asks: str, tells: str, changes: dict[str, str], emits: Any
) -> None:
    """In a conversation that the client handles, the server sends what the client handles."""
    old, new = (
        V(types=f"class Asks(Protocol):\n    async def {each}-> int: ...\n{others}", emits=emits, **IN_A_CONVERSATION)
        for each, others in (("ask(self, text: str)", TELLS), (asks, tells))
    )
    found = compare(old.describe(), new.describe())
    turned = {True: "emits ", False: ""}
    assert {each.rule: each.place for each in found} == {
        "emitted-request-removed" if emits and rule == "event-removed" else rule: turned[
            ("emits " in place) != bool(emits)
        ]
        + place.removeprefix("emits ")
        for rule, place in changes.items()
    }
    assert (old.describe().fingerprint == new.describe().fingerprint) == (not changes)


class Old(msgspec.Struct):
    a: Literal["a"]
    inner: Old | None = None


class New(msgspec.Struct):
    a: Literal["a", "b"]
    inner: New | None = None


CLASSES = "".join(f"class {name}(Struct, tag=True): x: int\n" for name in "ABCD")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("x: Literal['a']", "x: Literal['a', 'b', 'c']", ['enum-value-added:f(x)="b"', 'enum-value-added:f(x)="c"']),
        ("x: Literal[1, 2, 3]", "x: Literal[1]", ["enum-value-removed:f(x)=2", "enum-value-removed:f(x)=3"]),
        ("x: P", "x: Q", ["enum-renumbered:f(x)=1", "enum-renumbered:f(x)=2"]),
        ("x: E", "x: F", ["enum-renumbered:f(x)=1", "enum-renumbered:f(x)=2"]),
        ("x: A | B", "x: A | B | C | D", ["variant-added:f(x)<C>", "variant-added:f(x)<D>"]),
        ("x: A | B | C | D", "x: A | D", ["variant-removed:f(x)<B>", "variant-removed:f(x)<C>"]),
        ("x: int", "x: int | str | bool", ["type-widened:f(x)<string>", "type-widened:f(x)<boolean>"]),
        ("x: date | int | bool", "x: int", ["type-narrowed:f(x)<date>", "type-narrowed:f(x)<boolean>"]),
        ("x: S", "x: U", ["older-name-removed:f(x).b", "older-name-removed:f(x).c"]),
        ("x: int", "x: int, y: Annotated[int, older_names('x')]", ["parameter-added:f(y)"]),
        ("a: int, c: int", "a: int, b: int, c: int", ["positions-reordered:f(c)", "parameter-added:f(b)"]),
        ("a: int, b: int, c: int", "a: int, c: int", ["positions-reordered:f(c)", "parameter-removed:f(b)"]),
        ("x: Annotated[int, Meta(ge=1)]", "x: Annotated[int, Meta(gt=0)]", []),
        ("x: Annotated[int, Meta(le=1)]", "x: Annotated[int, Meta(lt=2)]", []),
        (
            "x: Annotated[float, Meta(ge=1, le=2)]",
            "x: Annotated[float, Meta(gt=1, lt=3)]",
            ["constraint-tightened:f(x) minimum", "constraint-loosened:f(x) maximum"],
        ),
    ],
)
def test_each_change_has_a_name_of_its_own_so_that_it_is_allowed_alone(old: str, new: str, found: list[str]) -> None:
    classes = f"""{CLASSES}
class P(enum.Enum): M = 1; N = 2
class Q(enum.Enum): N = 1; M = 2
class E(enum.Flag): M = 1; N = 2
class F(enum.Flag): N = 1; M = 2
class S(Struct): a: Annotated[int, older_names('b', 'c')]
class U(Struct): a: int
"""
    changes = compare(*(V(each, types=classes).describe() for each in (old, new)))
    assert [f"{each.rule}:{each.place}" for each in changes] == found


def test_a_class_is_compared_at_each_place_where_it_is_used() -> None:
    old, new = (
        V(
            "x: T, y: list[T], z: A | B",
            types=f"""class T(enum.Enum): {members}
class A(Struct, tag=True): t: T
class B(Struct, tag=True): t: dict[str, T]""",
        ).describe()
        for members in ("A = 1", "A = 1; B = 2")
    )
    assert [each.place for each in compare(old, new)] == ["f(x)=2", "f(y)[]=2", "f(z)<A>.t=2", "f(z)<B>.t{}=2"]
    recursive: list[Description] = []
    for cls in (Old, New):
        server = Server()

        def handler(value: Any) -> Any: ...

        handler.__annotations__ = {"value": cls, "return": list[cls]}  # type: ignore[valid-type]
        server.on("g", handler)
        recursive.append(describe(server))
    assert [each.place for each in compare(*recursive)] == ['g(value).a="b"', 'g.result[].a="b"']

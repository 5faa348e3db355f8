"""`wsrpc._codegen.layout`: lines as ``ruff format`` has them, which finds nothing to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from effort import examples
from generated import formatting
from hypothesis import HealthCheck, given, settings

from wsrpc._codegen.layout import (
    Expression,
    Keyword,
    Union,
    assignment,
    call,
    class_head,
    comment,
    docstring,
    function_head,
    import_from,
    literal,
    statement,
    subscript,
    text_of,
)

names = st.text("abcd", min_size=1, max_size=12) | st.text("abcd", min_size=13, max_size=60)
class_names = names.map(str.capitalize)
texts = st.text("ab", max_size=12) | st.text("ab", min_size=20, max_size=90) | st.text(max_size=9)
literals = st.one_of(texts, st.integers(-9, 10**6), st.floats(allow_nan=False, allow_infinity=False), st.none()).map(
    literal
)


def of(make: Callable[..., Expression], least: int, most: int, inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, min_size=least, max_size=most).map(lambda items: make(*items))


def in_brackets(head: str) -> Callable[..., Expression]:
    return lambda *items: subscript(head, *items)


keywords = st.builds(
    lambda given: [Keyword(name, value) for name, value in given.items()],
    st.dictionaries(st.sampled_from(["gt", "min_length", "pattern", "default"]), literals, min_size=1),
)
metas = keywords.map(lambda given: call("msgspec.Meta", *given))
hints: st.SearchStrategy[Any] = st.recursive(
    st.one_of(class_names, st.sampled_from(["int", "None", "msgspec.UnsetType"])),
    lambda inner: st.one_of(
        of(in_brackets("list"), 1, 1, inner),
        of(in_brackets("tuple"), 1, 4, inner),
        inner.map(lambda each: subscript("dict", "str", each)),
        of(in_brackets("Literal"), 1, 5, literals),
        metas.map(lambda meta: subscript("Annotated", "int", meta)),
        of(lambda *items: Union(items), 2, 4, inner.filter(lambda each: not isinstance(each, Union))),
    ),
    max_leaves=5,
)
fields = keywords.map(lambda given: call("msgspec.field", *given))
values = st.one_of(literals, st.just("msgspec.UNSET"), fields)
parameters = st.builds(
    Keyword, st.sampled_from(["aa", "b" * 20, "c" * 50, "d"]), hints, st.just(": "), st.just("")
) | st.builds(Keyword, names.map("o".__add__), hints, st.just(": "), st.sampled_from([" = ...", ' = "some text"']))


def in_class(lines: list[str]) -> list[str]:
    return ["class A:", *lines]


statements: st.SearchStrategy[list[str]] = st.one_of(
    st.builds(assignment, names, hints, values, st.just("    ")).map(in_class),
    st.builds(assignment, names, hints, st.none(), st.just("    ")).map(in_class),
    st.builds(assignment, names.map(str.upper), st.none(), literals, st.just("    ")).map(in_class),
    st.builds(assignment, class_names, st.just("TypeAlias"), hints),
    st.builds(
        function_head,
        names.map(lambda name: f"async def {name}"),
        st.lists(parameters, max_size=4, unique_by=lambda each: each.name).map(
            lambda given: ["self", *sorted(given, key=lambda each: each.default != "")]
        ),
        hints,
        st.just(": ..."),
        st.just("    "),
    ).map(in_class),
    st.builds(class_head, class_names, keywords.map(lambda given: ["msgspec.Struct", *given])).map(
        lambda lines: [*lines, "    pass"]
    ),
    texts.map(
        lambda text: in_class([*statement(call("@wsrpc.method", literal(text)), "    "), "    def f(self): ..."])
    ),
    st.builds(import_from, names, st.lists(names, min_size=1, max_size=9)),
    st.text(max_size=40).map(
        lambda text: in_class([*docstring(text, "    "), "", "    a: int"] if docstring(text) else ["    a: int"])
    ),
    st.text(max_size=40).map(lambda text: [*comment(text), "a = 1"]),
)


def test_ruff_finds_nothing_to_change(tmp_path: Path) -> None:
    count = 0

    @settings(max_examples=examples(1000), suppress_health_check=[HealthCheck.too_slow])
    @given(statements)
    def collect(lines: list[str]) -> None:
        nonlocal count
        count += 1
        text = "\n".join(lines) + "\n"
        compile(text, "made", "exec", dont_inherit=True)
        (tmp_path / f"m{count}.py").write_text(text, "utf-8")

    collect()
    assert formatting(tmp_path) == ""


@given(st.text() | st.sampled_from(['a"', '"a', '"""', '\\"""', "\\", "a\\", '""', "\r\n", "a\x0cb", "\ud800"]))
def test_a_literal_is_the_value(text: str) -> None:
    assert eval(literal(text)) == text and literal(text).isprintable()


@given(
    st.text() | st.sampled_from(['"""', '\\"""', '"""\nimport os\n"""', "a\\", '"', "\x00", "\u2028", "\r", "\ud800"])
)
def test_a_docstring_is_one_string_and_says_what_it_is_given(text: str) -> None:
    namespace: dict[str, Any] = {}
    exec("\n".join(["def f():", *docstring(text, "    "), "    pass"]), namespace)
    said = namespace["f"].__doc__ or ""
    assert "".join(said.split()) == "".join(text.replace("\ud800", "?").split())


@pytest.mark.parametrize("text", ["", "a", "a\n\nb  ", "import os\rimport os", "\u2028a", "a\x0cimport os"])
def test_a_comment_is_nothing_but_a_comment(text: str) -> None:
    lines = comment(text, "  ")
    assert all(line.startswith("  #") and line.isprintable() for line in lines)
    assert len(lines) == len(text.splitlines())


def test_what_fits_stays_on_one_line() -> None:
    tp = Union((subscript("list", "int"), subscript("Annotated", "str", call("Meta", Keyword("gt", "1"))), "None"))
    assert text_of(tp) == "list[int] | Annotated[str, Meta(gt=1)] | None"
    assert assignment("a", tp, "None") == [f"a: {text_of(tp)} = None"]
    assert docstring(" One.\n\n      Two.\n        Three.\n ", "  ") == [
        '  """One.',
        "",
        "  Two.",
        "    Three.",
        '  """',
    ]
    assert docstring(" \n ") == []

"""`wsrpc._codegen.layout`: text as it stands in a module.

tests/property/test_python_client_hostile.py shows that ``ruff format`` finds nothing to change in modules.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from wsrpc._codegen.layout import (
    comment,
    docstring,
    import_from,
    literal,
)

ODD = ['"a\nb', 'a\nb"', '\\"""', "a\\", "\r\n", "a\x0cb", '"""\nimport os\n"""', "\x00", "\u2028", "\ud800"]
texts = st.text() | st.sampled_from(ODD)


@given(texts)
def test_a_literal_is_the_value(text: str) -> None:
    assert eval(literal(text)) == text and literal(text).isprintable()


@given(texts)
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


def test_an_import_that_is_too_long_has_a_line_for_each_name() -> None:
    names = ["a" * 30, "b" * 30, "c" * 30]
    assert import_from("m", names) == ["from m import (", *(f"    {name}," for name in names), ")"]

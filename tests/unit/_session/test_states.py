"""The states of a session: each cell of the table, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsrpc._session.states import TABLE, SessionInput, SessionState, after

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "states.md"


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("happened", SessionInput)
def test_a_session_goes_only_where_its_table_allows(state: SessionState, happened: SessionInput) -> None:
    if happened in TABLE[state]:
        assert after(state, happened) is TABLE[state][happened][0]
    else:
        with pytest.raises(AssertionError, match=f"while a session is {state.value}"):
            after(state, happened)


def test_the_docs_show_the_table_of_a_session() -> None:
    rows = [
        f"| {state.value} | {happened.value} | {next_state.value} | {then} |"
        for state, cells in TABLE.items()
        for happened, (next_state, then) in cells.items()
    ]
    table = "\n".join(["| state | event | next state | action |", "|---|---|---|---|", *rows])
    assert table in PAGE.read_text("utf-8"), f"{PAGE} needs this table:\n\n{table}"

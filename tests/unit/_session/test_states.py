"""The states of a session: each cell of the table."""

from __future__ import annotations

import pytest

from wsrpc._session.states import TABLE, SessionInput, SessionState, after


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("happened", SessionInput)
def test_a_session_goes_only_where_its_table_allows(state: SessionState, happened: SessionInput) -> None:
    if happened in TABLE[state]:
        assert after(state, happened) is TABLE[state][happened][0]
    else:
        with pytest.raises(AssertionError, match=f"while a session is {state.value}"):
            after(state, happened)

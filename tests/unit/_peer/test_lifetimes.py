"""Sessions: each cell of their tables. What sessions do is in test_sessions.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsrpc import Peer
from wsrpc._api.peer import core_of
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._protocol.settings import make_settings
from wsrpc._sending.outbound import Outbound
from wsrpc._sending.states import TRANSITIONS, OutboundState
from wsrpc._session.states import TABLE, SessionInput, SessionState, after
from wsrpc.testing import ScriptedTransport


def bound() -> Outbound:
    peer = Peer(make_settings(None, None, None), dialer=False, loop=LoopScheduler())
    peer.bind(ScriptedTransport())
    return core_of(peer).out


@pytest.mark.parametrize("before", OutboundState)
@pytest.mark.parametrize("then", OutboundState)
async def test_a_session_opens_and_closes_only_as_its_table_allows(before: OutboundState, then: OutboundState) -> None:
    out = bound()
    out.state = before
    if then in TRANSITIONS[before]:
        out.move(then)
        assert out.state is then and then.value in repr(out)
    else:
        with pytest.raises(AssertionError, match=f"from {before.value} to {then.value}"):
            out.move(then)
        assert out.state is before
    assert out.works is (out.state in (OutboundState.OPENING, OutboundState.OPEN))
    assert out.lives is (out.works or out.state is OutboundState.CLOSING)


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("happened", SessionInput)
async def test_a_session_goes_only_where_its_table_allows(state: SessionState, happened: SessionInput) -> None:
    session = bound().session
    session.state = state
    cell = TABLE[state].get(happened)
    if cell is None:
        with pytest.raises(AssertionError, match=f"while a session is {state.value}"):
            after(state, happened)
    else:
        assert after(state, happened) is cell[0]
    assert state.value in repr(session)
    assert session.detached is (state in (SessionState.DETACHED, SessionState.RESUMING))


def as_markdown() -> str:
    rows = ["| state | event | next state | action |", "|---|---|---|---|"]
    for state, cells in TABLE.items():
        rows += [
            f"| {state.value} | {happened.value} | {next_state.value} | {then} |"
            for happened, (next_state, then) in cells.items()
        ]
    return "\n".join(rows)


def test_the_docs_show_the_table_of_a_session() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "states.md"
    assert as_markdown() in page.read_text("utf-8"), f"docs/reference/states.md needs this table:\n\n{as_markdown()}"

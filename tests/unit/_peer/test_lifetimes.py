"""Sessions: each cell of their tables. What sessions do is in test_sessions.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsrpc import Peer
from wsrpc._api.peer import core_of
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._protocol.settings import make_settings
from wsrpc._sending.outbound import Outbound
from wsrpc._session.states import TABLE, SessionInput, SessionState, after
from wsrpc.testing import ScriptedTransport


def bound() -> Outbound:
    peer = Peer(make_settings(None, None, None), dialer=False, loop=LoopScheduler())
    peer.bind(ScriptedTransport())
    return core_of(peer).out


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("closing", [False, True])
async def test_what_a_peer_shows_follows_from_its_session(state: SessionState, opened: bool, closing: bool) -> None:
    peer = Peer(make_settings(None, None, None), dialer=False, loop=LoopScheduler())
    out = core_of(peer).out
    session = out.session
    if state is SessionState.ATTACHED:
        peer.bind(ScriptedTransport())
    begun = state not in (SessionState.NEW, SessionState.OVER)
    session.state, session.closing, session.complete, out.is_open = state, closing, begun, opened
    out.update_clear()
    attached = "closing" if closing else "open" if opened else "opening"
    shown = {SessionState.NEW: "disconnected", SessionState.OVER: "disconnected", SessionState.ATTACHED: attached}
    assert f" {shown.get(state, state.value)} " in repr(peer)
    assert session.lives is begun
    assert session.connected is peer.connected is (state is SessionState.ATTACHED and not closing)
    assert session.awaits_connection is (session.detached and not closing)
    assert session.takes_messages is (begun and not closing)
    assert out.clear is (attached == "open" and state is SessionState.ATTACHED)


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

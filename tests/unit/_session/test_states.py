"""The states of a session: each cell of the table, its page, and what users see of each state."""

from __future__ import annotations

import pytest

from wsrpc import Peer
from wsrpc._api.peer import core_of
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._protocol.settings import make_settings
from wsrpc._session.states import TABLE, SessionInput, SessionState, after
from wsrpc.testing import ScriptedTransport


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
    assert session.detached is (state in (SessionState.DETACHED, SessionState.RESUMING))
    assert session.connected is peer.connected is (state is SessionState.ATTACHED and not closing)
    assert session.awaits_connection is (session.detached and not closing)
    assert session.takes_messages is (begun and not closing)
    assert out.clear is (attached == "open" and state is SessionState.ATTACHED)


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("happened", SessionInput)
def test_a_session_goes_only_where_its_table_allows(state: SessionState, happened: SessionInput) -> None:
    if happened in TABLE[state]:
        assert after(state, happened) is TABLE[state][happened][0]
    else:
        with pytest.raises(AssertionError, match=f"while a session is {state.value}"):
            after(state, happened)

"""Sessions and links: each cell of their tables. What sessions do is in test_sessions.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsrpc import Peer
from wsrpc._api.peer import core_of
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._peer import session as sessions
from wsrpc._peer.session import SessionInput, SessionState
from wsrpc._protocol.settings import make_settings
from wsrpc._sending import link as links
from wsrpc._sending.link import Link, LinkState
from wsrpc.testing import ScriptedTransport


def bound_link() -> Link:
    peer = Peer(make_settings(None, None, None), dialer=False, loop=LoopScheduler())
    return core_of(peer).link_for(ScriptedTransport())


@pytest.mark.parametrize("before", LinkState)
@pytest.mark.parametrize("after", LinkState)
async def test_a_link_goes_only_where_its_table_allows(before: LinkState, after: LinkState) -> None:
    link = bound_link()
    link.state = before
    if after in links.TRANSITIONS[before]:
        link.move(after)
        assert link.state is after and after.value in repr(link)
    else:
        with pytest.raises(AssertionError, match=f"from {before.value} to {after.value}"):
            link.move(after)
        assert link.state is before
    assert link.works is (link.state in (LinkState.OPENING, LinkState.OPEN, LinkState.DETACHED))


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("happened", SessionInput)
async def test_a_session_goes_only_where_its_table_allows(state: SessionState, happened: SessionInput) -> None:
    session = core_of(Peer(make_settings(None, None, None), dialer=False, loop=LoopScheduler())).session
    session.state = state
    cell = sessions.TABLE[state].get(happened)
    if cell is None:
        with pytest.raises(AssertionError, match=f"while a session is {state.value}"):
            session.move(happened)
        assert session.state is state
    else:
        session.move(happened)
        assert session.state is cell[0] and cell[0].value in repr(session)
        assert session.over is (session.state is SessionState.OVER)
        assert session.detached is (session.state in (SessionState.DETACHED, SessionState.RESUMING))


def as_markdown() -> str:
    rows = ["| state | event | next state | action |", "|---|---|---|---|"]
    for state, cells in sessions.TABLE.items():
        rows += [
            f"| {state.value} | {happened.value} | {after.value} | {then} |"
            for happened, (after, then) in cells.items()
        ]
    return "\n".join(rows)


def test_the_docs_show_the_table_of_a_session() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "states.md"
    assert as_markdown() in page.read_text("utf-8"), f"docs/reference/states.md needs this table:\n\n{as_markdown()}"

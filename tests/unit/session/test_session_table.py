"""The states of a session: each cell of the table, what is decided in each, and how clients ask to resume."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import Driven, redialing, start, turns
from leftovers import nothing_left as nothing_left
from session_alone import SIDES, SMALL, Alone, expected
from stream_driver import control, resumable
from waiting import until

from wsrpc import CloseInfo, ConnectionLost, SessionLost
from wsrpc._core.api.peer import current_of
from wsrpc._core.session.session_end import Decision
from wsrpc._core.session.session_states import TABLE, SessionInput, SessionState, after

S, I = SessionState, SessionInput  # noqa: E741
REACH = {
    S.NEW: "look state",
    S.ATTACHED: "start",
    S.RESUMABLE: "begin",
    S.DEAD: "start; refuse",
    S.STRANDED: "begin; refuse",
    S.DETACHED: "begin; drop",
    S.ASKING: "begin; drop; wait 56; ask",
    S.CLOSING: "start; closing",
    S.OVER: "start; drop",
}
HAPPEN = {
    I.STARTED: "start",
    I.COUNTED: "greet",
    I.STOPPED_KEEPING: "stop_keeping",
    I.SEND_FAILED: "refuse",
    I.DETACHED: "drop",
    I.ASKED: "ask",
    I.RESUMED: "resume",
    I.REFUSED: "say gone why=expired",
    I.EXPIRED: "wait 60",
    I.OVERFLOWED: "fail 4408 why",
    I.REPLACED: "ends REPLACED",
    I.CLOSED: "closing",
    I.ENDED: "drop 1000",
    (S.ASKING, I.RESUMED): "resumed",
    (S.ASKING, I.CLOSED): "ends CLOSED",
    (S.DETACHED, I.CLOSED): "ends CLOSED",
    (S.ASKING, I.ENDED): "resumed 9:9",
    (S.DETACHED, I.ENDED): "ends ENDED",
}
STATES = [(side, state) for side in SIDES for state in S if (side, state) != ("server", S.ASKING)]
NOT_PLAYED = [("client", S.DETACHED, I.RESUMED), ("server", S.DETACHED, I.ASKED)]
"""Cells that only the session of the other side has."""


@pytest.mark.parametrize(
    ("side", "state", "happened"),
    [(*of, each) for of in STATES for each in TABLE[of[1]] if (*of, each) not in NOT_PLAYED],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_cell(side: str, state: SessionState, happened: SessionInput) -> None:
    s = Alone(side)
    s.play(REACH[state])
    assert s.session.state is state
    trace = s.play(f"|{HAPPEN.get((state, happened)) or HAPPEN[happened]}")
    assert s.session.state is after(state, happened) and s.session.over is (s.session.state is S.OVER)
    assert trace.count("over=") == trace.count(f"over={happened.name}") == s.session.over
    if s.session.over:
        assert type(s.end.error) is (SessionLost if state in (S.DETACHED, S.ASKING) else ConnectionLost)


def test_what_is_in_no_cell_cannot_happen() -> None:
    for state in S:
        for happened in {*I} - {*TABLE[state]}:
            with pytest.raises(AssertionError, match="cannot happen"):
                after(state, happened)


@pytest.mark.parametrize(("side", "state"), STATES, ids=lambda value: getattr(value, "name", value))
def test_a_message_leaves_waits_or_fails_as_the_table_says(side: str, state: SessionState) -> None:
    found = Alone(side).play(f"{REACH[state]}; |send {SMALL}; say_drain; look full")
    left = f"{SMALL} {'full ' * state.resumes}drain" if state.sends else "full" if state.waits else "fails"
    assert found == f"{left} full={state.resumes}", "a control message never fails, and what waits is bounded"


AWAY, BACK, RESUMED = "begin; drop; ", "resume=0:0 resuming", "room resumed"
GONE = "asked over=ENDED"
LIMIT = 2**53
TABLES = [
    # A session survives these codes (proxies send 1001 when they restart), unless its owner does not keep it.
    *((f"begin; |drop {code}", "asked room detached") for code in (1001, 1006, 4411, 4412)),
    *((f"begin; |drop {code}", GONE) for code in (1000, 1002, 1005, 1008, 1011, 1012, 1013, 1014, 4000, 4400, 4409)),
    ("begin; forget; |drop", GONE),
    ("begin; drop; resume; wait 60; |look state survives", "state=resumable survives=True"),
    # With a plain peer it ends with its connection, and messages are what they are.
    ("start can_resume=False; |send 1; get 1; look kept_bytes timers; drop 4412", f"1 kept_bytes=0 timers=0 {GONE}"),
    # The user's messages wait for open handlers, and others do not. No message overtakes one that has to wait longer.
    (f"{AWAY}decide session_resuming=False; queue 1; queue 2 of_session=True; |resume", f"{BACK} 2 {RESUMED}"),
    (
        f"{AWAY}queue 1; queue 2 fails=True; queue 3; queue 0; queue 4; |resume; look queued",
        f"{BACK} 1 3 {RESUMED} queued=4",
    ),
    ("begin; queue 1; queue 2; on takes=1; |send_queued include_user_messages=True; look queued", "1 room queued=2"),
    ("begin; drop; queue 1; queue 2 of_session=True; |ends ENDED; look queued", "over=ENDED queued=1"),
    # The greeting counts once, and limits only after it.
    ("start; |announce message=600; look ignored; greet message=700", "ignored=1 server?welcome agree=700"),
    ("begin; |announce message=800", "agree=800"),
    ("begin; |greet; say drain after_ms=3; say later; ack 0:0; look ignored", "control ignored=2"),
    ("start; |ack 0:0; say credit h=1 n=1 bytes=1; look ignored", "control ignored=1"),
    # Nobody can communicate within such limits.
    ("start; |greet message=511", f"fail=1007 client?gone closes=1007 {GONE}"),
    ("begin; |announce values=-1", f"fail=1007 client?gone closes=1007 {GONE}"),
    ("begin; |announce running_bytes=0", f"fail=1007 client?gone closes=1007 {GONE}"),
    ("begin; drop; |resume message=511", "client?resume=0:0 client?gone closes=1007 over=ENDED"),
    # This side announces its limits when they change, if the greeting has not said them.
    ("start; |change 1000; look largest", "largest=1000"),
    ("begin; |change 1000; look largest", "limits largest=1000"),
    (
        "begin; change 1000; drop; |resume; look largest",
        f"resume=0:0 limits resuming client?limits {RESUMED} largest=1000",
    ),
]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("script", "trace"), TABLES)
def test_what_happens_to_a_session(script: str, trace: str, side: str) -> None:
    assert Alone(side).play(script) == expected(trace, side)


@pytest.mark.parametrize("side", SIDES)
def test_what_those_above_do_within_a_report(side: str) -> None:
    """A connection that has dropped is not full: `emit_nowait` raised `QueueFull`. And a session ends once."""
    s = Alone(side).begin()
    s.above.does["session_detached"] = lambda *_: s.look("full")
    s.wire.pause()
    assert s.play("|drop") == "asked room detached full=False"
    s = Alone(side).begin()
    s.above.does["decide"] = lambda info: s.play("ends REPLACED") and Decision(keeps=True)
    assert s.play("drop") == "asked over=REPLACED"


@pytest.mark.parametrize("side", SIDES)
def test_what_is_withdrawn_makes_room(side: str) -> None:
    """Senders waited on, as if requests that had been cancelled still took the room."""
    s = Alone(side).begin()
    s.play(f"drop; queue {SMALL} of_session=True; |queue_changed")
    [message] = s.offline.all()
    assert message.withdraw() and not message.withdraw()
    assert s.play("queue_changed; look kept_bytes") == "full room kept_bytes=0"


async def test_who_waits_for_room_goes_on_with_room_and_with_the_end() -> None:
    for happens in ("resume", "lose", "rebind"):
        d = redialing()
        d.transport.pause()
        writer = current_of(d.peer).writer
        waits, cancelled = start(writer.wait_room()), start(writer.wait_room())
        await turns()
        cancelled.cancel()
        assert not waits.done()
        getattr(d if happens == "rebind" else d.transport, happens)()
        await waits
        await d.peer.close()


@pytest.mark.parametrize("side", SIDES)
def test_what_is_held_back_leaves_before_each_other_message(side: str) -> None:
    s = Alone(side).begin()
    outer, inner = s.session.precede(lambda: s.send(1)), s.session.precede(lambda: s.send(2))
    for size, stop in ((3, inner), (4, outer), (5, lambda: None)):
        s.send(size)
        stop()
    assert s.play("send_held_back") == "1 2 3 1 4 5"


# ---------------------------------------------------------------- a client asks to resume

CLIENT = [
    # It waits 5 seconds for the first answer, and longer after each that does not come, until the session expires.
    (AWAY + "ask; |wait 4.9; mark; wait 0.1", "-- aborts failed"),
    (AWAY + "ask; wait 5; ask; |wait 9.9; mark; wait 0.1", "-- aborts failed"),
    (AWAY + "ask; wait 5; ask; drop; ask; |wait 9.9; mark; wait 0.1", "-- aborts failed"),
    (AWAY + "ask; wait 5; resume; drop; ask; |wait 4.9; mark; wait 0.1", "-- aborts failed"),
    (AWAY + "wait 58; ask; |wait 1.9; mark; wait 0.1", "-- gone closes=1001 over=EXPIRED"),
    # With what the server has closed it meanwhile.
    *(
        (AWAY + f"ask; |drop {code}; look code", f"aborts failed code={last}")
        for code, last in ((1006, 1006), (1012, 1006), (4412, 1006), (4001, 4001))
    ),
    # It may move before its welcome, unless so much time has passed that nothing is kept.
    ("start; wait 9.9; |drop 4412; wait 29.9; resume", f"asked room detached {BACK} {RESUMED}"),
    ("start; drop 4412; |wait 30", "over=EXPIRED"),
    ("start; drop 4412; resume; |greet sid=s.2; get 1; wait 1; look sid", f"agree={LIMIT} ack=1:1 sid=s.2"),
    ("start; wait 10; |look may_move; drop 4412", f"may_move=False {GONE}"),
    ("start; |look may_move; drop", f"may_move=True {GONE}"),
    # A welcome that is late: it counts on, because the server sends parts until it reads that the session ends.
    ("start; wait 10; |greet; get 1; wait 1; drop", f"gone agree={LIMIT} ack=1:1 {GONE}"),
    # A server that does not resume sessions.
    ("start; |greet sid=''; send 1; look kept_bytes; drop", f"agree={LIMIT} 1 kept_bytes=0 {GONE}"),
]


@pytest.mark.parametrize(("script", "trace"), CLIENT)
def test_when_a_client_asks_to_resume(script: str, trace: str) -> None:
    """After two attempts without an answer, it gave up a session that the server had kept, on a link that was full."""
    assert Alone("client").play(script) == trace


def test_each_attempt_has_a_higher_number_and_each_answer_another_token() -> None:
    s = Alone("client").begin()
    for script, gen, token in (("get 3", 1, "secret"), ("look", 2, "secret"), ("drop; resume token=new", 4, "new")):
        s.play(f"{script}; drop; ask")
        [asked] = s.wire.pop_sent()
        known = {"t": "resume", "v": 1, "gen": gen, "sid": "s.id", "token": token, "rx": 1, "bytes": 3}
        assert asked["wsrpc"].items() >= known.items() and "resume" in asked["wsrpc"]["features"] and s.wire.survives


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (control("gone", why="expired"), "the server has no such session any more"),
        (control("gone", why="of a later version"), "the server refuses it: 'of a later version'"),
        (resumable(), "the server did not resume it"),
        (b"\xc1", "the server did not resume it"),
    ],
    ids=["expired", "later", "new session", "nonsense"],
)
def test_a_refused_client_ends_its_session_before_another_one_starts_on_the_connection(answer: Any, why: str) -> None:
    """The server takes the request for the hello of the next session."""
    s, other = Alone("client").begin(), Alone("client")
    s.play("drop; |look state")
    s.ask(refused=other.start)
    s.wire.feed(answer)
    assert s.play("look state") == "state=detached resume=0:0 over=REFUSED refused state=over"
    assert why in str(s.end.error)
    assert (other.session.sid or other.got) if "gone" not in str(answer) else other.trace == [], "and no second hello"
    s.drop(1000)
    assert other.session.over


# ---------------------------------------------------------------- what a peer says of its session


async def test_a_close_after_a_violation_is_the_end_by_the_user() -> None:
    d, notified = Driven(), list[CloseInfo]()
    d.transport.may_close = asyncio.Event()
    d.peer.on("close", lambda peer, info: notified.append(info))
    d.feed(*['{"a":["work"'] * 12)
    closing = start(d.peer.close(4001, "mine"))
    await turns()
    with pytest.raises(ConnectionLost, match="4001 mine"):
        d.peer.emit_nowait("note")
    d.transport.may_close.set()
    await closing
    assert [(info.code, info.user_closed) for info in notified] == [(1007, True)]


@pytest.mark.parametrize("make", [redialing, Driven])
async def test_close_handlers_that_wait_for_events_learn_that_the_user_has_closed(make: Callable[[], Driven]) -> None:
    driven, go, notified = make(), asyncio.Event(), list[CloseInfo]()
    driven.peer.on("close", lambda peer, info: notified.append(info))
    driven.peer.on("note", go.wait, ordered=True)
    driven.feed({"a": ["note"]}, {"a": ["note"]})
    await turns()
    driven.transport.lose()
    await driven.peer.close(4000, "enough")
    assert notified == []
    go.set()
    await until(lambda: notified)
    assert [(info.user_closed, info.will_reconnect) for info in notified] == [(True, False)]

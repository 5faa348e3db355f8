"""The sessions of a server: which requests to resume it accepts, what it remembers, and what all of them may take."""

from __future__ import annotations

from typing import Any

import pytest
from session_alone import TTL, Alone, Timers

from wsrpc import Limits
from wsrpc._core.session.session import BYTES_PER_MESSAGE
from wsrpc._core.session.sessions import BYTES_PER_SESSION, Sessions
from wsrpc.transport import Traffic

LIMIT = 2**53


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise SystemError("cannot be compared")

    __hash__ = object.__hash__


# ---------------------------------------------------------------- who may resume


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"token": "x" * 43}, "expired"),
        ({"token": ""}, "expired"),
        ({"token": "é" * 100}, "expired"),
        ({"gen": 0}, "expired"),
        ({"sid": "x" * 43}, "expired"),
        ({"sid": ""}, "expired"),
        ({"sid": "o.ther"}, "elsewhere"),
        ({"sid": "o.ther", "token": ""}, "elsewhere"),
        ({"by": "eve"}, "auth"),
        ({"by": "eve", "token": ""}, "expired"),
        ({"by": Incomparable()}, "auth"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("closed", [False, True], ids=["", "closed meanwhile"])
def test_who_has_no_right_to_a_session_gets_an_answer_and_changes_nothing(
    asked: Any, answer: str, closed: bool
) -> None:
    """Without its token, the answer is that of a session that does not exist."""
    s = Alone(principal="ann").begin()
    s.play(f"send 1; {'closing 1008; ' * closed}drop; |look state")
    s.resume(**asked)
    s.resume(gen=1)
    if not closed:
        assert s.trace[1:] == [f"answer={answer}", "resume=0:0", "1", "resuming", "room", "resumed"]
        return
    assert s.trace[1:] == [f"answer={answer}", "answer=1008"]
    s.sessions.remove_closed(s.named["sid"])
    assert s.play("|resume; wait 60; look timers") == "answer=expired timers=0"


ASKED = [
    ("drop; wait 59.9; |resume; wait 60; look state", "resume=0:0 resuming room resumed state=resumable"),
    ("drop; wait 60; |resume", "answer=expired"),
    ("|say gone why=closed; look state kept_bytes; resume", "state=attached kept_bytes=0 answer=expired"),
    ("refuse; |say gone why=closed; look state", "state=dead"),
    ("drop 1000; |resume", "answer=expired"),
    # Another connection closes the first one, if the owner keeps the session.
    (
        "send 1; |resume; look state",
        "asked room detached closes=4409 resume=0:0 1 resuming room resumed state=resumable",
    ),
    ("forget; |resume", "asked over=ENDED closes=4409 closes=1001"),
    ("closing 4001; |resume", "asked over=ENDED aborts answer=4001"),
    ("closing 1000; |resume", "asked over=ENDED aborts answer=expired"),
    # What the new connection refuses waits for the next one.
    (
        "send 1; drop; send 2; |resume takes=0; look state; resume",
        "state=detached resume=0:0 1 resuming 2 room resumed",
    ),
    ("send 1; drop; send 2; resume takes=1; look state; drop; |resume", "resume=0:0 1 resuming 2 room resumed"),
    # What may not have reached the client is remembered as long as the session would have been kept.
    ("closing 4001; drop; wait 59.9; |resume; wait 0.1; resume; look timers", "answer=4001 answer=expired timers=0"),
    ("closing 4001; drop 4001 clean=True; |resume", "answer=expired"),
    ("drop 4001; |resume", "answer=expired"),
]


@pytest.mark.parametrize(("script", "trace"), ASKED)
def test_what_a_server_answers(script: str, trace: str) -> None:
    assert Alone().begin().play(script) == trace


def test_a_session_ends_if_its_own_client_comes_with_other_limits() -> None:
    s = Alone().begin()
    s.play("drop; |look state")
    s.resume(within=Limits(running=5))
    assert s.play("resume") == "state=detached over=ENDED answer=limits answer=expired"


def test_tokens() -> None:
    """The answer, with the newer token, may get lost: then the client presents the token again that it has."""
    s, tokens = Alone().begin(), list[str]()
    tokens.append(s.named["token"])
    for presented, accepted in ((0, 1), (0, 1), (0, 1), (1, 0), (2, 0), (3, 1), (0, 0), (3, 1), (4, 0), (5, 1)):
        s.play("|drop")
        s.resume(token=tokens[presented])
        assert ("answer=expired" in s.trace) is not accepted
        if accepted:
            tokens.append(s.wire.pop_sent()[0]["wsrpc"]["token"])
            for gen in (s.gen, s.gen - 1):
                s.resume(token=tokens[presented], gen=gen)
            assert s.trace[-2:] == ["answer=expired"] * 2, "a number is good once"
    assert len({*tokens}) == len(tokens) and not {*tokens} & {
        getattr(s.session.tokens, name) for name in ("_issued", "_presented")
    }


# ---------------------------------------------------------------- before the welcome

MINE: Any = {"sid": "mine", "token": "secret"}


@pytest.mark.parametrize("sent_before", [0, 1])
def test_a_session_resumes_by_its_own_name_until_the_welcome_has_arrived(sent_before: int) -> None:
    """Unless something was sent before the welcome, because that is not sent again."""
    s = Alone()
    s.start()
    s.wire.traffic = Traffic(messages_out=sent_before)
    s.greet(**MINE)
    s.play("get 2; send 5; drop 4412; |look state")
    s.resume(**MINE | {"token": "guessed"})
    s.resume(**MINE)
    if sent_before:
        assert s.trace[1:] == ["answer=expired"] * 2
        return
    assert s.trace[1:] == ["answer=expired", "resume=1:2", "welcome", "5", "resuming", "room", "resumed"]
    resumed, welcome = (each["wsrpc"] for each in s.wire.pop_sent() if isinstance(each, dict))
    assert resumed["token"] == welcome["token"] not in ("secret", s.named["token"])
    s.named = welcome
    assert s.play("drop; |resume") == "resume=1:2 5 resuming room resumed"


@pytest.mark.parametrize("name", ["mine", "a.b", "x" * 65, "x" * 64])
def test_a_name_that_is_used_or_not_valid(name: str) -> None:
    s = Alone().begin(**MINE)
    other = Alone(sessions=s.sessions)
    other.start()
    other.greet(sid=name, token="secret")
    valid = name == "x" * 64
    assert other.trace[0] == ("welcome" if valid else "fail=1007") and len(s.sessions) == 1 + valid
    assert s.session.sid == f"{s.sessions.here}.mine"


@pytest.mark.parametrize("is_lost", [True, False])
@pytest.mark.parametrize(
    ("by", "before", "after", "answer"),
    [
        ("ann", 2.0, 1.0, "new"),
        ("bob", 2.0, 1.0, "expired"),
        # A proxy has given this connection up, and repeats the handshake at another process, or has done so.
        ("ann", 2.0, 3.0, "expired"),
        ("ann", 0.5, 1.0, "expired"),
    ],
)
def test_a_session_whose_hello_has_not_arrived_begins_by_its_resume(
    by: str, before: float, after: float, answer: str, is_lost: bool
) -> None:
    """If the key of the handshake shows that this process has its connection, on which it then reads nothing more."""
    s = Alone(principal="ann")
    s.start(key="mine")
    s.play(f"wait {before}; {'drop 4412; ' * is_lost}wait {after}")
    s.resume(**MINE, by=by)
    s.resume(**MINE)
    answer = "new" if after == 3.0 and not is_lost else answer
    assert s.session.over and s.trace[-2:] == [f"answer={answer}", "answer=expired"]


def test_a_handshake_that_a_proxy_repeats_at_the_same_process_is_another_connection() -> None:
    sessions, timers = Sessions(TTL, LIMIT), Timers()
    given_up, silent = (Alone(sessions=sessions, timers=timers) for _ in range(2))
    for each in (given_up, silent):
        each.start(key="mine")
    given_up.drop()
    silent.play("wait 5; drop")
    silent.resume(**MINE)
    assert silent.trace[-1] == "answer=new"


@pytest.mark.parametrize("offers", ["resume probe", "probe", "resume", ""])
@pytest.mark.parametrize("can_resume", [True, False])
def test_a_probe_is_answered_if_that_was_agreed_on_whether_or_not_the_session_can_resume(
    offers: str, can_resume: bool
) -> None:
    s = Alone(offers=offers)
    answers = "alive*2 full" if "probe" in offers else "full"
    trace = s.play(f"start can_resume={can_resume}; greet; |say probe; say probe; pause; say probe; look ignored")
    assert trace == f"{answers} ignored={3 * ('probe' not in offers)}", "an answer that is not read is not sent"
    assert ("sid" in s.named and s.session.sid != "") is ("resume" in offers and can_resume)


def test_the_number_that_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsrpc._core.session.sessions.MOST_CLOSED", 2)
    timers, sessions = Timers(), Sessions(TTL, LIMIT)
    closed = [Alone(sessions=sessions, timers=timers).begin() for _ in range(3)]
    silent = [Alone(sessions=sessions, timers=timers) for _ in range(3)]
    for number, each in enumerate(silent):
        each.start(key=f"key {number}")
    timers.advance(5.0)
    for each in (*closed, *silent):
        each.play("closing 4001; drop; |look state")
    assert len(timers.queue) == 2, "the timer of the oldest is gone, too"
    for number, each in enumerate(silent):
        each.resume(sid=f"key {number}")
    assert [each.trace[-1] for each in silent] == ["answer=expired", "answer=new", "answer=new"]
    assert [each.play("|resume") for each in closed] == ["answer=expired", "answer=4001", "answer=4001"]


# ---------------------------------------------------------------- what all of them may take


def away(sessions: Sessions, size: int = 0, **options: Any) -> Alone:
    """A session without a connection, of which so many bytes wait."""
    s = Alone(sessions=sessions, **options).begin()
    s.play(f"drop{f'; send {size}' * bool(size)}")
    return s


@pytest.mark.parametrize(
    ("victim", "attackers"),
    [
        ({"principal": "ada"}, [{"principal": "mallory"}]),
        ({"remote": "2001:db8::1"}, [{"remote": f"2001:db8:0:1::{n:x}"} for n in range(1, 8)]),
        ({"remote": "192.0.2.1"}, [{"remote": "192.0.2.1"}]),
        ({"remote": "::ffff:192.0.2.1"}, [{"remote": "::ffff:192.0.2.2"}, {"remote": "::ffff:192.0.2.3"}]),
        ({"principal": "ada"}, [{"remote": f"192.0.2.{n}"} for n in range(1, 3)]),
        ({"principal": object(), "remote": "192.0.2.1"}, [{"principal": object(), "remote": "192.0.2.2"}]),
    ],
    ids=[
        "principals",
        "a network",
        "the larger sessions",
        "IPv4 in IPv6",
        "some without a principal",
        "without a hash",
    ],
)
def test_who_fills_the_memory_ends_its_own(victim: Any, attackers: list[Any]) -> None:
    """Of the client that takes most, the largest session ends, and the oldest of those that take as much."""
    sessions = Sessions(TTL, 1_000_000)
    own = away(sessions, 10_000 if attackers == [victim] else 70_000, **victim)
    others = [away(sessions, 60_000, **attackers[number % len(attackers)]) for number in range(40)]
    living = [number for number, each in enumerate(others) if not each.session.over]
    assert len(living) in (11, 12) and not own.session.over
    assert len(attackers) > 1 or living == [*range(40 - len(living), 40)]


COUNTED = {
    "not acknowledged": "send {message}; drop",
    "waits": "drop; send {message}",
    "of the user": "queue {message}; drop",
    "parts without the rest": "raw {parts}; drop",
    "above": "decide backlog={size}; drop",
    "above, later": "drop; decide backlog={size}; memory_changed",
    "after a withdrawal": "drop; queue 800 of_session=True; withdraw; send {message}",
}


@pytest.mark.parametrize("what", COUNTED)
@pytest.mark.parametrize("too_much", [0, 1])
def test_what_counts_while_there_is_no_connection(what: str, too_much: int) -> None:
    s = Alone(sessions=Sessions(TTL, BYTES_PER_SESSION + 1000), offers="msgpack parts resume").begin()
    size = 1000 + too_much
    s.play(COUNTED[what].format(size=size, message=size - BYTES_PER_MESSAGE, parts=f"c100{'78' * size}"))
    assert s.session.over is bool(too_much)


def test_sessions_that_have_a_connection_do_not_count() -> None:
    """A session was counted while it moved from one connection to the other, and ended because it held too much."""
    sessions = Sessions(TTL, BYTES_PER_SESSION + 1000)
    moves, comes_back = Alone(sessions=sessions).begin(), Alone(sessions=sessions).begin()
    moves.play("send 100000; resume")
    comes_back.play("drop; resume; send 100000")
    other = away(sessions, 800)
    assert not (moves.session.over or comes_back.session.over or other.session.over)
    moves.drop()
    assert moves.session.over and not other.session.over


@pytest.mark.parametrize("is_gone", [True, False])
def test_what_ended_sessions_have_left_counts_until_it_is_gone(is_gone: bool) -> None:
    """A client that ended its sessions and came again could fill the memory."""
    sessions = Sessions(TTL, 2 * BYTES_PER_SESSION + 1000)
    ended = Alone(sessions=sessions).begin()
    ended.play("decide backlog=800; drop 1000; update_memory")
    other = away(sessions)
    ended.play(f"|{'decide backlog=0; memory_changed; ' * is_gone}look state")
    other.send(500)
    assert not other.session.over and ended.trace[1:] == ["dropped"] * (not is_gone)

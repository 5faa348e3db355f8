"""What a session keeps, sends again, counts and acknowledges: `ReplayBuffer` and `Acknowledger`."""

from __future__ import annotations

import json

import pytest
from session_alone import SIDES, SMALL, Alone, expected
from stream_driver import control

from wsrpc._core.wire.nodes import NODE

K, MOST = SMALL, SMALL // 256  # `Limits.replay_bytes` and `Limits.replay_messages`; as much may be kept once more
ENDS = "client?resume=0:0 client?gone closes=1009 over=ENDED"
WRONG = ["-1:0", "0:0", "1:2", "2:4", "4:6", f"{10**200}:6", f"3:{10**200}"]
DROPPED = "asked full detached aborts"
PARTS = "msgpack parts resume"
RESUMED = "resuming room resumed"

KEEPS = [
    # What has not arrived is sent again, in order, and then what has waited.
    ("send 1 2 3; ack 1:1; send 6 text=True; drop; send 4; |resume 2:3", "resume=0:0 3 6t resuming 4 room resumed"),
    (
        "send 1 2 3; drop; send 4; |look kept_bytes; resume 2:3; |send 5; look kept_bytes; ack 5:15; look kept_bytes",
        "5 kept_bytes=12 kept_bytes=0",
    ),
    # Senders wait while as much is kept as may be.
    (f"send {K - 1}", f"{K - 1}"),
    (f"send {K}", f"{K} full"),
    (f"send 1 {K}; |ack 1:1; look full; ack 2:{K + 1}; look timers", "full=True room timers=0"),
    (f"send 2 {K - 1}; |ack 1:2", "room"),
    (f"send 1*{MOST - 1}", f"1*{MOST - 1}"),
    (f"send 1*{MOST}", f"1*{MOST} full"),
    (f"send 1*{MOST + 1}; |ack 1:1; look full; ack 2:2", "full=True room"),
    # What cannot be kept ends the session with its connection. One message alone may be as large as it is.
    (f"send {K} {K}; |look kept_bytes; drop", f"kept_bytes={2 * K} asked full detached"),
    (f"send {K} {K + 1}; |look kept_bytes; ack 0:0; send 1; wait 60; drop", "kept_bytes=0 1 asked over=ENDED"),
    (f"send {3 * K}; |look kept_bytes; drop", f"kept_bytes={3 * K} asked full detached"),
    (f"send {3 * K} 1; |look kept_bytes full", "kept_bytes=0 full=False"),
    # A connection on which nothing arrives is dropped. (A page acknowledged too late for its 10 seconds.)
    (f"send 1 {K}; wait 9; |mark; wait 1; mark", f"-- {DROPPED} --"),
    (f"send 1 {K}; wait 9; ack 0:0; |mark; wait 1; mark", f"-- {DROPPED} --"),
    (f"send 1 {K}; wait 9; ack 1:1; |wait 1; mark; wait 10", f"-- {DROPPED}"),
    (f"send 1 {K}; wait 9; get 1; |wait 1; mark; wait 10", f"ack=1:1 -- {DROPPED}"),
    (f"send 1 {K}; wait 9; ack 2:{K + 1}; |wait 60", ""),
    (f"send 1 {K}; wait 9; ignore; |wait 60", ""),
    (f"send 1 {K}; wait 9; |wait 1; wait 15; |resume; |wait 9.9; mark; wait 0.1", f"-- {DROPPED}"),
    # Counts that do not agree end the session.
    *((f"send 1 2 3; ack 1:1; |ack {n}", "fail=4400 client?gone closes=4400 asked over=ENDED") for n in WRONG),
    *((f"send 1 2 3; ack 1:1; drop; |resume {n}", ENDS.replace("1009", "4400")) for n in WRONG),
    # A message that is lost on four connections in a row, and in 30 seconds, ends it: all later ones would wait for it.
    *(
        (f"send 31 1; {f'drop; wait {seconds}; resume; ' * (times - 1)}drop; wait {seconds}; |resume", ENDS)
        for seconds, times in ((16, 4), (10, 4), (9.9, 5), (6, 6))
    ),
    (f"send 31 1; {'drop; resume; ' * 9}|look state", "state=resumable"),
    (f"send 31 1; {'drop; wait 10; resume; ' * 3}{'drop; wait 10; resume 1:31; ' * 3}|look state", "state=resumable"),
]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("script", "trace"), KEEPS)
def test_what_a_session_keeps(script: str, trace: str, side: str) -> None:
    assert Alone(side).begin().play(script) == expected(trace, side)


FAST = "send 20000; ack 2:20004; "
BACK = "resume 2:20004"
IN_PARTS = "16386*2 7234"
PARTED = [
    # A large message leaves in parts, until one has shown that as much takes less than a second.
    ("send 16384 16385; look kept_bytes", "16384 16386 3 kept_bytes=32773"),
    ("wait 5; send 100000; wait 2; ack 6:98316; |send 20000", "16386 3618"),  # it has not arrived yet
    ("wait 5; send 100000; wait 2; ack 7:100014; wait 60; ack 7:100014; |send 50000 50001", "50000 50002 3"),
    ("send 100000; ack 7:100014; |send 131072 131073", "131072 full 131074 3"),
    ("send 20000; wait 10; ack 2:20004; |send 16384 16385", "16384 16386 3"),
    # If one that was not cut so small was lost, each is from then on.
    (
        f"{FAST}send 40000 1; send 2 text=True; drop; |{BACK}; look kept_bytes",
        f"resume=0:0 {IN_PARTS} 1 2t {RESUMED} kept_bytes=40009",
    ),
    (f"{FAST}send 40000; drop; {BACK}; ack 5:60010; |send 40000; ack 8:100016; send 40000", f"{IN_PARTS} {IN_PARTS}"),
    (f"{FAST}send 16384; drop; {BACK}; ack 3:36388; send 20000; ack 5:56392; |send 40000", "40000"),
    (f"{FAST}send 16386; send 16387; drop; |{BACK}", f"resume=0:0 16386*2 5 {RESUMED}"),
    # Parts are bounded as other messages are, and one message alone may be as large as it is.
    (f"send {K - 16}; look kept_bytes", f"16386*7 16370 full kept_bytes={K}"),
    (f"send {K - 17}", "16386*7 16369"),
    (f"send {K} {K}; |look kept_bytes full", f"kept_bytes={2 * K + 32} full=True"),
    (f"send {K} {K + 1}; |look kept_bytes full", "kept_bytes=0 full=False"),
    (f"send {3 * K}; |look full; send 1; look kept_bytes", "full=True 1 room kept_bytes=0"),
]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("script", "trace"), PARTED)
def test_what_leaves_in_parts(script: str, trace: str, side: str) -> None:
    assert Alone(side, offers=PARTS, hard_cap_bytes=K + 32).begin().play(script) == trace


@pytest.mark.parametrize("text", [True, False])
def test_parts_and_parts_of_parts_make_the_message_again(text: bool) -> None:
    """Also if a connection refuses some of them."""
    s, other = Alone("client", offers=PARTS).begin(), Alone(offers=PARTS).begin()
    assert s.play("send 20000; ack 2:20004; |look kept_bytes") == "kept_bytes=0"
    s.wire.takes = 1
    payload = bytes(range(48, 90)) * 5_000
    s.session.send(payload, text)
    s.play("drop; resume 2:20004")
    _, *parts = s.wire.pop_sent()
    for _ in range(2):
        other.wire.feed(*parts[:5], b"another message", *parts[5:])
    assert other.got == [b"another message", payload.decode() if text else payload] * 2


NO_KIND, MORE, LAST, UNKNOWN = "c1", "c100", "c102", "c103"
INVALID = "fail=1007 client?gone closes=1007 asked over=ENDED"
JOINED = [
    (NO_KIND, INVALID),
    (MORE, INVALID),
    (f"{MORE}78 {LAST}", INVALID),
    (f"{UNKNOWN}78", INVALID),
    (f"{LAST}{MORE}78", INVALID),
    (f"{MORE}{999 * '78'} {MORE}{999 * '78'} {LAST}{3 * '78'}", INVALID.replace("1007", "1009")),
    (f"{MORE}{999 * '78'} {MORE}{999 * '78'} {LAST}{2 * '78'}", ""),
]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("parts", "trace"), JOINED, ids=lambda value: value[:20])
def test_parts_that_make_no_message_end_the_session(parts: str, trace: str, side: str) -> None:
    s = Alone(side, offers=PARTS, message_bytes=2000).begin()
    assert s.play(f"raw {parts}") == expected(trace, side) and s.got == [b"x" * 2000] * (not trace)
    s = Alone(side, offers="msgpack resume").begin()
    assert s.play(f"raw {parts}") == "" and len(s.got) == len(parts.split()), "without the feature they are messages"


# ---------------------------------------------------------------- acknowledgements

RESUMES = "drop; wait 0; |resume"
ACKNOWLEDGED = [
    # In the next turn, after a second, or at once if there are bytes with which it can leave.
    *(
        (
            f"{unsent}; get {sizes}; mark turn; wait 0; mark later; wait 1; look timers",
            f"{at_once}turn {in_a_turn}later {late}timers=0",
        )
        for unsent, sizes, at_once, in_a_turn, late in [
            ("on unsent=0", "1*255", "", "", "ack=255:255 "),
            ("on unsent=0", "1*256", "", "ack=256:256 ", ""),
            ("on unsent=0", "1*300", "", "ack=300:300 ", ""),
            ("on unsent=0", "65535", "", "", "ack=1:65535 "),
            ("on unsent=0", "32768*2", "", "ack=2:65536 ", ""),
            ("on unsent=1", "1*255", "", "", "ack=255:255 "),
            ("on unsent=1", "1*256", "ack=256:256 ", "", ""),
            ("on unsent=1", "1*300", "ack=256:256 ", "", "ack=300:300 "),
        ]
    ),
    ("get 1*256; wait 0; get 1*255; |wait 0; mark; wait 1", "-- ack=511:511"),
    ("get 2*256; wait 0; get 2*256; |wait 0", "ack=512:1024"),
    ("get 1; wait 1; get 1; |wait 1", "ack=2:2"),
    ("get 1*255; drop; resume 0:0; get 1; |wait 0; mark; wait 1", "-- ack=256:256"),
    # A resume acknowledges what has arrived before, and nothing else does.
    ("get 1; wait 0.5; drop; wait 1; |resume 0:0; wait 2", "resume=1:1 resuming room resumed"),
    ("get 1; wait 0.5; drop; resume; get 2; |wait 0.9; mark; wait 0.1", "-- ack=2:3"),
    ("get 1*256; drop; wait 0; |resume 0:0; wait 2", "resume=256:256 resuming room resumed"),
    ("get 1*256; drop; wait 0; resume; get 2*256; |wait 0", "ack=512:768"),
    # An end is not acknowledged.
    ("get 1*256; drop 1000; |wait 2; look timers", "timers=0"),
    ("get 1*255; announce message=0; |wait 2; look timers", "timers=0"),
]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("script", "trace"), ACKNOWLEDGED)
def test_when_messages_are_acknowledged(script: str, trace: str, side: str) -> None:
    assert Alone(side).begin().play(script) == trace


@pytest.mark.parametrize("side", SIDES)
def test_only_messages_count_that_both_sides_count(side: str) -> None:
    s, later, changed = Alone(side).begin(), control("of a later version"), control("limits", limits={"message": 9999})
    for kind in ("probe", "alive", "gone"):
        s.say(kind, why="")
    s.wire.feed(control("welcome", features=[], limits={}), changed, later, b"xyz", control("ack", n=0, bytes=0))
    size = len(json.dumps(changed)) + len(json.dumps(later)) + 3
    assert s.play("|wait 1") == f"ack=3:{size}"


@pytest.mark.parametrize("side", SIDES)
def test_what_was_sent_on_a_lost_connection_may_arrive_until_the_next_acknowledgement(side: str) -> None:
    """After a resume, the remote peer sends that again before it acknowledges. If nothing arrives then, it will not."""
    s = Alone(side).begin()
    before = s.session.replay.received
    rows = (("send 1", False), ("drop", True), ("resume", True), ("get 1", True), ("ack 1:1", False), ("get 1", False))
    for script, may_arrive in rows:
        s.play(script)
        replay = s.session.replay
        assert replay.remote_repeats(before) is may_arrive
        assert replay.remote_repeats(replay.received) is (script == "drop")


# ---------------------------------------------------------------- before the welcome, and between nodes

UNKNOWN_SERVER = [
    # A plain server acknowledges nothing, so nobody waits. After the welcome, what was sent counts.
    (
        f"start; send {2 * K}; |look kept_bytes full; greet; drop",
        f"kept_bytes={2 * K} full=False full agree={2**53} asked full detached",
    ),
    (f"start; send {K} {K + 1}; |look kept_bytes; greet; drop", f"kept_bytes=0 gone agree={2**53} asked over=ENDED"),
    (f"start; send 1*{2 * MOST}; |look kept_bytes full; greet", f"kept_bytes={2 * MOST} full=False full agree={2**53}"),
    (f"start; send 1*{2 * MOST + 1}; |look kept_bytes", "kept_bytes=0"),
    (f"start; send {K - 1}; |greet", f"agree={2**53}"),
    (f"start; send {K}; |greet", f"full agree={2**53}"),
    (f"start; send 1*{MOST}; |greet", f"full agree={2**53}"),
]


@pytest.mark.parametrize(("script", "trace"), UNKNOWN_SERVER)
def test_what_a_client_keeps_before_the_welcome(script: str, trace: str) -> None:
    assert Alone("client").play(script) == trace


@pytest.mark.parametrize(("size", "sent"), [(32 * 1024, 32 * 1024), (32 * 1024 + 1, len(b"sorry"))])
def test_between_nodes_the_largest_message_is_given_up_that_is_lost_again_and_again(size: int, sent: int) -> None:
    """What carries their connections may be unable to carry it."""
    s = Alone(profile=NODE).begin()
    trace = s.play(f"send 1 {size} 2; {'drop; resume; ' * 3}drop; |resume; look kept_bytes")
    assert trace == f"{'given-up ' * (sent != size)}resume=0:0 1 {sent} 2 resuming room resumed kept_bytes={3 + sent}"

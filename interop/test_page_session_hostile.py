"""A page's session whose server lies or whose network is silent: an honest end, no growth, and no loop of attempts."""

from __future__ import annotations

import pytest

from interop.session_pages import play

GROWTH = 1024 * 1024  # bytes

# The steps, with seconds, and what the page does after its hello. Math.random() is 0.5, and delays are half as long.
TIMED = """
nothing moves > 0@welcome 15@end > 5 probe, 9 dial, 9 close 4412, 9 resume, 14 close 4412, 14 detached, 14.3 dial,
    14.3 resume
nothing moves, and nobody answers > 0@welcome 0@hold 19@end > 5 probe, 9 dial, 19 close 4412, 19 close 4412,
    19 detached
nothing moves, and no session > 0@welcome:probe 20@end > 5 probe, 9 close 1000, 9 close
nothing moves, and the page is hidden > 0@welcome 0@hide 34@end > 30 probe, 34 dial, 34 close 4412, 34 resume
messages arrive > 0@welcome 4@text:b 8@text:b 12@text:b 16@end > 5 ack:1, 9 ack:2, 13 ack:3
the answer is late > 0@welcome 0@hold 16@say:alive 20@end > 5 probe, 9 dial
the answer is late, and the other connection never opens >
    0@welcome 0@hold 16@say:alive 20@say:alive 24@say:alive 27@end > 5 probe, 9 dial, 26 close 1000
a large message leaves > 0@welcome 1@unsent:9 5@end 6@unsent:8 9@unsent:7 14@unsent:6 18@end > 5 probe
a large message does not leave > 0@welcome 1@unsent:9 9@end > 5 probe, 9 dial, 9 close 4412, 9 resume
a message leaves, and nothing follows > 0@welcome 4@unsent:9 5@end 6@unsent:0 9@end > 5 probe, 9 dial, 9 close 4412,
    9 resume
patience grows until something arrives > 0@welcome 9@end 9@resumed 22@end 22@resumed 22@text:b 31@end > 5 probe,
    9 dial, 9 close 4412, 9 resume, 9 resumed, 14 probe, 22 dial, 22 close 4412, 22 resume, 22 resumed, 23 ack:1,
    27 probe, 31 dial, 31 close 4412, 31 resume
a slow download, and the page is seen again >
    0@welcome 2@text:b 3@hide 4@show 5@text:b 7@hide 8@show 11@text:b 12@end > 3 ack:1, 4 probe, 6 ack:2, 8 probe,
    12 ack:3
the page is seen again, and nothing moves > 0@welcome 2@hide 3@show 7@end > 3 probe, 7 dial, 7 close 4412, 7 resume
the network is back, and bytes have left before it was away > 0@welcome 1@unsent:9 5@end 6@unsent:8 7@thaw 7@end >
    5 probe, 7 probe, 7 dial, 7 close 4412, 7 resume
connections drop before the answer, and then one is silent > 0@welcome 1@drop 2@drop 4@drop 11@end > 1 detached,
    1.3 dial, 1.3 resume, 2.5 dial, 2.5 resume, 5 dial, 5 resume, 10 close 4412
nothing moves, and the other connection is refused, long after a failure >
    0@welcome 1@refuse 1@drop 3@allow 5@resumed 6@refuse 14.5@end > 1 detached, 1.3 dial, 1.8 dial, 2.8 dial,
    4.8 dial, 4.8 resume, 5 resumed, 10 probe, 14 dial, 14 close 4412, 14 detached, 14.3 dial
the machine has slept > 0@welcome 60@wakes 60@end > 60 probe, 60 dial, 60 close 4412, 60 resume
the machine has slept, and the server answers > 0@welcome 0@hold 60@wakes 60@say:alive 63@end > 60 probe, 60 dial
each connection drops > 0@welcome 0@drop 1@resumed 1@drop 2@resumed 2@drop 4@resumed 4@drop 7@end > 0 detached,
    0.3 dial, 0.3 resume, 1 resumed, 1 detached, 1.5 dial, 1.5 resume, 2 resumed, 2 detached, 3 dial, 3 resume,
    4 resumed, 4 detached, 4.3 dial, 4.3 resume
drops of a session that lasts are no series of failures >
    0@welcome 0@drop 1@resumed 2.5@drop 3@resumed 8@drop 9@resumed 9@drop 10@resumed 10@drop 12@resumed 14@drop 15@end >
    0 detached, 0.3 dial, 0.3 resume, 1 resumed, 2.5 detached, 2.8 dial, 2.8 resume, 3 resumed, 8 probe, 8 detached,
    8.3 dial, 8.3 resume, 9 resumed, 9 detached, 9.5 dial, 9.5 resume, 10 resumed, 10 detached, 11 dial, 11 resume,
    12 resumed, 14 detached, 14.3 dial, 14.3 resume
a session that is kept for 8 seconds is asked for several times > 0@welcome:8 0@refuse 0@drop 7@end > 0 detached,
    0.3 dial, 0.8 dial, 1.3 dial, 1.8 dial, 2.3 dial, 2.8 dial, 3.3 dial, 3.8 dial, 4.3 dial, 4.8 dial, 5.3 dial,
    5.8 dial, 6.3 dial, 6.8 dial
an answer makes the patience with answers small again > 0@welcome 0@drop 6@resumed 6@drop 12@end > 0 detached,
    0.3 dial, 0.3 resume, 5.3 close 4412, 5.8 dial, 5.8 resume, 6 resumed, 6 detached, 7 dial, 7 resume,
    12 close 4412
a server that is overloaded is left alone for ten seconds > 0@welcome 0@drop 1@shut:1013 13@end > 0 detached,
    0.3 dial, 0.3 resume, 11.5 dial, 11.5 resume
the page is seen again and again, and nothing moves > 0@welcome 0@hold 1@show 2@show 4@show 6@show 8@show 10@end >
    1 probe, 2 probe, 4 probe, 5 dial, 6 probe, 8 probe
"""


async def test_which_silence_ends_a_connection_and_when_another_one_is_dialed() -> None:
    """A page left its connection after 9 seconds of any one message, and after 2 when it was seen again.

    After four drops in 30 seconds it waited for half a minute, although the server could be reached.
    """
    table = [row.split(" >") for row in TIMED.strip().replace("\n    ", " ").splitlines()]
    played = await play(*(f"open {steps}" for _, steps, _ in table))
    seen = {name: row["log"] for (name, *_), row in zip(table, played, strict=True)}
    assert seen == {name: f"0 dial, 0 hello, 0 open,{happens}".rstrip(",") for name, _, happens in table}


async def test_each_answer_has_the_token_for_the_next_attempt_and_the_hint_is_offered_only_to_resume() -> None:
    [row] = await play("open:token=secret welcome drop next resumed:0:0:t1 text:b drop next resumed:0:0:7 drop next")
    assert row["resumes"] == [["s", "t", 1, 0], ["s", "t1", 2, 1], ["s", 7, 3, 1]]
    assert row["offers"] == ["bearer.secret,wsrpc", *["bearer.secret,wsrpc,wsrpc.resume"] * 3]


@pytest.mark.parametrize(
    "steps",
    [
        "welcome flood:200 heap flood:1000 heap",  # small messages of each kind, and some that are too large
        "welcome exchange:0:5000 heap exchange:5000:35000 heap",
        "welcome heap refuse drop many:100000:1 until:detached many:400000:1 until:close heap",
    ],
)
async def test_what_a_session_keeps_has_a_bound(steps: str) -> None:
    """Small messages count for more than their text. What the page holds is freed when the session has ended."""
    [row] = await play(f"open {steps}")
    before, after = row["heaps"]
    assert after < before + GROWTH
    closed = ", detached, close 4408 too much waits to be sent" if "many" in steps else ""
    assert (row["events"], row["wired"]) == (f"open{closed}", "hello")

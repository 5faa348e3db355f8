"""`Limits.rate`: requests and events per second from one remote peer. The tests move the clock."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from core_driver import Blocked, Driven
from waiting import settled

from wsrpc import AnonymousChannel, Limits

REFUSED = {
    "message": "more than 3 requests and events per second, ask again later",
    "code": "wsrpc.overloaded",
}
ABOVE = "above the rate"


def limited(rate: int = 3, **options: Any) -> tuple[Driven, list[int]]:
    """A peer with that rate, and the numbers with which its handlers of ``say`` have run."""
    d, ran = Driven(limits=Limits(rate=rate), **options), list[int]()
    d.peer.on("say", ran.append)
    return d, ran


# ------------------------------------------------------------ the bucket


async def test_the_bucket_fills_with_the_peers_clock_and_holds_one_second() -> None:
    d, ran = limited(4)
    for seconds, more in ((0, 4), (0, 0), (0.2, 0), (0.05, 1), (0.5, 2), (1, 4), (3600, 4)):
        await settled(seconds)
        ran.clear()
        await d.fed(*({"a": ["say", number]} for number in range(10)))
        assert ran == list(range(more)), seconds


# ------------------------------------------------------------ what counts


class Fed(NamedTuple):
    """Messages for a peer with a rate of 3, and how many of them are refused."""

    messages: list[Any]
    refused: int
    also: tuple[str, ...] = ()
    """What else `Peer.ignored` counts."""


OWN = ("next", "start", "stop")
"""Names of a user's own events on an anonymous channel. Most of them have a meaning on the channel of a stream."""
FED = {
    "requests": Fed([{"i": i, "a": ["say", i]} for i in range(1, 6)], 2),
    "events": Fed([{"a": ["say", 1]}] * 5, 2),
    "events that nobody handles": Fed([{"a": ["nobody"]}, {"a": ["nobody"], "c": "there"}] * 2, 1, ("unknown event",)),
    "named channels": Fed([{"a": ["say", 1], "c": "named"}, {"i": 7, "a": ["say", 2], "c": "named"}] * 2, 1),
    "events for a reader": Fed([{"a": ["read", 1]}, {"a": ["both", 1], "c": "named"}] * 3, 3),
    "on a channel": Fed([{"i": 1, "a": ["talk"]}, *({"h": 1, "i": 2, "a": [name, 1]} for name in OWN)], 1),
    "on a channel: events for a reader": Fed([{"i": 1, "a": ["talk"]}, *[{"h": 1, "a": ["line", 1]}] * 4], 2),
    "start and stop": Fed([{"i": 1, "a": ["count"]}, {"h": 1, "a": ["start"]}, {"h": 1, "a": ["stop"]}], 0),
    "cancellations, aborts and responses": Fed(
        [{"i": 1, "a": ["wait"]}, {"i": 1, "x": 0}, *[{"h": 5, "x": 0}, {"i": 5, "x": 0}, {"i": 6, "d": 0}] * 5],
        0,
        ("abort of no channel", "cancellation of no request", "response to no request"),
    ),
    "control messages": Fed(['{"ws-wrapper":false,"wsrpc":{"t":"credit","h":1,"n":1,"bytes":1}}'] * 9, 0, ("foreign",)),
    "what cannot reach a handler": Fed(
        [{"i": 1, "a": ["x" * 300]}, {"i": 2, "a": ["say", *range(70)]}, {"a": ["say", 0], "h": 7}, {"i": 0}] * 3,
        0,
        ("response to no request",),
    ),
}


async def test_what_another_limit_refuses_counts_no_more() -> None:
    """It was counted when it arrived, before it was known that it could not wait."""
    d, blocked = Driven(limits=Limits(rate=4, running=1, waiting=1)), Blocked()
    d.peer.on("wait", blocked)
    await d.fed(*({"i": i, "a": ["wait"]} for i in (1, 2)))
    sent = await d.fed(*({"i": i, "a": ["wait"]} for i in range(3, 9)), *[{"a": ["wait"]}] * 3)
    assert ["wait already" in message["e"]["message"] for message in sent] == [True] * 6
    blocked.go.set()
    await settled()
    d.take()
    assert [message["i"] for message in await d.fed(*({"i": i, "a": ["wait"]} for i in (9, 10)))] == [9, 10]
    assert d.ignored == {"event dropped, too many wait": 3}


@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in FED.items()])
async def test_requests_and_events_count_however_they_arrive_and_nothing_else(row: Fed) -> None:
    d, _ = limited()
    blocked = Blocked()
    d.peer.on("wait", blocked)
    d.peer.on("count", lambda: iter(range(100)))
    d.peer.of("named").on("say", lambda number: number)
    readers = [d.peer.events("read"), d.peer.of("named").events("both")]

    @d.peer.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        for name in OWN:
            channel.on(name, lambda number: number)
        async for _ in channel.events("line"):
            pass

    sent = []
    for message in row.messages:
        sent += await d.fed(message)
    assert d.ignored.get(ABOVE, 0) == row.refused
    assert d.ignored.keys() - {ABOVE} <= {*row.also}
    refused = [message["e"] for message in sent if "retry_after" in message.get("e", {})]
    assert all(0.3 < error.pop("retry_after") < 0.34 and error == REFUSED for error in refused)
    assert len(refused) == (row.refused if "i" in row.messages[-1] else 0)
    await settled(1)
    assert await d.fed({"i": 99, "a": ["say", 1]}) == [{"i": 99, "d": None}]
    blocked.go.set()
    await d.fed({"h": 1, "x": 0})
    for reader in readers:
        await reader.aclose()

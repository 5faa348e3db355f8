"""Values that cross between Python and JavaScript, there and back, and what becomes of those that cannot."""

from __future__ import annotations

import math
from typing import Any

import pytest

from interop.peers import Link, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAME: list[Any] = [
    0,
    "",
    False,
    True,
    [],
    {},
    [[]],
    [None, [None, {"a": None}]],
    "plain",
    "ünï €",
    "\U0001f600 \U0001f469\u200d\U0001f680",
    '\u2028\u2029\ufeff\x00\x1f\x7f\\"/',
    {"": "", "\U0001f600": {"\u2028": [{}]}, "__proto__": 1, "constructor": 2, "c": {"i": 1, "a": ["x"]}},
    {"ws-wrapper": False},
    [0.1, 1.5, -1.5, 1e300, 5e-324, 1.7976931348623157e308],
    [2**53 - 1, -(2**53 - 1), 2**31, 2**32, -1],
    list(range(1000)),
    {str(k): k for k in range(1000)},
]


@pytest.mark.parametrize("channel", [None, "math"])
async def test_values_there_and_back(link: Link, channel: str | None) -> None:
    caller = link.peer if channel is None else link.peer.of(channel)
    for value in SAME:
        for got in (await caller.request("echo", value), await link.ask("echo", value, channel=channel)):
            assert got == value
            assert type(got) is type(value)
    assert await caller.request("args", *SAME) == SAME
    assert await link.ask("args", *SAME, channel=channel) == SAME
    assert await caller.request("args") == []
    assert await link.ask("args", channel=channel) == []


async def test_numbers_that_javascript_changes(link: Link) -> None:
    """What a Python user gets: exact up to 2^53, then what a double holds; whole floats come back as ints."""
    for sent, arrives in [
        (2**53, 2**53),
        (2**53 + 1, 2**53),
        (-(2**53) - 1, -(2**53)),
        (2**63, 9223372036854776000),
        (2**64 - 1, 18446744073709552000),
        (2**64, 18446744073709552000),
        (2**70, 2.0**70),  # JavaScript writes it with an exponent, which reads as a float
        (1e21, 1e21),
        (1.0, 1),
        (-0.0, 0),
    ]:
        got = await link.peer.request("echo", sent)
        assert (got, type(got)) == (arrives, type(arrives))
    assert await link.peer.request("echo", 1.0, returns=float) == 1.0
    assert isinstance(await link.peer.request("echo", 1.0, returns=float), float)
    # JSON has no such numbers: they leave as null.
    assert await link.peer.request("echo", [math.nan, math.inf, -math.inf]) == [None] * 3
    assert await link.ask("echo", [{"$number": "NaN"}, {"$number": "-Infinity"}]) == [None] * 2


async def test_null_and_undefined_arguments(link: Link) -> None:
    seen: list[Any] = []
    link.app.on("optional", lambda value="absent": seen.append(value))
    await link.ask("optional")
    await link.ask("optional", None)
    await link.ask("optional", {"$undefined": True})  # JSON makes it null
    assert seen == ["absent", None, None]
    # An undefined member is left out of an object.
    assert await link.ask("echo", {"a": {"$undefined": True}, "b": None}) == {"b": None}
    await link.peer.emit("log", None, {"a": None})
    (entry,) = await link.journal("event")
    assert entry["args"] == [None, {"a": None}]


async def test_null_as_the_outcome_of_events(link: Link) -> None:
    """4.x answers such an event with an id of -1; as often as it likes, it is no misbehaviour."""
    for _ in range(50):
        await link.peer.emit("nil")
        await link.peer.emit("nothing")
    assert await link.peer.request("add", 1, 2) == 3
    assert link.peer.ignored["malformed"] == 0
    assert link.peer.connected


async def test_surplus_arguments_of_an_event_are_ignored_as_in_javascript(link: Link) -> None:
    ran: list[Any] = []
    link.app.on("pair", lambda a, b=0: ran.append((a, b)))
    link.app.on("number", lambda a: ran.append(a))
    await link.tell("pair", 1, 2, "more", None)
    await link.tell("pair", 1, {"$undefined": True})  # null, so not the default
    await link.tell("number", 5, {"an": "event"})
    await link.quiet()
    assert ran == [(1, 2), (1, None), 5]
    assert link.peer.ignored["surplus arguments"] == 2
    refused = await link.ask_in_vain("number", 5, 6)
    assert "expected at most 1 argument, got 2" in text_of(refused)

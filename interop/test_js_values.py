"""Values that cross between Python and JavaScript, there and back, and what becomes of those that cannot."""

from __future__ import annotations

import datetime
import enum
import math
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from interop.peers import Link, text_of
from wsrpc import BadResult
from wsrpc.errors import UnexpectedChannel

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


async def test_values_in_events(link: Link) -> None:
    await link.peer.emit("log", *SAME)
    await link.peer.emit("log")
    entries = await link.journal("event", at_least=2)
    assert [entry["args"] for entry in entries] == [SAME, []]
    await link.tell("log", *SAME)
    await link.tell("log")
    assert [await link.seen.events.get() for _ in range(2)] == [(None, SAME), (None, [])]


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


async def test_numbers_from_javascript(link: Link) -> None:
    for sent, arrives in [(2**53 - 1, 2**53 - 1), (2**53 + 1, 2**53), (1e21, 1e21), (1.0, 1), (0.5, 0.5)]:
        await link.tell("log", sent)
        _, (got,) = await link.seen.events.get()
        assert (got, type(got)) == (arrives, type(arrives))


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


async def test_undefined_and_null_as_results(link: Link) -> None:
    assert await link.peer.request("nothing") is None
    assert await link.peer.request("nothing", returns=int | None) is None
    assert await link.peer.request("nil") is None
    assert await link.peer.request("nil", returns=int | None) is None
    assert await link.peer.request("echo", None) is None
    with pytest.raises(BadResult, match="'nothing'"):
        await link.peer.request("nothing", returns=int)
    # 4.x says null with a channel that nobody made.
    wrong = UnexpectedChannel if link.agent.library == "ws-wrapper-4" else BadResult
    with pytest.raises(wrong, match="'nil'"):
        await link.peer.request("nil", returns=int)
    # A result that Python leaves out is null in JavaScript.
    answer = await link.call("request", event="nothing")
    assert answer == {"resolved": None, "undefined": False}
    assert await link.peer.request("add", 1, 2) == 3


async def test_null_as_the_outcome_of_events(link: Link) -> None:
    """4.x answers such an event with an id of -1; as often as it likes, it is no misbehaviour."""
    for _ in range(50):
        await link.peer.emit("nil")
        await link.peer.emit("nothing")
    assert await link.peer.request("add", 1, 2) == 3
    assert link.peer.ignored["malformed"] == 0
    assert link.peer.connected


async def test_text_with_lone_surrogates(link: Link) -> None:
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        await link.peer.request("echo", "\ud800")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        await link.peer.emit("log", "\ud800")
    assert link.peer.pending == 0
    # JavaScript sends them as escapes: the message does not decode, and its sender hears so.
    refused = await link.ask_in_vain("echo", "\ud800")
    assert "does not decode" in refused["message"]
    assert refused["props"]["code"] == "wsrpc.bad_arguments"
    assert await link.ask("echo", "\U0001f600") == "\U0001f600"


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Order:
    id: uuid.UUID
    at: datetime.datetime
    items: list[str]
    colour: Colour
    note: str | None = None
    counts: dict[str, int] = field(default_factory=dict[str, int])


ORDER = Order(
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
    datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.UTC),
    ["tea", "\U0001f375"],
    Colour.BLUE,
    counts={"tea": 2},
)
PLAIN = {
    "id": "12345678-1234-5678-1234-567812345678",
    "at": "2024-02-29T12:30:00Z",
    "items": ["tea", "\U0001f375"],
    "colour": "blue",
    "note": None,
    "counts": {"tea": 2},
}


async def test_results_are_converted_to_what_was_asked_for(link: Link) -> None:
    assert await link.peer.request("echo", ORDER) == PLAIN
    assert await link.peer.request("echo", ORDER, returns=Order) == ORDER
    assert await link.peer.request("args", ORDER, ORDER, returns=list[Order]) == [ORDER, ORDER]
    assert await link.peer.of("math").request("echo", b"\x00\xff", returns=bytes) == b"\x00\xff"
    assert await link.peer.request("args", 1, "a", returns=tuple[int, str]) == (1, "a")
    with pytest.raises(BadResult, match=r"'echo'.*`str`"):
        await link.peer.request("echo", 1, returns=str)
    with pytest.raises(BadResult, match=r"'echo'.*colour"):
        await link.peer.request("echo", {**PLAIN, "colour": "mauve"}, returns=Order)


async def test_arguments_are_converted_to_what_the_handler_declares(link: Link) -> None:
    received: list[Order] = []

    def order(value: Order, copies: int = 1, *more: datetime.date) -> list[Order]:
        received.append(value)
        assert all(type(day) is datetime.date for day in more)
        return [value] * copies

    link.app.on("order", order)
    link.app.of("math").on("order", order)
    assert await link.ask("order", PLAIN) == [PLAIN]
    assert await link.ask("order", {**PLAIN, "unknown": 1}, 2, channel="math") == [PLAIN, PLAIN]
    assert await link.ask("order", PLAIN, 0, "2024-02-29", "2024-03-01") == []
    assert received == [ORDER] * 3


async def test_arguments_that_do_not_fit_are_refused(link: Link) -> None:
    ran: list[Any] = []

    def order(value: Order, copies: int = 1) -> None:
        ran.append((value, copies))

    link.app.on("order", order)
    for args, words in [
        ((), ["order()", "value", "got 0"]),
        ((PLAIN, 1, 2), ["order()", "got 3"]),
        (("tea",), ["order()", "value", "object", "str"]),
        ((PLAIN, "many"), ["order()", "copies", "int", "str"]),
        ((PLAIN, None), ["order()", "copies", "int", "null"]),
        (({**PLAIN, "colour": "mauve"},), ["order()", "value", "colour", "mauve"]),
        (({**PLAIN, "items": ["tea", 1]},), ["order()", "value", "items", "str", "int"]),
    ]:
        refused = await link.ask_in_vain("order", *args)
        assert refused["is_error"] is True
        assert refused["props"]["code"] == "wsrpc.bad_arguments"
        for word in words:
            assert word in refused["message"], refused["message"]
    # An event with bad arguments is dropped: there is nobody to tell.
    await link.tell("order", "tea")
    await link.quiet()
    assert ran == []
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

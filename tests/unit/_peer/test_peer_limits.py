"""The bounds of guarantees.md that one peer keeps, each with what happens at the limit."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from typing import Any

import pytest
from core_driver import Blocked, Driven, Stubborn, closes_with, idle, rejection, turns

from wsrpc import (
    Limits,
    Peer,
)
from wsrpc.types import Message


async def test_a_cancelled_handler_counts_until_it_exits() -> None:
    d = Driven(limits=Limits(running=2))
    stubborn, ran = Stubborn(), list[int]()
    d.peer.on("s", stubborn)
    d.peer.on("n", ran.append)
    await d.fed({"i": 1, "a": ["s"]}, {"i": 2, "a": ["s"]})
    await d.fed({"i": 1, "x": 0}, {"i": 2, "x": 0}, {"i": 3, "a": ["n", 3]})
    assert len(stubborn.cancelled) == 2
    assert d.peer.active == 2 and ran == []
    stubborn.go.set()
    await turns()
    assert ran == [3]
    assert sorted(m["i"] for m in d.take()) == [1, 2, 3]
    d.assert_empty()


@pytest.mark.parametrize("around", ["nothing", "middleware", "handler_context", "ordered"])
async def test_a_thread_counts_until_it_ends_whatever_is_around_it(around: str) -> None:
    d = Driven(limits=Limits(running=1))
    entered, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    ran: list[int] = []

    def work() -> str:
        loop.call_soon_threadsafe(entered.set)
        gate.wait(10)
        return "too late"

    async def pass_on(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    if around == "middleware":
        d.peer.use(pass_on)
    elif around == "handler_context":
        d.peer._registry.set_handler_context(lambda ctx: asyncio.timeout(None))
    d.peer.on("work", work, thread=True, ordered=around == "ordered")
    d.peer.on("n", ran.append)
    try:
        d.feed({"i": 1, "a": ["work"]})
        await entered.wait()
        sent = await d.fed({"i": 1, "x": "stop"}, {"a": ["n", 2]})
        assert all(m["i"] == 1 and "e" in m for m in sent)
        assert d.peer.active == 1 and ran == []
    finally:
        gate.set()
    await idle(d)
    await turns()
    assert ran == [2]
    d.assert_empty()


async def test_requests_over_the_waiting_bound_are_overloaded_and_events_dropped_and_counted() -> None:
    d = Driven(limits=Limits(running=1, waiting=2))
    blocked, ran = Blocked(), list[int]()
    d.peer.on("h", blocked)
    d.peer.on("n", ran.append)
    await d.fed({"i": 1, "a": ["h"]})
    sent = await d.fed({"i": 2, "a": ["n", 2]}, {"a": ["n", 3]}, {"i": 4, "a": ["n", 4]}, {"a": ["n", 5]})
    assert rejection(sent, 4)["code"] == "wsrpc.overloaded" and len(sent) == 1
    assert d.ignored == {"event dropped, too many wait": 1}
    # One that is cancelled makes room again.
    assert [m["i"] for m in await d.fed({"i": 2, "x": 0}, {"i": 6, "a": ["n", 6]})] == [2]
    blocked.go.set()
    await turns()
    assert ran == [3, 6]
    d.assert_empty()


async def test_what_waits_takes_no_more_memory_where_message_handlers_observe() -> None:
    d = Driven(limits=Limits(running=1))
    blocked, seen = Blocked(), list[Any]()
    d.peer.on("h", blocked)
    d.peer.on("n", lambda *_: None)

    @d.peer.on("message")
    def observe(peer: Peer, message: Message) -> None:
        seen.append((message.event, len(message.args), len(str(message)) < 300))

    payload = b'{"a":["n",[' + b"[]," * 20_000 + b"[]]]}"
    await d.fed({"a": ["h"]})
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            d.raw(bytearray(payload))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert d.peer.stats().waiting == 10 and seen[1:] == [("n", 1, True)] * 10
    assert 10 * len(payload) < grown < 11 * len(payload), "each payload once, and nothing that is decoded"
    blocked.go.set()
    await turns()
    d.assert_empty()


def tree(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"child": value}
    return value


async def test_brackets_in_text_are_not_nesting() -> None:
    d = Driven()
    d.peer.on("echo", lambda *args: args)
    texts = ["[" * 500, '{"' * 300, '\\"[[' * 100, "\\" * 99, "\\[" * 200, '"]}' * 50]
    [answer] = await d.fed({"i": 1, "a": ["echo", *texts]})
    assert answer == {"i": 1, "d": texts}
    flat: list[Any] = [[] for _ in range(1000)]
    assert await d.fed({"i": 2, "a": ["echo", flat]}) == [{"i": 2, "d": [flat]}]


HONEST: dict[str, list[Any]] = {
    "nested too deep": [{"a": ["msg", tree(63)]}, {"a": ["msg", tree(500)]}],
    "unreadable": [r'{"a":["msg","hello \ud83d"]}', r'{"a":["\udc00"]}', '{"a":["msg",1e400]}', '{"a":["msg",NaN]}'],
    "foreign": ['{"type":"ping"}', "{}", r'{"type":"\ud83d"}', '{"a":"b","x":1}', '{"a":[],"i":7}', '{"d":1}'],
    "too many arguments": [{"a": ["msg", *range(65)]}],
    "name too long": [{"a": ["n" * 300]}, {"c": "n" * 300, "a": ["e"]}],
    "name is not text": [{"a": [5, 1]}, {"a": [None]}, {"c": 5, "a": ["e"]}],
    "unknown event": [{"a": ["nobody"]}, {"c": "nowhere", "a": ["e"]}, {"a": [""]}],
    "reserved event": [{"a": ["open"]}],
}


@pytest.mark.parametrize(
    ("kind", "message"), [(kind, message) for kind, messages in HONEST.items() for message in messages]
)
async def test_what_honest_peers_send_never_closes(kind: str, message: Any, caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    told: list[Any] = []
    d.peer.on("error", lambda peer, error: told.append(error))
    d.peer.on("msg", lambda *args: told.append(args))
    assert await d.fed(*[message] * 30) == []
    assert d.peer.connected and d.ignored == {kind: 30} and told == []
    assert len(caplog.records) <= 1, "counted, and logged once"


@pytest.mark.parametrize(
    "message",
    [
        r'{"i":7,"a":["echo","\ud83d"]}',
        {"i": 7, "a": ["echo", *range(65)]},
        {"i": 7, "a": [5]},
        {"i": 7, "a": ["n" * 300]},
    ],
)
async def test_requests_that_cannot_be_taken_are_all_rejected(message: Any) -> None:
    d = Driven()
    d.peer.on("echo", lambda *args: list(args))
    for _ in range(30):
        assert rejection(await d.fed(message), 7)["code"] == "wsrpc.bad_arguments"
    assert d.peer.connected
    d.assert_empty()


async def test_what_does_not_decode_is_not_nested_deeper_than_the_rest() -> None:
    d = Driven()
    for depth in (64, 63, 62):  # with the message and its `a`
        d.feed('{"a":["e","\\ud83d",' + "[" * depth + "]" * depth + "]}")
    assert d.peer.connected and d.ignored == {"nested too deep": 2, "unreadable": 1}


@pytest.mark.parametrize(
    ("message", "kind"),
    [({"type": tree(70)}, "foreign"), ({"a": tree(70)}, "foreign"), ({"i": 1.5, "a": ["e", tree(70)]}, "malformed")],
)
async def test_what_else_is_nested_too_deep_counts_as_what_it_is(message: Any, kind: str) -> None:
    d = Driven()
    assert await d.fed(message) == []
    assert d.peer.connected and d.ignored == {kind: 1}


@pytest.mark.parametrize("message", ['{"a":["e"', "{nonsense}", {"i": 1.5, "a": ["e"]}, r'{"i":-1,"a":["\ud800"]}'])
async def test_what_no_honest_peer_sends_closes(message: Any) -> None:
    d = Driven()
    await d.fed(*[message] * 10)
    assert d.peer.connected and d.ignored == {"malformed": 10}
    d.feed(message)
    await closes_with(d, 1007)


async def test_the_minute_slides() -> None:
    d = Driven()
    for _ in range(100):  # one each 6.01 s: never more than ten within a minute
        d.feed("{")
        d.clock.advance(6.01)
    await turns()
    assert d.peer.connected
    for _ in range(2):
        d.feed("{")
    await closes_with(d, 1007)


async def test_malformed_messages_of_one_connection_do_not_count_against_the_next() -> None:
    d = Driven()
    d.feed(*["{"] * 10)
    d.transport.lose()
    d.rebind()
    d.feed("{")
    await turns()
    assert d.peer.connected

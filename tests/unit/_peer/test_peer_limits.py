"""The bounds of guarantees.md that one peer keeps, each with what happens at the limit."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Blocked, Driven, Stubborn, closes_with, idle, rejection, start, turns

from wsrpc import (
    BadArguments,
    BadResult,
    Client,
    ConnectionLost,
    Limits,
    Overloaded,
    Peer,
    QueueFull,
    RemoteError,
    Server,
)
from wsrpc.codecs import MsgpackCodec
from wsrpc.testing import connect, pair
from wsrpc.types import Message


async def test_64_arguments_are_accepted_and_65_rejected() -> None:
    d = Driven()
    d.peer.on("count", lambda *args: len(args))
    assert await d.fed({"i": 1, "a": ["count", *range(64)]}) == [{"i": 1, "d": 64}]
    error = rejection(await d.fed({"i": 2, "a": ["count", *range(65)]}), 2)
    assert error == {"message": "got 65 arguments, at most 64 are accepted", "code": "wsrpc.bad_arguments"}
    async with pair() as (a, b):
        b.on("count", lambda *args: len(args))
        with pytest.raises(BadArguments):
            await a.request("count", *range(65))


@pytest.mark.parametrize("letter", ["x", "é", "日", "😀"])
async def test_names_are_bounded_in_bytes(letter: str) -> None:
    d = Driven()
    size = len(letter.encode())
    longest = letter * (256 // size) + "x" * (256 % size)
    d.peer.on(longest, lambda: 1)
    d.peer.of(longest).on("e", lambda: 2)
    assert await d.fed({"i": 1, "a": [longest]}) == [{"i": 1, "d": 1}]
    assert await d.fed({"i": 2, "a": ["e"], "c": longest}) == [{"i": 2, "d": 2}]
    assert "256 bytes" in rejection(await d.fed({"i": 3, "a": [longest + "x"]}), 3)["message"]
    assert "256 bytes" in rejection(await d.fed({"i": 4, "a": ["e"], "c": longest + "x"}), 4)["message"]
    d.assert_empty()


async def test_the_1025th_handler_waits_for_a_place() -> None:
    d = Driven()
    blocked = Blocked()
    d.peer.on("h", blocked)
    await d.fed(*({"i": n, "a": ["h", n]} for n in range(1, 1027)))
    assert len(blocked.started) == 1024 and d.peer.active == 1024
    assert [m["i"] for m in await d.fed({"i": 7, "x": "go away"})] == [7]
    assert blocked.started[-1] == (1025,)
    blocked.go.set()
    await turns()
    assert blocked.started == [(n,) for n in range(1, 1027)]
    assert sorted(blocked.finished) == [(n,) for n in range(1, 1027) if n != 7]
    d.assert_empty()


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


async def test_the_waiting_bound_counts_bytes_too() -> None:
    d = Driven(limits=Limits(running=1, message=512, waiting=2))
    blocked, ran = Blocked(), list[str]()
    d.peer.on("h", blocked)
    d.peer.on("n", lambda name, _: ran.append(name))
    await d.fed({"a": ["h"]})
    sent = await d.fed(
        {"i": 2, "a": ["n", "fits", "x" * 300]},
        {"i": 3, "a": ["n", "does not", "x" * 300]},
        {"a": ["n", "neither", "x" * 300]},
        {"i": 5, "a": ["n", "small", ""]},
    )
    assert rejection(sent, 3)["code"] == "wsrpc.overloaded" and len(sent) == 1
    assert d.ignored == {"event dropped, too many wait": 1}
    blocked.go.set()
    await turns()
    assert ran == ["fits", "small"]
    d.assert_empty()
    # The bytes are free again.
    blocked.go.clear()
    await d.fed({"a": ["h"]})
    assert await d.fed({"i": 6, "a": ["n", "again", "x" * 300]}) == []
    blocked.go.set()
    await turns()
    assert ran[-1] == "again"


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


async def test_a_plain_caller_gets_overloaded() -> None:
    async with pair(limits=Limits(running=1, waiting=1), extensions=False) as (a, b):
        blocked = Blocked()
        b.on("h", blocked)
        tasks = [start(a.request("h", n)) for n in range(3)]
        await turns()
        with pytest.raises(Overloaded, match="1 messages wait already"):
            await tasks[2]
        blocked.go.set()
        assert await asyncio.gather(*tasks[:2]) == [[0], [1]]


async def test_10000_messages_wait_by_default() -> None:
    d = Driven(limits=Limits(running=1))
    blocked, ran = Blocked(), list[int]()
    d.peer.on("h", blocked)
    d.peer.on("n", ran.append)
    await d.fed({"a": ["h"]})
    d.feed(*({"a": ["n", n]} for n in range(10_001)))
    assert d.ignored == {"event dropped, too many wait": 1}
    blocked.go.set()
    await turns()
    assert ran == list(range(10_000))


async def test_the_offline_queue_is_bounded_by_messages() -> None:
    client = Client()
    for n in range(255):
        await client.emit("n", n)
    request = start(client.request("q", timeout=None))
    await turns()
    for call in (client.emit("n", 0), client.request("n", 0)):
        with pytest.raises(QueueFull, match=r"256 messages \(\d+ bytes\) wait already \(Limits.offline=256"):
            await call
    with pytest.raises(QueueFull):
        client.emit_nowait("n", 0)
    assert client.peer.pending == 1
    request.cancel()  # its place is free again
    await turns()
    client.emit_nowait("n", 0)
    with pytest.raises(QueueFull):
        client.emit_nowait("n", 0)
    await client.close()


async def test_the_offline_queue_is_bounded_by_bytes() -> None:
    client = Client()
    await client.emit("n", "x" * 1_000_000)
    with pytest.raises(QueueFull, match=r"Limits.offline_bytes=1048576"):
        await client.emit("n", "x" * 100_000)
    await client.emit("n", "x" * 50)
    await client.close()


async def test_closing_a_client_ends_what_waited_offline(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    await client.emit("lost")
    task = start(client.request("q", timeout=None))
    await turns()
    await client.close()
    with pytest.raises(ConnectionLost) as caught:
        await task
    assert caught.value.outcome == "not_sent"
    assert any("1 event" in record.getMessage() for record in caplog.records)


def nested(depth: int, kind: str) -> str:
    """JSON that is ``depth`` deep in all, as the argument of a request."""
    inner = depth - 2  # the message and its `a`
    if kind == "array":
        return '{"i":1,"a":["echo",' + "[" * inner + "]" * inner + "]}"
    if kind == "object":
        return '{"i":1,"a":["echo",' + '{"k":' * inner + "0" + "}" * inner + "]}"
    return '{"i":1,"a":["echo"],"unknown":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize("kind", ["array", "object", "unknown key"])
async def test_64_deep_is_fine_and_65_is_rejected(kind: str) -> None:
    d = Driven()
    d.peer.on("echo", lambda *args: len(args))
    assert [m["i"] for m in await d.fed(nested(64, kind))] == [1]
    for depth in (65, 512):
        error = rejection(await d.fed(nested(depth, kind)), 1)
        assert (error["code"], "64 deep" in error["message"]) == ("wsrpc.bad_arguments", True)
    assert d.peer.connected and d.ignored == {"nested too deep": 2}
    d.assert_empty()


@pytest.mark.parametrize("kind", ["array", "object", "unknown key"])
@pytest.mark.parametrize("most", [64, 600])
async def test_nesting_that_no_honest_peer_sends_closes(kind: str, most: int) -> None:
    d = Driven(limits=Limits(depth=most))
    d.peer.on("echo", lambda *args: len(args))
    await d.fed(nested(max(512, most), kind))
    assert d.peer.connected
    d.feed(nested(max(512, most) + 1, kind))
    await closes_with(d, 1007)
    assert d.transport.closed is not None and f"{most} deep" in d.transport.closed.reason


def tree(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"child": value}
    return value


@pytest.mark.parametrize("extensions", [True, False], ids=["MessagePack", "JSON"])
async def test_a_value_that_is_nested_too_deep_fails_its_own_call_and_nothing_else(extensions: bool) -> None:
    server, deep, seen = Server(extensions=extensions), tree(70), asyncio.Queue[Any]()
    server.on("echo", lambda value: value)
    server.on("get", lambda: deep)
    server.on("note", seen.put_nowait)
    free = asyncio.Event()

    @server.on("wait")
    async def wait() -> str:
        await free.wait()
        return "done"

    @server.on("items")
    async def items() -> AsyncIterator[Any]:
        yield 1
        yield deep

    @server.on("upload")
    async def upload(values: AsyncIterator[Any]) -> int:
        return len([value async for value in values])

    async with connect(server) as client:
        waiting = start(client.request("wait"))
        assert await client.request("echo", tree(50)) == tree(50)
        with pytest.raises(BadArguments, match="nested more than 64 deep"):
            await client.request("echo", deep)
        with pytest.raises(BadResult, match="nested more than 64 deep"):
            await client.request("get")
        got: list[Any] = []
        reading = client.stream("items")
        got.append(await anext(reading))
        with pytest.raises(BadResult, match="nested more than 64 deep"):
            await anext(reading)
        assert got == [1]
        with pytest.raises(RemoteError, match="nested more than 64 deep"):
            await client.request("upload", send=[1, deep])
        await client.emit("note", deep)
        await client.emit("note", 1)
        assert await seen.get() == 1
        free.set()
        assert await waiting == "done"
        assert server.peers[0].ignored["nested too deep"] == 3
        assert client.peer.ignored["nested too deep"] == 2


async def test_brackets_in_text_are_not_nesting() -> None:
    d = Driven()
    d.peer.on("echo", lambda *args: args)
    texts = ["[" * 500, '{"' * 300, '\\"[[' * 100, "\\" * 99, "\\[" * 200, '"]}' * 50]
    [answer] = await d.fed({"i": 1, "a": ["echo", *texts]})
    assert answer == {"i": 1, "d": texts}
    flat: list[Any] = [[] for _ in range(1000)]
    assert await d.fed({"i": 2, "a": ["echo", flat]}) == [{"i": 2, "d": [flat]}]


@pytest.mark.parametrize(("depth", "fine"), [(64, True), (65, False)])
async def test_depth_of_messagepack(depth: int, fine: bool) -> None:
    d = Driven(codec=MsgpackCodec())
    ran: list[Any] = []
    d.peer.on("e", ran.append)
    value: Any = "x" * 100
    for level in range(depth - 2):
        value = [value] if level % 2 else {"k": value}
    d.raw(MsgpackCodec().encode({"a": ["e", value]}), text=False)
    await turns()
    assert (len(ran) == 1, d.peer.connected) == (fine, True)
    assert d.ignored == ({} if fine else {"nested too deep": 1})


async def test_ten_malformed_messages_a_minute_are_fine_and_eleven_close() -> None:
    d = Driven()
    for _ in range(10):
        d.feed('{"a":["e"')
    await turns()
    assert d.peer.connected and d.ignored["malformed"] == 10
    d.feed("{broken")
    await closes_with(d, 1007)
    assert d.transport.closed is not None and "10 malformed messages a minute" in d.transport.closed.reason


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


async def test_what_follows_a_violation_in_the_same_read_is_not_looked_at() -> None:
    d = Driven()
    ran: list[int] = []
    d.peer.on("n", ran.append)
    d.feed({"a": ["n", 1]}, "[" * 3, '{"a":' + "[" * 100_000, {"a": ["n", 2]})
    await closes_with(d, 1007)
    assert ran == [1]


@pytest.mark.parametrize("field", ["message", "depth", "name", "running", "pending", "hard_cap"])
def test_a_bound_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"Limits.{field} must be at least [125]+, got 0"):
        Limits(**{field: 0})

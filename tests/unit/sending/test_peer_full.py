"""What a peer does while its line to the other side is full."""

from __future__ import annotations

from core_driver import Blocked, Driven, closes_with, start, turns

from wsrpc import Limits


async def test_awaiting_senders_wait_in_turn() -> None:
    d = Driven(dialer=True)
    d.transport.pause()
    value = [0]
    first = start(d.peer.emit("first", value))
    second = start(d.peer.request("second", value, timeout=None))
    third = start(d.peer.of("room").emit("third", value))
    await turns()
    d.expect()
    assert not first.done() and not third.done()
    d.transport.resume()
    await first
    await third
    sent = d.take()
    assert [m["a"] for m in sent] == [["first", [0]], ["second", [0]], ["third", [0]]]
    d.feed({"i": sent[1]["i"]})
    await second


async def test_new_requests_are_not_started_but_answers_and_cancels_are_processed() -> None:
    d = Driven(dialer=True)
    blocked = Blocked()
    ran: list[str] = []
    d.peer.on("slow", blocked)
    d.peer.on("quick", lambda name: ran.append(name))
    await d.fed({"i": 1, "a": ["slow"]})
    task, i = await d.asks("q")
    d.transport.pause()
    d.feed(
        {"i": 2, "a": ["quick", "request"]},
        {"a": ["quick", "event"]},
        {"i": 3, "a": ["quick", "cancelled"]},
        {"i": i, "d": "answer"},
        {"i": 1, "x": "stop"},
        {"i": 3, "x": "never mind"},
    )
    assert await task == "answer"
    await turns()
    assert blocked.cancelled == ["stop"]
    assert ran == []
    assert sorted(m["i"] for m in d.take()) == [1, 3]  # rejections of what was cancelled
    d.transport.resume()
    assert ran == ["request", "event"]
    d.expect({"i": 2, "d": None})
    d.assert_empty()


async def test_replies_go_on_to_the_hard_cap_then_the_connection_closes_with_4408() -> None:
    d = Driven(limits=Limits(hard_cap_bytes=1000))
    blocked = Blocked()
    d.peer.on("h", blocked)
    await d.fed({"i": 1, "a": ["h", "x" * 100]}, {"i": 2, "a": ["h", "x" * 100]})
    d.transport.pause()
    d.transport.unsent = 700
    blocked.go.set()
    assert len(await d.fed()) == 2
    blocked.go.clear()
    d.transport.resume()
    await d.fed({"i": 4, "a": ["h"]})
    d.transport.pause()
    d.transport.unsent = 990
    blocked.go.set()
    await closes_with(d, 4408)
    d.expect()


async def test_one_message_larger_than_the_cap_goes_when_nothing_else_is_unsent() -> None:
    d = Driven(limits=Limits(hard_cap_bytes=100))
    d.peer.emit_nowait("big", "x" * 500)
    assert len(d.take()) == 1 and d.peer.connected

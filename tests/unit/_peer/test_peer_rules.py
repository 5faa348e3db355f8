"""The rules of the wire, one after the other, with the numbers that the names of the tests have."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import ABORTED, Blocked, Driven, Stubborn, rejection, start, turns

from wsrpc import (
    AnonymousChannel,
    BadResult,
    ChannelClosed,
    ConnectionLost,
    Limits,
    RemoteError,
    RpcError,
)
from wsrpc._sending.pending import FIRST_ID, LAST_ID
from wsrpc.testing import pair

LARGEST = 2**53 - 1

# ---------------------------------------------------------------- 1-3: ids


@pytest.mark.parametrize("dialer", [True, False])
async def test_1_ids_start_at_a_random_point_and_tell_who_dialed(dialer: bool) -> None:
    firsts = set()
    for _ in range(20):
        d = Driven(dialer=dialer)
        ids = []
        for _ in range(3):
            task, i = await d.asks("q")
            ids.append(i)
            task.cancel()
        await turns()
        assert ids == [ids[0], ids[0] + 2, ids[0] + 4]
        assert all(2**30 <= i <= 2**31 - 1 and i % 2 == dialer for i in ids)
        firsts.add(ids[0])
    assert len(firsts) > 15


@pytest.mark.parametrize("dialer", [True, False])
async def test_1_ids_wrap_and_skip_those_in_use(dialer: bool) -> None:
    d = Driven(dialer=dialer)
    first = FIRST_ID + 1 if dialer else FIRST_ID
    last = LAST_ID if dialer else LAST_ID - 1
    d.peer._out.requests._next = first  # as if all the others had been used up
    held = [await d.asks("q") for _ in range(3)]
    assert [i for _, i in held] == [first, first + 2, first + 4]
    d.peer._out.requests._next = last
    over = [await d.asks("q") for _ in range(3)]
    assert [i for _, i in over] == [last, first + 6, first + 8]
    d.feed({"i": first + 2, "d": "second"})
    assert await held[1][0] == "second"
    for task, _ in held + over:
        task.cancel()
    await turns()
    d.assert_empty()


async def test_1_our_ids_never_meet_those_of_the_other_side() -> None:
    """The same number, used by both sides at once, means two different requests."""
    d = Driven(dialer=True)
    blocked = Blocked()
    d.peer.on("h", blocked)
    task, i = await d.asks("q")
    await d.fed({"i": i, "a": ["h", "theirs"]})
    assert blocked.started == [("theirs",)] and not task.done()
    await d.fed({"i": i, "x": "stop"})  # a cancellation is about their request, never about ours
    assert blocked.cancelled == ["stop"] and not task.done()
    d.feed({"i": i, "d": "ours"})
    assert await task == "ours"


@pytest.mark.parametrize("i", [True, False, 1.5, 0, -1.0, -(2**60), LARGEST + 1, 1e300, "1", [1], {"i": 1}])
async def test_2_what_is_no_id_runs_nothing(i: Any) -> None:
    d = Driven()
    ran: list[int] = []
    d.peer.on("e", lambda: ran.append(1))
    assert await d.fed({"i": i, "a": ["e"]}) == []
    assert ran == [] and d.ignored == {"malformed": 1}
    assert d.peer.connected
    d.assert_empty()


@pytest.mark.parametrize("i", [1, 2, 2**31, LARGEST])
async def test_2_ids_from_1_to_2_to_the_53_minus_1_are_accepted(i: int) -> None:
    d = Driven()
    d.peer.on("e", lambda: "ran")
    assert await d.fed({"i": i, "a": ["e"]}) == [{"i": i, "d": "ran"}]


async def test_2_whole_floats_are_ids_as_in_javascript() -> None:
    d = Driven(dialer=True)
    blocked = Blocked()
    d.peer.on("h", blocked)
    d.peer.on("e", lambda: "ran")

    @d.peer.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        channel.on("double", lambda k: 2 * k)
        await channel.wait_closed()

    assert await d.fed({"i": 7.0, "a": ["e"]}) == [{"i": 7, "d": "ran"}]
    await d.fed({"i": 8.0, "a": ["h"]})
    assert await d.fed({"i": 8, "a": ["e"]}) == [] and d.ignored == {"duplicate id": 1}
    await d.fed({"i": 8.0, "x": "stop"})
    assert blocked.cancelled == ["stop"]
    assert await d.fed({"i": 9.0, "a": ["talk"]}) == [{"i": 9, "h": 1}]
    assert await d.fed({"i": 10.0, "h": 9.0, "a": ["double", 4]}) == [{"i": 10, "d": 8}]
    await d.fed({"h": 9.0, "x": "enough"})
    assert d.peer.channels == 0
    task, ours = await d.asks("q")
    d.feed({"i": float(ours), "d": 5})
    assert await task == 5
    d.assert_empty()


NULL_ID: dict[str, Any] = {"i": None, "a": ["e", 1]}


async def test_2_a_null_id_is_none_as_in_javascript_and_go() -> None:
    d = Driven(bind=False)
    ran: list[Any] = []
    go = asyncio.Event()
    seen: list[Any] = []

    async def wait(*_: object) -> None:
        await go.wait()

    d.peer.on("open", wait)
    d.peer.on("e", ran.append)
    d.peer.on("message", lambda peer, message: seen.append(message.id))

    @d.peer.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        channel.on("said", ran.append)
        await channel.wait_closed()

    d.peer.bind(d.transport)
    waiting = start(d.peer.wait_for("e"))
    await turns()
    await d.fed(NULL_ID)  # waits for the `open` handler
    assert ran == []
    go.set()
    assert await waiting == 1
    await turns()
    assert ran == [1]
    assert await d.fed({"i": 3, "a": ["talk"]}) == [{"i": 3, "h": 1}]
    await d.fed({"i": None, "h": 3, "a": ["said", 2]})
    assert ran == [1, 2]
    await d.fed({"i": None, "a": ["e", *range(70)]}, {"i": None, "a": ["nobody"]}, {"i": None, "d": 1}, {"i": None})
    assert d.ignored == {"too many arguments": 1, "unknown event": 1, "foreign": 2}
    assert d.peer.connected and seen[0] is None
    await d.fed({"h": 3, "x": None})
    d.assert_empty()


async def test_2_a_null_id_of_what_does_not_decode() -> None:
    d = Driven()
    await d.fed(*['{"i":null,"a":["e","\\ud800"]}'] * 30)
    assert d.peer.connected and d.ignored == {"unreadable": 30}


@pytest.mark.parametrize("i", [True, 1.5, "1", [1]])
async def test_2_what_looks_like_an_active_id_cancels_and_answers_nothing(i: Any) -> None:
    d = Driven(dialer=True)
    blocked = Blocked()
    d.peer.on("h", blocked)
    await d.fed({"i": 1, "a": ["h"]})
    d.peer._out.requests._next = 1
    task, ours = await d.asks("q")
    assert ours == 1
    assert await d.fed({"i": i, "x": "no"}, {"i": i, "d": 5}, {"i": i, "e": 5}) == []
    assert blocked.cancelled == [] and not task.done()
    task.cancel()
    blocked.go.set()
    await turns()


@pytest.mark.parametrize(
    "second",
    [
        {"a": ["h", "second"]},
        {"a": ["nobody"]},
        {"a": [5]},
        {"a": ["h", *range(70)]},
        {"a": ["x" * 300]},
        {"a": ["h"], "c": 5},
        {"a": ["h"], "c": "nowhere"},
        {"a": ["h"], "h": 12},
        {"a": ["h", "\ud800"]},
    ],
)
@pytest.mark.parametrize("where", ["running", "waiting"])
async def test_2_a_second_request_with_an_active_id_is_dropped_and_counted(second: dict[str, Any], where: str) -> None:
    d = Driven(limits=Limits(running=1))
    blocked = Blocked()
    d.peer.on("h", blocked)
    if where == "waiting":
        await d.fed({"a": ["h", "before"]})
    await d.fed({"i": 5, "a": ["h", "first"]})
    sent = await d.fed({"i": 5, **second})
    assert [m for m in sent if m.get("i") == 5] == []  # a rejection would settle the first
    assert d.peer.ignored.total() >= 1
    blocked.go.set()
    await turns()
    assert [m for m in d.take() if m.get("i") == 5] == [{"i": 5, "d": ["first"]}]
    assert ("second",) not in blocked.started
    # Free again afterwards.
    assert await d.fed({"i": 5, "a": ["h", "third"]}) == [{"i": 5, "d": ["third"]}]


async def test_3_answers_with_an_unknown_id_are_dropped_without_complaint() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    sent = await d.fed({"i": 1, "d": 1}, {"i": 2}, {"i": i + 2, "e": "no"}, {"i": 7, "h": 1}, {"i": 3, "e": None})
    assert sent == []
    assert d.ignored == {"response to no request": 5}
    assert not task.done() and d.peer.connected
    d.feed({"i": i})
    assert await task is None


async def test_3_a_second_answer_is_dropped() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    d.feed({"i": i, "d": 1}, {"i": i, "d": 2}, {"i": i, "e": "no"}, {"i": i})
    assert await task == 1
    assert d.ignored == {"response to no request": 3}


# ---------------------------------------------------------------- 4-10: values


@pytest.mark.parametrize("answer", [0, "", False, None, [], {}, 1.5, "x", [None]])
async def test_4_falsy_values_are_values(answer: Any) -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    d.feed({"i": i, "d": answer})
    result = await task
    assert result == answer and type(result) is type(answer)


async def test_4_the_id_alone_is_success_without_a_value() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    d.feed({"i": i})
    assert await task is None


async def test_5_ids_of_zero_and_below_are_ignored_in_answers() -> None:
    """JavaScript handlers that return null answer a plain event with ``{i: -1, h: 1}``."""
    d = Driven(dialer=True)
    assert await d.fed({"i": -1, "h": 1}, {"i": 0, "h": 1}, {"i": -1, "d": 1}, {"i": 0}) == []
    assert d.peer.connected


async def test_5_that_javascript_mistake_does_not_close_a_chatty_connection() -> None:
    """Each event that a JavaScript handler answers with null brings one: what peers do is no misuse of the wire."""
    d = Driven(dialer=True)
    for _ in range(50):
        d.feed({"i": -1, "h": 1})
    await turns()
    assert d.peer.connected


@pytest.mark.parametrize("flag", [{}, {"_": 1}, {"_": True}])
async def test_6_a_rejection_with_null_is_a_rejection(flag: dict[str, Any]) -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    d.feed({"i": i, "e": None, **flag})
    with pytest.raises(RemoteError, match="Error"):
        await task


async def test_6_null_is_never_sent_as_an_error_or_a_reason() -> None:
    d = Driven(dialer=True)

    def fail() -> None:
        raise RpcError.of_value(None)

    d.peer.on("fail", fail)
    assert rejection(await d.fed({"i": 1, "a": ["fail"]}), 1)["message"]
    task, i = await d.asks("q")
    task.cancel(None)
    await turns()
    d.expect({"i": i, "x": ABORTED, "_": 1})
    task, i = await d.asks("q")
    task.cancel(RpcError.of_value(None))
    await turns()
    [sent] = d.take()
    assert sent["x"] is not None


async def test_7_fields_of_a_remote_error_are_a_read_only_mapping_and_no_attributes() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    hostile = {
        "message": "no",
        "code": "wsrpc.unheard_of",
        "data": [1],
        "name": "SystemExit",
        "__class__": "int",
        "args": ["forged"],
        "plain": True,
        "__proto__": {"x": 1},
        "fields": 5,
    }
    d.feed({"i": i, "e": hostile, "_": 1})
    with pytest.raises(RemoteError) as caught:
        await task
    error = caught.value
    assert type(error) is RemoteError
    assert (error.message, error.code, error.data, error.plain) == ("no", "wsrpc.unheard_of", [1], False)
    rest = {key: value for key, value in hostile.items() if key not in ("message", "code", "data")}
    assert error.fields == rest
    with pytest.raises(TypeError):
        error.fields["x"] = 1  # type: ignore[index]
    assert not hasattr(error, "name")


async def test_8_a_result_that_cannot_be_encoded_becomes_a_rejection() -> None:
    d = Driven()
    d.peer.on("bad", lambda: object())
    assert rejection(await d.fed({"i": 1, "a": ["bad"]}), 1)["code"] == "wsrpc.internal"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_8_nan_and_infinities_never_leave(value: float) -> None:
    d = Driven(dialer=True)
    d.peer.on("get", lambda: [value, {"k": value}])
    assert await d.fed({"i": 1, "a": ["get"]}) == [{"i": 1, "d": [None, {"k": None}]}]
    await d.peer.emit("e", value)
    d.expect({"a": ["e", None]})


async def test_9_what_leaves_is_what_a_strict_peer_accepts() -> None:
    """Ids are integers, the flag is 1 or absent, no key is null, no channel is empty text."""
    d = Driven(dialer=True)
    blocked = Blocked()
    d.peer.on("h", blocked)
    d.peer.on("echo", lambda x: x)
    task, i = await d.asks("q", 1)
    other = start(d.peer.of("room").request("q"))
    await d.peer.of("room").emit("e")
    await d.peer.emit("e", None)
    await turns()
    await d.fed({"i": 1, "a": ["h"]})
    d.feed({"i": 1, "x": None}, {"i": 2, "a": ["echo", None]}, {"i": 3, "a": ["nobody"]}, {"h": 9, "a": ["e"]})
    task.cancel()
    other.cancel("reason")
    await turns()
    keys = {"a", "c", "i", "d", "e", "x", "h", "_"}
    sent = [payload for payload, text in d.transport._sent if text]
    assert len(sent) == len(d.transport._sent)
    for message in d.take():
        assert set(message) <= keys
        assert message.get("_", 1) == 1 and type(message.get("_", 1)) is int
        assert type(message.get("i", 1)) is int and type(message.get("h", 1)) is int
        assert message.get("c", "room") == "room"
        for key in ("e", "x"):
            assert message.get(key, "absent") is not None
    assert i


async def test_9_lone_surrogates_in_a_request_are_rejected_by_its_id() -> None:
    d = Driven()
    ran: list[Any] = []
    d.peer.on("echo", ran.append)
    error = rejection(await d.fed(r'{"i":3,"a":["echo","\ud800"]}'), 3)
    assert error["code"] == "wsrpc.bad_arguments"
    assert ran == [] and d.peer.connected
    d.assert_empty()


async def test_9_lone_surrogates_in_the_reason_of_an_abort_end_the_channel() -> None:
    d = Driven(dialer=True)
    opening = start(d.peer.open_channel("talk"))
    (asked,) = await d.fed()
    await d.fed({"i": asked["i"], "h": 1})
    channel = await opening
    waiting = start(channel.request("q"))
    await d.fed()
    await d.fed(f'{{"h":{channel.id},"x":"\\ud800"}}')
    assert channel.closed
    with pytest.raises(ChannelClosed):
        await waiting
    d.assert_empty()


async def test_9_lone_surrogates_in_an_answer_end_the_request() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q", timeout=None)
    d.feed(f'{{"i":{i},"d":"\\udfff"}}')
    with pytest.raises(BadResult, match="the response to 'q' does not decode"):
        await task
    task, i = await d.asks("q", timeout=None)
    d.feed(f'{{"i":{i},"e":{{"message":"\\ud800"}},"_":1}}')
    with pytest.raises((BadResult, RemoteError)):
        await task
    d.assert_empty()


async def test_9_lone_surrogates_in_an_event_are_dropped_and_counted() -> None:
    d = Driven()
    assert await d.fed(r'{"a":["e","\ud800"]}', r'{"a":["\ud800"]}') == []
    assert d.ignored == {"unreadable": 2}


async def test_9_lone_surrogates_in_a_cancellation_still_cancel() -> None:
    d = Driven()
    blocked = Blocked()
    d.peer.on("h", blocked)
    await d.fed({"i": 1, "a": ["h"]})
    sent = await d.fed(r'{"i":1,"x":"\ud800"}')
    assert len(blocked.cancelled) == 1
    rejection(sent, 1)
    d.assert_empty()


async def test_10_text_with_lone_surrogates_never_leaves() -> None:
    d = Driven(dialer=True)
    with pytest.raises(ValueError):
        await d.peer.request("\ud800")
    with pytest.raises(ValueError):
        await d.peer.emit("e", ["\udfff"])
    with pytest.raises(ValueError):
        await d.peer.of("\ud800").emit("e")
    d.peer.on("get", lambda: "\ud800")
    error = rejection(await d.fed({"i": 1, "a": ["get"]}), 1)
    assert error["code"] == "wsrpc.internal"
    d.assert_empty()


async def test_10_large_integers_travel_exactly_between_python_peers() -> None:
    async with pair() as (a, b):
        b.on("echo", lambda x: x)
        for number in (2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1):
            assert await a.request("echo", number, returns=int) == number


# ---------------------------------------------------------------- 11-15: events and handlers


async def test_11_one_handler_per_channel_and_event() -> None:
    d = Driven()
    d.peer.on("e", lambda: "main")
    d.peer.of("a").on("e", lambda: "a")
    d.peer.of("b").on("e", lambda: "b")
    sent = await d.fed({"i": 1, "a": ["e"]}, {"i": 2, "a": ["e"], "c": "a"}, {"i": 3, "a": ["e"], "c": "b"})
    assert [m["d"] for m in sent] == ["main", "a", "b"]
    d.peer.of("a").on("e", lambda: "new")
    d.peer.of("b").on("e", None)
    sent = await d.fed({"i": 1, "a": ["e"]}, {"i": 2, "a": ["e"], "c": "a"}, {"i": 3, "a": ["e"], "c": "b"})
    assert [m.get("d") for m in sent] == ["main", "new", None]
    assert sent[2]["e"]["message"] == "No event listener for 'e' on channel 'b'"


@pytest.mark.parametrize("text", ["", "hello", "[1]", "5", "null", '"{"', " x{", "\u00e9", "{}"[::-1]])
async def test_12_text_that_does_not_begin_with_a_brace_is_ignored(text: str) -> None:
    d = Driven()
    assert await d.fed(*[text] * 20) == []
    assert d.ignored == {"foreign": 20}
    assert d.peer.connected


async def test_12_white_space_before_the_brace_is_json_all_the_same() -> None:
    d = Driven()
    d.peer.on("e", lambda: 1)
    assert await d.fed(' \r\n\t{"i":1,"a":["e"]} ') == [{"i": 1, "d": 1}]


async def test_12_messages_marked_as_foreign_are_ignored() -> None:
    d = Driven(dialer=True)
    ran: list[int] = []
    d.peer.on("e", lambda: ran.append(1))
    task, i = await d.asks("q")
    sent = await d.fed(
        {"ws-wrapper": False, "a": ["e"]},
        {"ws-wrapper": False, "i": 1, "a": ["e"]},
        {"ws-wrapper": False, "i": i, "d": 1},
        {"ws-wrapper": False},
        {"ws-wrapper": False, "wsrpc": {"t": "anything"}},
        r'{"ws-wrapper":false,"x":"\ud800"}',
    )
    assert sent == [] and ran == [] and not task.done()
    assert d.ignored == {"foreign": 6}
    # Only the boolean marks it: JavaScript compares with ===.
    for value in (0, None, "", True, 1):
        d.feed({"ws-wrapper": value, "a": ["e"]})
    assert len(ran) == 5
    task.cancel()
    await turns()


async def test_13_answers_leave_in_the_order_in_which_handlers_finish() -> None:
    d = Driven()
    slow = Blocked()
    d.peer.on("slow", slow)
    d.peer.on("quick", lambda: 1)
    assert [m["i"] for m in await d.fed({"i": 1, "a": ["slow"]}, {"i": 2, "a": ["quick"]})] == [2]
    slow.go.set()
    await turns()
    assert [m["i"] for m in d.take()] == [1]


async def test_14_a_cancelled_handler_still_sends_its_rejection_once() -> None:
    d = Driven()
    d.peer.on("h", Blocked())
    await d.fed({"i": 1, "a": ["h"]})
    assert await d.fed({"i": 1, "x": "bored"}) == [{"i": 1, "e": ABORTED, "_": 1}]
    assert await d.fed({"i": 1, "x": "bored"}, {"i": 99, "x": 0}, {"i": "1", "x": 0}, {"x": 0}, {"i": 0, "x": 0}) == []
    assert d.ignored == {"cancellation of no request": 5}


async def test_14_a_channel_that_comes_after_the_cancellation_is_aborted_once() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    task.cancel()
    await turns()
    d.take()
    [abort] = await d.fed({"i": i, "h": 1})
    assert abort["h"] == i and set(abort) == {"h", "x", "_"}
    assert await d.fed({"i": i, "h": 1}) == []
    task, i = await d.asks("q", timeout=1)
    d.clock.advance(1)
    assert isinstance(await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5), list)
    d.take()
    assert [m["h"] for m in await d.fed({"i": i, "h": True})] == [i]


async def test_14_the_memory_of_cancelled_ids_is_bounded() -> None:
    d = Driven(dialer=True)
    ids = []
    for _ in range(1100):
        task, i = await d.asks("q")
        task.cancel()
        await turns(2)
        ids.append(i)
    d.take()
    # The first ones are forgotten: what comes for them is only an answer to nothing.
    assert await d.fed({"i": ids[0], "h": 1}) == []
    assert len(await d.fed({"i": ids[-1], "h": 1})) == 1


@pytest.mark.parametrize("layered", [False, True])
@pytest.mark.parametrize(
    "message",
    [
        {"i": 1, "a": ["nobody"]},
        {"i": 1, "a": ["h"], "c": "nowhere"},
        {"i": 1, "a": ["strict"]},
        {"i": 1, "a": ["strict", 1, 2]},
        {"i": 1, "a": ["unencodable"]},
        {"i": 1, "a": ["fails"]},
        {"i": 1, "a": ["fails later"]},
        {"i": 1, "a": ["h", 1], "h": 5},
        {"i": 1, "a": ["x" * 300]},
        {"i": 1, "a": ["many", *range(99)]},
        {"i": 1, "a": [None]},
        {"i": 1, "a": ["h"], "c": []},
        {"i": 1, "a": ["h"], "c": {"x": "y" * 10_000}},
        {"i": 1, "a": ["h"], "h": "abc"},
    ],
)
async def test_15_every_path_leaves_the_active_table_clean_and_answers_once(message: Any, layered: bool) -> None:
    d = Driven()
    ran: list[Any] = []

    def strict(n: int) -> None:
        ran.append(n)

    def fails() -> None:
        raise ValueError

    async def fails_later() -> None:
        raise ValueError

    async def pass_on(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    d.peer.on("strict", strict)
    d.peer.on("unencodable", lambda: object())
    d.peer.on("fails", fails)
    d.peer.on("fails later", fails_later)
    if layered:
        d.peer.use(pass_on)
    sent = await d.fed(message)
    error = rejection(sent, 1)
    assert len(error["message"]) < 500
    assert ran == []
    d.assert_empty()
    assert d.peer.connected


# ---------------------------------------------------------------- 16-18, as far as there are no channels yet


async def test_17_an_event_for_an_unknown_channel_is_answered_once_per_id() -> None:
    d = Driven()
    text = "Anonymous channel '9' does not exist"
    sent = await d.fed({"h": 9, "a": ["e"]}, {"h": 9, "a": ["e"]}, {"h": "9", "a": ["e"]})
    assert sent == [{"h": 9, "x": {"message": text}, "_": 1}]
    assert await d.fed({"h": 9, "x": "bye"}, {"h": 12, "x": {"message": "m"}, "_": 1}) == []
    sent = await d.fed({"h": 9, "i": 4, "a": ["e"]}, {"h": 9, "i": 5, "a": ["e"], "c": "room"})
    assert sent == [{"i": i, "e": {"message": text}, "_": 1} for i in (4, 5)]
    d.assert_empty()


async def test_17_the_memory_of_such_ids_is_bounded_and_ends_with_the_connection() -> None:
    d = Driven()
    for h in range(1, 1101):
        assert len(await d.fed({"h": h, "a": ["e"]})) == 1
    assert len(await d.fed({"h": 1, "a": ["e"]})) == 1  # forgotten, so answered anew
    assert await d.fed({"h": 1100, "a": ["e"]}) == []
    d.transport.lose()
    d.rebind()
    assert len(await d.fed({"h": 1100, "a": ["e"]})) == 1


@pytest.mark.parametrize("h", [0, -7, 1.5, "abc", "7.0", "", [], {}, True, False, "9" * 30, "\u0663"])
async def test_18_an_odd_channel_id_stops_nothing(h: Any) -> None:
    d = Driven(dialer=True)
    ran: list[int] = []
    d.peer.on("e", lambda: ran.append(1))
    task, i = await d.asks("q", timeout=None)
    sent = await d.fed({"h": h, "a": ["e"]}, {"h": h, "i": 8, "a": ["e"]})
    assert ran == []
    assert all(m.get("i") == 8 or type(m["h"]) is int for m in sent)
    # As an answer it must not leave the request hanging.
    d.feed({"i": i, "h": h})
    await asyncio.wait([task])
    d.assert_empty()


async def test_20_nothing_survives_a_disconnect() -> None:
    d = Driven(dialer=True)
    stubborn = Stubborn()
    d.peer.on("h", stubborn)
    task, _ = await d.asks("q", timeout=None)
    await d.fed({"i": 1, "a": ["h"]})
    d.transport.lose()
    with pytest.raises(ConnectionLost):
        await task
    stubborn.go.set()
    await turns()
    d.assert_empty()

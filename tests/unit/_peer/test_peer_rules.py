"""The rules of the wire, with the numbers that they have in the tests' ids."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Blocked, Driven, rejection, start, turns

from wsrpc import Limits, RemoteError, RpcError
from wsrpc._sending.pending import FIRST_ID, LAST_ID

LARGEST = 2**53 - 1
REJECTED = "rejected"
NO_CHANNEL = {"message": "Anonymous channel '9' does not exist"}


def row(*messages: Any, sent: Any = (), ran: int = 0, ignored: dict[str, int] | None = None, id: str) -> Any:
    """What arrives in one read; what is sent, or the code of the rejection; how often `e` runs; what is counted."""
    return pytest.param(messages, sent if isinstance(sent, str) else list(sent), ran, ignored or {}, id=id)


RECEIVED = [
    *(row({"i": i, "a": ["e"]}, sent=[{"i": int(i), "d": None}], ran=1, id=f"2 id {i}") for i in (1, LARGEST, 7.0)),
    row({"i": None, "a": ["e"]}, ran=1, id="2 null is no id, as in JavaScript and Go"),
    row(
        *({"i": None, "a": ["many", *range(70)]}, {"i": None, "a": ["nobody"]}, {"i": None, "d": 1}, {"i": None}),
        ignored={"too many arguments": 1, "unknown event": 1, "foreign": 2},
        id="2 odd events with a null id",
    ),
    row(*['{"i":null,"a":["e","\\ud800"]}'] * 30, ignored={"unreadable": 30}, id="2 a null id of what does not decode"),
    # JavaScript handlers that return null answer a plain event with ``{i: -1, h: 1}``. It is no misuse of the wire.
    row(*[{"i": -1, "h": 1}] * 50, ignored={"response to no request": 50}, id="5 a mistake of JavaScript"),
    row(
        {"i": 0, "h": 1}, {"i": -1, "d": 1}, {"i": 0}, ignored={"response to no request": 3}, id="5 ids of 0 and below"
    ),
    row(' \r\n\t{"i":1,"a":["e"]} ', sent=[{"i": 1, "d": None}], ran=1, id="12 white space before the brace"),
    row(
        *({"ws-wrapper": False, "a": ["e"]}, {"ws-wrapper": False, "i": 1, "a": ["e"]}, {"ws-wrapper": False}),
        *({"ws-wrapper": False, "wsrpc": {"t": "anything"}}, r'{"ws-wrapper":false,"x":"\ud800"}'),
        ignored={"foreign": 5},
        id="12 marked as foreign",
    ),
    # JavaScript compares with ===.
    row(*({"ws-wrapper": v, "a": ["e"]} for v in (0, None, "", True, 1)), ran=5, id="12 only false marks it"),
    row(
        *({"i": 99, "x": 0}, {"i": "1", "x": 0}, {"x": 0}, {"i": 0, "x": 0}),
        ignored={"cancellation of no request": 4},
        id="14 cancellations of nothing",
    ),
    *(
        row({"i": 1, "a": ["e"], **message}, sent=REJECTED, id=f"15 {name}")
        for name, message in dict[str, Any](
            {
                "unknown event": {"a": ["nobody"]},
                "unknown channel": {"c": "nowhere"},
                "no argument": {"a": ["strict"]},
                "fails": {"a": ["fails"]},
                "fails later": {"a": ["fails later"]},
                "unknown anonymous channel": {"h": 5},
                "object as channel": {"c": {"x": "y" * 10_000}},
                "odd anonymous channel": {"h": "abc"},
            }
        ).items()
    ),
    row(
        *({"h": 9, "a": ["e"]}, {"h": 9, "a": ["e"]}, {"h": "9", "a": ["e"]}),
        *({"h": 9, "i": 4, "a": ["e"]}, {"h": 9, "i": 5, "a": ["e"], "c": "room"}),
        sent=[{"h": 9, "x": NO_CHANNEL, "_": 1}, *({"i": i, "e": NO_CHANNEL, "_": 1} for i in (4, 5))],
        id="17 events for an unknown channel are answered once, and requests each",
    ),
]


@pytest.mark.parametrize(("received", "sent", "ran", "ignored"), RECEIVED)
async def test_what_is_received_is_answered_once_and_leaves_nothing(
    received: tuple[Any, ...], sent: Any, ran: int, ignored: dict[str, int]
) -> None:
    d = Driven()
    runs: list[Any] = []

    def strict(n: int) -> None:
        runs.append(n)

    def fails() -> None:
        raise ValueError

    async def fails_later() -> None:
        raise ValueError

    for name, function in (("strict", strict), ("fails", fails), ("fails later", fails_later)):
        d.peer.on(name, function)
    d.peer.on("e", lambda: runs.append(1))
    answers = await d.fed(*received)
    if isinstance(sent, str):
        error = rejection(answers, 1)
        assert sent == REJECTED or error["code"] == sent
        assert len(error["message"]) < 500
    else:
        assert answers == sent
    assert len(runs) == ran
    assert d.ignored == ignored
    assert d.peer.connected
    d.assert_empty()


# ---------------------------------------------------------------- 1-3: ids


@pytest.mark.parametrize("dialer", [True, False])
async def test_1_ids_start_at_a_random_point_and_tell_who_dialed(dialer: bool) -> None:
    firsts = set()
    for _ in range(20):
        d = Driven(dialer=dialer)
        ids = [(await d.asks("q"))[1] for _ in range(3)]
        assert ids == [ids[0], ids[0] + 2, ids[0] + 4]
        assert all(2**30 <= i <= 2**31 - 1 and i % 2 == dialer for i in ids)
        firsts.add(ids[0])
        d.transport.lose()
        await turns()
    assert len(firsts) > 15


@pytest.mark.parametrize("dialer", [True, False])
async def test_1_ids_wrap_and_skip_those_in_use(dialer: bool) -> None:
    d = Driven(dialer=dialer)
    first = FIRST_ID + 1 if dialer else FIRST_ID
    last = LAST_ID if dialer else LAST_ID - 1
    d.peer._out.requests._next = first  # as if all the others had been used up
    held = [await d.asks("q") for _ in range(3)]
    d.peer._out.requests._next = last
    over = [await d.asks("q") for _ in range(3)]
    assert [i for _, i in held + over] == [first, first + 2, first + 4, last, first + 6, first + 8]


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


@pytest.mark.parametrize("i", [True, "1"])
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
    blocked.go.set()
    await turns()


@pytest.mark.parametrize(
    "second",
    [
        {"a": ["h", "second"]},
        {"a": ["nobody"]},
        {"a": [5]},
        {"a": ["h"], "c": "nowhere"},
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


# ---------------------------------------------------------------- 4-10: values


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ({"d": None}, None),
        ({}, None),
        *(({"e": None, **flag}, RemoteError("Error")) for flag in ({}, {"_": 1}, {"_": True})),
        ({"e": {"message": "no", "code": 7}, "_": 1}, RemoteError("no", 7)),
    ],
    ids=str,
)
async def test_4_6_an_answer_without_a_value_is_null_and_a_rejection_with_null_is_a_rejection(
    answer: dict[str, Any], result: Any
) -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    d.feed({"i": i, **answer})
    got: Any = (await asyncio.gather(task, return_exceptions=True))[0]
    assert type(got) is type(result)
    assert (got.message, got.code) == (result.message, result.code) if "e" in answer else got == result


async def test_7_fields_of_a_remote_error_are_a_read_only_mapping_and_no_attributes() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    rest = {"name": "SystemExit", "__class__": "int", "args": ["forged"], "plain": True, "__proto__": {}, "fields": 5}
    d.feed({"i": i, "e": {"message": "no", "code": "wsrpc.unheard_of", "data": [1], **rest}, "_": 1})
    with pytest.raises(RemoteError) as caught:
        await task
    error = caught.value
    assert type(error) is RemoteError
    assert (error.message, error.code, error.data, error.plain) == ("no", "wsrpc.unheard_of", [1], False)
    assert error.fields == rest
    with pytest.raises(TypeError):
        error.fields["x"] = 1  # type: ignore[index]
    assert not hasattr(error, "name")


async def test_9_what_leaves_is_what_a_strict_peer_accepts() -> None:
    """Ids are integers, the flag is 1 or absent, no key is null, no channel is empty text."""
    d = Driven(dialer=True)
    d.peer.on("h", Blocked())
    d.peer.on("echo", lambda x: x)

    def fail() -> None:
        raise RpcError.of_value(None)

    d.peer.on("fail", fail)
    task, _ = await d.asks("q", 1)
    other = start(d.peer.of("room").request("q"))
    await d.peer.of("room").emit("e")
    await d.peer.emit("e", None)
    sent = await d.fed({"i": 1, "a": ["h"]})
    d.feed({"i": 1, "x": None}, {"i": 2, "a": ["echo", None]}, {"i": 3, "a": ["nobody"]}, {"h": 9, "a": ["e"]})
    d.feed({"i": 4, "a": ["fail"]})
    task.cancel()
    other.cancel(RpcError.of_value(None))
    for message in [*sent, *await d.fed()]:
        assert set(message) <= {"a", "c", "i", "d", "e", "x", "h", "_"}
        assert message.get("_", 1) == 1 and type(message.get("_", 1)) is int
        assert type(message.get("i", 1)) is int and type(message.get("h", 1)) is int
        assert message.get("c", "room") == "room"
        assert None not in (message.get("e", "absent"), message.get("x", "absent"))


# ---------------------------------------------------------------- 11-20: events, handlers and channels


async def test_14_a_channel_that_comes_after_the_end_of_its_request_is_aborted_once() -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    task.cancel()
    await asyncio.wait([task])
    d.take()
    [abort] = await d.fed({"i": i, "h": 1})
    assert abort["h"] == i and set(abort) == {"h", "x", "_"}
    assert await d.fed({"i": i, "h": True}) == []


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


async def test_17_the_memory_of_unknown_channels_is_bounded_and_ends_with_the_connection() -> None:
    d = Driven()
    for h in range(1, 1101):
        assert len(await d.fed({"h": h, "a": ["e"]})) == 1
    assert len(await d.fed({"h": 1, "a": ["e"]})) == 1  # forgotten, so answered anew
    assert await d.fed({"h": 1100, "a": ["e"]}, {"h": 9, "x": "bye"}, {"h": 12, "x": {"message": "m"}, "_": 1}) == []
    d.transport.lose()
    d.rebind()
    assert len(await d.fed({"h": 1100, "a": ["e"]})) == 1


@pytest.mark.parametrize("h", [0, -7, 1.5, "abc", "7.0", [], True, "9" * 30, "\u0663"])
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

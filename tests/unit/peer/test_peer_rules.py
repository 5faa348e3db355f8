"""The rules of the wire, with the numbers that they have in the tests' ids."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Blocked, Driven, rejection
from waiting import pause, settled

from wsrpc import Limits, RemoteError
from wsrpc._core.sending.pending import FIRST_ID, LAST_ID

LARGEST = 2**53 - 1
REJECTED = "rejected"
NO_CHANNEL = {"message": "Anonymous channel '9' does not exist"}


def row(*messages: Any, sent: Any = (), ran: int = 0, ignored: dict[str, int] | None = None, id: str) -> Any:
    """What arrives in one read; what is sent, if it is not one rejection; how often `e` runs; what is counted."""
    return pytest.param(messages, sent if sent is REJECTED else list(sent), ran, ignored or {}, id=id)


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
    row(*[{"i": -1, "h": 1}, {"i": 0}] * 25, ignored={"response to no request": 50}, id="5 a mistake of JavaScript"),
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
    row({"i": 1, "a": ["open"], "c": ""}, sent=REJECTED, id="15 reserved event"),
    row({"i": 1, "a": ["e"], "c": {"x": "y" * 10_000}}, sent=REJECTED, id="15 object as channel"),
    row({"i": 1, "a": ["e"], "h": "abc"}, sent=REJECTED, id="15 odd anonymous channel"),
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

    d.peer.on("e", lambda: runs.append(1))
    answers = await d.fed(*received)
    if sent is REJECTED:
        assert len(rejection(answers, 1)["message"]) < 500
    else:
        assert answers == sent
    assert len(runs) == ran
    assert d.ignored == ignored
    assert d.peer.connected
    d.assert_empty()


# ---------------------------------------------------------------- 1-3: ids


@pytest.mark.parametrize("dialer", [True, False])
async def test_1_ids_start_at_a_random_point_tell_who_dialed_wrap_and_skip_those_in_use(
    dialer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    d, other = Driven(dialer=dialer), Driven(dialer=dialer)
    start = (await d.asks("q"))[1]
    assert 2**30 <= start <= 2**31 - 1 and start % 2 == dialer
    assert abs((await other.asks("q"))[1] - start) > 100
    assert (await d.asks("q"))[1] == start + 2
    first = FIRST_ID + 1 if dialer else FIRST_ID
    last = LAST_ID if dialer else LAST_ID - 1
    monkeypatch.setattr("random.randrange", lambda most: (last - first) // 2)
    d = Driven(dialer=dialer)
    asked = [await d.asks("q") for _ in range(3)]
    assert [i for _, i in asked] == [last, first, first + 2]
    asked[2][0].cancel()  # its answer may still come
    monkeypatch.setattr("wsrpc._core.sending.pending._LAST_BUT_ONE", first + 3)  # as if these were all ids
    for _ in range(2):
        task, i = await d.asks("q")
        assert i == first + 4
        await d.fed({"i": i})
        await task


SECOND: list[dict[str, Any]] = [{"a": ["h", "second"]}, {"a": ["nobody"]}, {"a": [5]}, {"a": ["h"], "c": "nowhere"}]


@pytest.mark.parametrize("second", [*SECOND, {"a": ["h", "\ud800"]}], ids=str)
@pytest.mark.parametrize("where", ["running", "waiting"])
async def test_2_a_second_request_with_an_active_id_is_dropped_and_counted(second: dict[str, Any], where: str) -> None:
    d = Driven(limits=Limits(running=1))
    blocked = Blocked()
    d.peer.on("h", blocked)
    if where == "waiting":
        await d.fed({"a": ["h", "before"]})
    assert await d.fed({"i": 5, "a": ["h", "first"]}, {"i": 5, **second}) == []  # a rejection would settle the first
    assert d.peer.ignored.total() >= 1
    blocked.go.set()
    await settled()
    assert d.take() == [{"i": 5, "d": ["first"]}] and ("second",) not in blocked.started
    # Free again afterwards.
    assert await d.fed({"i": 5, "a": ["h", "third"]}) == [{"i": 5, "d": ["third"]}]


# ---------------------------------------------------------------- 4-10: values


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


# ---------------------------------------------------------------- 11-20: events, handlers and channels


async def test_14_the_memory_of_cancelled_ids_is_bounded() -> None:
    d = Driven(dialer=True)
    ids = []
    for _ in range(1100):
        task, i = await d.asks("q")
        task.cancel()
        await settled()
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


@pytest.mark.parametrize("steps", ["answer cancel", "answer expire", "answer drop", "drop cancel"])
async def test_a_cancellation_wins_and_otherwise_what_came_first(steps: str) -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q", timeout=1)
    do: dict[str, Any] = {"cancel": task.cancel, "expire": lambda: pause(2), "drop": d.transport.lose}
    do["answer"] = lambda: d.feed({"i": i, "d": "in time"})
    for step in steps.split():
        do[step]()
    await asyncio.wait([task])
    assert task.cancelled() if "cancel" in steps else task.result() == "in time"
    d.expect()
    d.assert_empty()


# ---------------------------------------------------------------- what is refused at once


async def test_an_empty_name_is_one_as_in_javascript() -> None:
    d = Driven(dialer=True)
    await d.peer.emit("", 1)
    d.expect({"a": ["", 1]})
    assert "No event listener for ''" in rejection(await d.fed({"i": 3, "a": [""]}), 3)["message"]
    d.peer.once("", lambda a, /: a)
    assert rejection(await d.fed({"i": 6, "a": [""]}), 6)["code"] == "wsrpc.bad_arguments"
    assert "No event listener" in rejection(await d.fed({"i": 5, "a": ["", 2]}), 5)["message"], "it was for the first"
    with pytest.raises(TypeError, match="a channel's name is a non-empty string"):
        d.peer.of("")

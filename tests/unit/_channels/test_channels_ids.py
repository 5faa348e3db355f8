"""The ids of anonymous channels: every wrong kind, unknown ones, taken ones, and too many."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Blocked, Driven, rejection, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, emptied, values
from stream_sides import over, serving

from wsrpc import AnonymousChannel, Context, Limits

pytestmark = pytest.mark.usefixtures("nothing_left")


WRONG_IDS = [0, -1, 1.5, True, False, "", "x", "5x", "-5", "5.0", "+5", " 5", "٥", [], [5], {}, {"h": 5}, 2**53, 2**200]


@pytest.mark.parametrize("h", [5, "5", "05"], ids=repr)
async def test_a_channel_is_known_by_number_and_by_digits(h: Any) -> None:
    d = await serving(Feed().__call__)
    [first] = await d.fed({"h": h, "a": ["start"]})
    assert first["h"] == 5
    await d.fed({"h": h, "x": "bye"})
    await emptied(d.peer)
    d.assert_empty()


@pytest.mark.parametrize("h", WRONG_IDS, ids=repr)
async def test_a_channel_id_of_the_wrong_kind_names_no_channel(h: Any) -> None:
    d = await serving(Feed().__call__)
    ran: list[Any] = []
    d.peer.on("e", lambda: ran.append(h))
    sent = await d.fed({"h": h, "a": ["e"]}, {"h": h, "x": "bye"}, {"h": h, "i": 7, "a": ["e"]})
    assert ran == [], "least of all the main one"
    assert "does not exist" in rejection(sent, 7)["message"]
    assert d.peer.channels == 1 and d.peer.connected
    await over(d)


@pytest.mark.parametrize("h", ["5", "x", 5, -1, 1.5, True, [1], {"a": 1}, 2**200], ids=repr)
async def test_an_answer_with_any_truthy_h_is_the_channel(h: Any) -> None:
    d = Driven(dialer=True)
    opening = start(d.peer.open_channel("c"))
    await turns()
    i = d.take()[-1]["i"]
    d.feed({"i": i, "h": h})
    channel = await opening
    assert channel.id == i, "it is the request that names it"
    channel.close()
    d.assert_empty()


@pytest.mark.parametrize("h", [0, False, "", None], ids=repr)
async def test_an_answer_with_a_falsy_h_is_a_plain_one(h: Any) -> None:
    d = Driven(dialer=True)
    task, i = await d.asks("q")
    await d.fed({"i": i, "h": h, "d": 5})
    assert task.result() == 5


async def test_an_event_for_an_unknown_channel_is_answered_with_one_abort() -> None:
    d = Driven()
    [abort] = await d.fed({"h": 9, "a": ["e"]}, {"h": 9, "a": ["e"]}, {"h": "9", "a": ["e"]})
    assert abort == {"h": 9, "x": {"message": "Anonymous channel '9' does not exist"}, "_": 1}
    assert await d.fed({"h": 9, "a": ["e"]}, {"h": 9, "x": "bye"}) == [], "an abort is never answered"
    for i in (1, 3):
        assert "does not exist" in rejection(await d.fed({"h": 9, "i": i, "a": ["e"]}), i)["message"]


async def test_unknown_channels_are_remembered_within_bounds() -> None:
    d = Driven()
    for h in range(1, 3000):
        d.feed({"h": h, "a": ["e"]})
    assert len(d.take()) == 2999
    assert len(await d.fed({"h": 1, "a": ["e"]})) == 1, "the first one was forgotten"
    assert await d.fed({"h": 2999, "a": ["e"]}) == []


async def test_a_request_with_the_id_of_an_open_channel_is_rejected_and_harms_nothing() -> None:
    first = Feed()
    d = await serving(first.__call__)
    assert "still open" in rejection(await d.fed({"i": 5, "a": ["s"]}), 5)["message"]
    assert (d.peer.channels, d.peer.active) == (1, 1)
    assert values(await d.fed({"h": 5, "a": ["start"]})) == [0]
    await over(d)
    assert await d.fed({"i": 5, "a": ["s"]}) == [{"i": 5, "h": 1}], "now it is free again"
    assert values(await d.fed({"h": 5, "a": ["start"]})) == [0]
    await over(d)
    assert [message["h"] for message in await d.fed({"h": 5, "a": ["start"]})] == [5], "and told of once more"


async def test_an_event_name_that_is_no_text_on_a_channel() -> None:
    d = await serving(Feed().__call__)
    names: list[Any] = [5, None, [], {}, True]
    for name in names:
        sent = await d.fed({"h": 5, "i": 7, "a": [name]})
        assert rejection(sent, 7)["code"] == "wsrpc.bad_arguments"
    await over(d)


async def test_the_1025th_channel_is_refused_as_overloaded() -> None:
    limit = Limits().channels
    d = Driven()
    d.peer.on("s", Feed().__call__)
    made: list[AnonymousChannel] = []

    def by_hand(ctx: Context) -> AnonymousChannel:
        made.append(ctx.channel())
        return made[-1]

    async def talk(channel: AnonymousChannel) -> None:
        await asyncio.Event().wait()

    d.peer.on("by_hand", by_hand)
    d.peer.on("talk", talk)
    names = ["s", "by_hand", "talk", "s"]
    sent = await d.fed(*({"i": i, "a": [names[i % 4]]} for i in range(1, limit + 1)))
    assert len(sent) == d.peer.channels == limit
    for i, name, code in (
        (5000, "s", "wsrpc.overloaded"),
        (5001, "by_hand", "wsrpc.too_many_channels"),  # its handler ran, until it asked for the channel
        (5002, "talk", "wsrpc.overloaded"),
    ):
        error = rejection(await d.fed({"i": i, "a": [name]}), i)
        assert error["code"] == code and "1024" in error["message"]
    assert d.peer.channels == limit
    await d.fed({"h": 1, "x": "bye"})
    assert await d.fed({"i": 5003, "a": ["s"]}) == [{"i": 5003, "h": 1}]
    d.transport.lose()
    await emptied(d.peer)


async def test_a_handler_that_will_not_end_takes_the_place_of_a_handler_but_not_of_a_channel() -> None:
    d = Driven(limits=Limits(channels=1, running=1))
    stubborn = Blocked()

    async def talk(channel: AnonymousChannel) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await stubborn()

    d.peer.on("s", talk)
    await d.fed({"i": 1, "a": ["s"]})
    await d.fed({"h": 1, "x": "bye"})
    assert (d.peer.channels, d.peer.active) == (0, 1)
    assert await d.fed({"i": 3, "a": ["s"]}) == []  # it waits, as for any other handler
    stubborn.go.set()
    await turns()
    d.expect({"i": 3, "h": 1})
    d.transport.lose()
    await emptied(d.peer)

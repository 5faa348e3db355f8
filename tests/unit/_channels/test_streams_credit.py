"""Credit, as it shows on the wire at the producer: how far it goes, and what changes that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import Driven, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, agreed, control, credit, decoded, done, hello, item, values
from stream_sides import consuming, producing

from wsrpc.codecs import MsgpackCodec

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_the_producer_sends_exactly_what_was_granted() -> None:
    feed = Feed()
    d = await producing(feed.__call__)
    assert await d.fed(credit(5, 3)) == [], "credit alone does not start it"
    assert values(await d.fed({"h": 5, "a": ["start"]})) == [0, 1, 2]
    await turns(50)
    d.expect()
    assert values(await d.fed(credit(5, 10))) == list(range(3, 10))
    assert feed.made <= 11
    d.transport.lose()
    await turns()


async def test_items_are_events_and_so_is_the_end() -> None:
    d = await producing(Feed(limit=2).__call__)
    sent = await d.fed(credit(5, 10), {"h": 5, "a": ["start"]})
    assert sent == [item(5, 0), item(5, 1), done(5)]
    assert d.peer.channels == d.peer.active == 0


async def test_an_item_is_made_when_there_is_room_for_it_and_not_before() -> None:
    feed = Feed(limit=4)
    d = await producing(feed.__call__)
    assert await d.fed(credit(5, 3), {"h": 5, "a": ["start"]}) == [item(5, 0), item(5, 1), item(5, 2)]
    assert feed.made == 3
    assert await d.fed(credit(5, 5)) == [item(5, 3), done(5)]
    d.assert_empty()


@pytest.mark.parametrize("again", [(3, 2**40), (2, 2**40), (0, 0), (3, 1), (0, 2**40)], ids=repr)
async def test_totals_that_are_repeated_or_late_change_nothing(again: tuple[int, int]) -> None:
    d = await producing(Feed().__call__)
    await d.fed(credit(5, 3), {"h": 5, "a": ["start"]})
    assert await d.fed(credit(5, *again), credit(5, *again)) == []
    assert values(await d.fed(credit(5, 4))) == [3]
    d.transport.lose()
    await turns()


async def test_bytes_bound_it_too_and_one_item_may_overdraw() -> None:
    async def blocks() -> AsyncIterator[str]:
        while True:
            yield "x" * 1000

    d = await producing(blocks)
    sent = await d.fed(credit(5, 1000, 2500), {"h": 5, "a": ["start"]})
    assert len(values(sent)) == 3, "two and a half fit, and the third may overdraw"
    size = sum(len(str(message)) for message in sent)
    assert size < 3 * 1100
    assert values(await d.fed(credit(5, 1000, 3000))) == []
    assert len(values(await d.fed(credit(5, 1000, 3500)))) == 1
    d.transport.lose()
    await turns()


async def test_one_huge_item_overdraws_alone() -> None:
    async def blocks() -> AsyncIterator[str]:
        for _ in range(3):
            yield "x" * 100_000

    d = await producing(blocks)
    assert len(values(await d.fed(credit(5, 64, 1000), {"h": 5, "a": ["start"]}))) == 1
    assert values(await d.fed(credit(5, 65, 2000))) == []
    assert len(values(await d.fed(credit(5, 66, 101_000)))) == 1
    d.transport.lose()
    await turns()


@pytest.mark.parametrize("grant", [(0, 0), (0, 100), (5, 0)], ids=repr)
async def test_a_grant_of_nothing_is_credit_all_the_same(grant: tuple[int, int]) -> None:
    d = await producing(Feed().__call__)
    assert await d.fed(credit(5, *grant), {"h": 5, "a": ["start"]}) == []
    assert values(await d.fed(credit(5, 2))) == list(range(max(2, grant[0])))
    d.transport.lose()
    await turns()


async def test_credit_before_the_channel_is_made_is_for_no_channel() -> None:
    d = Driven(extensions=True)
    await agreed(d, "credit")
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[int]:
        await gate.wait()
        return Feed()()

    d.peer.on("s", slow)
    await d.fed({"i": 5, "a": ["s"]}, credit(5, 10))
    assert d.ignored == {"credit for no channel": 1}
    gate.set()
    await turns()
    d.expect({"i": 5, "h": 1})
    d.transport.lose()
    await turns()


async def test_a_producer_that_starts_without_credit_stays_paced() -> None:
    d = await producing(Feed().__call__)
    [first] = await d.fed({"h": 5, "a": ["start"]})
    assert first == item(5, 0, first["i"])
    assert await d.fed(credit(5, 100)) == [], "the kind is fixed by the first act"
    [second] = await d.fed({"i": first["i"]})
    assert second == item(5, 1, second["i"])
    d.transport.lose()
    await turns()


async def test_with_a_codec_of_ones_own_control_messages_are_text() -> None:
    d = Driven(codec=MsgpackCodec(), extensions=True)
    [answer] = await d.fed(hello("credit", "msgpack"))
    assert answer["wsrpc"]["t"] == "welcome" and answer["wsrpc"]["features"] == ["batches", "credit", "drain", "stop"]
    d.peer.on("s", Feed(limit=2).__call__)
    encode = MsgpackCodec().encode
    assert decoded(await d.fed(encode({"i": 5, "a": ["s"]}))) == [{"i": 5, "h": 1}]
    assert decoded(await d.fed(credit(5, 1), encode({"h": 5, "a": ["start"]}))) == [item(5, 0)]
    assert decoded(await d.fed(credit(5, 3))) == [item(5, 1), done(5)]


async def test_credit_that_crosses_the_end_of_its_stream_is_not_counted() -> None:
    d = await producing(Feed(limit=2).__call__)
    await d.fed(credit(5, 10), {"h": 5, "a": ["start"]})
    assert await d.fed(credit(5, 20)) == [] and d.ignored == {}
    d, _, h = await consuming()
    d.feed(done(h), credit(h, 20))
    assert d.ignored == {"credit for no channel": 1}, "nothing was produced on that one"


@pytest.mark.parametrize(
    "fields",
    [
        {"n": -1, "bytes": 10},
        {"n": 10, "bytes": -1},
        {"n": 2**53, "bytes": 10},
        {"n": 2**200, "bytes": 2**200},
        {"n": True, "bytes": 10},
        {"n": "10", "bytes": 10},
        {"n": 1.5, "bytes": 10},
        {"n": None, "bytes": 10},
        {"n": 10},
        {"bytes": 10},
        {"n": [10], "bytes": {}},
    ],
    ids=repr,
)
async def test_credit_of_no_sense_is_ignored_and_counted(fields: dict[str, Any]) -> None:
    d = await producing(Feed().__call__)
    await d.fed(credit(5, 2), {"h": 5, "a": ["start"]})
    assert await d.fed(control("credit", h=5, **fields)) == []
    assert sum(d.ignored.values()) == 1
    assert values(await d.fed(credit(5, 3))) == [2]
    d.transport.lose()
    await turns()


@pytest.mark.parametrize("h", [6, 0, -5, 2**60, True, "5", 5.5, None, [5], {}], ids=repr)
async def test_credit_for_no_channel_is_ignored_and_counted(h: Any) -> None:
    d = await producing(Feed().__call__)
    await d.fed(credit(5, 2), {"h": 5, "a": ["start"]})
    assert await d.fed(control("credit", h=h, n=100, bytes=2**40)) == []
    assert sum(d.ignored.values()) == 1
    d.transport.lose()
    await turns()


async def test_all_the_credit_in_the_world_is_bounded_by_the_connection() -> None:
    feed = Feed()
    d = await producing(feed.__call__)
    d.transport.pause()
    assert await d.fed(credit(5, 2**53 - 1, 2**53 - 1), {"h": 5, "a": ["start"]}) == []
    await turns(50)
    assert feed.made <= 1
    d.feed({"h": 5, "x": "bye"})
    await turns()
    d.transport.resume()
    await turns()
    d.expect()
    d.assert_empty()

"""Pull mode: `request("pull", n)` is answered with that many values."""

from __future__ import annotations

from typing import Any

import pytest
from core_driver import rejection
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, values
from stream_sides import over, serving

from wsrpc import RemoteError

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize("n", [0, -1, 10**9, 2**200, 1.5, True, "5", None, [], {}], ids=repr)
async def test_a_pull_of_nonsense_is_rejected_and_the_stream_goes_on(n: Any) -> None:
    d = await serving(Feed().__call__)
    assert "pull" in rejection(await d.fed({"h": 5, "i": 7, "a": ["pull", n]}), 7)["message"]
    assert await d.fed({"h": 5, "i": 9, "a": ["pull", 2]}) == [{"i": 9, "d": {"values": [0, 1], "done": False}}]
    await over(d)


async def test_pulling_without_a_number_gives_one_and_without_a_request_none() -> None:
    d = await serving(Feed().__call__)
    assert await d.fed({"h": 5, "a": ["pull", 5]}) == []
    assert await d.fed({"h": 5, "i": 7, "a": ["pull"]}) == [{"i": 7, "d": {"values": [0], "done": False}}]
    await over(d)


async def test_pulls_are_answered_in_order_and_at_the_end_with_what_is_left() -> None:
    d = await serving(Feed(limit=5).__call__)
    sent = await d.fed(
        {"h": 5, "i": 7, "a": ["pull", 2]}, {"h": 5, "i": 9, "a": ["pull", 10]}, {"h": 5, "i": 11, "a": ["pull", 1]}
    )
    assert sent[:2] == [
        {"i": 7, "d": {"values": [0, 1], "done": False}},
        {"i": 9, "d": {"values": [2, 3, 4], "done": True}},
    ]
    assert 11 in {message.get("i") for message in sent}, "somebody waits for that one, too"
    d.assert_empty()
    assert d.peer.channels == 0


async def test_pulled_errors_come_as_the_rejection() -> None:
    d = await serving(Feed(limit=2, error=RemoteError("x")).__call__)
    sent = await d.fed({"h": 5, "i": 7, "a": ["pull", 2]}, {"h": 5, "i": 9, "a": ["pull", 2]})
    assert sent[0] == {"i": 7, "d": {"values": [0, 1], "done": False}}
    rejection(sent, 9)
    d.assert_empty()


async def test_pull_then_start_and_start_then_pull() -> None:
    d = await serving(Feed().__call__)
    sent = await d.fed({"h": 5, "i": 7, "a": ["pull", 1]}, {"h": 5, "a": ["start"]}, {"h": 5, "i": 9, "a": ["pull", 1]})
    assert [message["d"]["values"] for message in sent] == [[0], [1]]
    await over(d)
    d = await serving(Feed().__call__)
    sent = await d.fed({"h": 5, "a": ["start"]}, {"h": 5, "i": 7, "a": ["pull", 1]})
    assert values(sent) == [0] and "started" in rejection(sent, 7)["message"]
    await over(d)

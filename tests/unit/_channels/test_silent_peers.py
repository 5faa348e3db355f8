"""A warning about plain peers that know no channels, as ws-wrapper 3, and none about the others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Driven, messages, turns
from leftovers import nothing_left as nothing_left
from stream_driver import Feed, hello, total

from wsrpc import AnonymousChannel

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENCE = 5.0


def serving(**options: Any) -> Driven:
    d = Driven(**options)

    async def talk(channel: AnonymousChannel) -> None:
        channel.on("said", lambda: None)
        await asyncio.get_running_loop().create_future()

    async def tell(channel: AnonymousChannel) -> None:
        await channel.emit("tick")
        await asyncio.get_running_loop().create_future()

    for name, handler in (("stream", Feed(limit=1).__call__), ("upload", total), ("talk", talk), ("tell", tell)):
        d.peer.on(name, handler)
    return d


async def over(d: Driven, seconds: float = PATIENCE) -> None:
    d.clock.advance(seconds)
    await turns()


async def ended(d: Driven) -> None:
    d.transport.lose()
    await turns()
    assert d.clock.next_deadline is None


@pytest.mark.parametrize("event", ["stream", "upload", "talk"])
async def test_a_plain_peer_that_says_nothing_on_its_channel(event: str, caplog: pytest.LogCaptureFixture) -> None:
    d = serving()
    await d.fed({"i": 1, "a": [event]})
    await over(d, PATIENCE - 0.1)
    assert messages(caplog) == []
    await over(d, 0.1)
    [text] = messages(caplog)
    assert text.startswith(
        f"the peer has requested '{event}' and has sent nothing on its channel for 5 s: ws-wrapper 3"
    )
    assert 'profile="ws-wrapper-3"' in text
    for i in range(2, 10):
        await d.fed({"i": i, "a": [event]})
        await over(d)
    assert len(messages(caplog)) == 1, "once for each peer"
    await ended(d)


SAYS: dict[str, list[dict[str, Any]]] = {
    "start, once": [{"i": 1, "a": ["stream"]}, {"h": 1, "a": ["start"]}, {"i": 9, "a": ["stream"]}],
    "an item": [{"i": 1, "a": ["upload"]}, {"i": 2, "h": 1, "a": ["next", {"value": 1}]}],
    "an event that nobody knows": [{"i": 1, "a": ["talk"]}, {"h": 1, "a": ["what"]}],
    "an abort": [{"i": 1, "a": ["talk"]}, {"h": 1, "x": "enough"}],
    "nothing, but it is spoken to": [{"i": 1, "a": ["tell"]}],
    "nothing, but is a wsrpc peer": [hello("credit"), {"i": 1, "a": ["stream"]}],
}


@pytest.mark.parametrize("says", SAYS)
async def test_a_peer_that_uses_its_channel_or_may_just_listen_or_be_late(
    says: str, caplog: pytest.LogCaptureFixture
) -> None:
    d = serving(extensions="wsrpc" in says)
    for message in SAYS[says]:
        await d.fed(message)
    caplog.clear()  # the event that nobody knows
    await over(d)
    assert messages(caplog) == []
    await ended(d)

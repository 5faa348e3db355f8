"""The states of an anonymous channel and of the delivery of its messages, each change played with a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from core_driver import Driven, turns
from leftovers import nothing_left as nothing_left
from peers_inside import inside, unread_at
from stream_sides import requested

from wsrpc import AnonymousChannel, Context
from wsrpc._channels.core import ChannelState, DeliveryState

pytestmark = pytest.mark.usefixtures("nothing_left")

Act = Callable[[Driven, AnonymousChannel], object]
REMOTE_ENDS: dict[str, Act] = {
    "remote abort": lambda d, channel: d.feed({"h": channel.id, "x": {"message": "bored"}, "_": 1}),
    "drop": lambda d, channel: d.transport.abort(),
}
OWN_ENDS: dict[str, Act] = {
    "close": lambda d, channel: channel.close(),
    "abort": lambda d, channel: inside(channel).abort("enough"),
    "finish": lambda d, channel: inside(channel).finish(),
}
ENDS = REMOTE_ENDS | OWN_ENDS
NEW, OPEN, CLOSED = ChannelState


@pytest.mark.parametrize("end", ["delivered", *ENDS])
@pytest.mark.parametrize("state", ChannelState)
async def test_each_change_of_the_state_of_a_channel(state: ChannelState, end: str) -> None:
    d, made, returns = Driven(), list[AnonymousChannel](), asyncio.Event()

    async def handler(ctx: Context) -> AnonymousChannel:
        made.append(ctx.channel())
        await returns.wait()
        return made[0]

    d.peer.on("c", handler)
    await d.fed({"i": 5, "a": ["c"]})
    [channel] = made
    if state is OPEN:
        returns.set()
        await turns()
    elif state is CLOSED:
        channel.close()
    assert inside(channel).state is state
    if end == "delivered":
        returns.set()
        await turns()
        expected = CLOSED if state is CLOSED else OPEN
    else:
        ENDS[end](d, channel)
        expected = (
            NEW if (state, end) == (NEW, "remote abort") else CLOSED
        )  # of a new one the remote peer does not know
    assert inside(channel).state is expected
    assert repr(channel) == f"<AnonymousChannel 5 {expected.value}>"
    returns.set()
    channel.close()
    await turns()
    assert d.peer.channels == 0
    d.assert_empty()


KEEPING, DUE, LIVE, OVER = DeliveryState
ACTS: dict[str, dict[str, Act]] = {
    "listened": {"listen": lambda d, channel: inside(channel).listen()},
    "delivered": {"a turn": lambda d, channel: None},
    "ended": REMOTE_ENDS,
    "left": OWN_ENDS,
}
CHANGES = {
    (KEEPING, False, "listened"): DUE,
    (KEEPING, True, "listened"): DUE,
    (DUE, False, "delivered"): LIVE,
    (DUE, True, "delivered"): OVER,
    (LIVE, False, "ended"): OVER,
}
"""The next state for each state, whether the channel has ended, and what happens. Without a cell nothing changes."""


@pytest.mark.parametrize(("kind", "act"), [(kind, act) for kind, acts in ACTS.items() for act in acts])
@pytest.mark.parametrize(
    ("state", "closed"), [(KEEPING, False), (DUE, False), (LIVE, False), (KEEPING, True), (DUE, True), (OVER, True)]
)
async def test_each_change_of_the_delivery_of_messages(state: DeliveryState, closed: bool, kind: str, act: str) -> None:
    d = Driven(dialer=True)
    channel = await requested(d, {"a": ["e", 1]})
    core = inside(channel)
    if state is LIVE:
        channel.on("e", lambda n: None)
        await turns(1)
    if closed:
        ENDS["close" if state is OVER else "remote abort"](d, channel)
    if state is DUE:
        channel.on("e", lambda n: None)
    assert (core.delivery, channel.closed) == (state, closed)
    ACTS[kind][act](d, channel)
    if kind == "delivered":
        await turns(1)
    assert core.delivery is (OVER if kind == "left" else CHANGES.get((state, closed, kind), state))
    assert core.delivery.name.lower() in repr(core)
    channel.close()
    await turns()
    assert core.delivery is OVER and unread_at(d.peer) == 0
    d.assert_empty()

"""The states of an anonymous channel and of the delivery of its messages, each change played with a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from core_driver import Driven, turns
from leftovers import nothing_left as nothing_left
from stream_sides import requested

from wsrpc import AnonymousChannel, Context
from wsrpc._api.anonymous import core_of
from wsrpc._channels.core import ChannelState, DeliveryState

pytestmark = pytest.mark.usefixtures("nothing_left")


def abort_remotely(d: Driven, channel: AnonymousChannel) -> None:
    d.feed({"h": channel.id, "x": {"message": "bored"}, "_": 1})


def drop(d: Driven, channel: AnonymousChannel) -> None:
    d.transport.abort()


def close(d: Driven, channel: AnonymousChannel) -> None:
    channel.close()


def abort(d: Driven, channel: AnonymousChannel) -> None:
    core_of(channel).abort("enough")


def finish(d: Driven, channel: AnonymousChannel) -> None:
    core_of(channel).finish()


Way = Callable[[Driven, AnonymousChannel], None]
REMOTE_ENDS: list[Way] = [abort_remotely, drop]
OWN_ENDS: list[Way] = [close, abort, finish]


# ---------------------------------------------------------------- the channel


class Made:
    """A channel that a handler has made, and returns when it is told to."""

    def __init__(self) -> None:
        self.d = Driven()
        self.channel: AnonymousChannel | None = None
        self.returns = asyncio.Event()

    async def handler(self, ctx: Context) -> AnonymousChannel:
        self.channel = ctx.channel()
        assert ctx.channel() is self.channel
        await self.returns.wait()
        return self.channel

    async def reach(self, state: ChannelState) -> AnonymousChannel:
        self.d.peer.on("c", self.handler)
        await self.d.fed({"i": 5, "a": ["c"]})
        assert self.channel is not None
        if state is ChannelState.OPEN:
            self.returns.set()
            await turns()
        elif state is ChannelState.CLOSED:
            self.channel.close()
        assert core_of(self.channel).state is state
        return self.channel


@pytest.mark.parametrize("end", [None, *OWN_ENDS, *REMOTE_ENDS])
@pytest.mark.parametrize("state", ChannelState)
async def test_each_change_of_the_state_of_a_channel(state: ChannelState, end: Way | None) -> None:
    if not (state is ChannelState.NEW and end is abort_remotely):  # the remote peer does not know of a new one
        made = Made()
        channel = await made.reach(state)
        if end is None:  # it is delivered, which it is once
            made.returns.set()
            await turns()
            expected = ChannelState.CLOSED if state is ChannelState.CLOSED else ChannelState.OPEN
        else:
            end(made.d, channel)
            expected = ChannelState.CLOSED
        assert core_of(channel).state is expected
        assert repr(channel) == f"<AnonymousChannel 5 {core_of(channel).state.value}>"
        made.returns.set()
        channel.close()
        await turns()
        assert made.d.peer.channels == 0
        made.d.assert_empty()


# ---------------------------------------------------------------- the delivery of its messages

KEEPING, DUE, LIVE, OVER = DeliveryState


async def reach(d: Driven, state: DeliveryState, *, closed: bool) -> AnonymousChannel:
    """A channel whose delivery is in ``state``, with one message kept as far as that keeps any."""
    channel = await requested(d, {"a": ["e", 1]})
    if state is LIVE:
        channel.on("e", lambda n: None)
        await turns(1)
    if closed:
        (close if state is OVER else abort_remotely)(d, channel)
    if state is DUE:
        channel.on("e", lambda n: None)
    assert core_of(channel).delivery is state
    assert channel.closed is closed
    return channel


async def listen(d: Driven, channel: AnonymousChannel) -> None:
    core_of(channel).listen()


async def let_deliver(d: Driven, channel: AnonymousChannel) -> None:
    await turns(1)


def at_once(way: Way) -> Callable[[Driven, AnonymousChannel], Awaitable[None]]:
    async def act(d: Driven, channel: AnonymousChannel) -> None:
        way(d, channel)

    return act


ACTS: dict[str, list[Callable[[Driven, AnonymousChannel], Awaitable[None]]]] = {
    "listened": [listen],
    "delivered": [let_deliver],
    "ended": [at_once(way) for way in REMOTE_ENDS],
    "left": [at_once(way) for way in OWN_ENDS],
}

CHANGES = {
    (KEEPING, False, "listened"): DUE,
    (KEEPING, True, "listened"): DUE,
    (DUE, False, "delivered"): LIVE,
    (DUE, True, "delivered"): OVER,
    (LIVE, False, "ended"): OVER,
}
"""The next state for each state, whether the channel has ended, and what happens. Without a cell nothing changes."""


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    ("state", "closed"), [(KEEPING, False), (DUE, False), (LIVE, False), (KEEPING, True), (DUE, True), (OVER, True)]
)
async def test_each_change_of_the_delivery_of_messages(state: DeliveryState, closed: bool, act: str) -> None:
    for way in ACTS[act]:
        d = Driven(dialer=True)
        channel = await reach(d, state, closed=closed)
        core = core_of(channel)
        await way(d, channel)
        assert core.delivery is (OVER if act == "left" else CHANGES.get((state, closed, act), state))
        assert core.delivery.name.lower() in repr(core)
        channel.close()
        await turns()
        assert core.delivery is OVER
        assert core.unread.used == 0
        d.assert_empty()

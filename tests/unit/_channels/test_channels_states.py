"""The two tables of an anonymous channel, each cell played with a real one: its state, and the delivery of messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from core_driver import Driven, turns
from leftovers import nothing_left as nothing_left
from stream_sides import requested

from wsrpc import AnonymousChannel, Context
from wsrpc._api.anonymous import core_of
from wsrpc._channels.core import TRANSITIONS, ChannelAct, ChannelCore, ChannelState
from wsrpc._streams.mailbox import DELIVERY, Act, Delivery, Mailbox

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


@pytest.mark.parametrize("act", ChannelAct)
@pytest.mark.parametrize("state", ChannelState)
async def test_each_cell_of_the_state_of_a_channel(state: ChannelState, act: ChannelAct) -> None:
    expected = TRANSITIONS.get((state, act), state)
    ends: list[Way] = [*OWN_ENDS, *REMOTE_ENDS] if act is ChannelAct.ENDED else [lambda d, channel: None]
    for end in ends:
        made = Made()
        channel = await made.reach(state)
        if act is ChannelAct.ENDED and not (state is ChannelState.NEW and end is abort_remotely):
            end(made.d, channel)
            assert core_of(channel).state is expected
        elif act is ChannelAct.OPENED and state is not ChannelState.OPEN:
            made.returns.set()
            await turns()
            assert core_of(channel).state is expected
        elif act is ChannelAct.OPENED:
            core_of(channel).opened()  # which is not called twice
            assert core_of(channel).state is expected
        assert repr(channel) == f"<AnonymousChannel 5 {core_of(channel).state.value}>"
        made.returns.set()
        channel.close()
        await turns()
        assert made.d.peer.channels == 0
        made.d.assert_empty()


# ---------------------------------------------------------------- the delivery of its messages


async def reach(d: Driven, state: Delivery) -> AnonymousChannel:
    """A channel whose delivery is in ``state``, with one message kept as far as that keeps any."""
    channel = await requested(d, {"a": ["e", 1]})
    if state in (Delivery.DELIVERING, Delivery.LIVE):
        channel.on("e", lambda n: None)
    if state is Delivery.LIVE:
        await turns(1)
    elif state in (Delivery.KEPT, Delivery.ENDING):
        abort_remotely(d, channel)
    elif state is Delivery.OVER:
        channel.close()
    if state is Delivery.ENDING:
        channel.on("e", lambda n: None)
    assert mailbox(channel).state is state
    return channel


def mailbox(channel: AnonymousChannel) -> Mailbox:
    core: ChannelCore = core_of(channel)
    return core.mailbox


async def listen(d: Driven, channel: AnonymousChannel) -> None:
    mailbox(channel).listen()


async def let_deliver(d: Driven, channel: AnonymousChannel) -> None:
    await turns(1)


def at_once(way: Way) -> Callable[[Driven, AnonymousChannel], Awaitable[None]]:
    async def act(d: Driven, channel: AnonymousChannel) -> None:
        way(d, channel)

    return act


WAYS: dict[Act, list[Callable[[Driven, AnonymousChannel], Awaitable[None]]]] = {
    Act.LISTENED: [listen],
    Act.DELIVERED: [let_deliver],
    Act.ENDED: [at_once(way) for way in REMOTE_ENDS],
    Act.LEFT: [at_once(way) for way in OWN_ENDS],
}


@pytest.mark.parametrize("act", Act)
@pytest.mark.parametrize("state", Delivery)
async def test_each_cell_of_the_delivery_of_messages(state: Delivery, act: Act) -> None:
    for way in WAYS[act]:
        d = Driven(dialer=True)
        channel = await reach(d, state)
        await way(d, channel)
        assert mailbox(channel).state is DELIVERY.get((state, act), state)
        assert mailbox(channel).state.name.lower() in repr(core_of(channel))
        assert mailbox(channel).can_listen is (mailbox(channel).state is not Delivery.OVER)
        channel.close()
        await turns()
        assert mailbox(channel).state is Delivery.OVER
        assert core_of(channel).table.unread.used == 0
        d.assert_empty()


def test_no_state_is_out_of_reach_and_none_is_left_after_the_end() -> None:
    assert {*TRANSITIONS.values(), ChannelState.NEW} == set(ChannelState)
    assert {*DELIVERY.values(), Delivery.KEEPING} == set(Delivery)
    assert not [cell for cell in TRANSITIONS if cell[0] is ChannelState.CLOSED]
    assert not [cell for cell in DELIVERY if cell[0] is Delivery.OVER]

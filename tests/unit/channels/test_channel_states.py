"""The states of a channel and of its mailbox: the tables, cell by cell."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from core_driver import Driven, start, turns
from leftovers import nothing_left as nothing_left

from wsrpc import AnonymousChannel, ChannelClosed, Context, Limits, RemoteError
from wsrpc._core.api.anonymous import core_of
from wsrpc._core.channels.channel_states import MAILBOX, TABLE, ChannelInput, ChannelState, MailboxInput, MailboxState

pytestmark = pytest.mark.usefixtures("nothing_left")

ABORT = {"h": 5, "x": {"message": "bored"}, "_": 1}


class Scene:
    """A channel that a handler has made, or is about to answer with."""

    def __init__(self) -> None:
        self.d = Driven()
        self.d.peer.on("c", self.opens)
        self.go = asyncio.Event()
        self.made: AnonymousChannel | None = None
        self.got: list[Any] = []

    async def opens(self, ctx: Context) -> AnonymousChannel:
        self.made = ctx.channel()
        await self.go.wait()
        return self.made

    @property
    def channel(self) -> AnonymousChannel:
        assert self.made is not None
        return self.made

    async def open(self) -> None:
        self.go.set()
        await turns()

    def note(self) -> None:
        """Let a message come."""
        self.d.feed({"h": 5, "a": ["note", len(self.got)]})

    def listen(self) -> None:
        self.channel.on("note", self.got.append)

    async def end(self) -> None:
        """Let the remote peer end the channel, or the connection if it does not know of the channel."""
        core = core_of(self.channel)
        if core.state is ChannelState.NEW:
            self.d.transport.abort()
        elif core.state is ChannelState.ENDED_HERE:  # the connection is lost while the end is being sent
            core.end("lost", None, by_other=True)
        else:
            self.d.feed(ABORT)
        await asyncio.sleep(0)


async def scene() -> Scene:
    s = Scene()
    s.d.feed({"i": 5, "a": ["c"]})
    await turns()
    return s


async def leave(s: Scene) -> None:
    s.channel.close()
    await s.open()


# ---------------------------------------------------------------- channels


async def to_open(s: Scene) -> None:
    await s.open()


async def to_ended(s: Scene) -> None:
    await s.open()
    s.d.feed(ABORT)


async def to_left(s: Scene) -> None:
    await s.open()
    s.channel.close()


async def stay(s: Scene) -> None: ...


REACH: dict[ChannelState, Callable[[Scene], Awaitable[None]]] = {
    ChannelState.NEW: stay,
    ChannelState.OPEN: to_open,
    ChannelState.ENDED: to_ended,
    ChannelState.ENDED_HERE: to_left,
}


async def close(s: Scene) -> None:
    s.channel.close()


DO: dict[ChannelInput, Callable[[Scene], Awaitable[None]]] = {
    ChannelInput.OPENED: to_open,
    ChannelInput.ENDED: Scene.end,
    ChannelInput.ENDED_HERE: close,
}


class Told:
    """A producer that notes the end."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def credit_received(self, n: int, size: int, /) -> None: ...

    def stop_sending(self) -> None:
        self._told.append("producer")


@pytest.mark.parametrize(
    ("state", "happened"),
    [pytest.param(state, each, id=f"{state.name} {each.name}") for state, cells in TABLE.items() for each in cells],
)
async def test_a_channel_is_in_the_state_that_the_table_says(state: ChannelState, happened: ChannelInput) -> None:
    s = await scene()
    await REACH[state](s)
    core = core_of(s.channel)
    assert core.state is state
    told: list[str] = []
    core.on_end = lambda: told.append("handler")
    core.set_producer(Told(told))
    assert told == (["producer"] if core.over else []), "one that comes too late is told at once"
    told.clear()
    await DO[happened](s)
    after, action = TABLE[state][happened]
    assert core.state is after
    assert told == (["producer", "handler"] if "notifies the producer and the handler" in action else [])
    assert s.channel.closed is (after in {ChannelState.ENDED, ChannelState.ENDED_HERE})
    await leave(s)
    assert len(told) in (0, 2), "the end is told once"


# ---------------------------------------------------------------- mailboxes


async def kept(s: Scene) -> None:
    """Nothing listens, and a message is kept."""
    await s.open()
    s.note()


async def due(s: Scene) -> None:
    await kept(s)
    s.listen()


async def live(s: Scene) -> None:
    await due(s)
    await asyncio.sleep(0)


async def late(s: Scene) -> None:
    await kept(s)
    s.d.feed(ABORT)


async def last(s: Scene) -> None:
    await late(s)
    s.listen()


async def over(s: Scene) -> None:
    await last(s)
    await asyncio.sleep(0)


REACH_MAILBOX: dict[MailboxState, Callable[[Scene], Awaitable[None]]] = {
    MailboxState.KEEPING: kept,
    MailboxState.DUE: due,
    MailboxState.LIVE: live,
    MailboxState.LATE: late,
    MailboxState.LAST: last,
    MailboxState.OVER: over,
}


async def deliver(s: Scene) -> None:
    await asyncio.sleep(0)


async def listen(s: Scene) -> None:
    s.listen()


async def remote_end(s: Scene) -> None:
    s.d.feed(ABORT)


DO_MAILBOX: dict[MailboxInput, Callable[[Scene], Awaitable[None]]] = {
    MailboxInput.LISTENED: listen,
    MailboxInput.DELIVERED: deliver,
    MailboxInput.ENDED: remote_end,
    MailboxInput.CLOSED: close,
}


@pytest.mark.parametrize(
    ("state", "happened"),
    [pytest.param(state, each, id=f"{state.name} {each.name}") for state, cells in MAILBOX.items() for each in cells],
)
async def test_a_mailbox_is_in_the_state_that_the_table_says(state: MailboxState, happened: MailboxInput) -> None:
    s = await scene()
    await REACH_MAILBOX[state](s)
    mailbox = core_of(s.channel).mailbox
    assert mailbox.state is state
    handled = len(s.got)
    after, action = MAILBOX[state][happened]
    if "raises" in action:
        with pytest.raises(ChannelClosed):
            await DO_MAILBOX[happened](s)
    else:
        await DO_MAILBOX[happened](s)
    assert mailbox.state is after
    await turns()
    comes = after in {MailboxState.DUE, MailboxState.LAST} or happened is MailboxInput.DELIVERED
    assert len(s.got) == max(handled, comes), "what is kept comes once something listens, unless this side has closed"
    await leave(s)


# ---------------------------------------------------------------- the end, told to the producer


async def test_the_end_stops_an_upload_whose_source_waits() -> None:
    closed: list[str] = []

    async def waits() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.append("source")

    d = Driven(dialer=True)
    upload = start(d.peer.request("s", send=waits()))
    await turns()
    h = d.take()[-1]["i"]
    [item] = await d.fed({"i": h, "h": 1}, {"h": h, "a": ["start"]})
    await d.fed({"i": item["i"]}, ABORT | {"h": h})
    assert upload.done() and closed == ["source"]
    with pytest.raises(RemoteError, match="bored"):
        await upload
    d.assert_empty()


async def never() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 1


async def test_the_end_leaves_no_timer_of_a_stream_that_nobody_has_begun_to_read() -> None:
    d = Driven()
    d.peer.on("s", never)
    before = d.clock.next_deadline
    await d.fed({"i": 5, "a": ["s"]})
    assert d.clock.next_deadline != before
    await d.fed(ABORT)
    assert d.clock.next_deadline == before
    d.assert_empty()


async def test_a_stream_that_is_read_lasts_although_its_source_waits_for_long() -> None:
    d = Driven()
    d.peer.on("s", never)
    await d.fed({"i": 5, "a": ["s"]})
    await d.fed({"h": 5, "a": ["start"]})
    d.clock.advance(2 * Limits().unread_timeout)
    await turns()
    assert d.take() == [] and d.peer.anonymous_channels == 1
    await d.fed(ABORT)
    d.assert_empty()


async def test_a_consumer_that_stops_gets_the_end_instead_of_the_next_item() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    d = Driven()
    d.peer.on("s", numbers)
    await d.fed({"i": 5, "a": ["s"]})
    [item] = await d.fed({"h": 5, "a": ["start"]})
    assert await d.fed({"h": 5, "a": ["stop"]}, {"i": item["i"]}) == [{"h": 5, "a": ["next", {"done": True}]}]
    d.assert_empty()


# ---------------------------------------------------------------- memory


class Reason:
    """Something of a user's that can be watched."""


async def test_a_channel_that_is_over_is_freed_at_once() -> None:
    s = await scene()
    await live(s)
    gc.collect()
    gc.disable()
    try:
        reason = Reason()
        watched = weakref.ref(reason)
        s.channel.close(reason)
        await turns()
        s.made = None
        del reason
        assert watched() is None
    finally:
        gc.enable()

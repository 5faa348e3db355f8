"""The states of a channel and of its mailbox: the tables, cell by cell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import pytest
from core_driver import Driven, turns
from leftovers import nothing_left as nothing_left

from wsrpc import AnonymousChannel, ChannelClosed, Context, Limits
from wsrpc._core.api.anonymous import core_of
from wsrpc._core.channels.channel_states import MAILBOX, TABLE, ChannelInput, ChannelState, MailboxInput, MailboxState

pytestmark = pytest.mark.usefixtures("nothing_left")

ABORT = {"h": 5, "x": {"message": "bored"}, "_": 1}


class Scene:
    """A channel that a handler has made, or is about to answer with, and what may happen to it."""

    def __init__(self) -> None:
        self.d = Driven()
        self.d.peer.on("c", self.opens)
        self.go = asyncio.Event()
        self.channel: AnonymousChannel
        self.got: list[Any] = []

    async def opens(self, ctx: Context) -> AnonymousChannel:
        self.channel = ctx.channel()
        await self.go.wait()
        return self.channel

    async def play(self, steps: str) -> None:
        for step in steps.split():
            await getattr(self, step)()

    async def ask(self) -> None:
        await self.d.fed({"i": 5, "a": ["c"]})

    async def open(self) -> None:
        self.go.set()
        await turns()

    async def note(self) -> None:
        """A message comes."""
        self.d.feed({"h": 5, "a": ["note", len(self.got)]})

    async def listen(self) -> None:
        self.channel.on("note", self.got.append)

    async def turn(self) -> None:
        await asyncio.sleep(0)

    async def abort(self) -> None:
        self.d.feed(ABORT)

    async def close(self) -> None:
        self.channel.close()

    async def end(self) -> None:
        """The remote peer ends the channel, or the connection if it does not know of the channel."""
        core = core_of(self.channel)
        if core.state is ChannelState.NEW:
            self.d.transport.abort()
        elif core.state is ChannelState.ENDED_HERE:  # the connection is lost while the end is being sent
            core.end("lost", None, by_other=True)
        else:
            self.d.feed(ABORT)
        await asyncio.sleep(0)


class Told:
    """A producer that notes the end."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def credit_received(self, n: int, size: int, /) -> None: ...

    def stop_sending(self) -> None:
        self._told.append("producer")


REACH = {
    ChannelState.NEW: "ask",
    ChannelState.OPEN: "ask open",
    ChannelState.ENDED: "ask open abort",
    ChannelState.ENDED_HERE: "ask open close",
}
DO = {ChannelInput.OPENED: "open", ChannelInput.ENDED: "end", ChannelInput.ENDED_HERE: "close"}


@pytest.mark.parametrize(
    ("state", "happened"),
    [pytest.param(state, each, id=f"{state.name} {each.name}") for state, cells in TABLE.items() for each in cells],
)
async def test_a_channel_is_in_the_state_that_the_table_says(state: ChannelState, happened: ChannelInput) -> None:
    s = Scene()
    await s.play(REACH[state])
    core = core_of(s.channel)
    assert core.state is state
    told: list[str] = []
    core.on_end = lambda: told.append("handler")
    core.set_producer(Told(told))
    assert told == (["producer"] if core.over else []), "one that comes too late is told at once"
    told.clear()
    await s.play(DO[happened])
    after, action = TABLE[state][happened]
    assert core.state is after
    assert told == (["producer", "handler"] if "notifies the producer and the handler" in action else [])
    assert s.channel.closed is (after in {ChannelState.ENDED, ChannelState.ENDED_HERE})
    await s.play("close open")
    assert len(told) in (0, 2), "the end is told once"


REACH_MAILBOX = {
    MailboxState.KEEPING: "ask open note",
    MailboxState.DUE: "ask open note listen",
    MailboxState.LIVE: "ask open note listen turn",
    MailboxState.LATE: "ask open note abort",
    MailboxState.LAST: "ask open note abort listen",
    MailboxState.OVER: "ask open note abort listen turn",
}
DO_MAILBOX = {
    MailboxInput.LISTENED: "listen",
    MailboxInput.DELIVERED: "turn",
    MailboxInput.ENDED: "abort",
    MailboxInput.CLOSED: "close",
}


@pytest.mark.parametrize(
    ("state", "happened"),
    [pytest.param(state, each, id=f"{state.name} {each.name}") for state, cells in MAILBOX.items() for each in cells],
)
async def test_a_mailbox_is_in_the_state_that_the_table_says(state: MailboxState, happened: MailboxInput) -> None:
    s = Scene()
    await s.play(REACH_MAILBOX[state])
    mailbox = core_of(s.channel).mailbox
    assert mailbox.state is state
    handled = len(s.got)
    after, action = MAILBOX[state][happened]
    with pytest.raises(ChannelClosed) if "raises" in action else nullcontext():
        await s.play(DO_MAILBOX[happened])
    assert mailbox.state is after
    await turns()
    comes = after in {MailboxState.DUE, MailboxState.LAST} or happened is MailboxInput.DELIVERED
    assert len(s.got) == max(handled, comes), "what is kept comes once something listens, unless this side has closed"
    await s.play("close open")


async def test_a_stream_waits_so_long_for_its_reader_and_not_for_its_source() -> None:
    async def never() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    d = Driven()
    d.peer.on("s", never)
    before = d.clock.next_deadline
    for starts in ([], [{"h": 5, "a": ["start"]}]):
        await d.fed({"i": 5, "a": ["s"]})
        assert d.clock.next_deadline != before
        assert await d.fed(*starts) == []
        if starts:
            d.clock.advance(2 * Limits().unread_timeout)
            assert await d.fed() == [] and d.peer.anonymous_channels == 1
        await d.fed(ABORT)
        assert d.clock.next_deadline == before
        d.assert_empty()

"""How an anonymous channel ends, what is handled of what came before, and the tables of its states, cell by cell.

That clients and nodes get it whatever happens: tests/simulation.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages
from leftovers import nothing_left as nothing_left
from peers_inside import unread_at
from session_story import Visitor
from stream_driver import CLOSED, Both, Feed, Log, control, emptied
from stream_driver import both as both
from stream_sides import opened
from waiting import settled

from wsrpc import AnonymousChannel, ChannelClosed, Context, Limits, Overloaded, RemoteError, RpcError
from wsrpc._core.api.caller import core_of
from wsrpc._core.channels.channel_states import MAILBOX, TABLE, ChannelInput, ChannelState, MailboxInput, MailboxState
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.mark.parametrize(
    ("reason", "there"),
    [
        ("bored", "bored"),
        ({"n": [1, 2]}, {"n": [1, 2]}),
        (0, 0),
        (RpcError("full", code="E_FULL", data={"left": 0}), ("full", "E_FULL", {"left": 0})),
        (Overloaded("busy"), ("busy", "wsrpc.overloaded", None)),  # no refusal: the handler that opened it has run
        (RpcError("no", "E", object()), ("no (data and fields left out: they cannot be encoded)", "E", None)),
        (ValueError("no room"), ("no room", None, None)),  # only its text travels
        (None, ("Request aborted", None, None)),
        (object(), ("Request aborted", None, None)),  # what cannot be encoded does not keep it open
        (RpcError("\ud800", code="E", data=object()), ("Request aborted", None, None)),
    ],
)
async def test_the_reason_of_an_abort_travels(both: Both, reason: Any, there: Any) -> None:
    ours, theirs = await opened(both)
    await ours.abort(reason)
    await theirs.wait_closed()
    got = theirs.close_reason
    if isinstance(there, tuple):
        assert type(got) is RemoteError
        got = (got.message, got.code, got.data)
    assert got == there and type(got) is type(there)
    assert ours.close_reason is reason


async def test_an_abort_that_is_larger_than_this_side_may_send_ends_it_on_this_side() -> None:
    async with pair(limits=Limits(sent_message_bytes=48), extensions=False) as (a, b):
        gone = asyncio.Event()

        @b.on("c")
        async def c(channel: AnonymousChannel) -> None:
            await gone.wait()

        reason: Any
        for reason in (None, "bored" * 20, RpcError("bored" * 20), object(), RpcError("no", data=object())):
            channel = await a.open_channel("c")
            await channel.abort(reason)
            assert channel.closed and a.anonymous_channels == 0 and a.connected
        gone.set()


# ---------------------------------------------------------------- bodies


async def end(d: Driven, how: str, h: int = 5) -> None:
    if how == "drop":
        d.transport.abort()
    else:
        d.feed({"h": h, "x": CLOSED if how == "good" else {"message": "bored"}, "_": 1})


async def test_events_that_wait_for_a_place_run_after_the_end_and_requests_do_not() -> None:
    d, blocked, got = Driven(limits=Limits(running=1)), Blocked(), list[Any]()

    async def note(value: Any) -> None:
        got.append(value)

    def opens(ctx: Context) -> AnonymousChannel:
        ctx.channel().on("e", note)
        return ctx.channel()

    d.peer.on("c", opens)
    d.peer.on("blocked", blocked)
    await d.fed({"i": 5, "a": ["c"]}, {"a": ["blocked"]})
    await d.fed({"h": 5, "a": ["e", 1]}, {"i": 7, "h": 5, "a": ["e", 2]}, {"h": 5, "a": ["e", 3]})
    await end(d, "good")
    assert got == []
    blocked.go.set()
    await settled()
    assert got == [1, 3], "nobody waits for what was requested on a channel that is over"
    await emptied(d.peer)


# ---------------------------------------------------------------- bodies


class Talk:
    """A body, and what it has got; ``go`` is set when it may go on."""

    def __init__(self, body: Callable[[Talk, AnonymousChannel], Awaitable[None]]) -> None:
        self.body = body
        self.got: list[Any] = []
        self.go = asyncio.Event()

    async def talk(self, channel: AnonymousChannel) -> None:
        try:
            await self.body(self, channel)
            self.got.append("went on")
        except asyncio.CancelledError:
            self.got.append("cancelled")
            raise


async def works_on_each_line(talk: Talk, channel: AnonymousChannel) -> None:
    async for line in channel.events("line"):
        await talk.go.wait()
        talk.got.append(line)


async def begins_late(talk: Talk, channel: AnonymousChannel) -> None:
    await talk.go.wait()
    async for value in channel.events("line"):
        await asyncio.sleep(0)
        talk.got.append(value)


async def waits_for_the_end(talk: Talk, channel: AnonymousChannel) -> None:
    await talk.go.wait()
    channel.on("line", talk.got.append)
    await channel.wait_closed()


async def has_two_readers(talk: Talk, channel: AnonymousChannel) -> None:
    for reader in (channel.events("line"), channel.events("other")):
        async for value in reader:
            talk.got.append(value)


async def answers(talk: Talk, channel: AnonymousChannel) -> None:
    async for line in channel.events("line"):
        talk.got.append(line)
        await channel.emit("line", line)


BODIES: list[tuple[Any, str]] = [
    (works_on_each_line, "a b c cancelled"),
    (begins_late, "a b c cancelled"),
    (waits_for_the_end, "a b c cancelled"),
    (has_two_readers, "a b c x y cancelled"),
    (answers, "a"),  # the channel is closed, which is no failure
]


@pytest.mark.parametrize(("body", "expected"), BODIES)
@pytest.mark.parametrize("how", ["good", "abort", "drop"])
async def test_a_body_gets_what_came_before_the_end(body: Any, expected: str, how: str, caplog: Log) -> None:
    if how != "good":
        expected = expected.replace(" x y cancelled", "")  # one of several readers gets the error
    d, talk = Driven(), Talk(body)
    d.peer.on("talk", talk.talk)
    said = [("line", "a"), ("line", "b"), ("line", "c"), ("other", "x"), ("other", "y")]
    await d.fed({"i": 5, "a": ["talk"]})
    d.feed(*({"h": 5, "a": [*each]} for each in said))
    await end(d, how)
    await settled()
    talk.go.set()
    await settled()
    assert " ".join(talk.got) == expected
    await emptied(d.peer)
    await settled(Limits().unread_timeout)
    d.take()
    d.assert_empty()
    assert messages(caplog, logging.ERROR) == []


@pytest.mark.parametrize("body", [begins_late, works_on_each_line])
async def test_a_body_that_does_not_read_what_came_before_the_end_is_cancelled_in_time(body: Any) -> None:
    d, talk = Driven(), Talk(body)
    d.peer.on("talk", talk.talk)
    await d.fed({"i": 5, "a": ["talk"]})
    d.feed({"h": 5, "a": ["line", "a"]}, {"h": 5, "a": ["line", "b"]})
    await end(d, "good")
    await settled()
    await settled(29.0)
    assert talk.got == []
    await settled(1.0)
    assert talk.got == ["cancelled"]
    await emptied(d.peer)


async def test_channels_that_keep_messages_beyond_their_end_are_bounded_as_open_ones_are() -> None:
    d = Driven(limits=Limits(channels=2))
    talks: list[Talk] = []

    async def begin(channel: AnonymousChannel) -> None:
        talks.append(Talk(begins_late))
        await talks[-1].talk(channel)

    d.peer.on("talk", begin)
    for first, count in ((1, 3), (4, 2)):
        for i in range(first, first + count):
            await d.fed({"i": i, "a": ["talk"]})
            d.feed({"h": i, "a": ["line", "a"]})
            await end(d, "good", h=i)
            await settled()
        assert [talk.got for talk in talks[-2:]] == [[], []] and talks[0].got == ["cancelled"], "the oldest goes first"
        for talk in talks:
            talk.go.set()
        await settled()
        assert [talk.got for talk in talks[-2:]] == [["a", "cancelled"]] * 2
    await emptied(d.peer)


async def converse(channel: AnonymousChannel) -> None:
    await channel.wait_closed()


async def upload(items: AsyncIterator[int]) -> list[int]:
    return [item async for item in items]


def hand_over(ctx: Context) -> AnonymousChannel:
    return ctx.channel()


@pytest.mark.parametrize("says", [control("hello", v=1, features=["credit"], limits={}), None], ids=["wsrpc", "plain"])
@pytest.mark.parametrize("opens", [converse, upload, hand_over, Feed()])
async def test_a_cancellation_that_crosses_its_channel_ends_the_channel(opens: Any, says: Any) -> None:
    """JavaScript and Go drop a channel whose request they have cancelled, and say no more. It stayed open."""
    d = Driven(extensions=True)
    d.peer.on("opens", opens)
    if says is not None:
        await d.fed(says)
    assert {"i": 5, "h": 1} in await d.fed({"i": 5, "a": ["opens"]})
    assert await d.fed({"i": 5, "x": "enough"}) == [], "the other side has no such channel"
    d.assert_empty()
    assert (d.peer.anonymous_channels, d.ignored) == (0, {})
    assert await d.fed({"i": 5, "x": "enough"}) == [] and d.ignored == {"cancellation of no request": 1}
    await emptied(d.peer)


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
        await settled()

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
    core.on_end = (lambda: told.append("handler"),)
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
    await settled()
    comes = after in {MailboxState.DUE, MailboxState.LAST} or happened is MailboxInput.DELIVERED
    assert len(s.got) == max(handled, comes), "what is kept comes once something listens, unless this side has closed"
    await s.play("close open")


async def test_what_nobody_has_listened_to_in_time_after_the_end_is_dropped() -> None:
    s = Scene()
    await s.play("ask open note abort")
    assert unread_at(s.d.peer) > 0
    await settled(Limits().unread_timeout)
    assert unread_at(s.d.peer) == 0 and core_of(s.channel).mailbox.state is MailboxState.OVER


@pytest.mark.parametrize("arrives", ["start", "acknowledgement", "nothing"])
@pytest.mark.parametrize("acknowledged", [False, True])
async def test_a_stream_waits_for_what_its_reader_has_sent_on_a_connection_that_was_lost(
    acknowledged: bool, arrives: str
) -> None:
    """That it knows of the stream was known before, or when its session resumed, and what it sends again came later."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    page = Visitor()
    page.server.on("s", numbers)
    await page.begin("resume", "credit")
    page.line.feed({"i": 5, "a": ["s"]})
    await settled()
    [answer] = page.line.pop_sent()
    known = {"n": 1, "bytes": len(json.dumps(answer, separators=(",", ":")))}
    if acknowledged:
        page.line.feed(control("ack", **known))
    page.line.lose()
    await asyncio.sleep(Limits().unread_timeout)
    await page.resume(rx=known["n"], bytes=known["bytes"])
    await settled(Limits().unread_timeout)
    [resumed] = page.line.pop_sent()
    assert resumed["wsrpc"]["t"] == "resumed"
    if arrives == "start":
        page.line.feed({"a": ["what it has sent before"]})
        await asyncio.sleep(Limits().unread_timeout)
        page.line.feed({"h": 5, "a": ["start"]})
    else:
        page.line.feed(*[control("ack", **known)] * (arrives == "acknowledgement"))
        await settled(Limits().unread_timeout)
    await settled()
    [sent] = [message for message in page.line.pop_sent() if message.get("h") == 5]
    assert ("nobody has begun to read" in str(sent)) is (arrives != "start")
    await page.server.close()


async def test_a_stream_waits_so_long_for_its_reader_and_not_for_its_source() -> None:
    async def never() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    d = Driven()
    d.peer.on("s", never)
    for starts in ([], [{"h": 5, "a": ["start"]}]):
        await d.fed({"i": 5, "a": ["s"]})
        assert await d.fed(*starts) == []
        if starts:
            await settled(2 * Limits().unread_timeout)
            assert await d.fed() == [] and d.peer.anonymous_channels == 1
        await d.fed(ABORT)
        d.assert_empty()

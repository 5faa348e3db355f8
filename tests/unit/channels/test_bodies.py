"""What came before the end of a channel is read before the end is noticed.

That readers and handlers of all kinds get it: tests/property/test_conversations_machine.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages, turns
from leftovers import nothing_left as nothing_left
from stream_driver import CLOSED, emptied
from stream_driver import both as both

from wsrpc import AnonymousChannel, Context, Limits

pytestmark = pytest.mark.usefixtures("nothing_left")


async def end(d: Driven, how: str, h: int = 5) -> None:
    if how == "drop":
        d.transport.abort()
    else:
        d.feed({"h": h, "x": CLOSED if how == "good" else {"message": "bored"}, "_": 1})


async def test_events_that_wait_for_a_place_run_after_the_end_and_requests_do_not() -> None:
    d = Driven(limits=Limits(running=1))
    blocked = Blocked()
    got: list[Any] = []

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
    await turns(20)
    assert got == [1, 3], "nobody waits for what was requested on a channel that is over"
    await emptied(d.peer)


# ---------------------------------------------------------------- bodies

LINES = [{"h": 5, "a": ["line", letter]} for letter in "abc"]
OTHERS = [{"h": 5, "a": ["other", letter]} for letter in "xy"]


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

    async def read(self, channel: AnonymousChannel, event: str) -> None:
        async for value in channel.events(event):
            await asyncio.sleep(0)
            self.got.append(value)


async def reads(talk: Talk, channel: AnonymousChannel) -> None:
    await talk.read(channel, "line")


async def works_on_each_line(talk: Talk, channel: AnonymousChannel) -> None:
    async for line in channel.events("line"):
        await talk.go.wait()
        talk.got.append(line)


async def begins_late(talk: Talk, channel: AnonymousChannel) -> None:
    await talk.go.wait()
    await talk.read(channel, "line")


async def asks_and_reads(talk: Talk, channel: AnonymousChannel) -> None:
    talk.got.append(await channel.request("name", timeout=None))
    await talk.read(channel, "line")


async def waits_for_the_end(talk: Talk, channel: AnonymousChannel) -> None:
    await talk.go.wait()
    channel.on("line", talk.got.append)
    await channel.wait_closed()


async def stops_reading(talk: Talk, channel: AnonymousChannel) -> None:
    async with channel.events("line") as lines:
        talk.got.append(await anext(lines))
    await asyncio.Event().wait()


async def has_two_readers(talk: Talk, channel: AnonymousChannel) -> None:
    lines, others = channel.events("line"), channel.events("other")
    async for line in lines:
        talk.got.append(line)
    async for other in others:
        talk.got.append(other)


async def answers(talk: Talk, channel: AnonymousChannel) -> None:
    async for line in channel.events("line"):
        talk.got.append(line)
        await channel.emit("line", line)


BODIES: list[tuple[Any, str]] = [
    (reads, "a b c cancelled"),
    (works_on_each_line, "a b c cancelled"),
    (begins_late, "a b c cancelled"),
    (asks_and_reads, "Ada a b c cancelled"),
    (waits_for_the_end, "a b c cancelled"),
    (stops_reading, "a cancelled"),
    (has_two_readers, "a b c x y cancelled"),
    (answers, "a"),  # the channel is closed, which is no failure
]


@pytest.mark.parametrize(
    ("body", "expected", "how"),
    [
        pytest.param(body, expected, how, id=f"{body.__name__}, {how}")
        for body, expected in BODIES
        for how in (["good"] if "x" in expected else ["good", "abort", "drop"])  # one of several readers gets the error
    ],
)
async def test_a_body_gets_what_came_before_the_end_and_is_cancelled_when_it_asks_for_more(
    body: Any, expected: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    d, talk = Driven(), Talk(body)
    d.peer.on("talk", talk.talk)
    sent = await d.fed({"i": 5, "a": ["talk"]})
    d.feed(*({"i": m["i"], "d": "Ada"} for m in sent if "i" in m and "a" in m), *LINES, *OTHERS)
    await end(d, how)
    await turns(20)
    talk.go.set()
    await turns(20)
    assert " ".join(talk.got) == expected
    await emptied(d.peer)
    assert d.clock.next_deadline is None, "nothing waits for a reader that cannot come"
    assert messages(caplog, logging.ERROR) == []


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
            await turns()
        assert [talk.got for talk in talks[-2:]] == [[], []] and talks[0].got == ["cancelled"], "the oldest goes first"
        for talk in talks:
            talk.go.set()
        await turns(20)
        assert [talk.got for talk in talks[-2:]] == [["a", "cancelled"]] * 2
    await emptied(d.peer)

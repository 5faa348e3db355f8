"""How an anonymous channel ends: what travels, and what is read and handled of what came before.

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
from stream_driver import CLOSED, Both, Log, emptied
from stream_driver import both as both
from stream_sides import opened

from wsrpc import AnonymousChannel, Context, Limits, Overloaded, RemoteError, RpcError
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
    await turns(20)
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

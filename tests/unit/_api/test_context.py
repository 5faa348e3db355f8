"""`Context` and `Message`: what a handler, and what an observer, can ask."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import pytest
from core_driver import Blocked, Driven, start, turns

from wsrpc import AnonymousChannel, Context, Limits, Peer
from wsrpc._handlers.invocation import Invocation
from wsrpc._handlers.observation import mark_processed
from wsrpc._protocol.messages import WireMessage
from wsrpc.types import Message


async def test_a_context_tells_about_its_call() -> None:
    d = Driven()
    d.peer.set("user", "ada")
    seen: list[Context] = []

    def handler(ctx: Context, peer: Peer, x: int) -> None:
        assert peer is ctx.peer is d.peer
        seen.append(ctx)

    d.peer.of("room").on("e", handler)
    d.peer.on("e", handler)
    await d.fed({"i": 7, "c": "room", "a": ["e", 5]}, {"a": ["e", 6]})
    first, second = seen
    assert (first.event, first.id, first.channel_name, first.args) == ("e", 7, "room", (5,))
    assert (second.event, second.id, second.channel_name, second.args) == ("e", None, None, (6,))
    assert first.cancel_reason is None and first.message is None
    assert first.state["user"] == "ada" and d.peer.get("user") == "ada" and d.peer.get("x", 1) == 1
    assert repr(first) == f"<Context room:e #7 of {d.peer!r}>"
    assert repr(second) == f"<Context e of {d.peer!r}>"


@pytest.mark.parametrize("c", ["admin", "x" * 1000, 0, False, ["admin"], {"a": 1}, ""], ids=range(7))
async def test_a_channel_name_beside_an_anonymous_channel_counts_for_nothing(c: Any) -> None:
    """As in JavaScript: middleware that goes by the name of the channel cannot be deceived."""
    d = Driven(limits=Limits(running=1))
    seen: list[tuple[Any, ...]] = []
    observed: list[tuple[Any, ...]] = []
    work = Blocked()

    @d.peer.use
    async def look(ctx: Context, call_next: Any) -> Any:
        seen.append((ctx.event, ctx.channel_name, ctx.label))
        return await call_next(ctx)

    def session(ctx: Context) -> AnonymousChannel:
        channel = ctx.channel()
        channel.on("wipe", lambda: "wiped")
        return channel

    def observe(peer: Peer, message: Message) -> None:
        observed.append((message.channel_name, str(message)))

    d.peer.on("session", session)
    d.peer.on("work", work)
    d.peer.of("admin").on("wipe", lambda: pytest.fail("it is not for that channel"))
    assert await d.fed({"i": 1, "a": ["session"]}) == [{"i": 1, "h": 1}]
    d.peer.on("message", observe)
    assert await d.fed({"i": 2, "h": 1, "c": c, "a": ["wipe"]}) == [{"i": 2, "d": "wiped"}]
    assert seen[1:] == [("wipe", None, "1:wipe #2")]
    assert observed == [(None, "request #2 channel 1: wipe()")]

    await d.fed({"i": 9, "a": ["work"]})
    assert await d.fed({"i": 2, "h": "1", "c": c, "a": ["wipe"]}) == [], "it waits, undecoded"
    work.go.set()
    await turns()
    assert {"i": 2, "d": "wiped"} in d.take()
    assert seen[3:] == [("wipe", None, "1:wipe #2")]


async def test_a_channel_name_counts_for_nothing_in_what_was_kept_for_the_first_handler() -> None:
    d = Driven(dialer=True)
    opening = start(d.peer.open_channel("session"))
    await turns()
    h = d.take()[0]["i"]
    await d.fed({"i": h, "h": h}, {"i": 5, "h": h, "c": "admin", "a": ["wipe"]})
    channel: AnonymousChannel = await opening
    seen: list[str | None] = []

    @channel.on("wipe")
    def wipe(ctx: Context) -> None:
        seen.append(ctx.channel_name)

    await turns()
    assert seen == [None] and d.take() == [{"i": 5, "d": None}]


async def test_arguments_may_be_assigned_and_conversion_sees_the_new_ones() -> None:
    d = Driven()

    def strict(n: int) -> int:
        return n

    @d.peer.use
    async def middleware(ctx: Context, call_next: Any) -> Any:
        ctx.args = [*ctx.args, 41] if not ctx.args else ["x"]
        return await call_next(ctx)

    d.peer.on("strict", strict)
    sent = await d.fed({"i": 1, "a": ["strict"]}, {"i": 2, "a": ["strict", 5]})
    assert sent[0] == {"i": 1, "d": 41}
    assert sent[1]["e"]["code"] == "wsrpc.bad_arguments"


async def test_the_context_has_the_message_where_one_observes() -> None:
    d = Driven()
    seen: list[Message | None] = []

    def handler(ctx: Context) -> None:
        seen.append(ctx.message)

    d.peer.on("e", handler)
    d.feed({"a": ["e"]})
    d.peer.on("message", lambda peer, message: seen.append(message))
    d.feed({"a": ["e"]})
    assert seen[0] is None and seen[1] is seen[2] is not None


def test_a_context_shows_its_invocation_and_is_no_reference_cycle() -> None:
    peer: Any = "the peer"
    invocation = Invocation(peer, WireMessage(i=7, a=["say", 1]))
    context = invocation.context
    assert context is invocation.context and context.peer is peer and (context.id, context.event) == (7, "say")
    context.args = [1, 2]
    invocation.cancel_reason = "enough"
    assert invocation.inbound.a == ["say", 1, 2] and context.cancel_reason == "enough"
    gone = weakref.ref(context)
    del context
    assert gone() is None
    assert invocation.context.args == (1, 2)


async def test_waiting_for_a_message_is_safe_to_cancel() -> None:
    message = Message(b"x", True, None)
    first, second = (asyncio.ensure_future(message.processed()) for _ in range(2))
    await turns(2)
    first.cancel()
    await turns(2)
    mark_processed(message)
    mark_processed(message)
    await second
    assert first.cancelled()


def observed(payload: bytes, decode: Any = None) -> Message:
    return Message(payload, True, decode)


def described(a: list[Any], **fields: Any) -> Message:
    return observed(b"{}", lambda payload: WireMessage(a=a, **fields))


def test_a_message_in_words() -> None:
    assert str(described(["say", 1, "x"])) == "event say(1, 'x')"
    assert str(described(["say"], i=7, c="room")) == "request #7 room: say()"
    assert str(observed(b"hello")) == "foreign message, 5 bytes"
    for fields, words in (
        ({"i": 7}, "result #7"),
        ({"i": 7, "d": "secret"}, "result #7"),
        ({"i": 7, "e": "secret"}, "error #7"),
        ({"i": 7, "h": 1}, "channel #7"),
        ({"i": 7, "x": "secret"}, "cancellation #7"),
        ({"h": 7, "x": "secret"}, "abort of channel 7"),
        ({"a": [5]}, "malformed message"),
        ({"a": [5], "i": 7}, "malformed message #7"),
        ({"d": 1}, "malformed message"),
    ):
        assert str(observed(b"{}", lambda payload, fields=fields: WireMessage(**fields))) == f"{words}, 2 bytes"
    assert str(described(["say", 1], h=7)) == "event channel 7: say(1)"
    assert repr(described(["say", "x"])) == "<Message event say('x')>"


def test_a_message_in_the_log_is_one_line() -> None:
    hostile = "x\n2024-01-01 ERROR forged\r\x1b[31m"
    for message in (
        described(["say", hostile]),
        described([hostile]),
        described(["say"], c=hostile),
        described(["e", [hostile]]),
    ):
        text = str(message)
        assert text.isprintable(), text
        assert repr(message).isprintable()


def test_long_arguments_are_cut_and_secrets_can_be_left_out() -> None:
    message = described(["login", "ada", "x" * 1_000_000, ["y" * 1000]])
    assert len(str(message)) < 300 and str(message).endswith("…)")
    assert len(message.describe(limit=20)) < 60
    assert message.describe(redact=lambda event, args: (*args[:1], "***")) == "event login('ada', '***')"
    assert message.args[1] == "x" * 1_000_000


@pytest.mark.parametrize("a", [[], None, 5, [5], [None, 1]])
def test_a_message_that_is_no_event_has_no_name(a: Any) -> None:
    message = observed(b"", lambda payload: WireMessage(a=a, i=True, c=5))
    assert message.event is None and message.id is None and message.channel_name is None
    assert isinstance(message.args, tuple)
    str(message)

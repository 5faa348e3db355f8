"""`Room.request`: all members are asked, the first answer wins, and nothing is left of the requests to the others.

tests/unit/cluster/test_cluster_room_requests.py asks members at other nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from core_driver import Blocked
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, Context, Limits, OutgoingCall, Reconnect, RemoteError, Room, RpcError, Server
from wsrpc._server.room_requests import ANSWERED, LEFT
from wsrpc.errors import BadResult, MessageTooBig, RequestTimeout, ReservedEvent, UnknownEvent
from wsrpc.testing import Line, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


@asynccontextmanager
async def lobby(*handlers: Any, **options: Any) -> AsyncGenerator[tuple[Server, Room]]:
    """A room of clients, each with a handler of "confirm". None is a client without one."""
    server = Server(limits=Limits(close_timeout=1.0), **options)
    room = server.room("lobby")
    server.on("open", room.add)
    async with AsyncExitStack() as stack:
        for handler in handlers:
            client = Client(limits=Limits(message_bytes=10_000))
            if handler is not None:
                client.on("confirm", handler)
                client.of("dialogs").on("confirm", handler)
            await stack.enter_async_context(connect(server, client=client))
        yield server, room
        await turns_until(lambda: not any(peer.pending for peer in room))


def says(answer: Any, *, after: Blocked | None = None) -> Any:
    """Return a handler that answers or raises, at once or when another one has begun."""

    async def handler(question: str) -> Any:
        if after is not None:
            await turns_until(lambda: after.started)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler


NO, NEVER = RpcError("no", code="no"), RpcError("never", code="never")
HANGS = Blocked()
OUTCOMES: dict[str, tuple[list[Any], Any]] = {
    "one answers": ([says("yes")], "yes"),
    "an error is no answer": ([says(NO), None, says("yes", after=HANGS), HANGS], "yes"),
    "a result of a wrong type is no answer": ([says(7), says("yes", after=HANGS), HANGS], "yes"),
    "null is an answer": ([says(None), HANGS], None),
    "all fail": ([says(NO), HANGS], "no"),
    "the last error counts": ([says(NO), says(NEVER, after=HANGS), HANGS], "never"),
    "nobody has the handler": ([None, None], UnknownEvent),
    "the only result is of a wrong type": ([says(7), HANGS], BadResult),
    "it hangs": ([HANGS], (RequestTimeout, "unknown")),
    "nobody is there": ([], (RequestTimeout, "not_sent")),
}


@pytest.mark.parametrize("case", OUTCOMES)
async def test_the_outcome(case: str) -> None:
    handlers, expected = OUTCOMES[case]
    HANGS.__init__()  # type: ignore[misc]
    async with lobby(*handlers) as (_, room):
        fails = expected not in ("yes", None)
        ask = partial(room.of("dialogs").request, "confirm", "?", within=0.05 if fails else 30, returns=str | None)
        if not fails:
            assert await ask() == expected
            await turns_until(lambda: len(HANGS.cancelled) == len(HANGS.started))
            assert {*HANGS.cancelled} <= {ANSWERED}
            return
        with pytest.raises((RemoteError, BadResult, RequestTimeout)) as raised:
            await ask()
        error: Any = raised.value
        if isinstance(expected, str):
            assert error.code == expected
        elif isinstance(expected, tuple):
            assert (type(error), error.outcome, error.timeout) == (*expected, 0.05)
        else:
            assert type(error) is expected


async def test_of_several_answers_at_once_one_wins() -> None:
    async with lobby(*(lambda question, n=n: n for n in range(5))) as (_, room):
        assert await room.request("confirm", "?", returns=int) in range(5)


async def test_a_member_that_cannot_be_asked_is_told_at_the_end() -> None:
    async with lobby(says("yes")) as (_, room):
        with pytest.raises(MessageTooBig):
            await room.request("confirm", "?" * 10_000, within=0.05)
        with pytest.raises(TypeError, match="object"):  # at once
            await room.request("confirm", object())


async def test_who_joins_is_asked_and_who_leaves_is_not_asked_any_more() -> None:
    first, second = Blocked(), Blocked()
    async with lobby(first, second) as (server, room):
        one, other = room
        room.remove(other)
        asking = asyncio.ensure_future(server.room("lobby").request("confirm", "?"))
        await turns_until(lambda: first.started)
        room.add(other)
        await turns_until(lambda: second.started)
        room.remove(one)
        await turns_until(lambda: first.cancelled)
        room.add(one)
        await turns_until(lambda: len(first.started) == 2)
        await one.close()  # its session ends, and that is no answer
        await turns_until(lambda: len(first.cancelled) == 2)
        assert not asking.done() and first.cancelled[0] == LEFT and second.cancelled == []
        second.go.set()
        assert await asking == ["?"]


async def test_a_room_without_members_waits_for_the_first() -> None:
    server = Server()
    asking = asyncio.ensure_future(server.room("lobby").request("confirm", 1))
    await asyncio.sleep(0)
    server.on("open", lambda peer: server.room("lobby").add(peer))
    client = Client()
    client.on("confirm", lambda number: number + 1)
    async with connect(server, client=client):
        assert await asking == 2
    assert server.rooms == ()


async def test_a_member_without_a_connection_is_asked_when_it_is_back() -> None:
    async with lobby() as (server, room):
        line = Line(server)
        client = Client("ws://server/", dial=line.dial, reconnect=Reconnect(initial=0.001, max=0.01))
        client.on("confirm", lambda question: "yes")
        server.on("count", lambda: len(room))
        async with client:
            assert await client.request("count") == 1
            line.down = True
            line.cut()
            (peer,) = room
            await turns_until(lambda: peer.detached)
            asking = asyncio.ensure_future(room.request("confirm", "?"))
            await turns_until(lambda: peer.pending)
            line.down = False
            assert await asking == "yes"


async def test_cancelling_cancels_all_with_the_reason() -> None:
    handlers = [Blocked() for _ in range(3)]
    async with lobby(*handlers) as (_, room):
        asking = asyncio.ensure_future(room.request("confirm", "?"))
        await turns_until(lambda: all(each.started for each in handlers))
        asking.cancel("changed my mind")
        with pytest.raises(asyncio.CancelledError):
            await asking
        await turns_until(lambda: all(each.cancelled == ["changed my mind"] for each in handlers))


async def test_of_a_thousand_members_one_answers() -> None:
    hangs, answers = Blocked(), Blocked()
    async with lobby(*[hangs] * 999, answers) as (_, room):
        before = asyncio.all_tasks()
        asking = asyncio.ensure_future(room.request("confirm", "?"))
        await turns_until(lambda: len(hangs.started) == 999 and answers.started)
        answers.go.set()
        assert await asking == ["?"]
        assert not any(peer.pending for peer in room)
        await turns_until(lambda: len(hangs.cancelled) == 999)
        await turns_until(lambda: asyncio.all_tasks() == before)


async def test_the_handlers_have_the_time_and_the_metadata() -> None:
    """A handler that asks a room has no more time for it than it has itself."""
    calls: list[OutgoingCall] = []
    heard: list[Any] = []

    async def handler(ctx: Context) -> None:
        heard.append((ctx.remaining, dict(ctx.metadata)))

    async with lobby(handler) as (server, room):

        @server.use_outgoing
        async def tenant(call: OutgoingCall, call_next: Any) -> Any:
            calls.append(call)
            call.metadata["tenant"] = "acme"
            return [await call_next(call)]

        @server.on("ask")
        async def ask() -> Any:
            return await room.request("confirm", within=30, metadata={"who": "ada"})

        assert await room.request("confirm", within=20) == [None]
        async with connect(server) as client:
            assert await client.request("ask", timeout=10) == [None]
    (first, metadata), (second, more) = heard
    assert 10 < first <= 20 and 0 < second <= 10
    assert (metadata, more) == ({"tenant": "acme"}, {"who": "ada", "tenant": "acme"})
    assert [(call.kind, call.event, call.peer) for call in calls] == [("request", "confirm", None)] * 2
    assert calls[0].timeout == 20


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"within": 0}, ValueError, "within= is a number of seconds, more than 0; got 0"),
    ({"within": None}, TypeError, "within= is a number of seconds"),
    ({"timeout": 5}, TypeError, r"got timeout as keyword argument: .*\(within=, returns= and metadata=\)"),
    ({"metadata": {"a": 1}}, TypeError, "metadata= is a mapping"),
]


@pytest.mark.parametrize(("options", "error", "text"), WRONG)
async def test_options_are_checked(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await Server().room("lobby").request("confirm", **options)
    with pytest.raises(ReservedEvent):
        await Server().room("lobby").request("open")

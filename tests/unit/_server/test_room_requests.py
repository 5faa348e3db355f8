"""`Room.request`: all members are asked, the first answer wins, and nothing is left of the requests to the others.

tests/unit/cluster/test_cluster_room_requests.py asks members at other nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from core_driver import Blocked
from waiting import until

from wsrpc import Client, Context, Limits, OutgoingCall, RemoteError, Room, RpcError, Server
from wsrpc._server.rooms.room_requests import ANSWERED, LEFT
from wsrpc.errors import BadResult, MessageTooBig, RequestTimeout, ReservedEvent
from wsrpc.testing import connect


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
        await until(lambda: not any(peer.pending for peer in room))


def says(answer: Any, *, after: Blocked | None = None) -> Any:
    """Return a handler that answers or raises, at once or when another one has begun."""

    async def handler(question: str) -> Any:
        if after is not None:
            await until(lambda: after.started)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler


NO, NEVER = RpcError("no", code="no"), RpcError("never", code="never")
OUTCOMES: dict[str, tuple[Callable[[Blocked], list[Any]], Any]] = {
    "one of several answers": (lambda hangs: [hangs, says("yes"), says("yes"), hangs], "yes"),
    "an error is no answer": (lambda hangs: [says(NO), None, says("yes", after=hangs), hangs], "yes"),
    "a result of a wrong type is no answer": (lambda hangs: [says(7), says("yes", after=hangs), hangs], "yes"),
    "null is an answer": (lambda hangs: [says(None), hangs], None),
    "all fail": (lambda hangs: [says(NO), hangs], "no"),
    "the last error counts": (lambda hangs: [says(NO), says(NEVER, after=hangs), hangs], "never"),
    "nobody has the handler": (lambda hangs: [None, None], "wsrpc.unknown_event"),
    "the only result is of a wrong type": (lambda hangs: [says(7), hangs], BadResult),
    "it is too much for the only member": (lambda hangs: [says("yes")], MessageTooBig),
    "it cannot be encoded": (lambda hangs: [hangs], TypeError),
    "nobody answers": (lambda hangs: [hangs], RequestTimeout),
    "nobody is there": (lambda hangs: [], RequestTimeout),
}


@pytest.mark.parametrize("case", OUTCOMES)
async def test_the_outcome(case: str) -> None:
    hangs, (handlers, expected) = Blocked(), OUTCOMES[case]
    question: Any = {MessageTooBig: "?" * 10_000, TypeError: object()}.get(expected, "?")
    async with lobby(*handlers(hangs)) as (_, room):
        within = 30 if expected in ("yes", None, TypeError) else 0.2
        asking = room.of("dialogs").request("confirm", question, within=within, returns=str | None)
        if expected in ("yes", None):
            assert await asking == expected
        else:
            with pytest.raises(RemoteError if isinstance(expected, str) else expected) as raised:
                await asking
            assert getattr(raised.value, "code", expected) == expected
        await until(lambda: len(hangs.cancelled) == len(hangs.started))
        assert within < 1 or {*hangs.cancelled} <= {ANSWERED}


async def test_the_members_are_told_why_the_caller_was_cancelled() -> None:
    hangs = Blocked()
    async with lobby(hangs) as (_, room):
        asking = asyncio.ensure_future(room.request("confirm", "?"))
        await until(lambda: hangs.started)
        asking.cancel("not any more")
        await until(lambda: hangs.cancelled)
        assert hangs.cancelled == ["not any more"]


async def test_who_joins_is_asked_and_who_leaves_is_not_asked_any_more() -> None:
    first, second = Blocked(), Blocked()
    async with lobby(first, second) as (server, room):
        one, other = room
        room.remove(other)
        asking = asyncio.ensure_future(server.room("lobby").request("confirm", "?"))
        await until(lambda: first.started)
        room.add(other)
        await until(lambda: second.started)
        room.remove(one)
        await until(lambda: first.cancelled)
        room.add(one)
        await until(lambda: len(first.started) == 2)
        await one.close()  # its session ends, and that is no answer
        await until(lambda: len(first.cancelled) == 2)
        assert not asking.done() and first.cancelled[0] == LEFT and second.cancelled == []
        second.go.set()
        assert await asking == ["?"]


async def test_the_handlers_have_the_time_and_the_metadata() -> None:
    """A handler that asks a room has no more time for it than it has itself."""
    calls, heard = list[OutgoingCall](), list[Any]()

    async def handler(ctx: Context) -> None:
        heard.append((ctx.remaining, dict(ctx.metadata)))

    async def tenant(call: OutgoingCall, call_next: Any) -> Any:
        calls.append(call)
        call.metadata["tenant"] = "acme"
        return [await call_next(call)]

    async with lobby(handler) as (server, room):
        server.use_outgoing(tenant)
        server.on("ask", lambda: room.request("confirm", within=30, metadata={"who": "ada"}))
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

"""Outgoing middleware: its three forms around each kind of call and event, of clients, servers and clusters."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest
import tenacity
from cluster_servers import servers
from leftovers import nothing_left as nothing_left
from waiting import until

from wsrpc import (
    AnonymousChannel,
    BadArguments,
    Client,
    ConnectionLost,
    Context,
    Limits,
    OutgoingCall,
    RemoteError,
    Retry,
    RpcError,
    Server,
)
from wsrpc.cluster import ClusterClient
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

RETRY = Retry(wait=tenacity.wait_none(), retry=lambda error: True)
TOO_LARGE = {"name": "x" * 5000}
VARIABLE: ContextVar[str] = ContextVar("variable")
Log = list[Any]
Function = Callable[..., Any]


class World:
    """A server with a client. Both have the same handlers, which note the metadata that arrives."""

    def __init__(self) -> None:
        self.server, self.client = Server(), Client()
        self.arrived: Log = []
        for side in (self.server, self.client):
            for name in (None, "side"):
                on: Any = side if name is None else side.of(name)
                for handler in (self.add, self.flaky, self.items, self.sum, self.talk):
                    on.on(handler.__name__, handler)

    def note(self, ctx: Context) -> None:
        self.arrived.append(dict(ctx.metadata))

    def add(self, ctx: Context, *numbers: int) -> int:
        self.note(ctx)
        return sum(numbers)

    def flaky(self, ctx: Context) -> int:
        if len(self.arrived) == 2:
            return 3
        self.note(ctx)
        raise RpcError("again")

    async def items(self, ctx: Context, last: int) -> AsyncIterator[int]:
        self.note(ctx)
        number = 0
        while number != last:
            yield number
            number += 1
        if last == 2:
            raise RpcError("no more")

    async def sum(self, ctx: Context, numbers: AsyncIterator[int]) -> int:
        self.note(ctx)
        return sum([number async for number in numbers])

    async def talk(self, ctx: Context, channel: AnonymousChannel) -> None:
        self.note(ctx)
        channel.on("add", self.add)
        async for reason in channel.events("end", returns=str):
            raise RpcError(reason)

    @property
    def peer(self) -> Any:
        return self.server.peers[0]


async def read(stream: Any) -> list[int]:
    async with stream as items:
        return [item async for item in items]


async def conversation(caller: Any) -> None:
    async with await caller.open_channel("talk"):
        pass


Case = tuple[str, str, Callable[[World], Any], Any]
CASES: dict[str, Case] = {
    "request with options": ("request", "add", lambda w: w.client.request("add", 1, 2, timeout=5, returns=int), 3),
    "request on a channel": ("request", "add", lambda w: w.client.of("side").request("add", 1, 2), 3),
    "request of the server": ("request", "add", lambda w: w.peer.request("add", 1, 2), 3),
    "retried": ("request", "flaky", lambda w: w.client.request("flaky", retry=RETRY), 3),
    "stream": ("stream", "items", lambda w: read(w.client.stream("items", 5)), [0, 1, 2, 3, 4]),
    "upload": ("upload", "sum", lambda w: w.client.request("sum", send=iter([1, 2])), 3),
    "conversation": ("conversation", "talk", lambda w: conversation(w.peer), None),
    "emit": ("event", "add", lambda w: w.client.emit("add", 1, 2), None),
    "emit_nowait": ("event", "add", lambda w: w.client.emit_nowait("add", 1, 2), None),
    "broadcast": ("broadcast", "add", lambda w: w.server.emit("add", 1, 2), ...),
    "broadcast_nowait": ("broadcast", "add", lambda w: w.server.of("side").emit_nowait("add", 1, 2), ...),
}
WITHOUT_COROUTINES = ("emit_nowait", "broadcast", "broadcast_nowait")


def forms(log: Log) -> dict[str, Function]:
    """One function of each form. They add metadata, and note the call and its end."""

    def plain(call: OutgoingCall) -> None:
        log.append(call)
        call.metadata["form"] = "plain"

    def generator(call: OutgoingCall) -> Iterator[None]:
        log.append(call)
        token = VARIABLE.set("mine")
        call.metadata["form"] = "generator"
        try:
            yield
        except BaseException as exc:
            log.append(type(exc))  # swallowed here, but not for the caller
        else:
            log.append("end")
        VARIABLE.reset(token)  # raises ValueError in another context

    async def coroutine(call: OutgoingCall, call_next: Callable[[OutgoingCall], Awaitable[Any]]) -> Any:
        log.append(call)
        call.metadata["form"] = "coroutine"
        result = await call_next(call)
        log.append("end")
        return result

    return {"plain": plain, "generator": generator, "coroutine": coroutine}


async def run(world: World, case: str, *functions: Function) -> Any:
    """Connect, and make a call with the functions around it. Return the result, once the message has arrived."""
    async with connect(world.server, client=world.client):
        assert await world.client.request("add") == await world.peer.request("add") == 0
        world.arrived.clear()
        for each in functions:
            world.client.use_outgoing(each)
            world.server.use_outgoing(each)
        result = CASES[case][2](world)
        if hasattr(result, "__await__"):
            result = await result
        await until(lambda: world.arrived)
        return result


@pytest.mark.parametrize("form", forms([]))
@pytest.mark.parametrize("case", CASES)
async def test_each_form_runs_once_around_each_kind_of_call(case: str, form: str) -> None:
    log: Log = []
    world, (kind, event, _, expected) = World(), CASES[case]
    result = await run(world, case, forms(log)[form])
    assert expected is ... or result == expected
    runs = form != "coroutine" or case not in WITHOUT_COROUTINES
    assert world.arrived == [{"form": form} if runs else {}] * (2 if case == "retried" else 1)
    if not runs:
        assert log == []
        return
    call = log.pop(0)
    assert log == ([] if form == "plain" else ["end"])
    assert (call.kind, call.event, call.metadata) == (kind, event, {"form": form})
    assert call.args == {"add": (1, 2), "items": (5,)}.get(event, ())
    limit = None if kind in ("event", "broadcast") else 5 if "options" in case else Limits().request_timeout
    assert call.timeout == limit and call.address is None
    assert call.channel_name == ("side" if "channel" in case or case == "broadcast_nowait" else None)
    assert (call.peer is None) == (kind == "broadcast")


def refuses(call: OutgoingCall) -> None:
    raise KeyError("refused")


def refuses_in_generator(call: OutgoingCall) -> Iterator[None]:
    raise KeyError("refused")
    yield


async def refuses_in_coroutine(call: OutgoingCall, call_next: object) -> None:
    raise KeyError("refused")


@pytest.mark.parametrize("function", [refuses, refuses_in_generator, refuses_in_coroutine])
@pytest.mark.parametrize("case", CASES)
async def test_each_form_can_refuse_each_kind_of_call(case: str, function: Function) -> None:
    if function is refuses_in_coroutine and case in WITHOUT_COROUTINES:
        return
    world, log = World(), Log()
    with pytest.raises(KeyError, match="refused"):
        await run(world, case, forms(log)["generator"], function)
    assert world.arrived == [] and log[1:] == [KeyError]


@pytest.mark.parametrize("case", ["upload", "broadcast"])
async def test_the_metadata_of_each_kind_of_call_is_checked(case: str) -> None:
    world = World()
    with pytest.raises(ValueError, match="metadata= has at most"):
        await run(world, case, lambda call: call.metadata.update(TOO_LARGE))
    assert world.arrived == []


# ---------------------------------------------------------------- one function after the other


async def test_the_first_function_is_the_outermost() -> None:
    order: Log = []

    def before(call: OutgoingCall) -> None:
        order.append("plain")

    async def around(call: OutgoingCall, call_next: Any) -> Any:
        order.append("coroutine")
        result = await call_next(call)
        order.append("coroutine end")
        return result

    def enclosing(call: OutgoingCall) -> Iterator[None]:
        order.append("generator")
        yield
        order.append("generator end")

    functions: list[Function] = [around, before, enclosing, around]
    await run(World(), "upload", *functions)
    ends = ["coroutine end", "generator end", "coroutine end"]
    assert order == ["coroutine", "plain", "generator", "coroutine", *ends]
    order.clear()
    await run(World(), "broadcast_nowait", *functions)
    assert order == ["plain", "generator", "generator end"]


async def test_a_coroutine_function_replaces_the_result_or_sends_nothing() -> None:
    async def cached(call: OutgoingCall, call_next: object) -> object:
        return "cached"

    closed = Log()

    def source() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    world = World()
    async with connect(world.server, client=world.client) as client:
        client.use_outgoing(cached)
        assert await client.request("add", 1, 2) == "cached"
        started = source()
        next(started)
        assert await client.request("sum", send=started) == "cached" and closed == [True]
        for opening in (client.stream("items", 5).__aenter__(), client.open_channel("talk")):
            with pytest.raises(TypeError, match="has to return what call_next returns"):
                await opening
    assert world.arrived == []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("case", ["stream", "conversation"])
async def test_what_was_opened_is_closed_if_a_function_then_fails(case: str, times: int) -> None:
    async def forgets(call: OutgoingCall, call_next: Any) -> None:
        for _ in range(times):
            await call_next(call)

    log, world = Log(), World()
    async with connect(world.server, client=world.client) as client:
        client.use_outgoing(forgets)
        client.use_outgoing(forms(log)["generator"])
        with pytest.raises(RuntimeError if times == 2 else TypeError):
            await (client.stream("items", -1).__aenter__() if case == "stream" else client.open_channel("talk"))
        await until(lambda: client.peer.anonymous_channels == world.peer.anonymous_channels == 0)
    assert log[1:] == ["end"]


# ---------------------------------------------------------------- until the end of a stream or a conversation


async def leave_early(w: World) -> None:
    async with w.client.stream("items", -1) as items:
        await anext(items)


async def lose_the_connection(w: World) -> None:
    async with w.client.stream("items", -1) as items:
        await anext(items)
        await w.client.close()


async def the_other_side_fails(w: World) -> None:
    async with await w.client.open_channel("talk") as channel:
        assert await channel.request("add", 1) == 1
        await channel.emit("end", "enough")
        await channel.wait_closed()


async def close_it(w: World) -> None:
    channel = await w.client.open_channel("talk")
    channel.emit_nowait("add")
    channel.close("of this side")


ENDS: dict[str, tuple[Callable[[World], Any], Any]] = {
    "the last item": (lambda w: read(w.client.stream("items", 5)), "end"),
    "the producer fails": (lambda w: read(w.client.stream("items", 2)), RemoteError),
    "the handler cannot be called": (lambda w: read(w.client.stream("items")), BadArguments),
    "the reader leaves": (leave_early, "end"),
    "the connection ends": (lose_the_connection, ConnectionLost),
    "a conversation ends": (lambda w: conversation(w.client), "end"),
    "the other side fails": (the_other_side_fails, RemoteError),
    "this side closes it": (close_it, "end"),
}


@pytest.mark.parametrize("case", ENDS)
async def test_a_generator_runs_until_the_end_and_sees_how_it_came(case: str) -> None:
    end, outcome = ENDS[case]
    log, world = Log(), World()
    async with connect(world.server, client=world.client) as client:
        client.use_outgoing(forms(log)["generator"])
        with suppress(RemoteError, ConnectionLost):
            await end(world)
        calls = [each for each in log if isinstance(each, OutgoingCall)]
        assert calls[0] is log[0] and log[-1] is outcome and len(log) == 2 * len(calls)


async def test_a_generator_that_fails_at_the_end_of_a_stream_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fails(call: OutgoingCall) -> Iterator[None]:
        yield
        raise KeyError("mine")

    world = World()
    async with connect(world.server, client=world.client) as client:
        client.use_outgoing(fails)
        with caplog.at_level(logging.ERROR, "wsrpc"):
            assert await read(client.stream("items", 5)) == [0, 1, 2, 3, 4]
        [record] = caplog.records
        assert record.getMessage().startswith("a function of use_outgoing failed at the end of a stream of 'items'")
        with pytest.raises(KeyError, match="mine"):
            await client.request("add")


# ---------------------------------------------------------------- clusters


async def test_calls_to_peers_of_a_cluster_run_the_functions_of_their_process_alone() -> None:
    async with servers(2) as made:
        logs, world = [Log(), Log(), Log()], World()
        await made.join(1, "ada", world.client)
        async with ClusterClient(made.engine, name="shop") as outside:
            for owner, log in zip((*made, outside), logs, strict=True):
                owner.use_outgoing(forms(log)["plain"])
            for number, cluster in ((0, made[0].cluster), (2, outside)):
                ada = cluster.peer("ada")
                assert await ada.request("add", 1, 2) == 3
                ada.emit_nowait("add")
                said = [(call.kind, call.peer, call.address) for call in logs[number]]
                assert said == [(kind, None, "ada") for kind in ("request", "event")]
        await until(lambda: len(world.arrived) == 4)
        assert logs[1] == [] and world.arrived == [{"form": "plain"}] * 4


# ---------------------------------------------------------------- functions that cannot be used


async def items_of(call: OutgoingCall) -> AsyncIterator[None]:
    yield


async def alone(call: OutgoingCall) -> None: ...


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (items_of, "middleware with a `yield` is a plain `def`"),
        (alone, r"an `async def` of use_outgoing has the parameters \(call, call_next\)"),
        (functools.partial(alone), r"has the parameters \(call, call_next\)"),
        (lambda call, call_next: None, r"is called with \(call\), but .* takes \(call, "),
        (lambda: None, r"a plain `def` of use_outgoing has the parameter \(call\)"),
        (7, "takes a function"),
    ],
)
def test_functions_that_cannot_work_are_refused(function: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Server().use_outgoing(function)
    with pytest.raises(TypeError, match=r"write @client\.use_outgoing without parentheses"):
        Client().use_outgoing()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

"""The calls of `wsrpc.blocking.Client`: what `wsrpc.Client` does, waited for in a thread."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from in_a_thread import Served

from wsrpc import BadResult, ChannelClosed, ConnectFailed, Retry
from wsrpc.blocking import Client
from wsrpc.blocking._loop_call import LoopCall
from wsrpc.errors import ConnectionLost, HandshakeRejected, RemoteError, RequestTimeout, UnknownEvent, WsrpcError

pytestmark = pytest.mark.usefixtures("threads_end")

# ------------------------------------------------------------ calls and their outcomes


class Call(NamedTuple):
    """A call, and its outcome: a value, the class of an error, or the items and errors of a stream."""

    method: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    outcome: Any


CALLS = {
    "options": Call(
        "request", ("add", 1), {"timeout": None, "retry": Retry(), "idempotent": True, "offline": "fail"}, 1
    ),
    "a rejection": Call("request", ("fail", "sorry"), {}, RemoteError),
    "a deadline": Call("request", ("hang",), {"timeout": 0.01}, RequestTimeout),
    "an option without the other": Call("request", ("add", 1), {"idempotent": True}, TypeError),
    "an upload": Call("request", ("total",), {"send": range(100), "returns": int}, 4950),
    "a long stream": Call("stream", ("count", 5000), {}, [*range(5000)]),
    "a stream that fails": Call("stream", ("broken",), {}, [1, RemoteError]),
    "a stream with a wrong item": Call("stream", ("count", 5, 2), {"returns": int}, [0, 1, BadResult, 3, 4]),
    "a stream of no handler": Call("stream", ("nothing",), {}, [UnknownEvent]),
    "an upload for a stream": Call("stream", ("doubled",), {"send": range(50)}, [*range(0, 100, 2)]),
    "an event that does not come": Call("wait_for", ("nothing",), {"timeout": 0.01}, RequestTimeout),
}


def items_of(stream: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            yield next(stream)
        except StopIteration:
            return
        except WsrpcError as error:
            yield type(error)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_outcome_of_a_call(client: Client, call: Call) -> None:
    try:
        found = getattr(client, call.method)(*call.args, **call.options)
    except (WsrpcError, TypeError) as error:
        found = type(error)
    assert ([*items_of(found)] if call.method == "stream" else found) == call.outcome


def test_on_a_closed_client_each_call_raises_connection_lost(served: Served) -> None:
    client = Client(served.url)
    with client:
        channel, stream = client.open_channel("talk"), client.stream("count", 10**9)
        next(stream)
    client.close()
    assert client.state == "closed" and not client.connected
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: client.request("add", 1), "not_sent"),
        (client.wait_connected, "not_sent"),
        (lambda: client.events("said"), "not_sent"),
        (lambda: channel.request("ask", "x"), "not_sent"),
        (lambda: sum(stream), "unknown"),
    ]
    for call, outcome in calls:
        with pytest.raises(ConnectionLost) as caught:
            call()
        assert (caught.value.code, caught.value.outcome) == (1000, outcome)
    stream.close()
    channel.abort()
    for begin in (client.connect, client.start):  # it can be used again
        begin()
        assert client.request("add", 1) == 1
        client.close()


def test_an_error_leaves_no_reference_to_what_the_caller_holds(client: Client) -> None:
    """Nothing keeps the frame of a failed call, and with it all that the caller holds, until a garbage collection."""

    class Held: ...

    def fails() -> weakref.ref[Held]:
        held = Held()
        with suppress(UnknownEvent):
            client.request("nothing")
        return weakref.ref(held)

    gc.disable()
    try:
        held = fails()
        client.request("add", 1)  # the loop's thread is done with the other one then
        assert held() is None
    finally:
        gc.enable()


# ------------------------------------------------------------ events, streams, uploads and conversations


def test_events_go_both_ways(client: Client) -> None:
    with client.events("said") as said:
        client.emit_nowait("say", 2, 3)
        assert next(said) == (2, 3)
    assert [*said] == []
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.wait_for, "said", returns=int)
        while not waiting.done():  # it may not wait yet when the first one comes
            client.request("say", 7)
        assert waiting.result() == 7


@pytest.mark.parametrize("read", [0, 1])
def test_events_that_have_arrived_are_read_after_the_client_was_closed(served: Served, read: int) -> None:
    with Client(served.url) as client:
        events = client.events("said", returns=int)
        for number in range(400):
            client.request("say", number)
        numbers = [next(events) for _ in range(read)]
    assert [*numbers, *events] == [*range(400)]


def test_an_upload_takes_any_iterable_and_reads_it_in_a_thread(served: Served, client: Client) -> None:
    threads: set[str] = set()
    closed, begun, go_on = threading.Event(), threading.Event(), threading.Event()

    def breaks() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("mine")

    def slow() -> Iterator[int]:
        try:
            yield 1
            threads.add(threading.current_thread().name)
            begun.set()
            go_on.wait()
            yield from (2, 3)
        finally:
            closed.set()

    with pytest.raises(ZeroDivisionError, match="mine"):
        client.request("total", send=breaks())
    served.idle(client)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: client.request("total", 2, send=slow()))
        begun.wait()
        assert client.request("add", 1, 1) == 2, "a source that blocks holds up nothing else"
        go_on.set()
        assert waiting.result() == 3
    assert closed.wait(60), "a generator is closed when the handler stops reading"
    assert all("worker" in name for name in threads)


def test_what_only_an_event_loop_can_read_is_refused(client: Client) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"send= of a blocking client takes an iterable.*use wsrpc\.Client"):
        client.request("total", send=items())  # type: ignore[arg-type]


# ------------------------------------------------------------ connecting and closing


@pytest.mark.parametrize("error", [ConnectFailed, HandshakeRejected])
def test_a_client_that_cannot_connect_raises_why_and_leaves_no_thread(served: Served, error: type[Exception]) -> None:
    served.server.on_handshake(lambda handshake: handshake.reject(403))
    before = threading.enumerate()
    client = Client(served.url if error is HandshakeRejected else "ws://127.0.0.1:1", reconnect=None)
    assert client.state == "idle" and set(threading.enumerate()) <= set(before)
    for _ in range(20):  # once, the loop of the attempt before had not ended yet, and refused the next one
        with pytest.raises(error), client:
            raise AssertionError


def test_calls_that_wait_end_with_the_loop() -> None:
    """Also those without a connection, if the loop ends and not the client."""
    client = Client("ws://127.0.0.1:1/")
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(client.request, "x", timeout=None), pool.submit(client.wait_connected)]
        while client.peer.pending < 1:
            pass
        client._bridge.close()
        assert [type(each.exception()) for each in waiting] == [ConnectionLost] * 2


def test_a_conversation(served: Served, client: Client) -> None:
    with client.open_channel("talk") as channel:
        assert channel.request("ask", "hi", returns=str) == "HI"
        assert channel.request("total", send=range(5)) == 10
        with channel.events("said", returns=str) as said:
            channel.emit("say", "one")
            channel.emit_nowait("say", "last")
            assert [next(said) for _ in range(2)] == ["one", "last"]
        assert not channel.closed
    assert channel.closed
    with pytest.raises(ChannelClosed):
        channel.request("ask", "hi")


def test_who_leaves_a_stream_or_a_channel_ends_it_at_the_server(served: Served, client: Client) -> None:
    with client.stream("count", 10**9) as numbers:
        assert next(numbers) == 0
    client.open_channel("talk").abort("bored")
    served.idle(client)


def test_a_step_without_a_task_may_yield_a_turn_of_the_loop() -> None:
    async def yields() -> str:
        await asyncio.sleep(0)
        return "done"

    call = LoopCall(yields, set(), stepped=True)

    async def run() -> None:
        call.start(asyncio.get_running_loop())
        assert await asyncio.to_thread(call.wait, 60)

    asyncio.run(run())
    assert call.over and call.pop_error() is None and call.result == "done"

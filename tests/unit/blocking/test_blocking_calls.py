"""The calls of `wsrpc.blocking.Client`: what `wsrpc.Client` does, waited for in a thread."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from in_a_thread import Served, serving
from leftovers import turns_until

from wsrpc import (
    AnonymousChannel,
    BadArguments,
    BadResult,
    ChannelClosed,
    ConnectFailed,
    ConnectionLost,
    HandshakeRejected,
    RemoteError,
    RequestTimeout,
    Retry,
    RpcError,
    Server,
    UnknownEvent,
    current_peer,
)
from wsrpc.blocking import Client


def make_server() -> Server:
    server = Server()

    @server.on("add")
    def add(a: int, b: int = 0) -> int:
        return a + b

    @server.on("fail")
    def fail(text: str) -> None:
        raise RpcError(text, code="no")

    @server.on("count")
    async def count(n: int, wrong: int = -1) -> AsyncIterator[Any]:
        ended = current_peer().state.setdefault("ended", [])
        try:
            for number in range(n):
                yield "wrong" if number == wrong else number
        finally:
            ended.append(n)

    @server.on("broken")
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise RpcError("broken", code="no")

    @server.on("total")
    async def total(numbers: AsyncIterator[int], most: int = 1000) -> int:
        found = 0
        async for number in numbers:
            found += number
            if (most := most - 1) == 0:
                break
        return found

    @server.on("doubled")
    async def doubled(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        channel.on("ask", lambda text: text.upper())
        async for text in channel.events("say", returns=str):
            await channel.emit("said", text)

    @server.on("hang")
    async def hang() -> None:
        await asyncio.Event().wait()

    @server.on("say")
    async def say(*args: Any) -> None:
        await current_peer().emit("said", *args)

    return server


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make_server()) as served:
        yield served


@pytest.fixture(params=["steps", "tasks"])
def client(served: Served, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client whose requests take the fast path, and one whose requests have tasks, as other calls do."""
    with Client(served.url) as client:
        monkeypatch.setattr(client._portal, "_steps", request.param == "steps")
        yield client
        served.idle(client)


# ------------------------------------------------------------ requests and events


def test_a_request_returns_its_answer(client: Client) -> None:
    assert client.request("add", 1, 2) == 3
    assert client.request("add", 1, 2, returns=int, timeout=None, retry=Retry(), idempotent=True) == 3
    assert client.of("math").name == "math" and client.of("math") == client.of("math") != client.of("other")
    assert client.state == "connected" and client.connected


def test_errors_are_those_of_the_asynchronous_client(client: Client) -> None:
    with pytest.raises(RemoteError, match="sorry") as caught:
        client.request("fail", "sorry")
    assert caught.value.code == "no"
    with pytest.raises(BadArguments):
        client.request("add", "x")
    with pytest.raises(UnknownEvent):
        client.of("nowhere").request("add")
    with pytest.raises(BadResult):
        client.request("add", 1, returns=str)
    with pytest.raises(RequestTimeout):
        client.request("hang", timeout=0.01)
    with pytest.raises(TypeError, match="keywords are options of request"):
        client.request("add", 1, b=2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="idempotent="):
        client.request("add", 1, idempotent=True)


def test_an_error_leaves_no_reference_to_what_the_caller_holds(client: Client) -> None:
    """Nothing keeps the frame of a failed call, and with it all that the caller holds, until a garbage collection."""

    class Held:
        pass

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


def test_events_go_both_ways(client: Client) -> None:
    with client.events("said") as said, client.events("said", returns=int, keep="newest") as newest:
        client.emit("say", 1)
        assert next(said) == 1 == next(newest)
        client.emit_nowait("say", 2, 3)
        assert next(said) == (2, 3)
    assert [*said] == []


def test_waiting_for_an_event(client: Client) -> None:
    with pytest.raises(TimeoutError):
        client.wait_for("said", timeout=0.01)
    answers: queue.SimpleQueue[int] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: answers.put(client.wait_for("said", returns=int)))
    thread.start()
    while thread.is_alive():  # it may not wait yet when the first one comes
        client.request("say", 7)
        thread.join(0.01)
    assert answers.get() == 7


def test_raw_messages(served: Served) -> None:
    got: queue.SimpleQueue[Any] = queue.SimpleQueue()
    served.server.on_raw(lambda peer, message: peer.send_raw_nowait(f"{message} back"))
    with Client(served.url) as client:

        @client.on_raw
        def on_raw(peer: Any, message: str | bytes) -> None:
            got.put((peer, message, threading.current_thread().name))

        client.send_raw("there")
        peer, message, thread = got.get()
        assert peer == client.peer and message == "there back" and "worker" in thread
        client.send_raw_nowait("now")
        assert got.get()[1] == "now back"


# ------------------------------------------------------------ streams


def test_a_stream_is_an_iterator(client: Client) -> None:
    with client.stream("count", 5, returns=int) as numbers:
        assert [*numbers] == [0, 1, 2, 3, 4]
        assert [*numbers] == []
    assert sum(client.stream("count", 5000)) == 5000 * 4999 // 2


def test_leaving_a_stream_stops_the_producer(served: Served, client: Client) -> None:
    with client.stream("count", 10**9) as numbers:
        assert next(numbers) == 0
    assert [*numbers] == []
    served.idle(client)
    assert served.peer().state["ended"] == [10**9]
    for number in client.stream("count", 10**8):
        if number == 500:
            break
    served.idle(client)
    assert served.peer().state["ended"] == [10**9, 10**8]


def test_errors_come_after_the_items_before_them(client: Client) -> None:
    numbers = client.stream("broken", returns=int)
    assert next(numbers) == 1
    with pytest.raises(RemoteError, match="broken"):
        next(numbers)
    assert [*numbers] == []
    with client.stream("count", 5, 2, returns=int) as some:
        assert [next(some), next(some)] == [0, 1]
        with pytest.raises(BadResult):
            next(some)
        assert [*some] == [3, 4]
    with pytest.raises(UnknownEvent):
        next(client.stream("nothing"))


def test_what_has_arrived_is_read_in_one_hop(served: Served, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with client.stream("count", 2000) as numbers:
        hops = 0
        run = client._portal.run

        def counted(function: Any) -> Any:
            nonlocal hops
            hops += 1
            return run(function)

        monkeypatch.setattr(client._portal, "run", counted)
        assert len([*numbers]) == 2000
    assert hops < 1000


def test_an_item_that_was_read_ahead_is_bounded_by_the_stream(client: Client) -> None:
    channel = client.of("items")
    with client.open_channel("talk") as talk, talk.events("said") as said:
        for number in range(300):
            talk.emit("say", str(number))
        assert [next(said) for _ in range(300)] == [str(number) for number in range(300)]
    channel.close()
    with pytest.raises(ChannelClosed):
        channel.emit("x")


# ------------------------------------------------------------ uploads


def test_an_upload_takes_any_iterable(client: Client) -> None:
    threads: set[str] = set()

    def numbers() -> Iterator[int]:
        for number in range(100):
            threads.add(threading.current_thread().name)
            yield number

    for source in (range(100), [*range(100)], numbers(), iter(range(100))):
        assert client.request("total", send=source, returns=int) == 4950
    assert all("worker" in name for name in threads)
    with client.stream("doubled", send=range(50), returns=int) as numbers_:
        assert [*numbers_] == [*range(0, 100, 2)]


def test_a_generator_is_closed_when_the_handler_stops_reading(client: Client) -> None:
    closed = threading.Event()

    def forever() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    assert client.request("total", 3, send=forever()) == 3
    assert closed.wait(8)


def test_an_error_of_a_source_is_raised_by_the_call(served: Served, client: Client) -> None:
    def breaks() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        client.request("total", send=breaks())
    with pytest.raises(ZeroDivisionError, match="mine"):
        [*client.stream("doubled", send=breaks())]
    served.idle(client)


def test_a_source_that_blocks_holds_up_nothing_else(served: Served, client: Client) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        begun.set()
        go_on.wait()
        yield 2

    totals: queue.SimpleQueue[int] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: totals.put(client.request("total", send=slow())))
    thread.start()
    begun.wait()
    assert client.request("add", 1, 1) == 2
    go_on.set()
    thread.join()
    assert totals.get() == 3


def test_what_only_an_event_loop_can_read_is_refused(client: Client) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"send= of a blocking client takes an iterable.*use wsrpc\.Client"):
        client.request("total", send=items())  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="send= takes an iterable"):
        client.request("total", send="text")


# ------------------------------------------------------------ anonymous channels


def test_a_conversation(served: Served, client: Client) -> None:
    with client.open_channel("talk") as channel:
        assert channel.request("ask", "hi", returns=str) == "HI"
        with channel.events("said", returns=str) as said:
            channel.emit("say", "a")
            channel.emit_nowait("say", "b")
            assert [next(said), next(said)] == ["a", "b"]
        assert not channel.closed
    assert channel.closed
    with pytest.raises(ChannelClosed):
        channel.request("ask", "hi")
    served.idle(client)


def test_a_conversation_that_fails_is_aborted(served: Served, client: Client) -> None:
    with pytest.raises(ZeroDivisionError), client.open_channel("talk"):
        raise ZeroDivisionError
    channel = client.open_channel("talk")
    channel.abort("enough")
    channel.wait_closed()
    assert channel.close_reason == "enough"
    served.idle(client)


# ------------------------------------------------------------ connecting and closing


def test_a_client_can_be_closed_and_connected_again(served: Served) -> None:
    before = threading.enumerate()
    client = Client(served.url)
    assert client.state == "idle" and set(threading.enumerate()) <= set(before)
    client.connect()
    channel, stream = client.open_channel("talk"), client.stream("count", 10**9)
    next(stream)
    client.close()
    client.close()
    states = {client.state}
    assert states == {"closed"} and not client.connected
    for call in (
        lambda: client.request("add", 1),
        lambda: client.emit("say"),
        lambda: client.wait_connected(),
        lambda: client.events("said"),
        lambda: channel.request("ask", "x"),
    ):
        with pytest.raises(ConnectionLost):
            call()
    with pytest.raises(ConnectionLost):
        sum(stream)
    stream.close()
    channel.abort()
    client.connect()
    assert client.request("add", 1) == 1
    client.close(4000, "bye")


def test_a_close_with_a_wrong_code_closes_nothing(client: Client) -> None:
    with pytest.raises(ValueError, match="code"):
        client.close(5)
    assert client.request("add", 1) == 1


def test_a_client_that_cannot_connect_leaves_no_thread() -> None:
    with pytest.raises(ConnectFailed):
        with Client("ws://127.0.0.1:1", reconnect=None):
            raise AssertionError
    client = Client("ws://127.0.0.1:1", reconnect=None)
    with pytest.raises(ConnectFailed):
        client.connect()
    client.close()


def test_the_functions_of_each_attempt_may_block(served: Served) -> None:
    names: list[str] = []

    def token() -> str:
        names.append(threading.current_thread().name)
        return "secret"

    async def headers() -> dict[str, str]:
        return {"x-test": "1"}

    with Client(lambda: served.url, auth=token, headers=headers) as client:
        info = served.peer().info
        assert info.headers["authorization"] == "Bearer secret" and info.headers["x-test"] == "1"
        assert "worker" in names[0] and client.peer.info.path == info.path


def test_a_rejected_handshake_is_raised(served: Served) -> None:
    @served.server.on_handshake
    def refuse(handshake: Any) -> None:
        handshake.reject(403)

    with pytest.raises(HandshakeRejected):
        with Client(served.url):
            raise AssertionError


def test_close_in_another_thread_ends_all_waiting_calls(served: Served) -> None:
    client = Client(served.url)
    client.connect()
    errors: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def wait(call: Any) -> None:
        try:
            call()
        except Exception as exc:
            errors.put(exc)
        else:
            errors.put(None)

    events = client.events("said")
    calls = [
        lambda: client.request("hang", timeout=None),
        lambda: client.wait_for("said"),
        lambda: [*events],
        lambda: [*client.stream("hang")],
    ]
    threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    peer = served.peer()
    served.until(lambda: peer.active == 2)
    client.close()
    for thread in threads:
        thread.join()
    found = [errors.get() for _ in calls]
    assert sorted(type(each).__name__ for each in found) == ["ConnectionLost"] * 3 + ["NoneType"]


def test_calls_before_connect_wait_for_it(served: Served) -> None:
    client = Client(served.url)
    with client.events("said", returns=int) as said, ThreadPoolExecutor() as pool:
        client.emit("x")
        answer = pool.submit(client.request, "add", 1, 2, timeout=None)
        while not client.peer.pending:
            pass
        client.connect()
        assert answer.result() == 3
        client.request("say", 5)
        assert next(said) == 5
    client.close()


def test_calls_that_wait_end_with_the_loop() -> None:
    """Also those without a connection, if the loop ends and not the client."""
    client = Client("ws://127.0.0.1:1/")
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(client.request, "x", timeout=None), pool.submit(client.wait_connected)]
        client._portal.run(lambda: turns_until(lambda: client.peer.pending and client._inner._core._waiters.count))
        client._portal.close()
        for each in waiting:
            with pytest.raises(ConnectionLost):
                each.result()

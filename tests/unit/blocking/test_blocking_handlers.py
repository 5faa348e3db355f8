"""Handlers of `wsrpc.blocking.Client`: plain functions in threads."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

import pytest
from in_a_thread import Served, serving

import wsrpc
from wsrpc import CloseInfo, Reconnect, ReconnectInfo, RemoteError, Server
from wsrpc.blocking import AnonymousChannel, Client, Peer
from wsrpc.testing import FaultProxy


@pytest.fixture
def served() -> Iterator[Served]:
    server = Server()

    @server.on("add")
    def add(a: int, b: int) -> int:
        return a + b

    with serving(server) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client
        served.idle(client)


def worker_name() -> str:
    return threading.current_thread().name


async def refused() -> None: ...


async def refused_too() -> AsyncIterator[int]:
    yield 1


# ------------------------------------------------------------ requests and events


def test_a_handler_runs_in_a_thread_and_may_call(served: Served, client: Client) -> None:
    @client.on("sum")
    def sum_(numbers: list[int], peer: Peer) -> list[Any]:
        total = 0
        for number in numbers:
            total = client.request("add", total, number, returns=int)
        assert peer == client.peer
        return [total, worker_name()]

    total, thread = served.run(served.peer().request("sum", [1, 2, 3]))
    assert total == 6 and "worker" in thread


def test_handlers_block_without_holding_up_the_connection(served: Served, client: Client) -> None:
    go_on = threading.Event()
    begun: queue.SimpleQueue[int] = queue.SimpleQueue()

    def wait(number: int) -> int:
        begun.put(number)
        go_on.wait()
        return number

    client.on("wait", wait)
    peer = served.peer()

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*(peer.request("wait", number, returns=int) for number in range(20)))

    answers = asyncio.run_coroutine_threadsafe(all_at_once(), served.loop)
    assert sorted(begun.get() for _ in range(20)) == [*range(20)]
    assert client.request("add", 1, 1) == 2
    go_on.set()
    assert answers.result() == [*range(20)]


def test_ordered_handlers_run_one_after_another(served: Served, client: Client) -> None:
    running: list[int] = []
    most: list[int] = []
    done = threading.Event()

    def note(number: int) -> None:
        running.append(number)
        most.append(len(running))
        running.remove(number)
        if number == 49:
            done.set()

    client.on("note", note, ordered=True)
    peer = served.peer()

    async def emit() -> None:
        for number in range(50):
            peer.emit_nowait("note", number)

    served.run(emit())
    assert done.wait(8) and set(most) == {1}


def test_registrations_can_be_removed_and_be_for_once(served: Served, client: Client) -> None:
    peer = served.peer()
    client.of("named").once("ping", lambda: "once")
    client.of("named").on("ping", lambda: "on")
    channel = peer.of("named")
    assert [served.run(channel.request("ping")) for _ in range(2)] == ["once", "on"]
    client.of("named").on("ping", None)
    with pytest.raises(RemoteError):
        served.run(channel.request("ping"))


def test_a_generator_streams(served: Served, client: Client) -> None:
    closed = threading.Event()

    @client.on("count")
    def count(n: int) -> Iterator[int]:
        try:
            yield from range(n)
        finally:
            closed.set()

    peer = served.peer()

    async def read(n: int, most: int) -> list[int]:
        found: list[int] = []
        async with peer.stream("count", n, returns=int) as numbers:
            async for number in numbers:
                found.append(number)
                if len(found) == most:
                    break
        return found

    assert served.run(read(5, 100)) == [0, 1, 2, 3, 4]
    closed.clear()
    assert served.run(read(10**9, 2)) == [0, 1]
    assert closed.wait(8)


def test_an_upload_is_an_iterator(served: Served, client: Client) -> None:
    @client.on("total")
    def total(start: int, numbers: Iterator[int]) -> list[Any]:
        return [start + sum(numbers), worker_name()]

    @client.on("doubled")
    def doubled(numbers: Iterator[int]) -> Iterator[int]:
        for number in numbers:
            yield 2 * number

    peer = served.peer()
    found, thread = served.run(peer.request("total", 1, send=range(100)))
    assert found == 4951 and "worker" in thread

    async def read() -> list[int]:
        return [number async for number in peer.stream("doubled", send=range(5), returns=int)]

    assert served.run(read()) == [0, 2, 4, 6, 8]


def test_a_conversation_is_the_body_of_a_handler(served: Served, client: Client) -> None:
    @client.on("talk")
    def talk(channel: AnonymousChannel, greeting: str) -> None:
        with channel.events("say", returns=str) as said:
            channel.emit("said", greeting)
            for text in said:
                channel.emit("said", text.upper())

    peer = served.peer()

    async def converse() -> list[str]:
        found: list[str] = []
        async with await peer.open_channel("talk", "hello") as channel:
            async with channel.events("said", returns=str) as said:
                found.append(await anext(said))
                await channel.emit("say", "x")
                found.append(await anext(said))
        return found

    assert served.run(converse()) == ["hello", "X"]


def test_what_only_an_event_loop_can_run_is_refused(client: Client) -> None:
    text = r"is a plain function, which runs in a thread; got the `async def` .*refused"
    register: Callable[[Any], Any]
    function: Any
    for function in (refused, refused_too):
        for register in (
            client.on("x"),
            client.once("x"),
            client.on("open"),
            client.of("named").on("x"),
            client.on_raw,
            client.on_reconnect,
        ):
            with pytest.raises(TypeError, match=text):
                register(function)


def wants_peer(peer: wsrpc.Peer) -> None: ...


def wants_channel(channel: wsrpc.AnonymousChannel) -> None: ...


def wants_items(items: AsyncIterator[int]) -> None: ...


@pytest.mark.parametrize(
    ("function", "instead"),
    [
        (wants_peer, r"wsrpc\.blocking\.Peer"),
        (wants_channel, r"wsrpc\.blocking\.AnonymousChannel"),
        (wants_items, r"collections\.abc\.Iterator\[\.\.\.\]"),
    ],
)
def test_a_parameter_for_an_event_loop_is_refused(client: Client, function: Callable[..., Any], instead: str) -> None:
    with pytest.raises(TypeError, match=f"an object that only an event loop can use.*: annotate it {instead}"):
        client.on("x", function)


def test_mistakes_in_registrations_say_what_to_do(client: Client) -> None:
    with pytest.raises(TypeError, match="the event's name comes first"):
        client.on(worker_name)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="the event's name comes first"):
        client.on()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="the decorator of 'x' got None"):
        client.on("x")(None)  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"without parentheses"):
        client.on_raw()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="lax= is True or False"):
        client.on("x", worker_name, lax=1)  # type: ignore[call-overload]


def test_handlers_of_an_asynchronous_server_get_no_blocking_objects(served: Served, client: Client) -> None:
    @served.server.on("peer")
    def peer(peer: Peer) -> str:
        raise AssertionError

    with pytest.raises(RemoteError):
        client.request("peer")


def stops() -> None:
    raise StopIteration


def leaves(*_: object) -> None:
    sys.exit(3)


def yields_and_leaves() -> Iterator[int]:
    yield 1
    sys.exit(3)


def reads_and_leaves(numbers: Iterator[int]) -> None:
    sys.exit(next(numbers))


@pytest.mark.parametrize("handler", [leaves, yields_and_leaves, reads_and_leaves])
def test_sys_exit_fails_the_handler_and_not_the_client(
    served: Served, client: Client, caplog: pytest.LogCaptureFixture, handler: Callable[..., Any]
) -> None:
    client.on("leave", handler)
    peer = served.peer()

    async def ask() -> None:
        send = [3] if handler is reads_and_leaves else None
        if handler is yields_and_leaves:
            assert [number async for number in peer.stream("leave", timeout=None)] == []
        else:
            await peer.request("leave", send=send, timeout=None)

    with pytest.raises(RemoteError):
        served.run(ask())
    assert client.request("add", 1, 2) == 3
    assert "SystemExit(3) was raised in a thread of wsrpc.blocking, where it does not end the program" in caplog.text


def test_sys_exit_in_a_method_of_a_contract_fails_it(served: Served, client: Client) -> None:
    class Leaving(Protocol):
        def leave(self) -> int: ...

    class Leaves:
        def leave(self) -> int:
            sys.exit(3)

    client.implement(Leaving, Leaves())
    with pytest.raises(RemoteError):
        served.run(served.peer().request("leave", timeout=None))
    assert client.request("add", 1, 2) == 3


@pytest.mark.parametrize("stop", [SystemExit(3), KeyboardInterrupt()])
def test_a_source_that_wants_to_end_the_program_fails_its_call(
    served: Served, client: Client, stop: BaseException
) -> None:
    @served.server.on("total")
    async def total(numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    def source() -> Iterator[int]:
        yield 1
        raise stop

    with pytest.raises(RuntimeError, match="was raised in a thread") as caught:
        client.request("total", send=source(), timeout=None)
    assert caught.value.__cause__ is stop
    assert client.request("total", send=[1, 2]) == 3


# ------------------------------------------------------------ the life of the connection


def test_lifecycle_handlers_run_in_threads_and_may_call(served: Served) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client = Client(served.url)

    @client.on("open")
    def opened(peer: Peer) -> None:
        told.put(("open", peer == client.peer, worker_name(), client.request("add", 1, 2)))

    @client.on("close")
    def closed(peer: Peer, info: CloseInfo) -> None:
        told.put(("close", peer == client.peer, info.code))

    client.connect()
    opened_by = told.get()
    assert opened_by[:2] == ("open", True) and "worker" in opened_by[2] and opened_by[3] == 3
    client.close(4001)
    assert told.get() == ("close", True, 4001)


def test_functions_of_on_reconnect_run_in_threads_and_may_call(served: Served) -> None:
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    async def make_proxy() -> FaultProxy:
        return await FaultProxy(served.url).__aenter__()

    proxy = served.run(make_proxy())
    with Client(proxy.url, reconnect=Reconnect(initial=0.001)) as client:

        @client.on_reconnect
        def again(info: ReconnectInfo) -> None:
            told.put((info.attempts, worker_name(), client.request("add", 1, 2)))

        served.loop.call_soon_threadsafe(proxy.drop)
        attempts, thread, answer = told.get()
        assert attempts and "worker" in thread and answer == 3
    served.run(proxy.__aexit__())


def test_an_error_in_a_lifecycle_handler_goes_to_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    for fails in (stops, leaves):
        caplog.clear()
        client = Client(served.url)
        client.on("open", fails)
        with client:
            pass
        assert "the handler of 'open'" in caplog.text


def test_a_handler_may_close_the_client(served: Served) -> None:
    client = Client(served.url)
    closed = threading.Event()

    @client.on("leave")
    def leave() -> None:
        client.close()
        closed.set()

    client.connect()
    served.run(served.peer().emit("leave"))
    assert closed.wait(8)
    assert client.state == "closed"


def test_a_handler_that_never_ends_holds_up_no_close(served: Served) -> None:
    go_on, begun = threading.Event(), threading.Event()
    client = Client(served.url, limits=wsrpc.Limits(close_timeout=0.01))

    @client.on("wait")
    def wait() -> None:
        begun.set()
        go_on.wait()

    client.connect()
    served.run(served.peer().emit("wait"))
    begun.wait()
    client.close()
    go_on.set()


def test_registrations_before_the_first_connection_need_no_thread() -> None:
    before = threading.enumerate()
    client = Client("ws://127.0.0.1:1")
    client.on("x", lambda: None)
    client.of("named", ordered=True).on("y", lambda: None)
    client.on_raw(lambda peer, message: None)
    client.on_reconnect(lambda: None)
    assert set(threading.enumerate()) <= set(before)

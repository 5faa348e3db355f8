"""Handlers of `wsrpc.blocking.Client`: plain functions in threads."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from in_a_thread import Served, proxy_of

import wsrpc
from wsrpc import CloseInfo, Reconnect, ReconnectInfo, RemoteError
from wsrpc.blocking import Client, Peer
from wsrpc.errors import Draining, UnknownEvent

pytestmark = pytest.mark.usefixtures("threads_end")


def in_worker() -> bool:
    return "worker" in threading.current_thread().name


# ------------------------------------------------------------ requests and events


def test_a_handler_runs_in_a_thread_and_may_call(served: Served, client: Client) -> None:
    @client.on("sum")
    def sum_(numbers: list[int], peer: Peer) -> list[Any]:
        total = 0
        for number in numbers:
            total = client.request("add", total, number, returns=int)
        return [total, in_worker(), peer == client.peer, peer.active]

    assert served.run(served.peer().request("sum", [1, 2, 3])) == [6, True, True, 1]


def test_a_drain_lets_a_handler_finish(served: Served) -> None:
    client = Client(served.url)
    started, go = threading.Event(), threading.Event()

    @client.on("work")
    def work() -> str:
        started.set()
        assert go.wait(60)
        return "done"

    def ask_until_refused() -> None:
        while not closing.done():  # at first, the drain has not begun
            with suppress(UnknownEvent):
                served.run(peer.request("no such handler"))

    client.connect()
    peer = served.peer()
    with ThreadPoolExecutor(1) as pool:
        asked = asyncio.run_coroutine_threadsafe(peer.request("work", returns=str), served.loop)
        assert started.wait(60)
        closing = pool.submit(client.close, drain_timeout=60)
        with pytest.raises(Draining):
            ask_until_refused()
        go.set()
        assert asked.result(60) == "done"


# ------------------------------------------------------------ mistakes


async def refused() -> None: ...


def wants_peer(peer: wsrpc.Peer) -> None: ...


def wants_channel(channel: wsrpc.AnonymousChannel) -> None: ...


def wants_items(items: AsyncIterator[int]) -> None: ...


def test_what_only_an_event_loop_can_run_is_refused() -> None:
    client = Client("ws://127.0.0.1:1")
    ways: list[Any] = [client.on("x"), client.once("x"), client.of("named").on("x"), client.on_reconnect]
    plain = "is a plain function, which runs in a thread; got the `async def` .*refused"
    mistakes: list[tuple[Any, Any, str]] = [
        *((register, refused, plain) for register in ways),
        (ways[0], wants_peer, r"event loop can use.*: annotate it wsrpc\.blocking\.Peer"),
        (ways[0], wants_channel, r"annotate it wsrpc\.blocking\.AnonymousChannel"),
        (ways[0], wants_items, r"annotate it collections\.abc\.Iterator\[\.\.\.\]"),
    ]
    for register, function, said in mistakes:
        with pytest.raises(TypeError, match=said):
            register(function)


def leaves() -> None:
    sys.exit(3)


def yields_and_leaves() -> Iterator[int]:
    yield 1
    sys.exit(3)


@pytest.mark.parametrize("handler", [leaves, yields_and_leaves])
def test_sys_exit_fails_the_handler_and_not_the_client(
    served: Served, client: Client, caplog: pytest.LogCaptureFixture, handler: Any
) -> None:
    client.on("leave", handler)
    peer = served.peer()

    async def ask() -> None:
        if handler is yields_and_leaves:
            assert [number async for number in peer.stream("leave", timeout=None)] == []
        else:
            await peer.request("leave", timeout=None)

    with pytest.raises(RemoteError):
        served.run(ask())
    assert client.request("add", 1, 2) == 3
    assert "SystemExit(3) was raised in a thread of wsrpc, where it does not end the program" in caplog.text


def test_a_source_that_wants_to_end_the_program_fails_its_call(client: Client) -> None:
    stop = SystemExit(3)

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
    proxy = proxy_of(served)
    client = Client(proxy.url, reconnect=Reconnect(initial=0.001))

    @client.on("open")
    def opened(peer: Peer) -> None:
        told.put(("open", peer == client.peer, in_worker(), client.request("add", 1, 2)))

    @client.on("close")
    def closed(peer: Peer, info: CloseInfo) -> None:
        told.put(("close", peer == client.peer, in_worker(), info.code))

    @client.on_reconnect
    def again(info: ReconnectInfo) -> None:
        told.put(("again", info.attempts > 0, in_worker(), client.request("add", 1, 2)))

    client.connect()
    assert told.get() == ("open", True, True, 3)
    client.request("add", 1)  # the session has a name by then, and goes on
    served.loop.call_soon_threadsafe(proxy.drop)
    assert told.get() == ("again", True, True, 3)
    client.close(4001)
    assert told.get() == ("close", True, True, 4001)
    served.run(proxy.__aexit__())


def test_all_steps_of_a_stream_and_of_an_upload_run_in_one_thread(served: Served, client: Client) -> None:
    together = threading.Barrier(2)  # the steps of two calls run at the same time, so in two threads
    threads: dict[str, set[int]] = {name: set() for name in "abcd"}

    def steps(name: str) -> Iterator[int]:
        try:
            for number in range(20):
                threads[name].add(threading.get_ident())
                together.wait(60)
                yield number
        finally:
            threads[name].add(threading.get_ident())

    @client.on("both ways")
    def both_ways(name: str, items: Iterator[int]) -> Iterator[int]:
        yield from zip(items, steps(name), strict=False)

    peer = served.peer()

    async def read(name: str) -> int:
        async with asyncio.timeout(60):
            return len([pair async for pair in peer.stream("both ways", name, send=range(20))])

    async def read_both() -> list[int]:
        return [*await asyncio.gather(read("a"), read("b"))]

    assert served.run(read_both()) == [20, 20]
    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(lambda name: client.request("total", send=steps(name)), "cd")] == [190, 190]
    assert [len(each) for each in threads.values()] == [1, 1, 1, 1]

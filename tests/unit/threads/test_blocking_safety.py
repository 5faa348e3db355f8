"""What `wsrpc.blocking.Client` is safe from: many threads, cuts, Ctrl-C, forks, event loops, and being forgotten."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from typing import Any

import pytest
from forks import forks, in_child
from in_a_thread import Served, proxy_of
from waiting import until

from wsrpc import ConnectionLost, Limits, Reconnect
from wsrpc.blocking import Client, ClusterClient
from wsrpc.cluster import MemoryEngine

pytestmark = pytest.mark.usefixtures("threads_end")


# ------------------------------------------------------------ threads


def test_fifty_threads_lose_and_mix_up_nothing(served: Served) -> None:
    """Each thread asks for its own answers, one after another, while the connection is cut again and again."""
    proxy = proxy_of(served)
    answered = [0] * 50
    over = threading.Event()

    with Client(proxy.url, reconnect=Reconnect(initial=0.001, max=0.01)) as client:

        def ask(thread: int) -> None:
            while not over.is_set() or answered[thread] < 20:
                sent = [thread, answered[thread], random.random()]
                assert client.request("echo", sent, timeout=None) == sent
                answered[thread] += 1

        client.request("echo", 1)  # the session has a name by then
        with ThreadPoolExecutor(50) as pool:
            asking = [pool.submit(ask, number) for number in range(50)]
            for _ in range(30):
                before = sum(answered)
                while sum(answered) < before + 50 and not any(each.done() for each in asking):
                    client.request("echo", 0, timeout=None)  # until something was answered since the last cut
                served.loop.call_soon_threadsafe(proxy.drop)
            over.set()
        assert [each.result() for each in asking] == [None] * 50
        assert min(answered) >= 20
        client.request("echo", 0, timeout=None)  # the last cut may come after the last of their answers
        served.idle(client)
    served.run(proxy.__aexit__())


def test_threads_may_connect_call_and_close_at_the_same_time(served: Served) -> None:
    """A `close` beside a `connect` left the client in an event loop that had ended, where nothing could reach it."""
    client = Client(served.url)
    over = threading.Event()

    def call() -> int:
        answered = 0
        while not over.is_set():
            with suppress(ConnectionLost):
                client.connect()
                assert client.request("add", answered, 1) == answered + 1
                answered += 1
        return answered

    def close() -> None:
        for _ in range(30):
            client.close()
            while not client.connected and client.state != "closing":
                pass  # somebody connects soon
        over.set()

    with ThreadPoolExecutor() as pool:
        calling, closing = [pool.submit(call) for _ in range(4)], pool.submit(close)
        try:
            closing.result(timeout=60)
        finally:
            over.set()
        assert all(each.result() for each in calling)
    client.close()
    with client:
        assert client.request("add", 1, 2) == 3
        served.idle(client)


# ------------------------------------------------------------ Ctrl-C


def test_ctrl_c_in_close_lets_the_client_connect_again(served: Served) -> None:
    """While the old loop still waited for the server's Close frame, the next one met a client that belonged to it."""

    class Alarm(BaseException): ...

    def raises(number: int, frame: object) -> None:
        raise Alarm

    def interrupt(thread: int) -> None:
        while client.state != "closing":
            pass
        signal.pthread_kill(thread, signal.SIGUSR1)

    proxy = proxy_of(served)
    urls = iter([proxy.url, served.url])
    before = signal.signal(signal.SIGUSR1, raises)
    try:
        client = Client(lambda: next(urls), limits=Limits(close_timeout=5.0))
        client.connect()
        assert client.request("add", 1, 2) == 3
        silence = proxy.silence("down")
        served.run(silence.__aenter__())
        interrupting = threading.Thread(target=interrupt, args=(threading.get_ident(),))
        interrupting.start()
        with pytest.raises(Alarm):
            client.close()
        interrupting.join()
        with client:
            assert client.request("add", 1, 2) == 3
        served.run(silence.__aexit__(None, None, None))
    finally:
        signal.signal(signal.SIGUSR1, before)
        served.run(proxy.__aexit__())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some come within a callback of `gc`
def test_interrupts_at_any_moment_leave_nothing_behind(served: Served) -> None:
    """Signals come anywhere in a call: before it is handed over, in its first step, while it waits, as it ends."""

    class Alarm(Exception): ...

    armed = False
    main = threading.get_ident()

    def raises(number: int, frame: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Alarm

    before = signal.signal(signal.SIGUSR1, raises)
    try:
        with Client(served.url) as client:
            calls: list[Callable[[], object]] = [
                lambda: client.request("echo", 1),
                lambda: client.request("total", send=[1, 2]),
                lambda: client.wait_for("nothing", timeout=0.0001),
                lambda: client.emit("nothing"),
            ]
            for each in range(200):
                alarm = threading.Timer(random.random() * 0.002, signal.pthread_kill, (main, signal.SIGUSR1))
                alarm.start()
                try:
                    armed = True
                    while alarm.is_alive():
                        with suppress(TimeoutError):
                            calls[each % len(calls)]()
                    armed = False
                except Alarm:
                    pass
                alarm.join()
                assert client.request("echo", each) == each
            served.idle(client)
    finally:
        signal.signal(signal.SIGUSR1, before)


# ------------------------------------------------------------ where it is refused


async def in_a_running_loop(client: Client) -> None:
    for call in (lambda: client.request("echo", 1), client.connect, lambda: client.events("x"), client.close):
        with pytest.raises(RuntimeError, match=r"would block the event loop.*use wsrpc\.Client here, and `await`"):
            call()
    with pytest.raises(RuntimeError, match=r"use wsrpc\.cluster\.ClusterClient here"), ClusterClient(MemoryEngine()):
        raise AssertionError


def test_it_is_refused_where_an_event_loop_runs(client: Client) -> None:
    asyncio.run(in_a_running_loop(client))
    asyncio.run(in_a_running_loop(Client("ws://127.0.0.1:1")))


def test_it_is_refused_in_its_own_loop(served: Served) -> None:
    errors: list[str] = []

    def redact(direction: str, event: str, args: Any) -> Any:
        with pytest.raises(RuntimeError) as caught:
            client.request("echo", 1)
        errors.append(str(caught.value))
        return args

    logging.getLogger("wsrpc").setLevel(logging.DEBUG)
    with Client(served.url, log_payloads=redact) as client:
        assert client.request("echo", 1) == 1
    assert "in the thread of its own event loop, which cannot wait for itself" in errors[0]


@forks
def test_it_is_refused_in_a_forked_child(client: Client) -> None:
    text = str(in_child(lambda: client.request("echo", 1)))
    assert "was in use when the process forked" in text and "make another one in each child" in text
    assert client.request("echo", 1) == 1


class Left(Exception):
    """What the body of a `with` block raises."""


@forks
def test_leaving_the_blocks_in_a_forked_child_raises_nothing_else(served: Served) -> None:
    blocks = ExitStack()
    client = blocks.enter_context(Client(served.url))
    numbers = blocks.enter_context(client.stream("count", 10**9))
    assert next(numbers) == 0

    def leave() -> None:
        with suppress(Left), blocks:
            raise Left

    assert in_child(leave) == "None"
    assert [*islice(numbers, 500)] == [*range(1, 501)], "they are the parent's"
    blocks.close()


# ------------------------------------------------------------ forgotten ones


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_client_that_is_thrown_away_is_closed_where_warnings_are_errors(served: Served) -> None:
    clients = [Client(served.url)]
    clients[0].connect()
    peer = served.peer()
    clients.clear()
    served.run(until(lambda: peer not in served.server.peers))


def test_a_client_that_is_thrown_away_is_closed_with_a_warning(served: Served) -> None:
    clients = [Client(served.url)]
    clients[0].connect()
    peer = served.peer()
    with pytest.warns(ResourceWarning, match=r"a wsrpc\.blocking\.Client was not closed: use `with`, or call close"):
        clients.clear()
    served.run(until(lambda: peer not in served.server.peers))

"""What `wsrpc.blocking.Client` is safe from: many threads, cuts, Ctrl-C, forks, event loops, and being forgotten."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import islice
from typing import Any

import pytest
from forks import forks, in_child
from in_a_thread import Served, make_server, serving
from leftovers import turns_until

from wsrpc import ConnectionLost, Limits, Reconnect
from wsrpc.blocking import Client, ClusterClient
from wsrpc.cluster import MemoryEngine
from wsrpc.testing import FaultProxy


def proxy_of(served: Served) -> FaultProxy:
    async def make() -> FaultProxy:
        return await FaultProxy(served.url).__aenter__()

    return served.run(make())


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


def run(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "default::ResourceWarning", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WAITS = {
    "hang": "client.request('hang', timeout=None)",
    "count": "with client.stream('count', 10, -1, True) as numbers: read(numbers)",
    "total": "client.request('total', send=stuck(), timeout=None)",
}
PROGRAM = """
import os, sys, threading
from wsrpc.blocking import Client

def stuck():
    yield 1
    print("waits", flush=True)
    threading.Event().wait()

def read(numbers):
    for number in numbers:
        if number == 9:
            print("waits", flush=True)

client = Client(sys.argv[1])
client.connect()
try:
    {wait}
except KeyboardInterrupt:
    os._exit(7)  # at once: what was not sent before is never sent
"""


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_cancels_remotely_before_it_is_raised(wait: str) -> None:
    server, left = make_server()
    with serving(server) as served:
        process = run(PROGRAM.format(wait=WAITS[wait]), served.url)
        served.until(lambda: any(peer.active for peer in server.peers))
        if wait != "hang":
            assert process.stdout is not None and process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        assert process.wait() == 7, process.communicate()
        served.until(lambda: left == [wait])
        # The connection was lost, so the session would have kept the handler, had it not been cancelled.
        assert [peer.detached for peer in server.peers] == [True]
        process.communicate()
        served.run(server.peers[0].close())


def interrupted(process: subprocess.Popen[str], number: int = signal.SIGINT) -> None:
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGINT and err.rstrip().endswith("KeyboardInterrupt")
    assert "Warning" not in err


def test_an_interrupt_that_does_not_wake_the_waiting_thread_is_noticed() -> None:
    """With 3.14, Ctrl-C was often without effect if it came just before the wait began."""
    program = """
import _thread, sys
from wsrpc.blocking import Client
client = Client(sys.argv[1])
client.on("interrupt", lambda: _thread.interrupt_main())
with client:
    client.request("hang", timeout=None)
"""
    server, _ = make_server()
    with serving(server) as served:
        process = run(program, served.url)
        served.until(lambda: any(peer.active for peer in server.peers))
        served.run(server.emit("interrupt"))
        interrupted(process, 0)  # no signal


def test_ctrl_c_stops_dialing() -> None:
    program = """
import socket
from wsrpc.blocking import Client
def url():
    print("dialing", flush=True)
    return f"ws://127.0.0.1:{mute.getsockname()[1]}/"
with socket.create_server(("127.0.0.1", 0)) as mute, Client(url, connect_timeout=None):
    pass
"""
    process = run(program)
    assert process.stdout is not None and process.stdout.readline() == "dialing\n"
    interrupted(process)


CALLS = {
    "calls": """
client = Client(sys.argv[1])
def attempt():
    client.connect()
    assert client.request("add", 1, 2) == 3
    client.close()
def after():
    client.close()
    attempt()
""",
    "with": """
client = Client(sys.argv[1])
def attempt():
    with client:
        assert client.request("add", 1, 2) == 3
after = attempt
""",
    "cluster": """
client = ClusterClient(MemoryEngine())
def attempt():
    global client
    client = ClusterClient(MemoryEngine())
    with client:
        client.room("lobby").emit("news")
def after():
    client.__exit__()
""",
}
ALARMS = """
import gc, random, signal, sys, threading
from contextlib import ExitStack, suppress
from wsrpc.blocking import Client, ClusterClient
from wsrpc.cluster import MemoryEngine

class Alarm({base}): ...

def raises(number, frame):
    global armed
    if armed:
        armed -= 1
        raise Alarm

def disturbed():
    global armed
    armed = 1 + number % 2  # the second one comes while the first is dealt with, or soon after
    signal.setitimer(signal.ITIMER_REAL, 0.001 + random.random() * 0.006, 0.0005)
    with suppress(Alarm):
        while armed:  # one that came in a callback of `gc` is lost
            attempt()
    while armed:
        pass

{attempt}
armed = 0
signal.signal(signal.SIGALRM, raises)
for number in range({rounds}):
    with suppress(Alarm):  # from outside: on Python 3.13, one that comes in a loop passes the `except` around the loop
        disturbed()
    signal.setitimer(signal.ITIMER_REAL, 0)
    after()
attempt()
gc.collect()
left = [*threading.enumerate()][1:]
for thread in left:
    thread.join(8)
print("held", [thread.name for thread in left if thread.is_alive()])
"""


@pytest.mark.parametrize(
    ("calls", "base"), [("calls", "KeyboardInterrupt"), ("with", "TimeoutError"), ("cluster", "KeyboardInterrupt")]
)
def test_a_client_can_be_used_again_wherever_a_signal_raised(calls: str, base: str) -> None:
    """One that came while the first call started the thread of the client's loop left two loops, and none worked."""
    program = ALARMS.format(base=base, attempt=CALLS[calls], rounds=25)
    server, _ = make_server()
    with serving(server) as served:
        process = run(program, served.url)
        out, err = process.communicate()
        assert out == "held []\n", err


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
        client = Client(lambda: next(urls), limits=Limits(close_timeout=0.5))
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
    served.run(turns_until(lambda: peer not in served.server.peers))


def test_a_client_that_is_thrown_away_is_closed_with_a_warning(served: Served) -> None:
    clients = [Client(served.url)]
    clients[0].connect()
    peer = served.peer()
    with pytest.warns(ResourceWarning, match=r"a wsrpc\.blocking\.Client was not closed: use `with`, or call close"):
        clients.clear()
    served.run(turns_until(lambda: peer not in served.server.peers))


def test_a_program_that_closes_nothing_ends_and_leaves_no_session(served: Served) -> None:
    program = """
import contextlib, sys, threading
from wsrpc import ConnectionLost
from wsrpc.blocking import Client
client = Client(sys.argv[1])
client.on("block", lambda: threading.Event().wait())
client.connect()
client.request("echo", 1)
numbers = client.stream("count", 10)
next(numbers)
def hang():
    with contextlib.suppress(ConnectionLost):  # the client may be ended first
        client.request("hang", timeout=None)
threading.Thread(target=hang, daemon=True).start()
"""
    process = run(program, served.url)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    served.run(turns_until(lambda: not served.server.peers))

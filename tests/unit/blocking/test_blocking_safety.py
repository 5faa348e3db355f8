"""What `wsrpc.blocking.Client` is safe from: many threads, cuts, Ctrl-C, forks, event loops, and being forgotten."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import pickle
import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from in_a_thread import Served, serving
from leftovers import turns_until

from wsrpc import ConnectionLost, Reconnect, RequestTimeout, Server, current_peer
from wsrpc.blocking import Client
from wsrpc.testing import FaultProxy
from wsrpc.types import Redact

HANDLERS = ["hang", "count", "total"]


def make_server() -> tuple[Server, list[str]]:
    server = Server()
    cancelled: list[str] = []

    @server.on("echo")
    def echo(value: Any) -> Any:
        return value

    @server.on("hang")
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("hang")
            raise

    @server.on("poke")
    async def poke() -> None:
        await current_peer().emit("now")
        await asyncio.Event().wait()

    @server.on("count")
    async def count() -> AsyncIterator[int]:
        try:
            for number in range(10):
                yield number
            await asyncio.Event().wait()
        finally:
            cancelled.append("count")

    @server.on("total")
    async def total(numbers: AsyncIterator[int]) -> int:
        try:
            return sum([number async for number in numbers])
        except asyncio.CancelledError:
            cancelled.append("total")
            raise

    return server, cancelled


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make_server()[0]) as served:
        yield served


# ------------------------------------------------------------ threads


@pytest.mark.parametrize("cuts", [0, 30])
def test_fifty_threads_lose_and_mix_up_nothing(served: Served, cuts: int) -> None:
    """Each thread asks for its own answers, one after another, while the connection is cut again and again."""

    async def make_proxy() -> FaultProxy:
        return await FaultProxy(served.url).__aenter__()

    proxy = served.run(make_proxy())
    failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    answered = [0] * 50
    over = threading.Event()

    with Client(proxy.url, reconnect=Reconnect(initial=0.001, max=0.01)) as client:

        def ask(thread: int) -> None:
            try:
                while not over.is_set() or answered[thread] < 20:
                    sent = [thread, answered[thread], random.random()]
                    assert client.request("echo", sent, timeout=None) == sent
                    answered[thread] += 1
            except BaseException as exc:
                failures.put(exc)

        client.request("echo", 1)  # the session has a name by then
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for _ in range(cuts):
            before = sum(answered)
            while sum(answered) < before + 50 and failures.empty():  # something was answered since the last cut
                client.request("echo", 0, timeout=None)
            served.loop.call_soon_threadsafe(proxy.drop)
        over.set()
        for thread in threads:
            thread.join()
        assert failures.empty(), failures.get()
        assert min(answered) >= 20
        client.request("echo", 0, timeout=None)  # the last cut may come after the last of their answers
        served.idle(client)
    served.run(proxy.__aexit__())


def test_streams_of_several_threads_do_not_meet(served: Served) -> None:
    found: queue.SimpleQueue[list[int]] = queue.SimpleQueue()

    def read(client: Client) -> None:
        with client.stream("count", returns=int) as numbers:
            found.put([next(numbers) for _ in range(10)])

    with Client(served.url) as client:
        threads = [threading.Thread(target=read, args=(client,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found.get() for _ in threads] == [[*range(10)]] * 20
        served.idle(client)


# ------------------------------------------------------------ Ctrl-C

WAITS = {
    "hang": "client.request('hang', timeout=None)",
    "count": "with client.stream('count') as numbers: [n == 9 and print('waits', flush=True) for n in numbers]",
    "total": "client.request('total', send=stuck(), timeout=None)",
}
PROGRAM = """
import os, sys, threading
from wsrpc.blocking import Client

def stuck():
    yield 1
    print("waits", flush=True)
    threading.Event().wait()

client = Client(sys.argv[1])
client.connect()
try:
    {wait}
except KeyboardInterrupt:
    os._exit(7)  # at once: what was not sent before is never sent
"""


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_cancels_remotely_before_it_is_raised(wait: str) -> None:
    server, cancelled = make_server()
    with serving(server) as served:
        process = run(PROGRAM.format(wait=WAITS[wait]), served.url)
        served.until(lambda: any(peer.active for peer in server.peers))
        if wait != "hang":
            assert process.stdout is not None and process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGINT)
        assert process.wait() == 7, process.communicate()
        served.until(lambda: cancelled == [wait])
        # The connection was lost, so the session would have kept the handler, had it not been cancelled.
        assert [peer.detached for peer in server.peers] == [True]
        process.communicate()
        served.run(server.peers[0].close())


def run(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "default::ResourceWarning", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_leaves_a_with_statement_in_order() -> None:
    program = """
import sys
from wsrpc.blocking import Client
with Client(sys.argv[1]) as client:
    client.request("hang", timeout=None)
"""
    server, cancelled = make_server()
    with serving(server) as served:
        process = run(program, served.url)
        served.until(lambda: any(peer.active for peer in server.peers))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == -signal.SIGINT and err.rstrip().endswith("KeyboardInterrupt")
        assert "Warning" not in err
        served.until(lambda: not server.peers)
        assert cancelled == ["hang"]


def test_ctrl_c_stops_dialing() -> None:
    program = """
import socket
from wsrpc.blocking import Client
with socket.create_server(("127.0.0.1", 0)) as mute:
    client = Client(f"ws://127.0.0.1:{mute.getsockname()[1]}/", connect_timeout=None)
    threading = __import__("threading")
    threading.Thread(target=lambda: (mute.accept(), print("dialing", flush=True), mute.accept()), daemon=True).start()
    with client:
        pass
"""
    process = run(program)
    assert process.stdout is not None and process.stdout.readline() == "dialing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGINT and err.rstrip().endswith("KeyboardInterrupt")


def test_a_signal_handler_that_raises_interrupts_too(served: Served) -> None:
    class Alarm(Exception):
        pass

    def raises(number: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGUSR1, raises)
    try:
        with Client(served.url) as client:

            @client.on("now")
            def now() -> None:
                os.kill(os.getpid(), signal.SIGUSR1)

            with pytest.raises(Alarm):
                client.request("poke", timeout=None)
            served.idle(client)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some come within a callback of `gc`
def test_interrupts_at_any_moment_leave_nothing_behind(served: Served) -> None:
    """Signals come anywhere in a call: before it is handed over, in its first step, while it waits, as it ends."""

    class Alarm(Exception):
        pass

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
    for call in (
        lambda: client.request("echo", 1),
        lambda: client.connect(),
        lambda: client.events("x"),
        lambda: next(client.stream("count")),
        lambda: client.__enter__(),
        lambda: client.close(),
    ):
        with pytest.raises(RuntimeError, match=r"would block the event loop.*use wsrpc\.Client here, and `await`"):
            call()


def test_it_is_refused_where_an_event_loop_runs(served: Served) -> None:
    with Client(served.url) as client:
        asyncio.run(in_a_running_loop(client))
    asyncio.run(in_a_running_loop(Client(served.url)))


def test_it_is_refused_in_its_own_loop(served: Served) -> None:
    errors: list[BaseException] = []

    def redact(direction: str, event: str, args: Any) -> Any:
        try:
            client.request("echo", 1)
        except RuntimeError as exc:
            errors.append(exc)
        return args

    hidden: Redact = redact
    client = Client(served.url, log_payloads=hidden)
    logging.getLogger("wsrpc").setLevel(logging.DEBUG)
    try:
        with client:
            assert client.request("echo", 1) == 1
    finally:
        logging.getLogger("wsrpc").setLevel(logging.NOTSET)
    assert "in the thread of its own event loop, which cannot wait for itself" in str(errors[0])


def test_a_hook_that_wants_to_end_the_program_does_not_end_the_loop(served: Served) -> None:
    def redact(direction: str, event: str, args: Any) -> Any:
        if direction == "in" and args == [13]:
            sys.exit(3)
        return args

    hidden: Redact = redact
    logger = logging.getLogger("wsrpc")
    logger.setLevel(logging.DEBUG)
    try:
        with Client(served.url, log_payloads=hidden) as client:
            with pytest.raises(RequestTimeout):  # its answer is lost
                client.request("echo", 13, timeout=0.1)
            assert client.request("echo", 2) == 2
    finally:
        logger.setLevel(logging.NOTSET)


def test_a_client_is_not_copied(served: Served) -> None:
    with Client(served.url) as client:
        for copies in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or sent to another process: make a client there"):
                copies(client)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 warns of threads beside a fork
def test_it_is_refused_in_a_forked_child(served: Served) -> None:
    with Client(served.url) as client:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                client.request("echo", 1)
            except RuntimeError as exc:
                os.write(write, str(exc).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        with open(read) as said:
            text = said.read()
        assert "was in use when the process forked" in text and "make another one in each child" in text
        assert client.request("echo", 1) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_one_that_was_not_used_before_a_fork_works_in_the_child(served: Served) -> None:
    client = Client(served.url)
    client.on("x", lambda: None)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with client:
                status = 0 if client.request("echo", 5) == 5 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


# ------------------------------------------------------------ forgotten ones


def test_a_client_that_is_thrown_away_is_closed_with_a_warning(served: Served) -> None:
    client = Client(served.url)
    client.connect()
    peer = served.peer()
    clients = [client]
    del client
    with pytest.warns(ResourceWarning, match=r"a wsrpc\.blocking\.Client was not closed: use `with`, or call close"):
        clients.clear()
    served.run(turns_until(lambda: peer not in served.server.peers))


def test_a_program_that_closes_nothing_ends() -> None:
    program = """
import contextlib, sys, threading
from wsrpc import ConnectionLost
from wsrpc.blocking import Client
client = Client(sys.argv[1])
client.on("block", lambda: threading.Event().wait())
client.connect()
client.request("echo", 1)
numbers = client.stream("count")
print(next(numbers))
def hang():
    with contextlib.suppress(ConnectionLost):  # the client may be ended first
        client.request("hang", timeout=None)
threading.Thread(target=hang, daemon=True).start()
"""
    with serving(make_server()[0]) as served:
        process = run(program, served.url)
        out, err = process.communicate()
        assert (process.returncode, out) == (0, "0\n"), err
        assert "ResourceWarning: a wsrpc.blocking.Client was not closed" in err and "Traceback" not in err
        for peer in served.server.peers:
            served.run(peer.close())


def test_importing_wsrpc_imports_nothing_of_it() -> None:
    program = """
import sys, wsrpc
assert not [name for name in sys.modules if name.startswith("wsrpc.blocking")]
import wsrpc.blocking
print([name for name in ("argparse", "rich") if name in sys.modules])
"""
    process = run(program)
    assert process.communicate()[0] == "[]\n"


def test_a_closed_client_raises_what_the_asynchronous_one_does(served: Served) -> None:
    with Client(served.url) as client:
        pass
    with pytest.raises(ConnectionLost) as caught:
        client.request("echo", 1)
    assert (caught.value.code, caught.value.outcome) == (1000, "not_sent")

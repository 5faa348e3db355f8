"""Programs with `wsrpc.blocking` in processes of their own: Ctrl-C, signals at any moment, and the end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from in_a_thread import Served, make_server, serving
from waiting import until

pytestmark = pytest.mark.usefixtures("threads_end")


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
    thread.join(60)
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
    served.run(until(lambda: not served.server.peers))

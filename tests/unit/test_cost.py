"""The cost of common operations in Python calls and blocks of memory, and of an idle peer in objects: upper bounds.

The table below holds the figures of the code as it is. A change that makes one larger fails its test, which lists the
calls; a change that makes one smaller should also make it smaller here. No figure depends on speed or time.

A call is a "call" event of `sys.setprofile`: a Python function begins, or a coroutine or generator continues. It counts
if the function

- belongs to ``wsrpc``, but not to ``wsrpc.testing``, or to the code that wsrpc generates for a handler, or
- belongs to a library or the standard library and is called by one of these. What it calls in turn does not count.

Calls of functions written in C do not count, nor do comprehensions, which are no calls from Python 3.12 on, nor the
user's code, here the handler. asyncio has eager tasks from Python 3.12 on, so the figures depend on the version.

Blocks are those of Python's memory allocator, all that are allocated: about one for each object, two for a list or a
dict that is not empty. The number of blocks in use is read at each event of the profiler, so also before and after each
call of a C function, and each rise is counted. A block that is freed before the next event is missed. What the event
loop and the transport in memory allocate is included. They are counted in a process of their own, because some objects
come from lists of free ones, which other tests fill or empty.

Run as a script, this prints the figures and the calls behind them: ``python tests/unit/test_cost.py [figure]``. With
``--json`` it prints them as an object, from figure to both.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from email.utils import formatdate
from functools import cache
from types import CodeType, FrameType
from typing import Any, Protocol

import msgspec
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

import wsrpc
from wsrpc import Client, Limits, Peer, Reconnect, Room, Server
from wsrpc.testing import Line, MemoryTransport, ScriptedTransport, memory_transports, pair

AT_MOST: dict[str, tuple[float, float]] = {
    # Each figure on Python 3.11, and from 3.12 on.
    #
    # A request with two integers as parameters, answered by a `def` handler. The serving end's figure becomes 17 if
    # the handler (1), the transport in memory (6) and its `call_soon` (1) are included.
    "inline request, requesting end": (12, 12),
    "inline request, serving end": (9, 9),
    "inline request, both ends": (21, 21),
    # The same, answered by an `async def` handler that does not wait.
    "async request, requesting end": (12, 12),
    "async request, serving end": (18, 11),
    "async request, both ends": (30, 23),
    # The same request with `returns=int`, and as a call of a proxy.
    "typed request, requesting end": (15, 15),
    "proxy call, requesting end": (15, 15),
    # An event with two integers, taken by a `def` handler.
    "event, both ends": (9.03125, 9.03125),
    # One item of a stream, on average: the producer never waits, so 128 of them travel together.
    "stream item, both ends": (2.56640625, 2.56640625),
    # The producer waits before each item, so each arrives alone.
    "lone stream item, both ends": (25.26953125, 25.26953125),
    # One peer of a server, when an event is broadcast to all. The remote peers are scripts, which cost nothing.
    "broadcast member, both ends": (0.75, 0.75),
    # An event to a room with 16 members, on a server without a cluster.
    "room emit, both ends": (12, 12),
    "room emit_nowait, both ends": (14, 14),
    # The same operations in blocks of memory, both ends together, rounded up to hundredths, as a batch may need a block
    # more. From 3.12 on: the larger figure of 3.12 and 3.13.
    "inline request, blocks": (30.18, 37.16),
    "async request, blocks": (37.18, 39.16),
    "event, blocks": (10.36, 12.36),
    "stream item, blocks": (2.7, 4.74),
    "broadcast member, blocks": (1.19, 1.19),
    # A connection is aborted, the client dials and the server accepts: everything until both ends are idle again. The
    # session ends, or goes on, for which the client asks the server.
    "drop and reconnect, both ends": (347, 347),
    "drop and resume, both ends": (407, 407),
    # A client that connects to a port, and closes: from its first byte to the end of its peer, with the calls of
    # the `websockets` library. The text of the present second is not counted, which is made once a second.
    "accept and close, server": (412, 412),
    # Instances of wsrpc's classes, of those that the garbage collector knows, that one more connection adds to a server
    # that listens: its transport, the default one, is included. The target is 25.
    "objects of an idle server peer": (33, 33),
}

NEW = sys.version_info >= (3, 12)
BLOCKS = [figure for figure in AT_MOST if figure.endswith(", blocks")]

Found = Counter[tuple[str, str]]
"""Numbers of calls by file and function, or of objects by module and class."""

WARM_UP = 2
"""Batches before those that count."""
ROUNDS = 3
REQUESTS = 64
ITEMS = 1024
"""A multiple of the number of items for which credit is granted at once."""
RECONNECTS = 4
PEERS = 16
OPENING = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CLOSING = b"\x88\x82\0\0\0\0\x03\xe8"
TURNS = 40
"""Turns of the event loop, more than an operation takes until both ends are idle."""

PACKAGE = os.path.join(os.path.dirname(wsrpc.__file__), "")
LIBRARY = os.path.join(os.path.dirname(websockets.__file__), "")
TESTING = os.path.join(PACKAGE, "testing", "")
COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>")


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still, so that no figure depends on how fast the machine is."""

    def time(self) -> float:  # counts like the one of asyncio that it replaces
        return 1000.0


HERE = StillLoop.time.__code__.co_filename


def run(main: Coroutine[Any, Any, tuple[Found, int]]) -> tuple[Found, int]:
    with asyncio.Runner(debug=False, loop_factory=StillLoop) as runner:
        return runner.run(main)


# ------------------------------------------------------------ counting


def is_ours(code: CodeType) -> bool:
    """Whether a function belongs to wsrpc, or was generated by it."""
    name = code.co_filename
    return name.startswith("<wsrpc ") or (name.startswith(PACKAGE) and not name.startswith(TESTING))


def counts(frame: FrameType) -> bool:
    """Whether the call that made ``frame`` counts."""
    code = frame.f_code
    if code.co_name in COMPREHENSIONS:
        return False
    if is_ours(code):
        return True
    if code.co_filename.startswith(TESTING) or (code.co_filename == HERE and code is not StillLoop.time.__code__):
        return False
    caller = frame.f_back
    while caller is not None and caller.f_code.co_name in COMPREHENSIONS:
        caller = caller.f_back
    return caller is not None and is_ours(caller.f_code)


def counts_with_library(frame: FrameType) -> bool:
    """Whether the call counts, or is one of the `websockets` library."""
    code = frame.f_code
    return code.co_filename.startswith(LIBRARY) or (code is not formatdate.__code__ and counts(frame))


def named(code: CodeType) -> tuple[str, str]:
    name = code.co_filename
    return (f"wsrpc/{name.removeprefix(PACKAGE)}" if name.startswith(PACKAGE) else name), code.co_qualname


@contextmanager
def profiled(event: Callable[[FrameType, str, object], None]) -> Generator[None]:
    """Have ``event`` called at each event of the profiler."""
    # The garbage collector could run finalizers of what other tests have left.
    collects, profile = gc.isenabled(), sys.getprofile()
    gc.disable()
    sys.setprofile(event)
    try:
        yield
    finally:
        sys.setprofile(profile)
        if collects:
            gc.enable()


class Calls:
    """The calls made inside `counting`, one by one, each with the end that made it.

    With ``requesting``, that end's transport, calls are told apart: an end's calls begin when its transport delivers a
    message. This holds as long as one message at a time is under way.
    """

    REQUESTING, SERVING = range(2)

    def __init__(self, requesting: MemoryTransport | None = None, counts: Callable[[FrameType], bool] = counts) -> None:
        self._requesting = requesting
        self._counts = counts
        self._end = self.REQUESTING
        self._found: tuple[Found, Found] = (Counter(), Counter())

    def counting(self) -> AbstractContextManager[None]:
        return profiled(self._event)

    def _event(self, frame: FrameType, event: str, arg: object) -> None:
        if event != "call":
            return
        if self._requesting is not None and frame.f_code is MemoryTransport._deliver.__code__:
            sent_by = frame.f_locals["self"]
            self._end = self.SERVING if sent_by is self._requesting else self.REQUESTING
        if self._counts(frame):
            self._found[self._end][named(frame.f_code)] += 1

    def found(self, end: str) -> Found:
        requesting, serving = self._found
        return {"requesting end": requesting, "serving end": serving, "both ends": requesting + serving}[end]


class Blocks:
    """The blocks of memory that are allocated inside `counting`, by the function that runs."""

    def __init__(self) -> None:
        self._in_use = 0
        self.found: Found = Counter()

    @contextmanager
    def counting(self) -> Generator[None]:
        self._in_use = sys.getallocatedblocks()
        with profiled(self._event):
            yield

    def _event(self, frame: FrameType, event: str, arg: object) -> None:
        risen = sys.getallocatedblocks() - self._in_use
        if event in ("call", "c_call"):
            risen -= 1  # the profiler's own: the frame as an object, or the method bound to its object
        if risen > 0:
            self.found[named(frame.f_code)] += risen
        # Read again, because this function has allocated blocks itself.
        self._in_use = sys.getallocatedblocks()


# ------------------------------------------------------------ what is counted


def add(a: int, b: int) -> int:
    return a + b


async def async_add(a: int, b: int) -> int:
    return a + b


@dataclass(frozen=True)
class Operation:
    """What is measured: ``batch`` does it ``units`` times, and ``tidy`` puts away what the test's own end has kept."""

    batch: Callable[[], Coroutine[Any, Any, None]]
    units: int
    requesting: MemoryTransport | None = None
    tidy: Callable[[], object] = lambda: None


class Adding(Protocol):
    async def add(self, a: int, b: int) -> int: ...


Adder = Callable[[int, int], Coroutine[Any, Any, int]]


def plain(peer: Peer) -> Adder:
    return lambda a, b: peer.request("add", a, b)


def typed(peer: Peer) -> Adder:
    return lambda a, b: peer.request("add", a, b, returns=int)


def by_proxy(peer: Peer) -> Adder:
    return peer.proxy(Adding).add


@asynccontextmanager
async def requests(
    handler: Callable[[int, int], object], asking: Callable[[Peer], Adder] = plain
) -> AsyncIterator[Operation]:
    async with pair() as (left, right):
        right.on("add", handler)
        ask = asking(left)

        async def batch() -> None:
            for _ in range(REQUESTS):
                await ask(1, 2)

        assert isinstance(left.transport, MemoryTransport)
        yield Operation(batch, REQUESTS, left.transport)


@asynccontextmanager
async def events() -> AsyncIterator[Operation]:
    taken = asyncio.Event()
    async with pair() as (left, right):

        @right.on("count")
        def take(number: int, last: int) -> None:
            if number == last:
                taken.set()

        async def batch() -> None:
            for number in range(REQUESTS):
                await left.emit("count", number, REQUESTS - 1)
            await taken.wait()
            taken.clear()

        yield Operation(batch, REQUESTS)


async def items() -> AsyncIterator[int]:
    while True:
        yield 7


async def lone_items() -> AsyncIterator[int]:
    while True:
        await asyncio.sleep(0)
        yield 7


@asynccontextmanager
async def stream(source: Callable[[], AsyncIterator[int]]) -> AsyncIterator[Operation]:
    async with pair() as (left, right):
        right.on("count", source)
        async with left.stream("count") as consumer:

            async def batch() -> None:
                for _ in range(ITEMS):
                    await anext(consumer)

            yield Operation(batch, ITEMS)


@asynccontextmanager
async def broadcast() -> AsyncIterator[Operation]:
    server = Server()
    transports = [ScriptedTransport() for _ in range(PEERS)]
    accepting = [asyncio.ensure_future(server.accept(each)) for each in transports]
    await turns()

    async def batch() -> None:
        await server.emit("count", 1, 2)

    def tidy() -> None:
        for each in transports:
            each.expect({"a": ["count", 1, 2]})

    yield Operation(batch, PEERS, tidy=tidy)
    await server.close()
    await asyncio.gather(*accepting)


@asynccontextmanager
async def emit_to_room(emit: Callable[[Room], Any]) -> AsyncIterator[Operation]:
    server = Server()
    room = server.room("lobby")
    transports = [ScriptedTransport() for _ in range(PEERS)]
    accepting = [asyncio.ensure_future(server.accept(each)) for each in transports]
    await turns()
    for peer in server.peers:
        room.add(peer)

    async def batch() -> None:
        if asyncio.iscoroutine(result := emit(room)):
            await result

    def tidy() -> None:
        for each in transports:
            each.expect({"a": ["count", 1, 2]})

    yield Operation(batch, 1, tidy=tidy)
    await server.close()
    await asyncio.gather(*accepting)


OPERATIONS: dict[str, Callable[[], AbstractAsyncContextManager[Operation]]] = {
    "inline request": lambda: requests(add),
    "async request": lambda: requests(async_add),
    "typed request": lambda: requests(add, typed),
    "proxy call": lambda: requests(add, by_proxy),
    "event": events,
    "stream item": lambda: stream(items),
    "lone stream item": lambda: stream(lone_items),
    "broadcast member": broadcast,
    "room emit": lambda: emit_to_room(lambda room: room.emit("count", 1, 2)),
    "room emit_nowait": lambda: emit_to_room(lambda room: room.emit_nowait("count", 1, 2)),
}


async def count(what: str, which: str) -> tuple[Found, int]:
    """Count the calls of one end, or the blocks, of an operation. Returns them with the number of its units."""
    async with OPERATIONS[what]() as operation:
        for _ in range(WARM_UP):
            await operation.batch()
            operation.tidy()
        if which != "blocks":
            calls = Calls(operation.requesting)
            with calls.counting():
                await operation.batch()
            operation.tidy()
            return calls.found(which), operation.units
        # The least of several, because what the first has freed is there for the next ones.
        rounds: list[Found] = []
        for _ in range(ROUNDS):
            blocks = Blocks()
            with blocks.counting():
                await operation.batch()
            operation.tidy()
            rounds.append(blocks.found)
        return min(rounds, key=Counter.total), operation.units


async def reconnect() -> tuple[Found, int]:
    server = Server(limits=Limits(replay=0))
    dialed: list[MemoryTransport] = []
    accepting: list[asyncio.Task[Any]] = []

    async def dial(url: str, **options: Any) -> MemoryTransport:
        ours, theirs = memory_transports()
        dialed.append(ours)
        accepting.append(asyncio.ensure_future(server.accept(theirs)))
        return ours

    calls = Calls()
    once = Reconnect(initial=0, max=0)
    async with Client("ws://test/", dial=dial, reconnect=once, limits=Limits(replay=0)) as client:
        await turns()
        for _ in range(2):  # to warm up
            dialed[-1].abort()
            await turns()
        for number in range(RECONNECTS):
            with calls.counting():
                dialed[-1].abort()
                await turns()
            assert len(dialed) == number + 4 and client.state == "connected" and len(server.peers) == 1
    await server.close()
    await asyncio.gather(*accepting)
    return calls.found("both ends"), RECONNECTS


async def resume() -> tuple[Found, int]:
    server = Server()
    line = Line(server)
    calls = Calls()
    reconnect = Reconnect(initial=0, max=0)
    async with Client("ws://test/", dial=line.dial, reconnect=reconnect) as client:
        await turns()
        for number in range(WARM_UP + RECONNECTS):
            with calls.counting() if number >= WARM_UP else nullcontext():
                line.cut()
                await turns()
            assert len(line.connections) == number + 2 and client.state == "connected" and len(server.peers) == 1
    assert len(server.peers) == 0
    await server.close()
    return calls.found("both ends"), RECONNECTS


async def accept() -> tuple[Found, int]:
    server = Server()
    server.on("add", add)
    calls = Calls(counts=counts_with_library)
    async with server.listen() as listener:
        for number in range(WARM_UP + RECONNECTS):
            with calls.counting() if number >= WARM_UP else nullcontext():
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.write(OPENING)
                await reader.readuntil(b"\r\n\r\n")
                writer.write(CLOSING)
                assert await reader.read() == b"\x88\x02\x03\xe8"
                writer.close()
                await turns()
            assert not server.peers
    return calls.found("both ends"), RECONNECTS


async def idle() -> tuple[Found, int]:
    server = Server()
    server.on("add", add)
    # What a client of wsrpc says first, so that the two agree on extensions.
    client, transport = Client(), ScriptedTransport()
    await client.bind(transport)
    greeting = [json.dumps(message) for message in transport.take()]
    assert greeting
    await client.close()
    connections: list[ClientConnection] = []  # of the library alone, so that only the server's end is counted
    async with server.listen() as listener:

        async def connect_more() -> None:
            for _ in range(PEERS):
                connection = await connect(listener.url, proxy=None)
                connections.append(connection)
                for message in greeting:
                    await connection.send(message)
                await (await connection.ping())  # answered after what was sent before has been received
            await turns()

        await connect_more()  # the first may add what the server keeps for all
        before = objects()
        await connect_more()
        found = objects()
        assert len(server.peers) == 2 * PEERS
        for connection in connections:
            connection.transport.abort()
    found.subtract(before)
    return Counter({each: count for each, count in found.items() if count}), PEERS


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def objects() -> Found:
    """Number the live objects of wsrpc by their class."""
    gc.collect()
    things: list[object] = gc.get_objects()
    classes = [type(thing) for thing in things]
    return Counter(
        (each.__module__, each.__qualname__) for each in classes if f"{each.__module__}.".startswith("wsrpc.")
    )


# ------------------------------------------------------------ the figures


def measure(figure: str) -> tuple[float, str]:
    """Return a figure, and a list of what is behind it."""
    what, _, which = figure.partition(", ")
    with quiet_log():
        match what:
            case "drop and reconnect":
                found, units = run(reconnect())
            case "drop and resume":
                found, units = run(resume())
            case "accept and close":
                found, units = run(accept())
            case "objects of an idle server peer":
                found, units = run(idle())
            case _:
                found, units = run(count(what, which))
    return found.total() / units, listed(found, units)


@contextmanager
def quiet_log() -> Generator[None]:
    """Log what is logged by default, to nobody: what handlers of the log do is not to be counted."""
    log = logging.getLogger("wsrpc")
    level, propagate, nobody = log.level, log.propagate, logging.NullHandler()
    log.setLevel(logging.WARNING)
    log.propagate = False
    log.addHandler(nobody)
    try:
        yield
    finally:
        log.removeHandler(nobody)
        log.setLevel(level)
        log.propagate = propagate


def listed(found: Found, units: int) -> str:
    return "\n".join(
        f"{count / units:10.3f}  {where}  {what}" for (where, what), count in sorted(found.items(), key=lambda f: -f[1])
    )


@cache
def blocks_in_another_process(attempt: int) -> dict[str, tuple[float, str]]:
    """Measure all figures of blocks in a new process. ``attempt`` numbers the processes."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(
        [sys.executable, __file__, "--json", *BLOCKS],
        env={**plain, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        check=True,
        timeout=80,
    )
    return msgspec.json.decode(ran.stdout, type=dict[str, tuple[float, str]])


def least_blocks(figure: str, at_most: float) -> tuple[float, str]:
    """Return a figure of blocks, and what is behind it.

    Now and then a process counts one block more in each round than the others do. So if the figure is too high, it is
    measured in a second process.
    """
    first = blocks_in_another_process(1)[figure]
    return first if first[0] <= at_most else min(first, blocks_in_another_process(2)[figure])


@pytest.mark.parametrize("figure", AT_MOST)
def test_it_costs_no_more_than_before(figure: str) -> None:
    at_most = AT_MOST[figure][NEW]
    measured, behind = least_blocks(figure, at_most) if figure in BLOCKS else measure(figure)
    assert measured <= at_most, f"{figure}: {measured:.9g}, which should be at most {at_most:.9g}\n{behind}"
    assert measured > at_most / 2, (
        f"{figure}: {measured:.9g}, far below {at_most:.9g}: update AT_MOST, or it counts too little"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--json"]:
        print(json.dumps({name: measure(name) for name in sys.argv[2:]}))
    else:
        for name in sys.argv[1:] or AT_MOST:
            value, calls_behind = measure(name)
            print(f"{name}: {value:.9g}, at most {AT_MOST[name][NEW]:.9g}\n{calls_behind}\n")

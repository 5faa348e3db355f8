"""A process of a cluster under load: ``python cluster_station.py KIND URL SLOT NUMBER JOURNAL SLOTS``.

It is a server with clients of its own. It calls the clients of all processes, this one included, and emits to a room
that all clients are in. Whatever happens is written into its journal before anything else, so that what was told to
callers can be compared with what has run, also when the process was killed. A test asks it for more by lines on its
standard input.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec

from wsrpc import Client, ConnectionLost, Handshake, Peer, Server
from wsrpc.cluster import Cluster
from wsrpc.cluster._cluster import membership_of
from wsrpc.cluster.engine import Engine
from wsrpc_adapters.nats import NatsEngine
from wsrpc_adapters.redis import RedisEngine

__all__ = [*("ENGINES", "NUMBERS"), *("Call", "Emitted", "Gap", "Heard", "Note", "Ran", "Unparked", "Up", "address")]

ENGINES: dict[str, Callable[[str], Engine]] = {"nats": NatsEngine, "redis": RedisEngine}
NUMBERS = 10_000_000
"""Numbers of calls that each process has for itself."""
ITEMS = 40
ROOM = "hall"
CALLERS = 2
"""Of each kind, each with one call at a time."""


def address(slot: int) -> str:
    """Return the address by which the process in a slot is called."""
    return f"desk/{slot}"


# ---------------------------------------------------------------- what is written down


class Note(msgspec.Struct, tag=True, array_like=True):
    """One line of a journal."""


class Up(Note):
    slot: int
    node: str
    at: float


class Call(Note):
    number: int
    kind: str
    slot: int
    ended: str
    began: float
    at: float
    why: str

    @property
    def seconds(self) -> float:
        return self.at - self.began


class Ran(Note):
    number: int
    parked: bool


class Unparked(Note):
    number: int
    at: float


class Emitted(Note):
    sender: str
    n: int
    began: float
    missed: list[str]


class Heard(Note):
    client: str
    sender: str
    n: int


class Gap(Note):
    at: float


# ---------------------------------------------------------------- the process


class Station:
    """One process.

    Args:
        slot: its place. One that is started in place of another has its slot.
        number: of the process. No other one has it.
        slots: how many places there are.
    """

    def __init__(self, engine: Engine, slot: int, number: int, journal: Path, slots: int) -> None:
        self.slot = slot
        self.number = number
        self.addresses = [address(slot), f"own/{number}"]
        self._slots = slots
        self._others = [each for each in range(slots) if each != slot]
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._last = number * NUMBERS
        self._over = False
        self._answered: dict[int, float] = {}
        """When the latest call began that was answered from each slot."""
        self._ends: dict[int, str] = {}
        """How parked requests of this process have ended, by their numbers."""
        self._progress = asyncio.Event()
        """Set when a call has ended, or an event has missed a node."""
        self._missed = 0
        """How many events have missed a node."""
        self._load: list[asyncio.Task[None]] = []
        self._parked: list[asyncio.Task[None]] = []
        self._parked_here: dict[int, int] = {}
        """The request that each process has parked here: their numbers."""
        self._parked_one_more = asyncio.Event()
        self._clients: list[Client] = []
        self._stack = AsyncExitStack()
        self.cluster = Cluster(engine, name="soak")
        self.server = Server(cluster=self.cluster)
        self._prepare()

    def note(self, note: Note) -> None:
        os.write(self._journal, msgspec.json.encode(note) + b"\n")

    # ------------------------------------------------------------ the beginning and the end

    def _prepare(self) -> None:
        @self.server.on_handshake
        def give_address(handshake: Handshake) -> None:
            handshake.address = handshake.query["address"]

        @self.server.on("open")
        def enter(peer: Peer) -> None:
            self.server.room(ROOM).add(peer)

        def gap(record: logging.LogRecord) -> bool:
            if record.getMessage().endswith("to rooms may be missing here"):
                self.note(Gap(time.monotonic()))
            return record.levelno >= logging.ERROR

        logger = logging.getLogger("wsrpc")
        logger.setLevel(logging.WARNING)
        logger.addFilter(gap)

    def _client(self, url: str, own: str) -> Client:
        client = Client(f"{url}?address={own}", proxy=None)
        client.on("said", lambda sender, n: self.note(Heard(own, sender, n)))
        for handler in (self._at_once, self._later, self._items, self._total, self._park):
            client.on(handler.__name__.removeprefix("_"), handler)
        return client

    async def __aenter__(self) -> Self:
        listener = await self._stack.enter_async_context(self.server.listen())
        while not self.cluster.connected:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        for own in self.addresses:
            client = self._client(listener.url, own)
            self._clients.append(await self._stack.enter_async_context(client))
        self.note(Up(self.slot, await self.node(), time.monotonic()))
        self._idle = _running()
        kinds = {"request": self._request, "stream": self._stream, "upload": self._upload}
        loads = [self._call_on(kind, self._other, call) for kind, call in kinds.items() for _ in range(CALLERS)]
        loads += [self._call_on("local", lambda: self.slot, self._request), self._call_every_moment()]
        loads += [self._emit_on("", nowait=False), self._emit_on(" nowait", nowait=True)]
        self._load = [asyncio.create_task(load) for load in loads]
        for slot in self._others:  # requests that end only with a connection
            self._parked.append(asyncio.create_task(self._call_on("park", partial(int, slot), self._park_there)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (*self._load, *self._parked):
            task.cancel()
        await asyncio.gather(*self._load, *self._parked, return_exceptions=True)
        await self._stack.aclose()
        os.close(self._journal)

    # ------------------------------------------------------------ what a test asks

    async def node(self) -> str:
        return self.cluster.nodes[0]

    async def gone(self, node: str, addresses: list[str]) -> float:
        """Wait until nothing is known here of a node that has had the addresses. Return when that was so."""
        while node in self.cluster.nodes or node in map(self.cluster.locate, addresses):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        return time.monotonic()

    async def parked_by(self, caller: int) -> int:
        """Wait until a request of another process is parked here. Return its number."""
        while caller not in self._parked_here:
            self._parked_one_more.clear()
            await self._parked_one_more.wait()
        return self._parked_here[caller]

    async def ended(self, number: int) -> str:
        """Wait until a parked request of this process has ended. Return how."""
        while number not in self._ends:
            await self._next_progress()
        return self._ends[number]

    async def call(self, slot: int) -> str:
        """Make a call, and return how it has ended."""
        return await self._call_once("asked", slot, self._request)

    async def missed(self) -> None:
        """Wait until one more event has missed a node."""
        before = self._missed
        while self._missed == before:
            await self._next_progress()

    async def _next_progress(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    async def nodes(self) -> list[str]:
        """Return the nodes that are known here."""
        return sorted(self.cluster.nodes)

    async def whole(self, since: float) -> float:
        """Wait until a call that began later than ``since`` was answered from each slot. Return when that was so."""
        while min(self._answered.get(slot, 0.0) for slot in self._others) < since:
            await self._next_progress()
        return time.monotonic()

    async def stop(self) -> float:
        """Begin nothing new. Return after how long everything had ended."""
        began = time.monotonic()
        self._over = True
        for task in self._parked:
            task.cancel()
        async with asyncio.timeout(30):
            await asyncio.gather(*self._parked, return_exceptions=True)
            await asyncio.gather(*self._load)
        return time.monotonic() - began

    async def left(self) -> dict[str, Any]:
        """Return what is left of the load, once that is nothing, or after some seconds."""
        until = time.monotonic() + 10
        while (found := self._left()) and time.monotonic() < until:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
        return found

    def _left(self) -> dict[str, Any]:
        member = membership_of(self.cluster)
        peers: dict[str, Peer] = {f"client {n}": client.peer for n, client in enumerate(self._clients)}
        peers |= {f"peer {n}": peer for n, peer in enumerate(self.server.peers)}
        peers |= {f"node {n}": peer for n, peer in enumerate(member.links.peers)}
        found: dict[str, Any] = {
            name: [peer.pending, peer.anonymous_channels, peer.active] for name, peer in peers.items()
        }
        found = {name: counts for name, counts in found.items() if counts != [0, 0, 0]}
        if len(peers) != 2 * len(self._clients) + self._slots - 1:
            found["peers"] = [*peers]
        found |= {"relay": member.forwarder.joined, "tasks": _running() - self._idle}
        return {name: what for name, what in found.items() if what}

    # ------------------------------------------------------------ what others call here

    def _ran(self, number: int, *, parked: bool = False) -> None:
        self.note(Ran(number, parked))

    def _at_once(self, number: int) -> int:
        self._ran(number)
        return -number

    async def _later(self, number: int) -> int:
        self._ran(number)
        await asyncio.sleep(random.uniform(0, 0.05))  # its work
        return -number

    async def _items(self, number: int) -> AsyncIterator[int]:
        self._ran(number)
        async for item in source():
            yield item

    async def _total(self, number: int, items: AsyncIterator[int]) -> int:
        self._ran(number)
        return sum([item async for item in items])

    async def _park(self, number: int) -> None:
        self._ran(number, parked=True)
        self._parked_here[number // NUMBERS] = number
        self._parked_one_more.set()
        try:
            await asyncio.Event().wait()
        finally:
            if self._parked_here[number // NUMBERS] == number:
                del self._parked_here[number // NUMBERS]
            self.note(Unparked(number, time.monotonic()))

    # ------------------------------------------------------------ the load

    def _other(self) -> int:
        return random.choice(self._others)

    async def _call_once(self, kind: str, slot: int, call: Callable[[str, int], Awaitable[None]]) -> str:
        self._last += 1
        number, began = self._last, time.monotonic()
        ended, why = "still going on", ""
        try:
            await call(address(slot), number)
            ended = "answered"
            self._answered[slot] = began
        except ConnectionLost as lost:
            ended, why = lost.outcome, f"{type(lost).__name__}: {lost}"
        except asyncio.CancelledError:
            ended = "cancelled"
            raise
        except Exception as exc:
            ended, why = "failed", repr(exc)
        finally:
            self.note(Call(number, kind, slot, ended, began, time.monotonic(), why))
            if kind == "park":
                self._ends[number] = ended
            self._progress.set()
        # Otherwise the load would be as much as the machine can bear, and tell of the machine.
        await asyncio.sleep(random.uniform(0, 0.05))
        return ended

    async def _call_on(self, kind: str, slot: Callable[[], int], call: Callable[[str, int], Awaitable[None]]) -> None:
        while not self._over:
            await self._call_once(kind, slot(), call)

    async def _call_every_moment(self) -> None:
        """Begin calls while others wait for somebody who is gone."""
        async with asyncio.TaskGroup() as calls:
            while not self._over:
                for slot in self._others:
                    calls.create_task(self._call_once("moment", slot, self._request))
                await asyncio.sleep(0.05)

    async def _request(self, to: str, number: int) -> None:
        event = random.choice(("at_once", "later"))
        assert await self.cluster.peer(to).request(event, number, returns=int) == -number

    async def _stream(self, to: str, number: int) -> None:
        async with self.cluster.peer(to).stream("items", number, returns=int) as items:
            assert [item async for item in items] == [*range(ITEMS)]

    async def _upload(self, to: str, number: int) -> None:
        assert await self.cluster.peer(to).request("total", number, send=source()) == sum(range(ITEMS))

    async def _park_there(self, to: str, number: int) -> None:
        await self.cluster.peer(to).request("park", number, timeout=None)
        raise AssertionError("nobody answers that")

    async def _emit_on(self, which: str, *, nowait: bool) -> None:
        room = self.server.room(ROOM)
        sender = f"{self.number}{which}"
        n = 0
        while not self._over:
            n += 1
            began = time.monotonic()
            if nowait:
                report = room.emit_nowait("said", sender, n)
            else:
                report = await room.emit("said", sender, n)
            self.note(Emitted(sender, n, began, [*report.missing_nodes]))
            if report.missing_nodes:
                self._missed += 1
                self._progress.set()
            assert not report.errors, report.errors
            await asyncio.sleep(random.uniform(0.01, 0.03))


async def source() -> AsyncIterator[int]:
    for item in range(ITEMS):
        if item % 10 == 0:
            await asyncio.sleep(random.uniform(0, 0.01))
        yield item


def _running() -> Counter[str]:
    """Return how many tasks there are of each kind that are not the test's."""
    coros: list[Any] = [task.get_coro() for task in asyncio.all_tasks()]
    return Counter(coro.__qualname__ for coro in coros if "tests" not in Path(coro.cr_code.co_filename).parts)


async def answer_on(station: Station, questions: asyncio.StreamReader) -> None:
    """Answer the lines on the standard input, each in a task of its own."""

    async def answer(line: bytes) -> None:
        number, what, args = msgspec.json.decode(line)
        try:
            said: Any = [number, await getattr(station, what)(*args), None]
        except Exception as exc:
            said = [number, None, repr(exc)]
        print(msgspec.json.encode(said).decode(), flush=True)

    async with asyncio.TaskGroup() as group:
        while line := await questions.readline():
            group.create_task(answer(line))


async def main(kind: str, url: str, slot: int, number: int, journal: str, slots: int) -> None:
    questions = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(questions), sys.stdin.buffer
    )
    async with Station(ENGINES[kind](url), slot, number, Path(journal), slots) as station:
        await answer_on(station, questions)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    kind, url, slot, number, journal, slots = sys.argv[1:]
    asyncio.run(main(kind, url, int(slot), int(number), journal, int(slots)))

"""What a `SqliteStore` has when its only server is killed: callers repeat each call, and members come back."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count as numbers_from
from pathlib import Path

from effort import SOAK
from engine_servers import free_port
from programs import start
from waiting import until

from wsrpc import Client, RunLost, WsrpcError

CALLS = 300 if SOAK else 40
"""Calls and events before the mark, and after it."""
CALLERS = 4
LAST = -1
"""The events that are emitted when all is over."""


class Member:
    """A member of a room, which leaves and comes back."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.got: list[int] = []
        self.told = False
        self._position: str | None = None
        self._client: Client | None = None

    async def come(self, url: str) -> None:
        """Join, after the last event that has arrived. Does nothing if the member is there."""
        if self._client is not None:
            return
        self._client = client = Client(url)
        client.on("said", self.got.append)
        room = client.room(self.room)
        room.on_missed(lambda: setattr(self, "told", True))
        await client.connect()
        joined = await room.join(after=self._position)
        self.told |= not joined.complete

    async def has(self, numbers: Iterable[int]) -> None:
        """Wait until these events have arrived."""
        await until(lambda: {*numbers} <= {*self.got})

    async def leave(self) -> None:
        if self._client is not None:
            self._position = self._client.room(self.room).position
            await self._client.close()
            self._client = None


SERVES = """
import asyncio, sys
from wsrpc import Context, Server
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.store import SqliteStore

server = Server(store=SqliteStore(sys.argv[1], payer_logs=10_000), cluster=Cluster(MemoryEngine()))
lobby = server.room("lobby", keep=600, allow=lambda peer: True)

@server.on_handshake
def log_in(handshake):
    handshake.principal, handshake.address = "ada", handshake.query.get("address")

@server.on("charge", keep=600)
async def charge(ctx: Context) -> int:
    print(ctx.key, flush=True)
    if ctx.key.startswith("stays"):
        await asyncio.sleep(float(sys.argv[3]))
    return 1

@server.on("emit")
async def emit(number: int) -> None:
    await lobby.emit("said", number)

@server.on("ask")
async def ask(key: str) -> int:
    return await server.cluster.peer("lock").request("open_lock", key, key=key, deliver_within=600)

server.run(port=int(sys.argv[2]))
"""


class FileLoad:
    """Calls and events of clients of a server that is killed, and what became of them."""

    def __init__(self, file: Path) -> None:
        self._words = SERVES, str(file), str(port := free_port())
        self.url = f"ws://127.0.0.1:{port}/"
        self.ran: Counter[str] = Counter()
        """How often handlers ran for each key."""
        self.done: set[str] = set()
        self.told: defaultdict[str, list[WsrpcError]] = defaultdict(list)
        self.sent: set[int] = set()

    @asynccontextmanager
    async def serving(self, stays: float) -> AsyncGenerator[None]:
        """Serve until the end of the block, which kills the server. ``stays``: for how long some handlers run."""
        process = await start(sys.executable, "-c", *self._words, str(stays))
        assert process.stdout is not None and process.stderr is not None
        await process.stderr.readline()  # it listens
        reading = asyncio.create_task(self._read(process.stdout))
        try:
            yield
        finally:
            process.kill()
            await reading
            await process.communicate()

    async def _read(self, output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            self.ran[line.decode().strip()] += 1

    async def call(self, client: Client, key: str) -> None:
        """Call with a key, or ask the server to call a client that is away."""
        asks = key.startswith("visit")
        try:
            request = (
                client.request("ask", key, timeout=None) if asks else client.request("charge", key=key, timeout=None)
            )
            assert await request == 1
            self.done.add(key)
        except WsrpcError as exc:
            self.told[key].append(exc)

    async def make(self, client: Client) -> None:
        """Call and emit, until a call or an event is lost with the server."""
        with suppress(WsrpcError):
            for number in numbers_from(0):
                await self.call(client, key := f"order-{number}")
                if key in self.told:
                    break
                await client.request("emit", number)
                self.sent.add(number)


async def test_what_a_file_has_when_its_process_is_killed(tmp_path: Path) -> None:
    async def open_lock(key: str) -> int:
        opened[key] += 1
        return 1

    load = FileLoad(tmp_path / "store.db")
    away, there, opened = Member("lobby"), Member("lobby"), Counter[str]()
    stay, asked = ([f"{name}-{number}" for number in range(CALLERS)] for name in ("stays", "visit"))
    async with AsyncExitStack() as stack:
        async with load.serving(stays=600):
            client = await stack.enter_async_context(Client(load.url))
            for member in (away, there):
                stack.push_async_callback(member.leave)
                await member.come(load.url)
            tasks = [asyncio.create_task(load.call(client, key)) for key in stay]
            tasks += [asyncio.create_task(load.call(client, key)) for key in asked]
            tasks.append(asyncio.create_task(load.make(client)))
            await until(lambda: len(load.sent) >= CALLS)
            await away.has({0})
            await away.leave()
            await until(lambda: len(load.sent) >= 2 * CALLS and {*stay} <= {*load.ran})
        async with load.serving(stays=0):
            await asyncio.wait(tasks)
            assert load.told.keys() >= {*stay, *asked}
            first = {*load.done}
            lock = Client(f"{load.url}?address=lock")
            lock.on("open_lock", open_lock, keep=600)
            await stack.enter_async_context(lock)
            await asyncio.gather(*(load.call(client, key) for key in [*first, *load.told]))
            await away.come(load.url)
            await client.request("emit", LAST)
            for member in (away, there):
                await member.has({*load.sent, LAST})
                assert not member.told
        lost = {key for key, errors in load.told.items() if isinstance(errors[-1], RunLost)}
        assert lost >= {*stay} and load.done == {*first, *load.told} - lost
        assert {*load.ran.values(), *opened.values()} == {1} and opened.keys() == {*asked}
        print(f"{len(load.ran)} keys, {len(lost)} lost, none ran twice; {len(load.sent)} events, none gone")

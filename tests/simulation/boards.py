"""The world of rooms with ``state=``: three nodes that know a board by reading a room, and clients that show it.

Whatever happens, all nodes read the same events in one order, and what a client shows is the board as it was at some
moment: no event is missing, doubled or in another place. In the end, all clients show the whole board.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from wsrpc import Client, ConnectFailed, ItemsGone, Limits, Overloaded, Peer, Server, WsrpcError
from wsrpc.cluster import Cluster
from wsrpc.testing import Simulation
from wsrpc.testing._simulation.faults import FAULTS
from wsrpc.types import RoomState

__all__ = ["SAFE", "boards"]

SAFE = [kind for kind in FAULTS if kind != "restored store"]
"""Kinds of faults after which the log of a room still has what it had before."""
NODES = [f"node-{n}" for n in range(3)]
CLIENTS = 3
LOG = 20_000
"""Bytes of the log, so that who was away for long has missed events."""


class Board:
    """The board as a database has it."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.position: str | None = None
        self.has_lost = False
        """Whether all nodes were away for so long that events are gone that none of them has read."""
        self.next = 0
        self.stored = set[int]()
        """The numbers of which a node knows that they are in the log."""

    def save(self, numbers: list[int], position: str) -> None:
        both = min(len(numbers), len(self.numbers))
        assert numbers[:both] == self.numbers[:both] or self.has_lost, f"nodes disagree: {numbers} {self.numbers}"
        if len(numbers) > len(self.numbers):
            assert numbers[-1] not in self.numbers, f"{numbers[-1]} is twice in the room"
            self.numbers, self.position = [*numbers], position

    def check(self, shown: list[int]) -> None:
        both = min(len(shown), len(self.numbers))
        assert shown[:both] == self.numbers[:both] or self.has_lost, f"{shown[:both]} is shown, not {self.numbers}"


async def node(sim: Simulation, board: Board, limits: Limits) -> None:
    server = Server(store=sim.store(), cluster=Cluster(sim.engine()), detached_timeout=10, limits=limits)
    numbers = [*board.numbers]

    def state(peer: Peer) -> RoomState:
        return RoomState([*numbers], events.position)

    room = server.room("board", keep=600, allow=lambda peer: True, state=state)
    events = room.events(after=board.position)

    @server.on("add")
    async def add(count: int) -> None:
        for _ in range(count):
            board.next += 1
            number = board.next
            await room.emit("add", number, "x" * 200)
            board.stored.add(number)

    async def follow() -> None:
        nonlocal events
        while True:
            try:
                async for event in events:
                    numbers.append(event.args[0])
                    board.save(numbers, event.position)
                return  # the server is closed
            except ItemsGone as exc:
                sim.note(f"{sim.here}: {exc}")
                if len(board.numbers) > len(numbers):
                    numbers[:], events = board.numbers, room.events(after=board.position)
                else:
                    board.has_lost = True

    following = asyncio.create_task(follow())
    try:
        async with server.listen(port=80):
            await asyncio.Event().wait()
    finally:
        await server.close(drain_timeout=5)
        following.cancel()


async def page(sim: Simulation, board: Board) -> None:
    shown: list[int] = []
    client = Client("ws://service:80/", proxy=None, connect_timeout=None)
    room = client.room("board")

    misses = False

    @room.on_state
    def begin(_: object, state: list[int]) -> None:
        nonlocal misses
        shown[:], misses = state, False
        board.check(shown)

    @room.on_missed
    def missed() -> None:
        nonlocal misses
        misses = True
        sim.note(f"{sim.here} misses something")

    @client.on("add")
    def add(number: int, filling: str) -> None:
        shown.append(number)
        if not misses:
            board.check(shown)

    while True:
        with suppress(ConnectFailed):
            async with client:
                while not room.joined:
                    with suppress(Overloaded):
                        await room.join()
                async for _ in sim.steps(8):
                    with suppress(WsrpcError, TimeoutError):
                        await client.request("add", sim.random.choice([1, 1, 3, 40]), timeout=10)
                    await asyncio.sleep(sim.random.choice([0.0, 0.5, 6.0]))
                async with asyncio.timeout(180):
                    while misses or len(shown) < len(board.numbers) or not sim.is_calm:
                        await asyncio.sleep(0.5)
                        if misses and sim.is_calm:
                            await room.leave()
                            await room.join()
            return


def boards(sim: Simulation) -> Any:
    random = sim.random_of("boards")
    limits = Limits(replay_bytes=random.choice([131_072, 1 << 20]), ping_interval=2.0, ping_timeout=2.0)
    board = Board()
    sim.store(log_bytes=LOG)
    sim.engine()
    for name in NODES:
        sim.process(name, lambda: node(sim, board, limits), serves=True, host="service")
    for number in range(CLIENTS):
        sim.process(f"page-{number}", lambda: page(sim, board), mortal=True)
    yield
    assert board.has_lost or board.stored <= {*board.numbers}, "an event that was stored is on no board"

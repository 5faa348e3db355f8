"""The world of runs that go on: three nodes with handlers that have ``attempts=``, and clients that read and stop them,
and send messages to them.

Whatever happens, a reader gets each item once and in order, and none of an older attempt after one of a newer one. Each
run has one end, on which all readers and all calls of ``on_end`` agree. Each attempt reads the messages in the same
order, from the first, each once, and none of which its sender has learned that it is not read.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from stores import OddStore, expecting_odd_errors

from wsrpc import (
    Client,
    ConnectFailed,
    Context,
    ItemsGone,
    Keep,
    NotRead,
    Overloaded,
    RemoteError,
    RunLost,
    Server,
    WsrpcError,
)
from wsrpc.cluster import Cluster
from wsrpc.store import StoreFull
from wsrpc.testing import Simulation
from wsrpc.types import EndedRun

__all__ = ["answers"]

NODES = [f"node-{n}" for n in range(3)]
CLIENTS, KEYS, ATTEMPTS, ITEMS = 2, 3, 4, 20
KEPT = 600.0

Item = tuple[int, int]
"""The attempt, and the number of the item in the whole run."""


class Truth:
    """What has happened to the runs, by their keys."""

    def __init__(self) -> None:
        self.items: dict[str, dict[int, Item]] = defaultdict(dict)
        """The items that somebody has read, by their numbers."""
        self.ends: dict[str, set[str]] = defaultdict(set)
        self.told: dict[str, list[EndedRun]] = defaultdict(list)
        self.attempts: dict[str, list[int]] = defaultdict(list)
        self.begun: dict[str, float] = {}
        self.sent: dict[str, dict[str, bool | None]] = defaultdict(dict)
        """For each message, whether it was read. None if its sender does not know."""
        self.got: dict[str, list[list[str]]] = defaultdict(list)
        """The messages that each handler of a run has read."""

    def read(self, key: str, number: int, item: Item) -> None:
        before = self.items[key].setdefault(number, item)
        assert before == item, f"item {number} of {key} is {item}, and was {before}"
        assert item[1] == number, f"item {number} of {key} is {item}"
        attempts = [attempt for _, (attempt, _) in sorted(self.items[key].items())]
        assert attempts == sorted(attempts), (
            f"{key} has items of an older attempt after those of a newer one: {attempts}"
        )

    def check_messages(self, key: str) -> None:
        lists, sent = self.got[key], self.sent[key]
        longest = max(lists, key=len, default=[])
        assert len({*longest}) == len(longest), f"{key} has read a message twice: {longest}"
        assert all(each == longest[: len(each)] for each in lists), f"{key} has read messages in two orders: {lists}"
        assert not any(sent[message] is False for message in longest), f"{key} has read what it has not read: {sent}"
        unread = [message for message, is_read in sent.items() if is_read and message not in longest]
        assert not unread, f"nobody has read {unread} of {key}"

    def ended(self, key: str, how: str) -> None:
        self.ends[key].add(how)
        assert len(self.ends[key]) == 1, f"{key} has ended in two ways: {self.ends[key]}"


async def node(sim: Simulation, truth: Truth, *, odd: bool) -> None:
    store: Any = sim.store()
    server = Server(store=OddStore(store, sim) if odd else store, cluster=Cluster(sim.engine()))

    async def on_end(run: EndedRun) -> None:
        sim.note(f"{run.key} has ended: {run.outcome}")
        if sim.random.random() < 0.2:
            raise OSError("odd")  # the database is away
        truth.told[run.key].append(run)
        truth.ended(run.key, run.outcome)
        assert run.complete and [number for _, number in run.items] == list(range(1, len(run.items) + 1)), run
        for number, item in enumerate(run.items, 1):
            truth.read(run.key, number, tuple(item))

    @server.on("answer", keep=Keep(KEPT, attempts=ATTEMPTS, on_end=on_end, scope=lambda peer, count: "all", inbox=str))
    async def answer(ctx: Context, count: int) -> AsyncIterator[Item]:
        key, (items, complete) = str(ctx.key), await ctx.earlier()
        truth.attempts[key].append(ctx.attempt)
        truth.got[key].append(got := [])
        assert ctx.attempt <= ATTEMPTS and complete, f"{key}: attempt {ctx.attempt}, {complete=}"
        assert not ctx.peer.connected
        for number in range(len(items) + 1, count + 1):
            yield ctx.attempt, number
            await asyncio.sleep(sim.random.choice([0.0, 0.1, 1.0]))
            with suppress(TimeoutError, StoreFull):  # an odd store is full, it says
                async with asyncio.timeout(sim.random.choice([0.0, 0.0, 0.01, 1.0])):
                    message = await anext(ctx.inbox(str))
                    got.append(message.value)
                    truth.check_messages(key)

    try:
        async with server.listen(port=80):
            await asyncio.Event().wait()
    finally:
        await server.close(drain_timeout=sim.random.choice([0, 1, 20]))


async def page(sim: Simulation, truth: Truth, *, odd: bool) -> None:
    client = Client("ws://service:80/", proxy=None, connect_timeout=None)

    async def read(key: str) -> None:
        """Read to the end, across all that happens, or stop it, or leave."""
        position: str | None = None
        last = 0
        while True:
            stream = client.stream("answer", ITEMS, key=key, after=position, returns=Item)
            try:
                async with stream:
                    async for item in stream:
                        last += 1
                        truth.read(key, last, item)
                        position = stream.position
                        if sim.random.random() < 0.01:
                            await stream.stop()
                assert last == ITEMS, f"{key} ends after {last} items"
                return truth.ended(key, "done")
            except ItemsGone as exc:
                raise AssertionError(f"items of {key} are gone") from exc
            except Overloaded:
                await asyncio.sleep(1.0)
            except RunLost as exc:
                sim.note(f"{key} is lost: {exc}")
                return truth.ended(key, "lost")
            except RemoteError as exc:
                if "stopped" in exc.message:
                    return truth.ended(key, "stopped")
                if odd and "too big to be kept" in exc.message:  # an odd store was full, it said
                    return truth.ended(key, "failed")
                if not odd and exc.code != "wsrpc.overloaded":
                    raise
            except WsrpcError as exc:
                sim.note(f"reads {key} again after {exc!r}")
                await asyncio.sleep(0.2)

    async def send(key: str) -> None:
        """Send a message, again until its sender knows whether it was read."""
        sent, message = truth.sent[key], f"m{sum(map(len, truth.sent.values()))}"
        sent[message] = None
        while sim.random.random() < 0.9:
            try:
                await client.stream("answer", ITEMS, key=key).send(
                    message, id=message, timeout=sim.random.choice([None, 1.0])
                )
                sent[message] = True
                break
            except NotRead:
                sent[message] = False
                break
            except ItemsGone:  # it has not begun, or has not gone on
                break
            except WsrpcError as exc:
                sim.note(f"sends {message} to {key} again after {exc!r}")
                await asyncio.sleep(sim.random.choice([0.0, 1.0, 7.0]))
        truth.check_messages(key)

    while True:
        with suppress(ConnectFailed):
            async with client, asyncio.TaskGroup() as group:
                async for _ in sim.steps(4):
                    key = f"key-{sim.random.randrange(KEYS)}"
                    truth.begun.setdefault(key, sim.now)
                    group.create_task(read(key))
                    for _ in range(sim.random.randrange(3)):
                        group.create_task(send(key))
                    await asyncio.sleep(sim.random.choice([0.0, 0.5, 6.0]))
            async with asyncio.timeout(KEPT):
                while any(not truth.ends[key] for key in [*truth.attempts]):  # noqa: ASYNC110 - in virtual time
                    await asyncio.sleep(1.0)
            return


def answers(sim: Simulation) -> Any:
    truth, odd = Truth(), sim.random_of("answers").random() < 0.3
    sim.store()
    sim.engine()
    for name in NODES:
        sim.process(name, lambda: node(sim, truth, odd=odd), serves=True, host="service")
    for number in range(CLIENTS):
        sim.process(f"page-{number}", lambda: page(sim, truth, odd=odd), mortal=True)
    with expecting_odd_errors():
        yield

"""Calls with keys, between clients and two processes that share a store: they run once, and many read them.

Processes are killed, closed and cut off; connections drop; the store is lost for a while, restored from a snapshot, and
drops items. Whatever happens: a key has one run while that is kept; what a reader gets is a part of one run, without
gaps or doubles, from its position on; a reader or a caller that gets less is told why, and the reason is true; a
handler that was stopped ends; nobody waits for ever; and in the end nothing is left. Time passes only where a rule says
so.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from effort import EXPLORE, examples
from hypothesis import settings
from hypothesis.stateful import initialize, rule
from keyed_world import LEASE, OverRedis, Process, StoreMachine, WithRedis, clients, nodes, runs_of

from wsrpc import (
    ChannelClosed,
    Client,
    ConnectionLost,
    Context,
    ItemsGone,
    Keep,
    KeyReused,
    Limits,
    Overloaded,
    RemoteError,
    RequestTimeout,
    RpcError,
    RunLost,
    Server,
    Stream,
    current_context,
)

KEPT = 20.0
UNREAD = 10.0
RUN_BYTES = 3000
"""Of the items of one run: the oldest of a few large ones are dropped."""
WHO = ["ann", "ann", "bob", None]
"""The principals of the clients."""
FAILS = 2
"""The argument with which handlers raise an error."""

some = st.integers(0, 20)
KINDS = {"small": (0, 10), "large": (0, 900), "fails": (FAILS, 10)}
"""The arguments with which a key that begins like this is mostly used."""
keys = st.sampled_from([f"{kind} {number}" for number in range(4) for kind in KINDS])
wrong = st.sampled_from([*[False] * 5, True])
streams = st.sampled_from(["private", "shared", "shared", "watched"])
most = st.sampled_from([1, 4, 7, 100, 100])


@dataclass
class RunRecord:
    """One run of a handler."""

    number: int
    identity: tuple[Any, ...]
    arguments: tuple[int, int]
    process: Process
    restored: int
    """How often the store was restored before."""
    items: int = 0
    bytes: int = 0
    end: str = ""
    """How the handler has ended."""
    ended: float = 0.0


@dataclass
class ReaderRecord:
    """A caller that reads a run, or waits for its result."""

    event: str
    who: str | None
    key: str
    arguments: tuple[int, int]
    after: int | str | None
    task: asyncio.Task[None] | None = None
    stream: Stream[Any] | None = None
    got: list[list[Any]] = field(default_factory=list)
    skipped: int = 0
    done: bool = False
    cancelled: bool = False
    began: float = 0.0
    end: str = ""


class KeyedCallsMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.readers: list[ReaderRecord] = []
        self.records: dict[int, RunRecord] = {}
        self.ids: dict[int, str] = {}
        """The id of the run in the store, by the number of the handler's run."""
        self.arguments: defaultdict[tuple[Any, ...], set[tuple[int, int]]] = defaultdict(set)
        self.stops: set[str] = set()
        """The ids of the runs that readers wanted to stop."""
        self.stopped: dict[str, int] = {}
        """Those of which a reader was told that they were stopped, and how often the store was restored before."""
        self.reads = asyncio.Semaphore(30)
        self.reads_all = False

    # ------------------------------------------------------------ the scene

    @initialize(payer_runs=st.sampled_from([1000, 2]), homes=st.lists(nodes, min_size=len(WHO), max_size=len(WHO)))
    def begin(self, payer_runs: int, homes: list[int]) -> None:
        async def main() -> None:
            limits = Limits(ping_interval=None, close_timeout=2.0)
            options = {"run_bytes": RUN_BYTES, "payer_runs": payer_runs, "lease": LEASE * self.scale}
            self.begin_processes(limits, homes, **options)
            for index, who in enumerate(WHO):
                await self.client(who, partial(self.dial, index)).connect()

        self.run(main())

    async def dial(self, index: int, url: str, **options: Any) -> Any:
        return await self.processes[self.homes[index]].dial(url, **options)

    def register_at(self, server: Server, process: Process) -> None:
        def scope(peer: object, argument: int, size: int) -> str:
            return "all"

        async def charge(ctx: Context, argument: int, size: int) -> list[Any]:
            record = self.starts_run(ctx, process, (argument, size))
            try:
                await self.gate.wait()
                if argument == FAILS:
                    raise RpcError(f"run {record.number}", "failed")
                record.end = "done"
                return [record.number, "x" * size]
            finally:
                self.ends_run(record)

        async def items(ctx: Context, argument: int, size: int) -> AsyncIterator[list[Any]]:
            record = self.starts_run(ctx, process, (argument, size))
            try:
                for number in range(1, 9):
                    if number % 3 == 0:
                        await self.gate.wait()
                    record.items = number
                    record.bytes += size + 80
                    yield [record.number, number, "x" * size]
                if argument == FAILS:
                    raise RpcError(f"run {record.number}", "failed")
                record.end = "done"
            finally:
                self.ends_run(record)

        kept = KEPT * self.scale
        server.on("charge", charge, keep=kept)
        server.on("private", items, keep=kept)
        server.on("shared", items, keep=Keep(kept, scope=scope))
        server.on("watched", items, keep=Keep(kept, unread=UNREAD * self.scale))

    def starts_run(self, ctx: Context, process: Process, arguments: tuple[int, int]) -> RunRecord:
        owner = "all" if ctx.event == "shared" else ctx.peer.principal or ctx.peer.id
        self.number += 1
        identity = (ctx.event, owner, ctx.key)
        record = RunRecord(self.number, identity, arguments, process, self.shared.restored)
        before = [each for each in self.records.values() if each.identity == identity]
        self.records[record.number] = record
        assert current_context() is ctx
        assert not process.killed, "a handler starts in a process that was killed"
        for each in before:
            self.check_twice(each, record)
        begun = sum(map(len, self.shared.claims.values()))
        assert len(self.records) <= begun, "a handler runs without a claim"
        return record

    def check_twice(self, earlier: RunRecord, record: RunRecord) -> None:
        """See that a key may run again."""
        undisturbed = not (self.troubles["death"] or self.troubles["loss"] or self.troubles["leap"])
        if earlier.restored == record.restored and undisturbed:
            kept = self.loop.time() - earlier.ended < KEPT * self.scale
            assert earlier.end and not kept, f"{record} runs, and so does {earlier}"

    def ends_run(self, record: RunRecord) -> None:
        record.end = record.end or "failed"
        record.ended = self.loop.time()

    # ------------------------------------------------------------ what the clients do

    async def may_read(self) -> None:
        if not self.reads_all:
            await self.reads.acquire()

    def work(self, index: int, reader: ReaderRecord, doing: Any) -> None:
        async def main() -> None:
            try:
                await doing(self.clients[index], reader)
            except (RpcError, ConnectionLost, ChannelClosed, RequestTimeout) as error:
                reader.end = f"{error!r}"
                self.check_told(reader, error)
            finally:
                reader.done = True

        reader.began = self.loop.time()
        self.arguments[reader.event, reader.who if reader.event != "shared" else "", reader.key].add(reader.arguments)
        reader.task = self.loop.create_task(main())
        self.readers.append(reader)
        self.works.append(reader)

    @rule(index=clients, key=keys, wrong=wrong)
    def request(self, index: int, key: str, wrong: bool) -> None:
        arguments = (1, 0) if wrong else KINDS[key.split()[0]]

        async def doing(client: Client, reader: ReaderRecord) -> None:
            number, filling = await client.request("charge", *arguments, key=key)
            record = self.records[number]
            assert (record.end, record.arguments) == ("done", arguments) and len(filling) == arguments[1]
            assert (record.identity[0], record.identity[2]) == ("charge", key)
            assert reader.who in (None, record.identity[1])

        self.work(index, ReaderRecord("charge", WHO[index], key, arguments, None), doing)
        self.turn(3)

    @rule(index=clients, event=streams, key=keys, wrong=wrong, after=st.sampled_from([*[None] * 6, 0, 5, 9]), most=most)
    def stream(self, index: int, event: str, key: str, wrong: bool, after: int | str | None, most: int) -> None:
        arguments = (1, 0) if wrong else KINDS[key.split()[0]]
        self.read(index, ReaderRecord(event, WHO[index], key, arguments, after), most)
        self.turn(6)

    @rule(
        index=clients,
        other=st.integers(1, len(WHO) - 1),
        key=keys,
        then=st.sampled_from(["stop", "stop", "kill", "wind back", "lose answers", "expire"]),
        turns=st.integers(0, 8),
        saves_first=st.booleans(),
    )
    def read_together(self, index: int, other: int, key: str, then: str, turns: int, saves_first: bool) -> None:
        """Two clients read the same, and then something happens to it."""

        def join(client: int, most: int) -> None:
            self.stream(client % len(WHO), "shared", key, False, None, most)

        if saves_first:
            self.wind_back("save")
        join(index, 100)
        join(index + other, 4)
        if not saves_first:
            self.wind_back("save")
        self.turn(turns)
        if then == "stop":
            self.stop_reader(self.readers[-1])
        elif then == "kill":
            self.end_process(self.homes[index], "kill")
        elif then == "lose answers":
            for at in (0, 1):
                self.slow_store(at, turns // 4, "answer lost")
            self.open_gate()
        elif then == "wind back":
            if not saves_first:
                self.open_gate()
                self.turn(turns)
            self.wind_back("restore")
            join(index + 1, 100)
        else:
            self.open_gate()
            self.settle()
            self.time_passes(KEPT + 1)
            join(index, 4)
            self.continue_reading(1, 100, index)

    @rule(index=clients, happens=st.sampled_from(["meanwhile", "later"]), turns=st.integers(0, 8))
    def give_up(self, index: int, happens: str, turns: int) -> None:
        """A call gives up, because the store does not answer in time. It has not claimed its key for good."""
        at, key = self.homes[index], f"small {self.number} only"
        self.settle()  # the client has its connection
        self.slow_store(at, 0, "late")
        for _ in range(2):
            self.request(index, key, False)
            self.turn(turns + 1)
            if happens == "meanwhile":
                self.do_late()
            for _ in range(6):
                self.time_passes(2.1)
            self.slow_store(at, 0, "")
            self.open_gate()
            self.time_passes(2.1)  # now the key is freed
            self.settle()
            self.do_late(backwards=True)
        told, again = self.readers[-2:]
        store_is_back = not (self.shared.lost or self.processes[at].store.cut)
        if "does not answer" in told.end and store_is_back and not self.troubles["death"]:
            is_taken = "RunLost" in again.end or "does not answer" in again.end
            assert not is_taken, f"{told} has claimed its key: {again}"
            assert sum(each.identity[2] == key for each in self.records.values()) <= 1, "the key ran twice"

    @rule(which=some, most=most, index=clients)
    def continue_reading(self, which: int, most: int, index: int) -> None:
        """Read on from where a reader is or was, at another client of the same principal: a reload, a second tab."""
        known = [each for each in self.readers if each.got]
        if not known:
            return
        before = known[-1 - which % len(known)]
        if before.event != "shared" and WHO[index] != before.who:
            index = WHO.index(before.who)
        position = before.stream.position if before.stream is not None else None
        self.read(index, ReaderRecord(before.event, WHO[index], before.key, before.arguments, position), most)
        self.turn(6)

    def read(self, index: int, reader: ReaderRecord, most: int) -> None:
        async def doing(client: Client, reader: ReaderRecord) -> None:
            stream = client.stream(reader.event, *reader.arguments, key=reader.key, after=reader.after)
            reader.stream = stream
            after = reader.after or 0
            reader.skipped = after if isinstance(after, int) else int(after.partition("-")[0])
            async with stream:
                while len(reader.got) < most:
                    await self.may_read()
                    try:
                        item = await anext(stream)
                    except StopAsyncIteration:
                        break
                    reader.got.append(item)
                    self.check_item(reader, stream.position)
                else:
                    return
            if reader.got:
                record = self.records[reader.got[0][0]]
                last = reader.skipped + len(reader.got)
                assert (record.end, record.items) == ("done", last), f"{reader} ended, and is not whole: {record}"

        self.work(index, reader, doing)

    def check_item(self, reader: ReaderRecord, position: str | None) -> None:
        number, index, _ = reader.got[-1]
        record = self.records[number]
        assert number == reader.got[0][0], f"{reader} reads two runs"
        assert index == reader.skipped + len(reader.got), f"{reader} misses items, or has some twice"
        assert index <= record.items and record.arguments == reader.arguments, (reader, record)
        assert (record.identity[0], record.identity[2]) == (reader.event, reader.key), (reader, record)
        assert reader.event == "shared" or reader.who in (None, record.identity[1]), "a reader reads the run of another"
        assert position is not None
        skipped, _, id = position.partition("-")
        assert int(skipped) == index, (reader, position)
        assert self.ids.setdefault(number, id) == id, "a position is of another run"
        if isinstance(reader.after, str):
            assert reader.after.partition("-")[2] == id, f"{reader} continues another run: {position}"

    def check_told(self, reader: ReaderRecord, error: Exception) -> None:
        """See that the reason for which a reader gets less is true."""
        wiped = self.shared.restored > 0
        now = self.loop.time()
        if isinstance(error, ChannelClosed):
            error = error.reason if isinstance(error.reason, Exception) else error
        match error:
            case ConnectionLost() | ChannelClosed():
                assert self.moves or self.troubles["death"], f"{reader} is told of a drop: {error!r}"
            case RequestTimeout():
                assert now - reader.began >= 60, reader
            case KeyReused():
                who = "" if reader.event == "shared" else reader.who
                assert len(self.arguments[reader.event, who, reader.key]) > 1, reader
            case ItemsGone(first=first):
                if first is None:  # nothing is kept
                    late = self.troubles["leap"] or self.troubles["loss"]
                    assert reader.after is not None or late or wiped, f"{reader} is told of a loss that was none"
                    return
                assert reader.event != "charge"
                later = first > reader.skipped + len(reader.got) + 1
                other = bool(reader.after) and not reader.got  # of an earlier run, or beyond the end
                assert later or other or wiped, f"{reader} is told of items that are gone: {error!r}"
                large = [each for each in self.records.values() if each.bytes > RUN_BYTES - 1000]
                assert other or wiped or large, reader
            case RunLost():
                dead = self.troubles["death"] or self.troubles["loss"] or self.troubles["leap"]
                assert dead or wiped, f"{reader} is told of a loss that was none: {error!r}"
            case Overloaded():
                assert "too many results" in error.message or self.troubles["loss"], error
            case RemoteError() if "does not answer" in error.message:  # who began the stream has given up
                assert self.troubles["loss"] and reader.event != "charge", error
            case RemoteError(code="wsrpc.stopped"):
                known = {
                    self.ids.get(number) for number, each in self.records.items() if each.identity[2] == reader.key
                }
                assert reader.event == "watched" or known & self.stops, f"nobody has stopped what {reader} reads"
            case RemoteError(code="failed"):
                number = int(error.message.partition(" ")[2])
                record = self.records[number]
                assert (record.end, record.arguments) == ("failed", reader.arguments), (reader, record)
                assert reader.event == "charge" or reader.skipped + len(reader.got) >= 8, reader
            case _:
                raise error

    @rule(count=st.integers(1, 40))
    def read_more(self, count: int) -> None:
        for _ in range(count):
            self.reads.release()

    @rule(which=some)
    def stop(self, which: int) -> None:
        if self.readers:
            self.stop_reader(self.readers[-1 - which % len(self.readers)])

    def stop_reader(self, reader: ReaderRecord) -> None:
        stream = reader.stream
        if reader.done or not reader.got or stream is None:
            return

        async def main() -> None:
            id = self.ids[reader.got[0][0]]
            self.stops.add(id)
            restored = self.shared.restored  # a store that is restored after this may not know of it
            try:
                await stream.stop()
            except (ConnectionLost, ChannelClosed, Overloaded, RequestTimeout):
                return
            self.stopped[id] = restored

        self.orders.append(self.loop.create_task(main()))

    @rule()
    def open_gate(self) -> None:
        self.let_all_through()

    # ------------------------------------------------------------ what happens to lines, processes and the store

    @rule(index=clients, key=keys, turns=st.integers(1, 8))
    def fail_over(self, index: int, key: str, turns: int) -> None:
        """A replica takes over that lacks the last steps. For a while, one process still uses the old primary."""
        self.troubles["loss"] += 1
        old = self.processes[self.homes[index]].store
        self.wind_back("save")
        self.stream(index, "shared", key, False, None, 100)
        self.turn(turns)
        self.run(self.shared.fail_over(old))
        for each in range(len(WHO)):
            self.stream(each, "shared", key, False, None, 100)
        self.turn(turns)
        self.run(old.follow())

    @rule(seconds=st.sampled_from([0.3, 2.1, 2.1, LEASE, UNREAD, KEPT + 1]))
    def time_passes(self, seconds: float) -> None:
        self.troubles["leap"] += seconds >= LEASE  # nobody renews a claim meanwhile
        self.run(self.leap(seconds))

    # ------------------------------------------------------------ what must hold

    def check(self) -> None:
        assert not self.shared.doubles, "a key runs again, although its run is kept"
        assert not any(each.task.cancelled() for each in self.readers if each.task and not each.cancelled)

    async def finish(self) -> None:
        self.reads_all = True
        for _ in range(100):
            self.reads.release()
        await self.calm_down(LEASE / 3)  # claims lapse, and stops arrive
        self.check_stopped()
        self.gate.set()
        await self.turns(300)
        self.holds()
        stuck = [reader for reader in self.readers if reader.task is not None and not reader.task.done()]
        assert not stuck, f"they wait for ever: {stuck}"
        await self.all_end(self.orders, "everything that was ordered is done")
        for process in self.processes:
            assert not runs_of(process.server)._running, "a handler runs without end"
        await self.all_end([client.close() for client in self.clients], "the clients close")
        await self.close_servers()

    def check_stopped(self) -> None:
        """Although the gate is closed, the handlers that were stopped have ended, and so have readers of the dead."""
        for record in self.records.values():
            if self.stopped.get(self.ids.get(record.number, "")) == self.shared.restored:
                assert record.end or record.process.killed, f"{record} was stopped, and runs"
        for reader in self.readers:
            if not reader.done and reader.got:
                record = self.records[reader.got[0][0]]
                assert not record.process.killed, f"{reader} is not told that the process has ended"


@pytest.mark.parametrize("lost", ["start", "end"])
def test_a_key_is_free_in_time_although_an_answer_was_lost_and_the_call_was_repeated(lost: str) -> None:
    """The machine took a repeated `start` or `end` for a sign of life, and so the next run for a second one."""
    machine = KeyedCallsMachine()
    machine.begin(1000, [0, 1, 0, 0])
    try:
        if lost == "end":
            machine.request(0, "small 3", False)  # the handler waits at the gate
        machine.slow_store(0, 0, "answer lost")
        if lost == "end":
            machine.open_gate()
        else:
            machine.request(0, "small 3", False)
        machine.turn(8)
        machine.slow_store(0, 0, "answer lost" if lost == "start" else "")  # nor does the handler run
        machine.time_passes(UNREAD)  # then it is repeated
        machine.turn(8)
        machine.time_passes(KEPT - UNREAD + 1 + (LEASE if lost == "start" else 0))
        machine.request(1, "small 3", False)
        assert [len(claims) for claims in machine.shared.claims.values()] == [2]
        machine.holds()
    finally:
        machine.teardown()


@pytest.mark.timeout(7200 if EXPLORE else 120)
class TestKeyedCallsMachine(KeyedCallsMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)


class KeyedCallsOverRedis(OverRedis, KeyedCallsMachine):
    pass


@pytest.mark.explore
@pytest.mark.timeout(7200)
class TestKeyedCallsOverRedis(WithRedis, KeyedCallsOverRedis.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=min(400, examples(6)), stateful_step_count=40, deadline=None)

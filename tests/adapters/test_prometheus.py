"""`WsrpcCollector`: what a scrape shows of a server and its calls, in the event loop and in threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from waiting import until

from wsrpc import HandlerFailed, Server, UnknownEvent
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.stats import ClusterStats, ServerStats
from wsrpc.testing import connect, memory_transports
from wsrpc_adapters import prometheus
from wsrpc_adapters.prometheus import WsrpcCollector

Value = Callable[..., float | None]


def observed(server: Server) -> Value:
    """Register a collector. Return the function that collects, and reads one value."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(WsrpcCollector(server, buckets=(0.1, 60)))
    return lambda name, **labels: registry.get_sample_value(f"wsrpc_{name}", labels)


async def test_calls_are_counted_by_event_and_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that a client makes up, and more names than a bound, are counted together."""
    monkeypatch.setattr(prometheus, "MOST_EVENTS", 7)
    server = Server()
    calls = observed(server)
    server.on("add", lambda a, b: a + b)
    server.of("shop").on("add", lambda a, b: a + b)
    server.on("fail", lambda: 1 / 0)
    server.on("wait", asyncio.Event().wait)

    @server.on("feed")
    async def feed() -> AsyncIterator[int]:
        yield 1

    async with connect(server) as client:
        await client.request("add", 1, 2)
        await client.emit("add", 1, 2)
        await client.of("shop").request("add", 1, 2)
        with pytest.raises(HandlerFailed):
            await client.request("fail")
        for number in range(5):
            with pytest.raises(UnknownEvent):
                await client.request(f"made up {number}")
        assert [item async for item in client.stream("feed")] == [1]
        waiting = asyncio.create_task(client.request("wait"))
        await until(lambda: server.stats().active)
        waiting.cancel()
        await until(lambda: not server.stats().active)
        for name in "abc":  # more than MOST_EVENTS
            server.on(name, lambda: None)
            await client.request(name)
        ok = {"add": 2, "shop:add": 1, "feed": 1, "a": 1, "b": None, "_OTHER": 2}
        failed = {"fail ZeroDivisionError": 1, "wait CancelledError": 1, "_OTHER UnknownEvent": 5}
        expected = {f"{name} ok": count for name, count in ok.items()} | failed
        found = [calls("calls_total", event=name, outcome=how) for name, how in map(str.split, expected)]
        assert found == list(expected.values())
        assert calls("call_duration_seconds_bucket", event="add", le="60.0") == 2
        assert calls("call_duration_seconds_count", event="_OTHER") == 7


async def test_each_statistic_of_the_server_and_its_cluster_is_exported() -> None:
    of_server = {each.name for each in msgspec.structs.fields(ServerStats)} - {"uptime", "cluster"}
    of_server -= {"runs"}  # which have metrics of their own
    of_server -= {"refused_by_principal"}  # a label for each user would cost too much, and show who the users are
    of_cluster = {f"cluster.{each.name}" for each in msgspec.structs.fields(ClusterStats)} - {"cluster.node"}
    assert {path for _, path, _, _ in prometheus.STATS} == of_server | of_cluster
    server = Server(cluster=Cluster(MemoryEngine(), name="shop"))
    value = observed(server)
    async with connect(server) as client:
        await client.emit("nobody handles this")
        await until(lambda: server.stats().ignored)
        server.room("lobby").add(server.peers[0])
        found = {name: value(name) for name in ("peers", "healthy", "rooms", "accepted_total", "cluster_nodes")}
        assert found == dict.fromkeys(found, 1)
        assert value("ignored_total", kind="unknown event") == 1
        await client.close(3777)
        await until(lambda: not server.peers)
    assert value("closed_total", code="_OTHER") == 1 and value("closed_total", code="3777") is None
    await server.close()


async def test_runs_are_counted_by_event_and_by_how_they_end() -> None:
    server = Server()
    value, go_on = observed(server), asyncio.Event()

    @server.on("add", keep=60)
    async def add(a: int) -> int:
        await go_on.wait()
        return 1 // a

    async with connect(server, principal="ann") as client:
        adding = asyncio.gather(*(client.request("add", a, key=f"k{a}") for a in (0, 1, 2)), return_exceptions=True)
        await until(lambda: value("runs_running", event="add") == 3)
        go_on.set()
        await adding
        await until(lambda: value("runs_running", event="add") == 0)
        ended = {how: value("runs_ended_total", event="add", outcome=how) for how in ("done", "failed", "lost")}
        assert ended == {"done": 2, "failed": 1, "lost": None} and value("runs_adopted_total", event="add") == 0
    await server.close()


async def test_a_thread_gets_the_last_values_if_the_event_loop_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    value = observed(server)
    with ThreadPoolExecutor(1) as threads:
        async with connect(server):
            assert await asyncio.wrap_future(threads.submit(value, "peers")) == 1
            await server.accept(memory_transports()[0])
            monkeypatch.setattr(prometheus, "SNAPSHOT_TIMEOUT", 0.01)
            assert threads.submit(value, "peers").result() == 1, "this blocks the event loop"
            await asyncio.sleep(0)
            monkeypatch.setattr(prometheus, "SNAPSHOT_TIMEOUT", 5.0)
            assert await asyncio.wrap_future(threads.submit(value, "peers")) == 2
    for _ in range(300):
        await server.accept(memory_transports()[0])
    before = value("peers")  # in the event loop, many are those of the last scrape
    assert before is not None and before < 300
    await until(lambda: value("peers") == 301)
    await server.close()

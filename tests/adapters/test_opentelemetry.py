"""Traces and metrics of calls, with the SDK of OpenTelemetry, which keeps them in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from cluster_servers import servers
from in_a_thread import ThreadedEngine
from opentelemetry import baggage, context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from wsrpc import AnonymousChannel, Client, Retry, RpcError, Server
from wsrpc.blocking import Client as BlockingClient
from wsrpc.blocking import ClusterClient as BlockingClusterClient
from wsrpc.errors import PeerNotFound
from wsrpc.store import MemoryStore
from wsrpc.testing import connect
from wsrpc_adapters.opentelemetry import DURATION_BUCKETS, MAX_CODES, instrument

CLIENT, SERVER = SpanKind.CLIENT, SpanKind.SERVER


class Telemetry:
    """The SDK, and what it has recorded."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self._tracers, self._meters = TracerProvider(), MeterProvider([self._reader])
        self._tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self._tracers.get_tracer("test")

    def instrument(self, *targets: Server | Client | BlockingClusterClient, **options: bool) -> None:
        for target in targets:
            instrument(target, tracer_provider=self._tracers, meter_provider=self._meters, **options)

    def spans(self, kind: SpanKind | None = None) -> list[ReadableSpan]:
        """Return the spans that have ended, in the order of their start."""
        spans = [span for span in self._exporter.get_finished_spans() if kind in (None, span.kind)]
        return sorted(spans, key=lambda span: span.start_time or 0)

    def durations(self, side: str) -> list[HistogramDataPoint]:
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        metrics = [each for one in data.resource_metrics for scope in one.scope_metrics for each in scope.metrics]
        points = [metric.data.data_points for metric in metrics if metric.name == f"rpc.{side}.call.duration"]
        assert {metric.unit for metric in metrics} == {"s"}
        return [point for each in points for point in each if isinstance(point, HistogramDataPoint)]

    def __str__(self) -> str:
        data = self._reader.get_metrics_data()
        return "".join(span.to_json() for span in self.spans()) + ("" if data is None else data.to_json())


def chain(spans: list[ReadableSpan]) -> list[tuple[str, SpanKind]]:
    """Return the names of the spans of one trace, in which each is the parent of the next."""
    for parent, child in pairwise(spans):
        assert child.parent is not None and parent.context is not None
        assert (child.parent.trace_id, child.parent.span_id) == (parent.context.trace_id, parent.context.span_id)
    return [(span.name, span.kind) for span in spans]


def outcome(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of a span, and whether it is an error."""
    return {**(span.attributes or {}), "error": span.status.status_code is StatusCode.ERROR}


# ------------------------------------------------------------ which calls have spans


async def fails_twice(refusals: list[RpcError]) -> str:
    if refusals:
        raise refusals.pop()
    return "done"


def plain(value: int) -> int:
    assert asyncio.current_task() is None, "it runs while its message is read"
    return value


async def waits(value: int) -> int:
    return value


async def count() -> AsyncIterator[int]:
    for number in range(100):
        yield number


async def total(items: AsyncIterator[int]) -> int:
    return sum([item async for item in items])


async def talk(channel: AnonymousChannel) -> None:
    await channel.emit("said", await channel.wait_for("say"))


async def read_all(client: Client) -> Any:
    return [item async for item in client.stream("count")]


async def converse(client: Client) -> Any:
    async with await client.open_channel("talk") as channel:
        await channel.emit("say", 1)
        return await channel.wait_for("said")


CALLS: list[tuple[str, Callable[[Client], Awaitable[Any]]]] = [
    ("plain", lambda client: client.request("plain", 1)),
    ("shop:buy", lambda client: client.of("shop").request("buy", 1)),
    ("count", read_all),
    ("total", lambda client: client.request("total", send=range(100))),
    ("talk", converse),
    ("retried", lambda client: client.request("retried", retry=Retry(initial=0, retry=lambda error: True))),
]


@pytest.mark.parametrize(("event", "call"), CALLS)
async def test_each_call_has_one_span_on_each_side(event: str, call: Callable[[Client], Awaitable[Any]]) -> None:
    telemetry, server = Telemetry(), Server()
    telemetry.instrument(server)
    for handler in (plain, count, total, talk):
        server.on(handler.__name__, handler)
    server.of("shop").on("buy", plain)
    refusals = [RpcError("not yet"), RpcError("not yet")]
    server.on("retried", lambda: fails_twice(refusals))
    async with connect(server) as client:
        telemetry.instrument(client)
        with telemetry.tracer.start_as_current_span("root"):
            await call(client)
    root, out, *handled = telemetry.spans()
    assert len(handled) == (3 if event == "retried" else 1)
    for inside in handled:
        assert chain([root, out, inside]) == [("root", SpanKind.INTERNAL), (event, CLIENT), (event, SERVER)]
    for side, number in (("client", 1), ("server", len(handled))):
        points = telemetry.durations(side)
        assert sum(point.count for point in points) == number
        assert {tuple(point.explicit_bounds) for point in points} == {DURATION_BUCKETS}
        assert {(point.attributes or {})["rpc.method"] for point in points} == {event}
    assert telemetry.durations("client")[0].sum == pytest.approx(((out.end_time or 0) - (out.start_time or 0)) / 1e9)


@pytest.mark.parametrize("wanted", [False, True])
async def test_events_and_broadcasts_have_spans_if_asked_for(wanted: bool) -> None:
    telemetry, server, said = Telemetry(), Server(), asyncio.Event()
    telemetry.instrument(server, events=wanted, broadcasts=wanted)
    server.on("say", lambda: server.emit("said"))
    async with connect(server) as client:
        telemetry.instrument(client, events=wanted, broadcasts=wanted)
        client.on("said", said.set)
        client.emit_nowait("say")
        await said.wait()
    expected = [("say", CLIENT), ("say", SERVER), ("said", CLIENT), ("said", SERVER)]
    assert chain(telemetry.spans()) == (expected if wanted else [])


# ------------------------------------------------------------ how calls end


def rejects(code: str | None) -> None:
    raise RpcError("no", code=code)


CANCELLED = {"error.type": "asyncio.exceptions.CancelledError"}
ODD = {"rpc.method": "_OTHER", "rpc.method_original": "odd"}


def status(code: str) -> dict[str, str]:
    return {"rpc.response.status_code": code, "error.type": code}


FAILURES: list[tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any], bool | None]] = [
    ("rejects", ("poor",), status("poor"), status("poor"), False),
    ("rejects", (None,), {"error.type": "wsrpc.errors.RemoteError"}, {"error.type": "wsrpc.errors.RpcError"}, False),
    ("fails", (), status("wsrpc.internal"), {"error.type": "ZeroDivisionError"}, True),
    ("plain", (), status("wsrpc.bad_arguments"), status("wsrpc.bad_arguments"), False),
    ("slow", (), status("wsrpc.handler_timeout"), status("wsrpc.handler_timeout"), True),
    ("hangs", (), CANCELLED, CANCELLED, False),
    ("odd", (), status("wsrpc.unknown_event"), status("wsrpc.unknown_event") | ODD, True),
    ("plain", (object(),), {"error.type": "TypeError"}, {}, None),
]
"""The event, the arguments, the attributes on both sides, and whether the handler's side sees an error.

The last is None if the call does not arrive.
"""


@pytest.mark.parametrize(("event", "args", "out", "handled", "error"), FAILURES)
async def test_spans_and_durations_show_how_a_call_has_failed(
    event: str, args: tuple[Any, ...], out: dict[str, Any], handled: dict[str, Any], error: bool | None
) -> None:
    telemetry, server, started = Telemetry(), Server(), asyncio.Event()

    async def hangs() -> None:
        started.set()
        await asyncio.Event().wait()

    server.on("rejects", rejects)
    server.on("plain", plain)
    server.on("hangs", hangs)
    server.on("fails", lambda: 1 // 0)
    server.on("slow", hangs, timeout=0.01)
    telemetry.instrument(server)
    async with connect(server) as client:
        telemetry.instrument(client)
        task = asyncio.ensure_future(client.request(event, *args))
        if event == "hangs":
            await started.wait()
            task.cancel()
        with pytest.raises((RpcError, TypeError, asyncio.CancelledError)):
            await task
    out = {"rpc.system.name": "wsrpc", "rpc.method": event, "server.address": "localhost"} | out
    handled = {"rpc.system.name": "wsrpc", "rpc.method": event} | handled
    assert [outcome(span) for span in telemetry.spans(CLIENT)] == [out | {"error": True}]
    inside = [] if error is None else [handled | {"error": error}]
    assert [outcome(span) for span in telemetry.spans(SERVER)] == inside
    handled.pop("rpc.method_original", None)
    assert [point.attributes for point in telemetry.durations("client")] == [out]
    assert [point.attributes for point in telemetry.durations("server")] == ([] if error is None else [handled])


async def test_a_remote_peer_cannot_add_metrics_without_end() -> None:
    telemetry, server = Telemetry(), Server()
    telemetry.instrument(server)
    async with connect(server) as client:
        client.on("rejects", rejects)
        for number in range(MAX_CODES + 50):
            for call in (client.request(f"made up {number}"), server.peers[0].request("rejects", f"code-{number}")):
                with suppress(RpcError):
                    await call
    assert {span.name for span in telemetry.spans(SERVER)} == {"wsrpc"}
    assert [point.count for point in telemetry.durations("server")] == [MAX_CODES + 50]
    assert sorted(point.count for point in telemetry.durations("client")) == [*[1] * MAX_CODES, 50]


async def test_nothing_is_recorded_or_logged_of_what_calls_carry(caplog: pytest.LogCaptureFixture) -> None:
    telemetry, server = Telemetry(), Server()
    telemetry.instrument(server, events=True, broadcasts=True)
    server.on("secret", lambda secret: secret)
    async with connect(server) as client:
        telemetry.instrument(client, events=True, broadcasts=True)
        await client.request("secret", "hunter2", metadata={"password": "hunter2", "baggage": "a\nERROR hunter2"})
        client.emit_nowait("rejects", "hunter2")
        with pytest.raises(RpcError):
            await client.request("rejects", "hunter2")
    told = str(telemetry)
    assert "secret" in told and "password" not in told and "hunter2" not in told + caplog.text


# ------------------------------------------------------------ traces


async def test_the_span_of_the_connection_is_a_link() -> None:
    telemetry, server = Telemetry(), Server()
    telemetry.instrument(server)
    server.on("plain", plain)
    with telemetry.tracer.start_as_current_span("upgrade") as upgrade:
        async with connect(server) as client:
            await client.request("plain", 1)
    [handled] = telemetry.spans(SERVER)
    assert handled.parent is None and [link.context for link in handled.links] == [upgrade.get_span_context()]


@pytest.mark.parametrize(("length", "arrives"), [(100, True), (5000, False)])
async def test_baggage_arrives_unless_it_is_too_long(length: int, arrives: bool) -> None:
    telemetry, server, seen = Telemetry(), Server(), []
    telemetry.instrument(server)
    server.on("tenant", lambda: seen.append(baggage.get_baggage("tenant")))
    async with connect(server) as client:
        telemetry.instrument(client)
        context.attach(baggage.set_baggage("tenant", "a" * length))
        await client.request("tenant")
    assert seen == ["a" * length if arrives else None]
    assert len(chain(telemetry.spans())) == 2


@pytest.mark.parametrize(("event", "fails"), [("plain", False), ("rejects", True), ("waits", False)])
async def test_a_server_that_passes_a_call_on_is_in_its_trace(event: str, fails: bool) -> None:
    telemetry = Telemetry()
    async with servers(2, store=MemoryStore()) as cluster:
        lock = await cluster.join(0, "lock")
        lock.on("plain", plain)
        lock.on("rejects", lambda value: rejects(str(value)))
        lock.on("waits", waits, keep=60)
        telemetry.instrument(*cluster, lock)
        peer = cluster[1].cluster.peer("lock")
        options: Any = {"key": "k", "deliver_within": 10} if event == "waits" else {}
        with suppress(RpcError):
            await peer.request(event, 1, timeout=10, **options)
        await peer.emit("not counted")
        passed = [
            stats.cluster.passed_on + stats.cluster.delivered
            for each in cluster
            if (stats := each.stats()).cluster is not None
        ]
    assert chain(telemetry.spans()) == [(event, CLIENT), (event, CLIENT), (event, SERVER)]
    _, passed_on, _ = telemetry.spans()
    assert passed_on.status.status_code is (StatusCode.ERROR if fails else StatusCode.UNSET)
    assert passed == [1, 0] and [point.count for point in telemetry.durations("client")] == [1]


def test_the_calls_of_a_blocking_client_of_a_cluster_belong_to_the_span_of_their_thread() -> None:
    engine, store = ThreadedEngine(), MemoryStore()
    telemetry, shop = Telemetry(), BlockingClusterClient(engine, store=store)
    telemetry.instrument(shop)
    with shop:
        with telemetry.tracer.start_as_current_span("view") as view:
            shop.peer("lock").submit("ring", key="k", deliver_within=0.01)
            with pytest.raises(PeerNotFound):
                shop.peer("lock").request("ring", key="k", deliver_within=1)
    submitted, asked = telemetry.spans(CLIENT)
    for span in (submitted, asked):
        assert span.name == "ring" and span.parent == view.get_span_context()
    assert (submitted.status.status_code, asked.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)


def test_a_blocking_client_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a Server, ClusterClient or Client with an event loop, not <blocking "):
        instrument(BlockingClient("ws://127.0.0.1:1/"))  # type: ignore[arg-type]

"""`WsrpcCollector`: the statistics of a server and its calls, as metrics of the library prometheus_client.

    REGISTRY.register(WsrpcCollector(server))

prometheus_client collects in a thread of its own, or where a route asks for the metrics. The counters of the server
belong to its event loop, which therefore makes a snapshot of them for each collection.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import accumulate

from wsrpc import Context, Server
from wsrpc.stats import RunStats, ServerStats

try:
    from prometheus_client import Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as exc:
    raise ImportError(
        "wsrpc_adapters.prometheus needs prometheus_client: pip install python-wsrpc[prometheus]"
    ) from exc

__all__ = ["WsrpcCollector"]

SNAPSHOT_TIMEOUT = 2.0
"""Seconds for which a collection waits for the event loop. After that, it shows the last snapshot."""

OTHER = "_OTHER"
"""Stands for events that have no handler, as in OpenTelemetry, and for close codes of remote peers, so that no peer can
add metrics."""

MOST_EVENTS = 1000
"""Number of events that have metrics of their own. Further events are `OTHER`."""

GAUGE, COUNTER = GaugeMetricFamily, CounterMetricFamily

STATS: list[tuple[type[GaugeMetricFamily | CounterMetricFamily], str, str, str]] = [
    (GAUGE, "healthy", "", "Whether the server accepts connections."),
    (GAUGE, "peers", "", "Open connections, and peers whose session is kept without a connection."),
    (GAUGE, "detached_peers", "", "Peers whose session is kept without a connection."),
    (GAUGE, "slow_peers", "", "Peers whose connection is full."),
    (GAUGE, "rooms", "", "Rooms that exist."),
    (GAUGE, "pending", "", "Outbound requests that wait for a response."),
    (GAUGE, "active", "", "Handlers that run in tasks."),
    (GAUGE, "waiting", "", "Inbound requests and events that wait for another handler to finish."),
    (GAUGE, "anonymous_channels", "", "Open anonymous channels, including streams."),
    (GAUGE, "unsent_bytes", "", "Bytes that wait in connections."),
    (GAUGE, "kept_bytes", "", "Bytes of messages that are kept until they are sent or acknowledged."),
    (COUNTER, "accepted", "", "Accepted connections."),
    (COUNTER, "refused", "status", "Refused opening handshakes."),
    (COUNTER, "refusals", "reason", "Refused opening handshakes, by the status and the first line of the response."),
    (COUNTER, "closed", "code", "Ended sessions, by the close code of the last connection."),
    (COUNTER, "messages_in", "", "Inbound messages."),
    (COUNTER, "messages_out", "", "Messages passed to transports."),
    (COUNTER, "bytes_in", "", "Bytes read from the network."),
    (COUNTER, "bytes_out", "", "Bytes written to the network."),
    (COUNTER, "skipped_broadcasts", "", "Broadcasts that were dropped because a peer was slow."),
    (COUNTER, "ignored", "kind", "Ignored inbound messages."),
    (COUNTER, "misfits", "program", "Messages that did not fit a handler, by the program of the peer."),
    (COUNTER, "deprecated", "program", "Calls of deprecated handlers, by the program of the peer."),
    (COUNTER, "errors", "", "Failures that were logged at ERROR, mostly failed handlers."),
    (COUNTER, "quotas_unchecked", "", "Connections accepted although the store did not count those of the user."),
    (GAUGE, "draining", "waits_for", "What a drain waits for, by event and kind."),
    (GAUGE, "store_answers", "", "Whether the store of calls with a key and of room histories answers."),
    (GAUGE, "cluster.connected", "", "Whether the engine of the cluster can be reached."),
    (GAUGE, "cluster.nodes", "", "Known processes of the cluster, including this one."),
    (GAUGE, "cluster.servers", "", "Those of them with a server that accepts connections."),
    (GAUGE, "cluster.addresses", "", "Known addresses of peers in the cluster."),
    (GAUGE, "cluster.unsent_bytes", "", "Bytes that the engine has not accepted yet."),
    (COUNTER, "cluster.connections", "", "Connections opened to other processes."),
    (GAUGE, "cluster.forwarded", "", "Connections of clients whose session another process has."),
    (COUNTER, "cluster.messages_in", "", "Messages from the engine."),
    (COUNTER, "cluster.messages_out", "", "Published messages."),
    (COUNTER, "cluster.engines_lost", "", "Lost connections to the engine."),
    (COUNTER, "cluster.gaps", "", "Times that messages of other processes may be missing."),
    (COUNTER, "cluster.passed_on", "", "Calls of other processes that were passed on to clients."),
    (COUNTER, "cluster.delivered", "", "Calls that have waited for a client, and were handed over."),
    (COUNTER, "cluster.expired", "", "Calls that have waited for a client in vain."),
    (COUNTER, "cluster.failed", "", "Submitted calls that have failed or expired."),
    (GAUGE, "cluster.waiting", "", "Calls that wait for clients of all processes, at the last count."),
    (GAUGE, "cluster.oldest_waiting", "", "Age in seconds of the oldest of them."),
    (COUNTER, "cluster.lost_events", "", "Events from other processes that were lost."),
    (COUNTER, "cluster.ignored", "kind", "Invalid messages from the engine."),
]
"""The metrics from `ServerStats`: the type, the attribute, the label of a dict, and the help text."""


class EventCalls:
    """The calls of one event that have ended."""

    __slots__ = ("buckets", "outcomes", "seconds")

    def __init__(self, buckets: int) -> None:
        self.outcomes: dict[str, int] = {}
        """Numbers of calls, by outcome."""
        self.buckets = [0] * buckets
        """Numbers of calls, by duration."""
        self.seconds = 0.0


class WsrpcCollector(Collector):
    """Collector for prometheus_client: ``REGISTRY.register(WsrpcCollector(server))``.

    It exports the values of `Server.stats`, and the number and the durations of the calls of handlers. A call of a
    stream, an upload or a conversation lasts until this has ended. The calls are observed by a middleware of the
    server, which does not slow ``def`` handlers down as other middleware does. Create one collector for each server,
    and register it with one registry.

    In a thread, `collect` waits for a snapshot that the event loop makes, for at most 2 seconds. In the event loop it
    cannot wait: if the server has more than 200 peers, it then shows the snapshot of the last collection.

    Args:
        buckets: upper limits of the histogram of durations, in seconds, in ascending order.
    """

    def __init__(self, server: Server, *, buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS) -> None:
        self._server = server
        self._limits = [float(each) for each in buckets if each != math.inf]
        self._events: dict[str, EventCalls] = {}
        """By the label of the event."""
        self._found: dict[tuple[str | None, str], EventCalls] = {}
        """The same objects, by channel name and event."""
        self._latest: ServerStats | None = None
        server.use(self._observe)

    # ------------------------------------------------------------ in the event loop

    # The classes of prometheus_client would take 4 microseconds for each call, which is half of a small request.

    def _observe(self, ctx: Context) -> Iterator[None]:
        began, outcome = time.perf_counter(), "ok"
        try:
            yield
        except BaseException as exc:
            outcome = type(exc).__name__  # not its code, which another peer may have chosen
        seconds = time.perf_counter() - began
        key = (ctx.channel_name, ctx.event) if ctx.is_handled else (None, OTHER)
        calls = self._found.get(key) or self._add(*key)
        calls.outcomes[outcome] = calls.outcomes.get(outcome, 0) + 1
        calls.buckets[bisect_left(self._limits, seconds)] += 1
        calls.seconds += seconds

    def _add(self, channel: str | None, event: str) -> EventCalls:
        label = event if channel is None else f"{channel}:{event}"
        full = len(self._found) >= MOST_EVENTS  # the program itself makes up names
        calls = self._events.setdefault(OTHER if full else label, EventCalls(len(self._limits) + 1))
        if not full:
            self._found[channel, event] = calls
        return calls

    # ------------------------------------------------------------ in any thread

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their values."""
        stats = self._snapshot()
        yield from _stats_metrics(stats)
        yield from _run_metrics({} if stats is None else stats.runs)
        yield from self._call_metrics(self._events.copy())

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values, because a registry asks for their names before the server runs."""
        yield from _stats_metrics(None)
        yield from _run_metrics({})
        yield from self._call_metrics({})

    def _call_metrics(self, events: dict[str, EventCalls]) -> Iterator[Metric]:
        count = CounterMetricFamily("wsrpc_calls", "Calls of handlers that have ended.", labels=["event", "outcome"])
        seconds = HistogramMetricFamily("wsrpc_call_duration_seconds", "Durations of these calls.", labels=["event"])
        names = [*map(str, self._limits), "+Inf"]
        for event, calls in events.items():
            for outcome, number in calls.outcomes.copy().items():
                count.add_metric([event, outcome], number)
            up_to = accumulate(calls.buckets.copy())
            seconds.add_metric([event], [*zip(names, up_to, strict=True)], calls.seconds)
        yield count
        yield seconds

    def _snapshot(self) -> ServerStats | None:
        """Return the latest snapshot. None if there is none yet."""
        future = self._server.collect_stats()
        try:
            self._latest = future.result(0 if _in_event_loop() else SNAPSHOT_TIMEOUT)
        except TimeoutError:
            future.add_done_callback(self._store)
        return self._latest

    def _store(self, future: Future[ServerStats]) -> None:
        self._latest = future.result()


def _in_event_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_metrics(runs: dict[str, RunStats]) -> Iterator[Metric]:
    running = GaugeMetricFamily("wsrpc_runs_running", "Runs of calls with a key that go on here.", labels=["event"])
    ended = CounterMetricFamily("wsrpc_runs_ended", "Runs that have ended here.", labels=["event", "outcome"])
    adopted = CounterMetricFamily("wsrpc_runs_adopted", "Runs that came from other processes.", labels=["event"])
    seconds = CounterMetricFamily("wsrpc_runs_seconds", "Duration of ended runs in this process.", labels=["event"])
    for event, each in runs.items():
        running.add_metric([event], each.running)
        adopted.add_metric([event], each.adopted)
        seconds.add_metric([event], each.seconds)
        for outcome, number in each.ended.items():
            ended.add_metric([event, outcome], number)
    yield from (running, ended, adopted, seconds)


def _stats_metrics(stats: ServerStats | None) -> Iterator[Metric]:
    """Yield the metrics of `STATS`, with values from ``stats``."""
    for make, path, label, text in STATS:
        family = make("wsrpc_" + path.replace(".", "_"), text, labels=[label] if label else [])
        of_cluster, _, name = path.rpartition(".")
        owner = stats.cluster if stats is not None and of_cluster else stats
        if owner is not None:
            value = getattr(owner, name)
            for key, number in (value if label else {"": value}).items():
                family.add_metric([str(key or OTHER)] if label else [], number)
        yield family

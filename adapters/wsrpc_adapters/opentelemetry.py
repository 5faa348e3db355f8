"""Traces and metrics of calls, by OpenTelemetry and its semantic conventions for RPC.

    instrument(server)

This needs only OpenTelemetry's API. The application chooses the SDK, and where it exports to. See
docs/how-to/observability.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import urlsplit

import wsrpc
from wsrpc import BadArguments, Client, OutgoingCall, Peer, RemoteError, RpcError, Server
from wsrpc.adapting import use_passing_on

try:
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.propagators.textmap import Getter, Setter
except ImportError as exc:
    raise ImportError(
        "wsrpc_adapters.opentelemetry needs opentelemetry-api: pip install 'python-wsrpc[opentelemetry]'"
    ) from exc

if TYPE_CHECKING:
    from wsrpc.blocking import ClusterClient as BlockingClusterClient
    from wsrpc.cluster import ClusterClient

__all__ = ["instrument"]

# All names are those of version 1.43 of the conventions. The part for RPC is a release candidate, so later versions may
# rename them.
SCHEMA = "https://opentelemetry.io/schemas/1.43.0"
DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Upper bounds of the buckets of durations."""
SYSTEM = "rpc.system.name"
METHOD = "rpc.method"
ERROR_TYPE = "error.type"
OTHER = "_OTHER"
"""Stands for all names that a remote peer may have made up."""

WSRPC = "wsrpc"
CALLS = frozenset({"request", "stream", "upload", "conversation"})
"""The kinds of outgoing calls that have a response."""
MAX_CODES = 100
"""Number of error codes that are distinguished. Any further code is `OTHER`, because the remote peer chooses it."""
MAX_CODE = 64
"""Characters of an error code that is distinguished."""
MAX_ENTRIES, MAX_BYTES = 32, 4096
"""How much metadata a message can have."""

Attributes = dict[str, str | int]
Started = tuple[Attributes, trace.Span, context.Context]
"""The attributes of a duration, the span, and the context that contains it."""
T = TypeVar("T")


def instrument(
    target: Server | Client | ClusterClient | BlockingClusterClient,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    events: bool = False,
    broadcasts: bool = False,
) -> None:
    """Trace and measure the requests, streams, uploads and conversations of a server or client, in both directions.

    The context of a trace travels in the metadata of the calls, in the format of the propagator that OpenTelemetry is
    configured with. Call this function before you register middleware of your own, and once for each object.

    Args:
        tracer_provider: where spans go. The default is OpenTelemetry's global provider.
        meter_provider: where durations go. The default is OpenTelemetry's global provider.
        events: whether to trace and measure events, too.
        broadcasts: whether to trace and measure the sending of broadcasts, too.
    """
    if not hasattr(target, "use_outgoing"):
        raise TypeError(f"instrument() takes a Server, ClusterClient or Client with an event loop, not {target!r}")
    tracer = trace.get_tracer(WSRPC, wsrpc.__version__, tracer_provider, SCHEMA)
    meter = metrics.get_meter(WSRPC, wsrpc.__version__, meter_provider, SCHEMA)
    kinds = {*CALLS, *(["event"] if events else []), *(["broadcast"] if broadcasts else [])}
    outgoing = OutgoingCalls(tracer, meter, kinds)
    target.use_outgoing(outgoing.observe)
    if isinstance(target, Server):
        use_passing_on(target, PassedCalls(tracer, meter, CALLS, "wsrpc.passed_call.duration").observe)
    if isinstance(target, (Server, Client)):  # not a ClusterClient, which handles no calls
        target.use(InboundCalls(tracer, meter, events=events).observe)
    if isinstance(target, Client):
        target.on("open", outgoing.connected)
        if target.connected:
            outgoing.connected(target.peer)


class Calls(Generic[T]):
    """The calls in one direction. Each has a span and a duration.

    Attributes:
        common: attributes of all calls.
    """

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter, kind: trace.SpanKind, duration: str) -> None:
        self.common: Attributes = {SYSTEM: WSRPC}
        self._kind = kind
        self._start_span = tracer.start_span
        self._record = meter.create_histogram(
            duration, unit="s", description="Duration of calls.", explicit_bucket_boundaries_advisory=DURATION_BUCKETS
        ).record
        self._codes: set[str] = set()
        """The error codes that are distinguished."""

    def observe(self, call: T) -> Iterator[None]:
        """Middleware that runs around each call."""
        # The time of the machine may be set during the call, so the duration needs another clock. Both are read
        # together: otherwise the span would end before the spans inside it.
        began, clock = time_ns(), perf_counter_ns()
        started = self._start(call, began)
        if started is None:
            yield
            return
        attributes, span, within = started
        try:
            yield
        except BaseException as error:
            failure = self._attributes_of(error)
            attributes = {**attributes, **failure}
            span.set_attributes(failure)
            if self._kind is trace.SpanKind.CLIENT or is_fault(error):
                span.set_status(trace.StatusCode.ERROR)
            raise
        finally:
            took = perf_counter_ns() - clock
            self._record(took / 1e9, attributes, within)
            span.end(began + took)

    def _start(self, call: T, now: int) -> Started | None:
        """Start the span of a call. Return None if the call is not measured."""
        raise NotImplementedError

    def _attributes_of(self, error: BaseException) -> Attributes:
        code = error.code if isinstance(error, RpcError) else None
        if code is None:
            error_type = type(error)
            module = "" if error_type.__module__ == "builtins" else f"{error_type.__module__}."
            return {ERROR_TYPE: module + error_type.__qualname__}
        name = str(code)
        if isinstance(error, RemoteError) and name not in self._codes:  # the program itself makes up no codes
            if len(name) > MAX_CODE or len(self._codes) == MAX_CODES:
                name = OTHER
            else:
                self._codes.add(name)
        return {"rpc.response.status_code": name, ERROR_TYPE: name}


class InboundCalls(Calls[wsrpc.Context]):
    """The calls that a server or client handles."""

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter, *, events: bool) -> None:
        super().__init__(tracer, meter, trace.SpanKind.SERVER, "rpc.server.call.duration")
        self._events = events

    def _start(self, call: wsrpc.Context, now: int) -> Started | None:
        """Start the span of a handler, and make it the current span."""
        event = call.event
        if call.id is None and not self._events:
            return None
        if (channel := call.channel_name) is not None:
            event = f"{channel}:{event}"
        parent = propagate.extract(call.metadata, getter=GETTER)
        # The handler has a copy of the context in which its connection began. The span there is no parent of the call,
        # because it may have ended long ago.
        links = links_to(current) if (current := context.get_current()) else ()
        if call.is_handled:
            attributes = {**self.common, METHOD: event}
            span = self._start_span(event, parent, self._kind, attributes, links, now)
        else:
            attributes = {**self.common, METHOD: OTHER}
            span = self._start_span(WSRPC, parent, self._kind, {**attributes, "rpc.method_original": event}, links, now)
        within = trace.set_span_in_context(span, parent)
        context.attach(within)  # and never detached, because only this handler has this context
        return attributes, span, within


class OutgoingCalls(Calls[OutgoingCall]):
    """The calls that a server or client makes.

    Args:
        kinds: the kinds of calls that are measured.
    """

    def __init__(
        self,
        tracer: trace.Tracer,
        meter: metrics.Meter,
        kinds: Collection[str],
        duration: str = "rpc.client.call.duration",
    ) -> None:
        super().__init__(tracer, meter, trace.SpanKind.CLIENT, duration)
        self._kinds = kinds

    def _parent_of(self, call: OutgoingCall) -> context.Context:
        return context.get_current()

    def _start(self, call: OutgoingCall, now: int) -> Started | None:
        """Start the span of a call, and add it to the metadata of the call."""
        if call.kind not in self._kinds:
            return None
        event, channel = call.event, call.channel_name
        if channel is not None:
            event = f"{channel}:{event}"
        attributes = {**self.common, METHOD: event}
        parent = self._parent_of(call)
        span = self._start_span(event, parent, self._kind, attributes, (), now)
        within = trace.set_span_in_context(span, parent)
        propagate.inject(call.metadata, within, SETTER)
        return attributes, span, within

    def connected(self, peer: Peer) -> None:
        """Handler of `open`, on a client: all calls go to the host of its URL."""
        host = urlsplit(f"//{peer.info.headers.get('host', '')}")
        self.common = {SYSTEM: WSRPC}
        if host.hostname:
            self.common["server.address"] = host.hostname
        if host.port:
            self.common["server.port"] = host.port


class PassedCalls(OutgoingCalls):
    """The calls of other nodes of a cluster that a server passes on to its clients."""

    def _parent_of(self, call: OutgoingCall) -> context.Context:
        return propagate.extract(call.metadata, getter=GETTER)


def is_fault(error: BaseException) -> bool:
    """Return whether ``error`` is an error of the side that handles the call, as the conventions for gRPC define it.

    It is not if a handler has rejected the call on purpose, or if the caller has cancelled it or made a mistake.
    """
    rejected = isinstance(error, RpcError) and not isinstance(error, RemoteError)
    return not (rejected or isinstance(error, (BadArguments, asyncio.CancelledError)))


def links_to(current: context.Context) -> list[trace.Link]:
    """Return a link to the span of a context, if it has one."""
    span = trace.get_current_span(current).get_span_context()
    return [trace.Link(span)] if span.is_valid else []


class HeaderGetter(Getter[Mapping[str, str]]):
    """Reads those entries of metadata that could be HTTP headers. Propagators expect these, and log what is wrong."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        """Return an entry, in a list."""
        text = carrier.get(key)
        return [text] if text is not None and text.isascii() and text.isprintable() else None

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        """Return the names of all entries."""
        return list(carrier)


class BoundedSetter(Setter[dict[str, str]]):
    """Adds entries to the metadata of a call, as long as there is room: a long baggage must not make the call fail."""

    def set(self, carrier: dict[str, str], key: str, value: str) -> None:
        """Add an entry, or leave it out."""
        size = len(key) + len(value.encode())
        if carrier:
            size += sum(len(name) + len(text.encode()) for name, text in carrier.items())
        if size <= MAX_BYTES and len(carrier) < MAX_ENTRIES:
            carrier[key] = value


GETTER, SETTER = HeaderGetter(), BoundedSetter()

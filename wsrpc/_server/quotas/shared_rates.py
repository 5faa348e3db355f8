"""`SharedRates`: lets the rates of users hold for all processes of a cluster together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..._base.buckets import TokenBucket
from ..._base.scheduler import LoopScheduler, Timer, Timers
from ..._core.handlers.compiled import Handler
from ..._core.handlers.registry import Registry
from ..joined_cluster import LONGEST, JoinedCluster, Spent
from .quotas import QuotaBook, Subject, ignore

INTERVAL = 0.25
"""Seconds after which a process tells the others what its users have spent."""
LASTING = 60.0
"""Seconds for which a process that has told something counts for the shares of the others."""
REQUESTS, BYTES = "requests", "bytes"
"""What the others are told about: these quotas, and events with ``rate=`` by `_labelled`."""

Labelled = list[tuple[str, TokenBucket]]


class SharedRates:
    """Tells the other processes what users spend here, and charges what they spend there. Losing messages is harmless.

    It lasts from `ServerCore.join` until the server leaves the cluster. A timer runs while users with rates are
    connected, or owe something.

    Args:
        registry: the handlers of the server. Handlers of single peers count in their process.
    """

    def __init__(self, quotas: QuotaBook, registry: Registry, cluster: JoinedCluster) -> None:
        self._quotas, self._registry, self._cluster = quotas, registry, cluster
        quotas.on_bound = self._watch
        cluster.on_spent(self._charge)
        self._labels: tuple[int, dict[str, Handler], dict[Handler, str]] = -1, {}, {}
        self._clock: Timers = LoopScheduler()
        self._timer: Timer | None = None
        self._looked_at = 0.0
        self._watched: dict[Subject, Labelled] = {}
        """Subjects that may spend, which are those with a connection, and what counts for their quotas."""
        self._received_at: dict[str, float] = {}
        """When each of the other nodes has last told something."""
        self._owing: dict[TokenBucket, float] = {}
        """When each of them has last paid."""

    def end(self) -> None:
        """From now on, this process counts alone."""
        self._quotas.on_bound = ignore
        self._cluster.on_spent(ignore)
        if self._timer is not None:
            self._timer.cancel()
        for bucket in self._owing:
            bucket.forgive()

    def _watch(self, subject: Subject, clock: Timers) -> None:
        """Tell others what a subject spends, as long as it is connected."""
        if subject.remembers or self._labelled()[0]:
            if subject not in self._watched:
                own = (REQUESTS, subject.requests), (BYTES, subject.bytes)
                self._watched[subject] = [(label, bucket) for label, bucket in own if bucket is not None]
            self._clock = clock
            self._start()

    def _start(self) -> None:
        if self._timer is None:
            self._looked_at = self._clock.time()
            self._timer = self._clock.call_at(self._looked_at + INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        now, nodes, spent = self._clock.time(), self._cluster.size, list[Spent]()
        seconds = now - self._looked_at
        for subject, own in [*self._watched.items()]:  # 10,000 subjects that do nothing take 1 ms
            for label, bucket in [*own, *self._rated(subject.buckets)] if subject.buckets else own:
                if bucket.spent > bucket.notified and (amount := bucket.untold(seconds, nodes)):
                    spent.append((*subject.key, label, amount))
            if not subject.connections:
                del self._watched[subject]
        sharing = self._sharing(now)
        for bucket in [*self._owing]:
            self._repay(bucket, now, sharing)
        if self._watched or self._owing:
            self._start()
        if spent and nodes > 1:
            self._cluster.notify_spent(spent)  # last, because an engine of the user's own may raise something

    def _repay(self, bucket: TokenBucket, now: float, nodes: int) -> None:
        if bucket.repay(now, now - self._owing.pop(bucket, now), INTERVAL, nodes):
            self._owing[bucket] = now

    def _rated(self, buckets: Mapping[Handler, TokenBucket]) -> Labelled:
        labels = self._labelled()[1]
        return [(labels[handler], bucket) for handler, bucket in buckets.items() if handler in labels]

    def _labelled(self) -> tuple[dict[str, Handler], dict[Handler, str]]:
        """Return the handlers with ``rate=`` by what other processes call them, and the other way round."""
        version, registry = self._labels[0], self._registry
        if version != registry.version:
            found = {
                f"{channel!r} {event}"[:LONGEST]: handler
                for channel, scope in registry.scopes.items()
                for event, handler in scope.handlers.items()
                if handler.rate is not None
            }
            self._labels = registry.version, found, {handler: label for label, handler in found.items()}
        return self._labels[1:]

    def _sharing(self, now: float) -> int:
        """Return how many processes share the rates, with this one. Others may have no users, or no server."""
        for node in [node for node, received_at in self._received_at.items() if received_at < now - LASTING]:
            del self._received_at[node]
        return 1 + len(self._received_at)

    def _charge(self, node: str, spent: Sequence[Spent]) -> None:
        """Charge what subjects have spent in another process."""
        now = self._clock.time()
        if node in self._received_at or len(self._received_at) < self._cluster.size - 1:  # else somebody invents names
            self._received_at[node] = now
        nodes = self._sharing(now)
        for number, name, label, amount in spent:
            subject = self._quotas.subject_elsewhere((number, name), label, amount)
            if subject is None:
                continue
            bucket: TokenBucket | None = None
            if label in (REQUESTS, BYTES):
                bucket = subject.requests if label == REQUESTS else subject.bytes
            elif subject.buckets and (handler := self._labelled()[0].get(label)) is not None:
                bucket = subject.buckets.get(handler)
            if bucket is not None:
                bucket.spend_elsewhere(now, amount, nodes)
                self._repay(bucket, now, nodes)
        if self._owing:
            self._start()

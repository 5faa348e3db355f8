"""`SharedRates`: lets the rates of users hold for all processes of a cluster together."""

from __future__ import annotations

from collections.abc import Sequence

from ..._base.buckets import TokenBucket
from ..._base.scheduler import LoopScheduler
from ..._core.handlers.compiled import Handler
from ..._core.handlers.registry import Registry
from ..joined_cluster import LONGEST, JoinedCluster, Spent
from .quotas import QuotaBook

INTERVAL = 0.25
"""Seconds after which a process reports to the others what its users have spent."""


class SharedRates:
    """Reports to the other processes what users spend here, and charges what they spend there.

    Losing messages is harmless. It lasts from `ClusterJoiner.enter` until the server leaves the cluster.

    Args:
        registry: the handlers of the server. Handlers of single peers count in their process.
    """

    def __init__(self, quotas: QuotaBook, registry: Registry, cluster: JoinedCluster) -> None:
        self._quotas, self._registry, self._cluster = quotas, registry, cluster
        self._owing = set[TokenBucket]()
        self._clock = LoopScheduler()
        self._notified_at = self._clock.time()
        self._timer = self._clock.call_at(self._notified_at + INTERVAL, self._notify)
        cluster.on_spent(self._charge)

    def end(self) -> None:
        """From now on, this process counts alone."""
        self._cluster.on_spent(lambda node, spent: None)
        self._timer.cancel()
        for bucket in self._owing:
            bucket.forgive()

    def _rated(self) -> dict[str, Handler]:
        """Return the handlers with ``rate=``, by the names that all processes have for them."""
        return {
            f"{channel!r} {event}"[:LONGEST]: handler
            for channel, scope in self._registry.scopes.items()
            for event, handler in scope.handlers.items()
            if handler.rate is not None
        }

    def _notify(self) -> None:
        now, nodes, spent = self._clock.time(), self._cluster.size, list[Spent]()
        labels = {handler: label for label, handler in self._rated().items()}
        seconds, self._notified_at = now - self._notified_at, now
        for subject in self._quotas.subjects:  # 10,000 subjects that do nothing take 2 ms
            if not subject.was_connected:
                continue
            subject.was_connected = subject.connections > 0
            for label, bucket in subject.buckets_by_label(labels) if subject.buckets else subject.own.items():
                if bucket.spent > bucket.notified and (amount := bucket.untold(seconds, nodes)):
                    spent.append((*subject.key, label, amount))
        self._owing = {bucket for bucket in self._owing if bucket.repay(now, seconds, nodes)}
        self._timer = self._clock.call_at(now + INTERVAL, self._notify)
        if spent and nodes > 1:
            self._cluster.notify_spent(spent)  # last, because an engine of the user's own may raise something

    def _charge(self, node: str, spent: Sequence[Spent]) -> None:
        """Charge what subjects have spent in another process."""
        now, rated = self._clock.time(), self._rated()
        for number, name, label, amount in spent:
            bucket = self._quotas.bucket_elsewhere((number, name), label, amount, rated)
            if bucket is not None:
                bucket.spend_elsewhere(now, amount, self._cluster.size)
                self._owing.add(bucket)

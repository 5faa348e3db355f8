"""`Subject`: a user or an address, as far as one of the `Quotas` counts it in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import inf
from sys import maxsize
from typing import Any
from weakref import WeakKeyDictionary

from ..._base.buckets import TokenBucket, above, bucket_of
from ..._core.handlers.compiled import Handler
from ..._core.peer.active_calls import bucket_in
from ..._core.peer.admission import Limiter, Refusal
from ...limits import rate_of
from ...quotas import Quotas

ABOVE = "above the quota"
"""The kind of refused messages in `Peer.ignored`."""
LOG_INTERVAL = 60.0
"""Seconds after which the log names a subject again that is above its quota."""
REQUESTS, BYTES = "requests", "bytes"
"""The names of these quotas for other processes."""

SubjectKey = tuple[int, str]
"""The number of the `Quotas`, and a hash of the name that they give to a subject: other processes learn no names."""


class Subject:
    """A user or an address, as far as one of the `Quotas` counts it in this process.

    It is remembered without a connection, too, so that the next one has no full bucket.
    """

    __slots__ = (
        "_quiet_until",
        "_quotas",
        "_running",
        "buckets",
        "connections",
        "count",
        "key",
        "own",
        "text",
        "was_connected",
    )

    def __init__(self, quotas: Quotas, key: SubjectKey) -> None:
        self._quotas = quotas
        self.key = key
        self.text = ""
        """The name that the `Quotas` give to it. Empty until it connects to this process."""
        self.connections = 0
        self.was_connected = False
        """Whether it had a connection since `SharedRates` looked at it last, and so may have spent something."""
        self._quiet_until: dict[str, float] = {}
        """When the log may name it again, by what was exceeded."""
        self.count = 0
        """Number of handlers that run. `ActiveCalls` counts them."""
        self.buckets: WeakKeyDictionary[Any, TokenBucket] | None = None
        """Of the handlers with ``rate=`` that were called. `ActiveCalls` makes them."""
        self._running = maxsize if quotas.running is None else quotas.running
        rates = (REQUESTS, quotas.requests), (BYTES, quotas.bytes)
        self.own = {label: bucket_of(rate_of(label, rate)) for label, rate in rates if rate is not None}
        """Count the requests and events, and the bytes that arrive."""

    @property
    def name(self) -> str:
        """The name in the log."""
        return self.text if self._quotas.by != "principal" else self.text.partition(" ")[2]

    @property
    def most(self) -> int | None:
        """The quota of connections."""
        return self._quotas.connections

    @property
    def limiters(self) -> list[Limiter]:
        """What counts requests and events."""
        requests = self.own.get(REQUESTS)
        if requests is None and self._running == maxsize:
            return []
        spend = self._spend if requests is None or self._running < maxsize else requests.spend  # saves a call
        return [Limiter(spend, self._refusal, self._refund)]

    @property
    def remembers(self) -> bool:
        """Whether the next connection must find this object."""
        return bool(self.own or self.count or self.buckets or self._quiet_until)

    def _spend(self, now: float) -> bool:
        requests = self.own.get(REQUESTS)
        return self.count < self._running and (requests is None or requests.spend(now))

    def _refund(self) -> None:
        if (requests := self.own.get(REQUESTS)) is not None:
            requests.refund()

    def buckets_by_label(self, labels: Mapping[Handler, str]) -> Iterator[tuple[str, TokenBucket]]:
        """Yield all buckets, each with its name for other processes. ``labels`` has the names of handlers."""
        yield from self.own.items()
        for handler, bucket in (self.buckets or {}).items():
            if handler in labels:
                yield labels[handler], bucket

    def bucket(self, label: str, rated: Mapping[str, Handler]) -> TokenBucket | None:
        """Return the bucket with this name. ``rated`` has the handlers with ``rate=`` by their names."""
        handler = rated.get(label)
        if handler is None or handler.rate is None:
            return self.own.get(label)
        return bucket_in(self, handler, handler.rate)

    def _refusal(self, now: float) -> Refusal:
        wait, by = None, "Quotas.running"
        if self.count >= self._running:
            why = f"{self._running} handlers run already in this process"
        else:
            wait, by = self.own[REQUESTS].wait(), "Quotas.requests"
            why = above(rate_of(REQUESTS, self._quotas.requests), "requests and events")
        return Refusal(ABOVE, f"{why} on all your connections", f"{by} of {self.name}", wait, self.is_named(by, now))

    def is_named(self, by: str, now: float) -> bool:
        """Return whether the log names it for a refusal of ``by`` at this time, and not again for a while."""
        if now < self._quiet_until.get(by, -inf):
            return False
        self._quiet_until[by] = now + LOG_INTERVAL
        return True

    def enter(self) -> None:
        """Count one more connection.

        Raises:
            QuotaExceeded: there are too many.
        """
        if self.most is not None and self.connections >= self.most:
            raise QuotaExceeded(self)
        self.connections += 1
        self.was_connected = True


class QuotaExceeded(Exception):
    """A subject has as many connections as it may have."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(f"more than {subject.most} connections: close one, or try again later")
        self.subject = subject

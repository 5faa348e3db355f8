"""The contract between keyed calls and the store that keeps their results and items.

A call with a key *runs* once: its first caller begins the run, and later callers read it. One *process* runs it, and
any process may read it. A `Store` keeps what is known of each run. `MemoryStore` keeps it in this process, and
``wsrpc_adapters.redis.RedisStore`` in Redis. Everything happens in the thread of one event loop.

**Keys.** Each run has a ``key`` of up to 64 ASCII letters and digits, and a random ``id``. A key has at most one run at
a time. A store forgets a run ``keep`` seconds after its end, or after the last sign of life of a process that has not
ended it. From then on, the key is free.

**Claims.** ``begin(key, run)`` claims the key for a new run, or returns the state of the run that has the key, in one
step: of many concurrent calls, one gets its own ``id`` back. Calling it again with the same ``id`` changes nothing. A
claim lasts `LEASE` seconds from ``begin``, and from each ``append`` and ``renew``. When a claim has lapsed,
`RunState.lost` is true. A lapsed claim is renewed like any other, as long as nobody has ended the run. The store uses
its own clock, because the clocks of two processes differ.

**Items.** The items of a run are numbered from 1. ``append(key, id, number, items)`` adds items, of which the first has
this number. If all of these numbers are stored already, nothing changes, so an append whose answer was lost can be
repeated. If the number does not follow the last item, the store has lost items (such as a Redis that was restored from
an old snapshot), and ``append`` raises `RunGone`. The store keeps at most ``run_bytes`` of each run: it drops the
oldest items, but never the last one. ``end(key, id, end)`` ends a run; the first end counts. Both raise `RunGone` if
the key has no such run, and ``append`` also if the run has ended.

**Reading.** ``read(key, after)`` returns the items after a number, in order and without gaps, but not more than about
64 KiB at once. If the first kept item is later, the items begin there: `RunState.first` tells. If there is no item and
no end, ``read`` waits up to ``wait`` seconds for one; it may return earlier without any. It returns None if there is no
run. ``reader`` is a name of the reader, who counts as one of the `RunState.readers` until ``leave``, or until `LEASE`
seconds after its last ``read`` has returned.

**Shares.** A ``payer`` pays for its runs. If a payer already has ``payer_runs`` runs or ``payer_bytes``, ``begin``
raises `StoreFull`; the runs of others are not affected, and no run is dropped before its time. If ``append`` would
exceed ``payer_bytes``, the oldest items of the same run are dropped.

**Adoption.** A run with a ``topic`` can be continued by another process: ``adopt(topic)`` returns the running runs of
this topic whose claims have lapsed, each with its ``payload``, and renews their claims, in one step: of many processes,
one gets each run.

**Failures.** Every method raises `StoreLost` if the store does not answer. It may have done what it was asked. All
methods may be called again. Cancelling them is safe in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from .errors import WsrpcError

__all__ = ["LEASE", "AdoptedRun", "NewRun", "Page", "RunGone", "RunState", "Store", "StoreFull", "StoreLost"]

LEASE = 6.0
"""Seconds for which a claim lasts without a sign of life."""

PAGE_BYTES = 64 * 1024
"""Bytes of items after which `Store.read` returns no more items at once."""


class StoreLost(WsrpcError):
    """The store does not answer."""


class StoreFull(WsrpcError):
    """The store has no room for another run of this payer."""


class RunGone(WsrpcError):
    """The store has no such run, the run has ended, or the store has lost some of its items."""


class NewRun(Struct, frozen=True, kw_only=True):
    """A run that is to begin.

    Attributes:
        id: a random id.
        arguments: a text that is equal for calls with equal arguments.
        payer: the one whose share of the store the run takes.
        keep: seconds for which the run is kept after its end.
        topic: the topic under which `Store.adopt` finds the run. Empty: no other process can continue it.
        payload: what another process needs to continue the run.
    """

    id: str
    arguments: str
    payer: str
    keep: float
    topic: str = ""
    payload: bytes = b""


class RunState(Struct, frozen=True, kw_only=True):
    """What a store knows of a run.

    Attributes:
        id: the id of the run.
        arguments: as for `NewRun`.
        first: the number of the first kept item. One more than ``last`` if no item is kept.
        last: the number of the last item. 0 before the first item.
        end: how the run has ended, encoded. None while it runs.
        stopping: whether `Store.stop` was called.
        readers: the number of readers.
        lost: whether the run has not ended, and its claim has lapsed.
    """

    id: str
    arguments: str
    first: int
    last: int
    end: bytes | None
    stopping: bool
    readers: int
    lost: bool


class Page(Struct, frozen=True):
    """The result of `Store.read`: the state of the run, and some of its items, which begin with ``number``."""

    state: RunState
    number: int
    items: Sequence[bytes]


class AdoptedRun(Struct, frozen=True):
    """A run that this process continues."""

    key: str
    id: str
    payload: bytes


class Store(Protocol):
    """Keeps the runs of keyed calls. The module `wsrpc.store` describes how each method must behave."""

    async def begin(self, key: str, run: NewRun, /) -> RunState: ...

    async def append(self, key: str, id: str, number: int, items: Sequence[bytes], /) -> RunState: ...

    async def end(self, key: str, id: str, end: bytes, /) -> None: ...

    async def read(self, key: str, after: int, /, *, reader: str = "", wait: float = 0.0) -> Page | None: ...

    async def leave(self, key: str, reader: str, /) -> None: ...

    async def stop(self, key: str, id: str, /) -> None:
        """Ask the process of a run to stop it. It learns this from its next ``append`` or ``renew``."""

    async def renew(self, runs: Mapping[str, str], /) -> Mapping[str, RunState]:
        """Renew the claims of runs, given as ids by keys. Return the states of those that still exist."""
        ...

    async def adopt(self, topic: str, /) -> Sequence[AdoptedRun]: ...

    async def close(self) -> None:
        """Release connections and tasks. A call after this opens them again."""

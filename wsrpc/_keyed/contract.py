"""The types of the contract that `wsrpc.store` describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from ..errors import WsrpcError

LEASE = 6.0
"""Seconds for which a lease lasts without a sign of life, unless a store was made with another ``lease``."""


class StoreLost(WsrpcError):
    """The store does not answer."""


class StoreFull(WsrpcError):
    """The store has no room for a run of this payer, or for its end."""


class RunGone(WsrpcError):
    """The store has no such run, the run has ended, or the store has lost some of its items."""


class NewRun(Struct, frozen=True, kw_only=True):
    """A run that is to start, or a log.

    Attributes:
        id: a random id.
        arguments: a text that is equal for calls with equal arguments.
        payer: the one whose share of the store the run takes.
        keep: seconds for which the run is kept after its end, or the log after its last `Store.add`.
        memory: bytes that its process needs for it until it ends, such as its arguments.
        topic: the topic under which `Store.adopt` finds the run. Empty: no other process can continue it.
        payload: what another process needs to continue the run.
    """

    id: str
    arguments: str
    payer: str
    keep: float
    memory: int = 0
    topic: str = ""
    payload: bytes = b""


class RunState(Struct, frozen=True):
    """What a store knows of a run or a log.

    Attributes:
        id: the id of the run.
        arguments: as for `NewRun`.
        first: the number of the first kept item. One more than ``last`` if no item is kept.
        last: the number of the last item. 0 before the first item.
        end: how the run has ended, encoded. None while it runs.
        stopping: whether `Store.stop` was called.
        readers: the number of readers.
        lost: whether the run has not ended, and its lease has lapsed.
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
    """The result of `Store.read`.

    Attributes:
        state: the state of the run.
        number: the number of the first item in ``items``, or of the next item if there is none.
        items: some items, in order.
        before: in a log, the id of the item before ``number``, which may be the one that was dropped last. Empty if
            ``number`` is 1, and for a run.
        ids: the ids of ``items``, if they are those of a log.
    """

    state: RunState
    number: int
    items: Sequence[bytes]
    before: str = ""
    ids: Sequence[str] = ()


class Added(Struct, frozen=True):
    """The result of `Store.add`.

    Attributes:
        number: the number of the first added item, or of the next item if there is none.
        before: the id of the item before that. Empty if ``number`` is 1.
        state: the state of the log.
    """

    number: int
    before: str
    state: RunState


class AdoptedRun(Struct, frozen=True):
    """A run that this process continues.

    Attributes:
        key: the key of the run.
        id: the id of the run.
        payload: as for `NewRun`.
    """

    key: str
    id: str
    payload: bytes


class Store(Protocol):
    """Keeps the runs of keyed calls, and logs. The module `wsrpc.store` describes how each method must behave."""

    @property
    def lease(self) -> float:
        """Seconds for which a lease lasts."""
        ...

    async def start(self, key: str, run: NewRun, /) -> RunState: ...

    async def append(self, key: str, id: str, number: int, items: Sequence[bytes], /) -> RunState: ...

    async def end(
        self, key: str, id: str, end: bytes, /, *, last: int | None = None, free: bool = False, lapsed: bool = False
    ) -> None: ...

    async def add(self, key: str, log: NewRun, writer: str, sequence: int, items: Sequence[bytes], /) -> Added: ...

    async def read(self, key: str, after: int, /, *, reader: str = "", wait: float = 0.0) -> Page | None: ...

    async def leave(self, key: str, reader: str, /) -> None: ...

    async def stop(self, key: str, id: str, /) -> None:
        """Ask the process of a run to stop it. It learns this from its next ``append`` or ``renew``."""

    async def renew(self, runs: Mapping[str, str], /) -> Mapping[str, RunState]:
        """Renew the leases of runs, given as ids by keys. Return the states of those that still exist."""
        ...

    async def adopt(self, topic: str, /) -> Sequence[AdoptedRun]: ...

    async def close(self) -> None:
        """Release connections and tasks. Reads that wait end. A call after this opens the connections again."""

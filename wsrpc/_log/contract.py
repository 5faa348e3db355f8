"""The types of the contract that `wsrpc.store` describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from ..errors import WsrpcError

LEASE = 6.0
"""Seconds for which a lease lasts without a sign of life, unless a store was made with another ``lease``."""

PAGE = 64 * 1024
"""Bytes of entries or payloads after which a page has no more of them."""

MOST_LISTED, MOST_TOPICS = 100, 200
"""Maximum numbers of logs that ``pending`` and of lists that ``topics`` returns at once."""

OTHER = "other"
"""The writer that ends a log of another process."""


class StoreLost(WsrpcError):
    """The store does not answer."""


class StoreFull(WsrpcError):
    """The store has no room for a log of this payer, or for its end."""


class LogGone(WsrpcError):
    """The store has no such log, the log has ended, or the store has lost some of its entries."""


class NewLog(Struct, frozen=True, kw_only=True):
    """A log that is to begin.

    Attributes:
        id: a random id.
        payer: the one whose share of the store the log takes.
        keep: seconds for which the log is kept after its end, or, without an owner, after its last `Store.append`.
        owned: whether one process adds the entries, and ends the log. Otherwise all add entries, and none ends it.
        arguments: a text by which those who open the log know whether they mean the same.
        memory: bytes that the owner needs for the log until it ends, such as the arguments of a call.
        topic: the list in which the log stands until it has ended. Such a log has no owner until `Store.adopt` gives it
            one. Empty: it stands in no list.
        within: seconds from its beginning in which a log of a list can be adopted.
        payload: what its owners need to know of a log. If it stands in no list, other processes can take the log over;
            see `wsrpc.store`.
    """

    id: str
    payer: str
    keep: float
    owned: bool = False
    arguments: str = ""
    memory: int = 0
    topic: str = ""
    within: float = 0.0
    payload: bytes = b""


class LogState(Struct, frozen=True):
    """What a store knows of a log.

    Attributes:
        id: the id of the log.
        arguments: as for `NewLog`.
        first: the number of the first kept entry. One more than ``last`` if no entry is kept.
        last: the number of the last entry. 0 before the first entry.
        end: the last words of the log. None before its end.
        readers: the number of readers, as far as processes have told with `Store.hold`.
        lost: whether the log has not ended, and its lease has lapsed, or ``owner_ended``. One of a list is not lost as
            long as it can be adopted.
        owner_ended: whether the log has not ended, and the store knows that its owner has. Then nobody waits for it.
        known_in: for a log of a list that has not ended, seconds until it is lost, unless its lease is renewed.
        attempt: how many owners `Store.adopt` has given to a log of a list, and how many have lost another log.
        can_move: whether another process can adopt the log when it is lost, without a list.
        behind: the id of the log before it in its list, which has not ended. `Store.open` says so. Empty: there is
            none.
    """

    id: str
    arguments: str
    first: int
    last: int
    end: bytes | None
    readers: int
    lost: bool
    owner_ended: bool = False
    known_in: float = 0.0
    attempt: int = 0
    can_move: bool = False
    behind: str = ""


class Page(Struct, frozen=True):
    """The result of `Store.read`.

    Attributes:
        state: the state of the log.
        number: the number of the first entry in ``entries``, or of the next entry if there is none.
        before: the id of the entry before ``number``, which may be the one that was dropped last. Empty if ``number``
            is 1.
        entries: some entries, in order.
        ids: the ids of ``entries``.
    """

    state: LogState
    number: int
    before: str
    entries: Sequence[bytes]
    ids: Sequence[str]


def entry_id(writer: str, sequence: int) -> str:
    """Return the id of an entry: every writer numbers its entries, beginning with 1."""
    return f"{writer}.{sequence}" if sequence else ""


class Appended(Struct, frozen=True):
    """The result of `Store.append`.

    Attributes:
        number: the number of the first added entry, or of the next entry if there is none.
        before: the id of the entry before that. Empty if ``number`` is 1.
        state: the state of the log.
    """

    number: int
    before: str
    state: LogState


class Acquired(Struct, frozen=True):
    """The result of `Store.acquire`.

    Attributes:
        count: what the process has from now on.
        known_in: seconds until the store knows whether a process that counts has ended, because it misses the process.
            0: it misses none, or cannot tell.
    """

    count: int
    known_in: float = 0.0


class ListedLog(Struct, frozen=True):
    """A log of a list, or one that a process has lost, as ``pending`` returns it.

    Attributes:
        number: its place. A log that has begun later has a higher number.
        key: the key of the log.
        id, payload: as for `NewLog`.
        age: seconds since the log has begun, by the clock of the store.
        attempt: as for `LogState`.
        lost: as for `LogState`. Of one that a process has lost: whether `Store.adopt` gives it another owner.
        released: whether `Store.release` has handed it over.
    """

    number: int
    key: str
    id: str
    payload: bytes
    age: float
    attempt: int
    lost: bool
    released: bool = False


def is_rest(page: Sequence[ListedLog]) -> bool:
    """Return whether no more logs come after those of a page."""
    return len(page) < MOST_LISTED and sum(len(log.payload) for log in page) < PAGE


class Topic(Struct, frozen=True):
    """A list that is not empty, as ``topics`` returns it.

    Attributes:
        number: the number of its last log, or of a later one that has ended.
        name: its name.
        count: the number of its logs.
        age: seconds since the first one has begun.
        newest: the id of the last one.
    """

    number: int
    name: str
    count: int
    age: float
    newest: str


class Store(Protocol):
    """Keeps logs. The module `wsrpc.store` describes how each method must behave."""

    @property
    def lease(self) -> float:
        """Seconds for which a lease lasts."""
        ...

    async def open(self, key: str, log: NewLog, /) -> LogState: ...

    async def append(
        self,
        key: str,
        log: NewLog | str,
        writer: str,
        sequence: int,
        entries: Sequence[bytes],
        /,
        *,
        end: bytes | None = None,
        free: bool = False,
        only_if_lost: bool = False,
    ) -> Appended: ...

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None: ...

    async def hold(
        self, process: str, logs: Mapping[str, str], readers: Mapping[str, int], /
    ) -> Mapping[str, LogState]:
        """Renew the leases of logs, given as ids or names of owners by keys. Return the states of those that exist."""
        ...

    async def release(self, logs: Mapping[str, str], /) -> None:
        """End the leases of logs, given as ids or names of owners by keys."""
        ...

    async def adopt(self, key: str, id: str, owner: str, /) -> LogState: ...

    async def pending(self, topic: str, after: int, /) -> Sequence[ListedLog]: ...

    async def topics(self, after: int, /) -> Sequence[Topic]: ...

    async def acquire(self, subject: str, process: str, has: int, wants: int, most: int, /) -> Acquired: ...

    async def close(self) -> None:
        """Release connections and tasks. Reads that wait end. A call after this opens the connections again."""

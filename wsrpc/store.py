"""The contract of a store, which keeps results, items and events, and counts connections.

A `Store` keeps **logs**. A log has a ``key`` of up to 64 ASCII letters and digits, a random ``id``, and numbered
entries. `MemoryStore` keeps logs in this process, `SqliteStore` in a file, and
``wsrpc_adapters.redis.RedisStore`` in Redis. Everything happens in the thread of one event loop.

**Two kinds.** A log with an *owner* is written by one process, which ends it: a call with a key is such a log, its
items are the entries, and its result is the end. A log without one is written by all processes, and never ends: a room
with ``keep=`` is such a log.

**Opening.** ``open(key, log)`` begins a log, or returns the state of the one that has the key, in one step: of many
concurrent calls, one gets its own ``id`` back. Calling it again with the same ``id`` changes nothing, also after the
end. A store forgets a log with an owner ``keep`` seconds after its end, or, if nobody has ended it, after the lease of
its owner has lapsed; and another one ``keep`` seconds after the last ``append`` with a `NewLog`. From then on, the key
is free, and the next log begins anew at number 1.

**Leases.** The owner of a log has a lease, which lasts ``lease`` seconds from ``open``, from each ``append`` of the
owner, and from each ``hold(process, logs, readers)``, which returns the states of these logs. When the lease has
lapsed, `LogState.lost` is true, until it is renewed. ``release(logs)`` lets leases lapse at once: a process that ends
well calls it for what it still holds. Ids of other logs have no effect there, and in ``hold``. The store uses its own
clock, because the clocks of two processes differ. A store that learns that a process has ended, as Redis does of its
connections, may tell this before the lease lapses, by `LogState.owner_ended`. It may have another method,
``await look()``, which is called when a process does not answer: the store then looks which have ended, before anybody
reads.
``readers`` has the number of readers of each log in a process, which is a random name: they count as `LogState.readers`
until the process tells another number, or for ``lease`` seconds.

**Adoption.** A log with an owner, a ``payload`` and no topic can move to another process, as soon as its owner, which
is the ``id`` of the log, has called ``adopt(key, id, id)``. When its lease has lapsed, or the store knows that its
process has ended, ``adopt(key, id, owner)`` gives it another owner, which is the name of a writer that nobody else
uses: of many that call it, one gets the log, and `LogGone` is raised for the others. The new owner goes on after
`LogState.last`. The one before can add and end nothing any more, and renews nothing: ``hold`` and ``release`` take such
a log by the name of its owner. An ``adopt`` of the present owner renews the lease. ``pending("", after)`` returns the
logs that can be adopted, and may return some that it expects to become such soon, whose `ListedLog.lost` is false.
After ``release``, the log has no owner. `LogState.attempt` counts the owners that have lost the log before its end.
After its end, it has a lease, can be adopted and keeps its payload, until its owner ends it once more, with
``end=b""``: everything is done. An end with ``free`` says so, too.

**Entries.** ``append(key, log, writer, sequence, entries)`` adds entries. ``log`` is the id of a log, or a `NewLog`
that begins if there is none. A writer is a name of up to 40 ASCII letters, digits and ``-`` which nobody else uses,
also after a restart. It numbers its own entries by ``sequence``, in rising order and below 10**14, and an entry has the
id ``"<writer>.<sequence>"``. It makes one call at a time. If an answer was lost, it repeats the same batch: for ten
minutes, and until 128 other writers have added entries to the log, this has no effect, and returns the number and the
id of the first call, even if the entries have been dropped. An earlier batch is never added then, and raises `LogGone`.
The writer of a log with an owner is the ``id`` of the log, or the name that ``adopt`` has given to its owner. Its
sequence is the number of the entry, whose id has the ``id`` of the log in place of the writer. If there is a gap, the
store has lost entries (such as a Redis that was restored from an old snapshot), and ``append`` raises `LogGone`. It
raises `LogGone` also for a log that does not exist, for entries for one that has ended, and for what anybody else adds
or ends.

**The end.** ``append(..., end=)`` also ends a log with an owner; the first end counts. The writer ``"other"`` may do
so, too, without entries: this stops the log, and its owner learns of it from its next ``append`` or ``hold``. With
``only_if_lost``, it has no effect unless the lease has lapsed. With ``free``, the key is free at once: the next
``open`` begins another log in place of the ended one, which can be read until then. The other log remembers the ids of
at least the eight logs before it, as an ``open`` of one of them may be late. That changes nothing, also after the other
log has freed the key, too.

**Reading.** ``read(key, after)`` returns the entries after a number, in order and without gaps, but not more than about
64 KiB at once. If ``after`` is the number of the last entry, and the log has not ended, ``read`` waits up to ``wait``
seconds for another one; it may return earlier. It returns None if there is no log. A number and an id together are a
position, which proves itself: a reader at entry 17 calls ``read(key, 17)``, and has missed nothing if `Page.number` is
18 and `Page.before` is the id of its entry 17. ``before`` is known also if that entry has been dropped, as long as no
later one has. If ``after`` is beyond the last entry, ``number`` is that of the next entry, so ``before`` is the id of
the last one.

**Shares.** A ``payer`` pays for its logs: for the bytes that they take in the store, and for the ``memory`` and the
``payload`` that their owners need until they end, in bytes. If a payer already has ``payer_logs`` logs, or would have
more than ``payer_bytes``, a log that would begin raises `StoreFull`; those of others are not affected, and none is
dropped before its time. For a log of a list, two things differ. Not the payer's logs are counted, but those of the list
that are not lost: at most ``waiting``. And if the bytes do not suffice, logs of the payer that have left their lists
are dropped, the one that has ended first before the others. A log keeps at most ``log_bytes`` of its entries: the
oldest are dropped, but never the last one. If entries or an end would exceed ``payer_bytes``, the oldest entries of the
same log are dropped, if necessary all. If that is not enough for an end, ``append`` raises `StoreFull`, and the log has
not ended. An end of at most 1 KiB always has room. A limit for all payers together works in the same way.

**Lists.** A log with a ``topic`` stands in the list of this name, in the order of their beginning, until it has ended.
``open`` says which log stands before it. The log has no owner at first: ``adopt(key, id, owner)`` gives it one, which
is the name of a writer that nobody else uses, and a lease. Another ``adopt`` gives it another owner, also if its lease
has not lapsed, and `LogState.attempt` counts them; repeated with the present owner, it only renews the lease. It raises
`LogGone` if there is no such log, if it has ended, or if it would get another owner, and ``within`` seconds have passed
since its beginning. The log is lost when they have passed and no lease is left, and is forgotten ``keep`` seconds
later. It has no entries. Only its present owner, which is the ``id`` of the log before the first ``adopt``, and the
writer ``"other"`` can end it: of an ``append`` of somebody else, it raises `LogGone`.

``pending(topic, after)`` returns the logs of a list whose numbers are higher than ``after``, in order: 100, or those
whose payloads have just 64 KiB, or all. ``topics(after)`` returns the lists that are not empty and whose numbers are
higher than ``after``, in order: 200, or all. The number of a list is that of its last log, or of a later one that has
ended. Both change nothing. Every log that begins in a list gets a higher number than all before it, also those that the
store has lost since, so that nobody who knows a number overlooks it; numbers are below 2**53, such as microseconds of a
clock.

**Counts.** ``acquire(subject, process, has, wants, most)`` tells how many of something a process has, such as
connections of a user, and asks for more, in one step. ``process`` is the key of a log with an owner, whose lease is the
sign of life of the process: ``acquire`` raises `LogGone` if there is none, or if it has ended. ``subject`` is a text of
up to 64 ASCII letters, digits and ``-``. Both numbers are for all that the process has, so repeating a call changes
nothing: from then on, it has ``wants``, or less, if all processes would have more than ``most``, but at least ``has``.
The store forgets what a process has together with the log, and does not count it for others while the lease has lapsed.
A store that learns earlier that a process has ended does not count it from then on, and may tell by
`Acquired.known_in` that it will know soon.

**Format.** `FORMAT` is the version of what is in the logs. A store that outlives a process keeps this number with its
logs, and raises `StoreLost` if it finds another one: processes of both versions would run the same keys.

**Failures.** Every method raises `StoreLost` if the store does not answer. It may have done what it was asked. All
methods may be called again. Cancelling them is safe in the same way. After a failure, the process calls ``append`` with
the key ``"probe"`` and without entries, until the store answers.
"""

from ._log.contract import (
    LEASE,
    Acquired,
    Appended,
    ListedLog,
    LogGone,
    LogState,
    NewLog,
    Page,
    Store,
    StoreFull,
    StoreLost,
    Topic,
)
from ._log.kept import FORMAT
from ._log.memory_store import MemoryStore
from ._log.sqlite_store import SqliteStore

__all__ = [
    "FORMAT",
    "LEASE",
    "Acquired",
    "Appended",
    "ListedLog",
    "LogGone",
    "LogState",
    "MemoryStore",
    "NewLog",
    "Page",
    "SqliteStore",
    "Store",
    "StoreFull",
    "StoreLost",
    "Topic",
]

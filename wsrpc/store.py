"""The contract between keyed calls, rooms with a log, and the store that keeps their results, items and events.

A call with a key *runs* once: its first caller starts the run, and later callers read it. One *process* runs it, and
any process may read it. A `Store` keeps what is known of each run. `MemoryStore` keeps it in this process, and
``wsrpc_adapters.redis.RedisStore`` in Redis. Everything happens in the thread of one event loop.

**Keys.** Each run has a ``key`` of up to 64 ASCII letters and digits, and a random ``id``. A key has at most one run at
a time. A store forgets a run ``keep`` seconds after its end, or, if nobody has ended it, after its lease has lapsed.
From then on, the key is free.

**Leases.** ``start(key, run)`` leases the key to a new run, or returns the state of the run that has the key, in one
step: of many concurrent calls, one gets its own ``id`` back. Calling it again with the same ``id`` changes nothing,
also after the end of the run. A lease lasts ``lease`` seconds from ``start``, and from each ``append`` and ``renew``.
When a lease has lapsed, `RunState.lost` is true. A lapsed lease is renewed like any other, as long as nobody has ended
the run. The store uses its own clock, because the clocks of two processes differ.

**Items.** The items of a run are numbered from 1. ``append(key, id, number, items)`` adds items, of which the first has
this number. Items whose numbers are stored already change nothing, so an append whose answer was lost can be repeated.
If there is a gap before the number, the store has lost items (such as a Redis that was restored from an old snapshot),
and ``append`` raises `RunGone`. The store keeps at most ``run_bytes`` of the items of each run: it drops the oldest
items, but never the last one. ``end(key, id, end)`` ends a run; the first end counts. If ``last`` is given, and is not
the number of the last item, ``end`` raises `RunGone`, and the run goes on. With ``free``, the key is free at once: the
next ``start`` begins another run in place of the ended one, which can be read until then. Both raise `RunGone` if the
key has no such run, and ``append`` also if the run has ended. With ``lapsed``, ``end`` has no effect unless the lease
has lapsed: a reader ends a run whose process has ended, but the process may have come back meanwhile.

**Reading.** ``read(key, after)`` returns the items after a number, in order and without gaps, but not more than about
64 KiB at once. If the first kept item is later, the items begin there: `RunState.first` tells. If no item with a higher
number was added so far, and the run has not ended, ``read`` waits up to ``wait`` seconds for that; it may return
earlier. It returns None if there is no run. ``reader`` is a name of the reader, who counts as one of the
`RunState.readers` until ``leave``, or until about ``wait`` + ``lease`` seconds after the beginning of its last
``read``.

**Shares.** A ``payer`` pays for its runs: for the bytes that they take in the store, and for the ``memory`` that their
processes need until they end, in bytes. If a payer already has ``payer_runs`` runs, or would have more than
``payer_bytes``, ``start`` raises `StoreFull`; the runs of others are not affected, and no run is dropped before its
time. If ``append`` or ``end`` would exceed ``payer_bytes``, the oldest items of the same run are dropped, if necessary
all. If that is not enough for an end, ``end`` raises `StoreFull`, and the run goes on. An end of at most 1 KiB always
has room. A limit for all payers together works in the same way.

**Adoption.** A run with a ``topic`` can be continued by another process: ``adopt(topic)`` returns the running runs of
this topic whose leases have lapsed, each with its ``payload``, and renews their leases, in one step: of many processes,
one gets each run.

**Logs.** A log keeps items, too, but it has no process, never ends, and is never lost. ``add(key, log, writer,
sequence, items)`` adds a batch of items to the log with this key, and begins the log if there is none; without items,
it does only that. The store forgets a log ``keep`` seconds after the last ``add``, and the next one begins anew at
number 1. `NewRun.memory`, ``topic`` and ``payload`` have no meaning for a log. Any number of writers may add to it. A
writer is a name of up to 32 ASCII letters and digits which nobody else uses, also after a restart. It numbers its own
items by ``sequence``, in rising order and below 10**14, and an item has the id ``"<writer>.<sequence>"``. It makes one
call at a time. If an answer was lost, it repeats the same batch: for at least ten minutes, this has no effect, and
returns the number and the id of the first call, even if the items have been dropped. An earlier batch is never added,
and raises `RunGone`. A new log needs room as a run does, and the oldest items are dropped as by ``append``.

The ids tell a reader whether it still reads the same log: a store that was restored from an old snapshot may have other
items under the same numbers. A reader at item 17 calls ``read(key, 17)``, and has missed nothing if `Page.number` is 18
and `Page.before` is the id of its item 17. ``before`` is known also if that item has been dropped, as long as no later
one has. If ``after`` is beyond the last item of a log, ``number`` is that of the next item, so ``before`` is the id of
the last one, and ``read`` does not wait. A log counts no readers. A key has a run or a log, not both: ``add`` raises
`RunGone` if the key has a run, as ``start``, ``append`` and ``end`` do if it has a log. ``stop`` and ``renew`` ignore
logs.

**Failures.** Every method raises `StoreLost` if the store does not answer. It may have done what it was asked. All
methods may be called again. Cancelling them is safe in the same way. After a failure, the process calls ``add`` with
the key ``"probe"`` and without items, until the store answers.
"""

from ._keyed.contract import LEASE, Added, AdoptedRun, NewRun, Page, RunGone, RunState, Store, StoreFull, StoreLost
from ._keyed.memory_store import MemoryStore

__all__ = [
    "LEASE",
    "Added",
    "AdoptedRun",
    "MemoryStore",
    "NewRun",
    "Page",
    "RunGone",
    "RunState",
    "Store",
    "StoreFull",
    "StoreLost",
]

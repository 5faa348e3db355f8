"""`RedisStore`: keeps the runs of keyed calls, and logs, in Redis or Valkey, with the library redis-py.

A run has a state, a stream with its items, a sorted set of its readers, and a set of the processes that wait for its
next change. A payer has a sorted set of its runs, and a hash with their bytes. Every key expires. Each step is one call
of the script in ``_redis_store.lua``, so it happens completely or not at all, by the clock of Redis. The script
publishes a change to the processes that wait. Each process listens on one connection, for all of its readers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wsrpc.cluster.engine import RESPONSE_TIMEOUT
from wsrpc.store import LEASE, Added, AdoptedRun, NewRun, Page, RunGone, RunState, StoreFull, StoreLost

from ._broker_connection import error_text, host_of, refuse_options

CONNECTIONS = 8
"""Number of connections. One of them is listened on."""

COUNTED = 10_000
"""Number of readers up to which a process remembers when it has counted them. (Some never leave.)"""

RENEWED_TOGETHER = 200
"""Number of leases that are renewed in one step, during which Redis does nothing else."""

SET_HERE = frozenset(
    {
        "decode_responses",
        "health_check_interval",
        "max_connections",
        "protocol",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "socket_connect_timeout",
        "socket_timeout",
        "timeout",
    }
)
"""Options of connections that `RedisEngine` and `RedisStore` set."""

REFUSALS = {
    b"gone": (RunGone, "the store has no such run any more, or has lost some of its items"),
    b"full": (StoreFull, "the store has no room for a run of this payer, or for its end"),
    b"log": (RunGone, "the key has a log, so it can have no run"),
    b"run": (RunGone, "the key has a run, so it can have no log"),
    b"later": (RunGone, "the writer has added a later batch"),
}
"""What a step raises, by its reply."""

STEPS = Path(__file__).with_suffix(".lua").read_text("utf-8")


class RedisStore:
    """Redis or Valkey server as the store of a `Server` or `Client`. Redis Cluster is not supported.

    The server must not evict keys before they expire: set ``maxmemory-policy noeviction``.

    Args:
        url: a ``redis://``, ``rediss://`` (TLS) or ``unix://`` URL, with a user and password if the server needs them.
        name: the beginning of the names of all keys and channels. Applications with different names share nothing.
        run_bytes: the maximum size of the kept items of one run.
        payer_bytes: the maximum size of the runs of one payer.
        payer_runs: the maximum number of runs of one payer.
        lease: seconds for which a run is leased to its process. The process renews the lease more often.
        options: options of ``redis.asyncio`` connections, as for `RedisEngine`.

    Raises:
        TypeError: one of the options is set by the store itself.
        ValueError: the URL is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "wsrpc",
        run_bytes: int = 1 << 20,
        payer_bytes: int = 16 << 20,
        payer_runs: int = 1000,
        lease: float = LEASE,
        **options: Any,
    ) -> None:
        self.lease = lease
        self._host = host_of(url)
        retry = Retry(NoBackoff(), 1)  # a connection of the pool may be over, and every step can be repeated
        waiting = {"max_connections": CONNECTIONS, "timeout": None, "retry": retry}
        self._pool = pool_of("RedisStore", BlockingConnectionPool, url, options, **waiting)
        self._client: Any = Redis(connection_pool=self._pool)
        self._prefix = f"{name}:"
        self._script = self._client.register_script(
            "local LEASE, RUN_BYTES, PAYER_BYTES, PAYER_RUNS = "
            f"{_ms(lease)}, {run_bytes}, {payer_bytes}, {payer_runs}{STEPS}"
        )
        self._channel = f"{name}:process:{token_hex(8)}"
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the connections."""
        self._answers = 0
        """How often Redis has answered."""
        self._listening: asyncio.Task[None] | None = None
        self._tails: dict[str, Tail] = {}
        """What waiting readers share, by the keys of their runs."""
        self._counted: dict[tuple[str, str], float] = {}
        """When each reader has to be counted again in Redis, by its run and name."""

    def __repr__(self) -> str:
        return f"RedisStore({self._host})"

    async def _step(self, name: str, *words: str | bytes | int) -> Any:
        self._enter_loop()
        answers, silences = self._answers, 0
        while True:
            try:
                async with asyncio.timeout(RESPONSE_TIMEOUT / 2):
                    reply = await self._script(args=(self._prefix, name, *words))
                break
            except TimeoutError:
                # Others may wait for the connections, too. And this process may have been too busy to read an answer.
                silences = silences + 1 if self._answers == answers else 0
                answers = self._answers
                if silences == 2:
                    raise StoreLost(f"Redis does not respond within {RESPONSE_TIMEOUT:g} s") from None
            except (RedisError, OSError) as exc:
                if "READONLY" in str(exc):  # after a failover, other connections may reach the new primary
                    await self._pool.disconnect()
                raise StoreLost(f"Redis: {error_text(exc)}") from exc
        self._answers += 1
        if isinstance(reply, bytes):
            error, text = REFUSALS[reply]
            raise error(text)
        return reply

    def _enter_loop(self) -> None:
        """Leave the connections of an event loop that is over."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._pool.reset()
            self._tails.clear()
            self._counted.clear()
            self._loop, self._listening = loop, None

    async def start(self, key: str, run: NewRun, /) -> RunState:
        new = (run.id, run.arguments, run.payer, run.topic, _ms(run.keep), run.payload, run.memory)
        return _state(*await self._step("start", key, *new))

    async def append(self, key: str, id: str, number: int, items: Sequence[bytes], /) -> RunState:
        return _state(*await self._step("append", key, id, number, *items))

    async def end(
        self, key: str, id: str, end: bytes, /, *, last: int | None = None, free: bool = False, lapsed: bool = False
    ) -> None:
        await self._step("end", key, id, end, "" if last is None else last, int(free), int(lapsed))

    async def add(self, key: str, log: NewRun, writer: str, sequence: int, items: Sequence[bytes], /) -> Added:
        new = (log.id, log.arguments, log.payer, _ms(log.keep))
        number, before, state = await self._step("add", key, *new, writer, sequence, *items)
        return Added(number, _text(before), _state(*state))

    async def read(self, key: str, after: int, /, *, reader: str = "", wait: float = 0.0) -> Page | None:
        if wait <= 0:
            return await self._page(key, after, "", reader, wait)
        self._enter_loop()
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail()
        tail.readers += 1
        try:
            if self._counted.get((key, reader), 0.0) > monotonic():
                page = await self._shared_page(tail, key, after, wait)
            else:
                page = await self._page(key, after, self._channel, reader, wait)
                if len(self._counted) > COUNTED:
                    self._counted.clear()
                self._counted[key, reader] = monotonic() + self.lease / 2
            if not (page and not page.items and page.state.end is None and page.state.last <= after < page.number):
                return page
            await asyncio.wait((tail.changed,), timeout=wait)
        finally:
            tail.readers -= 1
            if not tail.readers and self._tails.get(key) is tail:
                del self._tails[key]
        if tail.changed.done() and (lost := tail.changed.result()):
            raise StoreLost(lost)
        return await self._shared_page(tail, key, after, wait)

    async def _shared_page(self, tail: Tail, key: str, after: int, wait: float) -> Page | None:
        """Read once for all readers that do so at the same time, before the change or after it."""
        shared = after, wait, tail.changed.done()
        if shared not in tail.pages:
            tail.pages[shared] = asyncio.ensure_future(self._page(key, after, self._channel, "", wait))
            tail.pages[shared].add_done_callback(partial(tail.reading_ended, shared))
        return await asyncio.shield(tail.pages[shared])

    async def _page(self, key: str, after: int, channel: str, reader: str, wait: float) -> Page | None:
        # The reader is counted for a little longer than it has to be, because that is repeated after half a lease.
        reply = await self._step("read", key, after, channel, reader, _ms(wait + 1.5 * self.lease))
        if reply is None:
            return None
        state, number, items, before, ids = reply
        return Page(_state(*state), number, items, _text(before), [*map(_text, ids)])

    async def _listen(self) -> None:
        """Notify the readers of runs that have changed, until the connection is lost."""
        lost = "the store was closed"
        try:
            async with self._client.pubsub() as pubsub:
                await pubsub.subscribe(self._channel)
                is_asked = False
                while True:
                    message = await pubsub.get_message(timeout=RESPONSE_TIMEOUT)
                    if message is None and is_asked:
                        raise OSError(f"no response within {RESPONSE_TIMEOUT:g} s")
                    is_asked = message is None
                    if message is None:
                        await pubsub.subscribe(f"{self._channel}:asked")  # which needs no right to PING
                    elif message["type"] == "message":
                        self._notify(message["data"].decode())
                    elif message["channel"] == self._channel.encode():
                        self._notify_all()  # subscribed, maybe again: what was published before has not come
        except (RedisError, OSError) as exc:
            lost = f"Redis: {error_text(exc)}"
        finally:
            self._listening = None
            self._notify_all(lost)

    def _notify_all(self, lost: str = "") -> None:
        self._counted.clear()  # a server that was restarted knows no readers
        for key in tuple(self._tails):
            self._notify(key, lost)

    def _notify(self, key: str, lost: str = "") -> None:
        if (tail := self._tails.pop(key, None)) is not None:
            tail.changed.set_result(lost)

    async def leave(self, key: str, reader: str, /) -> None:
        self._counted.pop((key, reader), None)
        await self._step("leave", key, reader)

    async def stop(self, key: str, id: str, /) -> None:
        await self._step("stop", key, id)

    async def renew(self, runs: Mapping[str, str], /) -> Mapping[str, RunState]:
        words = [word for run in runs.items() for word in run]
        states: dict[str, RunState] = {}
        for start in range(0, len(words), 2 * RENEWED_TOGETHER):
            reply = await self._step("renew", *words[start : start + 2 * RENEWED_TOGETHER])
            states |= {key.decode(): _state(*state) for key, state in reply}
        return states

    async def adopt(self, topic: str, /) -> Sequence[AdoptedRun]:
        reply = await self._step("adopt", topic)
        return [AdoptedRun(key.decode(), id.decode(), payload) for key, id, payload in reply]

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait((self._listening,))
        with suppress(RedisError):  # a server that does not answer
            await self._pool.disconnect()


class Tail:
    """What readers share that wait for the same change of a run.

    Attributes:
        changed: done after the change, with a text that says why the store is lost, or an empty one.
        pages: the reads in progress, by the number after which they read, how long they may wait, and whether it is
            after the change.
        readers: the number of those who use it.
    """

    def __init__(self) -> None:
        self.changed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.pages: dict[tuple[int, float, bool], asyncio.Task[Page | None]] = {}
        self.readers = 0

    def reading_ended(self, shared: tuple[int, float, bool], task: asyncio.Task[Page | None]) -> None:
        del self.pages[shared]
        if not task.cancelled():
            task.exception()  # all readers may have been cancelled, so that nobody retrieves it


def pool_of(owner: str, kind: Any, url: str, options: dict[str, Any], **own_options: Any) -> Any:
    """Return a pool of connections with the options of a user, and those of their owner.

    Raises:
        TypeError: the user has set an option of `SET_HERE`.
    """
    refuse_options(owner, options.keys() | parse_qs(urlsplit(url).query).keys(), SET_HERE)
    # The owner watches the connections. The reader of protocol version 3 converts every message to text for a log that
    # nobody reads.
    watched = {"socket_timeout": None, "socket_connect_timeout": RESPONSE_TIMEOUT, "protocol": 2}
    return kind.from_url(url, **options, **own_options, **watched)


def _ms(seconds: float) -> int:
    return max(1, round(1000 * min(seconds, 1e11)))  # Redis stores no infinity


def _text(stored: bytes) -> str:
    return stored.decode(errors="backslashreplace")  # another program may have written it


def _state(
    id: bytes, arguments: bytes, first: int, last: int, end: bytes | None, stopping: int, readers: int, lost: int
) -> RunState:
    return RunState(_text(id), _text(arguments), first, last, end, bool(stopping), readers, bool(lost))

"""`RedisStore`: keeps logs in Redis or Valkey, with the library redis-py.

Each step is one call of the script in ``_redis_store.lua``, so it happens completely or not at all, by the clock of
Redis. The script begins with a table of all keys, each of which expires. It publishes what was added. Each process
listens on one connection, and needs no further step to read what it hears there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from importlib.resources import files
from itertools import repeat
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from wsrpc.cluster.engine import RESPONSE_TIMEOUT
from wsrpc.store import (
    FORMAT,
    LEASE,
    Acquired,
    Appended,
    ListedLog,
    LogGone,
    LogState,
    NewLog,
    Page,
    StoreFull,
    StoreLost,
    Topic,
)

from ._broker_connection import error_text, host_of, refuse_options
from ._redis_tails import Tails, state_of, text_of

CONNECTIONS = 8
"""Number of connections. One of them is listened on."""

STEP_BATCH_BYTES = 64 * 1024
"""Bytes of steps that one connection is sent at once, and then waits for. Each counts for 1 KiB more than its entries,
and one that reads for what it may get."""

HELD_PER_STEP = 200
"""Number of logs that are held in one step, during which Redis does nothing else."""

SET_FOR_REDIS = frozenset(
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

STEP_ERRORS = {
    b"gone": (LogGone, "the store has no such log any more, or has lost some of its entries"),
    b"full": (StoreFull, "the store has no room for a log of this payer, or for its end"),
    b"later": (LogGone, "the writer has added a later batch"),
}
"""What a step raises, by its reply."""

SCRIPT = files("wsrpc_adapters").joinpath("_redis_store.lua").read_text("utf-8")


class RedisStore:
    """Redis or Valkey server as the store of a `Server` or `Client`. Redis Cluster is not supported.

    The server must not evict keys before they expire: set ``maxmemory-policy noeviction``.

    Args:
        url: a ``redis://``, ``rediss://`` (TLS) or ``unix://`` URL, with a user and password if the server needs them.
        name: the beginning of the names of all keys and channels. Applications with different names share nothing.
        log_bytes: the maximum size of the kept entries of one log.
        payer_bytes: the maximum size of the logs of one payer.
        payer_logs: the maximum number of logs of one payer, such as the results of one caller.
        waiting: the maximum number of calls that wait for one address.
        lease: seconds for which a process keeps its logs without a sign of life.
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
        log_bytes: int = 1 << 20,
        payer_bytes: int = 16 << 20,
        payer_logs: int = 1000,
        waiting: int = 1000,
        lease: float = LEASE,
        **options: Any,
    ) -> None:
        self.lease = lease
        self._host = host_of(url)
        retry = Retry(NoBackoff(), 1)  # a connection of the pool may be over, and every step can be repeated
        waits = {"max_connections": CONNECTIONS, "timeout": None, "retry": retry}
        self._pool = pool_of("RedisStore", BlockingConnectionPool, url, options, **waits)
        self._client: Any = Redis(connection_pool=self._pool)
        self._prefix = f"{name}:"
        self._script = self._client.register_script(
            "local FORMAT, LEASE, LOG_BYTES, PAYER_BYTES, PAYER_LOGS, WAITING = "
            f"'{FORMAT}', {_ms(lease)}, {log_bytes}, {payer_bytes}, {payer_logs}, {waiting}{SCRIPT}"
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the connections."""
        self._waiting: deque[tuple[int, tuple[Any, ...], asyncio.Future[Any]]] = deque()
        """The steps that wait for a connection: bytes, words, and the reply, which may be an exception."""
        self._senders: set[asyncio.Task[None]] = set()
        """The tasks that send them, each on one connection."""
        self._tails = self._make_tails()

    def __repr__(self) -> str:
        return f"RedisStore({self._host}, name={self._prefix[:-1]!r})"

    async def _step(self, name: str, *words: str | bytes | int) -> Any:
        self._enter_loop()
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        size = (
            STEP_BATCH_BYTES if name == "read" else 1024 + sum(len(word) for word in words if isinstance(word, bytes))
        )
        self._waiting.append((size, (self._prefix, name, *words), reply))
        if len(self._senders) < CONNECTIONS - 1:
            sender = loop.create_task(self._send_waiting(), context=Context())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        found = await reply
        if isinstance(found, Exception):
            self._tails.outage()
            if "READONLY" in str(found):  # after a failover, other connections may reach the new primary
                await self._pool.disconnect()
            raise StoreLost(f"Redis: {error_text(found)}") from found
        if isinstance(found, bytes):
            error, text = STEP_ERRORS[found]
            raise error(text)
        return found

    async def _send_waiting(self) -> None:
        """Send the steps that wait. Those that were added while all connections waited for Redis are sent together."""
        while self._waiting:
            steps = [self._waiting.popleft()]
            while self._waiting and sum(size for size, *_ in steps) + self._waiting[0][0] <= STEP_BATCH_BYTES:
                steps.append(self._waiting.popleft())
            replies: Iterable[Any] = repeat(OSError("the store was closed"))
            try:
                replies = await self._replies([words for _, words, _ in steps])
            except (RedisError, OSError) as exc:
                replies = repeat(exc)
            finally:
                for (*_, reply), found in zip(steps, replies, strict=False):
                    if not reply.done():  # else its caller was cancelled
                        reply.set_result(found)

    async def _replies(self, steps: list[tuple[Any, ...]]) -> list[Any]:
        """Return the reply to each step, or its error."""
        for _ in range(2):  # this process may have been too busy to read the first answer
            pipeline = self._client.pipeline(transaction=False)
            for words in steps:
                pipeline.evalsha(self._script.sha, 0, *words)
            with suppress(TimeoutError):
                async with asyncio.timeout(RESPONSE_TIMEOUT / 2):
                    replies: list[Any] = await pipeline.execute(raise_on_error=False)
                    if not any(isinstance(reply, NoScriptError) for reply in replies):
                        return replies
                    await self._client.script_load(self._script.script)
        raise OSError(f"no response within {RESPONSE_TIMEOUT:g} s")

    def _make_tails(self) -> Tails:
        return Tails(self._client, self._prefix[:-1], self.lease, self._page, partial(self._step, "listen"))

    def _enter_loop(self) -> None:
        """Leave the connections of an event loop that is over."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._pool.reset()
            self._waiting.clear()
            self._senders.clear()
            self._tails = self._make_tails()
            self._loop = loop

    async def open(self, key: str, log: NewLog, /) -> LogState:
        new = (log.id, log.payer, _ms(log.keep), int(log.owned), log.arguments, log.topic, log.payload, log.memory)
        is_own = log.owned and not log.topic
        process, within = await self._announced() if is_own else "", _ms(log.within) if log.topic else 0
        state = state_of(*await self._step("open", key, *new, within, process))
        if state.id == log.id and is_own and not state.last and state.end is None:
            self._tails.own(key, state)
        else:
            self._tails.drop(key, unless_id=state.id)
        return state

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
    ) -> Appended:
        new = (log, "", 0) if isinstance(log, str) else (log.id, log.payer, _ms(log.keep))
        ending = (int(end is not None), end or b"", int(free), int(only_if_lost))
        try:
            number, before, state, owned = await self._step("append", key, *new, writer, sequence, *ending, *entries)
        except LogGone:
            self._tails.learn(key, None)
            raise
        added = Appended(number, text_of(before), state_of(*state))
        name = added.state.id if owned else writer
        ids = [f"{name}.{each}" for each in range(sequence, sequence + len(entries))]
        self._tails.learn(key, Page(added.state, number, added.before, entries, ids))
        return added

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        if wait <= 0:
            return (await self._page(key, after))[0]
        self._enter_loop()
        return await self._tails.read(key, after, wait)

    async def _page(self, key: str, after: int) -> tuple[Page | None, str, float]:
        """Return a page, the process that owns the log, and the seconds until the log may be lost, or 0."""
        reply = await self._step("read", key, after, int(self._tails.watches))
        if reply is None:
            return None, "", 0.0
        state, number, before, entries, ids, process, left = reply
        page = Page(state_of(*state), number, text_of(before), entries, [*map(text_of, ids)])
        return page, text_of(process), left / 1000

    # ------------------------------------------------------------ leases

    async def _announced(self) -> str:
        """Listen, so that others notice at once if this process is killed. Return its name as soon as it listens."""
        self._enter_loop()
        return await self._tails.announce()

    async def hold(
        self, process: str, logs: Mapping[str, str], readers: Mapping[str, int], /
    ) -> Mapping[str, LogState]:
        states: dict[str, LogState] = {}
        listens = await self._announced() if logs else ""
        for some in _parts(logs):
            reply = await self._step("hold", listens, *some)
            states |= {key.decode(): state_of(*state) for key, state in reply}
        for some in _parts(readers):
            await self._step("count", process, *some)
        for key in logs:
            if key not in states or states[key].end is not None:
                self._tails.learn(key, None)
        return states

    async def release(self, logs: Mapping[str, str], /) -> None:
        for some in _parts(logs):
            await self._step("release", *some)

    async def look(self) -> None:
        if self._tails.watches:
            await self._step("look")

    async def adopt(self, key: str, id: str, owner: str, /) -> LogState:
        process = await self._announced()
        return state_of(*await self._step("adopt", key, id, owner, process, int(self._tails.watches)))

    async def pending(self, topic: str, after: int, /) -> Sequence[ListedLog]:
        return [
            ListedLog(number, key.decode(), id.decode(), payload, age / 1000, attempt, bool(lost), bool(released))
            for number, key, id, payload, age, attempt, lost, released in await self._step(
                "pending", topic, after, int(self._tails.watches)
            )
        ]

    async def topics(self, after: int, /) -> Sequence[Topic]:
        return [
            Topic(number, text_of(name), count, age / 1000, newest.decode())
            for number, name, count, age, newest in await self._step("topics", after)
        ]

    async def acquire(self, subject: str, process: str, has: int, wants: int, most: int, /) -> Acquired:
        count, known_in = await self._step("acquire", subject, process, has, wants, most, int(self._tails.watches))
        return Acquired(count, known_in / 1000)

    async def close(self) -> None:
        self._enter_loop()
        for sender in self._senders:
            sender.cancel()
        await self._tails.close()
        with suppress(RedisError):  # a server that does not answer
            await self._pool.disconnect()


def pool_of(owner: str, kind: Any, url: str, options: dict[str, Any], **own_options: Any) -> Any:
    """Return a pool of connections with the options of a user, and those of their owner.

    Raises:
        TypeError: the user has set an option of `SET_FOR_REDIS`.
    """
    refuse_options(owner, options.keys() | parse_qs(urlsplit(url).query).keys(), SET_FOR_REDIS)
    # The owner watches the connections. The reader of protocol version 3 converts every message to text for a log that
    # nobody reads.
    watched = {"socket_timeout": None, "socket_connect_timeout": RESPONSE_TIMEOUT, "protocol": 2}
    return kind.from_url(url, **options, **own_options, **watched)


def _ms(seconds: float) -> int:
    return max(1, round(1000 * min(seconds, 1e11)))  # Redis stores no infinity


def _parts(words: Mapping[str, str | int]) -> Iterator[list[str | int]]:
    """Yield the keys and values of what one step does for many logs, some at a time."""
    flat = [word for each in words.items() for word in each]
    for start in range(0, len(flat), 2 * HELD_PER_STEP):
        yield flat[start : start + 2 * HELD_PER_STEP]

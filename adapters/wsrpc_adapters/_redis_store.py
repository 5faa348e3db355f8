"""`RedisStore`: keeps logs in Redis or Valkey, with the library redis-py.

Each step is one call of the script in ``_redis_store.lua``, so it happens completely or not at all, by the clock of
Redis. The script begins with a table of all keys, each of which expires. It publishes what was added. Each process
listens on one connection, and needs no further step to read what it hears there.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from copy import copy
from functools import partial
from importlib.resources import files
from itertools import repeat
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import ConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, NoScriptError, ReadOnlyError, RedisError

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

from ._broker_connection import addresses_of, error_text, host_of, refuse_options
from ._redis_tails import Tails, state_of, text_of

SENDERS = 7
"""Number of connections on which steps are sent. Another one is listened on."""

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

# The owner watches the connections. The reader of protocol version 3 converts every message to text for a log that
# nobody reads.
WATCHED: dict[str, Any] = {"socket_timeout": None, "socket_connect_timeout": RESPONSE_TIMEOUT, "protocol": 2}

PASSED = frozenset({"host", "port", "path", "db", "username", "password", "credential_provider", "client_name"})
"""Options of the connections of a user's client that those of `RedisEngine` and `RedisStore` have, too."""

DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}
"""By what follows ``redis+`` in a URL."""

MOVED = (AskError, ClusterDownError, ReadOnlyError)
MOVED_TEXT = re.compile("READONLY|MOVED |ASK |CLUSTERDOWN")
"""Errors of a server that is no longer the primary, or not of these keys. In early versions of the library, and from
scripts, some are known by their text only."""

STEP_ERRORS = {
    b"gone": (LogGone, "the store has no such log any more, or has lost some of its entries"),
    b"full": (StoreFull, "the store has no room for a log of this payer, or for its end"),
    b"later": (LogGone, "the writer has added a later batch"),
}
"""What a step raises, by its reply."""

Address = tuple[str, int]
Options = dict[str, Any]

SCRIPT = files("wsrpc_adapters").joinpath("_redis_store.lua").read_text("utf-8")


class RedisStore:
    """Redis or Valkey server as the store of a `Server` or `Client`.

    The server must not evict keys before they expire: set ``maxmemory-policy noeviction``.

    Args:
        url: a URL or a client, as for `RedisEngine`.
        name: the beginning of the names of all keys and channels. Applications with different names share nothing. In a
            Redis Cluster, it is between braces, so that one node has all keys.
        log_bytes: the maximum size of the kept entries of one log.
        payer_bytes: the maximum size of the logs of one payer.
        payer_logs: the maximum number of logs of one payer, such as the results of one caller.
        waiting: the maximum number of calls that wait for one address.
        lease: seconds for which a process keeps its logs without a sign of life.
        options: options of ``redis.asyncio`` connections, as for `RedisEngine`.

    Raises:
        TypeError: one of the options is set by the store itself, or ``url`` is neither a URL nor a client.
        ValueError: the URL is not valid, or the client leads to replicas.
    """

    def __init__(
        self,
        url: str | Redis | RedisCluster,
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
        retry = Retry(NoBackoff(), 1)  # a connection of the pool may be over, and every step can be repeated
        tagged = f"{{{name}}}:"
        self._pool, self._host, is_cluster = pool_of("RedisStore", url, options, tagged, retry=retry)
        self._client: Any = Redis(connection_pool=self._pool)
        self._prefix = tagged if is_cluster else f"{name}:"
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
        if len(self._senders) < SENDERS:
            sender = loop.create_task(self._send_waiting(), context=Context())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        found = await reply
        if isinstance(found, Exception):
            self._tails.outage()
            if isinstance(found, MOVED) or MOVED_TEXT.search(str(found)):  # other connections may reach the new primary
                await self._pool.disconnect()
            raise StoreLost(f"Redis: {reason_of(found)}") from found
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
                pipeline.evalsha(self._script.sha, 1, *words)
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


class Finder:
    """Tells a pool for Sentinel where the primary is, each time that it connects: asks one Sentinel after another.

    Args:
        sentinel: the `Sentinel` of the library that has them, and decides which answers count.
        kind: the class of connections to them.
        options: of these connections, by the addresses of the servers.
    """

    def __init__(self, sentinel: Any, kind: Any, options: dict[Address, Options]) -> None:
        self._sentinel = sentinel
        self._kind = kind
        self.options = options

    async def discover_master(self, service: str) -> Address:
        error: Exception = ClusterDownError("there is nobody to ask")
        for address, options in [*self.options.items()]:
            # New connections: earlier ones, and those of the user, may be of an event loop that is over.
            pool = ConnectionPool(connection_class=self._kind, **options)
            try:
                async with asyncio.timeout(RESPONSE_TIMEOUT / 6):
                    found = await self._ask(Redis(connection_pool=pool), address[0], service)
                self.options = {address: options} | self.options  # it is the first that is asked next time
                return found
            except (RedisError, OSError) as exc:
                error = exc
            finally:
                await pool.disconnect()
        raise error

    async def _ask(self, client: Any, host: str, service: str) -> Address:
        sentinel = copy(self._sentinel)
        sentinel.sentinels = [client]
        found: Address = await sentinel.discover_master(service)
        return found


class ClusterFinder(Finder):
    """Asks nodes of a Redis Cluster for the owner of the slot of a key. They name other nodes, which it asks later."""

    def __init__(self, kind: Any, options: Options, nodes: list[Address], remap: Any) -> None:
        self._configured = {node: options | {"host": node[0], "port": node[1]} for node in nodes}
        self._each = options
        self._remap = remap
        super().__init__(None, kind, self._configured)

    async def _ask(self, client: Any, host: str, service: str) -> Address:
        slot, owners, nodes = key_slot(service.encode()), list[Address](), list[Address]()
        for first, last, *servers in await client.execute_command("CLUSTER", "SLOTS"):
            # A node that does not know its own name tells nothing, or a question mark.
            told = [(text_of(name or b"").replace("?", "") or host, port) for name, port, *_ in servers]
            nodes += (found := told if self._remap is None else [self._remap(*node) for node in told])
            owners += found[:1] if first <= slot <= last else []
        if not owners:
            raise ClusterDownError("no node of the Redis Cluster has the slot")
        self.options = {node: self._each | {"host": node[0], "port": node[1]} for node in nodes} | self._configured
        return owners[0]


def pool_of(owner: str, url: Any, options: Options, key: str, **own_options: Any) -> tuple[Any, str, bool]:
    """Return a pool that connects to where a URL or a client leads, the hosts, and whether it is a Redis Cluster.

    Raises:
        TypeError: the user has set an option of `SET_FOR_REDIS`, or ``url`` is neither a URL nor a client.
        ValueError: the URL is not valid, or the client leads to replicas.
    """
    hosts, parts = (host_of(url), urlsplit(url)) if isinstance(url, str) else ("", urlsplit(""))
    refuse_options(owner, options.keys() | parse_qs(parts.query).keys(), SET_FOR_REDIS)
    options = options | own_options | WATCHED
    kind: Any
    pools: Any = ConnectionPool
    nodes, sentinel, remap = list[Address](), None, None
    if isinstance(url, str):
        scheme, _, way = parts.scheme.partition("+")
        service, _, path = parts.path[1:].partition("/") if way == "sentinel" else (key, "", parts.path)
        if way in DEFAULT_PORTS:
            nodes = [(host, port or DEFAULT_PORTS[way]) for host, port in addresses_of(url)]
            netloc = f"{parts.netloc.rpartition('@')[0]}@{nodes[0][0]}"
            url = parts._replace(scheme=scheme, netloc=netloc, path=path).geturl()
        pool = pools.from_url(url, **options)
        kind, options = pool.connection_class, pool.connection_kwargs
        if way == "sentinel":
            tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
            tls["ssl"] = scheme == "rediss"
            sentinel = Sentinel(nodes, sentinel_kwargs=tls)  # type: ignore[no-untyped-call]
    elif isinstance(url, RedisCluster):
        given, service, remap = url.get_connection_kwargs(), key, url.nodes_manager.remap_host_port
        kind, options = given["connection_class"], _passed(given) | options
        nodes = [(node.host, int(node.port)) for node in url.nodes_manager.startup_nodes.values()]
    elif isinstance(url, Redis):
        pool, service = url.connection_pool, getattr(url.connection_pool, "service_name", "")
        kind, options = pool.connection_class, _passed(pool.connection_kwargs) | options
        sentinel = getattr(pool, "sentinel_manager", None)
        if not getattr(pool, "is_master", True):
            raise ValueError(f"{owner} needs the primary, and the client leads to replicas: use master_for")
    else:
        raise TypeError(f"{owner} takes a URL, or a Redis or RedisCluster of redis.asyncio, not {type(url).__name__}")
    if sentinel is not None:
        if not service:
            raise ValueError("the URL names no service of Sentinel: redis+sentinel://host:26379/mymaster")
        asked = [client.connection_pool for client in sentinel.sentinels]
        known: list[Options] = [_passed(each.connection_kwargs) | WATCHED for each in asked]
        finder = Finder(sentinel, asked[0].connection_class, {(each["host"], each["port"]): each for each in known})
    elif nodes:
        finder = ClusterFinder(kind, options, nodes, remap)
    else:
        where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        return pools(connection_class=kind, **options), hosts or where, False
    pools = SentinelConnectionPool
    pool = pools(service, finder, ssl=issubclass(kind, SSLConnection), **options)
    return pool, hosts or ", ".join(f"{host}:{port}" for host, port in finder.options), sentinel is None


def _passed(options: Options) -> Options:
    """Return those options of a client that say where its servers are, who the user is, and how TLS is used."""
    return {name: value for name, value in options.items() if name in PASSED or name.startswith("ssl_")}


def reason_of(exc: BaseException) -> str:
    """Return the text of an exception as one line. If a slot has moved, that of the library may be only an address."""
    is_elsewhere = isinstance(exc, AskError) or str(exc).startswith(
        ("MOVED ", "ASK ")
    )  # redis-py 5 has no class for it
    return f"another server has the keys: {exc}" if is_elsewhere else error_text(exc)


def _ms(seconds: float) -> int:
    return max(1, round(1000 * min(seconds, 1e11)))  # Redis stores no infinity


def _parts(words: Mapping[str, str | int]) -> Iterator[list[str | int]]:
    """Yield the keys and values of what one step does for many logs, some at a time."""
    flat = [word for each in words.items() for word in each]
    for start in range(0, len(flat), 2 * HELD_PER_STEP):
        yield flat[start : start + 2 * HELD_PER_STEP]

"""`RedisEngine` and `RedisStore`: an engine for clusters, and a store for calls with a key, in Redis or Valkey.

Both use the library redis-py. The engine uses pub/sub. Redis does not number its messages, and drops a subscriber that
is 32 MiB behind (``client-output-buffer-limit pubsub``). Pub/sub ignores the number of the database. So only the names
of clusters and stores separate the applications that use one server.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Any

from wsrpc.cluster.engine import FEW, EngineConnection, EngineListener
from wsrpc.errors import EngineLost, EngineRefused

from ._broker_connection import BrokerConnection
from ._broker_privates import abort_redis, unsent_by_redis

try:
    from redis.asyncio import Redis, RedisCluster
    from redis.exceptions import AuthenticationError, ResponseError
except ImportError as exc:
    raise ImportError("wsrpc_adapters.redis needs redis-py: pip install python-wsrpc[redis]") from exc

from ._redis_store import RedisStore, pool_of, reason_of

__all__ = ["RedisEngine", "RedisStore"]

LARGEST_PAYLOAD = 8 * 1024 * 1024
"""Bytes of the largest payload: a quarter of the backlog at which Redis disconnects a subscriber."""

CLUSTER_KEY = "wsrpc"
"""All engines use the node of a Redis Cluster that owns the slot of this key, because a server counts its own
subscribers only."""

REFUSAL = re.compile("(?i)role|exists| key")
"""In the error of a user who may not ask whether a server is the primary. Then it is not asked."""

REPLIES_PER_TURN = 100
"""Number of replies that are read before other tasks run."""


class RedisEngine:
    """Redis or Valkey server as the engine of a `Cluster`.

    Each connection to the engine opens two connections to the server, because a connection with subscriptions cannot be
    used for anything else.

    Args:
        url: a ``redis://``, ``rediss://`` (TLS) or ``unix://`` URL, with a user and password if the server needs them.
            For Sentinel, ``redis+sentinel://host:26379,host2:26379/mymaster``; for Redis Cluster,
            ``redis+cluster://host:6379,host2:6379``. Or a client of ``redis.asyncio``: a ``RedisCluster``, or a
            ``Redis``, such as that of ``Sentinel.master_for``. Its addresses, credentials and options of TLS are used;
            its connections and other options are not.
        options: options of ``redis.asyncio`` connections: ``username``, ``password``, ``credential_provider``,
            ``ssl_ca_certs``, ``client_name``, … The engine sets the options for timeouts and retries itself.

    Raises:
        TypeError: one of the options is set by the engine itself, or ``url`` is neither a URL nor a client.
        ValueError: the URL is not valid, or the client leads to replicas.
    """

    def __init__(self, url: str | Redis | RedisCluster, **options: Any) -> None:
        # Creates connections. It keeps no connection, and never sends a command again.
        self._pool, self._host, is_cluster = pool_of("RedisEngine", url, options, CLUSTER_KEY)
        # Only the owner of the slot of a key answers a command with this key.
        self._question = ("EXISTS", CLUSTER_KEY) if is_cluster else ("ROLE",)

    def __repr__(self) -> str:
        return f"RedisEngine({self._host})"

    async def connect(self, listener: EngineListener, /) -> EngineConnection:
        """Connect to the server; see `wsrpc.cluster.engine.Engine.connect`."""
        connection = BrokerConnection(listener)
        broker = RedisBroker(connection, self._pool.make_connection(), self._pool.make_connection(), self._question)
        await connection.open(broker.connect())
        return connection


class RedisBroker:
    """Two connections of redis-py: one publishes, the other one subscribes."""

    largest = LARGEST_PAYLOAD

    def __init__(self, connection: BrokerConnection, publishing: Any, subscribing: Any, question: Any) -> None:
        self._connection = connection
        self._question = question
        self._publishing = Replies(publishing, self._published, connection.end)
        self._subscribing = Replies(subscribing, self._handle, connection.end)
        self._subjects: dict[bytes, str] = {}
        """The subscribed subjects, by encoded name."""
        self._confirmed: asyncio.Future[None] | None = None
        """Done when the present change of subscriptions is confirmed."""

    async def connect(self) -> RedisBroker:
        try:
            if await self._publishing.connect() != await self._subscribing.connect():
                raise EngineLost("another server has just become the primary")
        except BaseException as exc:
            await self.drop()
            if isinstance(exc, Exception):
                raise (EngineRefused if isinstance(exc, AuthenticationError) else EngineLost)(reason_of(exc)) from exc
            raise
        return self

    @property
    def unsent(self) -> int:
        return self._publishing.unsent

    async def write(self, messages: list[tuple[str, bytes]], /) -> None:
        await self._publishing.send([(b"PUBLISH", subject, payload) for subject, payload in messages])
        if self.unsent > FEW // 2:
            await self._publishing.ping()

    async def confirm(self) -> None:
        await asyncio.gather(self._publishing.ping(), self._subscribing.ping())
        if self._publishing.may_ask:
            # A replica accepts messages and gives them to nobody. The server is one after a failover that keeps
            # connections open. The error that a user without the right to ask gets is ignored.
            await self._publishing.send([self._question])

    async def subscribe(self, subject: str, /) -> None:
        if subject.encode() not in self._subjects:
            self._subjects[subject.encode()] = subject
            self._confirmed = asyncio.get_running_loop().create_future()
            await self._subscribing.send([(b"SUBSCRIBE", subject)])
            await self._confirmed

    async def is_received(self, subject: str, payload: bytes, /) -> bool:
        subscribers: int = await self._publishing.ping((b"PUBLISH", subject, payload))
        return subscribers > 0

    def _handle(self, reply: Any) -> None:
        """Handle a message or confirmation of the subscriptions."""
        kind, name, value = reply
        if kind == b"message":
            subject = self._subjects.get(name)
            if subject is not None:
                self._connection.received(subject, value)
        elif self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_result(None)

    def _published(self, reply: Any) -> None:
        """Handle the role of the server. Ignore the number of subscribers that got a message."""
        if reply.__class__ is list and reply[0] == b"slave":
            self._connection.end("the server has become a replica")

    async def drop(self) -> None:
        await self._publishing.drop()
        await self._subscribing.drop()


class Replies:
    """Connection of redis-py, and a task that reads its replies. ``handle`` gets all replies except those to pings."""

    def __init__(self, connection: Any, handle: Callable[[Any], None], end: Callable[[str], None]) -> None:
        self._connection = connection
        self._handle = handle
        self._end = end
        self._pings: deque[asyncio.Future[Any]] = deque()
        self._reading: asyncio.Task[None] | None = None
        self.may_ask = True
        """Whether the server has not refused to tell whether it is the primary."""

    async def connect(self) -> tuple[str, int] | None:
        """Connect. Return the address of the server, which a Unix socket does not have."""
        await self._connection.connect()
        # Without a password, the library sends no AUTH, and ignores the errors of its first commands.
        await self._connection.send_command("PING", check_health=False)
        await self._connection.read_response()
        self._reading = asyncio.get_running_loop().create_task(self._read())
        return getattr(self._connection, "host", None) and (self._connection.host, self._connection.port)

    @property
    def unsent(self) -> int:
        return unsent_by_redis(self._connection)

    async def send(self, commands: list[tuple[bytes | str, ...]]) -> None:
        await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    async def ping(self, *commands: tuple[bytes | str, ...]) -> Any:
        """Send commands, and wait until the server has handled them and all earlier ones. Return its last reply."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pings.append(answer)
        await self.send([*commands, (b"PING",)])
        return await answer

    async def _read(self) -> None:
        last: Any = None
        try:
            while True:
                for _ in range(REPLIES_PER_TURN):
                    try:
                        reply = await self._connection.read_response(disable_decoding=True)
                    except ResponseError as exc:
                        if not REFUSAL.search(str(exc)):
                            raise
                        self.may_ask = False
                        continue
                    # A connection that has subscribed answers with a list.
                    if reply in (b"PONG", [b"pong", b""]):
                        answer = self._pings.popleft()
                        if not answer.done():
                            answer.set_result(last)
                    else:
                        last = reply
                        self._handle(reply)
                await asyncio.sleep(0)
        except Exception as exc:  # after any error, nothing is read any more
            self._end(reason_of(exc))

    async def drop(self) -> None:
        await abort_redis(self._connection)
        for answer in self._pings:  # if one ping fails, the other pings must end, too
            answer.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._connection.disconnect(nowait=True)

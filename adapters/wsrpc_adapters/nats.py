"""`NatsEngine`: an engine for clusters on NATS, with the library nats-py.

It uses core NATS without JetStream, so nothing is stored. The reconnection of the library is off, because the library
would buffer what is published meanwhile: a connection that is lost has ended. The largest message is the server's
``max_payload``, by default 1 MiB. For its subscriptions, each connection has two coroutines of the library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from wsrpc.cluster.engine import FEW, RESPONSE_TIMEOUT, EngineConnection, EngineListener
from wsrpc.errors import EngineLost, EngineRefused

from ._broker_connection import LATE_ANSWER_TIMEOUT, BrokerConnection, error_text, host_of, refuse_options
from ._broker_privates import abort_nats, end_nats_tasks, unsent_by_nats

try:
    from nats.aio.client import Client
    from nats.errors import SlowConsumerError
except ImportError as exc:
    raise ImportError("wsrpc_adapters.nats needs nats-py: pip install python-wsrpc[nats]") from exc

__all__ = ["NatsEngine"]

SET_FOR_NATS = frozenset(
    {
        "allow_reconnect",
        "closed_cb",
        "connect_timeout",
        "disconnected_cb",
        "error_cb",
        "flush_timeout",
        "max_reconnect_attempts",
        "no_echo",
        "pending_size",
        "reconnect_time_wait",
        "reconnect_to_server_handler",
        "reconnected_cb",
    }
)


class NatsEngine:
    """NATS as the engine of a `Cluster`: one server, or several servers that form a NATS cluster.

    Args:
        servers: a URL (``nats://host:4222``, ``tls://host``), or several URLs. Each connection uses one of them at
            random.
        options: options of ``nats.connect``: ``user``, ``password``, ``token``, ``user_credentials``, ``nkeys_seed``,
            ``tls``, ``tls_hostname``, ``name``, … The engine itself sets the callbacks, and the options for
            reconnection.

    Raises:
        TypeError: one of the options is set by the engine itself.
        ValueError: a URL is not valid, or begins with ``ws:`` or ``wss:`` (NATS over WebSocket).
    """

    def __init__(self, servers: str | Sequence[str], **options: Any) -> None:
        refuse_options("NatsEngine", options.keys(), SET_FOR_NATS)
        self._servers = [servers] if isinstance(servers, str) else list(servers)
        self._hosts = [host_of(server) for server in self._servers]
        if any(server.startswith(("ws:", "wss:")) for server in self._servers):
            raise ValueError("NatsEngine connects by nats:// or tls://, not by WebSocket")
        self._options = options

    def __repr__(self) -> str:
        return f"NatsEngine({', '.join(self._hosts)})"

    async def connect(self, listener: EngineListener, /) -> EngineConnection:
        """Connect to a server; see `wsrpc.cluster.engine.Engine.connect`."""
        connection = BrokerConnection(listener)
        broker = NatsBroker(connection)
        await connection.open(broker.connect(self._servers, self._options))
        return connection


class NatsBroker:
    """A connection of nats-py."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self._client: Any = Client()
        self._subscriptions: dict[str, Any] = {}
        self._connected = False
        self._last_error: Exception | None = None
        self._is_received: asyncio.Future[bool] | None = None
        """The answer to `is_received`."""

    async def connect(self, servers: list[str], options: dict[str, Any]) -> NatsBroker:
        try:
            await self._client.connect(
                servers,
                **options,
                allow_reconnect=False,
                # The library tries each server, tries servers that refuse a second time, and then gives up.
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=RESPONSE_TIMEOUT,
                error_cb=self._failed,
                closed_cb=self._closed,
            )
        except BaseException as exc:
            await self.drop()
            if isinstance(exc, Exception):
                refused = "'Authorization Violation'" in str(exc)  # the library has no class for this error
                # Otherwise, the last server's error is clearer than "no servers available".
                shown = exc if refused else self._last_error or exc
                raise (EngineRefused if refused else EngineLost)(error_text(shown)) from exc
            raise
        self._connected = True
        return self

    async def _failed(self, error: Exception) -> None:
        """Handle an error that the library does not raise, such as a missing permission."""
        if isinstance(error, SlowConsumerError):
            return  # messages were dropped because this process was too slow, which the node notices
        self._last_error = error
        if self._connected:
            self._connection.end(error_text(error))

    async def _closed(self) -> None:
        if self._connected:
            error = self._client.last_error
            self._connection.end("the server closed the connection" if error is None else error_text(error))

    @property
    def largest(self) -> int:
        largest: int = self._client.max_payload
        return largest

    @property
    def unsent(self) -> int:
        pending: int = self._client.pending_data_size
        return pending + unsent_by_nats(self._client)

    async def write(self, messages: list[tuple[str, bytes]], /) -> None:
        publish = self._client.publish
        for subject, payload in messages:
            await publish(subject, payload)
        if self.unsent > FEW // 2:
            await self.confirm()

    async def confirm(self) -> None:
        # Twice, because the library writes a PING at once, before the commands that it has buffered. After the first
        # response these commands are written, and after the second response the server has read them.
        await self._client.flush(3600)
        await self._client.flush(3600)

    async def subscribe(self, subject: str, /) -> None:
        if subject in self._subscriptions:
            return
        received = self._connection.received

        async def on_message(message: Any) -> None:
            if message.reply == subject or (message.headers and not message.data):  # of `is_received`
                if self._is_received is not None and not self._is_received.done():
                    self._is_received.set_result(not message.headers)
            else:
                received(subject, message.data)

        self._subscriptions[subject] = await self._client.subscribe(subject, cb=on_message)
        await self.confirm()

    async def is_received(self, subject: str, payload: bytes, /) -> bool:
        # If a message asks for an answer, and nobody gets it, the server itself answers with a header. The answer goes
        # to a subject of this connection, so that no further permission is needed. A second message, to this connection
        # itself, arrives after that answer.
        own = next(reversed(self._subscriptions))
        self._is_received = asyncio.get_running_loop().create_future()
        await self._client.publish(subject, payload, reply=own)
        await self._client.publish(own, b"", reply=own)
        return await self._is_received

    async def drop(self) -> None:
        self._connected = False
        await abort_nats(self._client)
        with suppress(OSError, TimeoutError):
            # `close` never returns if TLS could not start on the connection.
            async with asyncio.timeout(LATE_ANSWER_TIMEOUT):
                await self._client.close()
        await end_nats_tasks(self._client, self._subscriptions.values())
        self._subscriptions.clear()

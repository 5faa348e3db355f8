"""`EngineLink`: keeps a node connected to the engine, and connects again after a loss."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any, Protocol

from ..._base.logs import logger
from ..._base.scheduler import Tasks
from ...errors import EngineLost, EngineRefused, named
from ..engine import Engine, EngineConnection
from .wire import NodeMessage, encode

ALL = "all"
"""Last word of the subject to which all nodes subscribe. Other subjects end with the name of a node."""
RESUBSCRIBE_AFTER = 5.0
"""Seconds without any of its own messages, after which a node assumes that its subscriptions are lost."""
OVERDUE = 3.5
"""Seconds without them, after which it does not take others for ended: it publishes some every `BEAT`."""
RETRY = 0.5
"""Maximum seconds between two attempts to reach the engine."""
QUICK = 5.0
"""Seconds of a connection whose loss is a quick one. An engine may drop a node because of a message to it."""
PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Maximum seconds until the next attempt, by the number of quick losses in a row. All are shorter than a lease."""


class EngineLinkListener(Protocol):
    """The owner of an `EngineLink`: a node."""

    def received(self, subject: str, payload: bytes, /) -> None:
        """Handle a message from the engine."""

    def engine_back(self) -> None:
        """Handle a new connection to the engine."""

    def engine_lost(self, reason: str, /) -> None:
        """Handle the loss of the connection to the engine."""


class _ConnectionListener:
    """Listener of one connection to the engine. It drops the messages that arrive after the end of the connection."""

    def __init__(self, listener: EngineLinkListener) -> None:
        self._listener: EngineLinkListener | None = listener
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the connection is lost, with the reason."""

    def received(self, subject: str, payload: bytes, /) -> None:
        if self._listener is not None:
            self._listener.received(subject, payload)

    def lost(self, reason: str, /) -> None:
        self._listener = None
        if not self.over.done():
            self.over.set_result(reason)


class EngineLink:
    """The connection of the node ``id`` to the engine. After a loss, the link connects again.

    A node subscribes to two subjects: its own subject, and the subject of all nodes. A broker may lose a subscription
    without a report. So a node regularly publishes a message to each of its subjects, and calls `subject_received` when
    it receives the message.

    Args:
        application: the first word of all subjects.
    """

    def __init__(self, engine: Engine, application: str, id: str, listener: EngineLinkListener) -> None:
        self._engine = engine
        self._application = application
        self._subjects = (self._subject(ALL), self._subject(id))
        self._listener = listener
        self._label = f"node {id} of cluster {application!r}"
        self._connection: EngineConnection | None = None
        self._last_received: dict[str, float] | None = None
        """The time of the last message on each subject. None until `check` is called on this connection."""
        self.largest = 0
        """Maximum bytes of a message to the engine. 0 before the first connection."""
        self.published = 0
        """Total number of published messages."""
        self.reachable = asyncio.Event()
        """Set while there is a connection."""
        self.failure: EngineLost | None = None
        """Why the last attempt to connect has failed. None after a connection."""
        self.decided = asyncio.Event()
        """Set once the engine was reached, or has refused the user or the password."""
        self._away_since = asyncio.get_running_loop().time()
        """The time of the last loss of the engine."""
        self.losses = 0
        """How often the engine was lost."""
        self._tasks = Tasks()
        self._tasks.spawn(self._keep())

    def _subject(self, node: str) -> str:
        return f"{self._application}.{node}"

    @property
    def away_for(self) -> float:
        """Seconds for which the engine has not been reachable. 0 while it is."""
        return 0.0 if self.reachable.is_set() else asyncio.get_running_loop().time() - self._away_since

    @property
    def unsent(self) -> int:
        """Bytes of published messages that are not written yet."""
        return 0 if self._connection is None else self._connection.unsent

    def publish(self, node: str, message: NodeMessage) -> None:
        """Publish a message to a node, or to `ALL`.

        Raises:
            EngineLost: there is no connection.
            MessageTooBig: the engine does not accept such a large message.
        """
        if self._connection is None:
            raise EngineLost("not connected")
        try:
            self._connection.publish(self._subject(node), encode(message))
        except EngineLost:
            self._connection_ended()  # soon the listener is notified, too; until then, messages would wait
            raise
        self.published += 1

    def _connection_ended(self) -> None:
        if self.reachable.is_set():
            self._away_since = asyncio.get_running_loop().time()
            self.reachable.clear()

    async def is_received(self, node: str, message: NodeMessage) -> bool:
        """Publish a message to a node, and return whether a process got it. True if the engine cannot tell.

        Raises:
            EngineLost: there is no connection.
        """
        if self._connection is None:
            raise EngineLost("not connected")
        ask: Any = getattr(self._connection, "is_received", None)
        return ask is None or await ask(self._subject(node), encode(message))

    def try_publish(self, node: str, message: NodeMessage) -> None:
        """Publish a message. Do nothing if the engine is lost: the other nodes notice the gap at the next beat."""
        with suppress(EngineLost):
            self.publish(node, message)

    async def drain(self) -> None:
        """Wait until most published messages are written, or the connection is lost. Cancelling is safe."""
        if self._connection is not None:
            await self._connection.drain()

    async def close(self) -> None:
        """Write the published messages, and end the connection for good."""
        connection, self._connection = self._connection, None
        await self._tasks.cancel()
        if connection is not None:
            await connection.close()

    # ------------------------------------------------------------ the connection

    def subject_received(self, subject: str, now: float) -> None:
        """Record that this node has received its own message on ``subject``."""
        if self._last_received is not None:
            self._last_received[subject] = now

    def receives(self, now: float) -> bool:
        """Whether this node receives its own messages, as far as it knows."""
        return self._last_received is None or min(self._last_received.values()) + OVERDUE >= now

    def check(self, now: float, *, paused: bool = False) -> None:
        """Connect again if a subscription seems to be lost. Call this method regularly.

        Args:
            paused: whether this process has not read for a while, so that nothing is known.
        """
        if self._connection is None:
            return
        if self._last_received is None or paused:
            self._last_received = dict.fromkeys(self._subjects, now)
        elif min(self._last_received.values()) + RESUBSCRIBE_AFTER < now:
            self._last_received = None
            logger.warning("%s does not hear itself: it connects to its engine again", self._label)
            self._tasks.spawn(self._connection.close())

    async def _keep(self) -> None:
        quick_losses = 0
        while True:
            listener = _ConnectionListener(self._listener)
            try:
                connection = await self._connect(listener)
            except Exception as exc:  # an engine of the user's own may raise something else than `EngineLost`
                before, self.failure = self.failure, exc if isinstance(exc, EngineLost) else EngineLost(named(exc))
                if before is None:
                    why, trace = self.failure.reason, self.failure is not exc
                    logger.warning("%s cannot reach its engine: %s", self._label, why, exc_info=trace)
                if isinstance(exc, EngineRefused):
                    self.decided.set()
                await asyncio.sleep(random.uniform(0.1, RETRY))
                continue
            self._connection, self._last_received, self.failure = connection, None, None
            began = asyncio.get_running_loop().time()
            self.reachable.set()
            self.decided.set()
            logger.info("%s is connected to its engine", self._label)
            self._listener.engine_back()
            reason = await listener.over
            self._connection = None
            self._connection_ended()
            logger.warning("%s has lost its engine: %s", self._label, reason)
            self.losses += 1
            self._listener.engine_lost(reason)
            quick_losses = quick_losses + 1 if asyncio.get_running_loop().time() - began < QUICK else 0
            await asyncio.sleep(random.uniform(0.5, 1) * PAUSES[min(quick_losses, len(PAUSES) - 1)])

    async def _connect(self, listener: _ConnectionListener) -> EngineConnection:
        connection = await self._engine.connect(listener)
        self.largest = connection.largest  # messages of other nodes may arrive before the last subscription
        try:
            for subject in self._subjects:
                await connection.subscribe(subject)
        except BaseException:
            await connection.close()
            raise
        return connection

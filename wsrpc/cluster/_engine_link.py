"""`EngineLink`: keeps a connection to the engine, and makes another one when it is lost."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Protocol

from .._base.logs import logger
from .._base.scheduler import Tasks
from ..errors import EngineLost
from ._wire import NodeMessage, encode
from .engine import Engine, EngineConnection

ALL = "all"
"""In place of a node's name: the subject that all nodes hear."""
DEAF = 5.0
"""Seconds without a word of its own, after which a node takes its subscriptions for dead, and connects again."""
RETRY = 0.5
"""Seconds between two attempts to reach the engine, at most."""


class EngineLinkListener(Protocol):
    """The node that the link belongs to."""

    def received(self, subject: str, payload: bytes, /) -> None:
        """A message has come."""

    def engine_back(self) -> None:
        """There is a connection."""

    def engine_lost(self, reason: str, /) -> None:
        """There is none any more."""


class _ConnectionListener:
    """Listener of one connection to the engine. What it hears after its end reaches nobody."""

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
    """The connection of the node ``id`` to the engine, which is made again when it is lost.

    A node hears two subjects: its own, and that of all nodes. A broker may forget a subscription without a word. So a
    node publishes something to each of the two now and then, and says so by `heard` when it comes back.

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
        """When each subject was last heard. None before `check` has been called on this connection."""
        self.largest = 0
        """Bytes that a message to the engine may have, as far as is known."""
        self.published = 0
        """How many messages were published, in all."""
        self.reachable = asyncio.Event()
        """Whether there is a connection."""
        self._tasks = Tasks()
        self._tasks.spawn(self._keep())

    def _subject(self, node: str) -> str:
        return f"{self._application}.{node}"

    @property
    def unsent(self) -> int:
        """Bytes that the engine has not taken yet."""
        return 0 if self._connection is None else self._connection.unsent

    def publish(self, node: str, message: NodeMessage) -> None:
        """Publish a message to a node, or to `ALL`.

        Raises:
            EngineLost: there is no connection.
            MessageTooBig: the engine does not take it.
        """
        if self._connection is None:
            raise EngineLost("not connected")
        try:
            self._connection.publish(self._subject(node), encode(message))
        except EngineLost:
            self.reachable.clear()  # it will say so in a moment, and what is sent until then would wait for another one
            raise
        self.published += 1

    def try_publish(self, node: str, message: NodeMessage) -> None:
        """Publish a message, unless the engine is lost: then the other nodes find out by the next beat."""
        with suppress(EngineLost):
            self.publish(node, message)

    async def drain(self) -> None:
        """Wait until most of what was published has left, or the connection is lost. Cancelling is safe."""
        if self._connection is not None:
            await self._connection.drain()

    async def close(self) -> None:
        """Write what was published, and end for good."""
        connection, self._connection = self._connection, None
        await self._tasks.cancel()
        if connection is not None:
            await connection.close()

    # ------------------------------------------------------------ whether it works

    def subject_received(self, subject: str, now: float) -> None:
        """Note that something of this node has come back to it."""
        if self._last_received is not None:
            self._last_received[subject] = now

    def check(self, now: float) -> None:
        """Connect again if a subject seems to be dead. Call this now and then."""
        if self._connection is None:
            return
        if self._last_received is None:
            self._last_received = dict.fromkeys(self._subjects, now)
        elif min(self._last_received.values()) + DEAF < now:
            self._last_received = None
            logger.warning("%s does not hear itself: it connects to its engine again", self._label)
            self._tasks.spawn(self._connection.close())

    async def _keep(self) -> None:
        told = False
        while True:
            ear = _ConnectionListener(self._listener)
            try:
                connection = await self._connect(ear)
            except Exception as exc:  # an engine of the user's own may raise something else than `EngineLost`
                if not told:
                    told = True
                    if isinstance(exc, EngineLost):
                        logger.warning("%s cannot reach its engine: %s", self._label, exc.reason)
                    else:
                        logger.exception("%s cannot reach its engine", self._label)
                await asyncio.sleep(random.uniform(0.1, RETRY))
                continue
            told = False
            self._connection, self._last_received = connection, None
            self.reachable.set()
            logger.info("%s is connected to its engine", self._label)
            self._listener.engine_back()
            reason = await ear.over
            self._connection = None
            self.reachable.clear()
            logger.warning("%s has lost its engine: %s", self._label, reason)
            self._listener.engine_lost(reason)

    async def _connect(self, ear: _ConnectionListener) -> EngineConnection:
        connection = await self._engine.connect(ear)
        self.largest = connection.largest  # other nodes are heard of before all subjects are subscribed to
        try:
            for subject in self._subjects:
                await connection.subscribe(subject)
        except BaseException:
            await connection.close()
            raise
        return connection

"""The contract between a node of a cluster and the engine that carries its messages.

An *engine* is a message broker with subjects, such as NATS or Redis: who has subscribed a subject gets what is
published to it. `Engine.connect` makes a connection, which lives until it is lost and is never reused: the node then
connects again, and subscribes anew. Everything happens in the thread of one event loop.

**Out.** ``publish(subject, payload)`` is synchronous and never blocks. What is published in one turn of the event loop
is written together. A payload above ``largest`` bytes raises `MessageTooBig`. When the connection is lost, ``publish``
raises `EngineLost`: nothing is kept for later. When it returns, the message may still be lost on its way. ``unsent`` is
the number of bytes that the operating system has not taken yet, and ``drain()`` waits until these are few, or the
connection is lost.

**In.** The connection calls ``listener.received(subject, payload)`` for each message of a subject that is subscribed.
Messages of one publisher to one subject come in the order in which they were published, none of them twice. Some may be
missing, as where the broker drops them for a slow reader; the node finds that out. ``received`` does not raise.

**Subscribing.** ``subscribe(subject)`` returns when the broker has confirmed it: what is published from then on comes.
``unsubscribe(subject)`` returns when nothing more comes. Subjects are ASCII letters, digits, ``-``, ``_`` and ``.``, of
at most 200 characters.

**End.** ``listener.lost(reason)`` is called exactly once, however the connection ended: the broker closed it, the
network dropped it, ``close`` was called, or the broker has not answered for `PATIENCE` seconds. The connection sees to
the last by itself, also while nothing is published: a broker that is frozen must not look alive. No other method of the
listener is called after it. ``close()`` writes what was published before, and returns when the connection is over.
Cancelling ``drain``, ``subscribe``, ``unsubscribe`` and ``close`` is safe.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["PATIENCE", "Engine", "EngineConnection", "EngineListener"]

PATIENCE = 1.5
"""Seconds in which a broker answers. One that does not is treated as gone."""


class EngineListener(Protocol):
    """What a connection to an engine delivers to: a node of a cluster."""

    def received(self, subject: str, payload: bytes, /) -> None: ...

    def lost(self, reason: str, /) -> None: ...


class EngineConnection(Protocol):
    """A connection to an engine. The docstring of the module is the contract."""

    @property
    def largest(self) -> int: ...

    @property
    def unsent(self) -> int: ...

    def publish(self, subject: str, payload: bytes, /) -> None: ...

    async def drain(self) -> None: ...

    async def subscribe(self, subject: str, /) -> None: ...

    async def unsubscribe(self, subject: str, /) -> None: ...

    async def close(self) -> None: ...


class Engine(Protocol):
    """A broker, and how to connect to it."""

    async def connect(self, listener: EngineListener, /) -> EngineConnection:
        """Connect.

        Raises:
            EngineLost: the broker cannot be reached, does not answer within `PATIENCE`, or refuses.
        """
        ...

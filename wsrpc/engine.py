"""The contract between a node of a cluster and the engine that carries its messages.

An *engine* is a message broker with subjects, such as NATS or Redis: who has subscribed a subject gets what is
published to it. `Engine.connect` makes a connection, which lives until it is lost and is never reused: the node then
connects again, and subscribes anew. Turn off a library's own reconnection, and whatever sends again what may have
arrived. Everything happens in the thread of one event loop.

**Out.** ``publish(subject, payload)`` is synchronous and never blocks. What is published in one turn of the event loop
is written together. A payload above ``largest`` bytes raises `MessageTooBig`. Once the connection is lost or ``close``
was called, ``publish`` raises `EngineLost`: nothing is kept for later. When it returns, the message may still be lost
on its way. ``unsent`` is the number of bytes of payload that wait in this process because the broker takes them too
slowly; a library's framing may be counted, too. ``drain()`` waits until ``unsent`` is at most `FEW`, or the connection
is lost; it raises nothing.

**In.** The connection calls ``listener.received(subject, payload)`` for each message of a subject that is subscribed,
those that it has published itself included. Messages of one publisher to one subject come in the order in which they
were published, none of them twice. Some may be missing, as where the broker drops them for a slow reader; the node
finds that out. ``received`` does not raise.

**Subscribing.** ``subscribe(subject)`` returns when the broker has confirmed it: what is published to the same server
from then on comes. Where a broker has several servers, the others may learn it a moment later. ``unsubscribe(subject)``
returns when nothing more comes. Both raise `EngineLost`, and change nothing where nothing is to be changed. If one of
them is cancelled, its change may be made or not. Subjects are words of ASCII letters, digits, ``-`` and ``_``, joined
by dots, of at most 200 characters in all. There are no wildcards.

**End.** ``listener.lost(reason)`` is called exactly once, however the connection ended: the broker closed it or refused
something (a permission that is missing), the network dropped it, ``close`` was called, or nothing has come from the
broker for `PATIENCE` seconds although it was asked. The connection asks by itself, every `PROBE` seconds, also while
nothing is published: a broker that is frozen must not look alive. No other method of the listener is called after it.
Both methods are called by the event loop, never from within a call of the connection.

``close()`` refuses further messages, writes what was published before, and then ends the connection; a broker that has
not taken it within `PATIENCE` seconds is not waited for. It returns when ``lost`` was called and no task and no socket
is left. It may be called more than once, and after the end, which it then waits for. Cancelling ``drain``,
``subscribe``, ``unsubscribe`` and ``close`` is safe: the connection goes on, or goes on closing.

``reason`` is shown in logs, so neither it nor the ``repr`` of an engine contains a password.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["FEW", "PATIENCE", "PROBE", "Engine", "EngineConnection", "EngineListener"]

PATIENCE = 1.5
"""Seconds in which a broker answers. One that does not is treated as gone."""

PROBE = 0.5
"""Seconds between two questions to a broker."""

FEW = 64 * 1024
"""Bytes that may be unsent when `EngineConnection.drain` returns."""


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
        """Connect. Cancelling it leaves nothing behind.

        Raises:
            EngineLost: the broker cannot be reached, does not answer within `PATIENCE`, or refuses.
        """
        ...

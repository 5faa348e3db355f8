"""The contract between a node of a cluster and the engine that carries its messages.

A *node* is one process of a cluster. An *engine* is a message broker with subjects, such as NATS or Redis. A message
that is published to a subject reaches every connection that has subscribed to the subject. `Engine.connect` makes a
connection. When a connection is lost, it is never used again: the node makes another connection, and subscribes again.
Turn off the reconnection of your library, and any feature that sends messages again if they may have arrived already.
Everything happens in the thread of one event loop.

**Out.** ``publish(subject, payload)`` is synchronous and never blocks. All messages that are published in one turn of
the event loop are written together. A payload of more than ``largest`` bytes raises `MessageTooBig`. When the
connection is lost, or after a call of ``close``, ``publish`` raises `EngineLost`: nothing is kept for later. When
``publish`` has returned, the message can still be lost on its way. ``unsent`` is the number of bytes of payload that
wait in this process because the broker reads them too slowly. This number may include the framing of the library.
``drain()`` waits until ``unsent`` is at most `FEW`, or until the connection is lost. ``drain()`` raises nothing.

**In.** The connection calls ``listener.received(subject, payload)`` for each message of a subscribed subject, including
messages that it has published itself. Messages from one publisher to one subject arrive in the order in which they were
published, each at most once. Messages may be missing, for example if the broker drops messages for a slow reader. The
node detects missing messages. ``received`` does not raise.

**Subscribing.** ``subscribe(subject)`` returns when the broker has confirmed the subscription. From then on, messages
that are published through the same server of the broker arrive. If a broker has several servers, the subscription may
reach the other servers a moment later. ``unsubscribe(subject)`` returns when no more messages of the subject will
arrive. Both methods raise `EngineLost` if the connection is lost. They change nothing if the connection is already
subscribed, or already unsubscribed. If one of these methods is cancelled, its change may or may not have been made. A
subject consists of words of ASCII letters, digits, ``-`` and ``_``, joined by dots, with at most 200 characters in all.
There are no wildcards.

**End.** ``listener.lost(reason)`` is called exactly once, however the connection ends. It ends when the broker closes
it or refuses something (for example because of a missing permission), when the network drops it, when ``close`` is
called, or when the broker does not respond to a check for `PATIENCE` seconds. The connection checks the broker every
`PROBE` seconds, even while nothing is published, because a broker that hangs must be detected. After ``lost``, no other
method of the listener is called. The event loop calls ``received`` and ``lost``; they are never called during a call of
a method of the connection.

``close()`` refuses further messages, writes the messages that were published before, and then ends the connection. It
waits at most `PATIENCE` seconds for the broker to read these messages. It returns when ``lost`` was called, and no task
and no socket is left. It can be called more than once, and after the connection was lost. It then waits until nothing
of the connection is left. Cancelling ``drain``, ``subscribe``, ``unsubscribe`` and ``close`` is safe: the connection
stays open, or continues to close.

``reason`` is shown in logs. Neither ``reason`` nor the ``repr`` of an engine may contain a password.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["FEW", "PATIENCE", "PROBE", "Engine", "EngineConnection", "EngineListener"]

PATIENCE = 1.5
"""Maximum time, in seconds, until a response from a broker. A broker that takes longer counts as lost."""

PROBE = 0.5
"""Time, in seconds, between two checks of a broker."""

FEW = 64 * 1024
"""Maximum number of bytes that are unsent when `EngineConnection.drain` returns."""


class EngineListener(Protocol):
    """Receiver of the messages of a connection to an engine. A node of a cluster implements it."""

    def received(self, subject: str, payload: bytes, /) -> None: ...

    def lost(self, reason: str, /) -> None: ...


class EngineConnection(Protocol):
    """Connection to an engine. The description of the module `wsrpc.engine` is its contract."""

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
    """Message broker to which a node of a cluster can connect."""

    async def connect(self, listener: EngineListener, /) -> EngineConnection:
        """Connect to the broker. If the call is cancelled, no task and no socket is left.

        Raises:
            EngineLost: the broker cannot be reached, does not respond within `PATIENCE` seconds, or refuses the
                connection.
        """
        ...

"""The contract between the nodes of a cluster and the engine that carries messages between the nodes.

A *node* is one process of a cluster. An *engine* is a message broker with subjects, such as NATS or Redis. A message
that is published to a subject reaches every connection that has subscribed to the subject. `Engine.connect` opens a
connection. A lost connection is never used again: the node opens another connection, and subscribes again. Turn off
automatic reconnection in the broker's library, and any feature that resends messages that may already have arrived.
Everything happens in the thread of one event loop.

**Out.** ``publish(subject, payload)`` is synchronous and never blocks. All messages that are published in one turn of
the event loop are written together. A payload of more than ``largest`` bytes raises `MessageTooBig`. After the
connection is lost or ``close`` has been called, ``publish`` raises `EngineLost`, and does not keep the message. A
message can still be lost after ``publish`` has returned. ``unsent`` is the number of payload bytes that are waiting in
this process because the broker is reading too slowly. The number may include the library's framing. ``drain()`` waits
until ``unsent`` is at most `FEW`, or until the connection is lost. ``drain()`` raises nothing.

**In.** The connection calls ``listener.received(subject, payload)`` for each message of a subscribed subject, including
messages that the same connection has published. Messages from one publisher to one subject arrive in the order in which
they were published, each at most once. Messages may be missing, for example if the broker drops messages for a slow
reader. The node detects missing messages. ``received`` does not raise.

**Subscribing.** ``subscribe(subject)`` returns when the broker has confirmed the subscription. From then on, messages
that are published through the same server of the broker arrive. If a broker has several servers, the subscription may
reach the other servers a moment later. ``subscribe`` raises `EngineLost` if the connection is lost. It changes nothing
if the connection is already subscribed. After a cancelled ``subscribe``, the connection may or may not be subscribed. A
subscription lasts as long as the connection. A subject consists of words joined by dots, and is at most 200 characters
long. Words consist of ASCII letters, digits, ``-`` and ``_``. There are no wildcards.

**Who receives.** A connection may have another method, ``await is_received(subject, payload)``, which is called after
``subscribe``. It publishes a message, and returns whether any connection got it, or true if the broker does not say so.
It raises `EngineLost` if the connection is lost. With this method, a node learns that another process was killed before
the lease of the other node is over.

**End.** ``listener.lost(reason)`` is called exactly once, however the connection ends. The connection ends when the
broker closes it or refuses something (for example because of a missing permission), when the network drops it, when
``close`` is called, or when the broker does not respond to a check within `RESPONSE_TIMEOUT` seconds. The connection
checks the broker every `PROBE` seconds, even while nothing is published, because a broker that hangs must be detected.
After ``lost``, no other method of the listener is called. ``received`` and ``lost`` are called by the event loop, and
never from inside a method of the connection.

``close()`` rejects further messages, writes the messages that have already been published, and then ends the
connection. It waits at most `RESPONSE_TIMEOUT` seconds for the broker to read these messages. It returns when ``lost``
has been called and no task or socket is left. You can call ``close()`` more than once, and after the connection was
lost. In these cases, it only waits until no task or socket is left. Cancelling ``drain``, ``subscribe`` and ``close``
is safe: the connection stays open, or continues to close.

``reason`` is shown in logs. Neither ``reason`` nor the ``repr`` of an engine may contain a password.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["FEW", "PROBE", "RESPONSE_TIMEOUT", "Engine", "EngineConnection", "EngineListener"]

RESPONSE_TIMEOUT = 1.5
"""Maximum time, in seconds, for a broker to respond. After this time, the connection counts as lost."""

PROBE = 0.5
"""Time, in seconds, between two checks of a broker."""

FEW = 64 * 1024
"""Maximum number of bytes that are unsent when `EngineConnection.drain` returns."""


class EngineListener(Protocol):
    """Object to which a connection to an engine delivers messages. The nodes of a cluster implement this protocol."""

    def received(self, subject: str, payload: bytes, /) -> None: ...

    def lost(self, reason: str, /) -> None: ...


class EngineConnection(Protocol):
    """Connection to an engine. The module `wsrpc.cluster.engine` describes how each method must behave."""

    @property
    def largest(self) -> int: ...

    @property
    def unsent(self) -> int: ...

    def publish(self, subject: str, payload: bytes, /) -> None: ...

    async def drain(self) -> None: ...

    async def subscribe(self, subject: str, /) -> None: ...

    async def close(self) -> None: ...


class Engine(Protocol):
    """Message broker to which a node of a cluster can connect."""

    async def connect(self, listener: EngineListener, /) -> EngineConnection:
        """Connect to the broker. If this method is cancelled, no task or socket is left.

        Raises:
            EngineLost: the broker cannot be reached, does not respond within `RESPONSE_TIMEOUT` seconds, or refuses the
                connection.
            EngineRefused: the broker refuses the user or the password.
        """
        ...

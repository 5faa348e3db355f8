"""`OutgoingCall`: a call or an event that is about to leave. `OutgoingRegistrar`: registers middleware for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal, TypeVar

from msgspec import Struct

from ..._base.misuse import no_parentheses
from ..handlers.registry import Registry
from .outgoing_functions import OutgoingFunction, read_function
from .peer import Peer

F = TypeVar("F", bound="OutgoingMiddleware")


class OutgoingCall(Struct, frozen=True, eq=False):
    """A call or an event that is about to leave, for the functions of `Client.use_outgoing`.

    Only ``metadata`` can be changed.

    Attributes:
        kind: ``"event"``, ``"request"``, ``"stream"``, ``"upload"``, ``"conversation"`` or ``"broadcast"``.
        event: the name of the event.
        args: the arguments.
        metadata: the names and values that travel to the handler, see `Client.emit`. They are checked after all
            functions have run.
        channel_name: the name of the channel. None on the main channel and on anonymous channels.
        peer: the peer that gets the message. None for a broadcast, and for a peer of a cluster (`Cluster.peer`).
        address: the address of the peer, if it has one.
        timeout: the seconds after which the call fails. None for no limit, and for events.
    """

    kind: Literal["event", "request", "stream", "upload", "conversation", "broadcast"]
    event: str
    args: tuple[Any, ...] = ()
    metadata: dict[str, str] = {}
    channel_name: str | None = None
    peer: Peer | None = None
    address: str | None = None
    timeout: float | None = None

    def __repr__(self) -> str:
        where = "" if self.channel_name is None else f"{self.channel_name}:"
        return f"<OutgoingCall {self.kind} {where + self.event!r}>"


OutgoingFunction.call_class = OutgoingCall

CallOutgoing = Callable[[OutgoingCall], Awaitable[Any]]
OutgoingMiddleware = (
    Callable[[OutgoingCall, CallOutgoing], Awaitable[Any]] | Callable[[OutgoingCall], Iterator[None] | None]
)
"""A function of the user; see `OutgoingRegistrar.use_outgoing`."""


class OutgoingRegistrar:
    """The method `use_outgoing`, for clients and servers."""

    __slots__ = ()

    _registry: Registry

    @no_parentheses("@client.use_outgoing")
    def use_outgoing(self, function: F, /) -> F:
        """Run ``function`` around the calls and events that this object sends. Works as a decorator.

        On a server, these are the messages to all its peers and rooms, and to the peers of its cluster. The function
        gets an `OutgoingCall`, whose ``metadata`` it may change. To refuse the call, it raises an exception, which the
        caller gets. There are three forms, and the first function that you register is the outermost:

        - ``def function(call)`` runs before each message.
        - ``def function(call)`` with one ``yield`` runs around the call: until a stream or a conversation has ended.
          If the call has failed, its exception is raised at the ``yield``. The function cannot change the outcome.
        - ``async def function(call, call_next)`` returns ``await call_next(call)``, or another result in its place. It
          does not run for `emit_nowait` and for broadcasts. For a stream or a conversation, it runs until that is open.

        Each runs once for a request, however often ``retry`` sends it.

        Raises:
            TypeError: ``function`` has none of these forms.
        """
        self._registry.outgoing.append(read_function(function))
        return function

"""The peers of a server, and each of them as the server sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Generator, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import LogBudget, PeerLog
from .._base.scheduler import Scheduler
from .._handlers.lifecycle import Closers
from .._handlers.registry import Registry
from .._peer.binding import Services
from .._peer.peer import Peer
from .._peer.slow_readers import Behind, Slow
from .._protocol.settings import Settings
from .._sending.checks import Objections, check_thread, check_thread_of_plain
from ..errors import ConnectionLost, MessageTooBig, QueueFull
from ..handshake import Handshake
from ..stats import Tally
from ..transport import Transport

if TYPE_CHECKING:
    from .rooms import Room
    from .server import Server

__all__ = ["Encode", "Encodings", "Peers", "ServedPeer", "served_peer"]

Encode = Callable[[Any], bytes]
"""A codec's function, which stands for the codec: peers that negotiated the same one share an encoding."""

Encodings = Mapping[Encode, tuple[bytes, bool]]
"""Encodings of a message that its receivers use, and whether each is text."""


class ServedPeer:
    """Peer of a server, with its rooms and its link to the server.

    The server's other modules hold this object. Only this class knows the inside of a `Peer`.

    ``rooms`` says of each room whether the client joined it by its own request. The rooms stay here when the connection
    has ended, so that `close` handlers can look at them.
    """

    __slots__ = ("__weakref__", "_out", "_peers", "home", "peer", "rooms", "server")

    def __init__(
        self,
        server: Server,
        peers: Peers,
        settings: Settings,
        registry: Registry,
        loop: Scheduler,
        handshake: Handshake | None,
    ) -> None:
        self.server = server
        self.rooms: dict[Room, bool] = {}
        self.home: Room | None = None
        self._peers = peers
        self.peer = peer = Peer(settings, dialer=False, shared=registry, loop=loop)
        self._out = peer._out
        peer._membership = self
        peer._binding.on_lost = self._lost
        # The peer's own handlers go before the server's, so they must not take a channel that the server handles.
        peer._registry.taken = registry.taken
        peer._log.on_error = peers.tally.failed
        peer._log.budget = peers.budget
        if handshake is not None:
            peer.state = handshake.state
            peer.principal = handshake.principal

    @property
    def log(self) -> PeerLog:
        """The peer's log."""
        return self.peer._log

    # ------------------------------------------------------------ checks

    def check_thread(self, call: str) -> None:
        """Refuse to be awaited in another thread than the connection's; ``call`` is for the error's text."""
        check_thread(self._out.thread, call)

    def check_thread_of_plain(self, function: str) -> None:
        """Refuse to be called in another thread than the connection's; ``function`` is for the error's text."""
        check_thread_of_plain(self._out.thread, function)

    def check_connected(self) -> None:
        """Check that messages can be sent.

        Raises:
            ConnectionLost: there is no connection, or it is broken.
        """
        if self._out.broken:
            raise self._out.not_sent()

    # ------------------------------------------------------------ the connection

    def prepare(self, transport: Transport, services: Services) -> None:
        """Tell the peer about the connection that it is going to get.

        Factories of services may look at ``peer.info``, and their log lines have the remote address.
        """
        self.peer._binding.info = transport.info
        self.peer._log.remote = transport.info.remote
        self.peer._services = services

    def _lost(self, info: CloseInfo, replaced: bool) -> CloseInfo:
        self._peers.lost(self, info)
        return info

    def refuse(self, code: int, reason: str) -> None:
        """Close the connection while it opens, and ignore what has arrived on it."""
        self.peer._binding.refuse(code, reason)

    def handler_failed(self, event: str, name: str, exc: BaseException) -> None:
        """Log that the handler ``name`` of a lifecycle event raised ``exc``."""
        self.peer._reporter.failed(event, name, exc)

    # ------------------------------------------------------------ shutting down

    def drain(self, deadline: float) -> None:
        """Finish active work and begin nothing new; the remote peer is told to expect the close at ``deadline``."""
        self.peer._binding.drain(deadline)

    async def wait_idle(self, closers: Closers) -> None:
        """Wait until nothing is active or pending on the connection, besides what ``closers`` cover.

        The peer is idle when no handler runs for it or waits to run, no request to it is pending, no anonymous channel
        is open, what was accepted for it is written, and a remote peer that can say so has said that it sends nothing
        new. Cancelling is safe.
        """
        # Whatever ends may have begun something else, so look again each time. Nothing here counts or polls: each kind
        # of work has something of its own to wait for. Messages that wait to be handled do so because of such work.
        peer, out = self.peer, self._out
        while True:
            opening = peer._binding.opening
            if opening is not None and not closers.cover(opening.task, out.opening):
                await opening.wait()
            elif out.line.busy:
                await out.wait_written()
            elif tasks := {task for task in peer._calls.tasks(closers) if not task.done()}:
                await closers.wait_besides(tasks, None)
            elif unsettled := out.requests.unsettled():
                await asyncio.wait(unsettled)
            elif channels := set(peer._anonymous.all()) - peer._calls.channels(closers):
                await channels.pop().wait_closed()
            elif not peer._agreement.quiet:
                await peer._agreement.wait_quiet()
            else:
                return

    async def join(self, patience: float, closers: Closers) -> None:
        """Wait for the peer's handlers, besides those of ``closers``; cancel them after ``patience`` seconds."""
        await self.peer._join(patience, closers)

    # ------------------------------------------------------------ broadcasts

    @property
    def full(self) -> bool:
        """Whether the connection is above its high-water mark."""
        return self._out.line.full

    @property
    def stalled(self) -> bool:
        """Whether the connection is above its high-water mark, and not known to be broken."""
        return self._out.line.full and not self._out.broken

    @property
    def overdue(self) -> bool:
        """Whether broadcasts have waited for the connection, and it has not drained since."""
        return self._out.line.overdue

    def note_overdue(self) -> None:
        """Remember whether the connection is full after a broadcast has waited for it."""
        self._out.line.overdue = self._out.line.full

    def over_cap(self, encodings: Encodings) -> bool:
        """Whether a message would take the connection over `Limits.hard_cap`."""
        session = self.peer._binding.session
        return session is not None and self._out.over_cap(session, len(encodings[self._out.encode][0]))

    def wait_drained(self) -> Coroutine[Any, Any, None] | None:
        """Return a coroutine that waits until the connection has drained; None if there is no connection."""
        transport = self.peer.transport
        return None if transport is None else transport.drain()

    def deliver(
        self, encodings: Encodings, objections: dict[bytes, Objections] | None, slow: Slow, key: Hashable
    ) -> bool:
        """Send a message that was encoded for many; False if the policy ``slow`` drops it.

        ``objections`` is what is known of the message's size, for all receivers; None: it is a raw message.

        Raises:
            ConnectionLost: there is no connection.
            MessageTooBig: the remote peer would not accept the message.
            QueueFull: the connection is at its hard cap, and is closed with 4408.
        """
        out, binding = self._out, self.peer._binding
        payload, text = encodings[out.encode]
        session = binding.session
        if session is None or out.broken:
            raise out.not_sent()
        if len(payload) > out.unchecked and (refusal := self._refusal(payload, objections)) is not None:
            raise refusal
        if out.line.full:
            if slow != "close":
                if binding.behind is None:
                    binding.behind = Behind(out, self.peer.limits.behind, partial(self.peer._log, logging.WARNING))
                return binding.behind.put(payload, text, slow, key, session.send)
            if binding.behind:
                binding.behind.flush(everything=True)  # this one can neither be dropped nor overtake
            if out.over_cap(session, len(payload)):
                binding.fail(CloseCode.SLOW_CONSUMER, "slow consumer")
                raise QueueFull(f"{session.transport.unsent} bytes were unsent: the connection was closed with 4408")
        session.send(payload, text)
        return True

    def _refusal(self, payload: bytes, objections: dict[bytes, Objections] | None) -> MessageTooBig | None:
        if objections is None:
            return self._out.refusal(payload, raw=True)
        return self._out.refusal(payload, known=objections)


def served_peer(peer: object) -> ServedPeer | None:
    """Return the `ServedPeer` of ``peer``; None for a client's peer and for anything else."""
    return peer._membership if isinstance(peer, Peer) else None


class Peers:
    """The peers of a server, each from `admit` to the end of its connection.

    ``on_left`` is called with each peer when its connection has ended. It may be called twice for one.
    """

    def __init__(self, tally: Tally, budget: LogBudget, on_left: Callable[[ServedPeer], None]) -> None:
        self.tally = tally
        self.budget = budget
        self._on_left = on_left
        self._connected: dict[str, ServedPeer] = {}
        self._leaving: WeakSet[ServedPeer] = WeakSet()
        """Peers without a connection. They live as long as something runs for them."""

    def __len__(self) -> int:
        return len(self._connected)

    def __iter__(self) -> Iterator[ServedPeer]:
        return iter(tuple(self._connected.values()))

    def users(self) -> tuple[Peer, ...]:
        """The connected peers, in the order in which they came."""
        return tuple(served.peer for served in self._connected.values())

    def get(self, id: str) -> Peer | None:
        """The connected peer with that id."""
        served = self._connected.get(id)
        return None if served is None else served.peer

    def everybody(self) -> set[ServedPeer]:
        """All peers, with those whose connection has ended but for which something may still run."""
        return {*self._connected.values(), *self._leaving}

    async def admit(self, served: ServedPeer, transport: Transport) -> None:
        """Bind a peer to ``transport`` and keep it; return when its `open` handlers are done.

        Raises:
            TypeError: ``transport`` is not a transport.
        """
        self._connected[served.peer.id] = served
        try:
            served.peer.bind(transport)
        except BaseException:
            self._forget(served)
            raise
        self.tally.accepted += 1
        await served.peer.wait_opened()

    @contextmanager
    def counting_refusal(self, served: ServedPeer) -> Generator[None]:
        """Count a peer that is refused after its handshake, with the code with which its connection was closed."""
        try:
            yield
        except ConnectionLost as exc:
            self.tally.accepted += 1
            self.tally.left(served.peer.stats(), exc.code)
            raise

    def lost(self, served: ServedPeer, info: CloseInfo) -> None:
        """Forget a peer whose connection has ended."""
        if served.peer.id in self._connected:  # a user's code may have bound it again
            self.tally.left(served.peer.stats(), info.code)
        self._forget(served)
        # What still runs for it must not outlive the server; it also keeps the peer in this set.
        self._leaving.add(served)

    def clear(self) -> None:
        """Forget every peer, whatever its transport says."""
        for served in self:
            self._forget(served)

    def _forget(self, served: ServedPeer) -> None:
        self._connected.pop(served.peer.id, None)
        self._on_left(served)

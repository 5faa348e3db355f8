"""The peers of a server, and each of them as the server sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import LogBudget, PeerLog
from .._base.scheduler import Scheduler
from .._handlers.lifecycle import Closers, Unfinished
from .._handlers.registry import Registry
from .._peer.core import PeerOwner
from .._peer.peer import Peer, core_of
from .._protocol.settings import Settings
from .._sending.checks import Objections, check_thread, check_thread_of_plain
from .._sending.slow_readers import Slow
from ..errors import ConnectionLost, MessageTooBig, QueueFull
from ..handshake import Handshake
from ..stats import Tally
from ..transport import Transport

if TYPE_CHECKING:
    from .hosting import PeerServices
    from .server import Server

__all__ = ["Encode", "Encodings", "Peers", "ServedPeer", "served_peer"]

Encode = Callable[[Any], bytes]
"""A codec's function, which stands for the codec: peers that negotiated the same one share an encoding."""

Encodings = Mapping[Encode, tuple[bytes, bool]]
"""Encodings of a message that its receivers use, and whether each is text."""


class ServedPeer(PeerOwner):
    """Peer of a server, with its rooms and its link to the server.

    The server's other modules hold this object. Only this class knows the inside of a `Peer`.

    ``rooms`` says of each room whether the client joined it by its own request. The rooms stay here when the connection
    has ended, so that `close` handlers can look at them.
    """

    __slots__ = ("__weakref__", "_core", "_peers", "out", "peer", "services")

    def __init__(
        self,
        server: Server,
        peers: Peers,
        settings: Settings,
        registry: Registry,
        loop: Scheduler,
        handshake: Handshake | None,
    ) -> None:
        super().__init__(server)
        self.services: PeerServices | None = None
        self._peers = peers
        self.peer = peer = Peer(settings, dialer=False, shared=registry, loop=loop, owner=self)
        self._core = core = core_of(peer)
        self.out = core.out
        # The peer's own handlers go before the server's, so they must not take a channel that the server handles.
        core.options.own.reserve_as(registry)
        core.log.join_server(peers.budget, peers.tally.failed)
        if handshake is not None:
            peer.state = handshake.state
            peer.principal = handshake.principal

    @property
    def log(self) -> PeerLog:
        """The peer's log."""
        return self._core.log

    # ------------------------------------------------------------ checks

    def check_thread(self, call: str) -> None:
        """Refuse to be awaited in another thread than the connection's; ``call`` is for the error's text."""
        check_thread(self.out.thread, call)

    def check_thread_of_plain(self, function: str) -> None:
        """Refuse to be called in another thread than the connection's; ``function`` is for the error's text."""
        check_thread_of_plain(self.out.thread, function)

    def check_connected(self) -> None:
        """Check that messages can be sent.

        Raises:
            ConnectionLost: there is no connection, or it is broken.
        """
        if self.out.broken:
            raise self.out.not_sent()

    # ------------------------------------------------------------ the connection

    def prepare(self, transport: Transport, services: PeerServices) -> None:
        """Tell the peer about the connection that it is going to get.

        Factories of services may look at ``peer.info``, and their log lines have the remote address.
        """
        self._core.history.expect(transport.info)
        self._core.log.remote = transport.info.remote
        self.services = services

    def open_handlers(self) -> list[Unfinished]:
        return [] if self.services is None else self.services.opened()

    def lost(self, info: CloseInfo, replaced: bool) -> CloseInfo:
        self._peers.lost(self, info)
        return info

    def close_handler(self) -> Callable[[CloseInfo], Coroutine[Any, Any, None]] | None:
        return None if self.services is None else self.services.ended

    def refuse(self, code: int, reason: str) -> None:
        """Close the connection while it opens, and ignore what has arrived on it."""
        self._core.refuse(code, reason)

    def handler_failed(self, event: str, name: str, exc: BaseException) -> None:
        """Log that the handler ``name`` of a lifecycle event raised ``exc``."""
        self._core.reporter.failed(event, name, exc)

    # ------------------------------------------------------------ shutting down

    def drain(self, deadline: float) -> None:
        """Finish active work and begin nothing new; the remote peer is told to expect the close at ``deadline``."""
        self._core.drain(deadline)

    async def wait_idle(self, closers: Closers) -> None:
        """Wait until nothing is active or pending on the connection, besides what ``closers`` cover.

        The peer is idle when no handler runs for it or waits to run, no request to it is pending, no anonymous channel
        is open, what was accepted for it is written, and a remote peer that can say so has said that it sends nothing
        new. Cancelling is safe.
        """
        # Whatever ends may have begun something else, so look again each time. Nothing here counts or polls: each kind
        # of work has something of its own to wait for. Messages that wait to be handled do so because of such work.
        core, out = self._core, self.out
        while (link := core.link) is not None:
            if link.opening is not None and not closers.cover(link.opening.task, link.contexts[0]):
                await link.opening.wait()
            elif out.turns.busy:
                await out.wait_written()
            elif tasks := {task for task in core.dispatcher.running.tasks(closers) if not task.done()}:
                await closers.wait_besides(tasks, None)
            elif unsettled := out.requests.unsettled():
                await asyncio.wait(unsettled)
            elif channels := set(core.session.channels.all()) - core.dispatcher.running.channels(closers):
                await channels.pop().wait_closed()
            elif not link.negotiation.quiet:
                await link.negotiation.wait_quiet()
            else:
                return

    async def join(self, patience: float, closers: Closers) -> None:
        """Wait for the peer's handlers, besides those of ``closers``; cancel them after ``patience`` seconds."""
        await self._core.join(patience, closers)

    # ------------------------------------------------------------ broadcasts

    @property
    def full(self) -> bool:
        """Whether the connection is above its high-water mark."""
        link = self.out.link
        return link is not None and link.full

    @property
    def stalled(self) -> bool:
        """Whether the connection is above its high-water mark, and not known to be broken."""
        link = self.out.link
        return link is not None and link.full and link.works

    def over_cap(self, encodings: Encodings) -> bool:
        """Whether a message would take the connection over `Limits.hard_cap`."""
        link = self.out.link
        return link is not None and self.out.over_cap(link, len(encodings[self.out.terms.encode][0]))

    @property
    def overdue(self) -> bool:
        """Whether a broadcast has waited for this slow reader already, since it last drained."""
        link = self.out.link
        return link is not None and link.overdue

    def note_overdue(self) -> None:
        """A broadcast has waited for the connection to drain."""
        if (link := self.out.link) is not None:
            link.overdue = link.full

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
        out, link = self.out, self.out.link
        payload, text = encodings[out.terms.encode]
        if link is None or not link.works:
            raise out.not_sent()
        if len(payload) > out.terms.unchecked and (refusal := self._refusal(payload, objections)) is not None:
            raise refusal
        if link.full:
            if slow != "close":
                return self._core.slow_reader(link).add(payload, text, slow, key)
            if link.slow_reader is not None:
                link.slow_reader.flush(everything=True)  # this one can neither be dropped nor overtake
            if out.over_cap(link, len(payload)):
                self._core.fail(CloseCode.SLOW_CONSUMER, "slow consumer")
                raise QueueFull(f"{link.transport.unsent} bytes were unsent: the connection was closed with 4408")
        link.send(payload, text)
        return True

    def _refusal(self, payload: bytes, objections: dict[bytes, Objections] | None) -> MessageTooBig | None:
        if objections is None:
            return self.out.refusal(payload, raw=True)
        return self.out.refusal(payload, known=objections)


def served_peer(peer: object) -> ServedPeer | None:
    """Return the `ServedPeer` of ``peer``; None for a client's peer and for anything else."""
    owner = core_of(peer).owner if isinstance(peer, Peer) else None
    return owner if isinstance(owner, ServedPeer) else None


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

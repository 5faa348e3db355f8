"""`Accepting`: gives each connection of a server a peer, or lets a session resume on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec.structs import replace

from .._base.closing import CloseCode
from .._base.expiry import EXPIRED
from .._base.state import PeerState
from .._core.api.peer import Peer
from .._core.handlers.registry import Registry
from .._core.session.incoming_resume import IncomingResume
from .._core.wire.settings import Settings
from .._raw.raw_connection import RawConnection
from ..errors import ConnectionLost, HandshakeRejected
from ..handshake import Handshake
from ..transport import Transport
from .joined_cluster import REPLACED
from .peers import ServedPeer, refuse
from .quotas.quotas import QuotaBook
from .rooms.rooms import Rooms
from .server_core import ServerCore
from .services.service_registry import ServiceRegistry


class Accepting:
    """Accepts the connections of a server, for the present `ServerCore`.

    Args:
        server: the `Server`, for its peers.
        in_cluster: whether sessions of other processes may resume here.
    """

    def __init__(
        self,
        server: Any,
        settings: Settings,
        registry: Registry,
        services: ServiceRegistry,
        rooms: Rooms,
        quotas: QuotaBook | None,
        *,
        in_cluster: bool,
    ) -> None:
        self._server = server
        self._settings = settings
        self._registry = registry
        self._services = services
        self._rooms = rooms
        self._quotas = quotas
        self._in_cluster = in_cluster

    def may_resume(self, handshake: Handshake) -> bool:
        """Return whether a session may go on with a connection, so that its first message decides."""
        return handshake.asks_to_resume and self._settings.can_resume and self._services.raw is None

    def accept_at_once(self, core: ServerCore, transport: Transport, handshake: Handshake) -> Awaitable[None] | None:
        """Do what `accept` does, within this call. If something has to be awaited, return an awaitable that does it.

        Nothing has to be where there are no services, as for most servers. Coroutines and the task
        to run them would take a tenth of the CPU time of an opening handshake. Open handlers go on after this call.
        """
        if self._services.entries or not core.lifetime.accepts or self.may_resume(handshake):
            return self._accept_later(core, transport, handshake)
        made = self._start_serving(core, transport, handshake, local=False)
        if not isinstance(made, RawConnection):
            core.peers.claim(made)
            self._register(made, handshake)
            core.peers.admit(made, transport)
        return None

    async def _accept_later(self, core: ServerCore, transport: Transport, handshake: Handshake) -> None:
        with suppress(ConnectionLost):  # it was refused, and is closed
            await self.accept(core, transport, handshake)

    async def accept(
        self, core: ServerCore, transport: Transport, handshake: Handshake | None, local: bool = False
    ) -> Peer | RawConnection:
        """Create a peer for a connection, or serve it as a raw connection; see `Server.accept`.

        Args:
            local: see `Settings.local`.
        """
        try:
            return await self._accept(core, transport, handshake, local)
        finally:
            if handshake is not None and self._quotas is not None:
                self._quotas.leave(handshake)  # unless it was accepted

    async def _accept(
        self, core: ServerCore, transport: Transport, handshake: Handshake | None, local: bool
    ) -> Peer | RawConnection:
        now = asyncio.get_running_loop().time
        arrived = now()
        await core.check_open(transport)
        arrival: IncomingResume | None = None
        if handshake is not None and self.may_resume(handshake):
            found = await self._resume(core, transport, handshake)
            if not isinstance(found, IncomingResume):
                return found
            arrival = found
        made = self._start_serving(core, transport, handshake, local)
        if isinstance(made, RawConnection):
            return made
        peer = made.peer  # nobody else may hold it when its connection ends meanwhile
        services = self._services
        try:
            if services.entries:
                await services.attach(made, transport, core.acceptance)
                await core.check_open(transport)
            if made.expired:  # while a factory ran
                raise await refuse(transport, CloseCode.CREDENTIALS_EXPIRED, EXPIRED)
            if not core.peers.claim(made, now() - arrived):  # its client may have left, and this is not known yet
                raise await refuse(transport, CloseCode.REPLACED, REPLACED)
        except ConnectionLost as exc:
            core.peers.refused(made, exc.code)
            raise
        self._register(made, handshake)
        core.peers.admit(made, transport, arrival)
        await made.current.wait_opened()
        return peer

    def _register(self, made: ServedPeer, handshake: Handshake | None) -> None:
        """Count a peer that has claimed its address, and send it what all peers get from now on."""
        self._rooms.connected(made.peer)
        if self._quotas is not None:
            self._quotas.bind(made, handshake)

    async def _resume(self, core: ServerCore, transport: Transport, handshake: Handshake) -> Peer | IncomingResume:
        """Return the peer whose session has resumed on a connection. If none has, return the attempt."""
        elsewhere = None
        if self._in_cluster:
            core.check_thread("server.accept(...)")
            core.enter_loop()  # joins the cluster
            assert core.joiner.cluster is not None
            elsewhere = core.joiner.cluster.resume_elsewhere
        arrival = IncomingResume(core.sessions, transport, handshake, elsewhere)
        deciding = naming = core.acceptance.deciding
        if self._quotas is not None:
            naming = partial(self._quotas.resuming, handshake, core.acceptance)
        try:
            resumed: Peer | None = await arrival.wait(naming, deciding)
            if resumed is not None:
                return resumed
            await core.check_open(transport)
            if self._quotas is not None:
                await self._quotas.admit_late(handshake, core.acceptance)
        except HandshakeRejected as exc:
            # The client soon dials without a session. If there is still no room then, it gets 429.
            code = CloseCode.SERVICE_RESTART if exc.status == 429 else CloseCode.INTERNAL_ERROR
            raise await refuse(transport, code, exc.body.strip()) from None
        return arrival

    def _start_serving(
        self, core: ServerCore, transport: Transport, handshake: Handshake | None, local: bool
    ) -> ServedPeer | RawConnection:
        """Make the peer of a connection, or begin to serve it without the protocol."""
        core.check_thread("server.accept(...)")
        core.enter_loop()
        settings, services = self._settings, self._services
        if handshake is not None and (local or handshake.limits is not settings.limits):
            settings = replace(settings, limits=handshake.limits, local=local)
        if services.raw is None:
            return self.new_peer(core, settings, handshake)
        state, expires = (PeerState(), None) if handshake is None else (handshake.state, handshake.expires)
        make = partial(RawConnection, state=state, server=self._server, codec=settings.codec)
        connection = core.raw.start(transport, settings.limits, core.scheduler, services.raw, make, expires)
        if self._quotas is not None:
            self._quotas.bind(connection, handshake)
        return connection

    def new_peer(self, core: ServerCore, settings: Settings, handshake: Handshake | None) -> ServedPeer:
        """Return a new peer, which has no connection yet."""
        return ServedPeer(self._server, core.peers, settings, self._registry, core.scheduler, handshake)

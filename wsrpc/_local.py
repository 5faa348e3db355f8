"""`local_client`: a client of a server in the same process, connected in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from ._client.client import Client
from ._client.client import core_of as client_core
from ._core.api.peer import Peer, core_of
from ._core.handlers.lifecycle import Closers
from ._core.session.sessions import network_of
from ._keyed.keeper import principal_text
from ._net.memory_transport import transports_for
from ._server.quotas.quotas import MOST_IDLE
from ._server.server import Server, accept_of, settings_of
from .handshake import Handshake


def local_client(
    server: Server, *, principal: object = None, state: Mapping[Any, Any] | None = None
) -> AbstractAsyncContextManager[Client]:
    """Connect a client to a server of this process, which then calls its own handlers on behalf of a user.

    ``async with local_client(server, principal="ada") as ada`` starts, joins and stops the runs of this user by their
    keys: with ``ada.request(..., key=key)``, and ``ada.stream(..., key=key, after=0)`` with its `Stream.stop`. At the
    end of the block, the client is closed, and runs with a key go on.

    For the handlers, it is a connection like any other, also for ``open`` and ``close``. But its messages stay in
    memory, and `Server.on_handshake` and ``quotas=`` do not apply to it.

    Args:
        principal: becomes `Peer.principal`.
        state: becomes `Peer.state`.

    Raises:
        ConnectionLost: the server is closed, or the factory of a service has refused the connection.
    """
    handshake = Handshake("/", {}, limits=server.limits)
    handshake.principal = principal
    handshake.state.update(state or {})
    return connect_in_memory(server, handshake)


@asynccontextmanager
async def connect_in_memory(
    server: Server, handshake: Handshake, client: Client | None = None, opened: Callable[[Any], object] | None = None
) -> AsyncGenerator[Client]:
    """Connect a client to ``server`` in memory, for one request of another protocol.

    For the server's handlers, it is a connection like any other. The client is closed at the end of the block, and then
    its handlers have ended.

    Args:
        handshake: the request, which `Server.handshake` has checked.
        client: a client with your own handlers. It does not dial. By default, one with the codec of the server, and the
            limits of the connection, of which the log says little.
        opened: called with the server's `Peer` before it receives anything.

    Raises:
        ConnectionLost: the server is closed, or has refused the connection.
    """
    if is_own := client is None:
        client = Client(codec=settings_of(server).codec, limits=handshake.limits)
        client_core(client).peer_core.log.quieten()
    ours, theirs = transports_for(handshake.connection_info(), client_core(client).limits, handshake.limits)
    accepting = asyncio.get_running_loop().create_task(accept_of(server)(theirs, handshake, is_own))
    try:
        try:
            await client_core(client).bind(ours, is_last=True)
            peer = await accepting
            if opened is not None:
                opened(peer)
        except BaseException:
            if is_own:  # else it may dial again
                await client.close()
            raise
        try:
            yield client
        finally:
            await client.close()
            if isinstance(peer, Peer):
                await core_of(peer).join(server.limits.close_timeout, Closers())
    finally:
        if not accepting.done():
            accepting.cancel()


class RequestRates:
    """Counts the calls of events with ``rate=`` for each caller whose requests are connections of their own.

    A caller is a principal, or else a network address; without both, each request counts alone. With ``quotas=`` that
    apply to a caller, those count.
    """

    def __init__(self) -> None:
        self._buckets: dict[object, Any] = {}

    def add(self, peer: Peer, handshake: Handshake) -> None:
        """Count the calls of a peer, which has received nothing yet, together with others of its caller."""
        if caller := principal_text(handshake.principal) or network_of(handshake.remote):
            self._buckets[caller] = core_of(peer).calls.buckets = self._buckets.pop(caller, WeakKeyDictionary())
        if len(self._buckets) > MOST_IDLE:
            del self._buckets[next(iter(self._buckets))]

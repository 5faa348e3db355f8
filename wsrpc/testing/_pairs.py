"""Pairs that are connected in memory: a client and a server, or two peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from .._api.peer import Peer, life_of
from .._base.scheduler import LoopScheduler, Scheduler
from .._client.client import Client
from .._client.client import core_of as client_core
from .._client.core import ClientCore
from .._handlers.lifecycle import Closers
from .._protocol.codecs import Codec
from .._protocol.settings import make_settings
from .._server.server import Server, accept_of, settings_of
from .._transports.dial_request import DialRequest
from ..handshake import Handshake
from ..headers import any_case
from ..limits import Limits
from ._clock import Clock
from ._line import handshake_of
from ._memory import memory_transports, transports_for


@asynccontextmanager
async def pair(
    *,
    codec: Codec | None = None,
    limits: Limits | None = None,
    clock: Clock | None = None,
    extensions: bool = True,
) -> AsyncGenerator[tuple[Peer, Peer]]:
    """Connect two peers in memory: ``async with pair() as (dialing, accepting)``.

    The peers are closed at the end of the block. Register handlers inside the block, before you send anything. With
    ``extensions=False``, the peers do not use wsrpc's extensions of the ws-wrapper protocol.
    """
    settings = make_settings(limits, codec, None, extensions=extensions)
    scheduler: Scheduler = clock or LoopScheduler()
    left = Peer(settings, dialer=True, loop=scheduler)
    right = Peer(settings, dialer=False, loop=scheduler)
    ends = memory_transports(limits=settings.limits)
    left.bind(ends[0])
    right.bind(ends[1])
    try:
        yield left, right
    finally:
        await left.close()
        for peer in (left, right):
            await life_of(peer).join(settings.limits.close_timeout, Closers())


@asynccontextmanager
async def connect(
    server: Server,
    *,
    path: str | None = None,
    headers: Mapping[str, str] | None = None,
    client: Client | None = None,
    state: Mapping[Any, Any] | None = None,
    principal: object = None,
    certificate: Mapping[str, Any] | None = None,
    clock: Clock | None = None,
) -> AsyncGenerator[Client]:
    """Connect a client to ``server`` in memory: ``async with connect(server) as client``.

    The client is closed at the end of the block.


    The server's `on_handshake` function and origin check receive the request that the client would send over a socket.
    The request includes the client's options ``auth=``, ``headers=``, ``subprotocols=`` and ``compression=``. If one of
    these options is a function, it is called to get the value.

    Args:
        path: the path of the request, with its query. The default is the path of the client's URL, or ``"/"``.
        headers: additional headers of the request. They replace the client's headers of the same name.
        client: a client with your own options or handlers. After a drop, a client that has a URL reconnects to that URL
            over the network. Without this argument, register handlers on the client that ``async with`` returns.
        state: the initial `Handshake.state`, which becomes `Peer.state`.
        principal: the initial `Handshake.principal`, which becomes `Peer.principal`.
        certificate: the client's certificate, which becomes `Handshake.certificate`.
        clock: a clock that controls the deadlines of both sides, such as the timeouts of requests.

    Raises:
        HandshakeRejected: `on_handshake` or the origin check refused the connection. The status is 503 if the server is
            closed.
        TypeError, ValueError: an option of the client is not valid, or ``path`` does not begin with a slash.
    """
    if client is None:
        client = Client(codec=settings_of(server).codec)
    core = client_core(client)
    asked = await _request(server, core, path, headers)
    asked.state.update(state or {})
    asked.principal = principal
    asked.certificate = certificate
    await server.handshake(asked)
    ours, theirs = transports_for(asked.connection_info(), core.limits, asked.limits)
    core.scheduler.use(clock)
    accepting = asyncio.get_running_loop().create_task(accept_of(server)(theirs, asked, clock))
    try:
        await client.bind(ours)
        peer = await accepting
        try:
            yield client
        finally:
            await client.close()
            if isinstance(peer, Peer):
                await life_of(peer).join(server.limits.close_timeout, Closers())
    finally:
        core.scheduler.use(None)
        if not accepting.done():
            accepting.cancel()


async def _request(
    server: Server, client: ClientCore, path: str | None, headers: Mapping[str, str] | None
) -> Handshake:
    """Return the request that ``client`` would send to ``server``."""
    if path is not None and not path.startswith("/"):
        raise ValueError(f"a path begins with a slash, got {path!r}")
    dialer = client.plan.dialer
    urls, own = await dialer.ask()
    sent = {**any_case(own), **any_case(headers)}
    url = urls[0] if urls else "ws://localhost/"
    if path is not None:
        host = urlsplit(url)
        url = f"{host.scheme}://{host.netloc}{path}"
    request = DialRequest(url, headers=sent, subprotocols=dialer.subprotocols)
    return handshake_of(request, server, client.limits, dialer.compression)

"""`OperatorRequests`: the requests by which clients act as operators; see ``Server(admin=)``."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ..._core.api.context import Context
from ..._core.api.peer import Peer, core_of
from ..._core.handlers.registry import Registry
from ..._core.wire.rejections import NOT_ALLOWED_CODE
from ...errors import RemoteError, made_here, short
from ..decider import NOT_ALLOWED, Decider
from .description_pages import CHANNEL
from .operations import Operations, Row, Rows, ServerOperations, StoredCall, answered, operations_of

Admin = Callable[[Peer, str], bool | Awaitable[bool]]
"""A user's function that decides whether a peer may do something as an operator."""


class OperatorRequests:
    """Handles the requests of clients that are operators; ``allow`` decides for each request whether a client is one.

    A client that is refused learns only that. It is refused before anything is looked up, so that neither the response
    nor its time depends on which peers there are.
    """

    def __init__(self, server: object, cluster: object, allow: Admin) -> None:
        self._own = ServerOperations(server)
        self._cluster = cluster
        self._allow = Decider("admin=", ("peer", "action"), allow)

    def offer(self, registry: Registry) -> None:
        """Handle these requests from now on."""
        handlers: dict[str, Callable[..., Any]] = {
            "peers": self.peers,
            "stats": self.stats,
            "kick": self.kick,
            "call": self.call,
            "rebalance": self.rebalance,
            "waiting": self.waiting,
            "submit": self.submit,
            "withdraw": self.withdraw,
        }
        registry.offer(CHANNEL, "operators send requests", handlers, hidden=True)

    async def peers(self, peer: Peer) -> Rows:
        return (await self._allowed(peer, "peers")).peers()

    async def stats(self, peer: Peer) -> Rows:
        return (await self._allowed(peer, "stats")).stats()

    async def kick(self, peer: Peer, named: str, code: int = 1000, reason: str = "") -> int:
        operations = await self._allowed(peer, "kick")
        _log(peer, "closes the peer %s: %s %s", short(named), code, short(reason))
        closed: int = await answered(operations.kick(named, code, reason))
        return closed

    async def call(self, ctx: Context, peer: Peer, named: str, channel: str | None, event: str, args: list[Any]) -> Any:
        operations = await self._allowed(peer, "call")
        _log(peer, "requests %s of the peer %s", short(event), short(named))
        # Without a limit of its own, because the request ends with the request of the operator.
        options = {"timeout": ctx.remaining, "metadata": ctx.metadata or None}
        return await answered(operations.call(named, channel, event, args, **options))

    async def rebalance(self, peer: Peer, most: int = 0, down_to: int = 0) -> Rows:
        operations = await self._allowed(peer, "rebalance")
        if most > 0:
            _log(peer, "moves at most %d idle peers of each process that has more than %d", most, down_to)
        return operations.rebalance(most, down_to)

    async def waiting(self, peer: Peer, address: str = "") -> Rows:
        return (await self._allowed(peer, "waiting")).waiting(address)

    async def submit(
        self, peer: Peer, address: str, channel: str | None, event: str, key: str, args: list[Any], within: float
    ) -> Row:
        operations = await self._allowed(peer, "submit")
        _log(peer, "submits a call of %s for %s", short(event), short(address))
        row: Row = await answered(operations.submit(StoredCall(address, channel, event, key), args, within))
        return row

    async def withdraw(self, peer: Peer, address: str, channel: str | None, event: str, key: str) -> Row:
        operations = await self._allowed(peer, "withdraw")
        _log(peer, "withdraws a call of %s for %s", short(event), short(address))
        row: Row = await answered(operations.withdraw(StoredCall(address, channel, event, key)))
        return row

    async def _allowed(self, peer: Peer, action: str) -> Operations:
        if not await self._allow.allows(f"let the peer be an operator ({action})", peer, action):
            log = core_of(peer).log
            log.note("the peer %s at %s is not allowed to be an operator: %s is refused", log.id, log.place, action)
            raise made_here(RemoteError(NOT_ALLOWED, NOT_ALLOWED_CODE))
        return self._own if self._cluster is None else operations_of(self._cluster)


def _log(peer: Peer, text: str, *args: object) -> None:
    log = core_of(peer).log
    log(logging.INFO, f"the operator %s at %s {text}", log.id, log.place, *args)

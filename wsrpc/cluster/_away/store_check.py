"""`StoreCheck`: whether any server reads the store in which the calls that a program submits wait."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ..._base.logs import logger
from ..._log.contract import NewLog
from ..._log.position import LAST
from ...errors import RemoteError
from .._nodes.links import NodeLinks
from .._nodes.node import Node
from .away_calls import AwayCalls, as_others_error

HAS_LOG = "has_log"
"""Request for whether the store of a server has a log. None if the node has no server."""
PROOF_KEEP = 60.0
"""Seconds for which the store keeps the log by which servers recognize it."""


class StoreCheck:
    """Refuses the calls of a program without a server that no server would make.

    A misspelt name of a cluster or a store is a valid one, so nothing else shows it.
    """

    def __init__(self, node: Node, links: NodeLinks, away: AwayCalls, name: str, *, is_server: bool) -> None:
        self._node = node
        self._links = links
        self._link = away.link
        self._name = name
        self._is_server = is_server
        self._is_read = is_server  # by itself
        self._has_warned = False
        links.on(HAS_LOG, self._has_log)

    async def _has_log(self, key: str) -> bool | None:
        """Handle a request of a node that is about to submit a call."""
        if not self._is_server:
            return None
        return await self._link.ask(lambda: self._link.store.read(key, LAST)) is not None

    async def _ask(self, nodes: Sequence[str]) -> list[bool | None]:
        key, store = f"submitting {self._node.id}", self._link.store
        log = NewLog(id=self._node.id, payer=key, keep=PROOF_KEEP)
        with as_others_error():
            await self._link.ask(lambda: store.append(key, log, "", 0, []))
        return await self._links.ask_all(nodes, HAS_LOG, key, bool | None)

    async def compare(self) -> None:
        """Log a warning if other servers have another store, or none: there, calls that wait here are not found."""
        await self._node.wait_known()
        nodes = self._node.directory.nodes[1:]
        with suppress(RemoteError):  # the store does not answer, which is logged
            answers = zip(nodes, await self._ask(nodes), strict=True)
            if others := [self._node.directory.shown(node) for node, has in answers if has is False]:
                text = "servers of cluster %r have not the store %s, so keys and calls that wait differ: %s"
                logger.warning(text, self._name, self._link.store, ", ".join(others))

    async def check(self) -> None:
        """Ask the servers whether they have the store, until one has said so. Log a warning, once, if none is known.

        Raises:
            ValueError: there are servers, and they have another store, or none.
            Overloaded: the store does not answer.
        """
        if self._is_read or not self._node.connected:
            return
        store, answers = self._link.store, await self._ask(self._node.directory.nodes[1:])
        if True in answers:
            self._is_read = True
        elif False in answers:
            raise ValueError(
                f"no server of cluster {self._name!r} has the store {store!r}: pass the same store= to all processes"
            )
        elif not self._has_warned:  # a server may be about to start
            self._has_warned = True
            text = (
                "submitted calls wait in the store %s, but no server of cluster %r is known: check name= and the engine"
            )
            logger.warning(text, store, self._name)

"""The description of a server in pages, which clients request; see `Server.offer_description`."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from ..._core.api.peer import Peer
from ..._core.handlers.registry import Registry
from ..._core.wire.rejections import DESCRIPTION_CHANGED
from ..._schema.description import Description, describe, registered
from ..._values.convert import EncHook
from ...errors import RemoteError, RpcError, made_here
from ..decider import NOT_ALLOWED, Allow, Decider
from ..peers import served_peer

CHANNEL = "wsrpc"
"""The channel on which clients ask for the description."""
PAGE = 24 * 1024
"""Maximum bytes of the items of a page. A larger item has a page of its own. (coder/websocket, in Go, reads messages of
at most 32 KiB.)"""
MESSAGEPACK = 3
"""The items need at most three times as many bytes in MessagePack as in JSON: nine bytes for ``0.0,``."""


def offer_description(registry: Registry, enc_hook: EncHook | None, allow: Allow | None) -> None:
    """Handle requests for the description of a server from now on.

    Raises:
        TypeError: ``allow`` is not a function of the peer.
        ValueError: the description is offered already, or the user has handlers on the channel "wsrpc".
    """
    if CHANNEL in registry.reserved and "describe" in registry.scope(CHANNEL).handlers:
        raise ValueError("this server offers its description already: call offer_description once")
    offered = _OfferedDescription(registry, enc_hook, None if allow is None else Decider("allow=", ("peer",), allow))
    registry.offer(CHANNEL, "the description is asked for", {"describe": offered.describe}, hidden=True)


class _OfferedDescription:
    """Handles requests for pages of the description. Makes the description again only after registrations changed."""

    def __init__(self, registry: Registry, enc_hook: EncHook | None, allow: Decider | None) -> None:
        self._registry = registry
        self._enc_hook = enc_hook
        self._allow = allow
        self._pages = _Pages(Description((), (), {}))
        self._made_of: object = None
        """What the pages describe, as `registered` returns it."""

    async def describe(self, peer: Peer, after: str | None = None) -> dict[str, Any]:
        """Handle a request for a page. ``after`` is the cursor in the previous page, or None for the first page."""
        served = served_peer(peer)
        assert served is not None
        if self._allow is not None and not await self._allow.allows("give the peer the description", peer):
            raise RpcError(NOT_ALLOWED)
        return self._current().page(after, min(PAGE, served.writer.terms.unchecked // MESSAGEPACK))

    def _current(self) -> _Pages:
        if (found := registered(self._registry)) != self._made_of:
            self._pages = _Pages(describe(self._registry, self._enc_hook, once=False))
            self._made_of = found
        return self._pages


class _Pages:
    """The items of a description, and the cursors between them."""

    def __init__(self, description: Description) -> None:
        items: list[dict[str, Any]] = [
            {"definition": {"name": name, "schema": schema}} for name, schema in description.definitions.items()
        ]
        items += [{"event": msgspec.to_builtins(event)} for event in description.events]
        items += [{"emits": msgspec.to_builtins(event)} for event in description.emits]
        self._items = items
        encoded = [msgspec.json.encode(item) for item in items]
        self._sizes = [len(each) + 1 for each in encoded]  # with the comma
        revision = blake2b(b",".join(encoded), digest_size=8).hexdigest()
        self._cursors = [f"{revision}.{number}" for number in range(len(items))]
        self._places = {cursor: number for number, cursor in enumerate(self._cursors)}

    def page(self, after: str | None, size: int) -> dict[str, Any]:
        """Return as many items from the cursor ``after`` on as fit into ``size`` bytes, but at least one item.

        Raises:
            RpcError: ``after`` is not a cursor of this description.
        """
        begin = 0 if after is None else self._places.get(after)
        if begin is None:
            text = "the description has changed since: ask from the beginning, without a cursor"
            raise made_here(RemoteError(text, DESCRIPTION_CHANGED))
        end = begin
        while end < len(self._items) and (end == begin or self._sizes[end] <= size):
            size -= self._sizes[end]
            end += 1
        following = self._cursors[end] if end < len(self._items) else None
        return {"items": self._items[begin:end], "next": following}

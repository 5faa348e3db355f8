"""Asking a server for its description, over a connection of its own and page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from ._calling.channel import Channel
from ._client.client import Client
from ._loading import CannotLoad
from ._protocol.rejections import DESCRIPTION_CHANGED
from ._server.description import CHANNEL
from .errors import BadResult, ConnectFailed, RemoteError, UnknownEvent, WsrpcError, named, one_line

__all__ = ["ask"]

MOST_BYTES = 16 * 1024 * 1024
"""Size of all pages together. (A page is a message, which `Limits.message` bounds.)"""
MOST_PAGES = 10_000
MOST_BEGINNINGS = 5
"""How many times the description may change while it is asked for."""
SECONDS = 30.0


class _Definition(msgspec.Struct):
    name: str
    schema: dict[str, Any]


class _Item(msgspec.Struct):
    """One part of a description. Parts of kinds that are not known here are passed over."""

    definition: _Definition | None = None
    event: dict[str, Any] | None = None
    emits: dict[str, Any] | None = None


class _Page(msgspec.Struct):
    items: list[_Item]
    next: str | None


def ask(url: str, headers: Mapping[str, str], *, seconds: float = SECONDS) -> dict[str, Any]:
    """Ask the server at ``url`` for its description, and return it as JSON has it, unchecked.

    Args:
        headers: of the opening handshake.
        seconds: how long this may take.

    Raises:
        CannotLoad: there is no answer, or none that can be used; the text says why.
    """
    try:
        return asyncio.run(_ask(url, headers, seconds))
    except TimeoutError as exc:
        raise CannotLoad(f"{url} did not describe itself within {seconds:g} s") from exc
    except UnknownEvent as exc:
        raise CannotLoad(
            f"{url} does not offer its description: call server.offer_description() there, or name its module"
        ) from exc
    except BadResult as exc:
        raise CannotLoad(f"{url} answers with something else than a description: {exc}") from exc
    except RemoteError as exc:
        raise CannotLoad(f"{url} refuses to describe itself: {exc}") from exc
    except ConnectFailed as exc:
        raise CannotLoad(f"{url}: {'could not connect' if exc.last_error is None else named(exc.last_error)}") from exc
    except (WsrpcError, OSError, ValueError) as exc:
        raise CannotLoad(f"{url}: {one_line(exc)}") from exc


async def _ask(url: str, headers: Mapping[str, str], seconds: float) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        async with Client(url, headers=headers, reconnect=None) as client:
            for _ in range(MOST_BEGINNINGS):
                try:
                    return await _pages(url, client.of(CHANNEL))
                except RemoteError as exc:
                    if exc.code != DESCRIPTION_CHANGED:
                        raise
    raise CannotLoad(f"{url}: the description changed {MOST_BEGINNINGS} times while it was asked for")


async def _pages(url: str, channel: Channel) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    events: list[Any] = []
    emits: list[Any] = []
    size = 0
    seen: set[str | None] = {None}
    after: str | None = None
    while True:
        page = await channel.request("describe", after, returns=_Page)
        size += len(msgspec.json.encode(page))
        if size > MOST_BYTES or len(seen) > MOST_PAGES:
            raise CannotLoad(f"{url}: the description is larger than {MOST_BYTES:,} bytes or {MOST_PAGES:,} pages")
        for item in page.items:
            if item.definition is not None:
                definitions[item.definition.name] = item.definition.schema
            if item.event is not None:
                events.append(item.event)
            if item.emits is not None:
                emits.append(item.emits)
        after = page.next
        if after is None:
            return {"events": events, "emits": emits, "$defs": definitions}
        if after in seen:
            raise CannotLoad(f"{url}: the description never ends, because its pages name each other as the next one")
        seen.add(after)

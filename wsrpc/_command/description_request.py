"""The request for the description of a server, page by page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from time import monotonic
from typing import Any

import msgspec

from .._client.client import Client
from .._core.api.channel import Channel
from .._core.wire.rejections import DESCRIPTION_CHANGED
from .._net.dialing.urls import shown_url
from .._schema.description import Description
from .._server.operating.description_pages import CHANNEL
from ..codegen._checking import InvalidDescription, bounded_depth, check_description
from ..errors import BadResult, RemoteError, UnknownEvent, WsrpcError, one_line
from .command_errors import REMOTE, TIMEOUT, Failure, explained

MOST_BYTES = 16 * 1024 * 1024
"""Maximum size of all pages together. (`Limits.message_bytes` limits the size of one page.)"""
DESCRIPTION_TIMEOUT = 30.0
SIGNAL_INTERVAL = 0.5
"""Seconds after which a waiting thread checks for signals."""
HAS_NONE = ("no event listener", f"channel '{CHANNEL}' does not exist")
"""Beginnings, in lower case, of the error messages of JavaScript and Go peers that offer no description."""


class _Definition(msgspec.Struct):
    name: str
    schema: dict[str, Any]


class _Item(msgspec.Struct):
    """One part of a description. Parts of unknown kinds are ignored."""

    definition: _Definition | None = None
    event: dict[str, Any] | None = None
    emits: dict[str, Any] | None = None


class _Page(msgspec.Struct):
    items: list[_Item]
    next: str | None


def ask(url: str, headers: Mapping[str, str], *, seconds: float = DESCRIPTION_TIMEOUT) -> Any:
    """Request the description of the server at ``url`` on a new connection. Return the decoded JSON.

    Args:
        headers: the headers of the opening handshake.
        seconds: maximum time for connecting, and for the answers.

    Raises:
        Failure: there is no answer, or the answer cannot be used. The text says why.
    """
    # Without a handler, warnings would be written to stderr.
    logging.getLogger("wsrpc").addHandler(logging.NullHandler())

    async def request() -> Any:
        async with Client(url, headers=headers, reconnect=None, connect_timeout=seconds) as client:
            return await describes(client, url, seconds=seconds)

    try:
        return asyncio.run(request())
    except (WsrpcError, OSError, ValueError) as exc:
        code, text = explained(exc)
        raise Failure(f"{named_url(url)}: {text}", code) from exc


def named_url(url: str) -> str:
    """Return a URL for an error, without the parts that may be secret."""
    return shown_url(url)[1:-1]


async def describes(client: Client, url: str, *, seconds: float = DESCRIPTION_TIMEOUT) -> Any:
    """Request the description of the server of ``client``. Return the decoded JSON, unchecked.

    Args:
        url: names the server in errors.
        seconds: maximum time for the answers.

    Raises:
        Failure: the server has not sent a description. The text says why.
        WsrpcError: as for `Client.request`.
    """
    name, deadline = named_url(url), asyncio.timeout(seconds)
    try:
        async with deadline:
            while (found := await _pages(name, client.of(CHANNEL))) is None:
                pass
            return found
    except TimeoutError as exc:
        if not deadline.expired():  # one answer was late
            raise
        raise Failure(f"{name} did not describe itself within {seconds:g} s", TIMEOUT) from exc
    except BadResult as exc:
        raise Failure(f"{name} answers with something other than a description: {exc}", REMOTE) from exc
    except RemoteError as exc:
        if isinstance(exc, UnknownEvent) or exc.message.lower().startswith(HAS_NONE):
            text = f"{name} does not offer its description: call server.offer_description() there"
            raise Failure(text, REMOTE) from exc
        raise Failure(f"{name} refuses to describe itself: {exc}", REMOTE) from exc


def written(text_of: Callable[[], str], *, seconds: float = DESCRIPTION_TIMEOUT) -> str:
    """Return the text that ``text_of`` generates from a description.

    ``text_of`` runs in a thread, so that a signal can end the command meanwhile. The thread cannot be stopped, but ends
    with the process.

    Raises:
        InvalidDescription: ``text_of`` takes longer than ``seconds``, or the description is nested too deeply.
    """
    text = ThreadPoolExecutor(1).submit(bounded_depth()(text_of))
    deadline = monotonic() + seconds
    # In steps, because a signal that arrives just before a wait does not end the wait.
    while (left := deadline - monotonic()) > 0:
        if wait([text], min(left, SIGNAL_INTERVAL)).done:
            return text.result()
    raise InvalidDescription(f"it is so complex that reading it takes more than {seconds:g} s")


def checked(found: Any) -> Description:
    """Return a description that came from elsewhere.

    Raises:
        InvalidDescription: the description has a wrong shape. The text says where.
    """
    if found.__class__ is dict:
        found = {"emits": [], **found}  # older versions of wsrpc did not describe emitted events
    try:
        description = msgspec.convert(found, Description)
    except msgspec.ValidationError as exc:
        raise InvalidDescription(one_line(exc)) from exc
    check_description(description)
    return description


async def _pages(name: str, channel: Channel) -> dict[str, Any] | None:
    """Request all pages, and return what they contain. None if the description has changed meanwhile."""
    found: dict[str, Any] = {"events": [], "emits": [], "$defs": {}}
    size = 0
    after: str | None = None
    while True:
        try:
            page = await channel.request("describe", after, returns=_Page)
        except RemoteError as exc:
            if exc.code == DESCRIPTION_CHANGED:
                return None
            raise
        size += len(msgspec.json.encode(page))
        if size > MOST_BYTES:
            raise Failure(f"{name}: the description is larger than {MOST_BYTES:,} bytes", REMOTE)
        for item in page.items:
            if item.definition is not None:
                found["$defs"][item.definition.name] = item.definition.schema
            for key, part in (("events", item.event), ("emits", item.emits)):
                if part is not None:
                    found[key].append(part)
        after = page.next
        if after is None:
            return found

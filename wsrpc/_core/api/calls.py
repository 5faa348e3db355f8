"""The calls of callers, channels and proxies on their way to a `Sender`. None has more time than its handler has."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from ..._base.names import ChannelRef
from ..channels.channel_core import ChannelCore
from ..handlers.invocation import CURRENT
from ..inboxes.inbox import Inbox
from ..sending.sender import Sender
from ..wire.messages import RequestOptions


def within_deadline(sender: Sender, options: RequestOptions) -> RequestOptions:
    """Return the options of a call, limited to the time that is left to the handler that makes the call, if any.

    With ``timeout=None``, a call has no limit. Tasks that the handler has started are not limited.
    """
    handler = CURRENT.get(None)
    if handler is None or handler.deadline is None or options.timeout is None or not handler.is_calling:
        return options
    left = max(0.0, handler.deadline - handler.dispatcher.loop.time())
    timeout = sender.request_timeout if options.timeout is UNSET else options.timeout
    return replace(options, timeout=left if timeout is None else min(left, timeout), sends_timeout=True)


def request(
    sender: Sender, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions
) -> Coroutine[Any, Any, Any]:
    """Send a request, again if it is retried, or with the items of an upload. Return its result."""
    options = within_deadline(sender, options)
    if options.retry is not None:
        return sender.request_again(channel, event, args, options)
    if options.send is not None:
        return sender.upload(channel, event, args, options)
    return sender.send_request(channel, event, args, options)


def open_stream(
    sender: Sender, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions
) -> Coroutine[Any, Any, Inbox]:
    """Open a stream, and return the inbox of its items."""
    return sender.open_stream(channel, event, args, within_deadline(sender, options))


def open_channel(
    sender: Sender, channel: ChannelRef, event: str, args: tuple[Any, ...], options: RequestOptions
) -> Coroutine[Any, Any, ChannelCore]:
    """Send a request that an anonymous channel answers, and return the channel."""
    opening = replace(within_deadline(sender, options), wants_channel=True)
    return sender.send_request(channel, event, args, opening)

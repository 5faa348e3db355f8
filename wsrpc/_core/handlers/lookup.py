"""Finds the route of an event or a request: its handler with the layers around it."""

from __future__ import annotations

from functools import partial
from typing import Any, NoReturn

from ..._base.names import ChannelRef
from ...errors import UnknownEvent, made_here
from .compiled import Handler
from .invocation import Invocation
from .layers import Middleware, Route, around
from .registry import Registry


def find(registry: Registry, channel: ChannelRef, event: str) -> Route:
    """Return the route of an event or a request. Handlers of ``registry`` have priority over inherited handlers.

    A handler that was registered with `once` is removed, so it belongs to this message, whatever becomes of that.
    """
    routes = registry.routes
    found = routes.main.get(event) if channel is None else routes.named.get((channel, event))
    if found is not None:
        return found
    handler, lasting = registry.pop_handler(channel, event)
    route = route_to(registry, channel, handler)
    if lasting and channel is None:
        routes.main[event] = route
    elif lasting:
        routes.named[channel, event] = route
    return route


def route_to(registry: Registry, channel: ChannelRef, handler: Handler | None) -> Route:
    """Return the route to ``handler``, which may be None, through the middleware of the server, peer and channel."""
    middleware: list[Middleware] = []
    for each in registry.lineage():
        for place in (None,) if channel is None else (None, channel):
            if place in each.scopes:
                middleware += each.scopes[place].middleware
    call = partial(_refuse, registry) if handler is None else handler.call
    return around(handler, call, middleware, registry.time_limit)


def _refuse(registry: Registry, invocation: Invocation, a: list[Any]) -> NoReturn:
    """Raise the error for an event without a handler, in ws-wrapper 4.3.1's words: its users match on them."""
    h = invocation.inbound.h
    channel = invocation.channel_name if h is None else h
    if isinstance(channel, str) and not any(channel in each.scopes for each in registry.lineage()):
        text = f"Channel '{channel}' does not exist" + registry.lineage()[0].hints.get(channel, "")
    else:
        text = f"No event listener for '{invocation.event}'"
        if channel is not None:
            text += f" on channel '{channel}'"
    raise made_here(UnknownEvent(text))

"""The options of events and requests, which users pass as keyword arguments, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Required, TypedDict

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ..._base.misuse import no_keywords
from ..._base.names import Offline, Source, check_offline, check_timeout
from ..._base.retry import Retry
from ..wire.call_context import MAX_REMAINING, CallContext, check_field, check_metadata
from ..wire.messages import RequestOptions


class ChannelEventOptions(TypedDict, total=False):
    """Options of an event on an anonymous channel. They travel to the handler, in a `CallContext`.

    `Caller.emit` explains ``metadata``.
    """

    metadata: Mapping[str, str] | None


class EventOptions(ChannelEventOptions, total=False):
    """Options of an event. `Caller.emit` explains ``offline``."""

    offline: Offline | None


class ChannelCallOptions(ChannelEventOptions, total=False):
    """Options of a request on an anonymous channel. `Caller.request` explains ``timeout``."""

    timeout: float | UnsetType | None


class CallOptions(ChannelCallOptions, EventOptions, total=False):
    """Options of a request or a conversation. `Caller.request` explains ``key``."""

    key: str | None


class AwayOptions(CallOptions, total=False):
    """Options of a request to a peer that may be away. `ClusterPeer.request` explains ``deliver_within``."""

    send: Source | None
    retry: Retry | None
    idempotent: bool
    deliver_within: float | None


class SubmitOptions(ChannelCallOptions, total=False):
    """Options of a submitted request, which `ClusterPeer.submit` explains."""

    key: Required[str]


class StreamOptions(CallOptions, total=False):
    """Options of a stream. `Caller.stream` explains ``after``."""

    after: int | str | None


check_key = partial(check_field, "key", "a text of 1 to 128 characters, without control characters")

_CONTEXT: dict[str, Callable[[Any], Any]] = {
    "metadata": check_metadata,
    "key": check_key,
    "message": partial(check_field, "message", "a text of 1 to 64 characters", option="id"),
    "after": partial(check_field, "after", "the position of a stream, or the number of items to skip"),
}
"""For each option that travels, the function that checks it, and returns it as it travels."""


def changed(
    common: RequestOptions,
    options: Mapping[str, Any],
    accepted: type[Any],
    method: Callable[..., Any],
    event: str = "...",
) -> RequestOptions:
    """Return other options of a request or an event: those in ``options`` differ from ``common``.

    Args:
        options: the keyword arguments of the user.
        accepted: the `TypedDict` of the options that ``method`` has.

    Raises:
        TypeError, ValueError: ``method`` has no such option, or its value is wrong.
    """
    if not options:
        return common
    names = accepted.__annotations__
    if unknown := {name: value for name, value in options.items() if name not in names}:
        raise no_keywords(method, event, unknown, names)
    chosen = dict(options)
    fields = {name: chosen.pop(name) for name in options if name in _CONTEXT}
    if fields:
        chosen["context"] = changed_context(common.context, fields)
    if (timeout := chosen.get("timeout", UNSET)) is not UNSET:
        check_timeout(timeout)
        chosen["sends_timeout"] = timeout is not None and timeout <= MAX_REMAINING
    if (offline := chosen.get("offline")) is not None:
        check_offline(offline)
    return replace(common, **chosen)


def changed_context(common: CallContext | None, fields: Mapping[str, Any]) -> CallContext | None:
    """Return what travels with a message: the ``fields`` differ from ``common``. None stands for an absent field.

    Raises:
        TypeError, ValueError: a value is wrong.
    """
    checked = {name: UNSET if value is None else _CONTEXT[name](value) for name, value in fields.items()}
    context = replace(common or CallContext(), **checked)
    if context.after is not UNSET and context.key is UNSET:
        raise ValueError("after= continues a call with a key: give key=, too")
    return None if context == CallContext() else context

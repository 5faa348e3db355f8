"""The calls and events of callers, channels and proxies on their way to a `Sender`.

No call has more time than its handler has. The functions of `use_outgoing` run around each call and event.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from ..._base.misuse import refused
from ..._base.names import ChannelRef, check_timeout
from ..._base.retry import Retry
from ..channels.channel_core import ChannelCore
from ..channels.source import close_source
from ..handlers.invocation import CURRENT
from ..inboxes.inbox import Inbox
from ..sending.checks import check_sending
from ..sending.sender import Sender
from ..wire.call_context import CallContext
from ..wire.messages import RequestOptions
from .options import changed_context
from .outgoing_functions import OutgoingFunction, run_around, run_at_once, without_waiting

T = TypeVar("T")

Message = tuple[ChannelRef, str, tuple[Any, ...]]
"""The channel, the event and its arguments."""
Send = Callable[[ChannelRef, str, tuple[Any, ...], RequestOptions], Coroutine[Any, Any, Any]]
"""A method of a `Sender`."""


# ---------------------------------------------------------------- deadlines

Call = Callable[[Sender, Message, RequestOptions], Coroutine[Any, Any, T]]


def _in_time(call: Call[T], sender: Sender, message: Message, options: RequestOptions) -> Coroutine[Any, Any, T]:
    """Make a call that has no more time than the handler that awaits it, if there is one. ``timeout=None`` opts out."""
    handler = CURRENT.get(None)
    if handler is None or handler.deadline is None or options.timeout is None:
        return call(sender, message, options)
    return _within_deadline(call, sender, message, options)


async def _within_deadline(call: Call[T], sender: Sender, message: Message, options: RequestOptions) -> T:
    """Make a call, limited to the time that is left to the handler, unless a task that it has started awaits the call.

    Such a task may continue after the handler. Only the first step of the call shows whether it is one.
    """
    handler = CURRENT.get()
    if handler.deadline is not None and handler.is_calling:
        left = max(0.0, handler.deadline - handler.dispatcher.loop.time())
        timeout = sender.request_timeout if options.timeout is UNSET else options.timeout
        timeout = left if timeout is None else min(left, timeout)
        options = replace(options, timeout=timeout, sends_timeout=True)
    return await call(sender, message, options)


# ---------------------------------------------------------------- calls


def _request(sender: Sender, message: Message, options: RequestOptions) -> Coroutine[Any, Any, Any]:
    """Send a request, again if it is retried, or with the items of an upload. Return its result."""
    if options.retry is not None:
        send = sender.request_again
    else:
        send = sender.send_request if options.send is None else sender.upload
    if not sender.outgoing:
        return send(*message, options)
    if options.send is None:
        return _around("request", send, sender, message, options)
    return _upload(sender, message, options)


async def _upload(sender: Sender, message: Message, options: RequestOptions) -> Any:
    """Upload items, with the functions around it. Close their source even if a function refuses the upload."""
    try:
        return await _around("upload", sender.upload, sender, message, options)
    finally:
        await close_source(options.send)


def _open_stream(sender: Sender, message: Message, options: RequestOptions) -> Coroutine[Any, Any, Inbox]:
    """Open a stream, and return the inbox of its items."""
    if not sender.outgoing:
        return sender.open_stream(*message, options)
    return _opening("stream", sender.open_stream, sender, message, options)


def _open_channel(sender: Sender, message: Message, options: RequestOptions) -> Coroutine[Any, Any, ChannelCore]:
    """Send a request that an anonymous channel answers, and return the channel."""
    opening = replace(options, wants_channel=True)
    if not sender.outgoing:
        return sender.send_request(*message, opening)
    return _opening("conversation", sender.send_request, sender, message, opening)


request = partial(_in_time, _request)
open_stream = partial(_in_time, _open_stream)
open_channel = partial(_in_time, _open_channel)


def send_message(
    sender: Sender, call: Message, options: RequestOptions, message: Any, id: str | None, timeout: float | None
) -> Coroutine[Any, Any, None]:
    """Send a message to the run of a call with a key; see `Stream.send`."""
    channel, event, args = call
    # With a position, because a peer that knows no messages must not start the handler.
    context = changed_context(options.context, {"message": secrets.token_hex(8) if id is None else id, "after": 0})
    check_timeout(timeout)
    own = RequestOptions(context=context, timeout=timeout, retry=Retry(), idempotent=True)
    return request(sender, (channel, event, (*args, message)), own)


# ---------------------------------------------------------------- events


def emit(sender: Sender, message: Message, options: RequestOptions) -> Coroutine[Any, Any, None]:
    """Send an event."""
    if not sender.outgoing:
        return sender.send_event(*message, options)
    return _around("event", sender.send_event, sender, message, options)


def emit_nowait(sender: Sender, message: Message, options: RequestOptions) -> None:
    """Send an event without waiting."""
    if not sender.outgoing:
        sender.send_event_nowait(*message, options)
        return
    call = _describe("event", message, options, sender)
    send = partial(sender.send_event_nowait, *message)
    run_at_once(sender.outgoing, call, lambda: send(_final(call, options)))


def broadcast(
    run: Callable[..., Any],
    functions: Sequence[OutgoingFunction],
    message: Message,
    options: RequestOptions,
    send: Callable[[CallContext | None], T],
) -> T:
    """Send a broadcast, with the functions of `use_outgoing` around it.

    Args:
        run: `run_at_once`, or `run_around` if the result of ``send`` is awaited.

    Raises:
        TypeError, ReservedEvent: the event has a name that cannot be sent.
    """
    channel, event, _ = message
    check_sending(channel, event, None)
    if not functions:
        return send(options.context)
    call = _describe("broadcast", message, options)
    result: T = run(without_waiting(functions), call, lambda: send(_final(call, options).context))
    return result


# ---------------------------------------------------------------- the functions of `use_outgoing`


def pass_on(
    functions: Sequence[OutgoingFunction], sender: Sender, message: Message, options: RequestOptions
) -> Coroutine[Any, Any, Any]:
    """Send a request of another node, with the functions of adapters around it."""
    if not functions:
        return sender.send_request(*message, options)
    return _around("request", sender.send_request, sender, message, options, functions)


def _around(
    kind: str,
    send: Send,
    sender: Sender,
    message: Message,
    options: RequestOptions,
    functions: Sequence[OutgoingFunction] | None = None,
) -> Coroutine[Any, Any, Any]:
    """Send a message, with the functions around it."""
    try:
        call = _describe(kind, message, options, sender)

        def leave() -> Coroutine[Any, Any, Any]:
            return send(*message, _final(call, options))

        around: Coroutine[Any, Any, Any] = run_around(sender.outgoing if functions is None else functions, call, leave)
    except Exception as exc:
        return refused(exc)
    return around


async def _opening(kind: str, open: Send, sender: Sender, message: Message, options: RequestOptions) -> Any:
    """Open a stream or a conversation, with the functions around it. Return what was opened."""
    opened: list[Inbox | ChannelCore] = []  # at most one

    async def open_once(*arguments: Any) -> Inbox | ChannelCore:
        opened.append(await open(*arguments))
        return opened[0]

    try:
        result = await _around(kind, open_once, sender, message, options)
        if not opened or result is not opened[0]:
            raise TypeError(f"a function of use_outgoing has to return what call_next returns for a {kind}")
    except BaseException:
        if not opened:
            await close_source(options.send)
        for each in opened:
            each.stop_reading(None) if isinstance(each, Inbox) else each.abort(None)
        raise
    return result


def _describe(kind: str, message: Message, options: RequestOptions, sender: Sender | None = None) -> Any:
    """Return the `OutgoingCall` of a message. A broadcast has no sender."""
    channel, event, args = message
    context = options.context
    metadata = {} if context is None or context.metadata is UNSET else {**context.metadata}
    name = channel if isinstance(channel, str) else None
    peer, address = (None, None) if sender is None else sender.target()
    timeout = sender.request_timeout if sender is not None and options.timeout is UNSET else options.timeout
    return OutgoingFunction.call_class(kind, event, args, metadata, name, peer, address, timeout)


def _final(call: Any, options: RequestOptions) -> RequestOptions:
    """Return the options of a message with the metadata that its `OutgoingCall` has after all functions have run.

    Raises:
        TypeError, ValueError: the metadata of the call is not valid.
    """
    if not call.metadata and options.context is None:
        return options
    return replace(options, context=changed_context(options.context, {"metadata": call.metadata or None}))

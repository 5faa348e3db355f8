"""How the functions of `use_outgoing` run around what leaves.

The first function is the outermost. Functions that are no coroutine functions also run around what does not wait.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, ClassVar, TypeVar, cast

from msgspec import Struct

from ..._base.misuse import check_has_run
from ..channels.channel_core import ChannelCore
from ..handlers.introspection import is_async, is_generator_function
from ..handlers.layers import RunningGenerators
from ..handlers.registry import accepted
from ..inboxes.inbox import Inbox

T = TypeVar("T")

Within = Callable[[], Any]
"""Runs the functions inside a function, and sends the message."""


class OutgoingFunction(Struct, frozen=True):
    """A function of `use_outgoing`."""

    call_class: ClassVar[type[Any]]
    """The class `OutgoingCall`, which is in a higher layer."""

    function: Callable[..., Any]
    run: Callable[[Any, Any, Within], Coroutine[Any, Any, Any]] | None
    """The coroutine function that runs it. None if it only runs before the call."""


def read_function(function: Any) -> OutgoingFunction:
    """Return the function of the user as it is run.

    Raises:
        TypeError: it cannot be middleware. The text says why.
    """
    if inspect.isasyncgenfunction(function):
        raise TypeError(f"middleware with a `yield` is a plain `def`, and {function!r} is an `async def`")
    if is_async(function):
        if accepted("use_outgoing", ("call", "call_next"), function) < 2:
            raise TypeError(f"an `async def` of use_outgoing has the parameters (call, call_next), not {function!r}")
        return OutgoingFunction(function, _await)
    observes = is_generator_function(function)
    if accepted("use_outgoing with a plain `def`", ("call",), function, may_yield=observes) < 1:
        raise TypeError(f"a plain `def` of use_outgoing has the parameter (call), not {function!r}")
    return OutgoingFunction(function, _enclose if observes else None)


# ---------------------------------------------------------------- running them


def run_around(functions: Sequence[OutgoingFunction], call: Any, send: Within) -> Any:
    """Run the functions around ``send``, and return what its caller awaits.

    Functions that only run before the call, and come first, run now: with such functions alone, no coroutine is added.
    """
    for number, each in enumerate(functions):
        if each.run is not None:
            return each.run(each.function, call, partial(run_around, functions[number + 1 :], call, send))
        _run_before(each.function, call)
    return send()


def run_at_once(functions: Sequence[OutgoingFunction], call: Any, send: Callable[[], T]) -> T:
    """Run the functions that are no coroutine functions around ``send``, which does not wait."""
    running, context = RunningGenerators(), copy_context()
    try:
        for each in without_waiting(functions):
            if each.run is None:
                _run_before(each.function, call)
            else:
                context.run(running.start, each.function, call)
        result = send()
    except BaseException as exc:
        context.run(running.end, exc)
        raise
    context.run(running.end, None)
    return result


def without_waiting(functions: Sequence[OutgoingFunction]) -> list[OutgoingFunction]:
    """Return the functions that are no coroutine functions."""
    return [each for each in functions if each.run is not _await]


def _run_before(function: Callable[[Any], Any], call: Any) -> None:
    if (returned := function(call)) is not None:
        check_has_run("a function of use_outgoing", returned)


async def _await(function: Callable[..., Any], call: Any, within: Within) -> Any:
    called = False

    async def call_next(_: object) -> Any:
        nonlocal called
        if called:
            raise RuntimeError("a function of use_outgoing called call_next twice: use retry= to repeat a request")
        called = True
        return await within()

    return await function(call, call_next)


async def _enclose(function: Callable[[Any], Iterator[None]], call: Any, within: Within) -> Any:
    # In a context of its own, which is the same at the end of a stream, wherever that is noticed.
    running, context = RunningGenerators(), copy_context()
    try:
        context.run(running.start, function, call)
        result = await within()
    except BaseException as exc:
        context.run(running.end, exc)
        raise
    if call.kind in ("stream", "conversation") and isinstance(result, (Inbox, ChannelCore)):
        channel = channel_of(result)

        def ended() -> None:
            try:
                context.run(running.end, _failure(result, channel))
            except Exception as exc:
                text = "a function of use_outgoing failed at the end of a %s of %r"
                channel.owner.answers.host.log(logging.ERROR, text, call.kind, call.event, exc_info=exc)

        channel.when_ended(ended)
    else:
        context.run(running.end, None)
    return result


def channel_of(opened: Inbox | ChannelCore) -> ChannelCore:
    """Return the channel of a stream or a conversation that was opened."""
    return opened if isinstance(opened, ChannelCore) else cast("ChannelCore", opened.channel)


def _failure(opened: Inbox | ChannelCore, channel: ChannelCore) -> BaseException | None:
    """Return the exception with which a stream or a conversation has ended. None if this side has left it."""
    if isinstance(opened, Inbox) and opened.over:
        return opened.error
    return None if channel.ended_here else channel.error

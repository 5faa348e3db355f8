"""How the functions of `use_outgoing` run around what leaves.

The first function is the outermost. Functions that are no coroutine functions also run around what does not wait.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any, ClassVar, TypeVar

from msgspec import Struct, field

from ..channels.channel_core import ChannelCore
from ..handlers.accepted import accepted
from ..handlers.callables import is_async, is_generator_function
from ..handlers.layers import RunningGenerators
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
            rest = functions[number + 1 :]
            return each.run(each.function, call, partial(run_around, rest, call, send) if rest else send)
        each.function(call)
    return send()


def run_at_once(functions: Sequence[OutgoingFunction], call: Any, send: Callable[[], T]) -> T:
    """Run the functions that are no coroutine functions around ``send``, which does not wait."""
    enclosing = Enclosing(call)
    try:
        for each in without_waiting(functions):
            if each.run is None:
                each.function(call)
            else:
                enclosing.add(each.function)
        result = send()
    except BaseException as exc:
        enclosing.end(exc)
        raise
    enclosing.end()
    return result


def without_waiting(functions: Sequence[OutgoingFunction]) -> list[OutgoingFunction]:
    """Return the functions that are no coroutine functions."""
    return [each for each in functions if each.run is not _await]


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
    enclosing = Enclosing(call)
    enclosing.add(function)
    try:
        result = await within()
        if call.kind in ("stream", "conversation"):
            enclosing.last_until_end(result)
    except BaseException as exc:
        enclosing.end(exc)
        raise
    enclosing.end()
    return result


class Enclosing(Struct, eq=False):
    """The generators around a call. They run in a context of their own, wherever the end of the call is noticed."""

    _call: Any
    _running: RunningGenerators = field(default_factory=RunningGenerators)
    _context: Context = field(default_factory=copy_context)
    _lasts: bool = False

    def add(self, function: Callable[[Any], Iterator[None]]) -> None:
        """Make a generator, and run it up to its ``yield``."""
        self._context.run(self._running.start, (function,), self._call)

    def last_until_end(self, opened: Any) -> None:
        """Let the generators wait for the end of a stream or a conversation. Later exceptions do not end them."""
        channel = opened if isinstance(opened, ChannelCore) else getattr(opened, "channel", None)
        if isinstance(channel, ChannelCore):  # otherwise a function of the user has returned something else
            self._lasts = True
            channel.when_ended(partial(self._ended, opened, channel))

    def _ended(self, opened: Inbox | ChannelCore, channel: ChannelCore) -> None:
        error: BaseException | None = None if channel.ended_here else channel.error
        if isinstance(opened, Inbox) and opened.over:
            error = opened.error
        try:
            self._context.run(self._running.end, error)
        except Exception as exc:
            text = "a function of use_outgoing failed at the end of a %s of %r"
            channel.owner.answers.host.log(logging.ERROR, text, self._call.kind, self._call.event, exc_info=exc)

    def end(self, error: BaseException | None = None) -> None:
        """The call has returned, or has raised ``error``."""
        if not self._lasts:
            self._context.run(self._running.end, error)

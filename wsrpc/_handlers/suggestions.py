"""Suggestions in the log for an event without a handler: the registered name that was probably meant.

Only the log has them. The remote peer learns no names except those that it has sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import chain, islice

from .._base.names import ChannelRef
from .registry import Registry, Scope

LONGEST = 32
"""Length in characters of the longest name that is compared with others."""
MOST = 128
"""How many names a name is compared with. One guess then takes 2 ms or less for usual names."""


class Unhandled:
    """Text of a log line about an event without a handler, with a suggestion if there is one.

    The suggestion is made only when the line is written, so that a flood of events causes no comparisons.
    """

    __slots__ = ("_channel", "_event", "_registries", "_text")

    def __init__(self, text: object, channel: ChannelRef, event: str, registries: tuple[Registry, ...]) -> None:
        self._text = text
        self._channel = channel
        self._event = event
        self._registries = registries

    def __str__(self) -> str:
        guess = self._guess()
        return f"{self._text}; {guess}" if guess else str(self._text)

    def _guess(self) -> str:
        event, here = self._event, self._channel
        scopes = self._scopes(here)
        if here is not None and not scopes and (channel := _nearest(str(here), self._channels())):
            return f"did you mean the channel {channel!r}?"
        if here is not None and _has(self._scopes(None), event):
            return "the main channel has a handler for it"
        for channel in islice(self._channels(), MOST):
            if channel != here and _has(self._scopes(channel), event):
                return f"the channel {channel!r} has a handler for it"
        names = chain.from_iterable(chain(scope.handlers, scope.once) for scope in scopes)
        nearest = _nearest(event, names)
        return f"did you mean {nearest!r}?" if nearest else ""

    def _scopes(self, channel: ChannelRef) -> list[Scope]:
        return [registry.scopes[channel] for registry in self._registries if channel in registry.scopes]

    def _channels(self) -> Iterator[str]:
        return (name for registry in self._registries for name in registry.scopes if isinstance(name, str))


def _has(scopes: list[Scope], event: str) -> bool:
    return any(event in scope.handlers or event in scope.once for scope in scopes)


def _nearest(name: str, others: Iterable[str]) -> str | None:
    if len(name) > LONGEST:
        return None
    compared = islice((other for other in others if other != name and len(other) <= LONGEST), MOST)
    return next(iter(get_close_matches(name, compared, n=1, cutoff=0.7)), None)

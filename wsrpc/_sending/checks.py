"""What may be sent, and from where."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any

from .._base.names import RESERVED_EVENTS, ChannelRef, check_event
from ..errors import ReservedEvent

__all__ = ["Objections", "check_sending", "check_thread", "check_thread_of_plain", "raw_payload"]


def check_sending(channel: ChannelRef, event: str, thread: int | None) -> None:
    """Refuse a name that cannot travel, and a call from another thread than ``thread``.

    Raises:
        TypeError, ReservedEvent, RuntimeError: say why and what to do.
    """
    if event.__class__ is not str:
        check_event(event)
    if channel is None and event in RESERVED_EVENTS:
        raise ReservedEvent(event)
    if thread is not None and get_ident() != thread:
        check_thread(thread, "peer.request(...)")


def check_thread(thread: int | None, call: str) -> None:
    """Refuse a call from another thread than ``thread``.

    Raises:
        RuntimeError: names what works.
    """
    if thread is not None and get_ident() != thread:
        raise RuntimeError(
            f"this belongs to an event loop in another thread: use asyncio.run_coroutine_threadsafe({call}, loop)"
        )


def check_thread_of_plain(thread: int | None, function: str) -> None:
    """The same for a plain function, which is called without ``await``.

    Raises:
        RuntimeError: names what works.
    """
    if thread is not None and get_ident() != thread:
        raise RuntimeError(
            f"this belongs to an event loop in another thread: use loop.call_soon_threadsafe({function}, ...), or "
            "asyncio.run_coroutine_threadsafe() for coroutines"
        )


class Objections:
    """What a codec objects to in one payload, for receivers with different ``Limits.values``.

    A payload that fits into one bound fits into each greater one. So however many different bounds the receivers
    announce, the payload is looked through 64 times at most, and only once where all have the same.
    """

    __slots__ = ("_exceeds", "_fits", "_objection", "_payload", "_why")

    def __init__(self, payload: bytes, objection: Callable[[bytes, int], str | None]) -> None:
        self._payload = payload
        self._objection = objection
        self._exceeds = 0
        """The greatest bound that is known to be too small."""
        self._fits = sys.maxsize
        """The smallest bound that is known to be enough."""
        self._why: str | None = None

    def to(self, values: int) -> str | None:
        """Why the payload is not for a receiver that takes so many ``values``; None if it is."""
        first = values if self._why is None and self._fits == sys.maxsize else None
        while self._exceeds < values < self._fits:
            # Each look but the first halves what is unknown, whatever bounds are asked for.
            bound = first or (self._exceeds + self._fits) // 2
            first = None
            why = self._objection(self._payload, bound)
            if why is None:
                self._fits = bound
            else:
                self._exceeds, self._why = bound, why
        return self._why if values <= self._exceeds else None


def raw_payload(message: Any) -> tuple[bytes, bool]:
    """What travels for a raw message, and whether as text.

    Raises:
        TypeError: it is neither text nor bytes.
        UnicodeEncodeError: text with lone surrogates, which cannot travel.
    """
    if isinstance(message, str):
        return message.encode(), True
    given: Any = message
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(given), False
    raise TypeError(f"a raw message is str or bytes, got {type(given).__name__}: encode it first")

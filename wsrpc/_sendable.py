"""What may be sent, and from where."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from ._types import RESERVED_EVENTS, ChannelRef, check_event
from .errors import ReservedEvent

__all__ = ["check_sending", "check_thread", "check_thread_of_plain", "raw_payload"]


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

"""Checks of messages before they are sent, and of the thread that sends them."""

from __future__ import annotations

from threading import get_ident
from typing import Any

from ..._base.names import RESERVED_EVENTS, ChannelRef, check_event
from ...errors import ReservedEvent


def check_sending(channel: ChannelRef, event: str, thread: int | None, plain: str | None = None) -> None:
    """Check that an event has a name that can be sent, and that this call runs in ``thread``.

    Args:
        plain: the name of the plain function that was called. None for a coroutine function.

    Raises:
        TypeError: the name is not a str.
        ReservedEvent: the name is that of a lifecycle event of the main channel.
        RuntimeError: the thread is another one; the error names the function to use.
    """
    if event.__class__ is not str:
        check_event(event)
    if channel is None and event in RESERVED_EVENTS:
        raise ReservedEvent(event)
    if thread is not None and get_ident() != thread:
        if plain is not None:
            check_thread_of_plain(thread, plain)
        check_thread(thread, "peer.request(...)")


def check_thread(thread: int | None, call: str) -> None:
    """Check that a call of a coroutine function runs in ``thread``.

    Raises:
        RuntimeError: the thread is another one; the error names the function to use.
    """
    if thread is not None and get_ident() != thread:
        raise RuntimeError(
            f"this belongs to an event loop in another thread: use asyncio.run_coroutine_threadsafe({call}, loop)"
        )


def check_thread_of_plain(thread: int | None, function: str) -> None:
    """Check that a call of a plain function runs in ``thread``.

    Raises:
        RuntimeError: the thread is another one; the error names the function to use.
    """
    if thread is not None and get_ident() != thread:
        raise RuntimeError(
            f"this belongs to an event loop in another thread: use loop.call_soon_threadsafe({function}, ...), or "
            "asyncio.run_coroutine_threadsafe() for coroutines"
        )


def raw_payload(message: Any) -> tuple[bytes, bool]:
    """Return the payload of a raw message, and whether it is text.

    Raises:
        TypeError: the message is neither str nor bytes.
        UnicodeEncodeError: the text has lone surrogates, which cannot be encoded.
    """
    if isinstance(message, str):
        return message.encode(), True
    data: Any = message
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(data), False
    raise TypeError(f"a raw message is str or bytes, got {type(data).__name__}: encode it first")

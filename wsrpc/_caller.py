"""Emitting and requesting: the methods that peer, client and channel have in common."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Never, Protocol, TypeVar, overload

from msgspec import UNSET, UnsetType

from ._types import OnChannel

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["Caller", "Sender", "no_keywords"]

T = TypeVar("T")


class Sender(Protocol):
    """What a channel needs of its peer."""

    def send_event(self, channel: str | None, event: str, args: tuple[Any, ...], /) -> Coroutine[Any, Any, None]: ...

    def send_event_nowait(self, channel: str | None, event: str, args: tuple[Any, ...], /) -> None: ...

    def send_request(
        self,
        channel: str | None,
        event: str,
        args: tuple[Any, ...],
        returns: Any,
        timeout: float | UnsetType | None,
        /,
    ) -> Coroutine[Any, Any, Any]: ...


class Caller(OnChannel):
    """`emit`, `emit_nowait` and `request`, on one channel of one peer."""

    __slots__ = ()

    _sender: Sender

    def emit(self, event: str, /, *args: Any, **unsupported: Never) -> Coroutine[Any, Any, None]:
        """Send an event, which nobody answers.

        Returns when the message is accepted for sending, not when it is delivered: while the line is above
        its high-water mark it waits, in turn, before encoding. Cancelling is safe: the event is then not
        sent.

        Raises:
            ConnectionLost: ``outcome="not_sent"``, if there is no connection and nothing queues for one.
            QueueFull: if the offline queue is full.
            ReservedEvent: for open, close and the like on the main channel.
            TypeError, ValueError: if an argument cannot be encoded; nothing is sent.
        """
        if unsupported:
            raise no_keywords("emit", event, unsupported)
        return self._sender.send_event(self._channel_name, event, args)

    def emit_nowait(self, event: str, /, *args: Any, **unsupported: Never) -> None:
        """Like `emit`, for plain functions in the event loop's thread; it never waits.

        Raises:
            QueueFull: at the hard cap of unsent bytes; nothing is sent.
        """
        if unsupported:
            raise no_keywords("emit_nowait", event, unsupported)
        self._sender.send_event_nowait(self._channel_name, event, args)

    # The overloads are written as coroutine functions because type checkers then see through asyncio.gather().

    @overload
    async def request(
        self, event: str, /, *args: Any, timeout: float | UnsetType | None = UNSET, **unsupported: Never
    ) -> Any: ...

    @overload
    async def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: TypeForm[T],
        timeout: float | UnsetType | None = UNSET,
        **unsupported: Never,
    ) -> T: ...

    def request(
        self,
        event: str,
        /,
        *args: Any,
        returns: Any = UNSET,
        timeout: float | UnsetType | None = UNSET,
        **unsupported: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Send a request and return its answer.

        Args:
            returns: the type to check and convert the answer to; without it, what JSON gives.
            timeout: seconds until the answer, also while offline or while the line is full; None for ever.
                The default is `Limits.timeout`.

        Cancelling is safe and cancels remotely: the other side's handler is told, with the reason given to
        ``task.cancel(reason)``.

        Raises:
            RemoteError: the other side rejected; its subclasses say how.
            RequestTimeout: no answer in time; the other side was told to stop.
            ConnectionLost: the connection ended first; ``outcome`` says whether it may have run.
            BadResult: the answer does not fit ``returns``.
            UnexpectedChannel: the answer is a channel.
            TooManyRequests, QueueFull, ReservedEvent, TypeError, ValueError: refused here, nothing was sent.
        """
        if unsupported:
            raise no_keywords("request", event, unsupported)
        return self._sender.send_request(self._channel_name, event, args, returns, timeout)


_OPTIONS = {"emit": "skip=, on a server", "emit_nowait": "none", "request": "returns= and timeout="}


def no_keywords(method: str, event: str, unsupported: Mapping[str, object]) -> TypeError:
    """The error for keyword arguments that were meant for the handler, or are misspelled options."""
    names = ", ".join(unsupported)
    return TypeError(
        f"{method}({event!r}) got {names} as keyword argument: arguments travel by position, without names, and "
        f"keywords are options of {method}() itself ({_OPTIONS[method]})"
    )

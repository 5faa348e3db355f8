"""`Following`: the items of a stream with a key, from one session to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from ...errors import ConnectionLost
from .stream import Stream, is_closed

T = TypeVar("T")


class Following(Generic[T]):
    """Async iterator over the items of a stream with a key, each once and in order. `Client.follow` returns it.

    It is also an async context manager. Leaving it only ends the reading. Cancelling a read is safe: no item is lost.
    It raises what `Stream` raises, but when a session has ended, it continues in the next one, as long as the client
    reconnects. After any error, another one continues after the `position` of this one.
    """

    def __init__(self, open: Callable[[str | int | None], Stream[T]], key: str, after: str | int | None) -> None:
        self._open = open
        self._key = key
        self._stream: Stream[T] | None = None
        self._closed = False
        self._after = after

    @property
    def position(self) -> str | None:
        """The position of the last item that was read, for ``after=``. None while it is not known."""
        found = None if self._stream is None else self._stream.position
        after = self._after if found is None else found
        return None if after is None else str(after)

    async def stop(self) -> None:
        """Stop the handler, for all its readers; see `Stream.stop`."""
        await self._reading().stop()

    async def send(self, message: Any, *, id: str | None = None, timeout: float | None = None) -> None:
        """Send a message to the handler; see `Stream.send`."""
        await self._reading().send(message, id=id, timeout=timeout)

    async def aclose(self) -> None:
        """Stop reading. Cancelling is safe, and a second call has no effect."""
        self._closed = True
        await self._reading().aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            try:
                return await anext(self._reading())
            except BaseException as exc:
                ended = isinstance(exc, ConnectionLost) and exc.outcome != "not_sent"
                failed = is_closed(self._reading()) and not self._closed  # to open it: the next step tries again
                if ended or failed:
                    self._after, self._stream = self._reading().position, None
                if not ended:
                    raise

    def _reading(self) -> Stream[T]:
        if self._stream is None:
            self._stream = self._open(self._after)
        return self._stream

    def __repr__(self) -> str:
        return f"<Following {self._key!r} position={self.position!r}>"

"""`Following`: the items of a stream with a key, from one session to the next."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Self, TypeVar

from ...errors import ChannelClosed, ConnectionLost, RunLost
from .stream import Stream, is_closed

T = TypeVar("T")

_later_attempt = re.compile(r"([0-9]{1,9}):(.*)", re.DOTALL).fullmatch


class Following(Generic[T]):
    """Async iterator over the items of a stream with a key, each once and in order. `Client.follow` returns it.

    It is also an async context manager. Leaving it only ends the reading. Cancelling a read is safe: no item is lost.
    It raises what `Stream` raises, but when a session has ended, it continues in the next one, as long as the client
    reconnects. After any error, another one continues after the `position` of this one.

    Attributes:
        attempt: the number of the run whose items are read, 1 for the first one. When it grows, the items that were
            read before are those of a lost run, and the next item is the first one of another run.
    """

    def __init__(
        self,
        open: Callable[[str, str | int | None], Stream[T]],
        key: str,
        after: str | int | None,
        attempts: int,
    ) -> None:
        self._open = open
        self._key = key
        self._attempts = attempts
        self._stream: Stream[T] | None = None
        self._closed = self._started = False
        self._stops = False
        """Whether the handlers of all attempts are to stop."""
        self._stopped: Stream[T] | None = None
        """The stream whose handler was stopped last."""
        self.attempt = 1
        self._after = after
        if isinstance(after, str) and (found := _later_attempt(after)) is not None:
            self.attempt, self._after = int(found[1]), found[2] or None

    @property
    def position(self) -> str | None:
        """The position of the last item that was read, for ``after=``. None while it is not known."""
        found = None if self._stream is None else self._stream.position
        after = self._after if found is None else found
        if self.attempt > 1:
            return f"{self.attempt}:{after or ''}"
        return None if after is None else str(after)

    async def stop(self) -> None:
        """Stop the handler, for all its readers; see `Stream.stop`. If it was lost, reading on stops the next."""
        stream = self._reading()
        if self._started:
            self._stops, self._stopped = True, stream
        try:
            await stream.stop()
        except (ChannelClosed, RunLost):
            self._stopped = None  # it is not open yet, or was lost
            if not (self._started and self.attempt < self._attempts):
                raise

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
        self._started = True
        while True:
            try:
                if self._stops and self._reading() is not self._stopped:
                    await self._stop_anew()
                return await anext(self._reading())
            except BaseException as exc:
                lost = isinstance(exc, RunLost) and self.attempt < self._attempts
                ended = isinstance(exc, ConnectionLost) and exc.outcome != "not_sent"
                failed = is_closed(self._reading()) and not self._closed  # to open it: the next step tries again
                if lost or ended or failed:
                    self._after, self._stream = None if lost else self._reading().position, None
                    self.attempt += lost
                if not (lost or ended):
                    raise

    async def _stop_anew(self) -> None:
        """Stop the handler that another stream reads. If that stream has ended, its next step raises the error."""
        stream = self._reading()
        await stream.__aenter__()
        with suppress(ChannelClosed, RunLost):
            await stream.stop()
        self._stopped = stream  # only now: after another error, the next step stops it

    def _reading(self) -> Stream[T]:
        if self._stream is None:
            key = self._key if self.attempt == 1 else f"{self._key}:{self.attempt}"
            self._stream = self._open(key, self._after)
        return self._stream

    def __repr__(self) -> str:
        return f"<Following {self._key!r} attempt={self.attempt} position={self.position!r}>"

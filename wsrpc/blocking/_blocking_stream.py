"""`Stream`: iterator over the items or events that arrive on a channel, for programs without an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, Self, TypeVar

from .._core.api.stream import Stream as AsyncStream
from .._core.api.stream import is_over, position_of, read_arrived
from ..errors import ConnectionLost
from ._loop_thread import CallBridge

T_co = TypeVar("T_co", covariant=True)

MOST = 256
"""Items that one hop to the loop's thread takes. They are within the window that the producer was given."""


class Stream(Iterator[T_co]):
    """Iterator over the items of a stream, or over events. It is also a context manager.

    ``with client.stream(...) as items`` opens the stream. Leaving the block stops the producer. A loop ``for item in
    client.stream(...)`` without ``with`` opens the stream at the first item. If you leave such a loop early, the stream
    is stopped when Python garbage-collects the stream object, with a warning in the log.

    A stream raises the same exceptions as a `wsrpc.Stream`, but first returns the items that have already arrived.
    Ctrl-C does not lose items.

    Each read takes all items that have already arrived (256 at most), so most items do not need a switch between
    threads.
    """

    __slots__ = ("_arrived", "_at_once", "_bridge", "_error", "_inner")

    def __init__(self, inner: AsyncStream[T_co], bridge: CallBridge, *, at_once: int = MOST) -> None:
        self._inner = inner
        self._bridge = bridge
        self._at_once = at_once
        self._arrived: deque[T_co] = deque()
        self._error: BaseException | None = None
        """The error or end that follows the items that have arrived."""

    def __enter__(self) -> Self:
        try:
            self._bridge.run(self._inner.__aenter__)
            return self
        except BaseException as exc:  # it may have been opened when Ctrl-C came
            self._close(exc)
            raise

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._close(error)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T_co:
        while not self._arrived:
            if isinstance(self._error, StopAsyncIteration):
                raise StopIteration
            error, self._error = self._error, None
            if error is not None:
                raise error
            try:
                self._bridge.run(self._read)
            except ConnectionLost:  # the client was closed, and with it the stream, whose handler may have run
                self._bridge.wait_over()
                if not is_over(self._inner):
                    raise
                # What has arrived is read as in an asynchronous client. The factory leaves the thread's own loop alone.
                with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                    runner.run(self._read())
        return self._arrived.popleft()

    async def _read(self) -> None:
        # Items go into this object at once, so that none is lost if the caller is interrupted.
        try:
            self._arrived.append(await anext(self._inner))
            for item in read_arrived(self._inner, self._at_once - 1):
                self._arrived.append(item)
        except (StopAsyncIteration, Exception) as exc:
            self._error = exc

    @property
    def position(self) -> str | None:
        """The position of the last item that was read; see `wsrpc.Stream.position`."""
        return position_of(self._inner, len(self._arrived))

    def stop(self) -> None:
        """Stop the handler of a call with a key, for all its readers; see `wsrpc.Stream.stop`."""
        self._bridge.run(self._inner.stop)

    def send(self, message: Any, *, id: str | None = None, timeout: float | None = None) -> None:
        """Send a message to the handler of a call with a key; see `wsrpc.Stream.send`."""
        self._bridge.run(partial(self._inner.send, message, id=id, timeout=timeout))

    def close(self) -> None:
        """Stop the producer, and drop the items that have not been read. Calling `close` again has no effect."""
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        self._arrived.clear()
        self._error = StopAsyncIteration()
        self._bridge.finish(partial(self._inner.__aexit__, None, error, None))

    def __repr__(self) -> str:
        return f"<blocking {repr(self._inner)[1:]}"

"""Reading channels as the recorded programs do."""

from __future__ import annotations

from typing import Any

from wsrpc import AnonymousChannel, Channel, Peer, Stream

from .stage import Stage
from .values import JsError, observed, raised_by

DONE = {"value": None, "done": True}


Readable = AnonymousChannel | Channel


class Iterating(Stage):
    """The operations that iterate."""

    peer: Peer

    def __init__(self) -> None:
        super().__init__()
        self._streams: dict[str, tuple[Readable, Stream[Any] | None]] = {}
        """Without a stream where it was refused."""
        self._ended: set[Stream[Any]] = set()

    def _iterable(self, channel: dict[str, str] | str) -> Readable | None:
        return self.anonymous.get(channel["ref"]) if isinstance(channel, dict) else self.peer.of(channel)

    def _do_iter_open(self, channel: dict[str, str] | str, ref: str) -> None:
        iterated = self._iterable(channel)
        if iterated is None:
            return
        self._streams[ref] = iterated, None
        try:
            self._streams[ref] = iterated, aiter(iterated)
        except RuntimeError:  # somebody reads it already
            self.log("threw", op="iter_open", error="RuntimeError")

    def _find_stream(self, iter: str) -> Stream[Any] | None:
        return self._streams[iter][1] if iter in self._streams else None

    def _do_iter_next(self, iter: str, ref: str) -> None:
        if (stream := self._find_stream(iter)) is not None:
            self.await_result(ref, self._next(stream))

    async def _next(self, stream: Stream[Any]) -> dict[str, Any]:
        try:
            return {"value": await anext(stream), "done": False}
        except StopAsyncIteration:
            self._ended.add(stream)
            return DONE

    def _do_iter_return(self, iter: str, ref: str, value: Any = None) -> None:
        # An iterator of Python has no last value that it could be given.
        if (stream := self._find_stream(iter)) is not None:
            self.await_result(ref, self._return(stream))

    async def _return(self, stream: Stream[Any]) -> dict[str, Any]:
        await stream.aclose()
        self._ended.add(stream)
        return DONE

    def _do_iter_throw(self, iter: str, ref: str, error: Any = None) -> None:
        if iter in self._streams:
            self.await_result(ref, self._throw(*self._streams[iter], raised_by(error)))

    async def _throw(self, channel: Readable, stream: Stream[Any] | None, error: BaseException) -> None:
        # What an iterator of JavaScript does when something is thrown into it.
        if isinstance(channel, AnonymousChannel) and stream not in self._ended:
            await channel.abort(error)
        raise error

    def _do_for_await(
        self, channel: dict[str, str] | str, ref: str, break_after: int | None = None, throw_after: int | None = None
    ) -> None:
        iterated = self._iterable(channel)
        if iterated is not None:
            self.await_result(ref, self._for_await(iterated, ref, break_after, throw_after))

    async def _for_await(self, channel: Readable, ref: str, break_after: int | None, throw_after: int | None) -> int:
        count = 0
        async with aiter(channel) as items:
            async for item in items:
                self.log("iterated", ref=ref, value=observed(item))
                count += 1
                if count == throw_after:
                    raise JsError("consumer failed")
                if count == break_after:
                    break
        return count

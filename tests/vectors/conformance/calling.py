"""Calling and being called as the recorded programs do, on every kind of channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from functools import partialmethod
from typing import Any

import msgspec

from wsrpc import AnonymousChannel, Channel, Peer

from .handlers import make_handler, make_middleware
from .stage import Stage, was_refused
from .values import misuse, observed, raised_by, to_python

ChannelName = str | dict[str, str] | None
"""The main channel, a named one, or an anonymous one by ``ref``."""


class Calling(Stage):
    """The operations that register, emit and request. ``opens``: the requests that ask for a channel."""

    def __init__(self, peer: Peer, opens: Collection[str]) -> None:
        super().__init__()
        self.peer = peer
        self._opens = opens
        self._named: dict[str, Channel] = {}
        self._handlers: dict[tuple[str, str], tuple[str, bool]] = {}
        self._signals: dict[str, list[str]] = {}
        self._aborted: dict[str, tuple[Any, ...]] = {}
        self._requests: list[asyncio.Task[Any]] = []

    def _find(self, channel: ChannelName) -> Peer | Channel | AnonymousChannel | None:
        """None for an anonymous channel that JavaScript has by mistake, and Python has not."""
        if channel is None:
            return self.peer
        if isinstance(channel, dict):
            return self.anonymous.get(channel["ref"])
        if channel not in self._named:
            self._named[channel] = self.peer.of(channel)
        return self._named[channel]

    # ------------------------------------------------------------ registering

    def _do_on(self, channel: ChannelName, event: str, handler: dict[str, Any], once: bool = False) -> None:
        if (found := self._find(channel)) is not None:
            (found.once if once else found.on)(event, make_handler(handler, self))
            self._handlers[str(channel), event] = handler["id"], once

    _do_once = partialmethod(_do_on, once=True)

    def _do_off(self, channel: ChannelName, event: str, handler: str) -> None:
        registered, once = self._handlers.get((str(channel), event), (None, False))
        found = self._find(channel)
        if registered == handler and found is not None:
            (found.once if once else found.on)(event, None)

    def _do_on_local(self, event: str, **_: Any) -> None:
        self.peer.on(event, lambda: self.log("local_event", event=event))

    def _do_of(self, channel: str) -> None:
        if channel in self._named and self._named[channel].closed:
            del self._named[channel]
        self._find(channel)

    def _do_of_invalid(self, value: Any) -> None:
        self.peer.of(to_python(value))

    def _do_use(self, middleware: dict[str, Any], channel: ChannelName = None) -> None:
        if (found := self._find(channel)) is not None:
            found.use(make_middleware(middleware, self))

    # ------------------------------------------------------------ emitting, requesting

    def _do_emit(self, channel: ChannelName, event: str, args: list[Any]) -> None:
        if (found := self._find(channel)) is not None:
            self.spawn(self._emit(found, event, args))

    async def _emit(self, channel: Peer | Channel | AnonymousChannel, event: str, args: list[Any]) -> None:
        try:
            await channel.emit(event, *to_python(args))
        except Exception as exc:
            self.log("threw", op="emit", error=misuse(exc))

    def _do_request(
        self,
        channel: ChannelName,
        event: str,
        args: list[Any],
        ref: str,
        timeout_ms: int | None = None,
        signal: str | None = None,
    ) -> None:
        found = self._find(channel)
        if found is None:
            return
        limit: Any = msgspec.UNSET if timeout_ms is None else timeout_ms / 1000 or None
        closed = not isinstance(found, Peer) and found.closed

        def refused(error: Exception) -> None:
            if was_refused(error, closed):
                self.log("threw", op="request", error=misuse(error))
            else:
                self.log("rejected", ref=ref, error=observed(error))

        ask: Callable[..., Coroutine[Any, Any, Any]] = found.open_channel if ref in self._opens else found.request
        task = self.await_result(ref, ask(event, *to_python(args), timeout=limit), refused)
        self._requests.append(task)
        if signal is not None:
            self._signals[signal].append(ref)
            if signal in self._aborted:
                task.cancel(*self._aborted[signal])

    def _do_new_signal(self, ref: str) -> None:
        self._signals[ref] = []

    def _do_abort_signal(self, ref: str, **reason: Any) -> None:
        cancel = self._aborted[ref] = (to_python(reason["reason"]),) if "reason" in reason else ()
        for request in self._signals[ref]:
            self._waiting[request].cancel(*cancel)
            if request in self.anonymous:
                # In JavaScript the signal goes on to the channel. Here the request is over, and the program says so.
                self.spawn(self.anonymous[request].abort(*cancel))

    def _do_settle(self, ref: str, **result: Any) -> None:
        future = self._deferred.get(ref)
        if future is None:
            return  # its handler did not run
        if "resolve" in result:
            future.set_result(to_python(result["resolve"]))
        else:
            future.set_exception(raised_by(result["reject"], with_props=self.errors_with_props))
            future.exception()  # a handler that was cancelled may have left

    def _do_release(self, gate: str) -> None:
        self.gate(gate).release()

    # ------------------------------------------------------------ ending

    def _do_close_channel(self, channel: ChannelName, reason: Any = None) -> None:
        closing = self._find(channel)
        if isinstance(closing, AnonymousChannel):
            closing.close(to_python(reason))
        elif isinstance(closing, Channel) and not closing.closed:
            closing.close(to_python(reason))
            self.log("channel_closed", channel=channel, reason=observed(closing.close_reason))

    def _do_abort_channel(self, channel: ChannelName, reason: Any = None) -> None:
        closing = self._find(channel)
        if isinstance(closing, AnonymousChannel):
            self.spawn(closing.abort(to_python(reason)))
        else:  # of a named channel: nothing travels
            self._do_close_channel(channel, reason)

    def _do_abort(self, error: Any = None) -> None:
        # A peer has no abort(): each waiting caller is cancelled.
        reason = to_python(error)
        for task in self._requests:
            task.cancel(*(() if reason is None else (reason,)))

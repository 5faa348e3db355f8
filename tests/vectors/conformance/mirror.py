"""A Python peer in the place of the recorded JavaScript one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from wsrpc import Channel, CloseInfo, JsonCodec, Limits, Peer, Transport
from wsrpc._lifecycle import Closers
from wsrpc._settings import Settings
from wsrpc.testing import Clock

from .handlers import make_handler, make_middleware
from .sockets import PrefixCodec, Socket
from .values import MISUSE, misuse, observed, raised_by, to_python

OpenSocket = Callable[[str], Transport]

TURNS = 25
"""Turns of the event loop after which nothing is left to do: nothing here takes more than a few."""


async def idle() -> None:
    """Let the event loop run until all that was caused has happened; no time passes."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Mirror:
    """One peer, which does what the recorded program did. ``outcomes`` and ``sent`` collect what can be seen of it.

    ``connect`` gives the transport for a socket that opens, by the socket's name: ``s1`` is the first.
    """

    def __init__(self, create: dict[str, Any], *, dialer: bool = True, connect: OpenSocket | None = None) -> None:
        self.outcomes: list[dict[str, Any]] = []
        self.sent: list[tuple[str, str]] = []
        self.sockets: dict[str, Socket] = {}
        self.errors_with_props = create.get("error_to_json") == "message_and_props"
        self.clock = Clock()
        codec = PrefixCodec(create["codec"]["prefix"]) if "codec" in create else JsonCodec()
        timeout = create.get("request_timeout_ms")
        limits = Limits(timeout=None if timeout is None else timeout / 1000, undecodable=1000)
        settings = Settings(codec, limits, expose_errors=True)
        self.peer = Peer(settings, dialer=dialer, loop=self.clock, keeps_offline=True)
        self.peer._on_lost = self._stay
        self._connect: OpenSocket = connect or self._open_socket
        self._socket_count = 0
        self._channels: dict[str, Channel] = {}
        self._handlers: dict[tuple[str | None, str], tuple[str, bool]] = {}
        self._signals: dict[str, list[asyncio.Task[Any]]] = {}
        self._aborted: dict[str, tuple[Any, ...]] = {}
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._deferred: dict[str, asyncio.Future[Any]] = {}
        self._requests: dict[str, asyncio.Task[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over = False
        self._new_socket(create["socket"])

    # ------------------------------------------------------------ what handlers need

    def log(self, kind: str, **fields: Any) -> None:
        if not self._over:
            self.outcomes.append({"type": kind, **fields})

    def gate(self, name: str) -> asyncio.Semaphore:
        return self._gates.setdefault(name, asyncio.Semaphore(0))

    def deferred(self, ref: str) -> asyncio.Future[Any]:
        future = self._deferred[ref] = asyncio.get_running_loop().create_future()
        return future

    async def perform(self, operation: dict[str, Any]) -> None:
        """An operation inside a handler; it has taken effect before the handler goes on."""
        self.do(operation)
        await asyncio.sleep(0)

    # ------------------------------------------------------------ sockets

    def _new_socket(self, state: str) -> None:
        if state == "none":
            return
        self._socket_count += 1
        if state == "open":
            self._bind()

    def _bind(self, failing_sends: int = 0) -> None:
        transport = self._connect(f"s{self._socket_count}")
        if isinstance(transport, Socket):
            transport.failing_sends = failing_sends
        self.peer.bind(transport)

    def _open_socket(self, name: str) -> Transport:
        socket = self.sockets[name] = Socket(name, lambda *sent: self.sent.append(sent), self._closing)
        return socket

    def _closing(self, code: int, reason: str) -> None:
        self.log("socket_close_called", args=[code, reason])

    @property
    def current(self) -> Socket:
        return self.sockets[f"s{self._socket_count}"]

    def _stay(self, info: CloseInfo) -> CloseInfo:
        # As a client's peer: what was accepted without a connection waits for the next one.
        return msgspec.structs.replace(info, will_reconnect=True)

    def feed(self, socket: str | None, *messages: str | bytes) -> None:
        """Let messages arrive in one read."""
        transport = self.current if socket is None else self.sockets[socket]
        if transport.closed is None:
            transport.feed(*messages)

    # ------------------------------------------------------------ operations

    def do(self, operation: dict[str, Any]) -> None:
        """Do what the recorded program did; what it causes shows when the event loop has run."""
        fields = {key: value for key, value in operation.items() if key != "op"}
        try:
            getattr(self, f"_do_{operation['op']}")(**fields)
        except MISUSE as exc:
            self.log("threw", op=operation["op"], error=misuse(exc))

    def _caller(self, channel: str | None) -> Peer | Channel:
        if channel is None:
            return self.peer
        if channel not in self._channels:
            self._channels[channel] = self.peer.of(channel)
        return self._channels[channel]

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        return task

    def _do_socket_open(self, fail_sends: int = 0) -> None:
        self._bind(fail_sends)

    def _do_socket_close(self, code: int = 1005, reason: str = "") -> None:
        self.current.end(code, reason)

    def _do_socket_state(self, state: str) -> None:
        assert state == "closing", state
        self.current.is_closing = True

    def _do_bind(self, socket: str) -> None:
        self._new_socket(socket)

    def _do_bind_invalid(self, value: Any) -> None:
        try:
            self.peer.bind(value)
        except (AttributeError, TypeError):
            self.log("threw", op="bind_invalid", error="TypeError")

    def _do_on(self, channel: str | None, event: str, handler: dict[str, Any]) -> None:
        self._handlers[channel, event] = handler["id"], False
        self._caller(channel).on(event, make_handler(handler, self))

    def _do_once(self, channel: str | None, event: str, handler: dict[str, Any]) -> None:
        self._handlers[channel, event] = handler["id"], True
        self._caller(channel).once(event, make_handler(handler, self))

    def _do_off(self, channel: str | None, event: str, handler: str) -> None:
        registered, once = self._handlers.get((channel, event), (None, False))
        if registered == handler:
            caller = self._caller(channel)
            (caller.once if once else caller.on)(event, None)

    def _do_on_local(self, event: str, **_: Any) -> None:
        self.peer.on(event, lambda: self.log("local_event", event=event))

    def _do_of(self, channel: str) -> None:
        if channel in self._channels and self._channels[channel].closed:
            del self._channels[channel]
        self._caller(channel)

    def _do_of_invalid(self, value: Any) -> None:
        self.peer.of(to_python(value))

    def _do_use(self, middleware: dict[str, Any], channel: str | None = None) -> None:
        self._caller(channel).use(make_middleware(middleware, self))

    def _do_emit(self, channel: Any, event: str, args: list[Any]) -> None:
        if not isinstance(channel, dict):  # else a channel that JavaScript got for a null; here there is none
            self._spawn(self._emit(channel, event, args))

    async def _emit(self, channel: str | None, event: str, args: list[Any]) -> None:
        try:
            await self._caller(channel).emit(event, *to_python(args))
        except Exception as exc:
            self.log("threw", op="emit", error=misuse(exc))

    def _do_request(
        self,
        channel: Any,
        event: str,
        args: list[Any],
        ref: str,
        timeout_ms: int | None = None,
        signal: str | None = None,
    ) -> None:
        if isinstance(channel, dict):
            return
        limit: Any = msgspec.UNSET
        if timeout_ms is not None:
            limit = timeout_ms / 1000 or None
        task = self._spawn(self._caller(channel).request(event, *to_python(args), timeout=limit))
        self._requests[ref] = task
        task.add_done_callback(partial(self._settled, ref))
        if signal is not None:
            self._signals[signal].append(task)
            if signal in self._aborted:
                task.cancel(*self._aborted[signal])

    def _settled(self, ref: str, task: asyncio.Task[Any]) -> None:
        try:
            value = task.result()
        except MISUSE as exc:
            self.log("threw", op="request", error=misuse(exc))
        except (asyncio.CancelledError, Exception) as exc:
            self.log("rejected", ref=ref, error=observed(exc))
        else:
            self.log("resolved", ref=ref, value=observed(value))

    def _do_new_signal(self, ref: str) -> None:
        self._signals[ref] = []

    def _do_abort_signal(self, ref: str, **reason: Any) -> None:
        cancel = self._aborted[ref] = (to_python(reason["reason"]),) if "reason" in reason else ()
        for task in self._signals[ref]:
            task.cancel(*cancel)

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

    def _do_close_channel(self, channel: str, reason: Any = None) -> None:
        closing = self._caller(channel)
        assert isinstance(closing, Channel)
        if not closing.closed:
            closing.close(to_python(reason))
            self.log("channel_closed", channel=channel, reason=observed(closing.close_reason))

    _do_abort_channel = _do_close_channel  # of a named channel: nothing travels

    def _do_abort(self, error: Any = None) -> None:
        # A peer has no abort(): whoever waits is cancelled, one by one.
        reason = to_python(error)
        for task in self._requests.values():
            task.cancel(*(() if reason is None else (reason,)))

    def _do_send_raw(self, data: str) -> None:
        if hasattr(self.peer, "send_raw"):
            self._spawn(self.peer.send_raw(data))

    def _do_disconnect(self, args: list[Any] | tuple[Any, ...] = ()) -> None:
        self._spawn(self.peer.close(*args))

    _do_close = _do_disconnect

    def _do_inspect(self) -> None:
        self.log(
            "state",
            pending_requests=self.peer.pending,
            active_requests=self.peer.active,
            is_connected=self.peer.connected,
        )

    def _do_wait(self, ms: int) -> None:
        self.clock.advance(ms / 1000)

    # ------------------------------------------------------------ the end

    def log_pending(self) -> None:
        """Say which requests are still open, as the recordings do at their end."""
        for ref, task in self._requests.items():
            if not task.done():
                self.log("pending", ref=ref)

    async def finish(self) -> None:
        """Leave nothing running."""
        self._over = True
        for future in self._deferred.values():
            future.cancel()
        for task in self._tasks:
            task.cancel()
        await self.peer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.peer._join(1.0, Closers())

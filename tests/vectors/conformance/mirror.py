"""A Python peer in the place of the recorded JavaScript one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from wsrpc import CloseInfo, ConnectionLost, Limits, Peer
from wsrpc._base.scheduler import LoopScheduler
from wsrpc._core.api.peer import core_of
from wsrpc._core.handlers.lifecycle import Closers
from wsrpc._core.session.peer_owner import PeerOwner
from wsrpc._core.wire.settings import Settings
from wsrpc.codecs import JsonCodec
from wsrpc.testing import ScriptedTransport

from .calling import Calling
from .iteration import Iterating


class Socket(ScriptedTransport):
    """A scripted transport that tells of each message sent and of `close`, and can be in trouble."""

    def __init__(self, name: str, sent: Callable[[str, str], None], closing: Callable[[int | None, str], None]) -> None:
        super().__init__()
        self.name = name
        self._tell_sent = sent
        self._tell_closing = closing
        self.failing_sends = 0
        self.is_closing = False

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self.closed is not None or self.is_closing:
            raise ConnectionLost(1006, "closing", "not_sent")
        if self.failing_sends:
            self.failing_sends -= 1
            asyncio.get_running_loop().call_soon(self.lose)  # a connection that fails is over
            raise ConnectionLost(1006, "failed", "not_sent")
        self._tell_sent(self.name, payload.decode() if text else repr(payload))

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        if self.closed is None:
            self._tell_closing(code, reason)
            await super().close(code, reason)

    def end(self, code: int, reason: str) -> None:
        """The other side has closed."""
        self.lose(CloseInfo(code, reason, was_clean=True))


class PrefixCodec(JsonCodec):
    """JSON after a prefix, as an application's own codec would be written."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix.encode()
        encode, decode = self.encode, self.decode

        def with_prefix(message: object) -> bytes:
            return self._prefix + encode(message)

        def without_prefix(payload: bytes) -> object:
            return decode(self._json(payload))

        self.encode = with_prefix
        self.decode = without_prefix  # type: ignore[assignment]

    def _json(self, payload: bytes) -> bytes:
        if not payload.startswith(self._prefix):
            raise ValueError("without the prefix")
        return bytes(payload[len(self._prefix) :])

    def claims(self, payload: bytes | bytearray, /) -> bool:  # type: ignore[override]
        return payload.startswith(self._prefix)

    def outline(self, payload: bytes | bytearray, /) -> None:  # type: ignore[override]
        return None


class Stays(PeerOwner):
    """As a client: what was accepted without a connection waits for the next one."""

    def will_reconnect(self) -> bool:
        return True


class Mirror(Calling, Iterating):
    """One peer, which does what the recorded program did. ``outcomes`` and ``sent`` collect what can be seen of it.

    ``opens`` are the requests that ask for a channel. The first socket that opens has the name ``s1``.
    """

    def __init__(self, create: dict[str, Any], *, opens: Collection[str] = ()) -> None:
        codec = PrefixCodec(create["codec"]["prefix"]) if "codec" in create else JsonCodec()
        timeout = create.get("request_timeout_ms")
        limits = Limits(request_timeout=None if timeout is None else timeout / 1000)
        settings = Settings(codec, limits, expose_errors=True)
        super().__init__(Peer(settings, dialer=True, loop=LoopScheduler(), keeps_offline=True, owner=Stays()), opens)
        self.sent: list[tuple[str, str]] = []
        self.sockets: dict[str, Socket] = {}
        self.errors_with_props = create.get("error_to_json") == "message_and_props"
        self._socket_count = 0
        self._new_socket(create["socket"])

    # ------------------------------------------------------------ sockets

    def _new_socket(self, state: str) -> None:
        if state == "none":
            return
        self._socket_count += 1
        if state == "open":
            self._bind()

    def _bind(self, failing_sends: int = 0) -> None:
        name = f"s{self._socket_count}"
        socket = self.sockets[name] = Socket(name, lambda *sent: self.sent.append(sent), self._closing)
        socket.failing_sends = failing_sends
        self.peer.bind(socket)

    def _closing(self, code: int | None, reason: str) -> None:
        self.log("socket_close_called", args=[code, reason])

    @property
    def current(self) -> Socket:
        return self.sockets[f"s{self._socket_count}"]

    def feed(self, socket: str | None, *messages: str | bytes) -> None:
        """Let messages arrive in one read."""
        transport = self.current if socket is None else self.sockets[socket]
        if transport.closed is None:
            transport.feed(*messages)

    def _do_socket_open(self, fail_sends: int = 0) -> None:
        self._bind(fail_sends)

    def _do_socket_close(self, code: int = 1005, reason: str = "") -> None:
        if (socket := self.sockets.get(f"s{self._socket_count}")) is not None:  # else it has never been open
            socket.end(code, reason)

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

    def _do_send_raw(self, data: str) -> None:
        """Do nothing: a peer sends messages of the protocol only."""

    def _do_disconnect(self, args: list[Any] | tuple[Any, ...] = ()) -> None:
        self.spawn(self.peer.close(*args))

    _do_close = _do_disconnect

    def _do_inspect(self) -> None:
        self.log(
            "state",
            pending_requests=self.peer.pending,
            active_requests=self.peer.active,
            is_connected=self.peer.connected,
        )

    async def finish(self) -> None:
        """Leave nothing running."""
        await self.leave()
        await self.peer.close()
        await core_of(self.peer).join(1.0, Closers())

"""The sockets of a recorded session, as transports, and the codec that some of the sessions use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from wsrpc import CloseInfo, ConnectionLost
from wsrpc.codecs import JsonCodec
from wsrpc.testing import ScriptedTransport


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

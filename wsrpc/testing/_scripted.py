"""A transport whose remote peer is a script."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from .._base.closing import CloseCode, CloseInfo, check_close
from ..errors import ConnectionLost
from ..transport import ConnectionInfo, Receiver


class ScriptedTransport:
    """Transport for testing a single peer. The test acts as the remote peer.

    `feed` delivers messages to the peer, and `expect` asserts which messages the peer sent. Everything happens inside
    these two methods, so a test can drive a peer without running the event loop.
    """

    def __init__(self, info: ConnectionInfo | None = None) -> None:
        self.info = info or ConnectionInfo()
        self.unsent = 0
        self.largest = 2**53
        self.receiving = True
        """Whether the peer is receiving, which means that it has not called `pause_receiving`."""
        self.closed: CloseInfo | None = None
        self._receiver: Receiver | None = None
        self._sent: deque[tuple[bytes, bool]] = deque()
        self._pieces: list[bytes] = []

    # ------------------------------------------------------------ the contract

    def start(self, receiver: Receiver, /) -> None:
        self._receiver = receiver
        if self.closed is not None:
            receiver.connection_lost(self.closed)

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self.closed is not None:
            raise ConnectionLost(self.closed.code, self.closed.reason, "not_sent")
        self._sent.append((payload, text))

    def flush(self) -> None:
        """Do nothing, because `pop_sent` returns messages as soon as they are sent."""

    async def drain(self) -> None:
        return None

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        self.lose(CloseInfo(check_close(code, reason), reason, was_clean=True))

    def abort(self) -> None:
        self.lose(CloseInfo(CloseCode.ABNORMAL, "aborted"))

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        self._pieces.append(payload)
        if last:
            whole = b"".join(self._pieces)
            self._pieces.clear()
            self.send(whole, text)

    def pause_receiving(self) -> None:
        self.receiving = False

    def resume_receiving(self) -> None:
        self.receiving = True

    def __repr__(self) -> str:
        state = "open" if self.closed is None else f"closed {self.closed.code}"
        return f"<ScriptedTransport {state} {len(self._sent)} sent>"

    # ------------------------------------------------------------ the script

    def feed(self, *messages: Any) -> None:
        """Deliver messages to the peer in one read.

        Strings and bytes are delivered unchanged. Any other value is encoded as JSON.
        """
        assert self._receiver is not None, "no peer is bound to this transport"
        for message in messages:
            if isinstance(message, bytes):
                self._receiver.receive(message, False)
            else:
                text = message if isinstance(message, str) else json.dumps(message)
                self._receiver.receive(text.encode("utf-8", "surrogatepass"), True)
        self._receiver.read_ended()

    def pop_sent(self) -> list[Any]:
        """Return the messages that were sent since the last call.

        Text messages are decoded from JSON. Binary messages are returned as bytes.
        """
        taken = [json.loads(payload) if text else payload for payload, text in self._sent]
        self._sent.clear()
        return taken

    def expect(self, *messages: Any) -> None:
        """Assert that exactly ``messages`` were sent since the last call, in this order."""
        sent = self.pop_sent()
        if sent != list(messages):
            raise AssertionError(f"expected {list(messages)!r} to be sent, got {sent!r}")

    def pause(self) -> None:
        """Tell the peer that its unsent bytes exceed the high-water mark."""
        assert self._receiver is not None
        self._receiver.pause_sending()

    def resume(self) -> None:
        """Tell the peer that the connection has room for more bytes again."""
        assert self._receiver is not None
        self._receiver.resume_sending()

    def lose(self, info: CloseInfo | None = None) -> None:
        """End the connection. By default, it ends without a Close frame."""
        if self.closed is None:
            self.closed = info or CloseInfo(CloseCode.ABNORMAL, "dropped")
            if self._receiver is not None:
                self._receiver.connection_lost(self.closed)

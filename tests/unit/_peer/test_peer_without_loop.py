"""A peer is synchronous inside: a script can drive it where no event loop runs at all."""

from __future__ import annotations

from typing import Any

import pytest

from wsrpc import CloseInfo, ConnectionLost, Limits
from wsrpc._api.peer import Peer
from wsrpc._protocol.settings import Settings
from wsrpc.codecs import JsonCodec
from wsrpc.testing import Clock, ScriptedTransport


def test_a_transcript_without_an_event_loop() -> None:
    peer = Peer(Settings(JsonCodec(), Limits()), dialer=False, loop=Clock())
    transport = ScriptedTransport()
    told: list[Any] = []

    @peer.on("add")
    def add(a: int, b: int) -> int:
        return a + b

    peer.on("open", lambda: told.append("open"))
    peer.on("close", lambda _, info: told.append(info))
    peer.bind(transport)
    transport.feed({"i": 1, "a": ["add", 2, 3]}, {"i": 2, "a": ["nobody"]}, {"i": 3, "x": "too late"})
    peer.emit_nowait("hello", 1)
    transport.expect(
        {"i": 1, "d": 5},
        {"i": 2, "e": {"message": "No event listener for 'nobody'", "code": "wsrpc.unknown_event"}, "_": 1},
        {"a": ["hello", 1]},
    )
    assert dict(peer.ignored) == {"cancellation of no request": 1}
    transport.lose()
    with pytest.raises(ConnectionLost):
        peer.emit_nowait("hello", 2)
    assert told == ["open", CloseInfo(1006, "dropped")]

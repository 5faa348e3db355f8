"""A peer is synchronous inside: a script can drive it where no event loop runs at all."""

from __future__ import annotations

from typing import Any

import pytest
from core_driver import Driven

from wsrpc import CloseInfo, ConnectionLost


def test_a_transcript_without_an_event_loop() -> None:
    d = Driven(bind=False)
    told: list[Any] = []
    d.peer.on("add", lambda a, b: a + b)
    d.peer.on("open", lambda: told.append("open"))
    d.peer.on("close", lambda _, info: told.append(info))
    d.peer.bind(d.transport)
    d.feed({"i": 1, "a": ["add", 2, 3]}, {"i": 2, "a": ["nobody"]}, {"i": 3, "x": "too late"})
    d.peer.emit_nowait("hello", 1)
    unknown = {"message": "No event listener for 'nobody'", "code": "wsrpc.unknown_event"}
    d.expect({"i": 1, "d": 5}, {"i": 2, "e": unknown, "_": 1}, {"a": ["hello", 1]})
    assert d.ignored == {"cancellation of no request": 1}
    d.transport.lose()
    with pytest.raises(ConnectionLost):
        d.peer.emit_nowait("hello", 2)
    assert told == ["open", CloseInfo(1006, "dropped")]

"""`Context`: what a handler can ask about its call."""

from __future__ import annotations

from core_driver import Driven

from wsrpc import Context, Peer
from wsrpc.types import Message


async def test_a_context_tells_about_its_call() -> None:
    d = Driven()
    d.peer.state["user"] = "ada"
    seen: list[Context] = []

    def handler(ctx: Context, peer: Peer, x: int) -> None:
        assert peer is ctx.peer is d.peer
        seen.append(ctx)

    d.peer.of("room").on("e", handler)
    d.peer.on("e", handler)
    await d.fed({"i": 7, "c": "room", "a": ["e", 5]}, {"a": ["e", 6]})
    first, second = seen
    assert (first.event, first.id, first.channel_name, first.args) == ("e", 7, "room", (5,))
    assert (second.event, second.id, second.channel_name, second.args) == ("e", None, None, (6,))
    assert first.cancel_reason is None and first.message is None
    assert first.state["user"] == "ada" and d.peer.state.get("user") == "ada" and d.peer.state.get("x", 1) == 1
    assert repr(first) == f"<Context room:e #7 of {d.peer!r}>"
    observed: list[Message] = []
    d.peer.on("message", lambda peer, message: observed.append(message))
    await d.fed({"a": ["e", 7]})
    assert seen[2].message is observed[0]

"""A client whose credentials have expired comes back to its session with fresh ones."""

from __future__ import annotations

import time

import pytest
from leftovers import turns_until
from session_story import story

from wsrpc import Handshake, Server


async def test_a_client_comes_back_with_fresh_credentials_and_its_session_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, tokens, now = Server(), list[str](), [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        token = handshake.bearer_token
        assert token is not None
        tokens.append(token)
        handshake.expires = now[0] + (1.0 if len(tokens) == 1 else 3600.0)
        handshake.state.update({"token": token, f"had {token}": True})

    async with story(server=server, auth=lambda: f"{len(tokens)}") as s:
        peer, received = s.peer, s.client.events("n", returns=int)
        now[0] += 1.0
        s.clock.advance(1.0)
        await peer.emit("n", 1)
        assert await anext(received) == 1
        await turns_until(lambda: s.back)
        assert s.back[0].resumed and tokens == ["0", "1"] and server.peers == (peer,)
        assert dict(peer.state) == {"token": "1", "had 0": True, "had 1": True}

"""A client whose credentials have expired comes back to its session with fresh ones."""

from __future__ import annotations

import time

from leftovers import turns_until
from session_story import story

from wsrpc import Handshake, Server
from wsrpc.testing import Clock


async def test_a_client_comes_back_with_fresh_credentials_and_its_session_goes_on() -> None:
    """Only the system's clock counted, which a test cannot advance."""
    server, tokens = Server(), list[str]()

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        token = handshake.bearer_token
        assert token is not None
        tokens.append(token)
        handshake.expires = time.time() + 30.0
        handshake.state.update({"token": token, f"had {token}": True})

    async with story(server=server, clock=Clock(), auth=lambda: f"{len(tokens)}") as s:
        peer, received = s.peer, s.client.events("n", returns=int)
        s.clock.advance(29.0)
        await s.settled()
        assert s.client.state == "connected"
        s.clock.advance(1.0)
        await peer.emit("n", 1)
        assert await anext(received) == 1
        await turns_until(lambda: s.back)
        assert s.back[0].resumed and tokens == ["0", "1"] and server.peers == (peer,)
        assert dict(peer.state) == {"token": "1", "had 0": True, "had 1": True}

"""A client whose credentials have expired comes back to its session with fresh ones."""

from __future__ import annotations

import time

from leftovers import turns_until

from wsrpc import Client, Handshake, Reconnect, Server
from wsrpc.testing import Clock, Line

AT_ONCE = Reconnect(initial=0.001, max=0.001)


async def test_a_client_comes_back_with_fresh_credentials_and_its_session_goes_on() -> None:
    server, clock, tokens = Server(), Clock(), list[str]()
    line = Line(server, clock=clock)

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        tokens.append(handshake.query["token"])
        handshake.expires = time.time() + 3600 * (len(tokens) > 1)

    async with Client(lambda: f"ws://server/?token={len(tokens)}", dial=line.dial, reconnect=AT_ONCE) as client:
        [peer] = server.peers
        heard = client.events("n", returns=int)
        clock.advance(0)
        await peer.emit("n", 1)
        assert await anext(heard) == 1
        await turns_until(lambda: client.state == "connected")
        assert tokens == ["0", "1"] and server.peers == (peer,)
    await server.close()

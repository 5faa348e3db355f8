"""The hook for types and ``lax`` of a server hold for everything that its peers receive."""

from __future__ import annotations

from typing import Any

import pytest

from wsrpc import BadResult, Client, Server
from wsrpc.testing import connect


class Odd:
    """A type that only a hook can make."""

    def __init__(self, number: int) -> None:
        self.number = number


def doubled(odd: Odd) -> int:
    return 2 * odd.number


@pytest.mark.parametrize("lax", [True, False])
async def test_they_hold_for_answers_and_for_handlers_of_one_peer(lax: bool) -> None:
    server, client = Server(lax=lax, dec_hook=lambda type_, value: type_(value)), Client()
    client.on("number", lambda: 7)
    client.on("text", lambda: "7")
    async with connect(server, client=client):
        [peer] = server.peers
        answer: Any = await peer.request("number", returns=Odd)
        peer.on("double", doubled)
        assert (answer.number, await client.request("double", 4)) == (7, 8)
        if lax:
            assert await peer.request("text", returns=int) == 7
        else:
            with pytest.raises(BadResult):
                await peer.request("text", returns=int)

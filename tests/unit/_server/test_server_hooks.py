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


def odd_hook(type_: type, value: Any) -> Any:
    assert type_ is Odd
    return Odd(value)


async def test_the_hook_holds_for_answers_and_for_handlers_of_one_peer() -> None:
    server, client = Server(dec_hook=odd_hook), Client()
    client.on("number", lambda: 7)
    async with connect(server, client=client):
        [peer] = server.peers
        assert (await peer.request("number", returns=Odd)).number == 7
        peer.on("double", doubled)
        assert await client.request("double", 4) == 8


def doubled(odd: Odd) -> int:
    return 2 * odd.number


async def test_lax_holds_for_answers() -> None:
    for lax in (True, False):
        server, client = Server(lax=lax), Client()
        client.on("number", lambda: "7")
        async with connect(server, client=client):
            [peer] = server.peers
            if lax:
                assert await peer.request("number", returns=int) == 7
            else:
                with pytest.raises(BadResult):
                    await peer.request("number", returns=int)

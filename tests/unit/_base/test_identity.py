"""Who a peer is: ids, state, principal, and finding one again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Handshake, Key, Peer, Server
from wsrpc.testing import connect
from wsrpc.types import PeerState

pytestmark = pytest.mark.usefixtures("nothing_left")

NAME = Key[str]("name")
VISITS = Key[int]("visits")


# ---------------------------------------------------------------- ids


async def test_a_push_to_one_client_by_its_id() -> None:
    """C6."""
    server = Server()

    @server.on("my id")
    def my_id(peer: Peer) -> str:
        return peer.id

    seen: list[Peer | None] = []
    server.on("open", lambda peer: seen.append(server.peer(peer.id)))
    server.on("close", lambda peer, info: seen.append(server.peer(peer.id)))
    async with connect(server), connect(server) as bob:
        bob.on("age", lambda: 42)
        peer = server.peer(await bob.request("my id", returns=str))
        assert peer is not None and await peer.request("age") == 42
        assert seen == list(server.peers) and seen[1] is peer
        assert server.peer(bob.peer.id) is None  # that is the client's own name for it
    assert server.peer(peer.id) is None and seen[2:] == [None, None]


# ---------------------------------------------------------------- state


async def test_a_state_of_ones_own_is_taken_over() -> None:
    server = Server()
    given: Any = {"age": 36, NAME: "ada"}

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.state = given

    async with connect(server):
        [peer] = server.peers
        peer.state[NAME] = "bob"
        assert list(peer.state.items()) == [("age", 36), ("name", "bob")]
        assert given == {"age": 36, "name": "ada"}


def test_a_key_stands_for_its_name() -> None:
    assert Key[int]("visits") == VISITS == Key[str]("visits") == "visits" and NAME not in (VISITS, 5)
    with pytest.raises(TypeError, match="takes a name, as text"):
        Key[int](5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    state = PeerState()
    state[VISITS] = 1
    assert state.setdefault(VISITS, 7) == 1 and state.setdefault(NAME, "ada") == state["name"] == "ada"
    assert VISITS in state and "visits" in state
    assert json.loads(json.dumps(state)) == state == {"visits": 1, "name": "ada"}
    assert state.pop(VISITS) == 1
    del state[NAME]
    assert NAME not in state


# ---------------------------------------------------------------- what the contract does not cover

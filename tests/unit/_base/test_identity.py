"""Who a peer is: ids, state, principal, and finding one again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Context, Handshake, Key, Peer, Server
from wsrpc.testing import connect
from wsrpc.types import PeerState

pytestmark = pytest.mark.usefixtures("nothing_left")

NAME = Key[str]("name")
VISITS = Key[int]("visits")


# ---------------------------------------------------------------- ids


async def test_open_gets_the_id_and_the_token() -> None:
    """C3: what a server knows of a client from its first moment on."""
    server = Server()
    told: list[tuple[str, object]] = []

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.state["token"] = handshake.bearer_token

    @server.on("open")
    def opened(peer: Peer) -> None:
        told.append((peer.id, peer.state["token"]))

    async with server.listen() as listener:
        ada = Client(listener.url, auth="ada", headers={"authorization": "Basic x"}, proxy=None)
        async with ada, Client(listener.url, auth="bob", proxy=None):
            assert told == [(peer.id, peer.state["token"]) for peer in server.peers]
    assert {token for _, token in told} == {"ada", "bob"}
    assert len({id for id, _ in told}) == 2


async def test_a_push_to_one_client_by_its_id() -> None:
    """C6."""
    server = Server()

    @server.on("my id")
    def my_id(peer: Peer) -> str:
        return peer.id

    seen: list[Peer | None] = []
    server.on("open", lambda peer: seen.append(server.peer(peer.id)))
    server.on("close", lambda peer, info: seen.append(server.peer(peer.id)))
    async with connect(server) as ada, connect(server) as bob:
        got: dict[str, list[str]] = {"ada": [], "bob": []}
        ada.on("news", got["ada"].append)
        bob.on("news", got["bob"].append)
        bob.on("age", lambda: 42)
        peer = server.peer(await bob.request("my id", returns=str))
        assert peer is not None
        await peer.emit("news", "for bob")
        assert await peer.request("age") == 42
        assert got == {"ada": [], "bob": ["for bob"]}
        assert seen == list(server.peers) and seen[1] is peer
        assert server.peer(bob.peer.id) is None  # that is the client's own name for it
    assert server.peer(peer.id) is None and seen[2:] == [None, None]


# ---------------------------------------------------------------- state


async def test_handlers_see_what_on_handshake_left() -> None:
    server = Server()

    @server.on_handshake
    async def gate(handshake: Handshake) -> None:
        await asyncio.sleep(0)
        handshake.state[NAME] = handshake.query["name"]
        handshake.principal = ("user", handshake.query["name"])

    @server.on("who")
    def who(ctx: Context, peer: Peer) -> list[Any]:
        assert ctx.state is peer.state
        return [
            peer.state.get(NAME),
            peer.state.get("name"),
            peer.state.get("nothing"),
            peer.state.get("nothing", 5),
            str(peer.principal),
        ]

    async with connect(server, path="/?name=ada") as client:
        assert await client.request("who") == ["ada", "ada", None, 5, "('user', 'ada')"]


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


async def test_the_library_s_own_connection_is_at_hand() -> None:
    """E8."""
    server = Server()
    async with server.listen() as listener:
        async with Client(listener.url, proxy=None) as client:
            (peer,) = server.peers
            for side in (peer, client.peer):
                assert side.info.underlying.transport.get_extra_info("socket") is not None
            assert peer.info.local == ("127.0.0.1", listener.port)

"""What operators do with a running server, by requests on the channel "wsrpc". Others learn nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from core_driver import Blocked
from waiting import until

from wsrpc import Client, Handshake, Peer, RemoteError, RpcError, Server, UnknownEvent
from wsrpc.testing import connect

REQUESTS: dict[str, tuple[Any, ...]] = {
    "peers": (),
    "stats": (),
    "rebalance": (1, 0),
    "kick": ("ada",),
    "call": ("ada", None, "whoami", []),
}


@asynccontextmanager
async def serving(**options: Any) -> AsyncGenerator[tuple[Server, Client, Client]]:
    """A server with an operator and with Ada."""
    server = Server(**options)

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.address = handshake.query.get("who")

    async with connect(server) as operator, connect(server, path="/?who=ada") as ada:
        ada.on("whoami", lambda: "ada")
        yield server, operator, ada


async def answer(client: Client, action: str, *args: Any) -> Any:
    channel = client.of("wsrpc")
    if action in ("kick", "call"):
        return await channel.request(action, *args)
    async with channel.stream(action, *args) as rows:
        return [row async for row in rows]


async def refusal(client: Client, action: str, *args: Any) -> tuple[str, object, object]:
    with pytest.raises(RemoteError) as caught:
        await answer(client, action, *args)
    return caught.value.message, caught.value.code, caught.value.data


async def test_a_peer_is_named_by_its_address_or_its_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    async with serving(admin=lambda peer, action: True) as (server, operator, ada):
        [mine, hers] = server.peers
        for named in ("ada", hers.id):
            assert await answer(operator, "call", named, None, "whoami", []) == "ada"
        async with connect(server, path=f"/?who={mine.id}") as taken, connect(server, path="/?who=ada") as second:
            taken.on("whoami", lambda: "the address counts")
            second.on("whoami", lambda: "the latest one")
            assert await answer(operator, "call", mine.id, None, "whoami", []) == "the address counts"
            assert await answer(operator, "call", "ada", None, "whoami", []) == "the latest one"
            assert await answer(operator, "kick", "ada", 1008, "banned") == 2
            assert (ada.state, second.state) == ("closed", "closed") and len(server.peers) == 2
        who = f"the operator {mine.id} at an unknown address"
        lines = [record.getMessage() for record in caplog.records if "operator" in record.getMessage()]
        assert lines[-1] == f"{who} closes the peer 'ada': 1008 'banned'"
        assert lines[0] == f"{who} requests 'whoami' of the peer 'ada'"


async def test_the_response_of_a_peer_is_passed_on_as_it_is() -> None:
    async with serving(admin=lambda peer, action: True) as (server, operator, ada):

        @ada.of("shop").on("buy")
        async def buy(item: str) -> None:
            raise RpcError("too late", code="late", data={"item": item})

        @ada.on("ticks")
        async def ticks() -> AsyncGenerator[int]:
            yield 1

        assert await refusal(operator, "call", "ada", "shop", "buy", ["tea"]) == ("too late", "late", {"item": "tea"})
        text, code, _ = await refusal(operator, "call", "ada", None, "ticks", [])
        assert "anonymous channel" in text and code == "wsrpc.node.UnexpectedChannel"
        for args, said in (
            (("nobody", None, "whoami", []), "no node of the cluster has a peer with the address 'nobody'"),
            (("ada", None, "close", []), "'close' is reserved"),
            (("ada", "x" * 300, "a", []), "a name of more than 256 bytes"),
        ):
            assert said in (await refusal(operator, "call", *args))[0]
        assert "close code 3 may not be sent" in (await refusal(operator, "kick", "ada", 3))[0]
        [_, peer] = server.peers
        assert not peer.pending and not peer.anonymous_channels


async def test_a_request_ends_with_the_request_of_the_operator() -> None:
    work = Blocked()
    async with serving(admin=lambda peer, action: True) as (server, operator, ada):
        ada.on("hang", work)
        calling = asyncio.create_task(answer(operator, "call", "ada", None, "hang", []))
        await until(lambda: work.started)
        calling.cancel()
        await until(lambda: work.cancelled and not server.peers[0].active)


# ---------------------------------------------------------------- others


@pytest.mark.parametrize("action", REQUESTS)
async def test_each_action_is_decided_by_itself(action: str) -> None:
    asked: list[str] = []

    async def only(peer: Peer, asks: str) -> bool:
        asked.append(asks)
        return asks == action

    async with serving(admin=only) as (_, operator, _ada):
        for other, args in REQUESTS.items():
            if other != action:
                assert await refusal(operator, other, *args) == ("not allowed", "wsrpc.not_allowed", None)
        await answer(operator, action, *REQUESTS[action])
    assert sorted(asked) == sorted(REQUESTS)


async def test_who_is_refused_does_not_learn_which_peers_there_are() -> None:
    async with serving(admin=lambda peer, action: False) as (server, hostile, ada):
        for named in ("ada", server.peers[1].id, "nobody", "\2" + server.peers[1].id, ""):
            refused: list[tuple[Any, ...]] = [("kick", named), ("kick", named, 3), ("call", named, None, "close", [])]
            for args in refused:
                assert await refusal(hostile, *args) == ("not allowed", "wsrpc.not_allowed", None)
        assert ada.connected and server.stats().pending == 0


async def test_who_is_refused_is_logged_but_cannot_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    async with serving(admin=lambda peer, action: False) as (server, hostile, _ada):
        for _ in range(300):
            await refusal(hostile, "kick", "ada")
        id = server.peers[0].id
        refused = f"the peer {id} at an unknown address is not allowed to be an operator: kick is refused"
        lines = [record for record in caplog.records if record.getMessage() == refused]
        assert 100 <= len(lines) < 150
        assert {(line.levelname, vars(line)["peer"]) for line in lines} == {("INFO", id)}


async def test_without_a_function_there_are_no_operators() -> None:
    async with serving() as (_, client, _ada):
        with pytest.raises(UnknownEvent, match="Channel 'wsrpc' does not exist"):
            await answer(client, "peers")


async def test_the_list_holds_no_peer_that_has_ended() -> None:
    """A slow reader of a long list keeps nothing: the rows are made as they are read."""
    async with serving(admin=lambda peer, action: True) as (server, operator, _ada):
        others = [await connect(server).__aenter__() for _ in range(100)]
        async with operator.of("wsrpc").stream("peers") as rows:
            assert (await anext(rows))["id"] == server.peers[0].id
            gone = [peer.id for peer in server.peers[60:]]
            for each in others:
                await each.close()
            await until(lambda: len(server.peers) == 2)
            assert not {row["id"] async for row in rows} & set(gone)

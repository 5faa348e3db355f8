"""The commands for operators: `peers`, `stats`, `kick`, `rebalance`, `call --peer`, `waiting`, `submit`, `withdraw`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from command_process import prints, refusal, run
from core_driver import Blocked
from engine_servers import EngineServer, nats_server, redis_server
from waiting import until

from wsrpc import Client, Context, Handshake, HandshakeRejected, Overloaded, Peer, Quotas, Reconnect, RpcError, Server
from wsrpc._command import rebalancing
from wsrpc._command.command_errors import Failure
from wsrpc._server.operating.operations import DirectOperations, Row
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc_adapters.nats import NatsEngine
from wsrpc_adapters.redis import RedisEngine, RedisStore


@asynccontextmanager
async def operated(address: str = "ada", **options: Any) -> AsyncGenerator[tuple[Server, str, Client]]:
    """A server with a client that has an address; the server, its URL and the client."""
    server = Server(**options)

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.address = handshake.headers.get("x-who")

    async with server.listen() as listener, Client(listener.url, headers={"X-Who": address}) as client:

        @client.on("whoami")
        def whoami(times: int = 1) -> str:
            return address * times

        @client.of("shop").on("buy")
        def buy() -> None:
            raise RpcError("no money\n\x1b[31mleft", code="broke")

        @client.on("about")
        def about(ctx: Context) -> list[Any]:
            return [dict(ctx.metadata), ctx.remaining is not None and ctx.remaining < 20]

        @client.on("hang")
        async def hang() -> None:
            await asyncio.Event().wait()

        @client.on("ticks")
        async def ticks() -> AsyncIterator[int]:
            yield 1

        yield server, listener.url, client


PROCESS = f"{socket.gethostname()}:{os.getpid()}"


def everybody(peer: Peer, action: str) -> bool:
    return True


async def test_peers() -> None:
    async with operated(admin=everybody) as (server, url, client):
        server.on("old", lambda: None, deprecated="use 'new'")
        await client.request("old")
        [peer] = server.peers
        peer.principal = "ada-of-shop"
        titles, ada, command = (await prints("peers", url)).splitlines()
        host, port = peer.info.remote or ("", 0)
        cells = dict(zip(titles.split(), ada.split(), strict=True))
        assert (cells["ID"], cells["STATE"], cells["NODE"], cells["ROOMS"]) == (peer.id, "open", "-", "0")
        assert (cells["MISFITS"], cells["DEPRECATED"], cells["PRINCIPAL"]) == ("0", "1", "ada-of-shop")
        assert (cells["REMOTE"], cells["ADDRESS"]) == (f"{host}:{port}", "ada") and cells["AGE"][-1] in "sm"
        for title in ("STATE", "NODE", "REMOTE"):
            column = titles.index(title)
            assert ada[column - 1] == command[column - 1] == " " and ada[column] != " " != command[column]
        mine, _ = map(json.loads, (await prints("peers", url, "--json")).splitlines())
        assert mine["program"] is None
        assert (mine["id"], mine["address"]) == (peer.id, "ada")
        assert mine["messages_out"] >= 3  # one more acknowledges what came, if that takes longer than a second


async def test_statistics() -> None:
    async with operated(admin=everybody) as (_, url, _):
        lines = [line.split(maxsplit=1) for line in (await prints("stats", url)).splitlines()]
        shown = dict(lines)
        assert (shown["healthy"], shown["peers"], shown["refused"], shown["cluster"]) == ("yes", "2", "-", "-")
        assert shown["closed"] == "-" and shown["uptime"][-1] in "sm"
        assert json.loads(await prints("stats", url, "--json"))["closed"] == {"1000": 1}
        assert "closed                      1000: 2\n" in await prints("stats", url)


async def test_a_server_that_drains_says_so_once() -> None:
    """It accepts nobody, but another process of its cluster tells of it."""
    engine, blocked = MemoryEngine(), Blocked()
    async with (
        operated(admin=everybody, cluster=Cluster(engine)) as (server, url, client),
        operated("bob", admin=everybody, cluster=Cluster(engine)) as (_, other, _),
    ):
        server.on("wait", blocked)
        waiting = asyncio.create_task(client.request("wait"))
        await until(lambda: server.stats().active)
        closing = asyncio.create_task(server.close(drain_timeout=60))
        await until(lambda: server.stats().draining)
        said = await refusal(3, "stats", url)
        assert " refused the connection with HTTP 503: the server is closing" in said
        assert said.endswith(" (if it drains, ask another process of its cluster, or the URL of the engine)")
        assert "draining                    wait: handler (1), client (1)\n" in await prints("stats", other)
        rows = [json.loads(line) for line in (await prints("peers", other, "--json")).splitlines()]
        assert {"ada", "bob"} <= {row["address"] for row in rows}
        assert await prints("call", other, "whoami", "--peer", "ada") == '"ada"\n'
        blocked.go.set()
        await asyncio.gather(waiting, closing)


def refuse_bob(handshake: Handshake) -> None:
    if "user-agent" not in handshake.headers:  # not the command
        handshake.principal = "bob"
        handshake.reject(403)


async def test_statistics_by_principal() -> None:
    quotas = Quotas(by=lambda handshake: handshake.headers.get("x-who"), running=1)
    async with operated(admin=everybody, quotas=quotas) as (server, url, client):
        hung = asyncio.Event()

        @server.on("hang")
        async def hang() -> None:
            hung.set()
            await asyncio.Event().wait()

        @server.on("rare", rate=1)
        async def rare() -> None: ...

        server.peers[0].principal = "ada\n\x1b[2J"
        await client.request("rare")
        call = asyncio.create_task(client.request("hang"))
        await hung.wait()
        for event in ("hang", "hang", "rare"):
            with pytest.raises(Overloaded):
                await client.request(event)
        titles, *lines = (await prints("stats", url, "--by", "principal")).splitlines()
        shown = [dict(zip(titles.split(), line.split(), strict=True)) for line in lines]
        assert [(row["PEERS"], row["ABOVE-RATE"], row["ABOVE-QUOTA"], row["PRINCIPAL"]) for row in shown] == [
            ("1", "0", "3", r"ada\n\x1b[2J"),
            ("1", "0", "0", "-"),
        ]
        ada, _ = map(json.loads, (await prints("stats", url, "--by", "principal", "--json")).splitlines())
        assert (ada["principal"], ada["active"]) == ("ada\n\x1b[2J", 1)
        assert ada["refused"] == {"above the quota": 3}
        call.cancel()
        await client.close()
        await until(lambda: len(server.peers) == 0)
        server.on_handshake(refuse_bob)
        with pytest.raises(HandshakeRejected):
            await server.handshake(Handshake("/", {}))
        _, *lines = (await prints("stats", url, "--by", "principal")).splitlines()
        shown = [dict(zip(titles.split(), line.split(), strict=True)) for line in lines[-2:]]
        of_those_that_left = [(row["PEERS"], row["REFUSED"], row["ABOVE-QUOTA"], row["PRINCIPAL"]) for row in shown]
        assert of_those_that_left == [("0", "0", "3", r"ada\n\x1b[2J"), ("0", "1", "0", "bob")]


async def test_a_call_of_a_peer() -> None:
    async with operated(admin=everybody) as (server, url, _):
        assert await prints("call", url, "whoami", "2", "--peer", "ada") == '"adaada"\n'
        assert await prints("call", url, "whoami", "--peer", server.peers[0].id) == '"ada"\n'
        assert await prints("call", url, "about", "--peer", "ada") == "[{},false]\n"
        through = ("call", url, "about", "--peer", "ada", "-H", "tenant=a", "--timeout", "20")
        assert await prints(*through) == '[{"tenant":"a"},true]\n'
        rows = [
            (1, r"no money\n\x1b[31mleft [broke]", "buy --channel shop"),
            (1, "ticks responds with a stream, and --peer passes on only values", "ticks"),
            (1, "No event listener for 'none'", "none"),
            (1, 'whoami(): expected at most 1 argument, got 2, with the data {"expected":1,"got":2}', "whoami 1 2"),
            (2, "--peer passes on no uploads: give the items as an argument", "whoami -"),
            (5, "no response to 'hang' within 0.5 s", "hang --timeout 0.5"),
        ]
        for code, said, words in rows:
            assert await refusal(code, "call", url, *words.split(), "--peer", "ada") == said
        said = "no peer has the address or the id 'nobody'"
        assert await refusal(3, "call", url, "whoami", "--peer", "nobody") == said


async def test_a_kick() -> None:
    async with operated(admin=everybody) as (server, url, client):
        assert await refusal(3, "kick", url, "nobody") == "no peer has the address or the id 'nobody'"
        assert (await refusal(2, "kick", url, "ada", "--code", "3")).startswith("close code 3 may not be sent")
        async with Client(url, headers={"X-Who": "ada"}) as second:
            assert await prints("kick", url, "ada", "--code", "1008", "--reason", "banned") == "closed 2 peers\n"
            assert second.state == "closed"
        assert client.state == "closed" and server.stats().closed[1008] == 2


WORDS = (["peers"], ["stats"], ["rebalance"], ["kick", "ada"], ["kick", "nobody"], ["call", "whoami", "--peer", "ada"])


@pytest.mark.parametrize("words", WORDS)
async def test_who_is_not_allowed_is_told_what_to_do(words: list[str]) -> None:
    action, *rest = words
    async with operated() as (_, url, _), operated(admin=lambda peer, asks: asks != action) as (_, other, _):
        url, other = url.rstrip("/"), other.rstrip("/")
        said = f"create it as Server(admin=allow), where allow(peer, {action!r}) returns whether a client may"
        assert await refusal(1, action, url, *rest) == f"{url} has no operators: {said}"
        said = f"its Server(admin=...) has to return True for this client and {action!r}"
        assert await refusal(1, action, other, *rest) == f"{other} does not allow this: {said}"


async def test_clients_move_until_the_servers_of_a_cluster_are_even(caplog: pytest.LogCaptureFixture) -> None:
    """The others of a server without a cluster are not known."""
    caplog.set_level(logging.INFO, "wsrpc")
    engine, urls = MemoryEngine(), list[str]()
    options: dict[str, Any] = {"admin": everybody, "cluster": Cluster(engine)}
    async with operated("ada", **options) as (first, url, ada), AsyncExitStack() as stack:
        await ada.close()
        urls.append(url)
        for _ in range(12):
            await stack.enter_async_context(Client(lambda: urls[0], reconnect=Reconnect(initial=0.001, max=0.001)))
        second, urls[0], _ = await stack.enter_async_context(operated("bob", **options | {"cluster": Cluster(engine)}))
        lines = (await prints("rebalance", url, "--rate", "4")).splitlines()
        node, other = (f"{server.cluster.nodes[0]} {PROCESS}" for server in (first, second))
        # The command itself is a client of the first server.
        assert lines[:2] == [f"{node:<16}  13 clients", f"{other:<16}  1 client"]
        assert lines[2:] == [f"{node:<16}  7 clients", f"{other:<16}  7 clients", "moved 6 clients"]
        assert (len(first.peers), len(second.peers)) == (6, 7)
        moves = "4 of 13 peers move to other processes, as an operator has asked"
        assert [text for text in caplog.messages if " peers move " in text] == [
            moves,
            moves.replace("4 of 13", "2 of 9"),
        ]
    async with operated(admin=everybody) as (_, url, _):
        assert await prints("rebalance", url) == f"{'-':<16}  2 clients\n" * 2 + "moved 0 clients\n"


@pytest.mark.parametrize(
    ("arrived", "rounds", "text"),
    [
        (1, 20, "moved 60 clients, but the servers are not even: the others are busy, or return to the same servers: "),
        (0, 5, "moved 15 clients, but none reaches 2, which has 1: see .* lists of URLs, such as "),
    ],
)
async def test_clients_that_do_not_move_are_given_up(
    arrived: int, rounds: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load balancer returns them, they are busy, or they do not know the new server."""
    asked = list[tuple[int, int]]()

    class Stuck(DirectOperations):
        async def rebalance(self, most: int, down_to: int) -> AsyncGenerator[Row]:
            asked.append((most, down_to))
            here = arrived * (len(asked) > 1)
            yield {"node": "1", "peers": 6 - here, "moved": most}
            yield {"node": "2", "peers": 1 + here, "moved": 0}

    monkeypatch.setattr(rebalancing, "ROUND_PAUSE", 0)
    with pytest.raises(Failure, match=text):
        await rebalancing.make_even(Stuck(), {"1": 6, "2": 1}, 3)
    assert asked == [(3, 3)] * rounds


async def test_what_a_server_makes_up() -> None:
    """Nothing moves the cursor, forges a line or ends the command with a traceback."""
    server = Server()
    rows: list[Any] = [{"id": "a\n\x1b[2J", "uptime": "x", "address": ["\u202e"], "node": {}}, {}]

    @server.of("wsrpc").on("peers")
    async def peers(most: int = 0, down_to: int = 0) -> AsyncIterator[Any]:
        for row in rows:
            yield row

    server.of("wsrpc").on("stats", peers)
    async with server.listen() as listener:
        out = await prints("peers", listener.url)
        assert len(out.splitlines()) == 3 and r"a\n\x1b[2J" in out and r"\u202e" in out
        assert "node                        -\n" in await prints("stats", listener.url)
        rows.append({"draining": {"slow\n: request": 1, "client": 2}})
        draining = r"draining                    slow\n: request (1), client (2)"
        assert draining in (await prints("stats", listener.url)).splitlines()
        assert len((await prints("stats", listener.url, "--by", "principal")).splitlines()) == 2
        rows[:] = [{"id": "1"}, {"node": "n\n1", "error": "not\nconnected"}]
        ended = await run("peers", listener.url)
        assert (ended.code, len(ended.out.splitlines())) == (1, 2)
        assert ended.err == r"wsrpc: not all processes have answered: n\n1 (not\nconnected)" + "\n"
        server.of("wsrpc").on("rebalance", peers)
        said = r"not all processes have answered: n\n1 (not\nconnected)"
        assert await refusal(1, "rebalance", listener.url) == said
        rows[:] = [{"id": "1", "state": "detached", "uptime": 0.0}, {"id": "2", "slow": True, "uptime": 200_000.0}]
        shown = [line.split()[:3] for line in (await prints("peers", listener.url)).splitlines()]
        assert shown[1:] == [["1", "detached", "-"], ["2", "slow", "2d"]]
        rows[:] = [{"node": "n\n2", "peers": "1"}]
        assert (
            await prints("rebalance", listener.url)
            == r"n\n2".ljust(16) + "  0 clients\n" + r"n\n2".ljust(16) + "  0 clients\nmoved 0 clients\n"
        )
        rows[:] = [5]
        assert "got `int`" in (await refusal(1, "peers", listener.url)).replace("expected `object`, ", "")


# ---------------------------------------------------------------- clusters


@pytest.mark.parametrize(("start", "make"), [(nats_server, NatsEngine), (redis_server, RedisEngine)])
async def test_a_cluster_by_the_url_of_its_engine(start: Callable[[], EngineServer], make: Any) -> None:
    engine = start()
    try:
        async with AsyncExitStack() as stack:
            for who in ("ada", "bob"):
                cluster = Cluster(make(engine.url), name="shop")
                await stack.enter_async_context(operated(who, cluster=cluster))
            through = (engine.url, "--cluster", "shop")
            rows = [json.loads(line) for line in (await prints("peers", *through, "--json")).splitlines()]
            assert sorted(row["address"] for row in rows) == ["ada", "bob"] and rows[0]["node"] != rows[1]["node"]
            assert (await prints("stats", *through)).count("peers                       1\n") == 2
            assert {row["process"] for row in rows} == {PROCESS}
            assert (await prints("peers", *through)).count(f"  {PROCESS}  ") == 2
            assert await prints("call", *through, "whoami", "--peer", "bob") == '"bob"\n'
            assert await prints("call", *through, "whoami", "--peer", rows[0]["id"]) == f'"{rows[0]["address"]}"\n'
            assert await prints("kick", *through, "ada", "--code", "1008") == "closed 1 peer\n"
            assert [json.loads(await prints("peers", *through, "--json"))["address"]] == ["bob"]
            said = "the cluster 'wsrpc' has no servers: name another one with --cluster NAME"
            # A token for servers is not sent to an engine, which would refuse it.
            assert await refusal(3, "peers", engine.url, env={"WSRPC_TOKEN": "of-servers"}) == said
    finally:
        engine.kill()


async def test_calls_that_wait_for_a_device() -> None:
    engine = redis_server()
    try:
        cluster = Cluster(RedisEngine(engine.url), name="shop")
        async with operated(admin=everybody, cluster=cluster, store=RedisStore(engine.url)) as (_, url, _):
            for through in ((engine.url, "--cluster", "shop"), (url,)):
                url, *options = through
                key = f"visit-{len(through)}"
                made = json.loads(await prints("submit", url, "lock", "unlock", "2", "--call", key, *options))
                assert made == {"key": key, "state": "waiting", "value": None, "error": None}
                await prints("submit", url, "lock", "open", "--channel", "doors", "--within", "60", *options)
                titles, row = (await prints("waiting", *through)).splitlines()
                assert titles.split() == ["CALLS", "OLDEST", "ADDRESS"] and row.split()[::2] == ["2", "lock"]
                titles, first, second = (await prints("waiting", url, "lock", *options)).splitlines()
                assert titles.split() == ["AGE", "LEFT", "STATE", "KEY", "EVENT"]
                assert first.split()[1:] == ["59m", "waiting", key, "unlock"]
                assert second.split()[2:3] + second.split()[4:] == ["waiting", "open", "--channel", "doors"]
                rows = [
                    json.loads(line) for line in (await prints("waiting", url, "lock", "--json", *options)).splitlines()
                ]
                assert rows[0]["args"] == [2] and rows[1]["until"] - rows[1]["since"] == pytest.approx(60)
                said = "the key belongs to a call with other arguments"
                assert said in await refusal(1, "submit", url, "lock", "unlock", "3", "--call", key, *options)
                said = "the call with the key nothing is unknown"
                assert (await run("withdraw", url, "lock", "unlock", "nothing", *options)).err == f"wsrpc: {said}\n"
                for call, event, channel in ((key, "unlock", ()), (rows[1]["key"], "open", ("--channel", "doors"))):
                    ended = json.loads(await prints("withdraw", url, "lock", event, call, *channel, *options))
                    assert ended["state"] == "withdrawn"
                assert await prints("waiting", *through) == ""
    finally:
        engine.kill()


async def test_an_engine_that_cannot_be_used() -> None:
    said = "the engine of the cluster is lost: not reached within 0.1 s: Error 111 connecting to 127.0.0.1:1"
    assert (await refusal(3, "peers", "redis://127.0.0.1:1", "--timeout", "0.1")).startswith(said)
    for engine, secret in (
        (nats_server("--auth", "secret"), "token"),
        (redis_server("--requirepass", "secret"), "password"),
    ):
        said = await refusal(3, "peers", engine.url, env={"WSRPC_ENGINE_TOKEN": "wrong"})
        assert said.startswith("the engine of the cluster refuses the user or the password: ")
        assert said.endswith(f" (the {secret} comes from the URL, --token or WSRPC_ENGINE_TOKEN)")
        said = "the cluster 'wsrpc' has no servers: name another one with --cluster NAME"
        assert await refusal(3, "peers", engine.url, env={"WSRPC_ENGINE_TOKEN": "secret"}) == said
        tokens = {"WSRPC_TOKEN": "of-servers", "WSRPC_ENGINE_TOKEN": "wrong"}
        assert await refusal(3, "peers", engine.url, "--token", "secret", env=tokens) == said
        engine.kill()
    said = "--header is for the URL of a server, not for that of an engine"
    assert await refusal(2, "kick", "nats://127.0.0.1:1", "ada", "--header", "A: b") == said

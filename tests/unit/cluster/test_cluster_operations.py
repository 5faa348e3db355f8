"""What operators do through one server of a cluster, with the peers of all."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from cluster_servers import Servers, servers

from wsrpc import Client, RemoteError


async def rows_of(operator: Client, what: str) -> list[dict[str, Any]]:
    async with operator.of("wsrpc").stream(what) as rows:
        return [row async for row in rows]


async def joined(made: Servers) -> tuple[Client, Client, Client]:
    """An operator at the first server; Ada and somebody without an address at the second one."""
    operator, ada, other = await made.join(0), await made.join(1, "ada"), await made.join(1)
    ada.on("whoami", lambda: "ada")
    other.on("whoami", lambda: "other")
    return operator, ada, other


async def test_one_server_answers_for_all() -> None:
    async with servers(3, admin=lambda peer, action: True) as made:
        operator, ada, other = await joined(made)
        nodes = [server.cluster.nodes[0] for server in made]
        rows = await rows_of(operator, "peers")
        assert [row["node"] for row in rows] == [nodes[0], nodes[1], nodes[1]]
        assert [row["address"] for row in rows] == [None, "ada", None]
        peers = {row["node"]: row["peers"] for row in await rows_of(operator, "stats")}
        assert peers == dict(zip(nodes, (1, 2, 0), strict=True))
        ask = operator.of("wsrpc").request
        here, there, id = (row["id"] for row in rows)
        operator.on("whoami", lambda: "operator")
        for named, who in (("ada", "ada"), (there, "ada"), (id, "other"), (here, "operator")):
            assert await ask("call", named, None, "whoami", []) == who
        with pytest.raises(RemoteError, match=r"no node of the cluster .*'nobody'"):
            await ask("call", "nobody", None, "whoami", [])
        for named, client in (("ada", ada), (id, other)):
            assert await ask("kick", named, 1008, "banned") == 1
            assert client.state == "closed"


async def test_processes_that_do_not_answer_are_named() -> None:
    async with servers(2, admin=lambda peer, action: True) as made:
        operator, _, _ = await joined(made)
        node = made[1].cluster.nodes[0]
        await made.engine_goes()
        mine, failed = await rows_of(operator, "peers")
        assert mine["id"] == made[0].peers[0].id
        lost = "the engine of the cluster is lost: not connected"
        assert failed == {"node": node, "process": f"{socket.gethostname()}:{os.getpid()}", "error": lost}
        with pytest.raises(RemoteError, match="the engine of the cluster is lost"):
            await operator.of("wsrpc").request("kick", "an id of somebody there")
        made.engine.down = False

"""What a process of a cluster logs of the others."""

from __future__ import annotations

import logging

import pytest
from cluster_servers import servers
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_processes_that_come_and_go_have_a_line_each_and_nothing_to_worry_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    async with servers(2) as cluster:
        one, other = (server.cluster.nodes[0] for server in cluster.all)
        await cluster[1].close()
        await turns_until(lambda: len(cluster[0].cluster.nodes) == 1)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert {line for line in lines if "engine" not in line[1]} == {
        ("INFO", f"node {one} of cluster 'shop' has met node {other}"),
        ("INFO", f"node {other} of cluster 'shop' has met node {one}"),
        ("INFO", f"node {one} of cluster 'shop': node {other} has left"),
    }

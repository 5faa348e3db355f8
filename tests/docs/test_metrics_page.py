"""docs/how-to/observability.md: the metrics of several workers."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from urllib.request import urlopen

from cluster_workers import environment, running
from pages import HOW_TO
from programs import free_port
from prometheus_client.parser import text_string_to_metric_families
from test_docs import program_of

from wsrpc import Client

PAGE = HOW_TO / "observability.md"


def scraped(port: int, **labels: str) -> dict[str, float]:
    """The values of one worker."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {each.name: each.value for family in families for each in family.samples if each.labels == labels}


async def test_each_worker_of_the_guide_serves_its_metrics_on_a_port_of_its_own(tmp_path: Path) -> None:
    program = program_of(PAGE, "app.py")
    first = free_port()
    ports = f"range({first}, {first + 2})"
    assert "range(9101, 9109)" in program
    program = program.replace("range(9101, 9109)", ports) + "\nimport os\nserver.on('pid', os.getpid)\n"
    (tmp_path / "app.py").write_text(program, "utf-8")
    options = ("--port", "0", "--workers", "2")
    async with running(tmp_path, "app:app", *options, env=environment("")) as workers:
        await workers.logged("Application startup complete", 2)
        url = f"ws://127.0.0.1:{await workers.port()}/ws"
        async with Client(url) as one:
            pid = await one.request("pid", returns=int)
            os.kill(pid, signal.SIGSTOP)  # so that the other one accepts
            try:
                async with Client(url) as other:
                    assert await other.request("pid") != pid
                    os.kill(pid, signal.SIGCONT)
                    for port in (first, first + 1):
                        values = await asyncio.to_thread(scraped, port)
                        assert (values["wsrpc_peers"], values["wsrpc_healthy"]) == (1, 1)
                        calls = await asyncio.to_thread(scraped, port, event="pid", outcome="ok")
                        assert calls["wsrpc_calls_total"] == 1
            finally:
                os.kill(pid, signal.SIGCONT)

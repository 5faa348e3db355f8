"""docs/how-to/observability.md: the metrics of several workers, and their log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from cluster_workers import environment, running
from pages import HOW_TO
from programs import free_port
from prometheus_client.parser import text_string_to_metric_families
from test_docs import blocks_of, program_of

from wsrpc import Client, HandshakeRejected

PAGE = HOW_TO / "observability.md"


def scraped(port: int, **labels: str) -> dict[str, float]:
    """The values of one worker."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {each.name: each.value for family in families for each in family.samples if each.labels == labels}


async def test_each_worker_of_the_guide_serves_its_metrics_on_a_port_of_its_own(tmp_path: Path) -> None:
    program = program_of(PAGE, "app.py")
    ports = free_port(), free_port()
    assert "range(9101, 9109)" in program
    program = program.replace("range(9101, 9109)", str(ports)) + "\nimport os\nserver.on('pid', os.getpid)\n"
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
                    for port in ports:
                        values = await asyncio.to_thread(scraped, port)
                        assert (values["wsrpc_peers"], values["wsrpc_healthy"]) == (1, 1)
                        calls = await asyncio.to_thread(scraped, port, event="pid", outcome="ok")
                        assert calls["wsrpc_calls_total"] == 1
            finally:
                os.kill(pid, signal.SIGCONT)


SERVED = """
from wsrpc import Server

app = Server()


@app.on_handshake
def check(handshake):
    if "token=" in handshake.target:
        handshake.reject(401, "token expired")
"""


async def test_the_file_of_the_guide_makes_each_line_of_uvicorn_json_without_tokens(tmp_path: Path) -> None:
    [config] = [block.text for block in blocks_of(PAGE) if block.language == "json"]
    (tmp_path / "logging.json").write_text(config, "utf-8")
    (tmp_path / "app.py").write_text(SERVED, "utf-8")
    options = ("--port", "0", "--log-config", "logging.json")
    command = ("wsrpc", "serve")
    async with running(tmp_path, "app:app", *options, env=environment(""), command=command) as worker:
        port = await worker.port()
        async with Client(f"ws://127.0.0.1:{port}/ws?hidden-1e"):
            pass
        for query in ("token=hidden-1e", "hidden-1e"):
            with suppress(HandshakeRejected):
                await Client(f"ws://127.0.0.1:{port}/ws?{query}", reconnect=None).connect()
            with suppress(HTTPError):
                await asyncio.to_thread(urlopen, f"http://127.0.0.1:{port}/elsewhere?{query}", timeout=60)
        await worker.logged("GET /elsewhere", 2)
        assert await worker.end() == 0
    assert "hidden-1e" not in worker.log
    lines = [json.loads(line) for line in worker.log.splitlines()]
    assert not [line for line in lines if None in line.values()] and any("remote" in line for line in lines)
    assert {line["name"] for line in lines} == {"uvicorn.error", "uvicorn.access", "wsrpc"}
    texts = "\n".join(line["message"] for line in lines)
    assert '"WebSocket /ws?…" [accepted]' in texts and '"GET /elsewhere?… HTTP/1.1" 426' in texts
    assert "on_handshake refused" in texts and "401 token expired" in texts

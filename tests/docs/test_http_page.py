"""docs/how-to/http.md: its commands run as they are shown, and print what is shown. Its clients run, too."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from engine_servers import command_of
from pages import HOW_TO
from programs import PYTHON, ROOT, UVICORN, free_port, listening, printed_by, start
from proxies import closed, relay
from test_docs import blocks_of, program_of

from interop.golang import find_go, go_build
from interop.node import find_node

PAGE = HOW_TO / "http.md"
URL = "http://127.0.0.1:8000"
SHOWN = [block.text for block in blocks_of(PAGE) if block.language == "console"]
IDS = re.compile(r"\b[0-9a-f]{8,16}\b")
"""Runs and logs have other ids each time."""


@pytest.fixture
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[str]:
    """The server of the page. With a parameter, that is the rate of its run."""
    options = f"keep=600, rate={getattr(request, 'param', 1000)}"
    (tmp_path / "app.py").write_text(program_of(PAGE, "app.py").replace("keep=600", options), "utf-8")
    served = SHOWN[0].removeprefix("$ ").strip().removesuffix("8000")
    port = free_port()
    process = await start(PYTHON[0], "-m", *shlex.split(served), str(port), cwd=tmp_path)
    async with listening(process, UVICORN, signal.SIGTERM):
        yield f"http://127.0.0.1:{port}"


async def test_curl_prints_what_is_shown(url: str) -> None:
    printed = 0
    for block in SHOWN[1:]:
        for found in re.finditer(r"^\$ curl (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            arguments = shlex.split(found[1].replace(URL, url))
            output = await printed_by(await start(command_of("curl"), "-sS", *arguments))
            assert IDS.sub("…", output).strip() == IDS.sub("…", found[2]).strip()
            printed += 1
    assert printed == 6


@asynccontextmanager
async def cutting(url: str, end: bytes) -> AsyncGenerator[str]:
    """A proxy that cuts the first connection on which the server has sent ``end``, after that."""
    cuts = [end]
    serving = set[asyncio.Task[Any]]()
    host, _, port = url.removeprefix("http://").partition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())  # type: ignore[arg-type]
        there, out = await asyncio.open_connection(host, int(port))
        sending, passed = asyncio.create_task(relay(reader, out)), b""
        with suppress(ConnectionError):
            while not (cuts and cuts[0] in passed) and (data := await there.read(65536)):
                writer.write(data)
                await writer.drain()
                passed += data
        if cuts and cuts[0] in passed:
            cuts.clear()
        await closed(writer)
        await closed(out)
        with suppress(ConnectionError):
            await sending

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        await asyncio.wait(serving)
    assert not cuts


MISFIT = "add(): argument 'b' (2nd): expected int, got str"
MISFIT_BODY = f'''{{"error":{{"message":"{MISFIT}","code":"wsrpc.bad_arguments",'''
MISFIT_BODY += '"data":{"parameter":"b","expected":"int","got":"str"}}}'
PRINTED = {
    "client.mjs": ["5", "wsrpc.bad_arguments b", "It", "depends"],
    "client.go": ["5", f"wsrpc.bad_arguments: {MISFIT}", '"It"', '"depends"'],
    "Client.java": ["200 5", f"400 {MISFIT_BODY}", '"It"', '"depends"'],
}
# `make test` installs Node and Go, and no JDK.
WRITTEN = [name for name in PRINTED if name != "Client.java" or shutil.which("javac")]


@pytest.mark.parametrize("url", [0.4], indirect=True)  # who asks again after a second gets 429
@pytest.mark.parametrize("name", WRITTEN)
async def test_a_client_without_packages_calls_and_reads_a_run_through_a_drop(
    name: str, url: str, tmp_path: Path
) -> None:
    source = ROOT / "examples" / "http" / name
    if name == "client.go":
        go_build(find_go(), "-o", str(tmp_path / "client"), str(source), folder=tmp_path)
        command = [str(tmp_path / "client")]
    else:
        command = [find_node() if name == "client.mjs" else "java", str(source)]
    async with cutting(url, b'data: "It"\n\n') as proxy:
        assert (await printed_by(await start(*command, proxy))).splitlines() == PRINTED[name]

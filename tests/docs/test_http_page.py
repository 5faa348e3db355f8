"""docs/how-to/http.md: its commands run as they are shown, and print what is shown. Its program in Go reads a run."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from engine_servers import command_of
from pages import HOW_TO
from programs import PYTHON, UVICORN, free_port, listening, printed_by, start
from test_docs import blocks_of, program_of

from interop.golang import find_go, go_build

PAGE = HOW_TO / "http.md"
URL = "http://127.0.0.1:8000"
SHOWN = [block.text for block in blocks_of(PAGE) if block.language == "console"]
IDS = re.compile(r"\b[0-9a-f]{8,16}\b")
"""Runs and logs have other ids each time."""


@pytest.fixture
async def url(tmp_path: Path) -> AsyncGenerator[str]:
    (tmp_path / "app.py").write_text(program_of(PAGE, "app.py"), "utf-8")
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


async def test_go_reads_a_run_with_its_standard_library(url: str, tmp_path: Path) -> None:
    [source] = [block.text for block in blocks_of(PAGE) if block.language == "go"]
    (tmp_path / "go.mod").write_text("module reader\n\ngo 1.23\n", "utf-8")
    (tmp_path / "reader.go").write_text(source, "utf-8")
    go_build(find_go(), "-o", "reader", "reader.go", folder=tmp_path)
    run = f"{url}/runs/answer/q1"
    started = ("-d", '["Why?"]', "-H", "Content-Type: application/json", "-H", "Authorization: Bearer t-4711")
    await printed_by(await start(command_of("curl"), "-sS", run, *started))
    printed = await printed_by(await start(str(tmp_path / "reader"), run))
    assert printed.splitlines() == ['message "It"', 'message "depends"', "end [DONE]"]

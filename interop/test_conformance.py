"""The conformance kit, with implementations in JavaScript. tests/command/test_conformance.py has it with wsrpc."""

from __future__ import annotations

import json
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from programs import PYTHON, start

from interop.installed import ROOT, install
from interop.node import JS, available_libraries, find_node
from wsrpc.conformance._rows import load

PROGRAM = ROOT / "examples" / "conformance" / "under_test.mjs"
KIT = [*PYTHON, "-m", "wsrpc.conformance", "--json"]
PATIENT = ["--timeout", "20"]
"""Rows that hold are not held up by it."""
LIBRARIES = ["plain-4", *(name for name, _ in available_libraries() if name == "ws-wrapper-4")]
LATER_PARTS = ["cancellation", "anonymous", "unknown", "streams"]
"""What ws-wrapper 3 does not have."""


def under_test(folder: Path, library: str) -> list[str]:
    """The program of the examples, with a library."""
    install(library, folder)
    text = PROGRAM.read_text("utf-8")
    if library == "ws-wrapper":  # version 3
        text = text.replace(", { iterableHandler }", "").replace(".signal(this.signal)", "")
        text = text.replace('channel.on("channel"', 'return\n  channel.on("channel"')
    (folder / "under_test.mjs").write_text(text, "utf-8")
    return [find_node(), str(folder / "under_test.mjs")]


async def failed_as_server(program: list[str], *words: str) -> set[str]:
    """The rows that fail when the program serves."""
    server = await start(*program, "0")
    try:
        assert server.stdout is not None
        url = (await server.stdout.readline()).decode().split()[-1]
        kit = await start(*KIT, url, *words)
        return failed(await kit.communicate())
    finally:
        server.kill()
        await server.communicate()


async def failed_as_client(program: list[str], *words: str) -> set[str]:
    """The rows that fail when the program dials."""
    kit = await start(*KIT, "--listen", "127.0.0.1:0", *words, stderr=PIPE)
    assert kit.stderr is not None
    url = (await kit.stderr.readline()).decode().split()[-1]
    client = await start(*program, url)
    found = failed(await kit.communicate())
    assert (await client.communicate(), client.returncode) == ((b"", b""), 0)
    return found


def failed(printed: tuple[bytes, bytes]) -> set[str]:
    out, err = printed
    assert err == b""
    rows: list[dict[str, Any]] = json.loads(out)
    return {row["name"] for row in rows if not row["held"]}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("play", [failed_as_server, failed_as_client])
async def test_ws_wrapper_4_passes(play: Any, library: str, tmp_path: Path) -> None:
    assert await play(under_test(tmp_path, library), *PATIENT) == set()


async def test_what_ws_wrapper_3_does_otherwise(tmp_path: Path) -> None:
    parts = ["--without", "values", *LATER_PARTS]
    assert await failed_as_server(under_test(tmp_path, "ws-wrapper"), *parts) >= {
        "events/object-prototype-names",  # a channel "toString" exists
        "requests/out-of-order-and-unknown",  # a response whose id is a string counts
        "ignored/a-not-array",  # a text is an array of characters
    }


async def test_what_the_client_of_pages_does_otherwise() -> None:
    """It handles what servers of wsrpc send: it knows no errors that are values, and is silent about old channels."""
    program = [find_node(), str(JS / "conformance_page.mjs")]
    nested = {"anon/nested-requestor", "pair/anon-nested/a"}  # no channel is requested on an anonymous one
    assert await failed_as_client(program, "--without", "values", "unknown", *PATIENT) == nested
    assert nested < {row.name for row in load()}

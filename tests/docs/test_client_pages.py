"""The guides for other clients: their commands exist and do what is said, and the JavaScript of the browser's runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from test_docs import LIBRARIES, ROOT, WITH_STREAMS, blocks_of, output_of

from interop.installed import install
from interop.node import find_node
from wsrpc import Server

HOW_TO = ROOT / "docs" / "how-to"
BROWSER = HOW_TO / "browser.md"

# By page and program: "run" by this test, or the test that runs what is done with the program or what comes of it.
KNOWN = {
    ("browser", "pip"): "test_what_is_installed_exists",
    ("browser", "npm"): "test_what_is_installed_exists",
    ("browser", "python"): "tests/browser",
    ("migrate-ws-wrapper", "npm"): "test_what_is_installed_exists",
    ("migrate-ws-wrapper", "python"): "tests/test_migration_pages.py",
    ("migrate-ws-wrapper", "node"): "tests/test_docs.py and tests/test_migration_pages.py",
    ("python-client", "wsrpc"): "test_the_command_writes_and_checks",
    ("typescript", "wsrpc"): "test_the_command_writes_and_checks",
    ("typescript", "npm"): "test_what_is_installed_exists",
    ("typescript", "npx"): "interop/test_typescript_page.py",
    ("typescript", "python"): "interop/test_typescript_page.py",
    ("typescript", "node"): "interop/test_typescript_page.py",
}
PAGES = sorted({page for page, _ in KNOWN} | {"go", "json-schema", "migrate-json", "migrate-socketio"})


def commands(page: str) -> list[list[str]]:
    found: list[list[str]] = []
    for block in blocks_of(HOW_TO / f"{page}.md"):
        if block.language == "console":
            assert all(line.startswith("$ ") for line in block.text.splitlines())
            found += [shlex.split(line.removeprefix("$ ")) for line in block.text.splitlines()]
    return found


def test_every_command_is_known() -> None:
    assert {(page, command[0]) for page in PAGES for command in commands(page)} == set(KNOWN)


@pytest.mark.parametrize("page", PAGES)
def test_what_is_installed_exists(page: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for program, *arguments in commands(page):
        if program == "pip":
            installed = re.fullmatch(r"install \.\[(\w+)\]", " ".join(arguments))
            assert installed is not None and installed[1] in extras
        elif program == "npm" and "--prefix" in arguments:
            assert (ROOT / arguments[arguments.index("--prefix") + 1] / "package.json").exists()
        elif program == "npm" and arguments[0] not in ("init", "pkg"):
            assert arguments[0] == "install"
            packages = {"ws", "ws-wrapper", "typescript", "@types/node", "@types/ws"}
            assert {name for name in arguments[1:] if not name.startswith("--")} <= packages
        elif program == "python" and "/" in arguments[0]:
            assert (ROOT / arguments[0]).exists()


@pytest.mark.parametrize("page", ["python-client", "typescript"])
def test_the_command_writes_and_checks(page: str, tmp_path: Path) -> None:
    [app, *_] = [block.text for block in blocks_of(HOW_TO / f"{page}.md") if block.language == "python"]
    (tmp_path / "app.py").write_text(f'{app}\nserver.run("127.0.0.1", 8080)\n', "utf-8")

    def run(arguments: list[str]) -> int:
        command = [sys.executable, "-W", "error", "-m", "wsrpc", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
        ).returncode

    shown = [arguments for program, *arguments in commands(page) if program == "wsrpc"]
    for arguments in shown:
        assert run(arguments) == 0
    [written] = [arguments[arguments.index("-o") + 1] for arguments in shown if "--check" not in arguments]
    (tmp_path / written).write_text("something else", "utf-8")
    assert run([*shown[0], "--check"]) == 1


READ_ALL = """
import WebSocket from "ws"
import WebSocketWrapper from "ws-wrapper"

const socket = new WebSocket(process.argv[2])
const server = new WebSocketWrapper(socket)
const numbers = []
for await (const messages of readHistory(server, "lobby")) numbers.push(...messages.map((message) => message.number))
console.log(numbers.join(" "))
for await (const messages of readHistory(server, "lobby")) break
while ((await server.request("reading")) > 0) {}
socket.close()
"""


@pytest.mark.parametrize("library", sorted({*LIBRARIES, *WITH_STREAMS}))
async def test_the_history_is_read_with_each_version(library: str, tmp_path: Path) -> None:
    [block] = [block for block in blocks_of(BROWSER) if block.language == "js" and block.program is None]
    install(library, tmp_path)
    (tmp_path / "read.mjs").write_text(block.text + READ_ALL, "utf-8")
    server, reading = Server(), 0
    messages = [{"number": number} for number in range(100, 0, -1)]

    @server.on("history")
    async def history(room: str) -> AsyncIterator[dict[str, int]]:
        nonlocal reading
        reading += 1
        try:
            for message in messages:
                yield message
        finally:
            reading -= 1

    @server.on("history_page")
    def history_page(room: str, before: int | None, count: int) -> list[dict[str, int]]:
        return [message for message in messages if before is None or message["number"] < before][:count]

    server.on("reading", lambda: reading)
    async with server.listen("127.0.0.1", 0) as listener:
        printed = await output_of(find_node(), "read.mjs", listener.url, folder=tmp_path)
    assert printed.split() == [str(message["number"]) for message in messages]

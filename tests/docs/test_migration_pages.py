"""The guides for migrating: old and new programs print the same, also where the others already run."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from programs import free_port, start
from test_docs import LIBRARIES, PORT, README, ROOT, WITH_STREAMS, blocks_of, output_of, program_of, promised_by

import wsrpc.blocking
from interop.installed import install
from interop.node import JS, find_node
from wsrpc import AnonymousChannel, Client, CloseInfo, Context, Handshake, Server
from wsrpc.transport import ConnectionInfo
from wsrpc.types import EmitReport, Message, RawConnection

SOCKETIO = ROOT / "docs" / "how-to" / "migrate-socketio.md"
WS_WRAPPER = ROOT / "docs" / "how-to" / "migrate-ws-wrapper.md"
JSON = ROOT / "docs" / "how-to" / "migrate-json.md"
COMING_FROM = ROOT / "docs" / "how-to" / "coming-from.md"
OBJECTS = [
    *(Server, Client, Client().peer, RawConnection, AnonymousChannel, Handshake("/", {}), Message, EmitReport),
    *(ConnectionInfo, CloseInfo, Context, wsrpc, Server().room("lobby")),
]
NAMES = (
    "server",
    "client",
    "peer",
    "connection",
    "channel",
    "handshake",
    "message",
    "report",
    "info",
    "ctx",
    "wsrpc",
    "room",
)


def test_names_in_the_tables_for_other_libraries_exist() -> None:
    text = "\n".join(page.read_text("utf-8") for page in (COMING_FROM, SOCKETIO))
    tables = "\n".join(re.findall(r"^\|.*\|$", text, re.MULTILINE))
    code = " ".join(re.findall(r"`([^`]+)`", tables)).replace("self.", "")
    # What begins with a capital letter is a name of Go.
    shown = {name for owner, name in re.findall(r'(?<!")\b(\w+)\.([a-z_]\w+)', code) if owner in NAMES}
    assert len(shown) > 30
    assert shown - {name for each in OBJECTS for name in dir(each)} == set()


NO_COUNTERPART = {"listeners", "isConnecting"}
"""Of ws-wrapper: in wsrpc, an event has one handler, and a client that is not connected dials or waits."""


def test_the_page_of_ws_wrapper_has_all_its_names() -> None:
    """It lacked those that only look at a socket, and the options."""
    library = JS / "node_modules" / "ws-wrapper" / "lib"
    source = "".join((library / name).read_text("utf-8") for name in ("wrapper.mjs", "channel.mjs"))
    named = r"^\t(?:get )?([a-zA-Z]+)\(.*\) \{$|\boptions\.(\w+)|WebSocketWrapper\.(\w+) ="
    wanted = {name for found in re.findall(named, source, re.MULTILINE) for name in found if name} - {"constructor"}
    left = "\n".join(re.findall(r"^\| (.+?) \| ", WS_WRAPPER.read_text("utf-8"), re.MULTILINE))
    assert {"on", "request", "errorToJSON", "MAX_SEND_QUEUE_SIZE"} <= wanted
    assert wanted - set(re.findall(r"\w+", left)) == NO_COUNTERPART


def write_programs(page: Path, folder: Path, port: str) -> None:
    for block in blocks_of(page):
        if block.program:
            (folder / block.program).write_text(block.text.replace(PORT, port), "utf-8")


def shown_output(page: Path) -> str:
    [text] = [block.text for block in blocks_of(page) if block.language == "text"]
    return text


@asynccontextmanager
async def running(*command: str, folder: Path, port: str) -> AsyncGenerator[None]:
    """Run a server, from when it accepts connections on; ended, it must not show a traceback."""
    process = await start(*command, cwd=folder)
    assert process.stderr is not None
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(port))
            except ConnectionRefusedError:
                assert process.returncode is None, (await process.stderr.read()).decode()
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                break
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        _, said = await process.communicate()
    assert b"Traceback" not in said, said.decode()


@pytest.mark.parametrize("server", ["old_server.py", "new_server.py", "both_servers.py"])
@pytest.mark.parametrize("page", [SOCKETIO, JSON], ids=lambda page: page.stem)
async def test_old_and_new_programs_print_the_same(page: Path, server: str, tmp_path: Path) -> None:
    port = str(free_port())
    write_programs(page, tmp_path, port)
    async with running(sys.executable, server, folder=tmp_path, port=port):
        for client in ("old_client.py", "new_client.py"):
            if server in ("both_servers.py", client.replace("client", "server")):
                assert await output_of(sys.executable, client, folder=tmp_path) == shown_output(page)
        if page == SOCKETIO and server == "new_server.py":
            assert await output_of(sys.executable, "script.py", folder=tmp_path) == "Ada hello\n"


@pytest.mark.parametrize("server", ["server.py", "server.mjs"])
@pytest.mark.parametrize("library", sorted({*LIBRARIES, *WITH_STREAMS}))
async def test_the_servers_in_python_and_node_serve_clients_of_both(library: str, server: str, tmp_path: Path) -> None:
    port = str(free_port())
    install(library, tmp_path)
    write_programs(WS_WRAPPER, tmp_path, port)
    replacing = program_of(README, "client.py")
    (tmp_path / "client.py").write_text(replacing.replace(PORT, port), "utf-8")
    runner = sys.executable if server.endswith(".py") else find_node()
    async with running(runner, server, folder=tmp_path, port=port):
        printed = await output_of(find_node(), "client.mjs", folder=tmp_path)
        assert printed.splitlines() == promised_by(program_of(WS_WRAPPER, "client.mjs"))
        printed = await output_of(sys.executable, "-W", "error", "client.py", folder=tmp_path)
        assert printed.splitlines() == promised_by(replacing)

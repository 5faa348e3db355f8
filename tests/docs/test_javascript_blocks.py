"""JavaScript that guides show and that is no whole program: it runs with ws-wrapper, or with the client for pages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import HOW_TO, python_blocks
from programs import ROOT, printed_by, start
from test_docs import LIBRARIES, WITH_STREAMS, blocks_of

from interop.installed import install
from interop.node import find_node
from wsrpc import Context, Peer, Server

IMPORTS = """
import WebSocket from "ws"
import WebSocketWrapper from "ws-wrapper"

const websocket = new WebSocket(process.argv[2])
const socket = new WebSocketWrapper(websocket)
"""


def block_with(text: str, page: str) -> str:
    blocks = [each for each in blocks_of(HOW_TO / f"{page}.md") if each.language == "js" and each.program is None]
    [block] = [each.text for each in blocks if text in each.text]
    return block


def write_program(block: str, end: str, library: str, folder: Path) -> None:
    install(library, folder)
    (folder / "program.mjs").write_text(IMPORTS + block + end, "utf-8")


@pytest.mark.parametrize("library", WITH_STREAMS)
async def test_the_producer_for_ws_wrapper_can_be_read_again(library: str, tmp_path: Path) -> None:
    write_program(block_with("socket.of", "ws-wrapper"), "", library, tmp_path)
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    server = Server()
    server.on("open", peers.put_nowait)
    async with server.listen("127.0.0.1", 0) as listener:
        process = await start(find_node(), "program.mjs", listener.url, cwd=tmp_path)
        program = asyncio.create_task(printed_by(process))
        try:
            peer = await peers.get()
            feed = peer.of("feed")
            for _ in range(2):
                assert [item async for item in feed] == [0, 1, 2]
            await server.close()
            assert await program == ""
        finally:
            program.cancel()


READ_ALL = """
const numbers = []
await readHistory(socket, "lobby", async (messages) => {
  await socket.request("reading")
  numbers.push(...messages.map((message) => message.number))
})
console.log(numbers.join(" "))
const enough = new Error("enough")
await readHistory(socket, "lobby", () => { throw enough }).catch((error) => { if (error !== enough) throw error })
while ((await socket.request("reading")) > 0) {}
websocket.close()
"""


@pytest.mark.parametrize("library", sorted({*LIBRARIES, *WITH_STREAMS}))
async def test_the_history_in_ws_wrapper_is_read(library: str, tmp_path: Path) -> None:
    write_program(block_with("readHistory", "ws-wrapper"), READ_ALL, library, tmp_path)
    server, reading = Server(), 0
    messages = [{"number": number} for number in range(100, 0, -1)]

    @server.on("history")
    async def history(room: str) -> AsyncIterator[list[dict[str, int]]]:
        nonlocal reading
        reading += 1
        try:
            for first in range(0, len(messages), 30):
                yield messages[first : first + 30]
        finally:
            reading -= 1

    @server.on("history_page")
    def history_page(room: str, before: int | None, count: int) -> list[dict[str, int]]:
        return [message for message in messages if before is None or message["number"] < before][:count]

    server.on("reading", lambda: reading)
    async with server.listen("127.0.0.1", 0) as listener:
        printed = await printed_by(await start(find_node(), "program.mjs", listener.url, cwd=tmp_path))
    assert printed.split() == [str(message["number"]) for message in messages]


IN_A_PAGE = """
import WebSocket from "ws"
import { Client } from "./client.js"
import { msgpack } from "./msgpack.js"

const client = new Client(process.argv[2], { codec: msgpack, WebSocket })
"""

UPLOAD = """
const shown = []
for (let times = 0; times < 2; times++) {
  await upload(client, new Blob(["abcdefgh".repeat(600_000)]), { progress: (bytes) => shown.push(bytes) })
  console.log(shown.at(-1))
}
client.close()
"""
SERVER = """
import asyncio
from collections.abc import AsyncIterator, Iterator
from wsrpc import Server

server = Server()
"""


async def test_the_upload_in_streams_is_resumed_in_a_page(tmp_path: Path) -> None:
    install(LIBRARIES[0], tmp_path)
    for name in ("client.js", "msgpack.js"):
        (tmp_path / name).write_bytes((ROOT / "wsrpc" / "browser" / name).read_bytes())
    (tmp_path / "program.mjs").write_text(IN_A_PAGE + block_with("idOf", "streams") + UPLOAD, "utf-8")
    [handlers] = [block for block in python_blocks("streams") if '@server.on("append")' in block]
    program, page = SERVER + handlers[: handlers.index("async with connect")], dict[str, Any]()
    exec(compile(program, "streams.md", "exec", dont_inherit=True), page)
    page["FOLDER"] = tmp_path / "files"
    page["FOLDER"].mkdir()
    server: Server = page["server"]
    write, written, calls = page["write"], list[int](), list[str]()
    loop, closing = asyncio.get_running_loop(), asyncio.Queue[asyncio.Task[None]]()

    def close() -> None:
        [peer] = server.peers
        closing.put_nowait(loop.create_task(peer.close(1012, "restart")))  # with this code, the session ends, too

    def write_and_close(part: Path, offset: int, piece: bytes) -> bool:
        written.append(offset)
        if len(written) == 2:
            loop.call_soon_threadsafe(close)
        return bool(write(part, offset, piece))

    @server.use
    def watch(ctx: Context) -> Iterator[None]:
        calls.append(ctx.event)
        yield

    page["write"] = write_and_close
    async with server.listen("127.0.0.1", 0) as listener:
        printed = await printed_by(await start(find_node(), "program.mjs", listener.url, cwd=tmp_path))
        await (await closing.get())
    assert printed.split() == ["4800000", "4800000"]
    [file] = page["FOLDER"].iterdir()
    assert file.suffix == "" and file.read_bytes() == b"abcdefgh" * 600_000
    assert calls == ["size", "append", "size", "append", "size", "append"]
    assert len(written) < 90 and written[:2] == [0, 65_536], "almost nothing was sent twice"


def test_the_example_of_uploads_has_the_code_of_the_guide() -> None:
    example = (ROOT / "examples" / "upload" / "page" / "upload.js").read_text("utf-8")
    assert re.sub(r"^/\*\*.*\n|^export ", "", example, flags=re.MULTILINE) == block_with("idOf", "streams")

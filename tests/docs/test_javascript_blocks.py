"""JavaScript that guides show and that is no whole program: it runs with ws-wrapper, or with the client for pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pages import HOW_TO
from programs import printed_by, start
from test_docs import LIBRARIES, WITH_STREAMS, blocks_of

from interop.installed import install
from interop.node import find_node
from wsrpc import Peer, Server

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

"""docs/how-to/streams.md: Python reads what the JavaScript of the page produces on a named channel."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from programs import printed_by
from test_docs import WITH_STREAMS, blocks_of

from interop.installed import install
from interop.node import find_node
from wsrpc import Peer, RemoteError, Server

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "streams.md"
BEFORE = """
import WebSocket from "ws"
import WebSocketWrapper from "ws-wrapper"

const socket = new WebSocketWrapper(new WebSocket(process.argv[2]))
"""


@pytest.mark.parametrize("library", WITH_STREAMS)
async def test_the_producer_of_the_page_can_be_read_again_and_left(library: str, tmp_path: Path) -> None:
    [block] = [block for block in blocks_of(PAGE) if block.language == "js"]
    install(library, tmp_path)
    (tmp_path / "produce.mjs").write_text(BEFORE + block.text, "utf-8")
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    server = Server()
    server.on("open", peers.put_nowait)
    async with server.listen("127.0.0.1", 0) as listener:
        process = await asyncio.create_subprocess_exec(
            *(find_node(), "produce.mjs", listener.url),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        program = asyncio.create_task(printed_by(process))
        try:
            peer = await peers.get()
            feed = peer.of("feed")
            for _ in range(2):
                assert [item async for item in feed] == [0, 1, 2]
            async with feed.items(returns=int) as items:
                assert await anext(items) == 0
            for _ in range(3):  # after these, its next item was rejected, and it has that answer
                with pytest.raises(RemoteError):
                    await peer.request("no such event")
            await server.close()
            assert await program == ""
        finally:
            program.cancel()

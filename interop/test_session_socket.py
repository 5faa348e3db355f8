"""`SessionSocket` as a WebSocket: for pages, for TypeScript, and for ws-wrapper."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from interop.node import JS, find_node


async def run_node(script: str, *args: str) -> Any:
    """Return what a Node program prints, which is JSON."""
    process = await asyncio.create_subprocess_exec(
        find_node(), str(JS / script), *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_it_does_what_a_websocket_does() -> None:
    async def echo(socket: ServerConnection) -> None:
        async for message in socket:  # but not its hello
            if not (isinstance(message, str) and "wsrpc" in message):
                await socket.send(message)

    async with serve(
        echo, "127.0.0.1", 0, select_subprotocol=lambda _, offered: offered[0] if offered else None
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        seen = await run_node("session_socket_interface.mjs", f"ws://127.0.0.1:{port}/")
    assert seen["SessionSocket"] == seen["WebSocket"]


async def test_an_exception_in_a_listener_is_reported_and_stops_nobody() -> None:
    seen = await run_node("session_socket_listeners.mjs")
    assert seen == {"uncaught": ["of a handler", "of a listener"], "seen": ["last 1", "last 2"], "readyState": 1}

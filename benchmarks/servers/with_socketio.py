"""python-socketio, on uvicorn with uvloop and httptools, as its documentation and uvicorn's advise for speed."""

from __future__ import annotations

from typing import Any

import socketio

from . import handlers
from .handlers import LARGEST_MESSAGE, TICK, Options
from .with_uvicorn import serve as serve_with_uvicorn


async def serve(options: Options) -> None:
    manager = None if options.redis is None else socketio.AsyncRedisManager(f"redis://127.0.0.1:{options.redis}")
    server = socketio.AsyncServer(async_mode="asgi", max_http_buffer_size=LARGEST_MESSAGE, client_manager=manager)
    notes: dict[str, int] = {}

    @server.on("add")
    def add(sid: str, a: int, b: int) -> int:
        return handlers.add(a, b)

    @server.on("add_async")
    async def add_async(sid: str, a: int, b: int) -> int:
        return a + b

    @server.on("echo")
    def echo(sid: str, text: str) -> str:
        return text

    @server.on("note")
    def note(sid: str, number: int) -> None:
        notes[sid] = notes.get(sid, 0) + 1

    @server.on("notes")
    def get_notes(sid: str) -> int:
        return notes.get(sid, 0)

    @server.on("broadcast")
    async def broadcast(sid: str) -> int:
        await server.emit("tick", TICK)
        return 1

    application: Any = socketio.ASGIApp(server)
    await serve_with_uvicorn(application, options, http="httptools")

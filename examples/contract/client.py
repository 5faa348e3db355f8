"""Shows the board in a terminal, and what changes: `python client.py [ws://127.0.0.1:8080/ws]`, see README.md."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from contract import Board, BoardEvents, Note

from wsrpc import Client


class Terminal:
    """Implements `BoardEvents`."""

    def posted(self, note: Note) -> None:
        print(f"+ {note.id} {note.author}: {note.text} ({note.color.value})", flush=True)

    def removed(self, id: int) -> None:
        print(f"- {id}", flush=True)


async def main(url: str) -> None:
    client = Client(url)
    channel = client.of("board")
    terminal = Terminal()
    channel.implement(BoardEvents, terminal)
    async with client:
        async with channel.proxy(Board).notes() as notes:
            async for note in notes:
                terminal.posted(note)
        await asyncio.Event().wait()  # until Ctrl-C; events come meanwhile, also after a drop


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:] or ["ws://127.0.0.1:8080/ws"]))

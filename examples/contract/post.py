"""Posts one note, for cron jobs and the like: `python post.py "the backup is done"`, see README.md."""

from __future__ import annotations

import argparse
import asyncio

from contract import Board, Color

from wsrpc import Client, Retry, with_options


async def main() -> None:
    parser = argparse.ArgumentParser(description="Post a note.")
    parser.add_argument("text")
    parser.add_argument("--author", default="cron")
    parser.add_argument("--color", type=Color, default=Color.YELLOW)
    parser.add_argument("--url", default="ws://127.0.0.1:8080/ws")
    options = parser.parse_args()
    async with Client(options.url, connect_timeout=10) as client:
        board = with_options(client.of("board").proxy(Board), timeout=10, retry=Retry())
        note = await board.post(options.author, options.text, color=options.color)
        print(f"note {note.id} is on the board")


if __name__ == "__main__":
    asyncio.run(main())

"""examples/contract: the server, the client and the script, run as their reader would run them."""

from __future__ import annotations

from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import programs
from programs import PYTHON, ROOT, free_port, printed_by, talking


async def start(*arguments: str) -> Process:
    return await programs.start(*PYTHON, *arguments, cwd=ROOT / "examples" / "contract")


@asynccontextmanager
async def serving(modules: Path) -> AsyncGenerator[str]:
    """The URL of the example's server."""
    port = free_port()
    async with talking(await start("server.py", f"{port}", "--modules", str(modules))) as screen:
        assert "Running on" in await screen.line()
        yield f"ws://127.0.0.1:{port}/ws"


async def test_the_server_the_client_and_the_script(tmp_path: Path) -> None:
    async with serving(tmp_path) as url:
        assert await printed_by(await start("post.py", "the first", "--url", url)) == "note 1 is on the board\n"
        async with talking(await start("client.py", url)) as client:
            assert await client.line() == "+ 1 cron: the first (yellow)"
            posted = await start("post.py", "hi", "--author", "Ada", "--color", "pink", "--url", url)
            assert await printed_by(posted) == "note 2 is on the board\n"
            assert await client.line() == "+ 2 Ada: hi (pink)"


USE = """
import asyncio, sys
import wsrpc, board_api

class Screen:
    def posted(self, note: board_api.Note) -> None: ...
    def removed(self, id: int) -> None:
        print("removed", id)

async def main() -> None:
    client = wsrpc.Client(sys.argv[1])
    client.of("board").implement(board_api.BoardEvents, Screen())
    async with client:
        board = board_api.board(client)
        note = await board.post("Eve", "generated", color=board_api.Color.PINK)
        async with board.notes() as notes:
            assert [each async for each in notes] == [note]
        await board.remove(note.id)
        print(note.text, note.color.value)

asyncio.run(main())
"""


async def test_a_client_can_be_made_from_the_server(tmp_path: Path) -> None:
    """As the README of the example says, for clients in another repository."""
    made, use = tmp_path / "board_api.py", tmp_path / "use.py"
    assert await printed_by(await start("-m", "wsrpc", "client", "server:server", "-o", str(made))) == ""
    use.write_text(USE, "utf-8")
    async with serving(tmp_path) as url:
        assert await printed_by(await start(str(use), url)) == "removed 1\ngenerated pink\n"


async def test_the_types_of_the_page_are_up_to_date() -> None:
    check = ["-m", "wsrpc", "types", "server:server", "-o", "page/api.d.ts", "--check"]
    assert await printed_by(await start(*check)) == ""

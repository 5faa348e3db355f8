"""examples/contract: the server, the client and the script, run as their reader would run them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from programs import free_port, printed_by

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "contract"


async def start(program: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-W", "error", program, *arguments),
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def running(program: str, *arguments: str) -> AsyncGenerator[asyncio.StreamReader]:
    """What a program prints; it ends well when it is interrupted."""
    process = await start(program, *arguments)
    assert process.stdout is not None and process.stderr is not None
    try:
        yield process.stdout
        process.send_signal(signal.SIGINT)
        errors = (await process.stderr.read()).decode()
        assert await process.wait() == 0 and "Traceback" not in errors, errors
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def serving(modules: Path) -> AsyncGenerator[str]:
    """The URL of the example's server."""
    port = free_port()
    async with running("server.py", f"{port}", "--modules", str(modules)) as printed:
        assert "Running on" in await next_line(printed)
        yield f"ws://127.0.0.1:{port}/ws"


async def next_line(printed: asyncio.StreamReader) -> str:
    return (await printed.readline()).decode().rstrip()


async def test_the_server_the_client_and_the_script(tmp_path: Path) -> None:
    async with serving(tmp_path) as url:
        assert await printed_by(await start("post.py", "the first", "--url", url)) == "note 1 is on the board\n"
        async with running("client.py", url) as client:
            assert await next_line(client) == "+ 1 cron: the first (yellow)"
            posted = await start("post.py", "hi", "--author", "Ada", "--color", "pink", "--url", url)
            assert await printed_by(posted) == "note 2 is on the board\n"
            assert await next_line(client) == "+ 2 Ada: hi (pink)"


async def test_a_client_can_be_made_from_the_server(tmp_path: Path) -> None:
    """As the README of the example says, for clients in another repository."""
    made = tmp_path / "board_api.py"
    assert await printed_by(await start("-m", "wsrpc", "client", "server:server", "-o", str(made))) == ""
    (tmp_path / "use.py").write_text(
        "import asyncio, sys\n"
        "import wsrpc, board_api\n"
        "class Screen:\n"
        "    def posted(self, note: board_api.Note) -> None: ...\n"
        "    def removed(self, id: int) -> None:\n"
        "        print('removed', id)\n"
        "async def main() -> None:\n"
        "    client = wsrpc.Client(sys.argv[1])\n"
        "    client.of('board').implement(board_api.BoardEvents, Screen())\n"
        "    async with client:\n"
        "        board = board_api.board(client)\n"
        "        note = await board.post('Eve', 'generated', color=board_api.Color.PINK)\n"
        "        async with board.notes() as notes:\n"
        "            assert [each async for each in notes] == [note]\n"
        "        await board.remove(note.id)\n"
        "        print(note.text, note.color.value)\n"
        "asyncio.run(main())\n",
        "utf-8",
    )
    async with serving(tmp_path) as url:
        used = await printed_by(await start(str(tmp_path / "use.py"), url))
    assert used == "removed 1\ngenerated pink\n"


async def test_the_types_of_the_page_are_up_to_date() -> None:
    check = ["-m", "wsrpc", "types", "server:server", "-o", "page/api.d.ts", "--check"]
    assert await printed_by(await start(*check)) == ""

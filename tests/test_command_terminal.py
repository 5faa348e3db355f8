"""`wsrpc` on a terminal: readable values, colours, progress, Ctrl-C and Ctrl-D as they are typed.

The terminal is a pseudo-terminal of the system, which does what matters here: it is one for `isatty`, it turns Ctrl-C
into SIGINT and Ctrl-D into the end of the input. test_command_tmux.py looks at whole screens.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

from command_process import COMMAND, PATIENCE, environment, serving

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """A terminal with a command in it, and everything that it has shown."""

    def __init__(self, process: Process, controller: int) -> None:
        self.process = process
        self.shown = ""
        self._controller = controller
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(controller, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._controller, 65536)
        except OSError:  # Linux's way of saying that nobody has the terminal open any more
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._controller)
        self.shown += data.decode().replace("\r\n", "\n")
        self._news.set()

    def types(self, text: str) -> None:
        os.write(self._controller, text.encode())

    async def shows(self, text: str) -> None:
        """Wait until the terminal has shown ``text``."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.shown:
                self._news.clear()
                await self._news.wait()

    async def end(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def terminal(
    *arguments: str, env: Mapping[str, str] | None = None, stdout: int | None = None
) -> AsyncGenerator[Terminal]:
    """Run a command in a terminal of its own. Its stdout may be elsewhere."""
    controller, other = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, *arguments),
            stdin=other,
            stdout=other if stdout is None else stdout,
            stderr=other,
            env=environment(env),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C goes to who has it as its terminal
        )
    finally:
        os.close(other)
    found = Terminal(process, controller)
    try:
        yield found
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(controller)
        os.close(controller)


async def screen(*arguments: str, **options: Any) -> str:
    """What a command has shown when it is done."""
    async with terminal(*arguments, **options) as found:
        assert await found.end() == 0, found.shown
        await found.shows("\n")
        return found.shown


VALUE = '{"name": "Ada", "list": [1, null], "empty": []}'
READABLE = """\
{
  "name": "Ada",
  "list": [
    1,
    null
  ],
  "empty": []
}
"""


async def test_values_are_indented_and_coloured() -> None:
    async with serving() as played:
        shown = await screen("call", played.url, "echo", VALUE)
        assert COLOUR.search(shown) and COLOUR.sub("", shown) == READABLE
        assert await screen("call", played.url, "echo", VALUE, env={"NO_COLOR": ""}) == READABLE
        assert await screen("call", played.url, "echo", VALUE, env={"TERM": "dumb"}) == READABLE


async def test_without_rich_values_are_indented(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError('not installed')\n", "utf-8")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    async with serving() as played:
        assert await screen("call", played.url, "echo", VALUE, env={"PYTHONPATH": path}) == READABLE


async def test_long_values_are_not_broken_into_lines_of_the_terminal() -> None:
    async with serving() as played:
        text = "word " * 100
        assert COLOUR.sub("", await screen("call", played.url, "echo", f'"{text}"')) == f'"{text}"\n'


async def test_what_a_server_sends_moves_no_cursor() -> None:
    async with serving() as played:
        hostile = "\x1b[2J\x9b2J\x07\u202egnp\u2028"
        played.server.on("hostile", lambda: [hostile])
        shown = COLOUR.sub("", await screen("call", played.url, "hostile"))
        assert shown == '[\n  "\\u001b[2J\\u009b2J\\u0007\\u202egnp\\u2028"\n]\n'


async def test_events_are_readable_lines() -> None:
    async with serving() as played, terminal("listen", played.url, env={"NO_COLOR": "1"}) as found:
        peer = await played.peers.get()
        await peer.of("chat").emit("said", "Ada", {"text": "hi"})
        await peer.emit("ready")
        await found.shows("ready")
        found.types(CTRL_C)
        assert await found.end() == 130
        await found.shows("2 events have come")
        lines = re.sub(r"\d\d:\d\d:\d\d\.\d\d\d", "TIME", found.shown)
        assert lines == 'TIME chat: said "Ada" {"text":"hi"}\nTIME ready\n^Cwsrpc: interrupted: 2 events have come\n'


async def test_ctrl_c_stops_the_handler() -> None:
    async with serving() as played, terminal("call", played.url, "hang") as found:
        assert await played.started.get() == "hang"
        found.types(CTRL_C)
        assert await played.ended.get() == ("hang", "interrupted")
        assert await found.end() == 130
        await found.shows("wsrpc: interrupted: hang was cancelled\n")


async def test_lines_are_uploaded_as_they_are_typed() -> None:
    async with serving() as played, terminal("upload", played.url, "total", "-", env={"NO_COLOR": "1"}) as found:
        assert await played.started.get() == "total"
        found.types("1\n")
        assert await played.started.get() == "total 1"
        found.types("20\n")
        assert await played.started.get() == "total 21"
        found.types(CTRL_D)
        assert await found.end() == 0
        await found.shows("21\n")
        assert COLOUR.sub("", found.shown) == "1\n20\n21\n"


def progress(found: Terminal) -> str:
    """The last line of the progress that a terminal has shown."""
    return found.shown.rpartition("\r\x1b[K")[2]


async def test_an_upload_shows_its_progress(tmp_path: Path) -> None:
    (tmp_path / "items").write_text("1\n" * 1000, "utf-8")
    async with serving() as played:
        async with terminal("upload", played.url, "total", "--send", str(tmp_path / "items"), stdout=PIPE) as found:
            assert await found.end() == 0
            assert found.process.stdout is not None
            assert await found.process.stdout.read() == b"1000\n"
            await found.shows("1,000 items")
            await found.shows("\n")
            assert progress(found) == "sent 1,000 items, 2.0 KiB of 2.0 KiB, 100 %\n"


async def test_a_download_shows_its_progress_where_its_items_are_not_shown() -> None:
    async with serving() as played:
        async with terminal("stream", played.url, "countdown", "1500", stdout=PIPE) as found:
            assert found.process.stdout is not None
            assert len((await found.process.stdout.read()).splitlines()) == 1500
            assert await found.end() == 0
            await found.shows("1,500 items")
            await found.shows("\n")
            assert re.fullmatch(r"received 1,500 items, \d\.\d KiB\n", progress(found))
        assert "received" not in await screen("stream", played.url, "countdown", "3")

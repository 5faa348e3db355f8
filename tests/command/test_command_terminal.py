"""`wsrpc` on a terminal: readable values, colours, progress, Ctrl-C and Ctrl-D as they are typed.

The terminal is a pseudo-terminal of the system, which does what matters here: it is one for `isatty`, it turns Ctrl-C
into SIGINT and Ctrl-D into the end of the input. test_command_tmux.py looks at whole screens.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import sys
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from command_process import PATIENCE, prints, run, serving, start

from wsrpc import Handshake, Peer, RpcError

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
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
async def terminal(*arguments: str, stdout: int | None = None, **options: Any) -> AsyncGenerator[Terminal]:
    """Run a command in a terminal of its own. Its stdout may be elsewhere."""
    controller, other = pty.openpty()

    def prepare() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C goes to who has it as its terminal

    try:
        options = {"prepare": prepare, **options}
        process = await start(*arguments, stdin=other, stdout=stdout or other, stderr=other, **options)
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


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": ""}, {"TERM": "dumb"}], ids=str)
async def test_values_are_indented_and_coloured(env: dict[str, str]) -> None:
    async with serving() as played:
        shown = await screen("call", played.url, "echo", VALUE, env=env)
        assert COLOUR.sub("", shown) == READABLE
        assert (shown == READABLE) == bool(env)


async def test_without_rich_values_are_indented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    async with serving() as played:
        assert await screen("call", played.url, "echo", VALUE) == READABLE


HOSTILE = "\x1b[2J\x9b2J\x07\u202egnp\u2028\x7f\r\nwsrpc: done"
"""Moves the cursor, changes the direction of the text, and begins a line that looks like one of the command."""
HOSTILE_SCHEMA = {"type": "object", "properties": {HOSTILE: {"const": HOSTILE, "description": HOSTILE}}}
HOSTILE_EVENT = {
    "event": f"e{HOSTILE}",
    "kind": "value",
    "channel": HOSTILE,
    "doc": HOSTILE,
    "notes": [HOSTILE],
    "parameters": [{"name": HOSTILE, "schema": {"type": "string", "default": HOSTILE, "description": HOSTILE}}],
    "result": {"$ref": f"#/$defs/{HOSTILE}"},
}
HOSTILE_PARTS = [
    {"definition": {"name": HOSTILE, "schema": {**HOSTILE_SCHEMA, "title": HOSTILE, "description": HOSTILE}}},
    {"event": HOSTILE_EVENT},
    {"emits": HOSTILE_EVENT},
]


@asynccontextmanager
async def hostile_server(parts: Any = HOSTILE_PARTS) -> AsyncGenerator[str]:
    async with serving() as played:
        server = played.server
        server.of("wsrpc").on("describe", lambda after=None: {"items": parts, "next": None})
        server.on("value", lambda: [HOSTILE])

        @server.on("fail")
        def fail() -> None:
            raise RpcError(HOSTILE, code=HOSTILE, data=HOSTILE)

        @server.on("items")
        async def items() -> AsyncIterator[str]:
            yield HOSTILE

        @server.on("asks")
        async def asks(peer: Peer) -> None:
            await peer.request(HOSTILE)

        @server.on("open")
        async def opened(peer: Peer) -> None:
            await peer.emit(HOSTILE, HOSTILE)
            await peer.of(HOSTILE).emit("ready", [HOSTILE])

        @server.on("leave")
        async def leave(peer: Peer) -> None:
            await peer.close(4001, HOSTILE)

        @server.on_handshake
        def check(handshake: Handshake) -> None:
            if "x-refuse" in handshake.headers:
                handshake.reject(403, HOSTILE)

        yield played.url


@pytest.mark.parametrize(
    "arguments",
    [
        "call value",
        "call fail",
        "call asks",
        "call leave",
        "call leave --verbose",
        "call value --header x-refuse:",
        "call value --verbose",
        "stream items",
        "stream fail",
        "upload fail --send /dev/null",
        "emit none --verbose",
        "listen --take 2",
        "listen --header x-refuse:",
        "describe",
        "describe --json",
        "describe --header x-refuse:",
        "types",
        "types --json",
        "types --header x-refuse:",
        "client",
        "client --header x-refuse:",
    ],
)
async def test_what_a_server_sends_moves_no_cursor_and_begins_no_line(arguments: str) -> None:
    command, *options = arguments.split()
    async with hostile_server() as url, terminal(command, url, *options) as found:
        await found.end()
        await found.shows("\n")
        shown = COLOUR.sub("", found.shown)
        assert set(filter(UNSAFE.match, shown)) <= {"\n"}, shown
        assert "gnp" in shown or command == "emit"
        assert "\nwsrpc: done" not in shown


async def test_a_close_reason_moves_no_cursor() -> None:
    async with serving() as played, terminal("listen", played.url) as found:
        await (await played.peers.get()).close(4001, HOSTILE)
        await found.shows("; reconnecting\n")
        reason = "\\u001b[2J\\u009b2J\\u0007\\u202egnp\\u2028\\u007f\\u000d\\nwsrpc: done"
        assert found.shown == f"wsrpc: the connection was lost (4001 {reason}); reconnecting\n"


@pytest.mark.parametrize("problem", [{"event": {**HOSTILE_EVENT, "kind": HOSTILE}}, {"event": {"event": 5}}])
@pytest.mark.parametrize("command", ["describe", "types", "client"])
async def test_a_description_that_cannot_be_used_moves_no_cursor(command: str, problem: Any) -> None:
    async with hostile_server([problem]) as url, terminal(command, url) as found:
        assert await found.end() in (1, 2)
        await found.shows("\n")
        assert found.shown.startswith("wsrpc: ") and found.shown.count("\n") == 1, found.shown
        assert not UNSAFE.search(found.shown.removesuffix("\n"))


async def test_json_has_no_control_characters_in_a_pipe_and_stays_the_same_value() -> None:
    async with hostile_server() as url:
        out = await prints("call", url, "value")
        assert not UNSAFE.search(out.removesuffix("\n")) and json.loads(out) == [HOSTILE]


@pytest.mark.parametrize("command", ["types", "types --json", "client"])
async def test_generated_files_have_no_control_characters(command: str, tmp_path: Path) -> None:
    async with hostile_server() as url:
        assert (await run(*command.split(), url, "-o", "file", cwd=tmp_path)).code == 0
        assert set(filter(UNSAFE.match, (tmp_path / "file").read_text("utf-8"))) == {"\n"}


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

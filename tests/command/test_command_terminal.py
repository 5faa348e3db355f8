"""`wsrpc` on a terminal: readable values, Ctrl-C and Ctrl-D as they are typed.

The terminal is a pseudo-terminal of the system, which does what matters here: it is one for `isatty`, it turns Ctrl-C
into SIGINT and Ctrl-D into the end of the input.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from command_process import PATIENCE, prints, run, serving, start

from wsrpc import Handshake, Peer, RpcError

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """A terminal with a command in it, and everything that it has shown."""

    def __init__(self, process: Process, controller: int, encoding: str) -> None:
        self.process = process
        self._encoding = encoding
        self.shown = ""
        self._controller = controller
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        asyncio.get_running_loop().add_reader(controller, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._controller, 65536)
        except OSError:  # Linux's way of saying that nobody has the terminal open any more
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._controller)
            self._over.set()
        self.shown += data.decode(self._encoding).replace("\r\n", "\n")
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
        """Wait for the end of the command, and until the terminal has shown everything."""
        async with asyncio.timeout(PATIENCE):
            await self._over.wait()
            return await self.process.wait()


@asynccontextmanager
async def terminal(*arguments: str, encoding: str = "utf-8", **options: Any) -> AsyncGenerator[Terminal]:
    """Run a command in a terminal of its own."""
    controller, other = pty.openpty()

    def prepare() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C goes to who has it as its terminal

    try:
        options = {"prepare": prepare, **options}
        process = await start(*arguments, stdin=other, stdout=other, stderr=other, **options)
    finally:
        os.close(other)
    found = Terminal(process, controller, encoding)
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
        return found.shown


VALUE = '{"name": "Ada", "list": [1, null], "empty": []}'
READABLE = '{\n  "name": "Ada",\n  "list": [\n    1,\n    null\n  ],\n  "empty": []\n}\n'


async def test_values_are_indented() -> None:
    async with serving() as played:
        assert await screen("call", played.url, "echo", VALUE) == READABLE


@pytest.mark.parametrize(("encoding", "shown"), [("cp1252", "ä \\u0142 \\U0001f642"), ("utf-8", "ä ł 🙂")])
async def test_a_terminal_shows_what_its_encoding_has(encoding: str, shown: str) -> None:
    """It got UTF-8, whatever its encoding."""
    env = {"PYTHONIOENCODING": encoding}
    async with serving() as played:
        async with terminal("call", played.url, "echo", '"ä ł 🙂"', env=env, encoding=encoding) as found:
            assert await found.end() == 0
            assert found.shown == f'"{shown}"\n'
        async with terminal("call", played.url, "none ä ł 🙂", env=env, encoding=encoding) as found:
            assert await found.end() == 1
            assert found.shown == f"wsrpc: No event listener for 'none {shown}'\n"


async def test_programs_get_utf_8_whatever_the_locale() -> None:
    env = {"PYTHONIOENCODING": "utf-16", "LC_ALL": "C", "PYTHONUTF8": "0"}
    async with serving() as played:
        assert await prints("call", played.url, "echo", '"ä ł 🙂"', env=env) == '"ä ł 🙂"\n'


async def test_a_pipe_that_does_not_block_gets_everything() -> None:
    """Node and others share such pipes with their children. They may be full."""
    text = "x" * 1_000_000
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, encoding="utf-8") as pipe:
        async with serving() as played:
            process = await start("call", played.url, "echo", f'"{text}"', stdout=writing)
            os.close(writing)
            assert await asyncio.to_thread(pipe.read) == f'"{text}"\n'
            assert await process.wait() == 0


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
async def hostile_server() -> AsyncGenerator[str]:
    async with serving() as played:
        server = played.server
        server.of("wsrpc").on("describe", lambda after=None: {"items": HOSTILE_PARTS, "next": None})
        server.on("value", lambda: [HOSTILE])

        @server.on("fail")
        def fail() -> None:
            raise RpcError(HOSTILE, code=HOSTILE, data=HOSTILE)

        @server.on("items")
        async def items() -> AsyncIterator[str]:
            yield HOSTILE

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
        *("call value", "call fail", "call leave", "call value --verbose", "stream items", "emit none --verbose"),
        *("listen --take 2", "describe", "describe --header x-refuse:", "types", "client"),
    ],
)
async def test_what_a_server_sends_moves_no_cursor_and_begins_no_line(arguments: str) -> None:
    command, *options = arguments.split()
    async with hostile_server() as url, terminal(command, url, *options) as found:
        await found.end()
        shown = found.shown
        assert set(filter(UNSAFE.match, shown)) <= {"\n"}, shown
        assert "gnp" in shown or command == "emit"
        assert "\nwsrpc: done" not in shown


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
    async with serving() as played, terminal("listen", played.url) as found:
        peer = await played.peers.get()
        await peer.of("chat").emit("said", "Ada", {"text": "hi"})
        await peer.emit("ready")
        await found.shows("ready")
        found.types(CTRL_C)
        assert await found.end() == 130
        lines = re.sub(r"\d\d:\d\d:\d\d\.\d\d\d", "TIME", found.shown)
        assert lines == 'TIME chat: said "Ada" {"text":"hi"}\nTIME ready\n^Cwsrpc: interrupted: 2 events have come\n'


async def test_ctrl_c_stops_the_handler() -> None:
    async with serving() as played, terminal("call", played.url, "hang") as found:
        assert await played.started.get() == "hang"
        found.types(CTRL_C)
        assert await played.ended.get() == ("hang", "interrupted")
        assert await found.end() == 130
        assert "wsrpc: interrupted: hang was cancelled\n" in found.shown


async def test_lines_are_uploaded_as_they_are_typed() -> None:
    async with serving() as played, terminal("call", played.url, "total", "-") as found:
        assert await played.started.get() == "total"
        found.types("1\n")
        assert await played.started.get() == "total 1"
        found.types("20\n")
        assert await played.started.get() == "total 21"
        found.types(CTRL_D)
        assert await found.end() == 0
        assert found.shown == "1\n20\n21\n"

"""docs/tutorial: its reader's folder is filled and its commands are run, page by page, as the pages say.

A block with a title holds a file, or what happens in a terminal: commands after ``$``, or the output that follows. The
port is replaced by a free one, and times in the output are not compared.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
from asyncio.subprocess import STDOUT, Process
from pathlib import Path
from typing import NamedTuple

import pytest
from programs import PYTHON, ROOT, free_port, start

TUTORIAL = ROOT / "docs" / "tutorial"
EXAMPLE = ROOT / "examples" / "todo"
PAGES = ["index.md", "server.md", "handlers.md", "client.md", "browser.md", "streams.md", "drops.md", "tests.md"]
PORT = "8080"
COMMANDS = {"pytest": [PYTHON[0], "-m", "pytest"], "python": PYTHON, "wsrpc": [PYTHON[0], "-m", "wsrpc"]}
UNTIL_INTERRUPTED = ("python todo.py", "python webapp.py", "python todo_client.py")


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks_of(page: str) -> list[Block]:
    text = (TUTORIAL / page).read_text("utf-8")
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?[^\n]*\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    return [Block(*block) for block in found]


def commands_of(block: Block) -> list[str]:
    return re.findall(r"^\$ (.*)$", block.text, re.MULTILINE)


def is_terminal(block: Block) -> bool:
    return block.title.startswith("Terminal ")


# ---------------------------------------------------------------- a reader


class Terminal:
    """Runs one command after another. A command that is still running is interrupted before the next one."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._process: Process | None = None
        self.unread: list[str] = []

    async def run(self, command: str) -> None:
        await self.interrupt()
        name, *arguments = shlex.split(command.replace(PORT, str(self._port)))
        self._process = await start(*COMMANDS[name], *arguments, cwd=self._folder, stderr=STDOUT)
        if command not in UNTIL_INTERRUPTED:
            assert self._process.stdout is not None
            self.unread += (await self._process.stdout.read()).decode().splitlines()
            await self._process.wait()

    async def interrupt(self) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
        printed, _ = await self._process.communicate()
        assert "Traceback" not in printed.decode(), printed.decode()
        self._process = None

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    async def read(self, count: int) -> list[str]:
        """The next lines, without those about attempts to connect that failed, whose number depends on the time."""
        lines: list[str] = []
        while len(lines) < count:
            line = await self._next_line()
            if not line.startswith("could not connect: "):
                lines.append(line.replace(str(self._port), PORT))
        return lines

    async def _next_line(self) -> str:
        if self.unread:
            return self.unread.pop(0)
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, "the program has ended"
        return line.decode().rstrip("\n")


def without_chance(line: str) -> str:
    """Return a line without times, and ids and addresses of peers."""
    return re.sub(r"\bpeer [0-9a-f]{16} at [\w.:/]+", "peer …", re.sub(r"\d+\.\d+ ?s\b", "… s", line))


async def follow(blocks: list[Block], folder: Path, port: int, terminals: dict[str, Terminal]) -> None:
    for block in blocks:
        if not block.title:
            continue
        if not is_terminal(block):
            file = folder / block.title
            file.parent.mkdir(exist_ok=True)
            file.write_text(block.text.replace(PORT, str(port)), "utf-8")
            continue
        terminal = terminals.setdefault(block.title, Terminal(folder, port))
        if block.language == "console":
            for command in commands_of(block):
                await terminal.run(command)
        else:
            if block.text[0] in "[{":  # an answer, which `wsrpc call` indents on a terminal, and only there
                [line] = await terminal.read(1)
                assert block.text.rstrip("\n") == json.dumps(json.loads(line), indent=2)
                continue
            shown = [without_chance(line) for line in block.text.splitlines()]
            # Where a session continues, nothing says whether its events or `on_reconnect` come first.
            printed = [without_chance(line) for line in await terminal.read(len(shown))]
            in_order = "-- back: nothing was missed" not in shown
            assert printed == shown if in_order else sorted(printed) == sorted(shown)
            assert terminal.unread == []


async def test_the_reader_sees_what_the_pages_show(tmp_path: Path) -> None:
    terminals: dict[str, Terminal] = {}
    port = free_port()
    try:
        for page in PAGES:
            await follow(blocks_of(page), tmp_path, port, terminals)
        for terminal in terminals.values():
            await terminal.interrupt()
    finally:
        for terminal in terminals.values():
            await terminal.kill()


# ---------------------------------------------------------------- what the pages say besides


def test_every_page_is_followed() -> None:
    assert {path.name for path in TUTORIAL.glob("*.md")} == set(PAGES)


def test_the_files_are_those_of_the_example() -> None:
    """In the end: the first step of `todo.py` has a file of its own."""
    shown: dict[str, list[str]] = {}
    for page in PAGES:
        for block in blocks_of(page):
            if block.title and not is_terminal(block):
                shown.setdefault(block.title, []).append(block.text)
    assert (EXAMPLE / "step_1.py").read_text("utf-8").endswith(f'"""\n\n{shown["todo.py"][0]}')
    del shown["list.txt"]  # the reader's own tasks
    for name, texts in shown.items():
        assert texts[-1] == (EXAMPLE / name).read_text("utf-8"), name
    assert {name for name, texts in shown.items() if len(texts) > 1} == {"todo.py", "webapp.py", "todo_client.py"}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_or_output_says_where_it_belongs(page: str) -> None:
    """Without a title it would not be followed; excerpts of a file and the commands that install have none."""
    for block in blocks_of(page):
        if not block.title:
            is_excerpt = block.language == "python" and block.text.strip() in (EXAMPLE / "todo.py").read_text("utf-8")
            assert is_excerpt or page == "index.md", block


def test_the_commands_that_install() -> None:
    """They need a package index, so they are not run here."""
    commands = [command for block in blocks_of("index.md") for command in commands_of(block)]
    pip = "pip install '../wsrpc[aiohttp,cli]' pytest pytest-asyncio"
    venv = ["mkdir todo", "cd todo", "python3 -m venv .venv", ". .venv/bin/activate"]
    assert commands == [*venv, pip, "wsrpc --version"]

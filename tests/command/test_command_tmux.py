"""`wsrpc` in tmux: the screens that its users see, after their terminal has wrapped and overwritten lines."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from command_process import COMMAND, PATIENCE, environment, serving

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
POLL = 0.05
"""Seconds between two looks at the screen. tmux does not tell when it changes."""


class Screen:
    """Window of tmux with a shell, in which ``wsrpc`` is the command. Lines that tmux has wrapped are joined."""

    def __init__(self, tmux: list[str]) -> None:
        self._tmux = tmux

    async def _run(self, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *self._tmux, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def ask(self, format: str) -> str:
        """Return what a format of tmux stands for."""
        return (await self._run("display-message", "-p", format)).rstrip("\n")

    async def types(self, line: str) -> None:
        """Type a line after the prompt, on an empty screen."""
        await self._run("send-keys", "C-l")
        await self.shows(lambda text: text == "$")
        await self._run("send-keys", "-l", line)
        await self._run("send-keys", "Enter")

    async def presses(self, key: str) -> None:
        await self._run("send-keys", key)

    async def shows(self, expected: str | Callable[[str], object], *, colours: bool = False) -> str:
        """Wait until the screen contains ``expected``, or fulfils it, and return the screen without blank ends."""
        text = ""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    captured = await self._run("capture-pane", "-p", "-J", *(["-e"] if colours else []))
                    text = "\n".join(line.rstrip() for line in captured.splitlines()).rstrip()
                    if expected in text if isinstance(expected, str) else expected(text):
                        return text
                    await asyncio.sleep(POLL)
        except TimeoutError as exc:
            raise AssertionError(f"the screen still shows:\n{text}") from exc

    async def ends(self, *, colours: bool = False) -> str:
        """Wait for the prompt after a command, and return what the screen shows between the two prompts."""
        shown = await self.shows(lambda text: COLOUR.sub("", text).endswith("\n$"), colours=colours)
        return shown.partition("\n")[2].rpartition("\n")[0]


@asynccontextmanager
async def screen(columns: int, folder: Path) -> AsyncGenerator[Screen]:
    """Open a screen of so many columns, in a tmux server of its own."""
    assert shutil.which("tmux"), "this test needs tmux: apt-get install tmux"
    name = f"wsrpc-{os.getpid()}-{columns}"
    (folder / "bashrc").write_text(
        f'PS1="$ "\nunset HISTFILE PROMPT_COMMAND\nwsrpc() {{ {shlex.join(COMMAND)} "$@"; }}\n', "utf-8"
    )
    shell = shlex.join(["bash", "--noprofile", "--rcfile", str(folder / "bashrc"), "-i"])
    tmux = ["tmux", "-L", name, "-f", "/dev/null"]
    size = ["-x", str(columns), "-y", "24"]
    variables = {**environment({"LC_ALL": "C.UTF-8"}), "TERM": "screen-256color"}
    variables.pop("TMUX", None)
    subprocess.run([*tmux, "new-session", "-d", *size, "-c", str(folder), shell], env=variables, check=True)
    found = Screen(tmux)
    try:
        await found.shows("$")
        yield found
    finally:
        socket = await found.ask("#{socket_path}")
        subprocess.run([*tmux, "kill-server"], check=True)
        Path(socket).unlink(missing_ok=True)  # tmux 3.3 leaves it


@pytest.mark.parametrize("columns", [80, 40])
async def test_an_upload_shows_one_line_of_progress(tmp_path: Path, columns: int) -> None:
    """Also in a window that is too narrow for the line, and if the upload is interrupted."""
    (tmp_path / "items").write_text(f"{1:1000}\n" * 1000, "utf-8")
    async with serving() as played, screen(columns, tmp_path) as found:

        async def begins(items: AsyncIterator[int]) -> None:
            await anext(items)
            await asyncio.Event().wait()

        played.server.on("begins", begins)
        await found.types(f"wsrpc upload {played.url} begins --send items; echo code $?")
        assert len((await found.shows("sent ")).rpartition("\n")[2]) <= columns - 3
        await found.presses("C-c")
        progress, interrupted, code = (await found.ends()).split("\n")
        whole = r"sent ([\d,]+ items?), \d.* of 977\.5 KiB, \d+ %"
        count = re.fullmatch(whole if columns == 80 else r"sent ([\d,]+ items?), .*", progress)
        assert count is not None, progress
        assert interrupted == f"wsrpc: interrupted: the upload to begins was cancelled after {count[1]}"
        assert code == "code 130"

        await found.types(f"wsrpc upload {played.url} total --send items")
        progress, total = (await found.ends()).split("\n")
        assert progress == "sent 1,000 items, 977.5 KiB of 977.5 KiB, 100 %"[: columns - 3].rstrip()
        assert total == "1000"


async def test_a_narrow_window(tmp_path: Path) -> None:
    async with serving() as played, screen(40, tmp_path) as found:
        text = "a long text that no window of forty columns has room for"
        await found.types(f"""wsrpc call {played.url} echo '["{text}"]'""")
        shown = await found.ends(colours=True)
        assert COLOUR.sub("", shown) == f'[\n  "{text}"\n]' and len({*COLOUR.findall(shown)}) > 1
        await found.types(f"wsrpc call {played.url} fail")
        assert await found.ends() == 'wsrpc: no money\\n\\x1b[31mleft [broke], with the data {"cents":5}'
        await found.types(f"wsrpc call {played.url} hang; echo code $?")
        assert await played.started.get() == "hang"
        await found.presses("C-c")
        assert await found.ends() == "^Cwsrpc: interrupted: hang was cancelled\ncode 130"

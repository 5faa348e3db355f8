"""examples/upload on two workers, in Chromium and in Firefox: a file that is sent in spite of all arrives as it is."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import signal
from asyncio.subprocess import STDOUT
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, firefox
from leftovers import turns_until
from programs import PYTHON, ROOT, UVICORN, free_port, listening, start

from wsrpc.testing import FaultProxy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

EXAMPLE = ROOT / "examples" / "upload"
MB = 1_000_000
LARGE = 50 * MB
SMALL = 8 * MB
AHEAD = 1 * MB
"""Bytes that a page may have sent, in frames, before they are written: the window, and the buffers of the network."""

Browser = chromium.Chromium | firefox.DrivenFirefox
Tab = chromium.Tab | firefox.Tab

WATCH = """(() => {
    globalThis.shown = []
    const bar = document.querySelector("progress")
    new MutationObserver(() => shown.push(bar.value)).observe(bar, { attributes: true })
})()"""


class Site:
    """The example as its reader runs it, behind a proxy.

    Attributes:
        workers: the ids of its processes.
        folder: where it saves the files.
    """

    def __init__(self, proxy: FaultProxy, workers: set[int], folder: Path) -> None:
        self.proxy = proxy
        self.url = f"http://127.0.0.1:{proxy.port}/"
        self.workers = workers
        self.folder = folder

    @property
    def written(self) -> int:
        """Bytes of the only file that is not complete."""
        [part] = self.folder.glob("*.part")
        return part.stat().st_size

    async def sent(self, count: int) -> None:
        """Wait until pages have sent so many bytes from now on. The proxy is in this loop: it passes on little more."""
        until = self.proxy.bytes_up + count
        await turns_until(lambda: self.proxy.bytes_up >= until)

    def check(self, *contents: bytes) -> None:
        """The files are complete, and are these ones."""
        files = [*self.folder.iterdir()]
        assert {path.suffix for path in files} == {""}
        saved = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
        assert saved == sorted(hashlib.sha256(content).hexdigest() for content in contents)


@asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[Site]:
    command = ["-m", "wsrpc", "serve", "server:app", "--port", str(free_port()), "--workers", "2"]
    process = await start(*PYTHON, *command, cwd=EXAMPLE, env={"UPLOADS": str(folder)}, stderr=STDOUT)
    assert process.stdout is not None
    async with listening(process, UVICORN) as url, FaultProxy(url.replace("http", "ws", 1)) as proxy:
        workers: set[int] = set()
        while len(workers) < 2:
            line = (await process.stdout.readline()).decode()
            assert line, "the workers have not started"
            workers |= {int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", line)}
        yield Site(proxy, workers, folder)


@pytest.fixture(params=["chromium", "firefox"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def browsing(kind: str, folder: Path) -> AsyncGenerator[Browser]:
    folder.mkdir()
    async with chromium.chromium(folder) if kind == "chromium" else firefox.driven_firefox(folder) as browser:
        yield browser


async def begin(tab: Tab, file: Path) -> None:
    """Choose a file, and send it."""
    await tab.choose(file)
    await tab.evaluate(WATCH)
    await press(tab, "Upload")


async def press(tab: Tab, button: str) -> None:
    await tab.evaluate(
        f"[...document.querySelectorAll('button')].find((each) => each.textContent === '{button}').click()"
    )


async def state(tab: Tab, wanted: str) -> None:
    await tab.until(f"document.querySelector('output').textContent.includes('{wanted}')")


def save(file: Path, seed: int, size: int) -> bytes:
    content = random.Random(seed).randbytes(size)
    file.write_bytes(content)
    return content


def ended(pid: int) -> bool:
    """Whether a process that was killed does nothing more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def memory(pid: int, name: str) -> int:
    """Bytes of a process: ``VmRSS`` now, ``VmHWM`` at most."""
    [line] = re.findall(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
    return int(line) * 1024


async def test_a_file_arrives_over_a_drop_a_killed_worker_and_a_reload(kind: str, tmp_path: Path) -> None:
    content = save(tmp_path / "large.bin", 72, LARGE)
    async with running(tmp_path / "uploads") as site, browsing(kind, tmp_path / "profile") as browser:
        victim, survivor = sorted(site.workers)
        before = memory(survivor, "VmRSS")
        os.kill(survivor, signal.SIGSTOP)
        tab = await browser.open(site.url)
        await begin(tab, tmp_path / "large.bin")
        await site.sent(10 * MB)
        os.kill(survivor, signal.SIGCONT)
        async with site.proxy.stall("up"):
            os.kill(victim, signal.SIGKILL)
            await turns_until(lambda: ended(victim))
            written = site.written
        await site.sent(10 * MB)
        site.proxy.drop()  # it continues where it was, or at the other worker as after the kill
        await site.sent(10 * MB)
        async with site.proxy.stall("up"):
            shown: list[int] = await tab.evaluate("shown")
            await tab.evaluate("{ window.old = true; setTimeout(() => location.reload()) }")
        lost = next(index for index, (one, other) in enumerate(pairwise(shown), 1) if other <= one)
        assert shown[lost] == written <= shown[lost - 1] <= written + AHEAD
        assert site.written < LARGE
        await tab.until("!window.old && document.readyState === 'complete'")
        await begin(tab, tmp_path / "large.bin")
        await state(tab, "complete")
        shown = await tab.evaluate("shown")
        assert shown[0] > written + 10 * MB and shown == sorted({*shown}) and shown[-1] == LARGE
        site.check(content)
        assert memory(survivor, "VmHWM") - before < LARGE / 2

"""examples/upload on two workers, in Chromium and in Firefox: a file that is sent in spite of all arrives as it is."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from cluster_workers import environment, running
from programs import ROOT, free_port
from waiting import until

from browser import chromium, firefox
from wsrpc.testing import FaultProxy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

EXAMPLE = ROOT / "examples" / "upload"
MB = 1_000_000
LARGE = 50 * MB
SMALL = 8 * MB
AHEAD = 1 * MB
"""Bytes that a page may have sent, in frames, before they are written: the window, and the buffers of the network."""

Stage = tuple["Site", chromium.Chromium | firefox.DrivenFirefox]
Tab = chromium.Tab | firefox.Tab

CHANGED = {chromium.Chromium: "NotReadableError", firefox.DrivenFirefox: "the file is incomplete, or has changed"}
"""What the page shows when a file has changed: Chromium does not read it any more, Firefox reads the new content."""

WATCH = """(() => {
    globalThis.shown = []
    const bar = document.querySelector("progress")
    new MutationObserver(() => shown.push(bar.value)).observe(bar, { attributeFilter: ["value"] })
})()"""


class Site:
    """The example as its reader runs it, behind a proxy.

    Attributes:
        workers: the ids of its processes.
        folder: where it receives and saves the files.
    """

    def __init__(self, proxy: FaultProxy, workers: set[int], folder: Path) -> None:
        self.proxy = proxy
        self.url = f"http://127.0.0.1:{proxy.port}/"
        self.workers = workers
        self.folder = folder

    @property
    def written(self) -> int:
        """Bytes of the only file that is not complete."""
        [part] = self.parts
        return part.stat().st_size

    @property
    def parts(self) -> list[Path]:
        """The files that are not complete."""
        return [*self.folder.glob("received/*/*.part")]

    async def sent(self, count: int) -> None:
        """Wait until pages have sent so many bytes from now on. The proxy is in this loop: it passes on little more."""
        enough = self.proxy.bytes_up + count
        await until(lambda: self.proxy.bytes_up >= enough)

    def check(self, *contents: bytes) -> None:
        """The files are complete, and are these ones."""
        assert self.parts == []
        saved = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in self.folder.glob("saved/*"))
        assert saved == sorted(hashlib.sha256(content).hexdigest() for content in contents)


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[Site]:
    """Run the example as its reader does."""
    options, env = ["--port", str(free_port()), "--workers", "2"], {**environment(""), "UPLOADS": str(folder)}
    async with running(EXAMPLE, "server:app", *options, env=env, command=("wsrpc", "serve")) as command:
        port = await command.port()
        workers = {int(await command.logged(r"Started server process \[(\d+)\]", times)) for times in (1, 2)}
        async with FaultProxy(f"ws://127.0.0.1:{port}") as proxy:
            yield Site(proxy, workers, folder)


@pytest_asyncio.fixture(loop_scope="session", scope="module", params=["chromium", "firefox"])
async def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    """Two workers and a browser, for all tests."""
    folder = tmp_path_factory.mktemp(request.param)
    driven = chromium.chromium if request.param == "chromium" else firefox.driven_firefox
    async with serving(folder / "uploads") as site, driven(tmp_path_factory.mktemp("profile")) as browser:
        yield site, browser


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


def make(folder: Path, seed: int, size: int) -> tuple[Path, bytes]:
    """Make a file, or another content of it."""
    content = random.Random(seed).randbytes(size)
    file = folder / "file.bin"
    file.write_bytes(content)
    return file, content


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


@pytest.fixture(autouse=True)
def no_files(stage: Stage) -> None:
    """Nothing is there of the test before."""
    for path in stage[0].folder.rglob("*"):
        if path.is_file():
            path.unlink()


async def test_a_file_arrives_over_a_killed_worker_a_drop_and_a_reload(stage: Stage, tmp_path: Path) -> None:
    site, browser = stage
    file, content = make(tmp_path, 1, LARGE)
    victim, survivor = sorted(site.workers)
    before = memory(survivor, "VmRSS")
    os.kill(survivor, signal.SIGSTOP)  # so that the page connects to the other one
    tab = await browser.open(site.url)
    await begin(tab, file)
    await site.sent(10 * MB)
    os.kill(survivor, signal.SIGCONT)
    async with site.proxy.stall("up"):
        os.kill(victim, signal.SIGKILL)
        await until(lambda: ended(victim))
        written = site.written
    await site.sent(10 * MB)
    site.proxy.drop()  # the session goes on, or ends if the page reaches a worker that has come in place of the other
    await site.sent(10 * MB)
    async with site.proxy.stall("up"):
        shown: list[int] = await tab.evaluate("shown")
        await tab.evaluate("(window.old = true) && void setTimeout(() => location.reload())")
    lost = next(index for index, (one, other) in enumerate(pairwise(shown), 1) if 0 < other <= one)
    assert shown[lost] == written <= shown[lost - 1] <= written + AHEAD
    assert written + 10 * MB < site.written < LARGE
    await tab.until("!window.old && document.readyState === 'complete'")
    await begin(tab, file)
    await state(tab, "complete")
    shown = await tab.evaluate("shown")
    assert shown[0] == 0 and shown[1] > written + 10 * MB and shown == sorted(shown) and shown[-1] == LARGE
    site.check(content)
    assert memory(survivor, "VmHWM") - before < LARGE / 2


async def test_a_stopped_upload_ends_and_continues_when_the_user_says_so(stage: Stage, tmp_path: Path) -> None:
    site, browser = stage
    file, content = make(tmp_path, 2, SMALL)
    tab = await browser.open(site.url)
    await begin(tab, file)
    await site.sent(2 * MB)
    async with site.proxy.stall("up"):
        await press(tab, "Stop")
        await state(tab, "stopped")
    await tab.evaluate(WATCH)
    await press(tab, "Upload")
    await state(tab, "complete")
    shown = await tab.evaluate("shown")
    assert MB // 2 < next(filter(None, shown)) < SMALL and shown == sorted(shown) and shown[-1] == SMALL
    site.check(content)


async def test_a_file_that_has_changed_meanwhile_is_another_file(stage: Stage, tmp_path: Path) -> None:
    site, browser = stage
    file, _ = make(tmp_path, 3, SMALL)
    tab = await browser.open(site.url)
    await begin(tab, file)
    await site.sent(2 * MB)
    async with site.proxy.stall("up"):
        _, content = make(tmp_path, 4, SMALL)
    await state(tab, CHANGED[type(browser)])
    assert [*site.folder.glob("saved/*")] == []
    await begin(tab, file)
    await state(tab, "complete")
    shown = await tab.evaluate("shown")
    assert shown[0] == 0 and shown[-1] == SMALL
    for part in site.parts:
        assert part.stat().st_size < SMALL
        part.unlink()
    site.check(content)

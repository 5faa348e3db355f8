"""README.md: its browser page talks to its server, served as the page's first line says."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from browser.chat_server import ROOT
from browser.pages import PATIENCE
from playwright.async_api import Browser, expect
from programs import free_port, listening

from interop.node import JS

pytestmark = pytest.mark.asyncio(loop_scope="session")

README = (ROOT / "README.md").read_text("utf-8")


def block(beginning: str) -> str:
    [text] = re.findall(rf"^```\w+\n({re.escape(beginning)}.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return str(text)


async def test_the_page_greets(browser: Browser, tmp_path: Path) -> None:
    files, server = str(free_port()), str(free_port())
    page_file, server_file = block("<!-- page.html"), block("# server.py")
    assert "python -m http.server" in page_file and "8000" in page_file + server_file
    (tmp_path / "page.html").write_text(page_file.replace("8080", server), "utf-8")
    logs = "import logging\nlogging.basicConfig(level=logging.INFO)\n"
    (tmp_path / "server.py").write_text(logs + server_file.replace("8080", server).replace("8000", files), "utf-8")
    (tmp_path / "node_modules").symlink_to(JS / "node_modules")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    serving = await asyncio.create_subprocess_exec(
        *(sys.executable, "server.py"), cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with listening(serving):
        static = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-m", "http.server", files, "--bind", "127.0.0.1"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert static.stdout is not None
        await static.stdout.readline()  # it listens
        try:
            context = await browser.new_context()
            context.set_default_timeout(PATIENCE)
            page = await context.new_page()
            await page.goto(f"http://127.0.0.1:{files}/page.html")
            await expect(page.locator("body")).to_have_text("Hello, Grace!")
            await context.close()
        finally:
            static.terminate()
            await static.wait()

"""docs/how-to/see-what-happens.md: its programs, with the lines that it adds, and the commands that it shows."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
from asyncio.subprocess import STDOUT
from pathlib import Path
from urllib.request import urlopen

from pages import HOW_TO, python_blocks
from programs import PYTHON, UVICORN_STARTED, Screen, free_port, listening, start
from test_docs import program_of

PAGE = HOW_TO / "see-what-happens.md"
PORT = "8000"
SAYS = 'device.on("open", lambda: print("connected"))'


async def test_the_programs_and_commands_of_the_page(tmp_path: Path) -> None:
    port = str(free_port())
    to_service, to_device = python_blocks("see-what-happens")
    device = program_of(PAGE, "device.py")
    assert "\nasync def main" in device
    for name, text in (
        ("app.py", program_of(PAGE, "app.py") + to_service),
        ("device.py", device.replace("\nasync def main", f"\n{to_device}\n{SAYS}\n\nasync def main")),
        ("telemetry.py", program_of(PAGE, "telemetry.py")),
    ):
        (tmp_path / name).write_text(text.replace(PORT, port), "utf-8")
    shown = re.findall(r"^\$ wsrpc (call|kick) (.*)\n(.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [word for word, _, _ in shown] == ["call", "call", "kick"]
    service = await start(PYTHON[0], "-m", "wsrpc", "serve", "app:app", "--port", port, cwd=tmp_path)
    async with listening(service, UVICORN_STARTED, signal.SIGTERM):
        process = await start(*PYTHON, "device.py", cwd=tmp_path)
        try:
            screen = Screen(process)
            assert await screen.line() == "connected"
            for word, rest, printed in shown:
                words = shlex.split(rest.replace(PORT, port))
                env = {"WSRPC_TOKEN": "of-the-operator"}
                ran = await start(PYTHON[0], "-m", "wsrpc", word, *words, stderr=STDOUT, env=env)
                out, _ = await ran.communicate()
                assert out.decode() == f"{printed}\n"
            await screen.line_like(r'"service.name": "front-door"')
            [counted] = re.findall(r"^wsrpc_calls_total\{.*$", PAGE.read_text("utf-8"), re.MULTILINE)
            page = await asyncio.to_thread(lambda: urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
            assert counted in page.splitlines()
        finally:
            process.kill()
            await process.communicate()

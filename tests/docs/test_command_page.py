"""docs/reference/command-line.md: each command that it shows prints what it shows."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from pathlib import Path

from programs import listening
from test_docs import PORT, blocks_of, program_of

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "reference" / "command-line.md"
TIME = re.compile(r'"time":"[-0-9T:.+]+"')


def examples() -> list[tuple[str, str]]:
    """The commands of the page, each with what it prints."""
    found: list[tuple[str, str]] = []
    for block in blocks_of(PAGE):
        if block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, printed = part.partition("\n")
                found.append((command, printed))
    return found


async def test_the_commands_of_the_page(tmp_path: Path) -> None:
    program = program_of(PAGE, "server.py").replace(PORT, "0")
    (tmp_path / "server.py").write_text(f"import logging\nlogging.basicConfig(level=logging.INFO)\n{program}", "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "server.py"), cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE
    )
    async with listening(process) as url:
        function = f'wsrpc() {{ {shlex.quote(sys.executable)} -m wsrpc "$@"; }}\n'
        shown = examples()
        assert len(shown) == PAGE.read_text("utf-8").count("\n$ ")
        for command, printed in shown:
            command = command.replace(f"ws://127.0.0.1:{PORT}", url.rstrip("/"))
            ran = await asyncio.create_subprocess_exec(
                *("bash", "-c", function + command),
                cwd=tmp_path,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            out, _ = await ran.communicate()
            assert TIME.sub("TIME", out.decode()) == TIME.sub("TIME", printed), command

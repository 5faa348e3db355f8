"""docs/reference/command-line.md: each command that it shows prints what it shows."""

from __future__ import annotations

import re
import shlex
from asyncio.subprocess import STDOUT
from pathlib import Path

from programs import PYTHON, ROOT, listening, start
from test_docs import PORT, blocks_of, program_of

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
    async with listening(await start(*PYTHON, "server.py", cwd=tmp_path)) as url:
        function = f'wsrpc() {{ {shlex.quote(PYTHON[0])} -m wsrpc "$@"; }}\n'
        shown = examples()
        assert len(shown) == PAGE.read_text("utf-8").count("\n$ ")
        for command, printed in shown:
            command = command.replace(f"ws://127.0.0.1:{PORT}", url.rstrip("/"))
            ran = await start("bash", "-c", function + command, cwd=tmp_path, stderr=STDOUT)
            out, _ = await ran.communicate()
            assert TIME.sub("TIME", out.decode()) == TIME.sub("TIME", printed), command

"""Every program in examples/ is run, as its reader would run it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from programs import listening, printed_by

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAIR = {"server.py", "client.py"}
ALONE = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in PAIR)


async def start(name: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(EXAMPLES / name), *arguments),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(name: str, *arguments: str) -> str:
    return await printed_by(await start(name, *arguments))


@pytest.mark.parametrize("name", ALONE)
async def test_an_example_that_needs_nothing_else_runs(name: str) -> None:
    assert await run(name)


async def test_the_demo_shows_each_thing_once() -> None:
    printed = (await run("demo.py")).splitlines()
    shown = ["add(", "middle(", "double(", "greet(", "nap(", "withdraw(", "never ran", "event say("]
    assert len(printed) == len(shown)
    assert [part for part, line in zip(shown, printed, strict=True) if part not in line] == []


async def test_the_demo_fails_when_something_is_not_as_it_should_be(tmp_path: Path) -> None:
    wrong = (EXAMPLES / "demo.py").read_text("utf-8").replace("return a + b", "return a - b")
    (tmp_path / "demo.py").write_text(wrong, "utf-8")
    process = await start(str(tmp_path / "demo.py"))
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "demo failed: expected 5, got -1" in err.decode()


async def test_server_and_client_talk_to_each_other() -> None:
    async with listening(await start("server.py", "0")) as url:
        printed = (await run("client.py", url)).splitlines()
    assert printed[0] == "somebody shouted 'welcome, 1 of you are here'"
    assert re.fullmatch(r"the server's clock says \d\d:\d\d:\d\d UTC", printed[1])
    assert printed[2:] == ["nowhere is 48 hours east [unknown_zone]", "0 others heard it", "bye"]

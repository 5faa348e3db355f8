"""A download that its consumer cannot keep up with takes no more memory the longer it is.

``WSRPC_SOAK=1`` downloads 1 GiB instead of an amount that fits an ordinary test run.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from programs import listening, printed_by

ROOT = Path(__file__).parent.parent.parent
PROGRAM = Path(__file__).with_name("slow_download.py")
MiB = 1024 * 1024

SOAK = os.environ.get("WSRPC_SOAK") == "1"
SIZE, BOUND = (1024 * MiB, 64 * MiB) if SOAK else (48 * MiB, 16 * MiB)


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(PROGRAM), *arguments),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.timeout(300 if SOAK else 60)
async def test_a_slow_consumer_makes_neither_side_keep_what_it_has_not_read() -> None:
    async with listening(await start("serve")) as url:
        report = json.loads(await printed_by(await start(url, str(SIZE))))
    print(", ".join(f"{name} {value / MiB:,.1f} MiB" for name, value in report.items()))  # rates are per second
    assert report["bytes"] == SIZE
    assert report["client_grown"] < BOUND
    assert report["server_grown"] < BOUND

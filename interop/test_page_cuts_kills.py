"""The server's process is killed, again and again, while a page calls it: what callers are told is true.

``WSRPC_SOAK=1`` kills it 100 times.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from effort import SEED, SOAK
from leftovers import nothing_left as nothing_left
from programs import ROOT, start

from interop.test_page_cuts import Codec, Page
from wsrpc.testing._proxied_connection import bound_socket

pytestmark = pytest.mark.usefixtures("nothing_left")

KILLS = 100 if SOAK else 2
PROGRAM = str(ROOT / "interop" / "mortal_server.py")


@asynccontextmanager
async def running(port: int, journal: Path) -> AsyncGenerator[None]:
    """A server's process, which is killed at the end of the block."""
    process = await start(sys.executable, PROGRAM, str(port), str(journal))
    try:
        assert process.stdout is not None
        assert await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.timeout(900 if SOAK else 90)
@pytest.mark.parametrize("codec", ["json", "msgpack"] if SOAK else ["msgpack"])
async def test_the_outcome_that_each_caller_in_a_page_gets_is_true(tmp_path: Path, codec: Codec) -> None:
    chance = random.Random(SEED)
    journal = tmp_path / "journal"
    with bound_socket(0) as keeper:  # keeps the port while nothing listens there
        port = keeper.getsockname()[1]
        async with Page.playing(f"ws://127.0.0.1:{port}/", codec, SEED) as page:
            await page.ask("load")
            for number in range(KILLS):
                async with running(port, journal):
                    await page.until("open")
                    # The session of before is gone, which the page learns on the new connection.
                    while page.statuses.count("connecting") <= number:
                        page.changed.clear()
                        await page.changed.wait()
                    await page.until("open")
                    await page.ask("more")
                    await page.ask("hold")
                    await asyncio.sleep(chance.uniform(0, 0.2))  # of the work
            async with running(port, journal):
                await page.until("open")
                seen = await page.ask("stop")
                await page.close()
    assert set(page.statuses) == {"connecting", "open", "detached", "closed"}
    check(seen, [int(line) for line in journal.read_text("ascii").splitlines()])


def check(seen: dict[str, Any], journal: list[int]) -> None:
    """Compare what callers were told with what has run."""
    ran = Counter(number for number in journal if number)
    outcomes: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for number, kind, ended in seen["ends"]:
        outcomes[kind, ended][ran[number]] += 1
    for (kind, ended), counts in outcomes.items():
        most = max(counts) if kind == "idempotent" else 1
        allowed = {"value": range(1, most + 1), "not_sent": range(1), "unknown": range(most + 1)}
        assert ended in allowed, f"{kind}: {ended}"
        assert set(counts) <= set(allowed[ended]), (kind, ended, counts)
    emitted = seen["emitted"]
    arrived = [number for number in journal if number in set(emitted)]
    assert arrived == sorted(set(arrived))  # each at most once, and in order
    place = {number: n for n, number in enumerate(emitted)}
    gaps = sum(place[after] - place[before] > 1 for before, after in pairwise(arrived))
    assert gaps <= KILLS  # what is lost is what was last sent on a connection
    assert set(ran) <= {number for number, _, _ in seen["ends"]} | set(emitted)
    assert outcomes["hold", "unknown"] == {1: KILLS} and arrived
    assert outcomes["idempotent", "value"] and not outcomes["idempotent", "unknown"]

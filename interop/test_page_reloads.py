"""Pages that are reloaded at random moments of streams with keys, on two workers: each reader has each item once.

``WSRPC_SOAK=1`` reloads 1,000 times.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from effort import SOAK
from keyed_workers import ITEMS, workers
from programs import printed_by, start

from interop.node import JS, find_node

KEYS, READERS, RELOADS = (25, 5, 8) if SOAK else (3, 3, 3)
"""Streams, pages that read each at the same time, and reloads of each page."""


@pytest.mark.timeout(900 if SOAK else 90)
async def test_each_reader_has_each_item_once(tmp_path: Path) -> None:
    async with workers(tmp_path) as those:
        counts = map(str, (KEYS, READERS, RELOADS))
        page = await start(find_node(), str(JS / "page_reloads.mjs"), those.url, *counts)
        *reloads, told = map(json.loads, (await printed_by(page)).splitlines())
        runs = those.runs()
    reached = {connection.pid for connection in runs.pop("connection")}
    for key, readers in told.items():
        [run] = runs.pop(key)
        assert readers == [[run.pid, *range(1, ITEMS)]] * READERS, key
    assert (runs, len(told), reached) == ({}, KEYS, {*those.killed})  # they are killed in the end
    assert len(reloads) == KEYS * READERS * RELOADS
    assert any(0 < position < ITEMS for position in reloads)

"""A page's client in Node, on bad networks: each use ends right on each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bad_networks import page_options, play
from effort import SOAK
from leftovers import nothing_left as nothing_left
from programs import printed_by, start

from interop.node import JS, find_node


async def play_in_node(urls: dict[str, str], greets: bool) -> Any:
    page = await start(find_node(), str(JS / "page_networks.mjs"), json.dumps(page_options(urls, greets)))
    return json.loads(await printed_by(page))


@pytest.mark.timeout(2400 if SOAK else 90)
@pytest.mark.usefixtures("nothing_left")
async def test_each_use_ends_right() -> None:
    await play(play_in_node)

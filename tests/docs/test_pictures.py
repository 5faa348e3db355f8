"""The pictures of runs: what they show is true in each run."""

from __future__ import annotations

import re

from programs import ROOT

from scripts import trace_picture
from scripts.drop_picture import DROP_AFTER, ITEMS, measure


async def test_the_picture_of_a_drop_shows_what_happens() -> None:
    ours, theirs = await measure()
    assert [number for _, number in ours.items] == list(range(ITEMS))
    assert len(ours.items) > DROP_AFTER
    drawn = (ROOT / "docs" / "images" / "drop.svg").read_text("utf-8")
    assert f"all {ITEMS} items, each once, in order" in drawn
    assert 0 < theirs.lost < ITEMS and f"of {ITEMS} items lost" in drawn


async def test_the_picture_of_a_trace_shows_what_happens() -> None:
    steps = await trace_picture.measure()
    here, there = (
        [("unlock", "page", 0), ("unlock", "service", 1)],
        [("open_lock", "service", 2), ("open_lock", "device", 3)],
    )
    assert [(step.name, step.process, step.depth) for step in steps] == [*here, *there]
    assert sorted(steps, key=lambda step: step.start) == steps
    drawn = trace_picture.PICTURE.read_text("utf-8")
    for text in (drawn, trace_picture.picture(steps)):
        names = [*trace_picture.PROCESSES, *(step.name for step in steps)]
        assert re.findall(r">(unlock|open_lock|page|service|device)<", text) == names

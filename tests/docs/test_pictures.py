"""The picture of a stream through a drop: what it shows is true in each run."""

from __future__ import annotations

from programs import ROOT

from scripts.drop_picture import DROP_AFTER, ITEMS, measure


async def test_the_picture_of_a_drop_shows_what_happens() -> None:
    ours, theirs = await measure()
    assert [number for _, number in ours.items] == list(range(ITEMS))
    assert len(ours.items) > DROP_AFTER
    drawn = (ROOT / "docs" / "images" / "drop.svg").read_text("utf-8")
    assert f"all {ITEMS} items, each once, in order" in drawn
    assert 0 < theirs.lost < ITEMS and f"of {ITEMS} items lost" in drawn

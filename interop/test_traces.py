"""What two peers of JavaScript or Go were recorded to say to each other, with Python in the place of one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from interop.record import TRACES, Entry, Kind, Recorder, available, path_of
from interop.replay import Replay

FILES = sorted(TRACES.glob("*.json"))


def entries_of(path: Path) -> list[Entry]:
    entries: list[Entry] = json.loads(path.read_text(encoding="utf-8"))
    return entries


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_the_same_comes_of_it(path: Path, side: Literal["client", "server"]) -> None:
    await Replay(entries_of(path), side, go=path.stem.startswith("go-")).run()


@pytest.mark.parametrize("kind", available(), ids=lambda kind: kind.name)
async def test_the_recording_is_current(kind: Kind) -> None:
    assert by_side(await Recorder(kind).record()) == by_side(entries_of(path_of(kind)))


def by_side(entries: list[Entry]) -> dict[str, list[Any]]:
    """What each side did, and what came of it, in order; how the two interleave is the network's affair."""
    found: dict[str, list[Any]] = {}
    for entry in entries:
        (key, value), *_ = entry.items()
        side = value["by"] if key == "do" else value
        found.setdefault(f"{key} {side}", []).append(entry)
    return found


@pytest.mark.parametrize("name", ["plain-4", "go-coder"])
async def test_a_difference_is_noticed(name: str) -> None:
    entries = entries_of(TRACES / f"{name}.json")
    changes: list[tuple[str, Entry]] = [
        ("called", {"args": ["other"]}),
        ("result", {"is": {"resolved": "other"}}),
        ("sent", {"text": '{"a":["other"]}'}),
    ]
    for key, change in changes:
        number = next(n for n, entry in enumerate(entries) if entry.get(key) == "server")
        changed = [*entries[:number], {**entries[number], **change}, *entries[number + 1 :]]
        with pytest.raises(AssertionError):
            await Replay(changed, "server", go=name.startswith("go-")).run()

"""Reading recorded scenarios."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

Step = dict[str, Any]

STIMULI = frozenset({"do", "feed", "feed_burst", "feed_binary"})


@dataclass(frozen=True)
class Stimulus:
    """Something that is done to the peer, and all that it causes before the next one."""

    kind: str
    value: Any
    socket: str | None
    reactions: tuple[Step, ...]

    @property
    def op(self) -> str | None:
        return self.value["op"] if self.kind == "do" else None


@dataclass(frozen=True)
class Scenario:
    """One recorded session of one peer."""

    name: str
    source: str
    tags: tuple[str, ...]
    stimuli: tuple[Stimulus, ...]

    @property
    def opens(self) -> list[str]:
        """The requests that ask for a channel, by ``ref``: in Python another call than those that ask for a value."""
        return cast("list[str]", DEVIATIONS.get(self.name, {}).get("opens", []))

    @property
    def tagged(self) -> bool:
        """Whether the recording calls the behaviour odd, or JavaScript's own; "pair" only says how it was made."""
        return bool(set(self.tags) - {"pair"})


DEVIATIONS: dict[str, dict[str, list[Step]]] = json.loads(
    (Path(__file__).parent.parent / "deviations.json").read_text(encoding="utf-8")
)
"""Scenarios that wsrpc plays otherwise on purpose.

By scenario and number of the stimulus it has all reactions to it, in the recordings' notation (a frame may stand as
JSON instead of text; ``{"$text": part}`` is any text that has the part). There may be further stimuli among them, where
it takes more for the same. The reasons are in interop/DEVIATIONS.md, where ``rules`` are rows of the first table.
"""


def for_wsrpc(scenario: Scenario) -> Scenario:
    """The scenario as wsrpc must play it."""
    stimuli: list[Stimulus] = []
    for number, stimulus in enumerate(scenario.stimuli):
        reactions = DEVIATIONS.get(scenario.name, {}).get(str(number), stimulus.reactions)
        stimuli += _stimuli([{stimulus.kind: stimulus.value, "socket": stimulus.socket}, *reactions])
    return replace(scenario, stimuli=tuple(stimuli))


def parsed(text: str) -> Any:
    """Decode the JSON in a frame, after the prefix of a codec. Return None if the frame contains no JSON."""
    start = text.find("{")
    try:
        return json.loads(text[start:] if start > 0 and text[:start].endswith(":") else text)
    except (ValueError, RecursionError):
        return None


def load(folder: Path) -> list[Scenario]:
    """The scenarios of all recordings in ``folder``: files that hold an array of them."""
    return [_scenario(entry, source) for source, content in _files(folder, list) for entry in content]


def load_other_versions(folder: Path) -> list[Scenario]:
    """The transcripts of older releases, from files that list how those differ."""
    return [_scenario(entry, source) for source, content in _files(folder, dict) for entry in content["different"]]


def _files(folder: Path, kind: type) -> Iterator[tuple[str, Any]]:
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, kind):
            yield path.stem, content


def _scenario(entry: dict[str, Any], source: str) -> Scenario:
    steps: list[Step] = entry["steps"]
    return Scenario(entry["name"], source, tuple(entry.get("tags", ())), tuple(_stimuli(steps)))


def _stimuli(steps: Iterable[Step]) -> Iterator[Stimulus]:
    done: list[tuple[str, Step, list[Step]]] = []
    for step in steps:
        kind = next((key for key in STIMULI if key in step), None)
        if kind is not None:
            done.append((kind, step, []))
        else:
            done[-1][2].append(step)
    for kind, step, reactions in done:
        yield Stimulus(kind, step[kind], step.get("socket"), tuple(reactions))

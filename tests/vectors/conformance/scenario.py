"""Reading recorded scenarios, and what wsrpc does otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Step = dict[str, Any]

STIMULI = frozenset({"do", "feed", "feed_burst", "feed_binary"})


@dataclass(frozen=True)
class Stimulus:
    """Something that is done to the peer, and all that it causes before the next one."""

    kind: str
    value: Any
    socket: str | None
    reactions: tuple[Step, ...]


@dataclass(frozen=True)
class Scenario:
    """One recorded session of one peer."""

    name: str
    tags: frozenset[str]
    stimuli: tuple[Stimulus, ...]
    opens: frozenset[str]
    """The requests that ask for a channel, by ``ref``: in Python another call than those that ask for a value."""


def parsed(text: str) -> Any:
    """The JSON that a frame holds; None if it is none. A codec's prefix is passed over."""
    start = text.find("{")
    try:
        return json.loads(text[start:] if start > 0 and text[:start].endswith(":") else text)
    except (ValueError, RecursionError):
        return None


def load(folder: Path) -> list[Scenario]:
    """The scenarios of all recordings in ``folder``, as ws-wrapper played them: of the files that hold an array."""
    contents = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    entries = [entry for content in contents if isinstance(content, list) for entry in content]
    return [scenario(entry["name"], entry["steps"], entry.get("tags", ())) for entry in entries]


def scenario(name: str, steps: list[Step], tags: Iterator[str] | tuple[str, ...] = ()) -> Scenario:
    stimuli = tuple(_stimuli(steps))
    return Scenario(name, frozenset(tags), stimuli, _openings(stimuli))


def deviating(recorded: Scenario, deviation: dict[str, Any]) -> Scenario:
    """The scenario as wsrpc plays it."""
    steps: list[Step] = []
    for number, stimulus in enumerate(recorded.stimuli):
        socket = {} if stimulus.socket is None else {"socket": stimulus.socket}
        steps += [{stimulus.kind: stimulus.value, **socket}, *deviation.get(str(number), stimulus.reactions)]
    opens = recorded.opens - set(deviation.get("no channel", ()))
    return Scenario(recorded.name, recorded.tags, tuple(_stimuli(steps)), opens)


def _stimuli(steps: list[Step]) -> Iterator[Stimulus]:
    starts = [position for position, step in enumerate(steps) if step.keys() & STIMULI]
    for start, end in zip(starts, [*starts[1:], len(steps)], strict=True):
        (kind,) = steps[start].keys() & STIMULI
        yield Stimulus(kind, steps[start][kind], steps[start].get("socket"), tuple(steps[start + 1 : end]))


def _openings(stimuli: tuple[Stimulus, ...]) -> frozenset[str]:
    """The requests of this side that ask for a channel: those that got one, or whose channel is used."""
    outcomes = [step["outcome"] for stimulus in stimuli for step in stimulus.reactions if "outcome" in step]
    found = {content["ref"] for content in outcomes if "$channel" in str(content.get("value"))}
    asked = set()
    waiting = [stimulus.value for stimulus in stimuli if stimulus.kind == "do"]
    while waiting:
        operation = waiting.pop()
        if isinstance(operation.get("channel"), dict):
            found.add(operation["channel"]["ref"])
        if operation["op"] == "request":
            asked.add(operation["ref"])
        if isinstance(handler := operation.get("handler"), dict):
            inner = [{"op": "on", "channel": None, **entry} for entry in handler.get("channel_on", ())]
            waiting += [*handler.get("do", ()), *inner]
    return frozenset(found & asked)

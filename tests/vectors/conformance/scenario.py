"""Reading recorded scenarios."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Step = dict[str, Any]

STIMULI = frozenset({"do", "feed", "feed_burst", "feed_binary"})

CHANNEL_KINDS = frozenset({"channel", "async_channel", "deferred_channel"})
"""Kinds of handlers that return the anonymous channel that they have made."""


@dataclass(frozen=True)
class Stimulus:
    """Something that is done to the peer, and all that it causes before the next one."""

    kind: str
    value: Any
    socket: str | None
    reactions: tuple[Step, ...]

    def frames(self) -> list[Any]:
        """What a feed brings, as JSON where it is JSON."""
        if self.kind == "feed":
            return [parsed(self.value)]
        return [parsed(text) for text in self.value] if self.kind == "feed_burst" else []

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
    counterpart: str | None = None
    opens: frozenset[str] = frozenset()
    """The requests that ask for a channel, by ``ref``: in Python another call than those that ask for a value."""

    @property
    def tagged(self) -> bool:
        """Whether the recording calls the behaviour odd, or JavaScript's own; "pair" only says how it was made."""
        return bool(set(self.tags) - {"pair"})

    def having(self, stimuli: list[Stimulus]) -> Scenario:
        return replace(self, stimuli=tuple(stimuli))


def parsed(text: str) -> Any:
    """Decode the JSON in a frame, after the prefix of a codec. Return None if the frame contains no JSON."""
    start = text.find("{")
    try:
        return json.loads(text[start:] if start > 0 and text[:start].endswith(":") else text)
    except (ValueError, RecursionError):
        return None


def load(folder: Path) -> list[Scenario]:
    """The scenarios of all recordings in ``folder``: files that hold an array of them."""
    found = [_scenario(entry, source) for source, content in _files(folder, list) for entry in content]
    by_name = {scenario.name: scenario for scenario in found}
    return [replace(scenario, opens=openings(scenario, by_name)) for scenario in found]


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
    return Scenario(
        entry["name"], source, tuple(entry.get("tags", ())), tuple(_stimuli(steps)), entry.get("counterpart")
    )


def _stimuli(steps: list[Step]) -> Iterator[Stimulus]:
    done: list[tuple[str, Step, list[Step]]] = []
    for step in steps:
        kind = next((key for key in STIMULI if key in step), None)
        if kind is not None:
            done.append((kind, step, []))
        else:
            assert done, "a reaction before anything was done"
            done[-1][2].append(step)
    for kind, step, reactions in done:
        yield Stimulus(kind, step[kind], step.get("socket"), tuple(reactions))


# ---------------------------------------------------------------- what asks for a channel


def operations(scenario: Scenario) -> Iterator[dict[str, Any]]:
    """All operations, those inside handlers included."""
    waiting = [stimulus.value for stimulus in scenario.stimuli if stimulus.kind == "do"]
    while waiting:
        operation = waiting.pop(0)
        yield operation
        if isinstance(operation.get("handler"), dict):
            waiting += operation["handler"].get("do", [])
            waiting += [{"op": "on", "channel": None, **entry} for entry in operation["handler"].get("channel_on", [])]


def answers_with_channel(handler: dict[str, Any]) -> bool:
    """Whether a handler's answer is an anonymous channel, if all goes well."""
    return handler["kind"] in CHANNEL_KINDS or handler["kind"] == "iterable"


def openings(scenario: Scenario, others: dict[str, Scenario]) -> frozenset[str]:
    """The requests of this side that ask for a channel.

    In JavaScript only the answer tells. And that may be wrong: JavaScript answers null as if it were a channel. Where
    the other half of a pair is there and its handler makes none, what arrives here was a null.
    """
    outcomes = [step["outcome"] for stimulus in scenario.stimuli for step in stimulus.reactions if "outcome" in step]
    found = {content["ref"] for content in outcomes if "$channel" in str(content.get("value"))}
    for operation in operations(scenario):
        if isinstance(operation.get("channel"), dict):
            found.add(operation["channel"]["ref"])
    asked = {operation["ref"]: operation["event"] for operation in operations(scenario) if operation["op"] == "request"}
    found &= asked.keys()
    other = others.get(scenario.counterpart or "")
    if other is None:
        return frozenset(found)
    makers = {
        operation["event"]
        for operation in operations(other)
        if isinstance(operation.get("handler"), dict) and answers_with_channel(operation["handler"])
    }
    return frozenset(ref for ref in found if asked[ref] in makers)

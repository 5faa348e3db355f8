"""Reading recorded scenarios, and choosing those that can be replayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Step = dict[str, Any]

STIMULI = ("do", "feed", "feed_burst", "feed_binary")

_CHANNEL_KINDS = frozenset({"channel", "async_channel", "deferred_channel", "iterable"})
_CHANNEL_KEYS = frozenset({"channel_ref", "channel_on", "channel_use"})
_ITERATION = frozenset({"iter_open", "iter_next", "iter_return", "iter_throw", "for_await"})


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
    steps: tuple[Step, ...] = field(default=(), repr=False)

    @property
    def tagged(self) -> bool:
        """Whether the recording calls the behaviour odd, or JavaScript's own; "pair" only says how it was made."""
        return bool(set(self.tags) - {"pair"})

    def having(self, stimuli: list[Stimulus]) -> Scenario:
        return replace(self, stimuli=tuple(stimuli))


def parsed(text: str) -> Any:
    """The JSON that a frame holds; None if it is none. A codec's prefix is passed over."""
    start = text.find("{")
    try:
        return json.loads(text[start:] if start > 0 and text[:start].endswith(":") else text)
    except (ValueError, RecursionError):
        return None


def load(folder: Path) -> list[Scenario]:
    """The scenarios of all recordings in ``folder``: files that hold an array of them."""
    found: list[Scenario] = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, list):
            found += [_scenario(entry, path.stem) for entry in content]
    return found


def load_other_versions(folder: Path) -> list[Scenario]:
    """The transcripts of older releases, from files that list how those differ."""
    found: list[Scenario] = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            found += [_scenario(entry, path.stem) for entry in content["different"]]
    return found


def _scenario(entry: dict[str, Any], source: str) -> Scenario:
    steps: list[Step] = entry["steps"]
    return Scenario(
        entry["name"],
        source,
        tuple(entry.get("tags", ())),
        tuple(_stimuli(steps)),
        entry.get("counterpart"),
        tuple(steps),
    )


def _stimuli(steps: list[Step]) -> Iterator[Stimulus]:
    kind: str | None = None
    value: Any = None
    socket: str | None = None
    reactions: list[Step] = []
    for step in steps:
        stimulus = next((key for key in STIMULI if key in step), None)
        if stimulus is None:
            assert kind is not None, "a reaction before anything was done"
            reactions.append(step)
            continue
        if kind is not None:
            yield Stimulus(kind, value, socket, tuple(reactions))
        kind, value, socket, reactions = stimulus, step[stimulus], step.get("socket"), []
    if kind is not None:
        yield Stimulus(kind, value, socket, tuple(reactions))


# ---------------------------------------------------------------- choosing


def operations(scenario: Scenario) -> Iterator[dict[str, Any]]:
    """All operations, those inside handlers included."""
    waiting = [stimulus.value for stimulus in scenario.stimuli if stimulus.kind == "do"]
    while waiting:
        operation = waiting.pop(0)
        yield operation
        waiting += operation.get("handler", {}).get("do", []) if isinstance(operation.get("handler"), dict) else []


def makes_channels(scenario: Scenario) -> bool:
    """Whether a handler of this side makes an anonymous channel or a stream."""
    for operation in operations(scenario):
        handler = operation.get("handler")
        if isinstance(handler, dict) and (handler["kind"] in _CHANNEL_KINDS or _CHANNEL_KEYS & handler.keys()):
            return True
    return False


def uses_channels(scenario: Scenario) -> bool:
    """Whether something is done with an anonymous channel that the other side made."""
    received: set[Any] = set()
    for stimulus in scenario.stimuli:
        if stimulus.kind == "do":
            operation = stimulus.value
            if operation["op"] in _ITERATION or isinstance(operation.get("channel"), dict):
                return True
        fed = [frame for frame in stimulus.frames() if isinstance(frame, dict)]
        sent = [frame for frame in map(_sent, stimulus.reactions) if isinstance(frame, dict)]
        for frame in fed + sent:
            if "h" in frame and "i" not in frame and frame["h"] in received:
                return True
        if any("$channel" in str(step.get("outcome")) for step in stimulus.reactions):
            received |= {frame["i"] for frame in fed if "h" in frame and "i" in frame}
    return False


def _sent(step: Step) -> Any:
    return parsed(step["sent"]) if "sent" in step else None


def needs_anonymous_channels(scenario: Scenario, others: dict[str, Scenario]) -> bool:
    """Whether the scenario cannot be replayed without anonymous channels or iteration.

    An answer ``{i, h}`` alone is no reason: JavaScript answers null that way by mistake. So where the other half of a
    pair is there and makes no channel, what arrives here was a null.
    """
    if makes_channels(scenario):
        return True
    other = others.get(scenario.counterpart or "")
    if other is not None and not makes_channels(other):
        return any(operation["op"] in _ITERATION for operation in operations(scenario))
    return uses_channels(scenario)

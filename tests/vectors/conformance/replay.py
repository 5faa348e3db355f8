"""Playing a scenario to a mirror, and comparing."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any

from waiting import settled

from .mirror import Mirror
from .scenario import Scenario, Step, parsed
from .values import recorded, recorded_misuse, same

_CHANNEL = re.compile(r"(?<=channel ')[0-9]{1,16}(?=')")


class Ids:
    """JavaScript's ids of our requests, which count from 1, and wsrpc's, in the order of the requests sent."""

    def __init__(self) -> None:
        self.ours: dict[int, int] = {}
        self.theirs: dict[int, int] = {}
        self._inbound: set[Any] = set()
        self._channels: set[int] = set()
        """Those of our requests that opened a channel, which has its id."""

    def learn(self, expected: list[Any], actual: list[Any]) -> None:
        """Pair the requests among the frames."""
        for recorded_frame, frame in zip(filter(_is_request, expected), filter(_is_request, actual), strict=False):
            self.ours[recorded_frame["i"]] = frame["i"]
            self.theirs[frame["i"]] = recorded_frame["i"]

    def to_feed(self, text: str) -> str:
        """The frame with our ids where it speaks of our requests and channels."""
        frame = parsed(text)
        if not isinstance(frame, dict):
            return text
        changed = dict(frame)
        if (h := _number(frame.get("h"))) in self._channels and ("i" not in frame or frame.get("a")):
            changed["h"] = type(frame["h"])(self.ours[h])
        i = frame.get("i")
        if frame.get("a"):
            if isinstance(i, (int, str)):
                self._inbound.add(i)
        # A cancellation speaks of their request; where that was answered, JavaScript mistakes it for an answer to ours.
        elif type(i) is int and i in self.ours and not ("x" in frame and i in self._inbound):
            changed["i"] = self.ours[i]
            if "h" in frame:
                self._channels.add(i)
        if changed == frame:
            return text
        return text[: text.find("{")] + json.dumps(changed)

    def from_sent(self, frame: Any) -> Any:
        """A frame that we sent, with JavaScript's ids."""
        if not isinstance(frame, dict):
            return frame
        changed = dict(frame)
        if "a" in frame or "x" in frame:
            if frame.get("i") in self.theirs:
                changed["i"] = self.theirs[frame["i"]]
        elif type(frame.get("i")) is int:
            self._inbound.discard(frame["i"])
            if "h" in frame:
                # JavaScript has one table for channels of both directions, and the later one takes the place.
                self._channels.discard(frame["i"])
        if frame.get("h") in self.theirs:
            changed["h"] = self.theirs[frame["h"]]
        for key in ("e", "x"):
            if isinstance(frame.get(key), dict) and isinstance(frame[key].get("message"), str):
                changed[key] = {**frame[key], "message": _CHANNEL.sub(self._their_name, frame[key]["message"])}
        return changed

    def _their_name(self, found: re.Match[str]) -> str:
        return str(self.theirs.get(int(found[0]), found[0]))


def _number(h: Any) -> int | None:
    """A channel's id, which may come as text."""
    if isinstance(h, str) and h.isdecimal():
        return int(h)
    return h if type(h) is int else None


def _is_request(frame: Any) -> bool:
    return isinstance(frame, dict) and "a" in frame and "i" in frame


_RUNTIMES_REASON = {"message": "This operation was aborted"}
"""JavaScript's own, where none was given; every implementation has its own."""


def expected_frames(reactions: tuple[Step, ...]) -> list[tuple[str, Any]]:
    """Socket and content of each frame."""
    found: list[tuple[str, Any]] = []
    for step in reactions:
        if "sent" in step:
            content = _content(step["sent"])
            if isinstance(content, dict) and content.get("x") == _RUNTIMES_REASON:
                content["x"] = {"message": "Request aborted"}
            found.append((step.get("socket") or "s1", content))
    return found


def _content(sent: Any) -> Any:
    frame = sent if isinstance(sent, dict) else parsed(sent)
    if not isinstance(frame, dict):
        return sent
    prefix = "" if isinstance(sent, dict) else sent[: sent.find("{")]
    frame = dict(frame)
    if prefix:
        frame["(prefix)"] = prefix
    if "i" in frame and not {"a", "e", "h", "x"} & frame.keys() and frame.get("d") is None:
        frame["d"] = None  # absent means null
    if frame.get("a") == ["next", {"done": False}]:
        frame["a"] = ["next", {"value": None, "done": False}]  # the same for an item
    for key in ("e", "x"):
        error = frame.get(key)
        if frame.get("_") and isinstance(error, dict) and str(error.get("code")).startswith("wsrpc."):
            # Errors that wsrpc itself makes say so.
            frame[key] = {name: value for name, value in error.items() if name != "code"}
    return frame


def expected_outcomes(reactions: tuple[Step, ...]) -> list[Any]:
    """Outcomes in the form in which the mirror tells them."""
    found: list[Any] = []
    for step in reactions:
        if "outcome" not in step:
            continue
        content = step["outcome"]
        match content["type"]:
            case "threw":
                found.append({"type": "threw", "op": content["op"], "error": recorded_misuse(content["error"])})
            case "state":
                found.append({key: value for key, value in content.items() if key != "is_connecting"})
            case "local_event":
                found.append({"type": "local_event", "event": content["event"]})
            case _:
                found.append({key: recorded(value) for key, value in content.items()})
    return found


def compare_outcomes(expected: list[Any], actual: list[Any], where: str) -> None:
    """As sets: how they are ordered within a step is the runtime's affair."""
    left = list(actual)
    missing = []
    for wanted in expected:
        for position, got in enumerate(left):
            if same(wanted, got):
                del left[position]
                break
        else:
            missing.append(wanted)
    assert not (missing or left), f"{where}: outcomes missing: {missing!r}; not expected: {left!r}"


def compare_frames(expected: list[tuple[str, Any]], actual: list[tuple[str, Any]], where: str) -> None:
    """In order, for each socket, as JSON."""
    assert same([list(each) for each in expected], [list(each) for each in actual]), (
        f"{where}: frames expected: {expected!r}; sent: {actual!r}"
    )


async def replay(scenario: Scenario) -> None:
    """Play ``scenario`` on a mirror, and compare frames and outcomes."""
    ids = Ids()
    create = scenario.stimuli[0]
    assert create.op == "create"
    mirror = Mirror(create.value, opens=scenario.opens)
    try:
        for number, stimulus in enumerate(scenario.stimuli):
            match stimulus.kind:
                case "do" if stimulus.op == "wait":
                    await asyncio.sleep(stimulus.value["ms"] / 1000)
                case "do" if number:
                    mirror.do(stimulus.value)
                case "feed":
                    mirror.feed(stimulus.socket, ids.to_feed(stimulus.value))
                case "feed_burst":
                    mirror.feed(stimulus.socket, *map(ids.to_feed, stimulus.value))
                case "feed_binary":
                    mirror.feed(stimulus.socket, base64.b64decode(stimulus.value))
            await settled()
            if stimulus is scenario.stimuli[-1]:
                mirror.log_pending()
            where = f"{scenario.name}, stimulus {number}, {stimulus.kind} {str(stimulus.value)[:120]}"
            frames = expected_frames(stimulus.reactions)
            sent = [(socket, _content(text)) for socket, text in mirror.sent]
            ids.learn([content for _, content in frames], [content for _, content in sent])
            compare_frames(frames, [(socket, ids.from_sent(content)) for socket, content in sent], where)
            outcomes = expected_outcomes(stimulus.reactions)
            compare_outcomes(outcomes, mirror.outcomes, where)
            mirror.sent, mirror.outcomes = [], []
    finally:
        await mirror.finish()

"""One sequence, played to two peers, and what each of them makes of it, compared after each burst."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from interop.fuzz.ends import End
from interop.fuzz.rules import ANSWERING, RULES, Answering, Rule, rewritten
from interop.fuzz.state import MOST_MALFORMED, STREAMS, Frame, Message, Own, State, channel_id, is_id

_numbers = itertools.count()


@dataclass(frozen=True)
class Say:
    """A text of the sequence: a message, or whatever else. In it, ``"key …"`` is a key of this sequence alone."""

    text: str


@dataclass(frozen=True)
class Give:
    """Whatever waits for that key in the peers goes on."""

    key: str


@dataclass(frozen=True)
class Answer:
    """Answers one of the requests that the peers have made, with these fields besides ``i``."""

    which: int
    fields: Frame


Step = Say | Give | Answer


class Difference(AssertionError):
    """The two peers have not done the same."""


class Session:
    """``rules`` say what Python does otherwise; without any, both ends have to be JavaScript's.

    ``said`` counts the messages that were sent, ``used`` the rows whose rules made a difference.
    """

    def __init__(self, js: End, py: End, *, ruled: bool = True) -> None:
        self._js = js
        self._py = py
        self._rules: tuple[Rule, ...] = RULES if ruled else ()
        self._answering: tuple[Answering, ...] = ANSWERING if ruled else ()
        self._ruled = ruled
        self._state = State()
        self._prefix = f"key {next(_numbers)}."
        self._burst: list[Message] = []
        self._over = False
        """Python has closed its connection."""
        self._story: list[str] = []
        self.said: Counter[str] = Counter()
        self.used: set[str] = set()

    async def play(self, steps: list[Step]) -> None:
        """Play all of it.

        Raises:
            Difference: the two peers did not do the same; the text has all that was said until then.
        """
        for step in steps:
            if self._over:
                return
            match step:
                case Say():
                    await self._say(Message(step.text.replace('"key ', f'"{self._prefix}')))
                case Give():
                    await self._flush()
                    key = self._prefix + step.key.removeprefix("key ")
                    self._story.append(f"give {key}")
                    await asyncio.gather(self._js.give(key), self._py.give(key))
                    await self._exchange([], [], [])
                case Answer():
                    await self._flush()
                    await self._answer(step)
        await self._flush()

    async def _say(self, message: Message) -> None:
        if self._is_alone(message) or self._rule(message) is not None:
            await self._flush()  # which may change what is to be said of it
        if self._is_unclear(message):
            self.said["left out"] += 1
            return
        self.said["messages"] += 1
        if self._ruled and message.is_malformed:
            self._state.malformed += 1
            if self._state.malformed > MOST_MALFORMED:
                await self._flush()
                await self._closes(message)
                return
        rule = self._rule(message)
        if rule is None:
            # What runs already must not be told from what is about to be asked once more.
            self._state.sent([message])
            self._note(message)
        if rule is None and not self._is_alone(message):
            self._burst.append(message)
        else:
            await self._exchange([message], [message.text], [message.text], rule)

    async def _closes(self, message: Message) -> None:
        """Say one malformed message too many. JavaScript goes on."""
        self._over = True
        self.used.add("malformed messages")
        await self._js.exchange([message.text])
        try:
            got = await self._py.exchange([message.text])
        except ConnectionError as exc:
            if exc.args[0] == 1007:
                return
            got = [{"closed": exc.args}]
        raise Difference("\n".join([*self._story, message.text, f"expected: closed with 1007, got {got!r}"]))

    def _rule(self, message: Message) -> Rule | None:
        return next((rule for rule in self._rules if rule.applies(message, self._state)), None)

    def _note(self, message: Message) -> None:
        if message.requests:
            self._state.makers[message.i] = str(message.a[2]) if len(message.a) > 2 else ""

    def _is_alone(self, message: Message) -> bool:
        """Whether what it causes has to be seen before anything else is said."""
        state = self._state
        unknown = channel_id(message.h) is not None and channel_id(message.h) not in state.channels
        again = message.requests and message.i in state.active
        return unknown or again or message.name in ("ask", "start") or "x" in message.m

    def _is_unclear(self, message: Message) -> bool:
        """Whether the two peers are in different states of what it speaks of, so that they must not be compared."""
        state = self._state
        if message.requests and message.i in state.active and message.is_slow:
            return True
        if not self._ruled:
            return False
        h = channel_id(message.h)
        if h in state.unclear or (is_id(message.i) and message.i in state.unclear):
            return True
        if message.requests and message.i in state.channels:
            return True
        if is_id(message.i) and message.i in state.ghosts:
            return True
        if message.calls and state.channels.get(h or 0) in STREAMS and (message.name != "start" or message.has("i")):
            return True
        if message.calls and not message.is_ignored:
            return False
        # What looks like an answer is one for JavaScript, if it has itself asked under that id.
        if isinstance(message.i, (int, float)) and message.i in state.only_js:
            return True
        return state.pending(message.i) is not None and not (message.has("x") or message.calls)

    async def _answer(self, step: Answer) -> None:
        state = self._state
        left = [own for own in state.own if own.js not in state.stolen]
        if not left:
            return
        own = left[step.which % len(left)]
        # JavaScript's ids and those of requests that it serves are of one kind: cancelling would speak of the latter.
        state.own.remove(own)
        if "e" not in step.fields and step.fields.get("h") is not None:
            state.unclear.add(own.js)  # a channel, for JavaScript
        to_js, to_py = ([json.dumps({"i": i, **step.fields})] for i in (own.js, own.py))
        self.said["messages"] += 1
        rule = next((rule for rule in self._answering if rule.applies(step.fields)), None)
        await self._exchange([], to_js, to_py, rule, own, step.fields)

    async def _flush(self) -> None:
        burst, self._burst = self._burst, []
        if burst:
            texts = [message.text for message in burst]
            await self._exchange(burst, texts, texts)

    async def _exchange(
        self,
        messages: list[Message],
        to_js: list[str],
        to_py: list[str],
        rule: Rule | Answering | None = None,
        own: Own | None = None,
        fields: Frame | None = None,
    ) -> None:
        state = self._state
        self._story += to_js if to_js == to_py else [f"{to_js} / {to_py}"]
        js, py = await asyncio.gather(self._js.exchange(to_js), self._py.exchange(to_py))
        self._pair(js, py, messages)
        names = {each.js: each.py for each in state.own} | ({own.js: own.py} if own else {})
        js = [without_choices(_named(frame, names)) for frame in js]
        py = [without_choices(_named(frame, {name: name for name in names.values()})) for frame in py]
        expected = rewritten(js, state, self.used) if self._ruled else js
        if isinstance(rule, Rule):
            changed = rule.answer(messages[0], expected, state)
        elif rule is not None:
            assert own is not None and fields is not None
            changed = rule.answer(fields, own.asker, own.py)
        else:
            changed = expected
        hurried = all(message.calls and not message.is_slow for message in messages)
        if rule is not None and not _alike(expected, changed, hurried):
            self.used.add(rule.row)
        if any(message.name == "start" for message in messages) and any(_is_item(frame) for frame in py):
            self.used.add("items")
        if not _alike(changed, py, hurried):
            raise Difference(
                "\n".join(
                    [
                        *(f"  {line[:2000]}" for line in self._story),
                        f"rule:       {rule.row if rule else None}",
                        f"JavaScript: {js}",
                        f"expected:   {changed}",
                        f"Python:     {py}",
                    ]
                )
            )
        state.happened(messages, py)

    def _pair(self, js: list[Frame], py: list[Frame], messages: list[Message]) -> None:
        """Learn which requests of the two peers are the same."""
        asked = [frame for frame in py if _is_request(frame)]
        for frame in filter(_is_request, js):
            for other in asked:
                if same_frame(_without_id(frame), _without_id(other)):
                    asked.remove(other)
                    asker = messages[0].i if messages and messages[0].requests else None
                    self._state.own.append(Own(frame["i"], other["i"], asker))
                    break
            else:
                self._state.only_js.add(frame["i"])


def _is_request(frame: Frame) -> bool:
    return "a" in frame and "i" in frame


def _is_item(frame: Frame) -> bool:
    return "a" in frame and frame["a"][0] == "next"


def _without_id(frame: Frame) -> Frame:
    return {key: value for key, value in frame.items() if key != "i"}


def _named(frame: Frame, names: dict[int, int]) -> Frame:
    """A frame with names for the requests of the peer that sent it, and for what Python takes for their channels."""
    frame = dict(frame)
    if frame.get("h") in names.values() and "x" in frame:
        frame["h"] = f"own {frame['h']}"
    if type(frame.get("i")) is int and frame["i"] in names and ("a" in frame or "x" in frame):
        frame["i"] = f"own {names[frame['i']]}"
    return frame


def without_choices(frame: Frame) -> Frame:
    """A frame without what each implementation says in its own way: codes of errors, and what absent means."""
    frame = dict(frame)
    if "i" in frame and not {"a", "e", "h", "x"} & frame.keys():
        frame["d"] = frame.get("d")
    if frame.get("a") == ["next", {"done": False}]:
        frame["a"] = ["next", {"value": None, "done": False}]
    for key in ("e", "x"):
        error = frame.get(key)
        if frame.get("_") and isinstance(error, dict):
            error = {
                name: value for name, value in error.items() if name != "code" or not str(value).startswith("wsrpc.")
            }
            if error.get("message") in ("hang was aborted", "This operation was aborted"):
                error["message"] = "Request aborted"
            frame[key] = error
    return frame


def _alike(expected: list[Frame], got: list[Frame], in_order: bool) -> bool:
    """Whether all is the same, in the same order: ``in_order`` at all, else for each conversation and for calls."""
    if not in_order:
        expected, got = sorted(expected, key=_subject), sorted(got, key=_subject)
    return len(expected) == len(got) and all(map(same_frame, expected, got))


def _subject(frame: Frame) -> str:
    if "a" in frame and frame["a"][0] == "called":
        return "calls"
    return f"i {frame['i']}" if "i" in frame else f"h {frame.get('h')}"


def same_frame(left: Any, right: Any) -> bool:
    """Equality as JSON has it: key order is nothing, numbers are doubles, and True is not 1."""
    if isinstance(left, dict) and left.keys() == {"$text"}:
        return isinstance(right, str) and left["$text"] in right
    if isinstance(left, bool) or isinstance(right, bool) or left is None or right is None:
        return left is right
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return _double(left) == _double(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same_frame, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same_frame(left[key], right[key]) for key in left)
    return type(left) is type(right) and bool(left == right)


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf

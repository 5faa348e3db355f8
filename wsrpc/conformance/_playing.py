"""Plays a row on one connection, and compares the received messages with the expected ones."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from ._rows import Row, Step

KEYS = frozenset("chiade_x")
LARGEST_ID = 2**53 - 1
FINAL_STEP = Step(('{"i":9007,"a":["echo","end"]}',), ({"i": 9007, "d": "end"},), ())
"""Played after each row: until its response, only messages that the row expects may arrive."""


@dataclass(frozen=True)
class Failure:
    """The first difference: the message that was sent last, the expected one, and the received one."""

    after: str
    expected: str
    received: str

    def __str__(self) -> str:
        return f"after {self.after} expected {self.expected}, received {self.received}"


class Differs(Exception):
    """A received message differs from the expected ones."""


async def play(row: Row, link: Connection, patience: float) -> Failure | None:
    """Play a row. ``patience`` is the number of seconds that the peer has for the reactions to each step."""
    playing = Playing(link)
    for step in (*row.steps, FINAL_STEP):
        try:
            async with asyncio.timeout(patience):
                await playing.step(step)
        except Differs as exc:
            return playing.failure(str(exc))
        except TimeoutError:
            return playing.failure(f"nothing in {patience:g} s")
        except ConnectionClosed as exc:
            return playing.failure("a lost connection" if exc.rcvd is None else f"a close with {exc.rcvd}")
    return None


class Playing:
    """One connection with a row on it. Ids that the peer chooses have names in a row, such as ``$r1``."""

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._ids: dict[str, int] = {}
        self._sent = "the beginning"
        self._missing: list[dict[str, Any]] = []
        self._optional: list[dict[str, Any]] = []

    def failure(self, received: str) -> Failure:
        return Failure(self._sent, compact(self._missing[0]) if self._missing else "nothing more", received)

    async def step(self, step: Step) -> None:
        """Raise `Differs` at the first message that does not fit."""
        self._missing = list(step.expects)
        self._optional += step.optional
        for text in step.sends:
            self._sent = re.sub(r'"(\$[\w-]+)"', lambda found: str(self._ids[found[1]]), text)
            await self._link.send(self._sent)
        while self._missing:
            await self._receive(await self._link.recv())

    async def _receive(self, text: str | bytes) -> None:
        message = read(text)
        if message is None:
            raise Differs(repr(text))
        if message.get("ws-wrapper") is False or message.get("a") == ["connect"]:
            return  # control messages of wsrpc, and the greeting of ws-wrapper 2
        got = normal(message)
        if got.get("a", [])[:1] == ["next"] and "i" in got:  # an item that its producer wants to be confirmed
            await self._link.send(compact({"i": got.pop("i")}))
        lane = self._lane(got)
        first = next((each for each in self._missing if self._lane(each) == lane), None)
        for wanted, among in [(first, self._missing), *((each, self._optional) for each in self._optional)]:
            if wanted is not None and self._fits(wanted, got):
                among.remove(wanted)
                return
        raise Differs(str(text))

    def _lane(self, message: dict[str, Any]) -> tuple[Any, ...]:
        """What a message concerns. Messages that concern different things may overtake each other."""
        if "a" in message or "i" not in message:
            return ("channel", self._id(message.get("h")), message.get("c"), "i" in message)
        return ("request", self._id(message["i"]))

    def _id(self, value: Any) -> Any:
        """The id that a name stands for."""
        return self._ids.get(value, value) if isinstance(value, str) else value

    def _fits(self, wanted: dict[str, Any], got: dict[str, Any]) -> bool:
        """Return whether a message is the expected one, and record the ids that the peer has chosen."""
        wanted = normal(wanted)
        error = next((key for key in ("e", "x") if key in wanted), None)
        if error is not None and wanted[error] == "*":
            wanted, got = ({key: value for key, value in each.items() if key != "_"} for each in (wanted, got))
        if wanted.keys() != got.keys():
            return False
        learned: dict[str, int] = {}
        for key, value in wanted.items():
            if key in "ih" and isinstance(value, str) and value not in self._ids:
                if not is_id(got[key]) or got[key] in self._ids.values():
                    return False
                learned[value] = got[key]
            elif key == error and "_" in wanted:
                if not same_error(wanted[key]["message"], got[key]):
                    return False
            elif value != "*" and not same(self._id(value) if key in "ih" else value, got[key]):
                return False
        self._ids.update(learned)
        return True


def read(text: str | bytes) -> dict[str, Any] | None:
    """The message, or None if it is not a JSON object in a text message."""
    try:
        message: Any = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return cast("dict[str, Any]", message) if isinstance(message, dict) else None


def normal(message: dict[str, Any]) -> dict[str, Any]:
    """The message without what makes no difference: other keys, and values that mean the same as no value."""
    kept = {key: value for key, value in message.items() if key in KEYS}
    for key in ("c", "h", "i", "a"):
        if kept.get(key, 0) is None:
            del kept[key]
    if not isinstance(kept.get("a", []), list):
        del kept["a"]
    if kept.pop("_", None):
        kept["_"] = True
    if "i" in kept and "a" not in kept and kept.get("h"):
        kept["h"] = 1  # any true value opens a channel
    if "i" in kept and not kept.keys() & {"a", "e", "h", "x"}:
        kept.setdefault("d", None)
    if isinstance(kept.get("a"), list) and kept["a"][:1] == ["next"] and isinstance(kept["a"][-1], dict):
        item = kept["a"][-1]
        kept["a"] = ["next", {"value": item.get("value"), "done": bool(item.get("done"))}]
    return kept


def is_id(value: object) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_ID


def same(wanted: Any, got: Any) -> bool:
    """Whether two JSON values are equal, where 1 and 1.0 are, and 1 and true are not."""
    if isinstance(wanted, dict):
        fields = cast("dict[str, Any]", wanted)
        return isinstance(got, dict) and fields.keys() == got.keys() and all(same(fields[k], got[k]) for k in fields)
    if isinstance(wanted, list):
        items, others = cast("Sequence[Any]", wanted), cast("Sequence[Any]", got)
        return isinstance(got, list) and len(items) == len(others) and all(map(same, items, others))
    return isinstance(wanted, bool) is isinstance(got, bool) and bool(wanted == got)


def same_error(message: str, got: Any) -> bool:
    """Whether an error object has this message. It may have other fields."""
    fields = cast("dict[str, Any]", got) if isinstance(got, dict) else {}
    return isinstance(fields.get("message"), str) and message in ("*", fields["message"])


def compact(message: object) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)

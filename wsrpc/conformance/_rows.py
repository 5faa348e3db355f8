"""The rows of the kit: messages to send, and expected reactions. ``added.txt`` explains the form of the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

PAGES = {
    "events": "messages",
    "requests": "messages",
    "values": "messages",
    "channels": "messages",
    "cancellation": "messages",
    "anonymous": "messages",
    "unknown": "messages",
    "streams": "streams",
    "ignored": "ignored-messages",
}
"""The parts, and the section of docs/reference/protocol.md that each of them checks."""


@dataclass(frozen=True)
class Step:
    """Messages that the kit sends together, and those that it expects before the next step. Expected messages that
    concern different requests or channels may arrive in any order, and ``optional`` ones until the end of the row."""

    sends: tuple[str, ...]
    expects: tuple[dict[str, Any], ...]
    optional: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Row:
    """One row. It is played on a connection of its own."""

    part: str
    name: str
    steps: tuple[Step, ...]

    @property
    def page(self) -> str:
        return f"protocol.md#{PAGES[self.part]}"


@cache
def load() -> tuple[Row, ...]:
    """All rows, those of one part together."""
    found = [row for name in ("recorded.txt", "added.txt") for row in parse(_text(name))]
    return tuple(sorted(found, key=lambda row: list(PAGES).index(row.part)))


def _text(name: str) -> str:
    return files(__name__.rpartition(".")[0]).joinpath(name).read_text("utf-8")


def parse(table: str) -> Iterator[Row]:
    """The rows of one table."""
    for block in table.split("\n= ")[1:]:
        title, *lines = block.splitlines()
        part, _, name = title.partition(": ")
        signed = [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]
        yield Row(part, name, tuple(_steps([each for each in signed if each[0] in (">", "<", "<?")])))


def _steps(lines: list[tuple[str, str]]) -> Iterator[Step]:
    """Start a step at each sent message that follows an expected one."""
    groups: list[list[tuple[str, str]]] = []
    for sign, text in lines:
        if not groups or (sign == ">" and groups[-1][-1][0] != ">"):
            groups.append([])
        groups[-1].append((sign, text))
    for group in groups:
        yield Step(
            tuple(json.loads(text) if text.startswith('"') else text for sign, text in group if sign == ">"),
            tuple(json.loads(text) for sign, text in group if sign == "<"),
            tuple(json.loads(text) for sign, text in group if sign == "<?"),
        )

"""`Position`: the place of an entry in a log. It proves itself. `RunPosition`: a place in the log of one run."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from ..errors import BadArguments, made_here, short
from .contract import Page

LAST = 2**53 - 1
"""The largest number of an entry."""

_run_position = re.compile(r"([0-9]{1,16})(?:-(.+))?", re.DOTALL).fullmatch
_position = re.compile(r"([0-9]{1,16})-([!-~]{1,60})").fullmatch


class Position(NamedTuple):
    """The place of an entry in a log: its number, and its id. The id is None where only the number is known."""

    number: int
    id: str | None

    def __str__(self) -> str:
        return f"{self.number}-{self.id or 0}"  # before the first entry, there is no id

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that a client has passed.

        Raises:
            BadArguments: the text is not a position.
        """
        if (found := _position(text)) is None:
            raise BadArguments(f"`after` is the position of an event of the room, got {short(text)}")
        number = int(found[1])
        return cls(number, found[2] if number else "")

    def before(self, page: Page) -> Literal["next", "gap", "reset"]:
        """Return what a page has that was read after this position.

        Returns:
            "next": the entries after it, or the first of them. "gap": those that are left, because some were dropped.
            "reset": those of another log, or of one that has lost entries, with other entries under the same numbers.
        """
        if page.number > self.number + 1:
            return "gap"
        return "next" if page.number == self.number + 1 and page.before == (self.id or "") else "reset"


class RunPosition(NamedTuple):
    """A place in the items of a run: how many are before it, and the id of the run, or None for the present run.

    It needs no id of an item, because only one writer adds items to a run, and never other ones.
    """

    number: int
    run: str | None

    @classmethod
    def parse(cls, after: int | str) -> RunPosition:
        """Return the position that a caller has passed: a number of items, or `Stream.position`.

        Raises:
            BadArguments: it is not a position.
        """
        if (found := _run_position(str(after))) is None:
            raise made_here(BadArguments(f"{short(after)} is not the position of a stream"))
        return cls(int(found[1]), found[2])

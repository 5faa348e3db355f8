"""The contract of the board: what its clients may call, and which events it emits.

The server, the client and the script import this module. The page has it as `page/api.d.ts`.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec

from wsrpc import Stream


class Color(Enum):
    YELLOW = "yellow"
    PINK = "pink"


class Note(msgspec.Struct):
    """A note on the board."""

    id: int
    author: str
    text: str
    color: Color


class Board(Protocol):
    async def post(self, author: str, text: str, *, color: Color = Color.YELLOW) -> Note:
        """Put a note on the board."""
        ...

    async def remove(self, id: int) -> None:
        """Take a note off the board."""
        ...

    def notes(self) -> Stream[Note]:
        """The notes that are on the board now. The caller hears of changes from then on."""
        ...


class BoardEvents(Protocol):
    async def posted(self, note: Note) -> None: ...

    async def removed(self, id: int) -> None: ...

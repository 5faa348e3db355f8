"""`NameTable`: names in a generated text that clash with nothing."""

from __future__ import annotations

from collections.abc import Collection


class NameTable:
    """The used names of one scope: a module, a class, or the parameters of a function."""

    def __init__(self, reserved: Collection[str] = ()) -> None:
        """Make a table. ``reserved`` is not copied, because many tables share a large collection of reserved names."""
        self._reserved = reserved
        self._used: set[str] = set()
        self._numbers: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        """Return ``wanted``, with an underscore or a number appended if the name is used already."""
        name = wanted
        if self._has(name):
            name = f"{wanted}_"
        number = self._numbers.get(wanted, 1)
        while self._has(name):
            number += 1
            name = f"{wanted}_{number}"
        self._numbers[wanted] = number
        self._used.add(name)
        return name

    def _has(self, name: str) -> bool:
        return name in self._used or name in self._reserved

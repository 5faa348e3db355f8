"""What may stand in a log."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(value: object) -> object:
    """``value`` for a line of the log: numbers as they are, anything else as text without line breaks and the like.

    Else whoever chooses a name or a close reason could write lines of his own.
    """
    if isinstance(value, int | float):
        return value
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)

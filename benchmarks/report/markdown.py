"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, numbers to the right."""
    head = f"| {' | '.join(columns)} |"
    rule = f"|{'|'.join(['---'] + ['--:'] * (len(columns) - 1))}|"
    return "\n".join([head, rule, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"

"""Tables in Markdown, and the words that both pages have in common."""

from __future__ import annotations

from collections.abc import Sequence

from ..results import Run
from .analysis import Cell, ratio


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """The first ``left`` columns to the left, numbers to the right."""
    head = f"| {' | '.join(columns)} |"
    rule = f"|{'|'.join(['---'] * left + ['--:'] * (len(columns) - left))}|"
    return "\n".join([head, rule, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def ratio_cell(found: Cell | None) -> str:
    """A ratio with its remarks; a dash for what was not measured."""
    if found is None:
        return "–"
    text = ratio(found.ratio) + (r"\*" if found.bound else "")
    return f"{text} (answers were wrong)" if found.bad else text


def rounds(run: Run) -> str:
    return f"{run.rounds} rounds" if run.rounds > 1 else "one round"


QUICK = "> **This is a quick run**, with one short round for each workload. Do not quote its figures.\n"

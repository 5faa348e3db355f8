"""The pages and plots that are made of the JSON of a run: ``python -m benchmarks report [FILE]``."""

from __future__ import annotations

from pathlib import Path

from ..cuts.outcome import Cuts
from ..measure import rate
from ..results import CurveResult, Run
from . import plots, results_page, summary_page
from .analysis import cell, column_of, ratio, subjects_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
SUMMARY = DOCS / "contributing" / "benchmarks.md"
FULL = DOCS / "contributing" / "benchmark-results.md"
FOLDER = DOCS / "performance"
"""Of the plots and the JSON."""
RESULTS = FOLDER / "results.json"
CUTS = FOLDER / "cuts.json"

COLOURS = {"websockets": 0, "wsrpc": 1, "wsrpc-picows": 2, "js": 3}
"""Of the lines in the plots; each subject has the same in all."""


def render(run: Run, cuts: Cuts) -> dict[Path, str]:
    """The pages and their plots, by path."""
    files = {
        SUMMARY: "\n".join(summary_page.blocks(run, cuts)),
        FULL: "\n".join(results_page.blocks(run, cuts)),
    }
    if chart := _bars(run):
        files[FOLDER / "overview.svg"] = chart
    for curve in run.curves:
        files[FOLDER / f"{curve.key}.svg"] = _plot(run, curve)
    return files


def write(run: Run, cuts: Cuts) -> list[Path]:
    """Write the pages and their plots; their paths."""
    FOLDER.mkdir(exist_ok=True)
    files = render(run, cuts)
    for path, text in files.items():
        path.write_text(text, "utf-8")
    return list(files)


def _bars(run: Run) -> str | None:
    found = column_of(run, "requests")
    if found is None:
        return None
    section, column = found
    rows: list[plots.Bar] = []
    for key in subjects_of(run, section):
        one = cell(run, section, column, key)
        info = run.subjects[key]
        if one is None or info.kind == "ceiling":
            continue
        colour = {"wsrpc": 1, "bare": 0}.get(info.kind, 3)
        rows.append(plots.Bar(info.title.replace("`", ""), colour, one.ratio, ratio(one.ratio)))
    rows.sort(key=lambda row: -row.value)
    legend = {1: "wsrpc", 3: "other systems with calls", 0: "bare echoes, which have no calls"}
    return plots.bars(summary_page.OVERVIEW, legend, rows)


def _plot(run: Run, curve: CurveResult) -> str:
    lines = [
        plots.Line(
            run.subjects[key].title.replace("`", "").partition(",")[0],
            COLOURS.get(key, 3),
            {point: rate(samples) for point, samples in line.items() if rate(samples)},
        )
        for key, line in curve.lines.items()
    ]
    return plots.curve(curve.title, curve.x, curve.y, lines, bytes_on_x=curve.x == "bytes")

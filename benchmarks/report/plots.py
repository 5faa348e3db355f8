"""Plots as SVG that is readable in light and dark mode: one file has the colours of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, TOP = 760, 60
BAR, GAP, NAMES = 18, 9, 300

STYLE = """\
<style>
  :root { color-scheme: light dark; }
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #52514e; }
  .title { font-size: 15px; font-weight: 600; fill: #0b0b0b; }
  .value { fill: #0b0b0b; }
  .surface { fill: #fcfcfb; }
  .grid { stroke: #e4e3df; stroke-width: 1; }
  .shade { fill: #f1e4dc; }
  .axis { stroke: #a3a29c; stroke-width: 1; }
  .c0 { --c: #6f6e69; } .c1 { --c: #2a78d6; } .c2 { --c: #12855a; } .c3 { --c: #d9541e; }
  .mark, .bar { fill: var(--c); } .name { fill: var(--c); font-weight: 600; }
  @media (prefers-color-scheme: dark) {
    text { fill: #c3c2b7; }
    .title, .value { fill: #ffffff; }
    .surface { fill: #1a1a19; }
    .grid { stroke: #33332f; }
    .shade { fill: #3a2c25; }
    .axis { stroke: #75746e; }
    .c0 { --c: #a3a29c; } .c1 { --c: #5598e7; } .c2 { --c: #2fb585; } .c3 { --c: #ee7d4a; }
  }
</style>"""


@dataclass(frozen=True)
class Bar:
    name: str
    colour: int
    value: float
    text: str


@dataclass(frozen=True)
class Progress:
    """What has arrived: one time for each item. The first of ``names`` is shown in the colour, the others below it."""

    names: Sequence[str]
    colour: int
    times: Sequence[float]


@dataclass(frozen=True)
class Span:
    """A step of a trace, inside ``depth`` other ones. Times are in milliseconds since the trace began."""

    name: str
    colour: int
    depth: int
    start: float
    end: float


def bars(title: str, legend: Mapping[int, str], rows: Sequence[Bar]) -> str:
    """Horizontal bars from 0 on, each with its value at its end. ``legend`` says what the colours mean."""
    height = TOP + len(rows) * (BAR + GAP) + 8
    most = max(row.value for row in rows)
    end = WIDTH - 62

    def across(value: float) -> float:
        return NAMES + (end - NAMES) * value / most

    parts = [_text(16, 24, title, "title"), *_legend(legend)]
    for index, row in enumerate(rows):
        top = TOP + index * (BAR + GAP)
        width = max(across(row.value) - NAMES, 1)
        parts.append(_text(NAMES - 10, top + 14, row.name, anchor="end"))
        bar = f'<rect class="bar" x="{NAMES}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        parts.append(f'<g class="c{row.colour}">{bar}</g>')
        parts.append(_text(NAMES + width + 7, top + 14, row.text, "value"))
    parts.append(f'<line class="axis" x1="{NAMES}" x2="{NAMES}" y1="{TOP - 6}" y2="{height - 12}"/>')
    return _document(WIDTH, height, title, parts)


def waterfall(title: str, legend: Mapping[int, str], spans: Sequence[Span]) -> str:
    """Spans of one trace, one below the other, each from its start to its end on a linear axis with its duration."""
    height = TOP + len(spans) * (BAR + GAP) + 24
    last = max(span.end for span in spans)
    left, floor = 200, height - 30

    def across(time: float) -> float:
        return left + (WIDTH - 80 - left) * time / last

    parts = [_text(16, 24, title, "title"), *_legend(legend)]
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, math.inf) if last / step <= 8)
    for tick in range(0, int(last) + 1, int(step)):
        x = f"{across(tick):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{floor}"/>')
        parts.append(_text(across(tick), floor + 16, f"{tick} ms", anchor="middle"))
    for index, span in enumerate(spans):
        top = TOP + index * (BAR + GAP)
        start, width = across(span.start), max(across(span.end) - across(span.start), 1)
        parts.append(_text(16 + 16 * span.depth, top + 14, span.name))
        bar = f'<rect class="bar" x="{start:.1f}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        parts.append(f'<g class="c{span.colour}">{bar}</g>')
        parts.append(_text(start + width + 7, top + 14, f"{span.end - span.start:.1f} ms", "value"))
    return _document(WIDTH, height, title, parts)


def _legend(legend: Mapping[int, str]) -> list[str]:
    """What the colours mean, in one line below the title."""
    parts: list[str] = []
    left = 16.0
    for colour, meaning in legend.items():
        parts.append(f'<g class="c{colour}"><rect class="bar" x="{left}" y="34" width="11" height="11" rx="2"/></g>')
        parts.append(_text(left + 17, 44, meaning))
        left += 17 + 7.2 * len(meaning) + 18
    return parts


def progress(title: str, x: str, shaded: tuple[float, float, str], series: Sequence[Progress]) -> str:
    """Dots that count up in time, from 0 on, on linear axes. ``shaded`` is a time with a name."""
    height, left, right, top, bottom = 300, 60, 250, 56, 46
    last = max(time for each in series for time in each.times)
    most = max(len(each.times) for each in series)

    def across(time: float) -> float:
        return left + (WIDTH - right - left) * time / last

    def up(count: float) -> float:
        return height - bottom - (height - bottom - top) * count / most

    start, end, name = shaded
    parts = [_text(16, 24, title, "title")]
    box = f'x="{across(start):.1f}" y="{top - 12}" width="{across(end) - across(start):.1f}"'
    parts.append(f'<rect class="shade" {box} height="{height - bottom - top + 12}"/>')
    parts.append(_text(across((start + end) / 2), top, name, anchor="middle"))
    for count in range(0, most + 1, 20):
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{up(count):.1f}" y2="{up(count):.1f}"/>')
        parts.append(_text(left - 10, up(count) + 4, str(count), anchor="end"))
    for second in range(int(last) + 1):
        parts.append(_text(across(second), height - bottom + 20, f"{second} s", anchor="middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 8, x, anchor="middle"))
    for each in series:
        dots = "".join(
            f'<circle class="mark" cx="{across(time):.1f}" cy="{up(count):.1f}" r="3"/>'
            for count, time in enumerate(each.times, 1)
        )
        names = "".join(
            _text(WIDTH - right + 12, up(len(each.times)) + 4 + 17 * number, line, "name" if number == 0 else "")
            for number, line in enumerate(each.names)
        )
        parts.append(f'<g class="c{each.colour}">{dots}{names}</g>')
    return _document(WIDTH, height, title, parts)


def _document(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    surface = f'<rect class="surface" width="{width}" height="{height}" rx="6"/>'
    return "\n".join([head, STYLE, surface, *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text{of_kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

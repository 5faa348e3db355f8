"""Draws sequence diagrams as SVG, from the part of Mermaid's notation that the documentation uses.

The site draws them when it is built, so that a page needs no script from elsewhere. Colours come from the page's style
sheet, docs/stylesheets/extra.css, so that a diagram follows its light and dark mode. GitHub draws the same text
itself.

Notation: ``sequenceDiagram``, then one of these on each line::

    title: Text                     for readers who cannot see the diagram; each diagram needs one
    participant A as Name           from left to right
    A->>B: text                     an arrow; A-->>B dashed; A-xB and A--xB are lost on the way
    Note over A: text               or `Note over A,B: text`, `Note left of A: text`, `Note right of B: text`
    %% text                         a comment
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

__all__ = ["BadDiagram", "draw"]

COLUMN = 230
"""Pixels between two participants."""
ROW = 44
MARGIN = 90
"""Pixels left of the first participant and right of the last one: half of a name, or of a note."""
HEAD = 34
LINE = 17
"""Pixels from one line of a text to the next."""
CHARACTER = 6.7
"""Pixels of a character, on average, at the style sheet's 13 px."""

ARROW = re.compile(r"(\w+)\s*(-->>|->>|--x|-x)\s*(\w+)\s*:\s*(.+)")
NOTE = re.compile(r"[Nn]ote (over|left of|right of) (\w+)(?:\s*,\s*(\w+))?\s*:\s*(.+)")
PARTICIPANT = re.compile(r"participant (\w+)(?: as (.+))?")


class BadDiagram(Exception):
    """The text is not in the notation."""


@dataclass
class Arrow:
    """Message from one participant to another."""

    sender: str
    kind: str
    receiver: str
    text: str


@dataclass
class Note:
    """Box beside or over participants."""

    place: str
    first: str
    last: str
    text: str


def parse(source: str) -> tuple[str, dict[str, str], list[Arrow | Note]]:
    """Read a diagram: its title, the names of its participants, and its rows."""
    lines = [line.strip() for line in source.splitlines()]
    lines = [line for line in lines if line and not line.startswith("%%")]
    if not lines or lines[0] != "sequenceDiagram":
        raise BadDiagram("a diagram begins with the line 'sequenceDiagram'")
    title = ""
    names: dict[str, str] = {}
    rows: list[Arrow | Note] = []
    for line in lines[1:]:
        if line.startswith("title:"):
            title = line.removeprefix("title:").strip()
        elif found := PARTICIPANT.fullmatch(line):
            names[found[1]] = found[2] or found[1]
        elif found := ARROW.fullmatch(line):
            rows.append(Arrow(found[1], found[2], found[3], found[4]))
        elif found := NOTE.fullmatch(line):
            rows.append(Note(found[1], found[2], found[3] or found[2], found[4]))
        else:
            raise BadDiagram(f"not in the notation: {line!r}")
    if not title:
        raise BadDiagram("a diagram needs a line 'title: …' for readers who cannot see it")
    for row in rows:
        for name in (row.sender, row.receiver) if isinstance(row, Arrow) else (row.first, row.last):
            if name not in names:
                raise BadDiagram(f"no participant {name!r}")
    return title, names, rows


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _lines(text: str, width: float) -> list[str]:
    """Divide a text so that each line has a width of so many pixels at most."""
    lines = [""]
    for part in re.split(r"<br\s*/?>", text):
        for word in part.split():
            longer = f"{lines[-1]} {word}".strip()
            if len(longer) * CHARACTER > width and lines[-1]:
                lines.append(word)
            else:
                lines[-1] = longer
        lines.append("")
    return lines[:-1]


def _arrow(row: Arrow, places: dict[str, float], top: float) -> tuple[list[str], float]:
    begin, end = places[row.sender], places[row.receiver]
    dashed = " dashed" if row.kind.startswith("--") else ""
    if begin == end:
        raise BadDiagram(f"an arrow needs two participants: {row.text!r}")
    lines = _lines(row.text, abs(end - begin) - 20)
    y = top + LINE * len(lines) + 8
    drawn = [_text((begin + end) / 2, top + LINE * (n + 1) - 2, line, "label") for n, line in enumerate(lines)]
    if row.kind.endswith("x"):  # lost on the way: the arrow stops in the middle
        end = begin + (end - begin) * 0.6
        drawn.append(f'<path class="lost" d="M{end - 6:g} {y - 6:g}l12 12m0 -12l-12 12"/>')
        drawn.append(f'<path class="arrow{dashed}" d="M{begin:g} {y:g}H{end:g}"/>')
    else:
        back = -8 if end > begin else 8
        drawn.append(f'<path class="arrow{dashed}" d="M{begin:g} {y:g}H{end:g}"/>')
        drawn.append(f'<path class="tip" d="M{end:g} {y:g}l{back} -4.5v9z"/>')
    return drawn, y + 14


def _note(row: Note, places: dict[str, float], top: float) -> tuple[list[str], float]:
    first, last = sorted((places[row.first], places[row.last]))
    if row.place == "left of":
        first, last = first - MARGIN * 2 + 10, first - 10
    elif row.place == "right of":
        first, last = last + 10, last + MARGIN * 2 - 10
    else:
        first, last = first - MARGIN + 8, last + MARGIN - 8
    lines = _lines(row.text, last - first - 16)
    height = LINE * len(lines) + 10
    drawn = [f'<rect class="note" x="{first:g}" y="{top:g}" width="{last - first:g}" height="{height}" rx="4"/>']
    drawn += [_text((first + last) / 2, top + LINE * (n + 1), line, "label") for n, line in enumerate(lines)]
    return drawn, top + height + 12


def draw(source: str) -> str:
    """Return the diagram as an SVG element.

    Raises:
        BadDiagram: the text is not in the notation.
    """
    title, names, rows = parse(source)
    notes = [row for row in rows if isinstance(row, Note)]
    order = list(names)
    left = MARGIN * (2 if any(note.place == "left of" and note.first == order[0] for note in notes) else 1)
    right = MARGIN * (2 if any(note.place == "right of" and note.last == order[-1] for note in notes) else 1)
    places: dict[str, float] = {name: left + COLUMN * number for number, name in enumerate(order)}
    width = left + COLUMN * (len(order) - 1) + right
    drawn: list[str] = []
    y = float(HEAD + 22)
    for row in rows:
        more, y = _arrow(row, places, y) if isinstance(row, Arrow) else _note(row, places, y)
        drawn += more
    height = y + 10
    heads: list[str] = []
    for name, x in places.items():
        heads.append(f'<path class="life" d="M{x:g} {HEAD}V{height:g}"/>')
        heads.append(
            f'<rect class="head" x="{x - MARGIN + 8:g}" y="2" width="{2 * MARGIN - 16}" height="{HEAD}" rx="5"/>'
        )
        heads.append(_text(x, 24, names[name], "name"))
    return (
        f'<svg class="sequence" role="img" viewBox="0 0 {width:g} {height:g}" style="max-width: {width:g}px" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>{"".join(heads + drawn)}</svg>'
    )

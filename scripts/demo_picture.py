"""Draws what `make demo` prints as docs/images/demo.svg, for README.md: ``python scripts/demo_picture.py``.

A test compares the picture's text with what the demo prints.
"""

from __future__ import annotations

import subprocess
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "demo.svg"
DEMO = ROOT / "examples" / "demo.py"
CHARACTER, LINE, MARGIN, BAR = 7.83, 20, 18, 34
"""Pixels: a character's width at 13 px, a line's height, the space around the text, the bar of the window."""
LABEL = 17
"""Characters at the start of each line that say who calls whom."""


def picture(lines: list[str]) -> str:
    """Return an SVG of a terminal that shows the lines."""
    width = round(max(map(len, lines)) * CHARACTER + 2 * MARGIN)
    height = BAR + (len(lines) + 1) * LINE + MARGIN
    rows = [("$ make demo", "")] + [(line[:LABEL], line[LABEL:]) for line in lines]
    texts: list[str] = []
    for number, (label, rest) in enumerate(rows):
        y = BAR + (number + 1) * LINE
        texts.append(
            f'<text x="{MARGIN}" y="{y}" xml:space="preserve"><tspan class="label">{escape(label)}</tspan>'
            f"{escape(rest)}</text>"
        )
    dots = "".join(f'<circle cx="{MARGIN + 4 + 18 * n}" cy="17" r="5" fill="#5c6370"/>' for n in range(3))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        "<title>make demo: a server and a client call each other</title>"
        "<style>text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#d7dae0}"
        ".label{fill:#8cc8ff}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="#1e2127"/>{dots}{"".join(texts)}</svg>\n'
    )


def main() -> None:
    """Run the demo, and draw what it prints."""
    ran = subprocess.run([sys.executable, str(DEMO)], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    PICTURE.write_text(picture(ran.stdout.splitlines()), "utf-8")


if __name__ == "__main__":
    main()

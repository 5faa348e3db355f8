"""Makes the table of abilities in docs/reference/adapters.md from `hosts`: `python tests/adapters/table.py`."""

from __future__ import annotations

import re
from pathlib import Path

from hosts import ABILITIES, HOSTS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "adapters.md"
PLACE = re.compile(r"(?<=<!-- abilities -->\n).*?(?=<!-- end of abilities -->)", re.DOTALL)


def table() -> str:
    """A column for each host, a row for each ability, and what happens instead."""
    lines = [f"| | {' | '.join(host.name for host in HOSTS)} |", "|---" * (len(HOSTS) + 1) + "|"]
    notes: list[str] = []
    for ability, text in ABILITIES.items():
        cells = []
        for host in HOSTS:
            instead = host.cannot.get(ability)
            if instead is None:
                cells.append("yes")
                continue
            if instead not in notes:
                notes.append(instead)
            cells.append(f"no ({notes.index(instead) + 1})")
        lines.append(f"| {text} | {' | '.join(cells)} |")
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join(["", *lines, "", *numbered, ""]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(PLACE.sub(lambda _: table(), PAGE.read_text("utf-8")), "utf-8")

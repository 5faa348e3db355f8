"""The guides in docs/how-to, and the commands that they show."""

from __future__ import annotations

import re

from programs import ROOT
from test_docs import blocks_of

HOW_TO = ROOT / "docs" / "how-to"


def commands(page: str, program: str = "") -> list[str]:
    """The commands of a guide, or those of one program. A line that ends with a backslash goes on in the next one."""
    found: list[str] = []
    for block in blocks_of(HOW_TO / f"{page}.md"):
        if block.language == "console":
            found += re.findall(r"^\$ ((?:.*\\\n)*.*)$", block.text, re.MULTILINE)
    return [command for command in found if program in ("", command.split()[0])]


def python_blocks(page: str) -> list[str]:
    """The Python code of a guide that is no whole program."""
    blocks = blocks_of(HOW_TO / f"{page}.md")
    return [block.text for block in blocks if block.language == "python" and block.program is None]

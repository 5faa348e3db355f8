"""docs/how-to/ai-chat.md: its code is that of examples/ai_chat, which tests/browser/test_ai_chat.py runs."""

from __future__ import annotations

from pages import HOW_TO
from programs import ROOT
from test_docs import blocks_of

EXAMPLE = ROOT / "examples" / "ai_chat"


def test_the_code_of_the_page_is_in_the_example() -> None:
    code = {
        "python": (EXAMPLE / "ai_chat.py").read_text("utf-8"),
        "js": (EXAMPLE / "page.js").read_text("utf-8"),
    }
    blocks = [*blocks_of(HOW_TO / "ai-chat.md")]
    assert blocks and {block.language for block in blocks} == {*code}
    for block in blocks:
        assert block.text in code[block.language], f"line {block.line}: the example has other code"

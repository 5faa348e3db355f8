"""docs/how-to/ai-chat.md: its code is that of examples/ai_chat, which tests/browser/test_ai_chat.py runs.

Its answers for clients of other protocols go on wherever an attempt was cut.
"""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest
from pages import HOW_TO
from programs import ROOT
from test_docs import blocks_of

EXAMPLE = ROOT / "examples" / "ai_chat"


def test_the_code_of_the_page_is_in_the_example() -> None:
    code = (EXAMPLE / "ai_chat.py").read_text("utf-8")
    [answer] = blocks_of(HOW_TO / "ai-chat.md")
    assert answer.text in code, f"line {answer.line}: the example has other code"


def test_the_pages_say_how_much_one_copies() -> None:
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in EXAMPLE.glob("*.[!m]*"))
    assert f"{lines} lines in six files" in (HOW_TO / "ai-chat.md").read_text("utf-8")
    page = HOW_TO / "ai-clients.md"
    app, chat, _ = (len(block.text.splitlines()) for block in blocks_of(page))
    assert f"{app} lines of Python, and {chat} of React" in page.read_text("utf-8")


async def no_time(seconds: float) -> None:
    """Take the place of `asyncio.sleep`."""


async def test_an_attempt_goes_on_wherever_the_one_before_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = importlib.import_module("language_model")
    monkeypatch.setitem(sys.modules, "language_model", sys.modules.pop("language_model"))  # only for this test
    monkeypatch.setattr(model, "asyncio", SimpleNamespace(sleep=no_time))
    monkeypatch.setattr(model, "ADVICE", "Look around, and ask.")
    asked = [{"role": "user", "content": "Hello"}]

    async def after(written: str) -> str:
        begun = [{"role": "assistant", "content": written}] if written else []
        return "".join([str(word) async for word in model.think([*asked, *begun], [])])

    words = ["Look ", "around, ", "and ", "ask. "]
    for cut in range(len(words) + 1):
        assert await after("".join(words[:cut])) == "".join(words[cut:])

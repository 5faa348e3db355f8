"""docs/how-to/ai-chat.md: its code is that of examples/ai_chat, which tests/browser/test_ai_chat.py runs.

Its answers for clients of other protocols go on wherever an attempt was cut.
"""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from pages import HOW_TO
from programs import ROOT
from test_docs import blocks_of

EXAMPLE = ROOT / "examples" / "ai_chat"


def test_the_code_of_the_page_is_in_the_example() -> None:
    code = (EXAMPLE / "ai_chat.py").read_text("utf-8")
    [answer, others] = blocks_of(HOW_TO / "ai-chat.md")
    assert answer.text in code, f"line {answer.line}: the example has other code"
    assert "aisdk.chat" in others.text and "agui.agent" in others.text, "the routes for other clients, which it has not"


async def no_time(seconds: float) -> None:
    """Take the place of `asyncio.sleep`."""


class Words:
    """Takes the place of the user."""

    more = ()

    async def result_of(self, call: str) -> str:
        return "red"


COLOR = {"name": "pick_color", "description": "Let the user pick a color", "parameters": {}}
ASKED = {
    "agui": {
        "threadId": "t",
        "runId": "r",
        "messages": [{"id": "m", "role": "user", "content": "Which color?"}],
        "tools": [COLOR],
    },
    "aisdk": {"id": "c", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "Hello"}]}]},
}


@pytest.mark.parametrize("protocol", [*ASKED])
async def test_an_attempt_goes_on_wherever_the_one_before_was_cut(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    module, model = importlib.import_module(protocol), importlib.import_module("language_model")
    for name in (protocol, "language_model"):  # which are imported for this test only
        monkeypatch.setitem(sys.modules, name, sys.modules.pop(name))
    monkeypatch.setattr(model, "asyncio", SimpleNamespace(sleep=no_time))
    monkeypatch.setattr(model, "ADVICE", "Look around, and ask.")

    async def after(earlier: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if protocol == "agui":
            asked = msgspec.convert(ASKED[protocol], module.RunAgentInput)
            return [msgspec.to_builtins(event) async for event in module.events(asked, earlier, Words())]
        return [chunk async for chunk in module.chunks(msgspec.convert(ASKED[protocol], module.Chat), earlier)]

    def without_new_ids(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        ids = list[str]()
        for item in items:
            ids += [item["messageId"]] if item.get("messageId", "") not in {"", *ids} else []
        return [
            (item["type"], item.get("delta"), item.get("messageId") and ids.index(item["messageId"])) for item in items
        ]

    whole = await after([])
    for cut in range(1, len(whole) + 1):
        assert without_new_ids(whole[:cut] + await after(whole[:cut])) == without_new_ids(whole), whole[cut - 1]

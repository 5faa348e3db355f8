"""examples/ai_chat with a page that drives two tabs of it, and with a process that dies when it is asked to."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import ai_chat
from conversations import Conversations
from fastapi import Request
from fastapi.responses import FileResponse
from web_app import app


class Dying(Conversations):
    def end(self, *args: Any) -> dict[str, Any]:
        """Store an answer. If its message asks for it, die before it is emitted."""
        was_asked, ended = self.messages(*args[:2])[0]["state"] == "asked", super().end(*args)
        if was_asked and ended["state"] == "done" and "dies" in ended["text"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return ended


ai_chat.chats = Dying(os.environ["CHAT_DATABASE"])


@app.get("/drive")
async def drive() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page_drives_chat.html"))


@app.post("/report")
async def report(request: Request) -> None:
    """Write into the log what the page has seen."""
    logging.info("report: %s", json.dumps(await request.json()))

"""examples/ai_chat with a page that drives two tabs of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse
from web_app import app


@app.get("/drive")
async def drive() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page_drives_chat.html"))


@app.post("/report")
async def report(request: Request) -> None:
    """Write into the log what the page has seen."""
    logging.info("report: %s", json.dumps(await request.json()))

"""Server-sent events with sse-starlette, which an EventSource continues after a drop: `uvicorn sse_before:app`.

GET /events follows the lobby, POST /say says something there. POST /answers/KEY begins an answer, and GET reads it.
It needs sse-starlette and uvicorn. sse_after.py is the same with wsrpc.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


class Log:
    """Events that are kept, each with its number as its id."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended = False
        self.changed = asyncio.Condition()

    async def add(self, *values: object, ended: bool = False) -> None:
        async with self.changed:
            self.lines += [json.dumps(value) for value in values]
            self.ended = ended
            self.changed.notify_all()

    async def follow(self, position: int) -> AsyncIterator[ServerSentEvent]:
        while True:
            while position < len(self.lines):
                position += 1
                yield ServerSentEvent(self.lines[position - 1], id=str(position), retry=1000)
            if self.ended:
                yield ServerSentEvent("[DONE]", event="end", id=str(position))
                return
            async with self.changed:
                if position == len(self.lines) and not self.ended:
                    await self.changed.wait()


lobby, answers, tasks = Log(), dict[str, Log](), set[asyncio.Task[None]]()


def stream(request: Request, log: Log, position: int = 0) -> EventSourceResponse:
    return EventSourceResponse(log.follow(int(request.headers.get("Last-Event-ID", position))))


async def events(request: Request) -> EventSourceResponse:
    return stream(request, lobby, len(lobby.lines))


async def say(request: Request) -> JSONResponse:
    text = await request.json()
    await lobby.add(text)
    return JSONResponse(len(text))


async def work(log: Log, question: str) -> None:
    for word in ("It", "depends,", question):
        await asyncio.sleep(0.1)
        await log.add(word)
    await log.add(ended=True)


async def answer(request: Request) -> EventSourceResponse:
    key = request.path_params["key"]
    if request.method == "POST" and key not in answers:
        answers[key] = Log()
        task = asyncio.create_task(work(answers[key], await request.json()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    return stream(request, answers[key])


app = Starlette(
    routes=[
        Route("/events", events),
        Route("/say", say, methods=["POST"]),
        Route("/answers/{key}", answer, methods=["GET", "POST"]),
    ]
)

"""``python -m benchmarks.clients KIND PORT SERVER_PID``: see `benchmarks.clients`."""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from typing import Any

import msgspec

from ..measure import Sample
from .tasks import TASKS, Task

KINDS = {
    "by-hand": "by_hand:opened",
    "wsrpc": "with_wsrpc:on_default",
    "wsrpc-off": "with_wsrpc:on_default_without_sessions",
    "socketio": "with_socketio:opened",
    "fastapi-rpc": "with_fastapi_rpc:opened",
    "grpc": "with_grpc:opened",
}
"""Module and function of each. Imported late, so that a library that is missing takes no other client with it."""

CAN = {
    "socketio": {"workers", "one", "emit"},
    "fastapi-rpc": {"workers", "one"},
    "grpc": {"workers", "one", "items", "upload", "download"},
}
"""The tasks of those that cannot do all."""


def can(kind: str, task: str) -> bool:
    return task in CAN.get(kind, TASKS)


async def measure(opened: Any, task: Task, port: int, server_pid: int) -> Sample:
    async with opened(port) as client:
        return await TASKS[task.task](client, task, server_pid)


def main(kind: str, port: int, server_pid: int) -> None:
    logging.disable()
    module, _, function = KINDS[kind].partition(":")
    opened = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    print("ready", flush=True)
    for line in sys.stdin:
        task = msgspec.json.decode(line, type=Task)
        print(msgspec.json.encode(asyncio.run(measure(opened, task, port, server_pid))).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

"""The servers whose latency is measured, and what is asked of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

JS_SERVER = Path(__file__).parent.parent / "js" / "server.mjs"

CALL = '["add",1,2]'
REQUEST = f'{{"i":000000,"a":{CALL}}}'
"""The message, with a six-digit id that the generator overwrites."""


@dataclass(frozen=True)
class Subject:
    """One server. ``key`` is what `benchmarks.servers` calls it."""

    key: str
    title: str
    echoes: bool = False

    @property
    def expected(self) -> str:
        """What must stand in each answer; a server that only echoes sends the call itself back."""
        return f'"a":{CALL}' if self.echoes else '"d":3'

    def command(self, node: str | None) -> list[str | Path]:
        """What starts it. It prints its port, and ends when its stdin does."""
        if self.key == "js":
            assert node is not None
            return [node, JS_SERVER, "0"]
        return [sys.executable, "-m", "benchmarks.servers", self.key, "0"]


SUBJECTS = (
    Subject("bare", "bare websockets echo", echoes=True),
    Subject("wsrpc", "wsrpc, def handlers"),
    Subject("wsrpc-async", "wsrpc, async def handlers"),
    Subject("wsrpc-picows", "wsrpc on picows"),
    Subject("bare-asgi", "bare ASGI echo under uvicorn", echoes=True),
    Subject("wsrpc-asgi", "wsrpc on ASGI under uvicorn"),
    Subject("js", "JavaScript ws-wrapper on ws"),
)
"""The first is what the others are compared with."""

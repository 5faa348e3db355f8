"""What is measured: the servers, the clients, and what is asked of them."""

from __future__ import annotations

from dataclasses import dataclass

PENDING = 64
"""Requests that are under way on the one connection, in every workload."""

TEXT = "x" * 1024


@dataclass(frozen=True)
class Workload:
    """One kind of load on a server. ``call`` and ``result`` are JSON text."""

    key: str
    title: str
    call: str
    result: str
    separate: bool = False

    @property
    def request(self) -> str:
        """The message, with a six-digit id that the load generator overwrites."""
        return f'{{"i":000000,"a":{self.call}}}'

    def expected(self, echoes: bool) -> str:
        """What must stand in each answer; a server that only echoes sends the call itself back."""
        return f'"a":{self.call}' if echoes else f'"d":{self.result}'


@dataclass(frozen=True)
class Subject:
    """One thing that is measured. The first of each list is what the others are compared with."""

    key: str
    title: str
    echoes: bool = False
    own: str = ""
    """The key of the bare echo that the same library makes, if that is among them."""


WORKLOADS = (
    Workload("add", "add(1, 2), one write per read", '["add",1,2]', "3"),
    Workload("add-separate", "add(1, 2), one write per request", '["add",1,2]', "3", separate=True),
    Workload("echo-1k", "echo of 1 KiB, one write per read", f'["echo","{TEXT}"]', f'"{TEXT}"'),
)

SERVERS = (
    Subject("bare", "bare websockets echo", echoes=True),
    Subject("wsrpc", "wsrpc, def handlers"),
    Subject("wsrpc-async", "wsrpc, async def handlers"),
    Subject("wsrpc-picows", "wsrpc on picows"),
    Subject("bare-aiohttp", "bare aiohttp echo", echoes=True),
    Subject("wsrpc-aiohttp", "wsrpc on aiohttp", own="bare-aiohttp"),
    Subject("bare-asgi", "bare ASGI echo under uvicorn", echoes=True),
    Subject("wsrpc-asgi", "wsrpc on ASGI under uvicorn", own="bare-asgi"),
    Subject("js", "JavaScript ws-wrapper on ws"),
    Subject("ceiling", "C echo (the generator's ceiling)", echoes=True),
)

CLIENTS = (
    Subject("handwritten", "by hand over websockets, both ends"),
    Subject("wsrpc", "wsrpc Client and Server"),
)

CLIENT_TITLE = f"{PENDING} coroutines awaiting request('add', 1, 2), Python on both ends"

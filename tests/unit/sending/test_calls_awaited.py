"""Whatever is wrong with a request or an emit is raised when it is awaited, never at the call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Retry, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "no text": ((7,), {}),
    "an argument that cannot be encoded": (("event", object()), {}),
    "a keyword": (("event",), {"colour": "red"}),
    "offline": (("event",), {"offline": "maybe"}),
    "retry": (("event",), {"retry": 3}),
    "retry and send": (("event",), {"retry": Retry(), "send": [1]}),
    "idempotent": (("event",), {"idempotent": True}),
    "timeout": (("event",), {"timeout": -1}),
    "what is sent": (("event",), {"send": 3}),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_on_a_client_a_peer_and_a_named_channel(wrong: str) -> None:
    args, options = WRONG[wrong]
    async with connect(Server(), client=Client()) as client:
        for caller in (client, client.peer, client.of("room")):
            calls: list[Any] = [caller.request(*args, **options), caller.open_channel(*args, **options)]
            if not options or "colour" in options:
                calls.append(caller.emit(*args, **options))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, (TypeError, ValueError)) for result in results), results

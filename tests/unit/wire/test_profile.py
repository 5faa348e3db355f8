"""Profiles, without Go and JavaScript: what is refused, what is never said.

Go itself is in interop/test_go_strictness.py, and ws-wrapper 3 in interop/test_js_streams.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import BadArguments, Client, Limits, MessageTooBig, RemoteError
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

HUGE = 10**400


async def test_an_empty_name_is_refused() -> None:
    """Go takes a message with such a name for no event, so a request would wait for its timeout."""
    transport = ScriptedTransport()
    async with Client(profile="go") as client:
        await client.bind(transport)
        with pytest.raises(ValueError, match='Go ignores an event whose name is ""'):
            await client.request("")
        with pytest.raises(ValueError, match="give it a name"):
            await client.of("room").emit("", 1)
        assert transport.pop_sent() == [] and client.peer.pending == 0


async def test_numbers_that_no_double_holds_are_rejected(caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport()
    async with Client(profile="go") as client:
        await client.bind(transport)
        client.on("number", lambda k: HUGE if k else [2**1023, 1.7e308, -1e300, "9" * 400, {"1e999": "e999"}])
        transport.feed({"i": 1, "a": ["number", 1]}, {"i": 2, "a": ["number", 0]})
        rejected, resolved = transport.pop_sent()
        assert (rejected["i"], rejected["e"]["code"]) == (1, "wsrpc.internal")
        assert "is a number of 401 digits, and Go, which reads numbers as doubles" in caplog.text
        assert resolved["d"][3:] == ["9" * 400, {"1e999": "e999"}]
        # Arguments are read one by one over there, each as what its handler takes.
        await client.emit("big", HUGE)
        transport.expect({"a": ["big", HUGE]})


async def test_larger_messages_are_refused() -> None:
    for limits, most in [(None, 32 * 1024), (Limits(sent_message_bytes=50_000), 50_000)]:
        transport = ScriptedTransport()
        async with Client(profile="go", limits=limits) as client:
            await client.bind(transport)
            room = most - len('{"a":["x",""]}')
            await client.emit("x", "y" * room)
            assert len(transport.pop_sent()) == 1
            with pytest.raises(MessageTooBig, match=rf"has \d+ bytes encoded, and at most {most} may be sent "):
                await client.emit("x", "y" * (room + 1))
            client.on("blob", lambda n: "y" * n)
            transport.feed({"i": 1, "a": ["blob", most]})
            (rejected,) = transport.pop_sent()
            assert rejected["i"] == 1
            assert f"at most {most} may be sent" in rejected["e"]["message"]


async def test_what_go_says_of_a_wrong_number_of_arguments() -> None:
    for profile, wanted in [("go", BadArguments), (None, RemoteError)]:
        transport = ScriptedTransport()
        options: Any = {"profile": profile, "extensions": False}
        async with Client(**options) as client:
            await client.bind(transport)
            asked = asyncio.create_task(client.request("add", 1, 2, 3))
            await asyncio.sleep(0)
            (request,) = transport.pop_sent()
            transport.feed({"i": request["i"], "e": {"message": "incorrect number of arguments"}, "_": 1})
            with pytest.raises(RemoteError) as raised:
                await asked
            assert type(raised.value) is wanted
            assert ("add() was sent 3 arguments" in str(raised.value)) is (profile == "go")
            assert ("variadic (...), do not call it" in str(raised.value)) is (profile == "go")

"""Profiles, without Go and JavaScript: what is refused, what is never said.

Go itself is in interop/test_go_strictness.py, and ws-wrapper 3 in interop/test_js_streams.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Server
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")


def test_options_that_do_not_go_together() -> None:
    make: Any
    for make in (Server, Client):
        with pytest.raises(ValueError, match=r'^profile= is "go" .* or None, got \'rust\'$'):
            make(profile="rust")
        with pytest.raises(ValueError, match=r"^profile='go' speaks JSON in text messages"):
            make(profile="go", codec=MsgpackCodec())
        make(profile="go", codec=JsonCodec(enc_hook=str))


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

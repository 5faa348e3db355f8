"""Redirects of the opening handshake: no way to dial follows them, so that no other server gets credentials."""

from __future__ import annotations

import asyncio

import pytest
from dialings import DIALINGS, Dialing
from raw_websocket import raw_server
from served import LIMITS

from wsrpc import HandshakeRejected

SECRET = "s3cr3t-of-mine"


@pytest.mark.parametrize("dialing", DIALINGS, ids=repr)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_a_refusal_that_says_where_it_leads(dialing: Dialing, status: str) -> None:
    async with raw_server() as server:
        dialed = asyncio.create_task(dialing.dial(server.url, limits=LIMITS, headers={"Authorization": SECRET}))
        await server.refuse(status, "where to?", f"Location: ws://127.0.0.1:{server.port}/there?token={SECRET}")
        with pytest.raises(HandshakeRejected, match=f"HTTP {status[:3]}: where to") as caught:
            await dialed
        [note] = caught.value.__notes__
        assert f"it redirects to 'ws://127.0.0.1:{server.port}/there…'; redirects are not followed" in note
        assert SECRET not in f"{caught.value} {caught.value!r} {note}"

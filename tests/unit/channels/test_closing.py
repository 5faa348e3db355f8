"""How an anonymous channel ends: close, abort and drop, what travels, and what ends with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from stream_driver import Both
from stream_driver import both as both
from stream_sides import opened

from wsrpc import AnonymousChannel, Limits, Overloaded, RemoteError, RpcError
from wsrpc.testing import pair

pytestmark = pytest.mark.usefixtures("nothing_left")


FULL = RpcError("full", code="E_FULL", data={"left": 0})
ERROR = ValueError("no room")


@pytest.mark.parametrize(
    ("reason", "there"),
    [
        *((value, value) for value in ("bored", {"n": [1, 2]}, 0)),
        (FULL, ("full", "E_FULL", {"left": 0})),
        (Overloaded("busy"), ("busy", "wsrpc.overloaded", None)),  # no refusal: the handler that opened it has run
        (RpcError("no", "E", object()), ("no (data and fields left out: they cannot be encoded)", "E", None)),
        (ERROR, ("no room", None, None)),  # only its text travels
        (None, ("Request aborted", None, None)),
        (object(), ("Request aborted", None, None)),  # what cannot be encoded does not keep it open
        (RpcError("\ud800", code="E", data=object()), ("Request aborted", None, None)),
    ],
)
async def test_the_reason_of_an_abort_travels(both: Both, reason: Any, there: Any) -> None:
    ours, theirs = await opened(both)
    await ours.abort(reason)
    await theirs.wait_closed()
    got = theirs.close_reason
    if isinstance(there, tuple):
        assert type(got) is RemoteError
        got = (got.message, got.code, got.data)
    assert got == there and type(got) is type(there)
    assert ours.close_reason is reason


@pytest.mark.parametrize(
    "reason", [None, "bored" * 20, RpcError("bored" * 20), object(), RpcError("no", data=object())]
)
async def test_an_abort_that_is_larger_than_this_side_may_send_ends_it_on_this_side(reason: Any) -> None:
    async with pair(limits=Limits(sent_message_bytes=48), extensions=False) as (a, b):
        gone = asyncio.Event()

        @b.on("c")
        async def c(channel: AnonymousChannel) -> None:
            await gone.wait()

        channel = await a.open_channel("c")
        await channel.abort(reason)
        assert channel.closed and a.anonymous_channels == 0 and a.connected
        gone.set()

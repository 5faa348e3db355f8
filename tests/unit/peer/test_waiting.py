"""Which received messages wait for their handlers: the table `WAITING`, cell by cell."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Driven
from waiting import settled

from wsrpc import Peer
from wsrpc._core.peer.admission import WAITING, ReceivingState
from wsrpc._core.peer.waiting_room import MessageKind

OPENED = (ReceivingState.OPEN, ReceivingState.STOPPED)
"""The states in which the `open` handlers have finished."""


@pytest.mark.parametrize("kind", MessageKind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("state", ReceivingState, ids=lambda state: state.name)
async def test_a_received_message_waits_where_the_table_says(state: ReceivingState, kind: MessageKind) -> None:
    d, go, ran = Driven(dialer=state is not ReceivingState.ACCEPTED, bind=False), asyncio.Event(), list[Any]()

    async def opened(peer: Peer) -> None:
        channel = await peer.open_channel("talk")
        channel.on("n", ran.append)
        await go.wait()

    d.peer.on("open", opened)
    d.peer.on("n", ran.append)
    d.peer.bind(d.transport)
    [asked] = await d.fed()
    await d.fed({"i": asked["i"], "h": 1})
    if state in OPENED:
        go.set()
        await settled()
    if state is ReceivingState.STOPPED:
        d.transport.pause()
    fields = {MessageKind.ON_CHANNEL: {"h": asked["i"]}, MessageKind.REQUEST: {"i": 2}, MessageKind.EVENT: {}}
    await d.fed({**fields[kind], "a": ["n", 1]})
    assert ran == ([] if kind in WAITING[state] else [1])
    go.set()
    if state is ReceivingState.STOPPED:
        d.transport.resume()
    await settled()
    assert ran == [1]
    await d.peer.close()

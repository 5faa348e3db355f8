"""Emitters: what their methods send, to whom, and which contracts are refused."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import pytest
from cluster_servers import servers
from leftovers import nothing_left as nothing_left

from wsrpc import Client, ConnectionLost, Server, Stream, with_options
from wsrpc.cluster import ClusterClient
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


class ChatEvents(Protocol):
    async def said(self, who: str, text: str, *, loud: bool = False, mark: str = "") -> None: ...

    def typing(self, who: str, *more: str) -> None: ...


class AppEvents(Protocol):
    chat: ChatEvents

    async def new_version(self, number: int) -> None: ...


class Heard:
    """Implements the events, and keeps what it hears."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    def said(self, who: str, text: str, loud: bool = False, mark: str = "") -> None:
        self.queue.put_nowait((who, text, loud, mark))

    async def typing(self, who: str, *more: str) -> None:
        self.queue.put_nowait((who, *more))

    async def next(self) -> tuple[Any, ...]:
        return await asyncio.wait_for(self.queue.get(), 0.1)


async def test_a_room_from_outside_has_an_emitter() -> None:
    heard = Heard()
    async with servers(1) as made, connect(made[0]) as client:
        client.of("chat").implement(ChatEvents, heard)
        made[0].room("lobby").add(made[0].peers[0])
        async with ClusterClient(made.engine, name=made[0].cluster.name) as outside:
            await outside.room("lobby").emitter(AppEvents).chat.said("Ada", "hi")
            assert await heard.next() == ("Ada", "hi", False, "")
            with pytest.raises(TypeError, match="declare the event as an `async def`"):
                outside.room("lobby").of("chat").emitter(ChatEvents).typing("Ada")


async def test_offline_is_an_option_of_a_clients_emitter() -> None:
    async with Client() as client:  # it has no connection until bind()
        chat = client.of("chat").emitter(ChatEvents)
        with pytest.raises(ConnectionLost):
            await with_options(chat, offline="fail").said("Ada", "hi")
        with pytest.raises(ConnectionLost):
            with_options(chat, offline="fail").typing("Ada")
        await chat.said("Ada", "hi")  # waits in the queue
        with pytest.raises(TypeError, match="timeout= does not apply to an emitter"):
            with_options(chat, timeout=1)
    everyone = Server().emitter(AppEvents)
    with pytest.raises(TypeError, match="offline= is for clients and peers, and not for <Server"):
        with_options(everyone, offline="fail")


class Answered(Protocol):
    async def said(self, text: str) -> int: ...


class Streamed(Protocol):
    def said(self) -> Stream[int]: ...


@pytest.mark.parametrize(
    ("contract", "text"),
    [
        (Answered, r"Answered\.said .*an event has no response"),
        (Streamed, r"Streamed\.said .*opens no channel: declare None as its result"),
        (Heard, r"takes a contract, which is a class that derives from typing\.Protocol itself"),
    ],
)
async def test_a_contract_that_cannot_be_emitted_is_refused(contract: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Server().emitter(contract)


async def test_what_else_is_refused() -> None:
    server = Server()
    everyone: Any = server.emitter(AppEvents)
    with pytest.raises(AttributeError, match="contract AppEvents has no member 'old_version'"):
        everyone.old_version(1)
    with pytest.raises(TypeError, match=r"ChatEvents\.said\(\): missing a required argument: 'text'"):
        everyone.chat.said("Ada")
    for use in (server.of("x").emitter, server.of("x").declare):
        with pytest.raises(TypeError, match="channel"):
            use(AppEvents)
    async with connect(server):
        with pytest.raises(TypeError, match="declare it on the server"):
            server.peers[0].of("chat").declare(ChatEvents)

"""A chat in which each participant talks to the server on an anonymous channel: `python examples/chat.py`."""

from __future__ import annotations

import asyncio
import contextlib

from wsrpc import AnonymousChannel, ChannelClosed, Client, RemoteError, RpcError, Server

server = Server()
room: dict[str, AnonymousChannel] = {}


@server.on("join")
async def join(name: str, channel: AnonymousChannel) -> None:
    """Serve one participant: cancelled when the channel closes; the channel closes when this returns."""
    if name in room:
        raise RpcError(f"{name} is here already", code="taken")
    room[name] = channel
    channel.on("who", lambda: sorted(room))
    try:
        await say_to_all(f"{name} is here")
        async for text in channel.events("say", returns=str):
            if text == "/quit":
                await channel.emit("said", "goodbye")
                return
            await say_to_all(f"{name}: {text}")
    finally:  # however it ends: /quit, a closed channel, a dropped connection, a closing server
        del room[name]


async def say_to_all(text: str) -> None:
    for channel in list(room.values()):
        with contextlib.suppress(ChannelClosed):  # this participant is leaving
            await channel.emit("said", text)


async def main() -> None:
    async with server.listen("127.0.0.1", 0) as listener:
        async with Client(listener.url) as ada, Client(listener.url) as bob:
            ada_talks = await ada.open_channel("join", "Ada")
            ada_hears = ada_talks.events("said", returns=str)
            print("Ada hears   ", await anext(ada_hears))

            bob_talks = await bob.open_channel("join", "Bob")
            bob_hears = bob_talks.events("said", returns=str)
            print("Bob hears   ", await anext(bob_hears))
            print("Ada hears   ", await anext(ada_hears))
            print("Bob asks who", *await bob_talks.request("who", returns=list[str]))

            await bob_talks.emit("say", "hello!")
            print("Ada hears   ", await anext(ada_hears))
            print("Bob hears   ", await anext(bob_hears))

            impostor = await bob.open_channel("join", "Ada")
            try:
                await anext(impostor.events("said"))
            except RemoteError as error:
                print("Bob hears   ", f"{error} [{error.code}]")

            await bob_talks.emit("say", "/quit")
            print("Bob hears   ", *[text async for text in bob_hears])  # ends with the channel
            await ada_talks.abort("bored")  # tells the server, whose handler is cancelled
            print("Ada left    ", ada_talks.close_reason)


if __name__ == "__main__":
    asyncio.run(main())

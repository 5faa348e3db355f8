"""A plain chat, server and clients, in under 40 lines: `python examples/plain_chat.py`."""

import asyncio
from functools import partial

from wsrpc import Client, Context, Peer, Server

server = Server()
everybody = server.room("everybody")


@server.on("join")
async def join(name: str, peer: Peer) -> int:
    peer.set("name", name)
    everybody.add(peer)
    await everybody.emit("said", f"{name} is here", skip=peer)
    return len(everybody)


@server.on("say")
async def say(text: str, ctx: Context) -> None:
    await everybody.emit("said", f"{ctx.peer.get('name', 'somebody')}: {text}", skip=ctx.peer)


async def main() -> None:
    async with server.listen("127.0.0.1", 0) as listener:
        async with Client(listener.url) as ada, Client(listener.url) as bob:
            for name, client in {"Ada": ada, "Bob": bob}.items():
                client.on("said", partial(print, name, "reads"))
            print("Ada joins,", await ada.request("join", "Ada"), "is here")
            print("Bob joins,", await bob.request("join", "Bob"), "are here")
            await ada.request("say", "hello, Bob")
            await bob.request("say", "hello, Ada")


asyncio.run(main())

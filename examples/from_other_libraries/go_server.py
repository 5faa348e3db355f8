"""The README of ws-server-wrapper-go in Python: events, requests in both directions, and channels.

    python go_server.py [PORT]

The client is go_client.py. Clients in Go connect as well if you create the server with `Server(profile="go")`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from wsrpc import AnonymousChannel, ChannelClosed, Context, Key, Peer, RemoteError, RpcError, Server

FOLDER = Path(__file__).parent
USERNAME = Key[str]("username")  # type checkers know what `get` returns
server = Server()
background: set[asyncio.Task[None]] = set()


@server.on("echo")
def echo(text: str) -> str:
    return text


@server.on("chat")
def chat(text: str) -> None:
    print("chat:", text, flush=True)


@server.on("add")
def add(a: int, b: int) -> int:
    return a + b


@server.on("whoami")
def whoami(peer: Peer) -> str:  # Go: wrapper.ClientFromContext(ctx)
    return peer.state.get(USERNAME, "nobody")


@server.on("open")
async def opened(peer: Peer) -> None:
    peer.on("secret", lambda token: "ok")  # a handler for this client only
    with suppress(RemoteError, TimeoutError):  # not every client has a name
        peer.state[USERNAME] = await peer.request("getName", returns=str, timeout=5)


@server.of("io").on("readFile")
def read_file(name: str) -> bytes:
    path = (FOLDER / name).resolve()
    if path.parent != FOLDER.resolve() or not path.is_file():
        raise RpcError(f"there is no file {name!r}")
    return path.read_bytes()


def updates_about(topic: str) -> list[str]:
    return [f"[{topic}] {text}" for text in ("first", "second", "third")]


@server.on("subscribe")
async def subscribe(topic: str, ctx: Context) -> AnonymousChannel:
    """Return a channel, and send to it afterwards, as in Go. See `feed` and `news` for less code."""
    channel = ctx.channel()

    async def send_updates() -> None:
        with suppress(ChannelClosed):  # the client has left, or has aborted the channel
            for update in updates_about(topic):
                await channel.emit("data", update)
            await channel.emit("end")
        channel.close()  # sends nothing, as in Go

    # The client gets the channel when this function returns. Until then, `emit` raises `ChannelNotReady`, so the task
    # must not run earlier: neither this function nor middleware may await anything after this line.
    task = asyncio.create_task(send_updates())
    background.add(task)  # asyncio does not keep tasks
    task.add_done_callback(background.discard)
    return channel


@server.on("feed")
async def feed(topic: str, channel: AnonymousChannel) -> None:
    """Send on a channel that is open while the function runs. wsrpc keeps the task, and ends the channel."""
    for update in updates_about(topic):
        await channel.emit("data", update)


@server.on("news")
def news(topic: str) -> Iterator[str]:
    """Send a stream. It never runs ahead of the client that reads it."""
    yield from updates_about(topic)


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    server.run(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)

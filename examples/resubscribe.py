"""Subscribe again after the server has restarted, and miss nothing: `python examples/resubscribe.py`.

To a restarted server, the client is a new peer without subscriptions. So the client subscribes again in `on_reconnect`,
and says how many headlines it has. The server first sends those that the client has missed, then new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from wsrpc import Client, ConnectionLost, Peer, Reconnect, ReconnectInfo, Server


class News:
    """Headlines, numbered from 0, and their subscribers."""

    def __init__(self) -> None:
        self.headlines: list[str] = []
        self.subscribers: set[Peer] = set()

    async def publish(self, headline: str) -> None:
        self.headlines.append(headline)
        for peer in list(self.subscribers):
            with contextlib.suppress(ConnectionLost):  # it subscribes again, and then gets what it missed
                await peer.emit("headline", headline)

    async def subscribe(self, peer: Peer, position: int) -> None:
        """Send the headlines that ``peer`` has missed, then new ones as they come."""
        while position < len(self.headlines):
            await peer.emit("headline", self.headlines[position])
            position += 1
        self.subscribers.add(peer)

    def unsubscribe(self, peer: Peer) -> None:
        self.subscribers.discard(peer)


def serve(news: News) -> Server:
    server = Server()
    server.on("subscribe", news.subscribe)
    server.on("close", news.unsubscribe)
    return server


async def main() -> None:
    news = News()
    read: list[str] = []
    arrived: asyncio.Queue[str] = asyncio.Queue()

    async with serve(news).listen("127.0.0.1", 0) as listener:
        client = Client(listener.url, reconnect=Reconnect(initial=0.1))

        @client.on("headline")
        def headline(text: str) -> None:
            read.append(text)
            arrived.put_nowait(text)

        @client.on_reconnect
        async def subscribe_again(info: ReconnectInfo) -> None:
            print(f"reconnected in {info.attempts} attempt(s), with {len(read)} headline(s)")
            if not info.resumed:  # a resumed session still has its subscription
                await client.request("subscribe", len(read))

        await client.connect()
        await client.request("subscribe", 0)
        await news.publish("It rains")
        print(await arrived.get())

    await news.publish("Published while the server is down")

    async with serve(news).listen("127.0.0.1", listener.port):
        print(await arrived.get())
        await news.publish("The sun is back")
        print(await arrived.get())
        await client.close()


if __name__ == "__main__":
    logging.getLogger("wsrpc").setLevel(logging.ERROR)  # drops and failed attempts are warnings
    asyncio.run(asyncio.wait_for(main(), 20))

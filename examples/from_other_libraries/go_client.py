"""The client of ws-server-wrapper-go's README in Python: `python go_client.py NAME [URL]`."""

from __future__ import annotations

import asyncio
import sys

from wsrpc import Client, CloseInfo, Peer


async def main(name: str, url: str = "ws://127.0.0.1:8080") -> None:
    client = Client(url)  # it connects again after a drop: there is nothing like Bind to call
    client.on("getName", lambda: name)
    client.on("open", lambda peer: print("connected!"))

    @client.on("close")
    def closed(peer: Peer, info: CloseInfo) -> None:
        print("closed:", info.code, "by this program" if info.user_closed else "by the server")

    async with client:
        print(await client.request("echo", "hello"), await client.request("add", 2, 3))
        print("I am", await client.request("whoami"), "and", await client.request("secret", "token"))
        print(len(await client.of("io").request("readFile", "echo_server.py", returns=bytes)) > 0)
        await client.emit("chat", f"{name} was here")

        channel = await client.open_channel("subscribe", "go")  # register handlers before you await anything else
        channel.on("data", lambda update: print("update:", update))
        await channel.wait_for("end")
        channel.close()

        async with await client.open_channel("feed", "feed") as channel:
            async for update in channel.events("data"):
                print("update:", update)
        async with client.stream("news", "news") as updates:
            async for update in updates:
                print("update:", update)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))

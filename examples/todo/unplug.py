"""A client whose network goes down for a moment: `python unplug.py`."""

import asyncio

from model import Task
from todo_client import URL, make_client, watch

from wsrpc import Client
from wsrpc.testing import FaultProxy


async def main() -> None:
    async with FaultProxy(URL) as proxy, make_client(proxy.url) as client, Client(URL) as other:
        await watch(client)
        async with proxy.cut():
            print("-- the network is down, and another client adds a task")
            task = await other.request("add", "Feed the cat", returns=Task)
        print("-- the network is up again")
        await client.request("mark", task.id)  # waits for the connection


if __name__ == "__main__":
    asyncio.run(main())

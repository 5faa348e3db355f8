"""Exports the list, or imports a file: `python backup.py import list.txt`."""

import asyncio
import sys
from collections.abc import Iterator

from model import Task
from todo_client import URL

from wsrpc import Client

client = Client(URL)


@client.on("imported")
def progress(count: int) -> None:
    print(f"{count} imported so far")


def lines_of(name: str) -> Iterator[str]:
    with open(name, encoding="utf-8") as file:
        for line in file:
            yield line.strip()


async def main(command: str, name: str = "") -> None:
    async with client:
        if command == "export":
            async with client.stream("export", returns=Task) as tasks:
                async for task in tasks:
                    print(task.text)
        else:
            count = await client.request("import", send=lines_of(name), returns=int)
            print(f"imported {count} tasks")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

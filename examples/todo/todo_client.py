"""A client in a terminal: `python todo_client.py`."""

import asyncio
import contextlib
import sys

from model import Task

from wsrpc import Client, ReconnectInfo, RemoteError

URL = "ws://127.0.0.1:8080/ws"


def show(task: Task) -> None:
    print(f"{task.id} [{'x' if task.done else ' '}] {task.text}")


async def watch(client: Client) -> None:
    for task in await client.request("watch", returns=list[Task]):
        show(task)


def make_client(url: str = URL) -> Client:
    client = Client(url)
    client.on("changed", show)

    @client.on_reconnect
    async def back(info: ReconnectInfo) -> None:
        if info.resumed:
            print("-- back: nothing was missed")
        else:
            print("-- back: the server has a new session, so here is the list again")
            await watch(client)

    return client


async def main(command: str = "watch", *words: str) -> None:
    async with make_client() as client:
        if command == "add":
            show(await client.request("add", " ".join(words), returns=Task))
        elif command == "done":
            show(await client.request("mark", int(words[0]), returns=Task))
        else:
            await watch(client)
            await asyncio.Event().wait()  # until Ctrl-C


if __name__ == "__main__":
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(main(*sys.argv[1:]))
    except RemoteError as error:
        sys.exit(f"{error} [{error.code}]")

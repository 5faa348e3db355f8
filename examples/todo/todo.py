"""The shared to-do list: its handlers, and a server for them. `python todo.py`."""

from pathlib import Path

import msgspec
from model import Task, Text

from wsrpc import Peer, RpcError, Server

FILE = Path("tasks.json")


def load() -> dict[int, Task]:
    found = msgspec.json.decode(FILE.read_bytes(), type=list[Task]) if FILE.exists() else []
    return {task.id: task for task in found}


def store() -> None:
    FILE.write_bytes(msgspec.json.encode(list(tasks.values())))


server = Server()
watchers = server.room("watchers")
tasks = load()


class NoTask(RpcError):
    def __init__(self, id: int) -> None:
        super().__init__(f"there is no task {id}", code="no_task", data={"id": id})


async def publish(task: Task) -> Task:
    """Store a new or changed task, and send it to every client that watches."""
    tasks[task.id] = task
    store()
    await watchers.emit("changed", task)
    return task


@server.on("add")
async def add(text: Text) -> Task:
    return await publish(Task(len(tasks) + 1, text))


@server.on("mark")
async def mark(id: int, done: bool = True) -> Task:
    if id not in tasks:
        raise NoTask(id)
    return await publish(Task(id, tasks[id].text, done))


@server.on("watch")
def watch(peer: Peer) -> list[Task]:
    watchers.add(peer)
    return list(tasks.values())


if __name__ == "__main__":
    server.run("127.0.0.1", 8080, path="/ws")

"""The server of the tutorial's first step: `python step_1.py`."""

from wsrpc import Server

server = Server()
tasks: list[str] = []


@server.on("add")
def add(text: str) -> int:
    tasks.append(text)
    return len(tasks)


@server.on("tasks")
def list_tasks() -> list[str]:
    return tasks


if __name__ == "__main__":
    server.run("127.0.0.1", 8080, path="/ws")

"""Tests of the handlers: `pytest`."""

from pathlib import Path

import pytest
import todo
from model import Task
from transfer import router

from wsrpc import BadArguments, RemoteError, Server
from wsrpc.testing import connect


@pytest.fixture(autouse=True)
def empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # tasks.json is written there
    todo.tasks.clear()


async def test_a_task_is_added_and_marked() -> None:
    async with connect(todo.server) as client:
        assert await client.request("add", "Buy milk", returns=Task) == Task(1, "Buy milk")
        assert await client.request("mark", 1, returns=Task) == Task(1, "Buy milk", done=True)
    assert todo.load() == todo.tasks == {1: Task(1, "Buy milk", done=True)}


async def test_wrong_requests_are_refused() -> None:
    async with connect(todo.server) as client:
        with pytest.raises(RemoteError, match="there is no task 7") as refused:
            await client.request("mark", 7)
        assert (refused.value.code, refused.value.data) == ("no_task", {"id": 7})
        with pytest.raises(BadArguments, match="length >= 1"):
            await client.request("add", "")


async def test_a_client_that_watches_sees_the_changes_of_another() -> None:
    async with connect(todo.server) as ada, connect(todo.server) as bob:
        assert await ada.request("watch") == []
        changes = ada.events("changed", returns=Task)
        await bob.request("add", "Buy milk")
        await bob.request("mark", 1)
        assert await anext(changes) == Task(1, "Buy milk")
        assert await anext(changes) == Task(1, "Buy milk", done=True)


async def test_an_import_reports_its_progress() -> None:
    server = Server()
    server.include(router)
    async with connect(server) as client:
        progress: list[int] = []
        client.on("imported", progress.append)
        assert await client.request("import", send=["Buy milk", "Call Bob"]) == 2
        assert progress == [1, 2]
        async with client.stream("export", returns=Task) as tasks:
            assert [task.text async for task in tasks] == ["Buy milk", "Call Bob"]

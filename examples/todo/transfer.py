"""Export and import of the list, as a stream and as an upload."""

from collections.abc import AsyncIterator, Iterator

from model import Task, Text
from todo import add, tasks

from wsrpc import Peer, Router

router = Router()


@router.on("export")
def export_tasks() -> Iterator[Task]:
    yield from list(tasks.values())


@router.on("import")
async def import_tasks(texts: AsyncIterator[Text], peer: Peer) -> int:
    count = 0
    async for text in texts:
        await add(text)
        count += 1
        await peer.emit("imported", count)
    return count

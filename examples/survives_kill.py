"""A client whose requests run once although its server is killed: `python examples/survives_kill.py`.

The client adds numbered lines to a journal, which a server in another process writes, and watches the lines that are
added. The server kills itself twice in the middle of a request, and is started again on the same Unix socket.

A killed server leaves it open whether the request has run. So the client sends it again (``retry=`` with
``idempotent=True``), and the server recognizes by the number that it has the line. In the end each line is in the
journal once, and the client has seen it once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from wsrpc import Client, Peer, Reconnect, Retry, Server, dial

LINES = 30
DIES_AT = [10, 20]
"""Numbers of lines after which the server is killed: they are in the journal, but were not answered or emitted."""


# ---------------------------------------------------------------- the server, a process of its own


def serve(socket: str, file: Path, dies_at: int | None) -> None:
    server = Server()
    watchers = server.room("watchers")
    journal = file.read_text("utf-8").splitlines() if file.exists() else []

    @server.on("add")
    async def add(number: int, line: str) -> None:
        if number < len(journal):
            return  # a repetition: the line is in the journal already
        journal.append(line)
        with file.open("a", encoding="utf-8") as out:
            out.write(f"{line}\n")
        if number == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        await watchers.emit("added", line)

    @server.on("watch")
    async def watch(peer: Peer, position: int) -> None:
        watchers.add(peer)
        for line in journal[position:]:
            await peer.emit("added", line)

    server.run(unix=socket)


async def supervise(socket: str, file: Path) -> None:
    """Start the server, and start it again whenever it ends, as systemd would."""
    for dies_at in [*DIES_AT, None]:
        arguments = [socket, str(file), *([] if dies_at is None else [str(dies_at)])]
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, *arguments, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        print(f"the server was killed by {signal.Signals(-code).name} and is started again")


# ---------------------------------------------------------------- the client


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        socket, file = os.path.join(folder, "socket"), Path(folder, "journal")
        supervisor = asyncio.create_task(supervise(socket, file))
        client = Client("ws://localhost/", dial=partial(dial, unix=socket), reconnect=Reconnect(initial=0.1, max=0.2))
        seen: list[str] = []
        complete = asyncio.Event()

        @client.on("added")
        def added(line: str) -> None:
            seen.append(line)
            if len(seen) == LINES:
                complete.set()

        @client.on_reconnect
        async def watch() -> None:  # runs before the request is sent again
            await client.request("watch", len(seen))

        try:
            async with client:
                await watch()
                for number in range(LINES):
                    await client.request("add", number, f"line {number}", retry=Retry(), idempotent=True)
                await complete.wait()
        finally:
            supervisor.cancel()
            await asyncio.wait([supervisor])

        lines = [f"line {number}" for number in range(LINES)]
        journal = await asyncio.to_thread(file.read_text, "utf-8")
        assert seen == journal.splitlines() == lines
        print(f"{LINES} lines were added once each, and seen once each")


if __name__ == "__main__":
    logging.getLogger("wsrpc").setLevel(logging.CRITICAL)  # drops and failed attempts are warnings
    if len(sys.argv) > 1:
        serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
    else:
        asyncio.run(asyncio.wait_for(main(), 30))

"""A command-line client that survives `kill -9` of its server: `python examples/survives_kill.py`.

It adds lines to a journal that a server in another process keeps, and watches the lines that are added. The server is
killed twice in the middle of a request, and started again on the same Unix socket. Each line is in the journal once,
and seen once: the client sends a request again if it may have run, and the server tells by the line's number whether
it did.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from wsrpc import Client, Peer, Reconnect, Retry, Server

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
            return  # the client has sent it again, and it had run
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
    """Start the server, and start it again when it has died, as systemd would."""
    for dies_at in [*DIES_AT, None]:
        arguments = [socket, str(file), *([] if dies_at is None else [str(dies_at)])]
        # Without its log.
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, *arguments, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        print(f"the server was ended by {signal.Signals(-code).name}, and is started again")


# ---------------------------------------------------------------- the client


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        socket, file = os.path.join(folder, "socket"), Path(folder, "journal")
        supervisor = asyncio.create_task(supervise(socket, file))
        client = Client("ws://localhost/", unix=socket, reconnect=Reconnect(initial=0.1, max=0.2))
        seen: list[str] = []
        complete = asyncio.Event()

        @client.on("added")
        def added(line: str) -> None:
            seen.append(line)
            if len(seen) == LINES:
                complete.set()

        @client.on_reconnect
        async def watch() -> None:  # comes before the request that is sent again
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

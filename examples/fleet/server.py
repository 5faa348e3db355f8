"""Control a fleet of agents.

    python server.py REPORTS [PORT]

The server stores the agents' reports in the file REPORTS, where an application would use a database. Each line that you
type is sent as a request to all agents: try `status`. After a restart of the server, the agents reconnect.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from wsrpc import Key, Peer, Server

NAME: Key[str] = Key("name")


class Control:
    def __init__(self, file: Path) -> None:
        self.file = file
        self.server = Server()
        self.server.on("register", self.register)
        self.server.on("report", self.report)
        self.last: dict[str, int] = {}  # the number of each agent's last report
        for line in file.read_text("utf-8").splitlines() if file.exists() else []:
            name, number = line.split()
            self.last[name] = int(number)

    async def register(self, peer: Peer, name: str) -> int:
        """Return the number of the last report that has come."""
        peer.state[NAME] = name
        return self.last.get(name, 0)

    async def report(self, peer: Peer, number: int) -> None:
        name = peer.state[NAME]
        if number <= self.last.get(name, 0):
            return  # a repetition: the agent did not get the response
        self.last[name] = number
        with self.file.open("a", encoding="utf-8") as out:
            out.write(f"{name} {number}\n")

    async def ask_all(self, event: str) -> None:
        agents = [peer for peer in self.server.peers if NAME.name in peer.state]
        requests = (peer.request(event, returns=str, timeout=5) for peer in agents)
        for peer, answer in zip(agents, await asyncio.gather(*requests, return_exceptions=True), strict=True):
            print(f"{peer.state[NAME]}: {answer}", flush=True)
        print(f"({len(agents)} agents)", flush=True)

    @asynccontextmanager
    async def typed(self, server: Server) -> AsyncIterator[None]:
        """Ask what the lines of the standard input say, which a thread reads."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            for line in sys.stdin:
                asyncio.run_coroutine_threadsafe(self.ask_all(line.strip()), loop)

        threading.Thread(target=read, daemon=True).start()
        yield


if __name__ == "__main__":
    logging.basicConfig(level="INFO")  # shows the address, and each connection
    control = Control(Path(sys.argv[1]))
    control.server.run(port=int(sys.argv[2]) if len(sys.argv) > 2 else 8080, lifespan=control.typed)

"""Twenty agents that reconnect whenever their server restarts: `python examples/fleet.py`.

Each agent registers when it connects, and again in `on_reconnect`. A report that it sends while there is no server
waits in the client's queue. It leaves after the agent has registered again, so each report arrives once and has a name.
The server requests the status of all agents at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from wsrpc import Client, Key, Peer, Reconnect, Server

AGENTS = 20
RESTARTS = 3
NAME: Key[str] = Key("name")


class Control:
    """Holds the reports to all servers, as a database would, and the present server."""

    def __init__(self) -> None:
        self.reports: Counter[str] = Counter()
        self.changed = asyncio.Condition()
        self.server = Server()

    def new_server(self) -> Server:
        self.server = server = Server()
        server.on("register", self.register)
        server.on("report", self.report)
        return server

    async def register(self, peer: Peer, name: str) -> None:
        peer.state[NAME] = name
        async with self.changed:
            self.changed.notify_all()

    async def report(self, peer: Peer) -> None:
        self.reports[peer.state[NAME]] += 1  # raises KeyError if the agent is not registered
        async with self.changed:
            self.changed.notify_all()

    async def everybody(self) -> list[str]:
        """Wait until all agents are registered, and return the status of each."""
        async with self.changed:
            await self.changed.wait_for(lambda: sum(NAME.name in peer.state for peer in self.server.peers) == AGENTS)
        return await asyncio.gather(*(peer.request("status", returns=str) for peer in self.server.peers))

    async def reported(self, total: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.reports.total() >= total)


class Agent:
    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.client = Client(url, reconnect=Reconnect(initial=0.1, max=0.2))
        self.client.on("status", lambda: f"{name} is well")
        self.client.on_reconnect(self.register)

    async def register(self) -> None:
        await self.client.request("register", self.name)

    async def start(self) -> None:
        await self.client.connect()
        await self.register()


async def main() -> None:
    control = Control()
    agents: list[Agent] = []
    port = total = 0

    for generation in range(1 + RESTARTS):
        async with control.new_server().listen("127.0.0.1", port) as listener:
            port = listener.port
            if not agents:
                agents = [Agent(f"agent {number}", listener.url) for number in range(AGENTS)]
                await asyncio.gather(*(agent.start() for agent in agents))
            answers = await control.everybody()
            assert sorted(answers) == sorted(f"{agent.name} is well" for agent in agents)
            await control.reported(total)
            print(f"server {generation}: {len(answers)} agents are well, {control.reports.total()} reports have come")
            for agent in agents:
                await agent.client.emit("report")
            total += AGENTS
            await control.reported(total)
        if generation < RESTARTS:
            for agent in agents:  # there is no server now
                await agent.client.emit("report")
            total += AGENTS

    assert set(control.reports.values()) == {1 + 2 * RESTARTS}, control.reports
    print(f"each agent's {1 + 2 * RESTARTS} reports have come, once each")
    await asyncio.gather(*(agent.client.close() for agent in agents))


if __name__ == "__main__":
    logging.getLogger("wsrpc").setLevel(logging.ERROR)  # drops and failed attempts are warnings
    asyncio.run(asyncio.wait_for(main(), 30))

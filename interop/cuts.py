"""A connection between Python and JavaScript that is cut and comes back, in each way in which that happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from interop.agents import Agent, AgentError
from interop.peers import LIBRARIES, ROLES, Agents, Seen, serve
from wsrpc import Client, CloseInfo, ConnectionLost, Peer, Reconnect, Server
from wsrpc.testing import FaultProxy

Way = Literal["new-wrapper", "same-wrapper", "python-serves"]
"""Python dials again and JavaScript makes a new wrapper, or binds the one it has; or JavaScript dials and binds."""

How = Literal["proxy", "javascript", "python"]
"""Who ends the connection: the line, `terminate` in JavaScript, or `abort` in Python."""

BINDING: tuple[Way, ...] = ("same-wrapper", "python-serves")


def _ways(library: str) -> tuple[Way, ...]:
    # ws-server-wrapper makes its wrappers itself, and cannot dial.
    return ("new-wrapper", *BINDING) if "python-serves" in ROLES.get(library, ["python-serves"]) else ("new-wrapper",)


SPEAK_4 = ["plain-4", *(["ws-wrapper-4"] if "ws-wrapper-4" in LIBRARIES else [])]
CUTTABLE = [(library, way) for library in LIBRARIES for way in _ways(library)]
CUTTABLE_4 = [(library, way) for library in SPEAK_4 for way in _ways(library)]
EVERY = list(dict.fromkeys([*CUTTABLE, *CUTTABLE_4]))


@dataclass(eq=False)
class Cuttable:
    """Python and the agent with a `FaultProxy` between them."""

    agent: Agent
    way: Way
    proxy: FaultProxy
    app: Client | Server
    seen: Seen
    js: int = -1
    """The agent's name for the present connection's wrapper."""
    peer: Peer = None  # type: ignore[assignment]
    """Python's end of the present connection; a client's is always the same."""
    opened: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue[Peer])
    closed: asyncio.Queue[CloseInfo] = field(default_factory=asyncio.Queue[CloseInfo])

    @property
    def caller(self) -> Client | Peer:
        """Who requests on Python's side."""
        return self.app if isinstance(self.app, Client) else self.peer

    async def call(self, command: str, **fields: Any) -> Any:
        """A command of the agent, on this connection's wrapper."""
        return await self.agent.call(command, **{"peer": self.js, **fields})

    async def journal(self, kind: str, at_least: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """What happened to this wrapper, once there are that many entries."""
        entries: list[dict[str, Any]] = await self.call("events", kind=kind, at_least=at_least, **fields)
        return entries

    def start_asking(self, event: str, *args: Any, **fields: Any) -> asyncio.Task[Any]:
        """JavaScript requests in the background."""
        return asyncio.create_task(self.call("request", event=event, args=list(args), **fields))

    async def ask(self, event: str, *args: Any, **fields: Any) -> Any:
        """JavaScript requests, and this is what it got."""
        answer = await self.call("request", event=event, args=list(args), **fields)
        assert "resolved" in answer, answer
        return answer["resolved"]

    async def pending_there(self, js: int) -> int | None:
        """How many requests of that wrapper await their answer; None where the library does not say."""
        state = await self.agent.call("state", peer=js)
        count: int | None = state["pending"]
        return count

    @asynccontextmanager
    async def down(self, how: How = "proxy") -> AsyncGenerator[CloseInfo]:
        """The connection ends, which both sides have seen when the block begins; after it they are connected again."""
        async with self.proxy.refuse():
            if how == "proxy":
                self.proxy.drop()
            elif how == "javascript":
                await self.call("terminate")
            else:
                assert self.peer.transport is not None
                self.peer.transport.abort()
            info = await self.closed.get()
            (closed,) = await self.journal("close")
            assert (closed["code"], closed["clean"]) == (1006, False)
            yield info
        await self.back()

    async def back(self) -> None:
        """Wait for the next connection, which JavaScript makes if it is the one that dials."""
        if self.way == "python-serves":
            await self.agent.call("connect", url=self.proxy.url, peer=self.js)
        self.peer = await self.opened.get()
        if self.way == "new-wrapper":
            self.js = (await self.agent.call("state"))["peers"] - 1

    async def settle(self) -> None:
        """Be connected again, after cuts of which there may have been several."""
        while True:
            try:
                if self.way == "python-serves":
                    await self.agent.call("connect", url=self.proxy.url, peer=self.js)
                    self.peer = await self.opened.get()
                while not self.opened.empty():
                    self.opened.get_nowait()
                while not self.closed.empty():
                    self.closed.get_nowait()
                await self.caller.request("echo", "back", offline="queue")
                break
            except (AgentError, ConnectionLost):
                continue
        if self.way == "new-wrapper":
            self.js = (await self.agent.call("state"))["peers"] - 1


@asynccontextmanager
async def cuttable(agents: Agents, library: str, way: Way) -> AsyncGenerator[Cuttable]:
    """A connection that can be cut. Leaving checks that Python has nothing left of it."""
    agent, url = await agents.get(library)
    await agent.call("set", middleware=None, error_props=False, messages=True)
    await agent.call("events")
    agent.logs.clear()
    tasks = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        app: Client | Server
        if way == "python-serves":
            app = Server()
            url = (await stack.enter_async_context(app.listen("127.0.0.1", 0, path="/ws"))).url
        elif way == "same-wrapper":
            url = (await agent.call("listen", path="/ws", keep=True))["url"]
        proxy = await stack.enter_async_context(FaultProxy(url))
        if way != "python-serves":
            app = Client(proxy.url, reconnect=Reconnect(initial=0.005, max=0.02), proxy=None)
        line = Cuttable(agent, way, proxy, app, serve(app))
        app.on("open", line.opened.put_nowait)
        app.on("close", lambda _, info: line.closed.put_nowait(info))
        if isinstance(app, Client):
            await stack.enter_async_context(app)
            line.js = (await agent.call("state"))["peers"] - 1
        else:
            line.js = (await agent.call("connect", url=proxy.url))["peer"]
        line.peer = await line.opened.get()
        yield line
    await agent.call("set", messages=False)
    assert agent.logs == []
    assert (line.peer.pending, line.peer.active, line.peer.anonymous_channels) == (0, 0, 0)
    left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
    assert not left, left

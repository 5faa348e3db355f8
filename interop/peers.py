"""Python's end of a connection to an agent, in either role, with handlers that mirror the agent's."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from interop import golang
from interop.agents import Agent, AgentError
from interop.node import available_libraries
from wsrpc import Client, CloseInfo, Context, Peer, RpcError, Server
from wsrpc.transport import Transport

READS = 8 * 1024 * 1024
"""Bytes that Go takes here in one message; of itself one of its WebSocket libraries takes 32 KiB."""

Role = Literal["js-serves", "go-serves", "python-serves"]

LIBRARIES = [name for name, _ in available_libraries()]
ROLES: dict[str, list[Role]] = {
    # ws-server-wrapper cannot dial.
    name: ["js-serves"] if name == "ws-server-wrapper" else ["js-serves", "python-serves"]
    for name in LIBRARIES
}
COMBINATIONS: list[tuple[str, Role]] = [(name, role) for name in LIBRARIES for role in ROLES[name]]
COMBINATIONS_4: list[tuple[str, Role]] = [
    ("plain-4", "js-serves"),
    ("plain-4", "python-serves"),
    *((name, role) for name, role in COMBINATIONS if name == "ws-wrapper-4"),
]
"""What can cancel and has anonymous channels: 4.x where it is to be had, and everywhere the program that plays it."""
SERVERS_2: list[tuple[str, Role]] = [
    (name, "js-serves")
    for name in ("plain-server-2", *(["ws-server-wrapper-2"] if "WS_SERVER_WRAPPER_2" in os.environ else []))
]
"""ws-server-wrapper 2, whose connections are ws-wrapper 4: tested in the matrix only."""
Counterpart = tuple[str, Role]
GO_ROLES: tuple[Role, ...] = ("go-serves", "python-serves")
GO_COMBINATIONS: list[Counterpart] = [(name, role) for name in golang.available_libraries() for role in GO_ROLES]
COUNTERPARTS: list[Counterpart] = list(dict.fromkeys([*COMBINATIONS, *COMBINATIONS_4, *SERVERS_2, *GO_COMBINATIONS]))
"""All, each in each role that it has."""
DIALERS = [name for name in LIBRARIES if "python-serves" in ROLES[name]]


def named(combinations: list[tuple[str, Role]]) -> list[str]:
    """Names of parametrised tests."""
    return [f"{library}:{role}" for library, role in combinations]


@dataclass
class Seen:
    """What Python's handlers saw, in order."""

    events: asyncio.Queue[tuple[str | None, list[Any]]] = field(
        default_factory=asyncio.Queue[tuple[str | None, list[Any]]]
    )
    """Channel and arguments of each ``log``."""
    started: asyncio.Queue[Any] = field(default_factory=asyncio.Queue[Any])
    """First argument of each ``hang`` and ``gate``, None without one."""
    cancelled: asyncio.Queue[tuple[Any, Any]] = field(default_factory=asyncio.Queue[tuple[Any, Any]])
    """``CancelledError.args[0]`` and ``ctx.cancel_reason`` of each ``hang`` or ``gate`` that was cancelled."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Open it, and each ``gate(value)`` returns its value."""


def serve(app: Client | Server) -> Seen:
    """Give ``app`` the handlers that the agent has, on the main channel and on "math"."""
    seen = Seen()

    def add(a: int, b: int) -> int:
        return a + b

    def args(*args: Any) -> list[Any]:
        return list(args)

    def echo(value: Any) -> Any:
        return value

    async def later(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    def nothing() -> None:
        return None

    def blob(n: int) -> str:
        return "x" * n

    def size(text: str) -> int:
        return len(text)

    def log(ctx: Context, *args: Any) -> None:
        seen.events.put_nowait((ctx.channel_name, list(args)))

    async def ask(ctx: Context, event: str, *args: Any) -> Any:
        return await _back(ctx).request(event, *args)

    async def ask_many(ctx: Context, event: str, n: int) -> list[Any]:
        return list(await asyncio.gather(*(_back(ctx).request(event, k, 1) for k in range(n))))

    async def gate(ctx: Context, value: Any = None) -> Any:
        seen.started.put_nowait(value)
        try:
            await seen.gate.wait()
        except asyncio.CancelledError as exc:
            seen.cancelled.put_nowait((exc.args[0] if exc.args else None, ctx.cancel_reason))
            raise
        return value

    async def hang(ctx: Context, value: Any = None) -> None:
        seen.started.put_nowait(value)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as exc:
            seen.cancelled.put_nowait((exc.args[0] if exc.args else None, ctx.cancel_reason))
            raise

    for place in (app, app.of("math")):
        for function in (add, args, echo, later, nothing, blob, size, log, ask, gate, hang, fail):
            place.on(function.__name__, function)
        place.on("askMany", ask_many)
    return seen


def _back(ctx: Context) -> Any:
    return ctx.peer if ctx.channel_name is None else ctx.peer.of(ctx.channel_name)


def fail(kind: str) -> None:
    """Raises what the interop tests want to see on JavaScript's side."""
    if kind == "rpc":
        raise RpcError("it failed", code="E_FAIL", data={"attempt": 1})
    if kind == "string":
        raise RpcError.of_value("just text")
    if kind == "object":
        raise RpcError.of_value({"reason": "because", "attempt": 1})
    if kind == "null":
        raise RpcError.of_value(None)
    raise ValueError("the password is secret")


@dataclass(eq=False)
class Link:
    """One connection between Python and the agent."""

    agent: Agent
    js: int
    """The agent's name for this connection."""
    app: Client | Server
    """Where Python's handlers are registered."""
    peer: Peer
    """Python's end."""
    seen: Seen
    closed: asyncio.Future[CloseInfo]
    """Set when Python has seen the connection end."""
    url: str
    """Where the side that serves listens."""
    _refs: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def transport(self) -> Transport:
        """What carries Python's messages, for what no protocol message is."""
        transport = self.peer.transport
        assert transport is not None, "connected"
        return transport

    async def call(self, command: str, **fields: Any) -> Any:
        """A command of the agent, on this connection."""
        return await self.agent.call(command, peer=self.js, **fields)

    async def journal(self, kind: str, at_least: int = 1) -> list[dict[str, Any]]:
        """What happened to this connection in JavaScript, once there are that many entries."""
        entries: list[dict[str, Any]] = await self.call("events", kind=kind, at_least=at_least)
        return entries

    async def ask(self, event: str, *args: Any, **fields: Any) -> Any:
        """JavaScript requests, and this is what it got."""
        answer = await self.call("request", event=event, args=list(args), **fields)
        assert "resolved" in answer, answer
        return answer["resolved"]

    async def ask_in_vain(self, event: str, *args: Any, **fields: Any) -> dict[str, Any]:
        """JavaScript requests, and this is what was thrown."""
        answer: dict[str, Any] = await self.call("request", event=event, args=list(args), **fields)
        assert "rejected" in answer, answer
        thrown: dict[str, Any] = answer["rejected"]
        return thrown

    def start_asking(self, event: str, *args: Any, **fields: Any) -> tuple[str, asyncio.Task[Any]]:
        """JavaScript requests in the background: a name by which to cancel it, and the task."""
        ref = f"{self.js}.{next(self._refs)}"
        command = self.call("request", event=event, args=list(args), ref=ref, **fields)
        return ref, asyncio.create_task(command)

    async def tell(self, event: str, *args: Any, **fields: Any) -> None:
        """JavaScript emits."""
        await self.call("emit", event=event, args=list(args), **fields)

    async def close(self, *args: Any) -> None:
        """Python closes the connection, as a user of its side would."""
        await (self.app if isinstance(self.app, Client) else self.peer).close(*args)

    async def quiet(self) -> None:
        """All that JavaScript sent before this call has been received and dealt with, as far as it is sync."""
        assert await self.ask("echo", "quiet") == "quiet"


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until ``condition`` holds: for what ends with tasks that the test cannot see."""
    loop = asyncio.get_running_loop()
    while not condition():
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


async def nothing_open(link: Link) -> None:
    """Wait until neither side has a channel, a stream or a request left; JavaScript only while it is connected."""
    peer = link.peer
    try:
        await until(lambda: (peer.anonymous_channels, peer.active, peer.pending) == (0, 0, 0))
    except TimeoutError:
        left = f"{peer.anonymous_channels} channels, {peer.active} handlers and {peer.pending} requests are left"
        raise AssertionError(left) from None
    if peer.connected:
        assert await peer.request("echo", "settled") == "settled"  # what was sent before it has arrived
        state = await link.call("state")
        assert (state["channels"], state["pending"] or 0) == (0, 0)  # Go does not tell what is pending


async def closed_with(link: Link) -> dict[str, Any]:
    """Why a channel ended in JavaScript."""
    (closed,) = await link.journal("channel_closed")
    reason: dict[str, Any] = closed["reason"]
    return reason


def text_of(thrown: dict[str, Any]) -> Any:
    """The text that was rejected with: before 4.x it becomes an Error in JavaScript, then it stays a value."""
    return thrown["message"] if thrown["is_error"] else thrown["value"]


def size_fields(library: str, read_limit: int) -> dict[str, int]:
    """Fields of ``listen`` and ``connect`` that say what the other side reads; only Go takes any."""
    return {"read_limit": read_limit} if golang.plays(library) else {}


@asynccontextmanager
async def link_as_client(agent: Agent, url: str, **options: Any) -> AsyncGenerator[Link]:
    """A Python client of the agent; it does not reconnect unless the options say so."""
    settings: dict[str, Any] = {"reconnect": None, "proxy": None, **options}
    client = Client(url, **settings)
    seen, closed = serve(client), _closed(client)
    js = (await agent.call("state"))["peers"]
    async with client:
        while (await agent.call("state"))["peers"] == js:
            pass  # Go makes the peer after it has answered the handshake
        yield Link(agent, js, client, client.peer, seen, closed, url)


@asynccontextmanager
async def link_as_server(agent: Agent, read_limit: int = READS, **options: Any) -> AsyncGenerator[Link]:
    """A Python server with the agent as its client."""
    server = Server(**options)
    seen, closed = serve(server), _closed(server)
    arrived: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
    server.once("open", arrived.set_result)
    async with server.listen("127.0.0.1", 0, path="/ws") as listener:
        js = (await agent.call("connect", url=listener.url, **size_fields(agent.library, read_limit)))["peer"]
        yield Link(agent, js, server, await arrived, seen, closed, listener.url)


def _closed(app: Client | Server) -> asyncio.Future[CloseInfo]:
    closed: asyncio.Future[CloseInfo] = asyncio.get_running_loop().create_future()

    def note(peer: Peer, info: CloseInfo) -> None:
        if not closed.done():
            closed.set_result(info)

    app.on("close", note)
    return closed


class Agents:
    """One agent of each library, started when it is first wanted, and what it listens on.

    Starting Node takes longer than most tests. Tests do not meet in an agent, as each has its own connection.
    """

    def __init__(self, start: Callable[[str], Awaitable[Agent]]) -> None:
        self._start = start
        self._running: dict[str, tuple[Agent, dict[int, str]]] = {}

    async def get(self, library: str, read_limit: int = READS) -> tuple[Agent, str]:
        """The agent and its URL; a new one if a test ended the last. With a ``read_limit`` of 0 Go has its default."""
        if library in self._running:
            try:
                await self._running[library][0].call("state")
            except AgentError:
                del self._running[library]
        if library not in self._running:
            self._running[library] = await self._start(library), {}
        agent, urls = self._running[library]
        if read_limit not in urls:
            urls[read_limit] = (await agent.call("listen", path="/ws", **size_fields(library, read_limit)))["url"]
        return agent, urls[read_limit]

    @asynccontextmanager
    async def link(self, library: str, role: Role, *, read_limit: int = READS, **options: Any) -> AsyncGenerator[Link]:
        """A connection in that role; ``options`` are the Python client's or server's.

        Leaving checks that nothing is left of it: no request, no handler, no task.
        """
        agent, url = await self.get(library, read_limit)
        await agent.call("set", middleware=None, error_props=False)
        agent.logs.clear()
        tasks = asyncio.all_tasks()
        if role == "python-serves":
            block = link_as_server(agent, read_limit, **options)
        else:
            block = link_as_client(agent, url, **options)
        async with block as link:
            yield link
        assert agent.logs == []
        assert (link.peer.pending, link.peer.active) == (0, 0)
        left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
        assert not left, left

"""Place x ending: how a call ends for its caller and for the other side, wherever its messages are at that moment.

`TABLE` holds for all kinds of calls and for all callers. `EXCEPTIONS` has the few cells in which a kind or a caller
differs, each with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest
from cluster_servers import servers
from core_driver import start
from leftovers import nothing_left as nothing_left
from waiting import settled, until

from wsrpc import AnonymousChannel, ChannelClosed, Client, Limits, Peer, Reconnect, Server
from wsrpc.errors import ConnectionLost, Draining, HandlerFailed, RemoteError, RequestTimeout, RpcError, SessionLost
from wsrpc.testing import Line, connect

pytestmark = pytest.mark.usefixtures("nothing_left")

KINDS = {
    "request": "runs",
    "stream": "runs, between, parked",
    "upload": "runs, between, parked",
    "conversation": "runs, between",
}
"""Where a call of each kind can be after its handler has begun.

- runs: the handler has what it needs, and has sent nothing yet
- between: it has sent or received the first item, and waits
- parked: the producer of items waits for credit
"""

CALLERS = {
    "client": "not connected, detached, opening, full line, waits there, runs, between, parked",
    # Without wsrpc's extensions there are no sessions that could be detached, and no credit.
    "plain client": "not connected, opening, full line, waits there, runs, between",
    # A server's peer begins with its connection, and the `open` handlers of its side do not hold back its requests.
    "peer": "detached, full line, waits there, runs, between, parked",
    # It has no connection of its own. What happens between the processes has tests in `cluster`.
    "cluster": "waits there, runs, between, parked",
}
"""Where the calls of each caller can be when they end.

- detached: the connection has dropped, and the session waits for another one
- opening: an `open` handler of this side runs
- full line: the connection has no room for the message
- waits there: the message has arrived, and waits until another handler has exited
"""

# What the caller gets: "?" after an error is the outcome "unknown", and "!" is "not_sent".
# What the handler does: it is done, is stopped, or "-": it never began.
# A cell without an entry cannot happen: without a connection, nothing can drop or be closed remotely, and no session
# can be lost before the first connection.
TABLE = """
           | not connected | detached    | opening     | full line   | waits there | runs, between, parked
result     | ok done       | ok done     | ok done     | ok done     | ok done     | ok done
rejection  | Remote done   | Remote done | Remote done | Remote done | Remote done | Remote done
failure    | Failed done   | Failed done | Failed done | Failed done | Failed done | Failed done
gives up   | Failed stop   | Failed stop | Failed stop | Failed stop | Failed stop | Failed stop
stopped    | Remote stop   | Remote stop | Remote stop | Remote stop | Remote stop | Remote stop
timeout    | Timeout! -    | Timeout! -  | Timeout! -  | Timeout! -  | Timeout? -  | Timeout? stop
cancel     | Cancelled -   | Cancelled - | Cancelled - | Cancelled - | Cancelled - | Cancelled stop
drop       |               |             | ok done     | ok done     | Lost? -     | Lost? stop
resume     |               |             | ok done     | ok done     | ok done     | ok done
lost       |               | ok done     | ok done     | ok done     | Session? -  | Session? stop
close      | Lost! -       | Lost! -     | Lost? stop  | Lost! -     | Lost? -     | Lost? stop
closed     |               |             | ok done     | ok done     | Draining -  | Lost? stop
bind       |               |             |             | ok done     | Lost? -     | Lost? stop
leave      |               |             |             |             |             |
"""
"""How the calls end at each place.

- result, rejection, failure: the handler returns, raises `RpcError`, or raises another exception
- gives up: what the handler waits for is cancelled on its own side
- stopped: the application on the handler's side cancels the handler's task
- timeout, cancel: the caller's time limit is over, or its task is cancelled
- drop: the connection drops, without a session that could continue; a client connects again
- resume, lost: the connection drops, and the session continues on another one, or is lost
- close, closed: the caller's side or the other side closes the connection; a client connects again when it was closed
- bind: the client goes on with another connection, with which another session begins
- leave: who reads items has enough of them
"""

EXCEPTIONS = {
    # What could not be sent waits for a client's next connection. A server's peer has none after its session.
    ("peer", "", "full line", "drop"): "Lost! -",
    ("peer", "", "full line", "closed"): "Lost! -",
    ("peer", "", "full line", "bind"): "Lost! -",
    ("peer", "", "full line", "lost"): "Session! -",
    ("peer", "", "detached", "lost"): "Session! -",
    ("peer", "", "detached", "close"): "Session! -",
    # The session that is lost is that of another process.
    ("cluster", "", "waits there", "lost"): "Lost? -",
    ("cluster", "", "runs", "lost"): "Lost? stop",
    ("cluster", "", "between", "lost"): "Lost? stop",
    ("cluster", "", "parked", "lost"): "Lost? stop",
    # A generator runs only when its channel is open, which the close came before.
    ("", "stream", "opening", "close"): "Lost? -",
    # The items take as long as they take.
    ("", "upload", "between", "timeout"): "ok done",
    ("", "upload", "parked", "timeout"): "ok done",
    # The reader of a stream is the caller; that of an upload is the handler.
    ("", "stream", "parked", "leave"): "part stop",
    ("", "upload", "between", "leave"): "part done",
    ("", "upload", "parked", "leave"): "part done",
    ("", "conversation", "runs", "leave"): "Closed stop",
    ("", "conversation", "between", "leave"): "Closed stop",
}

CANNOT = {
    ("", "stream", "runs", "timeout"): "the time limit is over when the stream is open",
    ("", "stream", "between", "timeout"): "the same",
    ("", "stream", "parked", "timeout"): "the same",
    ("", "conversation", "runs", "timeout"): "the time limit is over when the channel is open",
    ("", "conversation", "between", "timeout"): "the same",
    ("cluster", "", "", "bind"): "as for a peer",
    ("plain client", "", "", "resume"): "no session",
    ("plain client", "", "", "lost"): "no session",
}

ERRORS: dict[str, type[BaseException]] = {
    "Remote": RemoteError,
    "Failed": HandlerFailed,
    "Timeout": RequestTimeout,
    "Cancelled": asyncio.CancelledError,
    "Lost": ConnectionLost,
    "Session": SessionLost,
    "Closed": ChannelClosed,
    "Draining": Draining,
}
OUTCOMES = {
    "!": "not_sent",
    "?": "unknown",
    "Remote": "ran",
    "Failed": "ran",
    "Closed": "unknown",
    "Cancelled": None,
    "Draining": "not_run",
}
CODES = {"drop": 1006, "lost": 1006, "close": 4000, "closed": 4001, "bind": 1001}

WINDOW = 4
ITEMS = [*range(1, 2 * WINDOW + 2)]
LIMITS = Limits(ping_interval=None, stream_window=WINDOW, close_timeout=2.0)
SOON = Reconnect(initial=0.001, max=0.02)


class Cell(NamedTuple):
    caller: str
    kind: str
    place: str
    ending: str

    def find(self, table: dict[tuple[str, str, str, str], str]) -> str | None:
        """Return the first entry for this cell; an empty string in a key stands for anything."""
        for key, text in table.items():
            if all(part in ("", own) for part, own in zip(key, self, strict=True)):
                return text
        return None


def cells() -> dict[str, list[tuple[Cell, str]]]:
    """The cells of each caller, kind and place, and what is expected."""
    head, *rows = ([cell.strip() for cell in line.split("|")] for line in TABLE.strip("\n").splitlines())
    table = {
        (place, row[0]): expected
        for row in rows
        for places, expected in zip(head[1:], row[1:], strict=True)
        for place in places.split(", ")
    }
    found: dict[str, list[tuple[Cell, str]]] = {}
    for caller, places in CALLERS.items():
        for kind, begun in KINDS.items():
            for place, ending in table:
                if place not in places.split(", ") or (place in "runs, between, parked" and place not in begun):
                    continue
                cell = Cell(caller, kind, place, ending)
                expected = cell.find(EXCEPTIONS) or table[place, ending]
                if expected and cell.find(CANNOT) is None:
                    found.setdefault("-".join(cell[:3]), []).append((cell, expected))
    return found


class ByClient:
    """One call at its place: a client calls its server. Subclasses have other callers."""

    extensions = True

    caller: Any
    client: Any
    server: Server
    server_peer: Peer

    def __init__(self, cell: Cell) -> None:
        _, self.kind, self.place, self.ending = cell
        self.stack = AsyncExitStack()
        self.others: list[asyncio.Task[Any]] = []
        self.limits = LIMITS.replace(replay_bytes=0) if self.ending == "drop" else LIMITS
        self.far_limits = self.limits.replace(running=1) if self.place == "waits there" else self.limits
        self.detached = 0.05 if self.ending == "lost" else 60.0
        self.options: dict[str, Any] = {}
        if self.ending == "timeout":
            self.options["timeout"] = 7.0
        # What the other side does and sees.
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.seen = "-"
        self.reason: tuple[object, ...] = ()
        self.task: asyncio.Task[Any] | None = None
        self.stopped = False
        self.occupied = asyncio.Event()
        self.vacate = asyncio.Event()
        # What this side does.
        self.opened, self.read_on, self.source_goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
        if self.place != "parked" or self.kind == "upload":
            self.read_on.set()
        if self.place != "between" or self.kind != "upload":
            self.source_goes_on.set()
        self.produced = self.arrived = 0
        self.source_runs = False
        self.items: Any = self.source()  # referred to from here, so that only the call closes it
        self.channel: Any = None
        self.prepare()

    # ------------------------------------------------ the other side

    def serve(self, far: Client | Server) -> None:
        for handler in (self.request, self.stream, self.upload, self.conversation, self.occupy, self.noise):
            far.on(handler.__name__, handler)

    async def occupy(self) -> None:
        self.occupied.set()
        await self.vacate.wait()

    def noise(self, text: str) -> str:
        return text

    @asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        assert self.seen == "-", "the handler runs a second time"
        self.seen = "runs"
        self.task = asyncio.current_task()
        try:
            if self.kind != "conversation":
                await self.perhaps_stopped()
            yield
        except (asyncio.CancelledError, GeneratorExit) as exc:
            self.seen, self.reason = "stop", exc.args
            raise
        except BaseException:
            self.seen = "done"
            raise
        self.seen = "done"

    async def perhaps_stopped(self) -> None:
        if self.stopped:
            self.stop_handler()
            await asyncio.sleep(0)

    async def request(self) -> list[int]:
        async with self.watched():
            await self.answer
            return ITEMS

    async def stream(self) -> AsyncIterator[int]:
        async with self.watched():
            if self.place == "runs":
                await self.answer
            for item in ITEMS:
                self.produced = item
                yield item
                if self.place == "between":
                    await self.answer
            await self.answer

    async def upload(self, items: AsyncIterator[int]) -> list[int]:
        async with self.watched():
            got: list[int] = []
            async for item in items:
                got.append(item)
                if item == 1 and self.place in ("between", "parked"):
                    await self.answer
                    if self.ending == "leave":
                        break
            await self.answer
            return got

    async def conversation(self, channel: AnonymousChannel) -> None:
        async with self.watched():
            await channel.wait_for("go")
            await self.perhaps_stopped()
            self.produced = 1
            if self.place != "between":
                await self.answer
            for item in ITEMS:
                await channel.emit("line", item)
                await self.answer

    # ------------------------------------------------ the caller

    async def source(self) -> AsyncIterator[int]:
        self.source_runs = True
        try:
            for item in ITEMS:
                self.produced = item
                yield item
                await self.source_goes_on.wait()
        finally:
            self.source_runs = False

    async def call(self) -> list[int]:
        got: list[int] = []
        if self.kind == "request":
            got = await self.caller.request("request", returns=list[int], **self.options)
        elif self.kind == "upload":
            got = await self.caller.request("upload", send=self.items, returns=list[int], **self.options)
        elif self.kind == "stream":
            async with self.caller.stream("stream", returns=int, **self.options) as items:
                async for self.arrived in items:
                    got.append(self.arrived)
                    await self.read_on.wait()
                    if self.ending == "leave":
                        break
        else:
            async with await self.caller.open_channel("conversation", **self.options) as self.channel:
                async with self.channel.events("line", returns=int) as items:
                    await self.channel.emit("go")
                    async for self.arrived in items:
                        got.append(self.arrived)
        return got

    # ------------------------------------------------ places

    async def reach(self) -> asyncio.Task[Any]:
        if self.place != "not connected":
            await self.connect()
        if self.place == "waits there":
            self.others.append(start(self.caller.request("occupy")))
            await self.occupied.wait()
        elif self.place == "full line":
            self.held = self.near.transport
            self.held.hold()
            self.caller.emit_nowait("noise", "x" * self.limits.high_water_bytes)
        elif self.place == "detached":
            await self.cut()
        task = start(self.call())
        if self.place not in ("runs", "between", "parked"):
            await until(lambda: task.done() or any(peer.pending for peer in self.peers))
        elif self.place == "parked":
            await until(lambda: self.produced >= WINDOW)
        elif self.place == "between":
            await until(lambda: self.produced if self.kind == "upload" else self.arrived)
        elif self.kind == "conversation":
            await until(lambda: self.produced)
        elif self.kind == "upload":
            await until(lambda: self.produced == ITEMS[-1])
        if self.place in ("runs", "between", "parked"):
            await until(lambda: self.seen != "-")
        await settled()
        assert not task.done() or self.ending == "timeout"
        assert self.seen == ("runs" if self.place in ("runs", "between", "parked") else "-")
        return task

    async def let_go(self) -> None:
        """Let everything go on that the place holds back."""
        for held_back in (self.opened, self.vacate, self.read_on, self.source_goes_on):
            held_back.set()
        self.line.down = False
        if self.place == "not connected" and self.ending != "close":
            await self.connect()
        if self.place == "full line":
            self.held.release()
        await settled(0.05)
        if not self.answer.done():
            self.answer.set_result(None)

    # ------------------------------------------------ endings

    async def end(self, task: asyncio.Task[Any]) -> None:
        match self.ending:
            case "result":
                self.answer.set_result(None)
            case "rejection":
                self.answer.set_exception(RpcError("no", "mine"))
            case "failure":
                self.answer.set_exception(ValueError("not for callers"))
            case "gives up":
                self.answer.cancel()
            case "stopped":
                self.stopped = True
                if self.task is not None:
                    self.stop_handler()
            case "timeout":
                await settled(6.9)
                assert not task.done()
                await settled(0.1)
            case "cancel":
                task.cancel("bored")
            case "drop" | "resume" | "lost":
                await self.cut()
                if self.ending == "lost":
                    await until(lambda: not self.server.peers, limit=self.detached + 0.01)
                self.line.down = False
                await until(lambda: self.client.state in ("opening", "connected"))
            case "close" | "closed":
                closing = start(self.close_near() if self.ending == "close" else self.close_far())
                self.others.append(closing)
                if self.place != "not connected":
                    await until(lambda: closing.done() or self.server_peer.transport is None)
            case "bind":
                await self.connect()
            case "leave" if self.kind == "stream":
                self.read_on.set()
            case "leave" if self.kind == "upload":
                self.answer.set_result(None)
            case _:
                await self.channel.abort("bored")
        await settled(0.05)

    def stop_handler(self) -> None:
        assert self.task is not None
        self.task.cancel("not for callers")

    async def cut(self) -> None:
        self.line.down = True
        if self.server_peer.transport is not None:
            self.server_peer.transport.abort()
        await until(lambda: self.client.state not in ("opening", "connected"))
        await settled()  # who waits for room in the connection sees its end before that of the session

    # ------------------------------------------------ the connection

    @property
    def peers(self) -> list[Peer]:
        return [self.client.peer, *self.server.peers]

    def prepare(self) -> None:
        self.make(self.limits, self.far_limits)
        self.serve(self.server)
        self.caller = self.client

    def make(self, client: Limits, server: Limits) -> None:
        self.server = Server(limits=server, detached_timeout=self.detached, extensions=self.extensions)
        self.line = Line(self.server)
        options: Any = {"limits": client, "reconnect": SOON, "extensions": self.extensions}
        self.client = Client("ws://server/", dial=self.line.dial, **options)
        if self.place == "opening":
            self.client.on("open", self.opened.wait)

    @property
    def near(self) -> Any:
        """The caller's peer."""
        return self.client.peer

    async def connect(self) -> None:
        entering = start(self.stack.enter_async_context(connect(self.server, client=self.client)))
        if self.place == "opening":
            self.others.append(entering)
            await until(lambda: self.server.peers and self.client.state == "opening")
        else:
            await entering
        await settled()
        self.server_peer = self.server.peers[0]

    async def close_near(self) -> None:
        await self.client.close(CODES["close"], "enough")

    async def close_far(self) -> None:
        await self.server_peer.close(CODES["closed"], "enough")

    # ------------------------------------------------ all of it

    async def play(self, expected: str) -> None:
        expected_error, _, expected_seen = expected.partition(" ")
        async with asyncio.timeout(10), self.stack:
            task = await self.reach()
            await self.end(task)
            await self.let_go()
            await asyncio.wait([task])
            await until(lambda: self.seen != "runs" and not self.source_runs)
            assert self.seen == expected_seen
            self.check_caller(task, expected_error)
            if self.ending in ("cancel", "leave") and self.seen == "stop" and self.kind != "stream":
                assert self.reason == ("bored",)
            await until(lambda: not any(p.pending or p.active or p.anonymous_channels for p in self.peers))
            late = {"response to no request", "cancellation of no request", "dropped at the end"}
            ended_here = self.ending in ("timeout", "cancel", "close", "closed")
            assert {name for peer in self.peers for name in peer.ignored} <= (late if ended_here else set())
            if self.ending not in ("drop", "lost", "close", "closed", "bind"):
                assert await self.caller.request("noise", "still here") == "still here"
            await asyncio.gather(*self.others, return_exceptions=True)

    def check_caller(self, task: asyncio.Task[Any], expected: str) -> None:
        name = expected.rstrip("!?")
        if name in ("ok", "part"):
            assert task.result() == (ITEMS if name == "ok" else ITEMS[:1])
            return
        error: Any = asyncio.CancelledError() if task.cancelled() else task.exception()
        expected_class: Any = ERRORS[name]
        assert type(error) is expected_class, repr(error)
        assert getattr(error, "outcome", None) == OUTCOMES[expected[len(name) :] or name]
        if name == "Remote":
            aborted = "Request aborted", None
            assert (error.message, error.code) == (aborted if self.ending == "stopped" else ("no", "mine"))
        elif name == "Timeout":
            assert (error.event, error.timeout) == (self.kind, self.options["timeout"])
            assert str(error).endswith("; nothing was sent") == (error.outcome == "not_sent")
        elif name in ("Lost", "Session"):
            self.check_lost(error)

    def check_lost(self, error: ConnectionLost) -> None:
        assert error.code == CODES[self.ending]
        if self.ending in ("close", "closed"):
            assert error.reason.endswith("enough")


class ByPlainClient(ByClient):
    """A client without wsrpc's extensions calls its server."""

    extensions = False


class ByPeer(ByClient):
    """A server calls one of its clients."""

    def prepare(self) -> None:
        self.make(self.far_limits, self.limits)
        self.serve(self.client)

    @property
    def near(self) -> Any:
        return self.server_peer

    async def connect(self) -> None:
        await super().connect()
        self.caller = self.server_peer

    async def close_near(self) -> None:
        await self.server_peer.close(CODES["close"], "enough")

    async def close_far(self) -> None:
        await self.client.close(CODES["closed"], "enough")


class ByCluster(ByPeer):
    """A server calls a client of another server of its cluster."""

    def prepare(self) -> None: ...

    async def reach(self) -> asyncio.Task[Any]:
        self.servers = await self.stack.enter_async_context(servers(limits=self.limits, detached_timeout=self.detached))
        self.server = self.servers[1]
        self.line = Line(self.server)
        self.client = Client("ws://server/?who=ada", dial=self.line.dial, limits=self.far_limits, reconnect=SOON)
        self.serve(self.client)
        return await super().reach()

    async def connect(self) -> None:
        await self.servers.join(1, "ada", self.client)
        self.server_peer = self.servers.peer(1, "ada")
        self.caller = self.servers[0].cluster.peer("ada")

    async def close_near(self) -> None:
        await self.servers[0].close()

    def check_lost(self, error: ConnectionLost) -> None:
        if self.ending != "close":  # the process may see the end of its session, or of its engine, first
            super().check_lost(error)


CELLS = cells()


async def play_all(scene: type[ByClient], place: str) -> None:
    for cell, expected in CELLS[place]:
        try:
            await scene(cell).play(expected)
        except BaseException as exc:
            exc.add_note(f"the ending: {cell.ending}")
            raise


def places_of(caller: str) -> list[str]:
    return [place for place in CELLS if place.startswith(f"{caller}-")]


SCENES = {"client": ByClient, "plain client": ByPlainClient, "peer": ByPeer, "cluster": ByCluster}


@pytest.mark.parametrize(
    ("scene", "place"), [(SCENES[caller], place) for caller in SCENES for place in places_of(caller)]
)
async def test_a_call_ends_once_and_leaves_nothing(scene: type[ByClient], place: str) -> None:
    await play_all(scene, place)

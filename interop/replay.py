"""Python in the place of one side of a recorded session: it does what that side was told, and hears what that heard.

What came of it must be the same: which handlers were called with what, and what each command gave. So must be the
messages, but for the ids that Python chooses, and for items of streams, each of which Python has answered; and but for
what Go words otherwise (`as_in_go`, `aborted_in_go`), in its own sessions alone.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import websockets
from websockets.asyncio.server import ServerConnection, serve

from interop.fuzz.session import same_frame, without_choices
from interop.fuzz.state import RESERVED
from interop.mirror import Mirror
from interop.peers import until
from interop.record import Entry
from wsrpc import AnonymousChannel, Client, Context, Peer, RemoteError, Server
from wsrpc._base.names import Profile

Side = Literal["client", "server"]
PATIENCE = 8.0


class Ids:
    """The ids that the recording has for this side's requests, and channels, and those that Python has chosen."""

    def __init__(self) -> None:
        self._ours: dict[int, int] = {}
        self._theirs: dict[int, int] = {}
        self._opened: set[int] = set()
        """Of those, as recorded, the requests whose answer was a channel."""

    def learn(self, recorded: Entry, sent: Entry) -> None:
        if "a" in recorded and "i" in recorded:
            self._ours[recorded["i"]] = sent["i"]
            self._theirs[sent["i"]] = recorded["i"]

    def to_feed(self, frame: Entry) -> Entry:
        changed = dict(frame)
        if "i" in frame and not {"a", "x"} & frame.keys():
            changed["i"] = self._ours[frame["i"]]
            if "h" in frame:
                self._opened.add(frame["i"])
        elif frame.get("h") in self._opened:
            changed["h"] = self._ours[frame["h"]]
        return changed

    def from_sent(self, frame: Entry) -> Entry:
        changed = dict(frame)
        if {"a", "x"} & frame.keys() and frame.get("i") in self._theirs:
            changed["i"] = self._theirs[frame["i"]]
        if frame.get("h") in self._theirs:
            changed["h"] = self._theirs[frame["h"]]
        return changed


class Replay:
    """One session, in which Python is ``side``; ``go`` says that it was Go's."""

    def __init__(self, entries: list[Entry], side: Side, *, go: bool = False) -> None:
        self._go = go
        self._profile: Profile | None = "go" if go else None
        self._entries = entries
        self._side = side
        self._ids = Ids()
        self._called: list[Entry] = []
        self._channels: dict[str, AnonymousChannel] = {}
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._tasks: list[asyncio.Task[Entry]] = []
        self._mirror = Mirror(self._told)

    def _told(self, ctx: Context, label: Any, event: str, args: list[Any]) -> None:
        self._called.append({"called": self._side, "channel": label, "event": event, "args": args})

    async def run(self) -> None:
        """Play it to its end.

        Raises:
            AssertionError: where something else came of it.
        """
        try:
            async with asyncio.timeout(PATIENCE), self._connected() as (peer, other):
                await self._play(peer, other)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _play(self, peer: Peer, other: Any) -> None:
        result: Any = None
        calls = 0
        for number, entry in enumerate(self._entries):
            where = f"entry {number}, {json.dumps(entry)[:300]}"
            if "do" in entry and entry["do"]["by"] == self._side:
                result = await self._do(peer, entry["do"])
            elif entry.get("sent") == self._side:
                frame = json.loads(entry["text"])
                if frame.get("a", [None])[0] in RESERVED and not {"c", "h"} & frame.keys():
                    continue  # ws-wrapper 2.x says "connect"
                sent = await self._next(other)
                self._ids.learn(frame, sent)
                sent = self._ids.from_sent(sent)
                alike = same_frame(*(without_choices(as_in_go(each) if self._go else each) for each in (frame, sent)))
                assert alike, f"{where}: Python sent {sent}"
            elif "sent" in entry:
                await other.send(json.dumps(self._ids.to_feed(json.loads(entry["text"]))))
            elif entry.get("called") == self._side:
                calls += 1
                await self._have_been_called(calls)
            elif entry.get("result") == self._side:
                told = await result if isinstance(result, asyncio.Task) else result
                wanted = outcome(entry["is"])
                if self._go:
                    wanted = aborted_in_go(wanted)
                assert same_frame(wanted, told), f"{where}: Python got {told}"
        # All that was said has been heard when this is answered.
        await other.send(json.dumps({"i": 1_000_000, "a": ["echo", "last"]}))
        assert (await self._next(other)) == {"i": 1_000_000, "d": "last"}
        assert self._called.pop()["args"] == ["last"]
        recorded = [entry for entry in self._entries if entry.get("called") == self._side]
        got, expected = list(map(_anywhere, self._called)), list(map(_anywhere, recorded))
        assert same_frame(expected, got), f"called, recorded: {expected}\ncalled in Python: {got}"
        left = {"pending": peer.pending, "active": peer.active, "channels": peer.channels}
        assert not any(left.values()), left

    async def _have_been_called(self, times: int) -> None:
        await until(lambda: len(self._called) >= times)

    async def _next(self, other: Any) -> Entry:
        while True:
            frame: Entry = json.loads(await other.recv())
            if frame.get("ws-wrapper") is False:
                continue  # what only wsrpc understands
            if "i" in frame and frame.get("a", [None])[0] == "next":
                await other.send(json.dumps({"i": frame.pop("i")}))
            return frame

    # ------------------------------------------------------------ what this side does

    async def _do(self, peer: Peer, step: Entry) -> Any:
        """What comes of it: the result, or a task that has it."""
        place = self._place(peer, step.get("channel"))
        args = step.get("args", [])
        match step["command"]:
            case "emit":
                return await place.emit(step["event"], *args)
            case "request" if "opens" in step:
                return self._start(self._open(place, step))
            case "request":
                task = self._start(self._request(place, step["event"], args))
                self._running[step.get("ref", "")] = task
                return task
            case "iterate":
                return self._start(self._iterate(place, step))
            case "cancel":
                return self._running[step["ref"]].cancel(step["reason"])
            case "await":
                return self._running[step["ref"]]
            case "abort_channel":
                return await self._channels[step["channel"]].abort(step["reason"])
            case "events":
                return None
            case "answer":
                for key in step["keys"]:
                    self._mirror.give(key)
                return None
            case command:
                raise AssertionError(f"unknown command: {command}")

    def _start(self, doing: Coroutine[Any, Any, Entry]) -> asyncio.Task[Entry]:
        task = asyncio.create_task(doing)
        self._tasks.append(task)
        return task

    def _place(self, peer: Peer, channel: str | None) -> Any:
        if channel is None:
            return peer
        return self._channels.get(channel) or peer.of(channel)

    async def _open(self, place: Any, step: Entry) -> Entry:
        channel = self._channels[step["opens"]] = await place.open_channel(step["event"], *step.get("args", []))
        self._mirror.register(channel, {"h": channel.id})
        return {"opened": step["opens"]}

    async def _request(self, place: Any, event: str, args: list[Any]) -> Entry:
        try:
            return {"resolved": await place.request(event, *args)}
        except RemoteError as exc:
            return {"rejected": exc.data if exc.plain else exc.message}
        except asyncio.CancelledError:
            return {"rejected": "Request aborted"}

    async def _iterate(self, place: Any, step: Entry) -> Entry:
        taken: list[Any] = []
        async with place.stream(step["event"], *step.get("args", [])) as items:
            async for item in items:
                taken.append(item)
                if len(taken) == step.get("take"):
                    break
        return {"items": taken}

    # ------------------------------------------------------------ connections

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[tuple[Peer, Any]]:
        """Python's peer, and the bare connection at the other end."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            if self._side == "server":
                server = Server(expose_errors=True, profile=self._profile)
                arrived: asyncio.Future[Peer] = loop.create_future()
                server.once("open", arrived.set_result)
                self._mirror.serve(server)
                listener = await stack.enter_async_context(server.listen("127.0.0.1", 0))
                url = listener.url
                bare = await stack.enter_async_context(websockets.connect(url, compression=None, proxy=None))
                yield await arrived, bare
            else:
                accepted: asyncio.Future[ServerConnection] = loop.create_future()

                async def accept(connection: ServerConnection) -> None:
                    accepted.set_result(connection)
                    await connection.wait_closed()

                listening = await stack.enter_async_context(serve(accept, "127.0.0.1", 0, compression=None))
                port = listening.sockets[0].getsockname()[1]
                url = f"ws://127.0.0.1:{port}/"
                client = Client(url, reconnect=None, proxy=None, expose_errors=True, profile=self._profile)
                self._mirror.serve(client)
                await stack.enter_async_context(client)
                yield client.peer, await accepted
            self._mirror.end()


def outcome(told: Entry) -> Entry:
    """What the agent says of a result, as far as it is the same in Python."""
    if "resolved" in told:
        return {"resolved": told["resolved"]}
    if "rejected" in told:
        thrown = told["rejected"]
        return {"rejected": thrown["message"] if thrown["is_error"] else thrown["value"]}
    return told


# ---------------------------------------------------------------- what only Go words otherwise


def as_in_go(frame: Entry) -> Entry:
    """A message in the form that Go gives it, whoever sent it: flag, reasons, and the text for what has no handler."""
    frame = dict(frame)
    if "_" in frame:
        frame["_"] = bool(frame["_"])
    if isinstance(frame.get("x"), str):
        frame["x"], frame["_"] = {"message": frame["x"]}, True
    error = frame.get("e")
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        frame["e"] = {**error, "message": unheard_in_go(error["message"])}
    return frame


def unheard_in_go(text: str) -> str:
    """What Go says where there is no handler. It does not tell whether the channel has others: "none such" has none."""
    text = re.sub(r"^No event listener for ", "no event listener for ", text)
    text = re.sub(r" on channel '(\d+)'$", r" on anonymous channel \1", text)
    return re.sub(r"^Channel 'none such' does not exist$", "no event listener for 'echo' on channel 'none such'", text)


def aborted_in_go(told: Entry) -> Entry:
    """A result, with Python's text for a request that was cancelled here; Go's has the reason."""
    text = told.get("rejected")
    if isinstance(text, str) and text.startswith("awaiting response: "):
        return {"rejected": "Request aborted"}
    return told


def _anywhere(call: Entry) -> Entry:
    """A call without the id of its channel."""
    return {**call, "channel": "anonymous"} if isinstance(call["channel"], dict) else call

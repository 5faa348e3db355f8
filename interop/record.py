"""What two peers of one kind say to each other in a session by script, as data: ``python -m interop.record``.

Each file of ``traces`` has one session, in order: what either side was told to do, each message, which handlers were
called with what, and what came of each command. `replay` has Python play one of the two sides.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import websockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError

from interop import golang
from interop.agents import CALL_TIMEOUT, Agent
from interop.node import available_libraries

TRACES = Path(__file__).parent / "traces"

Entry = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """Counterparts that speak to each other, and whether they know of cancelling and of anonymous channels."""

    name: str
    server: str
    client: str
    four: bool

    @property
    def is_go(self) -> bool:
        return golang.plays(self.server)


KINDS = (
    Kind("ws-wrapper-3", "ws-wrapper", "ws-wrapper", four=False),
    Kind("ws-server-wrapper", "ws-server-wrapper", "ws-wrapper-2", four=False),
    Kind("plain-4", "plain-4", "plain-4", four=True),
    Kind("ws-wrapper-4", "ws-wrapper-4", "ws-wrapper-4", four=True),
    Kind("go-coder", "go-coder", "go-coder", four=True),
    Kind("go-gorilla", "go-gorilla", "go-gorilla", four=True),
)


def available() -> list[Kind]:
    """Those whose libraries are here."""
    here = {name for name, _ in available_libraries()} | {"plain-4", "ws-wrapper-2", *golang.available_libraries()}
    return [kind for kind in KINDS if {kind.server, kind.client} <= here]


# ---------------------------------------------------------------- the session


def script(kind: Kind) -> list[Entry]:
    """The commands, as `interop.agents` has them, besides who obeys (``by``).

    With ``ref``, a command goes on in the background, until ``await`` or the end. ``opens`` says that a request brings
    a channel, under that name, by which ``channel`` speaks of it.
    """
    steps: list[Entry] = []

    def do(by: str, command: str, **fields: Any) -> None:
        steps.append({"by": by, "command": command, **fields})

    value = [{"a": [1, None, False, ""]}, "ünï \U0001f600", 0.5]
    do("server", "request", event="echo", args=["first"])  # so that the two do not count in step
    do("server", "request", event="echo", args=["second"])
    for by in ("client", "server"):
        for channel in (None, "math"):
            do(by, "emit", event="log", args=value, channel=channel)
            do(by, "request", event="add", args=[1, 2], channel=channel)
            do(by, "request", event="args", args=value, channel=channel)
            do(by, "request", event="ask", args=["add", 20, 1], channel=channel)
            do(by, "request", event="none such", channel=channel)
            do(by, "emit", event="none such", channel=channel)
        do(by, "request", event="echo", channel="none such")
        do(by, "request", event="nothing")
        do(by, "request", event="ask", args=["ask", "add", 2, 3])
        # In Go an error is its text: it cannot reject with an object.
        for what in ("error", "type", "async") if kind.is_go else ("error", "type", "object", "async"):
            do(by, "request", event="fail", args=[what])
    if kind.four:
        for by, other in (("client", "server"), ("server", "client")):
            do(by, "request", event="hang", ref=f"{by}'s")
            do(other, "events", kind="started", at_least=1)
            do(by, "cancel", ref=f"{by}'s", reason="bored")
            do(by, "await", ref=f"{by}'s")
            if kind.is_go:
                # Each `next` has a goroutine there: the last item and the end that follows it may change places. So the
                # consumer leaves after an item that nothing follows, in the words that Python has for leaving.
                do(other, "answer", keys=["first"])
                do(by, "iterate", event="steps", args=[["first", "never"]], take=1, reason="Request aborted")
            else:
                do(by, "iterate", event="count", args=[1])
            do(by, "iterate", event="count", args=[0], channel="math")
            do(by, "request", event="channel_make", opens="conversation")
            do(by, "emit", event="log", args=[1], channel="conversation")
            do(by, "request", event="add", args=[1, 2], channel="conversation")
            do(by, "request", event="ask", args=["add", 20, 1], channel="conversation")
            do(by, "request", event="none such", channel="conversation")
            do(by, "abort_channel", channel="conversation", reason="enough")
    return steps


# ---------------------------------------------------------------- recording


class Recorder:
    """A proxy between the two, which notes what passes; and what handlers were called with, which does not pass."""

    def __init__(self, kind: Kind) -> None:
        self.entries: list[Entry] = []
        self._kind = kind
        self._open = asyncio.Event()
        self._cancelled: int | None = None
        self._answered = asyncio.Event()
        """The last request that was cancelled has been answered, which in Go may be later than what follows."""

    async def record(self) -> list[Entry]:
        async with AsyncExitStack() as stack:
            sides = {
                "server": await stack.enter_async_context(Agent.start(self._kind.server)),
                "client": await stack.enter_async_context(Agent.start(self._kind.client)),
            }
            for side in sides.values():
                await side.call("set", calls=True)
            self._url = (await sides["server"].call("listen", path="/ws"))["url"]
            proxy = await stack.enter_async_context(serve(self._between, "127.0.0.1", 0, compression=None))
            port = proxy.sockets[0].getsockname()[1]
            await sides["client"].call("connect", url=f"ws://127.0.0.1:{port}/ws")
            await self._open.wait()
            # In Go the server's program may know of the connection a moment later than the one that dialed.
            await sides["server"].call("events", kind="open", at_least=1)
            await self._play(sides)
            await sides["client"].call("close", code=1000)
            await sides["server"].call("events", kind="close", at_least=1)
            for side in sides.values():
                assert side.logs == []
        return self.entries

    async def _between(self, client: ServerConnection) -> None:
        async with websockets.connect(self._url, compression=None, proxy=None) as server:
            self._open.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on("client", client, server))
                group.create_task(self._pass_on("server", server, client))

    async def _pass_on(self, by: str, source: Any, target: Any) -> None:
        # Go over coder drops the connection when it closes it.
        with suppress(ConnectionClosedError):
            await self._note_all(by, source, target)
        await target.close()

    async def _note_all(self, by: str, source: Any, target: Any) -> None:
        async for text in source:
            message = json.loads(text)
            if message.get("a", [None])[0] == "called":
                _, channel, event, args = message["a"]
                self.entries.append({"called": by, "channel": channel, "event": event, "args": args})
            else:
                self.entries.append({"sent": by, "text": text})
                if "x" in message and "i" in message:
                    self._cancelled = message["i"]
                elif "a" not in message and "i" in message and message["i"] == self._cancelled:
                    self._cancelled = None  # the other side's requests may have the same id
                    self._answered.set()
                await target.send(text)

    async def _play(self, sides: dict[str, Agent]) -> None:
        channels: dict[tuple[str, str], Any] = {}
        running: dict[str, asyncio.Task[Any]] = {}
        for step in script(self._kind):
            fields = dict(step)
            by, command = fields.pop("by"), fields.pop("command")
            self.entries.append({"do": step})
            if command == "await":
                result = await running.pop(step["ref"])
            else:
                opens = fields.pop("opens", None)
                if (by, fields.get("channel")) in channels:
                    fields["channel"] = channels[by, fields["channel"]]
                call = sides[by].call(command, **fields)
                if command == "request" and "ref" in fields:
                    running[fields["ref"]] = asyncio.create_task(call)
                    continue
                result = await call
                if command == "cancel":
                    await asyncio.wait_for(self._answered.wait(), CALL_TIMEOUT)
                    self._answered.clear()
                if opens is not None:
                    channels[by, opens] = result["resolved"]
                    result = {"opened": opens}
            # What was sent before has arrived, and its handlers were called, when this is answered.
            for side in sides:
                await self._settled(sides[side])
            if command in ("request", "iterate", "await"):
                self.entries.append({"result": by, "is": result})

    async def _settled(self, side: Agent) -> None:
        count = len(self.entries)
        answer = await side.call("request", event="echo", args=["settled"])
        assert answer.get("resolved") == "settled", answer
        # That was not of the session.
        self.entries[count:] = [entry for entry in self.entries[count:] if "settled" not in json.dumps(entry)]


def path_of(kind: Kind) -> Path:
    return TRACES / f"{kind.name}.json"


async def main(names: list[str]) -> None:
    for kind in available():
        if not names or kind.name in names:
            entries = await Recorder(kind).record()
            lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
            path_of(kind).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            print(f"{path_of(kind).name}: {len(entries)} entries")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

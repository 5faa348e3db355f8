"""`wsrpc listen`, `describe` and `completion`."""

from __future__ import annotations

import asyncio
import json
import re
from asyncio.subprocess import Process
from datetime import datetime
from subprocess import PIPE
from typing import Annotated, Any, Protocol

import msgspec
import pytest
from command_process import COMMAND, end, environment, prints, refusal, serving, start
from programs import free_port

from wsrpc import AnonymousChannel, Server
from wsrpc.schema import describe as described
from wsrpc.testing import FaultProxy


async def event(process: Process) -> dict[str, Any]:
    """The next line that a listener prints."""
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(await process.stdout.readline())
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    return line


async def test_events_of_all_channels() -> None:
    async with serving() as played:
        process = await start("listen", played.url, "--answer", "name=1")
        peer = await played.peers.get()
        assert await peer.request("name") == 1
        await peer.emit("said", 1, "two")
        assert await event(process) == {"channel": None, "event": "said", "args": [1, "two"]}
        await peer.of("chat").emit("close")
        assert await event(process) == {"channel": "chat", "event": "close", "args": []}
        process.terminate()
        assert await end(process) == (143, "", "wsrpc: stopped by SIGTERM: 2 events have come\n")


async def test_events_of_some_channels_and_names() -> None:
    async with serving() as played:
        arguments = ["said", "left", "--channel", "a", "--channel", "b", "--take", "2"]
        process = await start("listen", played.url, *arguments)
        peer = await played.peers.get()
        for channel, name in (("a", "joined"), ("c", "said"), ("a", "said"), ("b", "left"), ("b", "said")):
            await peer.of(channel).emit(name)
        ended = await end(process)
        assert (ended.code, ended.err) == (0, "")
        found = [json.loads(line) for line in ended.out.splitlines()]
        assert [(line["channel"], line["event"]) for line in found] == [("a", "said"), ("b", "left")]


async def test_large_events_that_nobody_reads_are_dropped() -> None:
    """The bytes that wait are bounded, not only the events."""
    async with serving() as played:
        process = await start("listen", played.url, "--answer", "name=1", "--take", "40")
        assert process.stdout is not None and process.stderr is not None
        peer = await played.peers.get()
        for _ in range(40):
            await peer.emit("said", "x" * 1_000_000)
        assert await peer.request("name") == 1  # all have come
        reading = asyncio.create_task(process.stdout.read())
        assert b" events were dropped, because the output is read too slowly" in await process.stderr.readline()
        process.terminate()
        assert 10 < (await reading).count(b"\n") < 20
        await process.wait()


async def test_it_comes_back() -> None:
    port = free_port()
    server = Server()
    peers: asyncio.Queue[Any] = asyncio.Queue()
    server.on("open", peers.put_nowait)
    async with server.listen("127.0.0.1", port):
        process = await start("listen", f"ws://127.0.0.1:{port}", "--take", "2")
        await (await peers.get()).emit("first")
        assert (await event(process))["event"] == "first"
    server = Server()
    server.on("open", peers.put_nowait)
    async with server.listen("127.0.0.1", port):
        await (await peers.get()).emit("second")
        assert (await event(process))["event"] == "second"
        code, _, err = await end(process)
    lost, back = err.splitlines()
    assert code == 0
    assert lost == "wsrpc: the connection was lost (1012 the server is closing); reconnecting"
    assert back.startswith("wsrpc: reconnected after ") and back.endswith("may be missing")


async def test_nothing_is_missed_where_the_session_goes_on() -> None:
    async with serving() as played, FaultProxy(played.url) as proxy:
        process = await start("listen", proxy.url, "--take", "2", "--answer", "name=1")
        peer = await played.peers.get()
        for _ in range(2):  # after two round trips the two know that sessions can go on
            assert await peer.request("name") == 1
        await peer.emit("first")
        assert (await event(process))["event"] == "first"
        proxy.drop()
        await peer.emit("second")
        code, out, err = await end(process)
        assert code == 0 and json.loads(out)["event"] == "second"
        assert err == "" or err.endswith("; nothing was missed\n")


async def test_it_ends_where_coming_back_is_of_no_use() -> None:
    async with serving() as played:
        process = await start("listen", played.url)
        peer = await played.peers.get()
        played.server.on_handshake(lambda handshake: handshake.reject(401, "log in"))
        await peer.close(1012, "restart")
        code, _, err = await end(process)
        assert code == 3 and "HTTP 401: log in" in err.splitlines()[-1]


async def test_it_ends_when_the_server_does_not_want_it() -> None:
    async with serving() as played:
        process = await start("listen", played.url)
        await (await played.peers.get()).close(1008, "go away")
        assert await end(process) == (
            3,  # it sends nothing that could have run
            "",
            "wsrpc: there is no connection (1008 go away); nothing was sent\n",
        )


async def test_the_first_connection_is_tried_as_often_as_retry_says() -> None:
    async with serving() as played:
        url = played.url
    assert (await refusal(3, "listen", url)).startswith("could not connect: ")
    assert (await refusal(3, "listen", url, "--retry", "1")).startswith("could not connect: ")


# ---------------------------------------------------------------- describe


class Line(msgspec.Struct):
    """One line of the chat."""

    who: str
    text: Annotated[str, msgspec.Meta(description="what was said")]


class Events(Protocol):
    async def said(self, line: Line, /) -> None: ...


SIGNATURES = """\
the main channel:
  add(a: number, b: number) -> number
      Add two numbers.
  args(...args: unknown[]) -> unknown[]
  countdown(start: number) -> stream of number
  crash() -> null
"""


async def test_signatures_are_readable() -> None:
    async with serving() as played:
        server = played.server

        async def talk(channel: AnonymousChannel) -> None: ...

        def last(count: int = 1, of: str | None = None) -> list[Line]:
            return []

        server.of("chat").on("talk", talk)
        server.of("chat").on("last", last)
        server.of("chat").declare(Events)
        server.offer_description()
        out = await prints("describe", played.url)
        assert out.startswith(SIGNATURES)
        assert "\n  doubled(upload of number) -> stream of number\n" in out
        assert "\n  total(upload of number) -> number\n" in out
        assert out.endswith(
            """\
channel chat:
  last(count: number = 1, of: string | null = null) -> Line[]
  say(text: string, urgent: boolean = false) -> string
      Say something.

      To all who listen.
  talk() -> conversation
emits on channel chat:
  said(line: Line)
types:
  Line = {
    who: string
    /** what was said */
    text: string
  }
"""
        )
        no_channel = "the server's description has no channel 'none'"
        assert await refusal(1, "describe", played.url, "--channel", "none") == no_channel
        out = await prints("describe", played.url, "--channel", "chat")
        assert out.startswith("channel chat:\n") and "main channel" not in out
        found = json.loads(await prints("describe", played.url, "--json"))
        assert found["emits"][0]["event"] == "said" and "Line" in found["$defs"]


async def test_a_server_that_offers_no_description() -> None:
    async with serving() as played:
        said = f"{played.url} does not offer its description: call server.offer_description() there"
        assert await refusal(1, "describe", played.url) == said
        played.server.offer_description(allow=lambda peer: False)
        assert await refusal(1, "describe", played.url) == f"{played.url} refuses to describe itself: not allowed"


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([{"event": {"event": "a", "kind": "?"}}], "the description of the server cannot be used: Invalid enum value"),
        (5, " answers with something other than a description: "),
    ],
)
async def test_a_description_that_is_none(items: Any, said: str) -> None:
    async with serving() as played:
        played.server.of("wsrpc").on("describe", lambda after=None: {"items": items, "next": None})
        assert said in await refusal(1, "describe", played.url)


async def test_names_of_a_server_move_no_cursor() -> None:
    async with serving() as played:
        hostile = {"event": {"event": "a\x1b[2J\nb", "kind": "value", "doc": "c\x9b2J", "channel": "\u202ed"}}
        played.server.of("wsrpc").on("describe", lambda after=None: {"items": [hostile], "next": None})
        out = await prints("describe", played.url)
        assert out == "channel \\u202ed:\n  a\\x1b[2J\\nb() -> unknown\n      c\\x9b2J\n"


# ---------------------------------------------------------------- completion


async def completed(*lines: str) -> list[list[str]]:
    """What bash offers where the cursor stands behind each line, by the script that users load."""
    script = f"""
        wsrpc() {{ {" ".join(COMMAND)} "$@"; }}
        source <(wsrpc completion bash)
        function="$(complete -p wsrpc | sed 's/.* -F \\([^ ]*\\) .*/\\1/')"
        for COMP_LINE; do
            COMP_POINT="${{#COMP_LINE}}"
            "$function"
            echo "${{COMPREPLY[@]}}"
        done
    """
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", script, "bash", *lines, env=environment(), stdout=PIPE, stderr=PIPE
    )
    ended = await end(process)
    assert (ended.code, ended.err) == (0, "")
    return [line.split() for line in ended.out.splitlines()]


async def test_commands_and_options_are_completed() -> None:
    lines = {
        "wsrpc c": ["call", "client", "completion"],
        "wsrpc completion ": ["bash", "zsh", "fish"],
        "wsrpc call ws://a b --c": ["--channel", "--cacert", "--cert", "--compress"],
        "wsrpc call ws://a b --profile ": ["go", "ws-wrapper-3"],
        "wsrpc call ws://a b --send ": [],  # names of files
        "wsrpc call ws://a b '\"A": [],
    }
    assert await completed(*lines) == list(lines.values())


async def test_names_of_events_and_channels_are_completed() -> None:
    async with serving() as played:
        played.server.on("of:colons:a", lambda: 1)
        played.server.on("of:colons:b", lambda: 1)
        played.server.on("$(reboot)", lambda: 1)
        played.server.of("chat").declare(Events)
        url = played.url
        assert await completed(f"wsrpc call {url} ") == [[]]
        played.server.offer_description()
        lines = {
            f"wsrpc call --timeout 5 {url} ": sorted(
                event.event
                for event in described(played.server).events
                if event.channel is None and "$" not in event.event
            ),
            f"wsrpc call {url} a": ["add", "args"],
            f"wsrpc emit {url} --channel chat ": ["say"],
            f"wsrpc stream {url} --channel ": ["chat"],
            f"wsrpc listen {url} --channel chat ": ["said"],
            f"wsrpc call {url} of:colons:": ["a", "b"],  # bash has the rest already
            f"wsrpc call {url} add ": [],
        }
        assert await completed(*lines) == list(lines.values())
        for shell, word in (("zsh", "3"), ("fish", "of:c")):
            line = {"COMP_WORDS": f"wsrpc call {url} of:c", "COMP_CWORD": word}
            out = await prints(env={**line, "_WSRPC_COMPLETE": f"{shell}_complete"})
            assert re.findall("of:colons:[a-z]", out) == ["of:colons:a", "of:colons:b"]
            assert f"_WSRPC_COMPLETE={shell}_complete" in await prints("completion", shell)


async def test_a_server_that_cannot_be_asked_delays_and_offers_nothing() -> None:
    async with serving() as played:
        url = played.url
    assert await completed(f"wsrpc call {url} ", "wsrpc call http://a ") == [[], []]

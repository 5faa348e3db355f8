"""What Go closes the connection for: shown to close, and refused by ``profile="go"``, in both roles."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from interop.agents import Agent, AgentError
from interop.peers import Agents, Counterpart, Link
from wsrpc import BadArguments, Client, ConnectionLost, Limits, MessageTooBig, RemoteError

pytestmark = pytest.mark.asyncio(loop_scope="session")

READS = 32 * 1024
"""Bytes that coder/websocket reads in one message of itself."""


async def test_numbers_that_are_too_large(gopher: Counterpart, agents: Agents, go_link: Link) -> None:
    huge = 10**400
    async with agents.link(*gopher) as link:
        link.app.on("number", lambda: huge)
        _, asked = link.start_asking("number")
        assert (await link.closed).code in (1007 if link.agent.library.endswith("coder") else 1011, 1006)
        assert "rejected" in await asked
    go_link.app.on("number", lambda: huge)
    assert (await go_link.ask_in_vain("number"))["message"] == "internal error"
    # As an argument it concerns its handler alone.
    with pytest.raises(RemoteError, match="cannot unmarshal number"):
        await go_link.peer.request("echo", huge)
    assert await go_link.peer.request("add", 1, 2) == 3


def filled(event: str, largest: int, i: int) -> str:
    """Text that makes a request for ``event`` as large as may be."""
    return "x" * (largest - len(json.dumps({"i": i, "a": [event, ""]}, separators=(",", ":"))))


async def test_the_size_of_a_message(go_link: Link) -> None:
    fits = filled("size", READS, 2**30)
    assert await go_link.peer.request("size", fits) == len(fits)
    assert await go_link.peer.request("size", fits) == len(fits)
    with pytest.raises(MessageTooBig, match=r"at most 32768 may be sent"):
        await go_link.peer.request("size", fits + "x")
    with pytest.raises(MessageTooBig):
        await go_link.peer.emit("log", fits + "x" * 100)
    refused = await go_link.ask_in_vain("blob", READS)
    assert "at most 32768 may be sent" in refused["message"]
    assert await go_link.ask("blob", READS - 100) == "x" * (READS - 100)
    # What Go sends has no such bound.
    assert await go_link.peer.request("blob", 100_000) == "x" * 100_000


async def test_go_programs_that_read_more(gopher: Counterpart, agents: Agents) -> None:
    limits = Limits(sent_message_bytes=200_000)
    async with agents.link(*gopher, read_limit=200_000, profile="go", limits=limits) as link:
        assert await link.peer.request("size", "x" * 190_000) == 190_000
        with pytest.raises(MessageTooBig, match=r"at most 200000 may be sent"):
            await link.peer.request("size", "x" * 200_000)
        assert link.peer.connected


async def test_the_number_of_arguments(gopher: Counterpart, agents: Agents, go_link: Link) -> None:
    for args in ((), (1,), (1, 2, 3)):
        with pytest.raises(BadArguments, match=rf"^add\(\) was sent {len(args)} arguments, but its handler in Go has"):
            await go_link.peer.request("add", *args)
    with pytest.raises(RemoteError, match="cannot unmarshal string"):
        await go_link.peer.request("add", "one", 2)
    assert await go_link.peer.request("add", None, 2) == 2  # null is the zero value of what is no pointer
    # An event is dropped, and nobody is told.
    await go_link.peer.emit("add", 1)
    assert await go_link.peer.request("add", 1, 2) == 3
    async with agents.link(*gopher) as link:
        with pytest.raises(RemoteError, match=r"^incorrect number of arguments$") as raised:
            await link.peer.request("add", 1)
        assert not isinstance(raised.value, BadArguments)


async def test_a_handler_that_is_variadic_ends_the_program() -> None:
    """The text of the error, and go.md, led there: "pass one argument for each parameter"."""
    async with Agent.start("go-coder") as agent:
        url = (await agent.call("listen", path="/ws"))["url"]
        async with Client(url, profile="go", reconnect=None) as client:
            with pytest.raises(BadArguments, match=r"if its last parameter is variadic \(\.\.\.\), do not call it"):
                await client.request("variadic", 1, 2)
            with pytest.raises(ConnectionLost):
                await client.request("variadic", [1, 2])
        with pytest.raises(AgentError, match=r"cannot use .* in Call"):
            await agent.call("state")


async def test_what_is_nil_in_go_is_null(go_link: Link) -> None:
    assert await go_link.peer.request("nils") == {"slice": None, "map": None, "bytes": None, "empty": []}


async def test_times_have_a_zone_and_durations_are_nanoseconds(go_link: Link) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    assert await go_link.peer.request("when", at, returns=datetime) == at
    with pytest.raises(RemoteError, match="parsing time"):
        await go_link.peer.request("when", at.replace(tzinfo=None))
    delta = timedelta(seconds=1, microseconds=2)
    with pytest.raises(RemoteError, match=r"cannot unmarshal string into Go value of type time\.Duration"):
        await go_link.peer.request("twice", delta)
    sent = delta // timedelta(microseconds=1) * 1000  # as in go.md
    assert timedelta(microseconds=await go_link.peer.request("twice", sent, returns=int) / 1000) == 2 * delta

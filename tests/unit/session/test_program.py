"""What both sides say of their programs in the greeting."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, Peer, Reconnect, Server
from wsrpc.testing import Line, ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


def served(**options: Any) -> Server:
    server = Server(**options)

    @server.on("who")
    def who(peer: Peer) -> str | None:
        return peer.program

    return server


async def test_both_sides_know_the_program_of_the_other_in_each_session(caplog: pytest.LogCaptureFixture) -> None:
    server = served(program="station/2.3.0")
    line = Line(server)
    client = Client("ws://server/", dial=line.dial, program="device/1.0", reconnect=Reconnect(initial=0.001))
    async with client:
        for ends in (None, lambda: line.cut(), lambda: line.cut(), None):
            if ends is not None:
                ends()
            assert await client.request("who") == "device/1.0"
            assert client.peer.program == "station/2.3.0"
        await server.peers[0].close(1012)  # a new session
        assert await client.request("who") == "device/1.0"
        with caplog.at_level(logging.WARNING):
            await client.emit("unknown")
            await turns_until(lambda: "No event listener" in caplog.text)
        [record] = [record for record in caplog.records if "No event listener" in record.getMessage()]
        assert vars(record)["program"] == "device/1.0"


async def test_a_program_is_not_needed() -> None:
    async with connect(served()) as client, connect(served(), client=Client(extensions=False)) as plain:
        assert await client.request("who") is None and client.peer.program is None
        assert await plain.request("who") is None


async def test_a_program_is_that_of_the_present_session() -> None:
    client = Client()
    for server, known in ((served(program="station/2.3.0"), "station/2.3.0"), (served(extensions=False), None)):
        async with connect(server, client=client):
            await client.request("who")
            assert client.peer.program == known


@pytest.mark.parametrize(("sent", "known"), [("x" * 3000, "x" * 64), ("a\n\x1b[2J", "a\\n\\x1b[2J"), ("", None)])
async def test_what_a_peer_says_is_cut_to_one_short_line(sent: str, known: str | None) -> None:
    server = served()
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    hello = {"t": "hello", "v": 1, "features": [], "limits": {}, "program": sent}
    transport.feed({"ws-wrapper": False, "wsrpc": hello})
    assert transport.pop_sent()
    assert peer.program == known
    await peer.close()


@pytest.mark.parametrize("program", ["", "x" * 65, "a\nb", "é", 5])
@pytest.mark.parametrize("kind", [Server, Client])
def test_programs_that_are_not_valid(kind: Any, program: Any) -> None:
    with pytest.raises(ValueError, match="program= is a text of 1 to 64 printable ASCII characters"):
        kind(program=program)

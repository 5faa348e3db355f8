"""What both sides say of their programs and contracts in the greeting."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from waiting import until

from wsrpc import Client, Peer, Reconnect, Server
from wsrpc.schema import Description, describe
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
            await until(lambda: "No event listener" in caplog.text)
        [record] = [record for record in caplog.records if "No event listener" in record.getMessage()]
        assert vars(record)["program"] == "device/1.0"


async def test_a_program_is_that_of_the_present_session() -> None:
    client = Client()
    for server, known in ((served(program="station/2.3.0"), "station/2.3.0"), (served(extensions=False), None)):
        async with connect(server, client=client):
            assert await client.request("who") is None
            assert client.peer.program == known


GREETINGS = [("x" * 3000, "x" * 64), ("a\n\x1b[2J", "a\\n\\x1b[2J"), ("", None), (5, None), (None, None), ([], None)]


@pytest.mark.parametrize(("sent", "known"), GREETINGS)
@pytest.mark.parametrize("field", ["program", "contract"])
async def test_what_a_peer_says_is_cut_to_one_short_line(field: str, sent: object, known: str | None) -> None:
    server = served()
    transport = ScriptedTransport()
    peer = await server.accept(transport)
    assert isinstance(peer, Peer)
    hello = {"t": "hello", "v": 1, "features": [], "limits": {}, field: sent}
    transport.feed({"ws-wrapper": False, "wsrpc": hello})
    assert bool(transport.pop_sent()) is isinstance(sent, str)  # a value of another type makes it an unknown message
    assert getattr(peer, field) == known
    await peer.close()


@pytest.mark.parametrize("program", ["", "x" * 65, "a\nb", "é", 5])
@pytest.mark.parametrize("kind", [Server, Client])
def test_programs_that_are_not_valid(kind: Any, program: Any) -> None:
    with pytest.raises(ValueError, match="program= is a text of 1 to 64 printable ASCII characters"):
        kind(program=program)


# ---------------------------------------------------------------- the contract


async def test_both_sides_know_the_contract_of_the_other_in_each_session() -> None:
    server = served(program="station/2.3.0")
    line = Line(server)
    client = Client("ws://server/", dial=line.dial, program="device/1.0", reconnect=Reconnect(initial=0.001))
    async with client:
        for ends in (None, lambda: line.cut(), None):
            if ends is not None:
                ends()
            await client.request("who")
            assert server.peers[0].contract is None  # the client handles nothing
            assert client.peer.contract == client.peer.stats().contract == describe(server).fingerprint
        server.on("more", lambda: None)
        client.on("ring", lambda times: None)
        assert client.peer.contract != describe(server).fingerprint  # it is that of the greeting
        await server.peers[0].close(1012)  # a new session
        await client.request("who")
        assert server.peers[0].contract == describe(client).fingerprint
        assert client.peer.contract == describe(server).fingerprint


async def test_the_contract_of_a_server_that_was_deployed_meanwhile() -> None:
    old, new = served(program="station/1.0"), served(program="station/2.0")
    new.on("more", lambda: None)
    lines = [Line(old), Line(new)]
    client = Client(
        "ws://server/",
        dial=lambda *args, **options: lines[0].dial(*args, **options),
        program="device/1.0",
        reconnect=Reconnect(initial=0.001),
    )
    client.on("ring", lambda times: None)
    async with client:
        await client.request("who")
        assert client.peer.contract == describe(old).fingerprint
        lines.pop(0).cut()  # the new server refuses to resume, and takes the request for a hello
        await client.request("who")
        assert new.peers[0].contract == describe(client).fingerprint
        assert client.peer.contract == describe(new).fingerprint
    await old.close()


async def test_without_a_program_nothing_is_said_of_the_contract() -> None:
    async with connect(served(), client=Client(program="device/1.0")) as client:
        await client.request("who")
        assert client.peer.contract is None
    async with connect(served(program="station/1.0", extensions=False)) as client:
        await client.request("who")
        assert client.peer.contract is None


async def test_a_greeting_has_at_most_120_bytes_more() -> None:
    sizes: list[int] = []
    for options in ({}, {"program": "x" * 64}):
        transport = ScriptedTransport()
        peer = await served(**options).accept(transport)
        transport.feed({"ws-wrapper": False, "wsrpc": {"t": "hello", "v": 1, "features": [], "limits": {}}})
        [welcome] = transport.pop_sent()
        sizes.append(len(msgspec.json.encode(welcome)))
        await peer.close()
    assert 0 < sizes[1] - sizes[0] <= 120


class Cup(msgspec.Struct):
    title: str
    tags: frozenset[str] = frozenset({"alpha", "beta", "gamma"})


def seat(names: dict[int, str] = {1: "front"}) -> None: ...  # noqa: B006 - a default with numbers as keys


class One(msgspec.Struct, tag=1):
    pass


class Two(msgspec.Struct, tag=2):
    pass


def contract(change: Callable[[Server], object] = lambda server: None, returns: Any = int) -> Description:
    server = Server()

    def pour(cup: Cup, kind: str = "tea") -> Any: ...

    pour.__annotations__["return"] = returns
    server.on("pour", pour)
    change(server)
    return describe(server)


def replaced(description: Description, old: str, new: str) -> Description:
    text, count = re.subn(old, new, msgspec.json.encode(description).decode())
    assert count
    return msgspec.json.decode(text, type=Description)


SAME = [
    replaced(contract(), '"event":"pour"', '"event":"pour","doc":"Fill it."'),
    replaced(contract(), '"event":"pour"', '"event":"pour","notes":["it has no schema"],"deprecated":"use fill"'),
    replaced(contract(), '"title":"Cup"', '"title":"Mug","description":"Of tea.","examples":[1],"deprecated":true'),
    *(
        replaced(contract(), r'\["[abeglmphat",]+\]', order)
        for order in ('["alpha","beta","gamma"]', '["gamma","beta","alpha"]')
    ),
    contract(returns=Annotated[int, msgspec.Meta(title="ml", description="How much.", examples=[200])]),
    contract(lambda server: server.room("tea", allow=lambda peer: True)),
    contract(lambda server: server.on("secret", lambda x: x, hidden=True)),
    msgspec.json.decode(msgspec.json.encode(contract()), type=Description),
]
OTHER = [
    replaced(contract(), '"title":\\{', '"name":{'),
    replaced(contract(), r'"title":\{"type":"string"', '"title":{"type":"integer"'),  # a field, and no prose
    replaced(contract(), '"gamma"', '"delta"'),
    replaced(contract(), '"default":"tea"', '"default":"coffee"'),
    replaced(contract(), '"event":"pour"', '"event":"fill"'),
    replaced(contract(), '"kind":"value"', '"kind":"stream"'),
    contract(returns=str),
    contract(returns=One | Two),
    contract(lambda server: server.on("seat", seat)),
    contract(returns=Annotated[int, msgspec.Meta(ge=0)]),
    contract(lambda server: server.on("drink", lambda: None)),
    contract(lambda server: server.of("rooms").on("leave_all", lambda: None)),
]


@pytest.mark.parametrize("description", SAME)
def test_prose_does_not_change_the_fingerprint(description: Description) -> None:
    assert description.fingerprint == contract().fingerprint


def test_each_change_on_the_wire_gives_another_fingerprint() -> None:
    found = [contract().fingerprint, *(description.fingerprint for description in OTHER)]
    assert len({*found}) == len(found) and all(re.fullmatch("[0-9a-f]{16}", each) for each in found)
    kept = msgspec.json.decode(msgspec.json.encode([contract(), *OTHER]), type=list[Description])
    assert [description.fingerprint for description in kept] == found

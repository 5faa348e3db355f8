"""What stands in the log: each line is true, says which peer and what was handled, and does not repeat itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from core_driver import Blocked, Driven, messages
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import Limits, Peer, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


@dataclass
class User:
    name: str


@pytest.mark.parametrize(
    ("principal", "shown", "field"),
    [
        ("ada", "'ada'", "ada"),
        (7, "7", 7),
        ("a\nb", r"'a\nb'", r"a\nb"),
        (User("ada"), "User(name='ada')", "User(name='ada')"),
        ("a" * 9999, "'aaaa", "aaaa"),
        (None, "", None),
    ],
)
async def test_lines_of_a_connection_name_its_user(
    principal: object, shown: str, field: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server()

    @server.on("log in")
    def log_in(peer: Peer) -> None:
        peer.principal = "bob"

    async with connect(server, principal=principal) as client:
        [id] = [peer.id for peer in server.peers]
        await client.request("log in")
    began, ended = (record for record in caplog.records if vars(record)["peer"] == id)
    text, found = began.getMessage(), vars(began)["principal"]
    assert f"an unknown address ({shown}" in text if shown else f"{id} connected from an unknown address, path" in text
    assert (found == field or str(found).startswith("aaaa")) and len(text) < 400 and len(str(found)) < 1100
    assert "an unknown address ('bob') disconnected" in ended.getMessage() and vars(ended)["principal"] == "bob"


# ---------------------------------------------------------------- events that reach nobody


class Cup(msgspec.Struct):
    drink: str
    size: Annotated[int, msgspec.Meta(ge=1)]


def pour(cup: Cup) -> None: ...


def add(a: int, b: int) -> int:
    return a + b


async def test_the_first_of_its_kind_is_a_warning_and_further_ones_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On each connection."""
    for _ in range(2):
        d = Driven(limits=Limits(running=1, waiting=1))
        blocked = Blocked()
        d.peer.on("wait", blocked)
        d.feed({"a": ["wait", 1]}, {"a": ["wait", 2]})
        d.feed(*[{"a": ["wait"]}] * 10)
        await settled()
        [text] = messages(caplog)
        assert "an event was dropped" in text and "peer.ignored" in text
        assert d.ignored == {"event dropped, too many wait": 10}
        blocked.go.set()
        await settled()
        d.assert_empty()
        caplog.clear()


MISFITS: list[tuple[dict[str, Any], str, str]] = [
    ({"a": ["mistyped"]}, "mistyped: unknown event", "event 'mistyped' was dropped: No event listener"),
    ({"a": ["say"], "c": "chat"}, "chat:say: unknown event", "event 'chat:say' was dropped: Channel 'chat' does not"),
    ({"i": 1, "a": ["another"]}, "another: unknown event", "request 'another' was refused: No event listener"),
    (
        {"a": ["add", 1, "2"]},
        "add: wrong arguments",
        "event 'add' was dropped: add(): argument 'b' (2nd): expected int",
    ),
    (
        {"i": 1, "a": ["pour", {"drink": "SECRET"}]},
        "pour: wrong arguments",
        "request 'pour' was refused: pour(): argument 'cup' (1st): Object missing required field `size`",
    ),
    (
        {"i": 1, "a": ["fill", {"drink": "SECRET", "size": 0}]},
        "fill: wrong arguments",
        "request 'fill' was refused: fill(): argument 'cup'.size: expected int >= 1",
    ),
    ({"i": 1, "a": ["sub", 1]}, "sub: wrong arguments", "request 'sub' was refused: sub(): missing argument 'b'"),
]


async def test_each_event_that_does_not_fit_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """For each connection."""
    for _ in range(2):
        d = Driven()
        d.peer.on("add", add)
        d.peer.on("sub", add)
        d.peer.on("pour", pour)
        d.peer.on("fill", pour)
        for _ in range(3):
            await d.fed(*(message for message, _, _ in MISFITS))
        texts = messages(caplog)
        assert [text.startswith(said) for text, (_, _, said) in zip(texts, MISFITS, strict=True)] == [True] * 7
        assert all(text.endswith(" (further ones are only counted, in peer.stats().misfits)") for text in texts)
        assert d.peer.stats().misfits == {key: 3 for _, key, _ in MISFITS}
        assert d.ignored == {"unknown event": 6, "wrong arguments": 3}, "the requests were answered"
        caplog.clear()


async def test_no_peer_fills_the_memory_with_names_of_events(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    d.feed(*({"a": [f"{number}" + "x" * 200]} for number in range(100)))
    assert len(messages(caplog)) == 33
    assert len(d.peer.stats().misfits) == 33 and max(map(len, d.peer.stats().misfits)) < 250
    assert d.peer.stats().misfits["other events: unknown event"] == 68

"""The description that a server offers its clients: its pages, who gets it, when it is made, and what it is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import pytest
from core_driver import messages

from wsrpc import BadArguments, Client, Limits, Peer, RemoteError, Router, Server, UnknownEvent
from wsrpc.codecs import JsonCodec
from wsrpc.schema import Description, describe
from wsrpc.testing import connect

PAGE = 24 * 1024


class Cup(msgspec.Struct):
    drink: str
    size: int = 200


class Kitchen(Protocol):
    async def ready(self, cup: Cup, table: int = 0) -> None:
        """A cup can be fetched."""


async def pages_of(client: Client) -> list[list[dict[str, Any]]]:
    channel = client.of("wsrpc")
    page = await channel.request("describe")
    assert list(page) == ["items", "next"]
    pages = [page["items"]]
    while page["next"] is not None:
        page = await channel.request("describe", page["next"])
        pages.append(page["items"])
    return pages


def put_together(pages: list[list[dict[str, Any]]]) -> Description:
    items = [item for page in pages for item in page]
    kinds = [kind for item in items for kind in item]
    assert len(kinds) == len(items)
    assert kinds == sorted(kinds, key=["definition", "event", "emits"].index)
    document = {
        "events": [item["event"] for item in items if "event" in item],
        "emits": [item["emits"] for item in items if "emits" in item],
        "$defs": {each["name"]: each["schema"] for item in items if (each := item.get("definition"))},
    }
    return msgspec.convert(document, Description)


async def fetched(client: Client) -> Description:
    return put_together(await pages_of(client))


async def refused(client: Client, *args: object) -> tuple[str, Any]:
    with pytest.raises(RemoteError) as raised:
        await client.of("wsrpc").request("describe", *args)
    return raised.value.message, raised.value.code


def cafe() -> Server:
    server = Server()
    server.of("clock").on("tick", lambda by=1: by)
    server.declare(Kitchen)
    server.on("debug", lambda: None, hidden=True)

    @server.on("brew")
    def brew(cups: list[Cup], strong: bool = False) -> list[Cup]:
        """Brew some cups."""
        return cups

    return server


async def test_clients_get_what_describe_returns() -> None:
    server = cafe()
    server.on_join(lambda peer, room: True)
    server.offer_description()
    async with connect(server) as client:
        description = await fetched(client)
    assert description == describe(server)
    names = [(event.channel, event.event) for event in description.events]
    assert sorted(names, key=str) == [("clock", "tick"), ("rooms", "join"), ("rooms", "leave"), (None, "brew")]
    assert [event.event for event in description.emits] == ["ready"]


async def test_a_server_without_handlers_has_one_empty_page_and_one_that_offers_none_has_no_page() -> None:
    server = Server()
    async with connect(server) as client:
        with pytest.raises(UnknownEvent, match="Channel 'wsrpc' does not exist"):
            await client.of("wsrpc").request("describe")
        server.offer_description()
        assert await pages_of(client) == [[]]
    with pytest.raises(ValueError, match="offers its description already"):
        server.offer_description(allow=lambda peer: True)


async def test_what_is_registered_later_appears_and_what_is_removed_goes() -> None:
    server = cafe()
    server.offer_description()
    async with connect(server) as client:
        for change in (
            lambda: server.on("later", len),
            lambda: server.on("later", None),
            lambda: server.of("bar").declare(Kitchen),
            lambda: server.of("bar").on("pour", lambda: None),
            lambda: server.of("bar").close(),
        ):
            before = await fetched(client)
            change()
            now = await fetched(client)
            assert now == describe(server) != before


# ---------------------------------------------------------------- pages


def crowded(number: int = 300) -> Server:
    """A server whose description takes several pages."""
    server = Server()
    server.declare(Kitchen)
    for each in range(number):

        def handler(cup: Cup, text: str = "x" * each) -> Cup:
            """Does something with a cup, and has a docstring of some length that makes its description longer."""
            return cup

        server.on(f"event-{each:04}", handler)
    server.offer_description()
    return server


async def test_pages_are_bounded_and_make_up_the_whole() -> None:
    server = crowded()
    async with connect(server) as client:
        pages = await pages_of(client)
    assert len(pages) > 4
    sizes = [len(msgspec.json.encode(page)) for page in pages]
    assert PAGE - 1024 < max(sizes) <= PAGE + 2  # the brackets
    assert min(sizes[:-1]) > PAGE - 1024
    assert put_together(pages) == describe(server)


async def test_pages_fit_into_what_the_client_accepts() -> None:
    server = Server()
    for number in range(20):
        server.on(f"event-{number}", lambda value=[[]] * 300: value)
    server.offer_description()
    async with connect(server, client=Client(limits=Limits(message_bytes=8192, values=4096))) as client:
        assert await fetched(client) == describe(server)


# ---------------------------------------------------------------- cursors


CHANGED = ("the description has changed since: ask from the beginning, without a cursor", "wsrpc.description_changed")


async def test_pages_of_two_descriptions_are_never_mixed() -> None:
    """A cursor is good at another server with the same description. Nothing else is one."""
    server = crowded()
    async with connect(server) as client, connect(crowded()) as other, connect(crowded(299)) as differing:
        first = await client.of("wsrpc").request("describe")
        second = await client.of("wsrpc").request("describe", first["next"])
        assert await other.of("wsrpc").request("describe", first["next"]) == second
        assert await refused(differing, first["next"]) == CHANGED
        revision = first["next"].partition(".")[0]
        for wrong in ("", revision, *(revision + end for end in (".", ".-1", ".99999"))):
            assert await refused(client, wrong) == CHANGED
        with pytest.raises(BadArguments):
            await client.of("wsrpc").request("describe", 1)
        server.on("another", lambda: None)
        assert await refused(client, second["next"]) == CHANGED
        assert await fetched(client) == describe(server)
        server.on("another", None)
        assert await client.of("wsrpc").request("describe", first["next"]) == second


# ---------------------------------------------------------------- when it is made


async def test_it_is_made_once_and_again_only_after_a_change() -> None:
    """Calls of the hook count how often it is made: only that can encode the default value."""
    made: list[Any] = []

    def hook(value: object) -> str:
        made.append(value)
        return "1 EUR"

    server = Server(codec=JsonCodec(enc_hook=hook))
    server.on("price", lambda at=open: None)

    def again() -> None:
        server.once("again", again)

    again()
    server.offer_description()
    async with connect(server) as client, connect(server) as other:
        for each in (client, other, client):
            await client.request("again")  # no message of a client has it made anew
            assert [event.event for event in (await fetched(each)).events] == ["price"]
        assert len(made) == 1
        server.on("more", lambda: None)
        assert [len((await fetched(client)).events) for _ in range(2)] == [2, 2]
        server.on("secret", lambda: None, hidden=True)
        await fetched(client)
        assert len(made) == 2


# ---------------------------------------------------------------- who gets it


async def test_who_is_allowed_gets_it(caplog: pytest.LogCaptureFixture) -> None:
    async def allow(peer: Peer) -> bool:
        answer: str = await peer.request("may I?")
        if answer == "fail":
            raise PermissionError("the password is secret")
        return answer == "yes"

    server, answers = cafe(), ["yes", "no", "no", "fail"]
    server.offer_description(allow=allow)
    async with connect(server) as client:
        client.on("may I?", lambda: answers.pop(0))
        assert await fetched(client) == describe(server)
        for args in ((), ("any cursor",)):
            assert await refused(client, *args) == ("not allowed", None)
        assert messages(caplog) == []
        assert await refused(client) == ("not allowed", None)
    assert (
        messages(caplog, logging.WARNING) == ["refused to give the peer the description, because allow= failed"]
        and caplog.records[0].exc_info
    )


# ---------------------------------------------------------------- its channel


OFFERS: list[tuple[str, str, Callable[[Server], object]]] = [
    ("wsrpc", "describe", Server.offer_description),
    ("rooms", "leave", lambda server: server.on_join(lambda peer, room: True)),
]


@pytest.mark.parametrize(("channel", "event", "offer"), OFFERS)
async def test_the_channel_is_reserved(channel: str, event: str, offer: Callable[[Server], object]) -> None:
    """Also that on which clients join rooms."""
    server, router = cafe(), Router()
    router.on("list", list)
    server.of(channel).on("mine", lambda: 1)  # nothing speaks against it
    with pytest.raises(ValueError, match=rf"on channel '{channel}', where you have handlers of \['mine'\]"):
        offer(server)
    server.of(channel).close()
    offer(server)
    async with connect(server) as client:
        [peer] = server.peers
        for call in (
            lambda: server.of(channel).on(event, lambda: None),
            lambda: server.include(router, channel=channel),
            lambda: peer.of(channel).on(event, lambda: None),
        ):
            with pytest.raises(ValueError, match=f"channel '{channel}' is used by wsrpc itself"):
                call()
        client.of(channel).on(event, lambda: "mine")  # the client's side is free
        assert await peer.of(channel).request(event) == "mine"

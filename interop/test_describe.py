"""JavaScript and Go ask a Python server for its description, as it is on the wire."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import pytest

from interop import golang
from interop.peers import COMBINATIONS, COMBINATIONS_4, Agents, Link
from wsrpc import Server
from wsrpc.schema import Description, describe

pytestmark = pytest.mark.asyncio(loop_scope="session")

JAVASCRIPT = list(dict.fromkeys(name for name, role in (*COMBINATIONS, *COMBINATIONS_4) if role == "python-serves"))
GO = golang.available_libraries()


class News(Protocol):
    async def said(self, who: str, text: str = "") -> None: ...


def fill(server: Server) -> None:
    """Register so much that the description has several pages."""
    server.declare(News)
    for number in range(100):

        def handler(text: str = "x" * 1000) -> list[str]:
            return [text]

        server.of("many").on(f"handler-{number}", handler)


async def fetched(link: Link) -> Any:
    """The description as the other side gets it, put together as docs/reference/protocol.md says."""
    document: dict[str, Any] = {"events": [], "emits": [], "$defs": {}}
    after: list[str] = []
    pages = 0
    while True:
        page = await link.ask("describe", *after, channel="wsrpc")
        pages += 1
        for item in page["items"]:
            [(kind, value)] = item.items()
            if kind == "definition":
                document["$defs"][value["name"]] = value["schema"]
            else:
                document["events" if kind == "event" else "emits"].append(value)
        if page["next"] is None:
            assert pages > 4
            return document
        after = [page["next"]]


@pytest.mark.parametrize("library", [*JAVASCRIPT, *GO])
async def test_the_other_side_gets_what_describe_returns(agents: Agents, library: str) -> None:
    # Go reads 32 KiB in a message of itself, and pages are smaller, so that Python need not know that it is Go.
    for options in ({}, {"profile": "go"}) if library in GO else ({},):
        async with agents.link(library, "python-serves", read_limit=0, **options) as link:
            assert isinstance(link.app, Server)
            fill(link.app)
            link.app.offer_description()
            assert msgspec.convert(await fetched(link), Description) == describe(link.app)

"""`docs()`: who gets what over HTTP. tests/browser/test_docs_page.py has the page."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from docs_server import make_server, serving_docs
from openapi_spec_validator import validate
from programs import start

from interop.node import JS, find_node
from wsrpc import Server
from wsrpc_adapters.aiohttp import docs as aiohttp_docs
from wsrpc_adapters.asgi import docs

HOSTS = ("aiohttp", "uvicorn-wsrpc", "hypercorn")
ADA, BOB = {"Cookie": "user=ada"}, {"Authorization": "Bearer bob"}
DOCUMENTS = ("asyncapi.json", "openapi.json")


@pytest.mark.parametrize("host", HOSTS)
async def test_who_may_not_have_the_description_gets_only_the_empty_page(host: str) -> None:
    server = make_server()
    async with serving_docs(host, server) as url, httpx.AsyncClient() as http:
        page = await http.get(f"{url}/docs", follow_redirects=True)
        assert (page.status_code, page.url.path) == (200, "/docs/") and "The &lt;shop&gt;" in page.text
        policy = page.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} <= {*policy}
        assert (page.headers["x-frame-options"], page.headers["x-content-type-options"]) == ("DENY", "nosniff")
        files = [
            page,
            *[await http.get(f"{url}/docs/{name}") for name in ("docs.js", "docs.css", "client.js", "http.js")],
        ]
        assert [each.status_code for each in files] == [200] * 5
        for name in (*DOCUMENTS, "login.json"):
            refused = await http.get(f"{url}/docs/{name}")
            assert (refused.status_code, refused.json()["error"]["message"]) == (401, "who are you?")
        for name in DOCUMENTS:
            refused = await http.get(f"{url}/docs/{name}", headers=BOB)
            assert (refused.status_code, refused.json()["error"]["message"]) == (403, "not allowed")
            foreign = await http.get(f"{url}/docs/{name}", headers={**ADA, "Origin": "https://evil.example"})
            assert foreign.status_code == 403
        assert (await http.get(f"{url}/docs/login.json", headers=BOB)).json() == {"principal": "bob"}
        assert (await http.get(f"{url}/docs/other.js", headers=ADA)).status_code == 404
        assert (await http.post(f"{url}/docs/asyncapi.json", headers=ADA)).status_code == 405


@pytest.mark.parametrize("host", HOSTS)
async def test_the_documents_are_valid_and_those_of_the_present_handlers(host: str, tmp_path: Path) -> None:
    server = make_server()
    async with serving_docs(host, server) as url, httpx.AsyncClient(headers=ADA) as http:
        for added in (None, "later"):
            if added is not None:
                server.on(added, lambda: None)
            texts = {name: (await http.get(f"{url}/docs/{name}")).text for name in DOCUMENTS}
            found = {name: json.loads(text) for name, text in texts.items()}
            assert [each["info"]["title"] for each in found.values()] == ["The <shop>"] * 2
            assert ("receive.later" in found["asyncapi.json"]["operations"]) == (added is not None)
    assert found["openapi.json"]["paths"].keys() == {"/call/add", "/call/say", "/runs/story/{key}", "/rooms/{room}"}
    validate(found["openapi.json"])
    (tmp_path / "asyncapi.json").write_text(texts["asyncapi.json"], "utf-8")
    process = await start(find_node(), str(JS / "asyncapi.mjs"), str(tmp_path / "asyncapi.json"))
    said, _ = await process.communicate()
    assert {each[0] for each in json.loads(said)[str(tmp_path / "asyncapi.json")]} <= {"asyncapi-latest-version"}


def test_the_description_is_offered_once() -> None:
    server = Server()
    server.offer_description(allow=lambda peer: False)
    docs(server)
    aiohttp_docs(server)
    with pytest.raises(ValueError, match="offers its description already"):
        docs(server, allow=lambda peer: True)
    with pytest.raises(TypeError, match="allow="):
        docs(Server(), allow=5)  # type: ignore[arg-type]


async def test_without_routes_there_is_no_openapi_document() -> None:
    transport = httpx.ASGITransport(docs(Server(), websocket="wss://other.example/ws"))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        page = await http.get("/")
        assert '<a href="openapi.json" hidden>' in page.text and 'data-websocket="wss://other.example/ws"' in page.text
        assert page.headers["content-security-policy"].endswith(
            "connect-src 'self' wss://other.example https://other.example"
        )
        assert (await http.get("/openapi.json")).status_code == 404
        assert (await http.get("/asyncapi.json")).json()["info"]["title"] == "API"

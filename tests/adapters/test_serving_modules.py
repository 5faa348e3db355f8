"""The line with which each kind of application serves the client for pages, as docs/how-to/browser.md shows it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager as Context
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from asgi_servers import uvicorn_serving
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from hosts import running

import wsrpc

MODULES = Path(wsrpc.__file__).with_name("browser")


def aiohttp_app() -> Context[Any]:
    app = web.Application()
    app.router.add_static("/wsrpc", Path(wsrpc.__file__).with_name("browser"))
    return running(app)


def fastapi_app() -> Context[Any]:
    app = FastAPI()
    app.mount("/wsrpc", StaticFiles(packages=[("wsrpc", "browser")]))
    return uvicorn_serving(app)


@pytest.mark.parametrize("serving", [aiohttp_app, fastapi_app])
async def test_pages_get_the_modules_of_the_installed_package(serving: Callable[[], Context[Any]]) -> None:
    assert {file.name for file in MODULES.glob("*.js")} == {"client.js", "msgpack.js"}
    async with serving() as where, ClientSession() as session:
        port = where if isinstance(where, int) else where.split(":")[2].split("/")[0]
        for module in MODULES.glob("*.js"):
            async with session.get(f"http://127.0.0.1:{port}/wsrpc/{module.name}") as response:
                assert (response.status, await response.read()) == (200, module.read_bytes())
                # A browser runs no module of another type.
                assert response.content_type in ("text/javascript", "application/javascript")

"""Clients and pages behind real proxies that WebSocket does not pass: `make test-nginx`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser.main_path import play_in_chromium, play_in_firefox
from browser.page_site import calling_server
from cluster_workers import environment, running
from hosts import CA, HTTP_HOSTS
from nginx.blocking_proxies import NGINX, Front, tinyproxy
from playwright.async_api import Browser
from programs import ROOT
from proxies import Proxy, http
from served import AT_ONCE

from wsrpc import Client, Limits
from wsrpc.testing import FaultProxy

IN_PROCESS = {host.name: host for host in HTTP_HOSTS}
SERVED = "from browser.page_site import calling_server\n\napp = calling_server()\n"
IN_PAGES = ("proxy_pass alone", "holds responses back")
PATIENT = Limits(open_timeout=60.0)
in_browsers = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def serving(host: str, folder: Path) -> AsyncGenerator[str]:
    if host in IN_PROCESS:
        async with IN_PROCESS[host].serving(calling_server()) as url:
            yield url
        return
    (folder / "app.py").write_text(SERVED, "utf-8")
    env = environment("")
    env["PYTHONPATH"] += "".join(f":{ROOT}/tests{part}" for part in ("", "/unit", "/adapters"))
    async with running(folder, "app:app", "--port", "0", env=env, command=("wsrpc", "serve")) as worker:
        yield f"ws://127.0.0.1:{await worker.port()}/ws"


async def main_path(client: Client, drop: Callable[[], object]) -> None:
    """Call in both directions, and with bodies of all sizes. A page makes the other kinds of calls.

    The network drops in a stream, which goes on.
    """
    async with client:
        assert await client.request("add", 1, 2) == 3
        assert await client.request("total", 500, send=range(1000)) == 500_000
        assert await client.request("size", send=[bytes(65_536)] * 80) == 5 * 1024 * 1024
        async with await client.open_channel("shout") as channel:
            lines = channel.events("line", returns=str)
            await channel.emit("line", "hello")
            assert await anext(lines) == "HELLO"
        seen: list[int] = []
        async for number in client.stream("count", 3000, returns=int):
            seen.append(number)
            if number == 1500:
                drop()
        assert seen == [*range(3000)]
        assert await client.request("add", 5, 6) == 11 and client.transport == "http"


@pytest.mark.parametrize(("host", "name"), [*product(IN_PROCESS, NGINX), *(("wsrpc serve", name) for name in IN_PAGES)])
async def test_a_client_gets_through_and_remembers_how(host: str, name: str, tmp_path: Path) -> None:
    nginx = NGINX[name]
    front = Front(tmp_path, nginx)
    context = ssl.create_default_context(cafile=CA) if nginx.tls else None
    async with serving(host, tmp_path) as url, FaultProxy(url) as network:
        with front(network.port) as site:
            client = Client(f"{site.replace('http', 'ws', 1)}ws", ssl=context, reconnect=AT_ONCE, limits=PATIENT)
            await main_path(client, network.drop)
    check_openings(front, nginx.passes)


def check_openings(front: Front, passes: str) -> None:
    """What works is found once, and is opened at once after that."""
    first, *others = front.openings()
    polls = passes == "responses that end"
    assert first == "websocket" and {*others} == ({"stream", "poll"} if polls else {"stream"})
    assert not polls or others.count("stream") == 1


@in_browsers
@pytest.mark.parametrize(
    ("name", "codec"),
    [("proxy_pass alone", "json"), ("holds responses back", "msgpack"), ("HTTP/2 and TLS", "msgpack")],
)
async def test_a_page_in_chromium_gets_through(browser: Browser, name: str, codec: str, tmp_path: Path) -> None:
    front = Front(tmp_path, NGINX[name])
    await play_in_chromium(browser, codec, NGINX[name].passes, front, ignore_https_errors=True)
    check_openings(front, NGINX[name].passes)


@in_browsers
@pytest.mark.parametrize(("name", "codec"), [("proxy_pass alone", "msgpack"), ("holds responses back", "json")])
async def test_a_page_in_firefox_gets_through(name: str, codec: str, tmp_path: Path) -> None:
    front = Front(tmp_path, NGINX[name])
    await play_in_firefox(tmp_path, codec, NGINX[name].passes, front)
    check_openings(front, NGINX[name].passes)


@pytest.mark.parametrize("change", ["reload", "restart"])
async def test_a_stream_goes_on_while_nginx_changes(change: str, tmp_path: Path) -> None:
    front = Front(tmp_path, NGINX["proxy_pass alone"])
    server = calling_server()
    async with HTTP_HOSTS[0].serving(server) as url:
        with front(urlsplit(url).port or 0) as site:
            resumed: asyncio.Queue[bool] = asyncio.Queue()
            async with Client(f"{site.replace('http', 'ws', 1)}ws", reconnect=AT_ONCE) as client:
                client.on_reconnect(lambda info: resumed.put_nowait(info.resumed))
                expected = 0
                async for number in client.stream("ticks"):
                    assert number == expected
                    expected += 1
                    if number == 100:
                        getattr(front, change)()
                    if not resumed.empty():
                        break
                assert resumed.get_nowait() is True and client.transport == "http"


# ---------------------------------------------------------------- a proxy for all that a machine sends


@pytest.mark.parametrize("named_by", ["proxy=", "the environment", "the environment, and another one for CONNECT"])
async def test_a_client_gets_through_a_proxy_that_refuses_connect(
    named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the proxies of the environment, the HTTP requests went to the proxy for WebSockets."""
    for variable in ("http_proxy", "https_proxy", "no_proxy", "ws_proxy", "all_proxy"):
        for name in (variable, variable.upper()):
            monkeypatch.delenv(name, raising=False)
    refusing = Proxy(http(answer=b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"))
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(refusing.running())
        url = await stack.enter_async_context(HTTP_HOSTS[0].serving(calling_server()))
        network = await stack.enter_async_context(FaultProxy(url))
        own = stack.enter_context(tinyproxy(tmp_path, "BasicAuth me s3cret"))
        proxy = f"http://me:s3cret@127.0.0.1:{own}"
        if named_by != "proxy=":
            monkeypatch.setenv("http_proxy", proxy)
        if named_by.endswith("CONNECT"):
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{other.port}")
        client = Client(network.url, proxy=proxy if named_by == "proxy=" else True, reconnect=AT_ONCE)
        await main_path(client, network.drop)


@in_browsers
async def test_a_page_gets_through_a_proxy_that_refuses_connect(browser: Browser, tmp_path: Path) -> None:
    with tinyproxy(tmp_path) as port:

        def direct(site: int) -> AbstractContextManager[str]:
            return nullcontext(f"http://127.0.0.1:{site}/")

        await play_in_chromium(browser, "msgpack", "http", direct, proxy={"server": f"http://127.0.0.1:{port}"})
    assert "Refused CONNECT" in (tmp_path / "tinyproxy.log").read_text("utf-8")

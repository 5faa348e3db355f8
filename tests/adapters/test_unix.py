"""`dial(url, unix=path)`, also of a client: a Unix socket instead of a host."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from served import LIMITS, echo_server, tls

from wsrpc import Client, ConnectFailed, dial, is_transient

URL = "ws://example.com/path?a=b"


async def test_calls_over_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is not asked."""
    for name in ("ws_proxy", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    server = echo_server()
    path = tmp_path / "socket"
    async with server.listen(unix=str(path)):
        options: dict[str, Any] = {"auth": "token", "limits": LIMITS}
        async with Client(lambda: URL, dial=partial(dial, unix=path), **options) as client:
            assert await client.request("echo", "ü" * 300_000) == "ü" * 300_000
            info = server.peers[0].info
            assert (info.path, dict(info.query), info.remote) == ("/path", {"a": "b"}, None)
            assert (info.headers["host"], info.headers["authorization"]) == ("example.com", "Bearer token")
            assert (client.peer.info.path, client.peer.info.remote) == ("/path", None)
        (await dial(URL, unix=str(path), limits=LIMITS)).abort()


async def test_where_nobody_listens_another_attempt_may_go_better(tmp_path: Path) -> None:
    client = Client(URL, dial=partial(dial, unix=tmp_path / "socket"), reconnect=None, limits=LIMITS)
    with pytest.raises(ConnectFailed) as caught:
        await client.connect()
    error = caught.value.last_error
    assert isinstance(error, FileNotFoundError) and is_transient(error)
    assert error.filename == str(tmp_path / "socket")


async def test_tls_is_for_the_host_of_the_url(tmp_path: Path) -> None:
    context, trusting = tls()
    path = str(tmp_path / "socket")
    over_socket = partial(dial, unix=path)
    async with echo_server().listen(unix=path, ssl=context):
        async with Client("wss://localhost/", dial=over_socket, ssl=trusting, limits=LIMITS) as client:
            assert await client.request("echo", "x" * 300_000) == "x" * 300_000
        with pytest.raises(ssl.SSLCertVerificationError, match=r"example\.com"):
            await Client("wss://example.com/", dial=over_socket, ssl=trusting, limits=LIMITS).connect()
        with pytest.raises(ssl.SSLError):
            await over_socket("wss://localhost/", limits=LIMITS)


@pytest.mark.parametrize(
    ("dial", "options", "text"),
    [
        (dial, {"proxy": "http://127.0.0.1:1"}, "unix= or proxy=, not both"),
        (dial, {"unix": b"socket"}, "got bytes"),
        (dial, {"unix": ""}, "an empty one"),
    ],
)
async def test_what_cannot_be_dialed_is_refused(dial: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        await dial(**{"url": URL, "unix": "socket", "limits": LIMITS, **options})

"""Which pages may connect."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import ANY_ORIGIN, Client, Handshake, HandshakeRejected, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


async def passes(origin: str | None, host: str, *, secure: bool = False, **options: Any) -> bool:
    """Whether a server lets a page of ``origin`` connect to ``host``."""
    headers = {"Host": host} if origin is None else {"Host": host, "Origin": origin}
    try:
        await Server(**options).handshake(Handshake("/", headers, secure=secure, remote=("1.2.3.4", 5)))
    except HandshakeRejected as exc:
        return exc.status != 403
    return True


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://example.com", "example.com"),
        ("https://example.com", "EXAMPLE.com"),
        ("http://127.0.0.1", "127.0.0.1:80"),
        ("https://example.com:443", "example.com"),
        ("http://192.168.1.7:8080", "192.168.1.7:8080"),
        ("http://[::1]", "[::1]:80"),
        ("http://[2001:db8::7]:8000", "[2001:DB8::7]:8000"),
        ("http://localhost:8000", "localhost:8000"),
        ("http://LocalHost:8000", "localhost:8000"),
        ("http://app.localhost:8000", "app.localhost:8000"),
    ],
)
async def test_the_own_host(origin: str, host: str) -> None:
    assert await passes(origin, host)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("notlocalhost", False),
        ("127.0.0.1.evil.example", False),
        ("127.1.evil", False),
        ("printer", False),
        ("127.0.0.1", True),
        ("[::1]:8000", True),
        ("localhost", True),
        ("LOCALHOST.:8000", True),
        ("app.localhost", True),
    ],
)
async def test_a_name_that_resolves_to_the_server_is_not_the_servers_own_host(host: str, allowed: bool) -> None:
    """The owner of a name could let it resolve to the server of a visitor, and its pages passed (DNS rebinding)."""
    assert await passes(f"http://{host}", host) is allowed
    assert await passes(f"http://{host}", host, origins=["https://app.example"]) is allowed
    # A browser that has checked the certificate of this name is not misled, and no page says where it comes from
    # but the one itself. Programs say what they like.
    assert await passes(f"https://{host}", host, secure=True)
    assert await passes(f"http://{host}", host, origins=[f"http://{host}"])
    assert await passes(None, host)


async def test_the_host_that_a_trusted_proxy_reports_is_checked_as_well(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Host": "127.0.0.1", "X-Forwarded-Host": "evil.example", "Origin": "http://evil.example"}
    server = Server(trusted_proxies=["1.2.3.4"])
    with pytest.raises(HandshakeRejected, match="403"):
        await server.handshake(Handshake("/", headers, remote=("1.2.3.4", 5)))
    assert "to allow it: Server(origins=['http://evil.example'])" in caplog.text
    await Server(trusted_proxies=["1.2.3.4"], origins=["http://evil.example"]).handshake(
        Handshake("/", headers, remote=("1.2.3.4", 5))
    )


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://example.com", "example.com:8080"),
        ("https://sub.example.com", "example.com"),
        ("https://example.com.evil.example", "example.com"),
        ("null", "null"),
        ("example.com", "example.com"),
        ("chrome-extension://example.com", "example.com"),
        ("https://example.com/", "example.com"),
        ("https://user@example.com", "user@example.com"),
        ("https://a.example, https://example.com", "example.com"),
        ("http://example.com:8o", "example.com:8o"),
        ("http://[::1", "[::1"),
    ],
)
async def test_everybody_else(origin: str, host: str) -> None:
    assert not await passes(origin, host)


async def test_a_page_without_tls_may_not_use_a_connection_with_it() -> None:
    assert await passes("https://example.com", "example.com", secure=True)
    for host in ("example.com", "example.com:443", "127.0.0.1"):
        assert not await passes(f"http://{host}", host, secure=True)
    assert await passes("http://example.com", "example.com", secure=True, origins=["http://example.com"])


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        ("https://app.example", "https://app.example"),
        ("https://App.example:443", "https://app.example"),
        ("null", "null"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
async def test_those_that_are_listed(listed: str, origin: str) -> None:
    assert await passes(origin, "example.com", origins=[listed])
    assert not await passes(origin, "example.com", origins=["https://other.example"])
    assert await passes("https://example.com", "example.com", origins=[listed])  # the own host, besides


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        ("https://evil.example", "to allow it: Server(origins=['https://evil.example'])"),
        ("http://[", "it is malformed"),
        ("null", "a page of any site can send it, from a sandboxed frame, and so do pages from local files"),
    ],
)
async def test_the_log_has_the_line_to_paste_unless_it_would_allow_every_site(
    origin: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not await passes(origin, "example.com")
    [record] = caplog.records
    assert (record.name, record.levelno, vars(record)["origin"]) == ("wsrpc", logging.WARNING, origin)
    assert vars(record)["remote"] == "1.2.3.4:5"
    assert record.getMessage() == f"refused the origin {origin!r}; {hint}"


@pytest.mark.parametrize(
    "wrong", ["example.com", "https://example.com/", "*", "http://[", "https://*.example.com", "ws://example.com"]
)
def test_what_no_browser_sends_is_refused_at_once(wrong: str) -> None:
    with pytest.raises(ValueError, match="an origin must look as browsers send it") as caught:
        Server(origins=[wrong])
    assert ("ANY_ORIGIN" in str(caught.value)) is (wrong == "*")


# ---------------------------------------------------------------- a function


async def test_a_function_decides_instead() -> None:
    def ours(handshake: Handshake) -> bool:
        assert handshake.origin is not None
        return handshake.origin.endswith(".example") and handshake.path == "/"

    assert await passes("https://a.example", "other", origins=ours)
    assert not await passes("https://other", "other", origins=ours)  # the own host, too, only if it says so


# ---------------------------------------------------------------- all of them


async def test_any_origin_warns_once_when_listening_begins(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(origins=ANY_ORIGIN)
    async with server.listen() as listener, server.listen():
        assert caplog.text.count("ANY_ORIGIN") == 1
        for origin in ("https://evil.example", "garbage"):
            async with Client(listener.url, headers={"Origin": origin}, proxy=None):
                assert server.peers[0].info.origin == origin
    assert caplog.text.count("ANY_ORIGIN") == 1
    server = Server(origins=ANY_ORIGIN)  # nobody listens: at the first handshake
    for _ in range(2):
        async with connect(server, headers={"Origin": "https://evil.example"}):
            assert caplog.text.count("ANY_ORIGIN") == 2

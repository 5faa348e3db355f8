"""Which pages may connect, also behind proxies."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest

from wsrpc import ANY_ORIGIN, Handshake, HandshakeRejected, Server


async def passes(
    origin: str | None, host: str, *, secure: bool = False, by_get: bool = False, proto: str = "", **options: Any
) -> bool:
    """Whether a server lets a page of ``origin`` connect to ``host``."""
    headers = {"Host": host} if origin is None else {"Host": host, "Origin": origin}
    if proto:
        headers["X-Forwarded-Proto"] = proto
    asked = Handshake("/", headers, secure=secure, remote=("1.2.3.4", 5))
    asked.names_origin = not by_get
    try:
        await Server(**options).handshake(asked)
    except HandshakeRejected as exc:
        return exc.status != 403
    return True


OWN = (
    "https://example.com example.com | https://example.com EXAMPLE.com | http://127.0.0.1 127.0.0.1:80"
    " | https://example.com:443 example.com | http://192.168.1.7:8080 192.168.1.7:8080 | http://[::1] [::1]:80"
    " | http://[2001:db8::7]:8000 [2001:DB8::7]:8000 | http://localhost:8000 localhost:8000"
    " | http://LocalHost:8000 localhost:8000 | http://app.localhost:8000 app.localhost:8000"
)
OTHER = (
    "http://example.com example.com:8080 | https://sub.example.com example.com | null null | example.com example.com"
    " | https://example.com.evil.example example.com | chrome-extension://example.com example.com"
    " | https://example.com/ example.com | https://user@example.com user@example.com"
    " | https://a.example,https://example.com example.com | http://example.com:8o example.com:8o | http://[::1 [::1"
)
"""Origins, each with the host that was asked for."""


@pytest.mark.parametrize("page", OWN.split(" | "))
async def test_the_own_host(page: str) -> None:
    assert await passes(*page.split())


@pytest.mark.parametrize("page", OTHER.split(" | "))
async def test_everybody_else(page: str) -> None:
    assert not await passes(*page.split())


MAY_BE_EVIL = (
    "evil.example evil.example:8000 localhost.evil.example notlocalhost 127.0.0.1.evil.example 127.1.evil printer"
)
OURS = "127.0.0.1 [::1]:8000 localhost LOCALHOST.:8000 app.localhost"


@pytest.mark.parametrize("host", [*MAY_BE_EVIL.split(), *OURS.split()])
async def test_a_name_that_resolves_to_the_server_is_not_the_servers_own_host(host: str) -> None:
    """The owner of a name could let it resolve to the server of a visitor, and its pages passed (DNS rebinding)."""
    for origins in ([], ["https://app.example"]):
        assert await passes(f"http://{host}", host, origins=origins) is (host in OURS.split())
        assert await passes(None, host, by_get=True, origins=origins) is (host in OURS.split())
    # A browser that has checked the certificate of this name is not misled, and no page says where it comes from
    # but the one itself. Programs say what they like.
    assert await passes(f"https://{host}", host, secure=True)
    assert await passes(None, host, by_get=True, secure=True)
    for listed in (f"http://{host}", f"https://{host}"):  # TLS may end at a proxy
        assert await passes(listed, host, origins=[listed])
        assert await passes(None, host, by_get=True, origins=[listed])
    assert await passes(None, host)


@pytest.mark.parametrize(
    ("options", "passing"), [({}, False), ({"trusted_proxies": ["1.2.3.4"]}, True), ({"origins": ANY_ORIGIN}, True)]
)
async def test_a_page_cannot_say_that_it_was_loaded_with_tls(options: dict[str, Any], passing: bool) -> None:
    """uvicorn believes the header of a browser on its machine."""
    get = partial(passes, None, "evil.example", by_get=True, secure=True, proto="https")
    assert await get(**options) is passing


async def test_the_host_that_a_trusted_proxy_reports_is_checked_as_well(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Host": "127.0.0.1", "X-Forwarded-Host": "evil.example", "Origin": "http://evil.example"}
    handshake, trusts = Handshake("/", headers, remote=("1.2.3.4", 5)), ["1.2.3.4"]
    with pytest.raises(HandshakeRejected, match="403"):
        await Server(trusted_proxies=trusts).handshake(handshake)
    assert "to allow it: Server(origins=['http://evil.example'])" in caplog.text
    handshake = Handshake("/", headers, remote=("1.2.3.4", 5))
    await Server(trusted_proxies=trusts, origins=["http://evil.example"]).handshake(handshake)


async def test_a_page_without_tls_may_not_use_a_connection_with_it() -> None:
    assert await passes("https://example.com", "example.com", secure=True)
    for host in ("example.com", "example.com:443", "127.0.0.1"):
        assert not await passes(f"http://{host}", host, secure=True)
    assert await passes("http://example.com", "example.com", secure=True, origins=["http://example.com"])


LISTED = [("https://app.example", "https://app.example"), ("https://App.example:443", "https://app.example")]
ODD = [("null", "null"), ("chrome-extension://abcdef", "chrome-extension://abcdef")]


@pytest.mark.parametrize(("listed", "origin"), LISTED + ODD)
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
    assert await passes(None, "a.example", by_get=True, origins=ours)  # a browser leaves this origin out
    assert not await passes(None, "other", by_get=True, origins=ours)
    assert await passes(None, "127.0.0.1", by_get=True, origins=ours)  # it may be a program, and is no page of others


# ---------------------------------------------------------------- behind proxies: whose headers count, and for what


PROXY = ("10.0.0.1", 4000)


async def seen(
    *trusted: str, remote: tuple[str, int] | None = PROXY, host: str = "inside:8080", **headers: str
) -> Handshake:
    """What a server makes of a request; ``for_``, ``proto`` and ``host_`` are the forwarded headers."""
    names = {"for_": "X-Forwarded-For", "proto": "X-Forwarded-Proto", "host_": "X-Forwarded-Host"}
    given = {names.get(name, name): value for name, value in headers.items()}
    handshake = Handshake("/", {"Host": host, **given}, remote=remote)
    await Server(trusted_proxies=trusted).handshake(handshake)
    return handshake


BELIEVED = (("1.2.3.4", 0), True, "example.com")
NOT_BELIEVED = (PROXY, False, "inside:8080")


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [((), NOT_BELIEVED), (("10.0.0.1",), BELIEVED), (("10.0.0.2", "192.168.0.0/16", "unix"), NOT_BELIEVED)],
)
async def test_only_a_trusted_proxy_is_believed(trusted: tuple[str, ...], expected: tuple[object, ...]) -> None:
    handshake = await seen(*trusted, for_="1.2.3.4", proto="https", host_="example.com")
    assert (handshake.remote, handshake.secure, handshake.host) == expected
    assert handshake.headers["x-forwarded-for"] == "1.2.3.4"  # to whom it is not, it is only a header


@pytest.mark.parametrize("remote", ["fe80::1%eth0", "testclient", ""])
async def test_whatever_a_library_calls_an_address_crashes_nothing(remote: str) -> None:
    assert (await seen("10.0.0.1", "fe80::/10", remote=(remote, 1), for_="")).remote == (remote, 1)


# What the client wrote itself stands on the left. If all are trusted, it comes from inside. What is no address ends it,
# at the last that was one.
FORWARDED = {
    ("1.2.3.4", 5678): ["1.2.3.4:5678"],
    ("2001:db8::1", 0): ["[2001:db8::1]"],
    ("2001:db8::1", 5678): ["[2001:db8::1]:5678"],
    ("1.2.3.4", 0): ["::ffff:1.2.3.4", "6.6.6.6, 1.2.3.4, 10.9.9.9, 10.0.0.7"],
    ("10.0.0.8", 0): ["10.0.0.8, 10.0.0.7"],
    ("10.0.0.7", 0): ["1.2.3.4, , 10.0.0.7"],
    ("fe80::1%eth0", 0): ["fe80::1%eth0"],
    PROXY: ["1.2.3.4, unknown", "1.2.3.4:99999", "[]:1", "\u0661.2.3.4", "fe80::1%a b"],
}


@pytest.mark.parametrize(("remote", "forwarded"), [(each, said) for each in FORWARDED for said in FORWARDED[each]])
async def test_it_is_read_from_the_right(forwarded: str, remote: tuple[str, int]) -> None:
    assert (await seen("10.0.0.0/8", for_=forwarded)).remote == remote


@pytest.mark.parametrize(
    ("proto", "secure"), [("HTTPS", True), ("http", False), ("https, http", False), ("gopher", None), ("https,", None)]
)
@pytest.mark.parametrize("before", [True, False])
async def test_what_is_said_of_tls(proto: str, secure: bool | None, before: bool) -> None:
    handshake = Handshake("/", {"X-Forwarded-Proto": proto}, remote=PROXY, secure=before)
    await Server(trusted_proxies=["10.0.0.1"]).handshake(handshake)
    assert handshake.secure is (before if secure is None else secure)


@pytest.mark.parametrize(
    ("said", "host"),
    [("Example.com:8443", "Example.com:8443"), ("[::1]:80", "[::1]:80"), ("a.example, b.example", "b.example")]
    + [(bad, "inside:8080") for bad in ("", "a b", "user@host", "a:b", "[")],
)
async def test_what_is_said_of_the_host(said: str, host: str) -> None:
    assert (await seen("10.0.0.1", host_=said)).host == host


@pytest.mark.parametrize("trusted", ["::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "10.0.0.0/8"])
@pytest.mark.parametrize("remote", ["10.0.0.1", "::ffff:10.0.0.1"])
async def test_an_ipv4_proxy_on_an_ipv6_socket_is_the_same(trusted: str, remote: str) -> None:
    assert (await seen(trusted, remote=(remote, 1), for_="1.2.3.4")).remote == ("1.2.3.4", 0)


async def test_the_origin_is_compared_with_the_host_that_the_proxy_names() -> None:
    origin = "https://example.com"
    await seen("10.0.0.1", proto="https", host_="example.com", Origin=origin)
    with pytest.raises(HandshakeRejected):
        await seen(proto="https", host_="example.com", Origin=origin)
    with pytest.raises(HandshakeRejected):  # the page came without TLS, the connection did not
        await seen("10.0.0.1", proto="https", host_="example.com", Origin="http://example.com")


@pytest.mark.parametrize("wrong", ["10.0.0.1", 5, ["*"], ["10.0.0.1/8"], [167772161]])
def test_what_is_no_list_of_addresses_is_refused_at_once(wrong: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"trusted_proxies|iterable"):
        Server(trusted_proxies=wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

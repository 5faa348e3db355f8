"""Behind proxies: whose `X-Forwarded-…` headers count, and for what."""

from __future__ import annotations

import os
import tempfile
from functools import partial

import pytest
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Handshake, HandshakeRejected, Server, dial
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

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


@pytest.mark.parametrize(
    ("forwarded", "remote"),
    [
        ("1.2.3.4:5678", ("1.2.3.4", 5678)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:5678", ("2001:db8::1", 5678)),
        ("::ffff:1.2.3.4", ("1.2.3.4", 0)),
        # What the client wrote itself stands on the left.
        ("6.6.6.6, 1.2.3.4, 10.9.9.9, 10.0.0.7", ("1.2.3.4", 0)),
        # All are trusted: it comes from inside.
        ("10.0.0.8, 10.0.0.7", ("10.0.0.8", 0)),
        # What is no address ends it, at the last that was one.
        ("1.2.3.4, unknown", PROXY),
        ("1.2.3.4, , 10.0.0.7", ("10.0.0.7", 0)),
        ("1.2.3.4:99999", PROXY),
        ("[]:1", PROXY),
        ("\u0661.2.3.4", PROXY),
        ("fe80::1%eth0", ("fe80::1%eth0", 0)),
        ("fe80::1%a b", PROXY),
    ],
)
async def test_it_is_read_from_the_right(forwarded: str, remote: tuple[str, int]) -> None:
    assert (await seen("10.0.0.0/8", for_=forwarded)).remote == remote


@pytest.mark.parametrize(
    ("proto", "secure"),
    [("HTTPS", True), ("http", False), ("https, http", False), ("gopher", None), ("https,", None)],
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


@pytest.mark.parametrize(("trusted", "remote"), [(["unix"], ("1.2.3.4", 0)), (["0.0.0.0/0", "::/0"], None)])
async def test_what_has_no_address_is_trusted_by_its_name(trusted: list[str], remote: object) -> None:
    """A unix socket, and a connection in memory."""
    server = Server(trusted_proxies=trusted)
    headers = {"X-Forwarded-For": "1.2.3.4"}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        client = Client("ws://here", dial=partial(dial, unix=path), headers=headers)
        async with server.listen(unix=path) as listener, client:
            assert (listener.port, listener.url) == (0, "ws://localhost/")
            async with connect(server, headers=headers):
                assert [peer.info.remote for peer in server.peers] == [remote] * 2


@pytest.mark.parametrize("wrong", ["10.0.0.1", 5, ["*"], ["10.0.0.1/8"], [167772161]])
def test_what_is_no_list_of_addresses_is_refused_at_once(wrong: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"trusted_proxies|iterable"):
        Server(trusted_proxies=wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

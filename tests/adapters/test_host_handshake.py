"""The rules of the opening handshake, in every place where a server runs: who may connect, as what, and what is said.

`RULES` has a row for each rule, and every host a column. What does not depend on a host, such as which origins are
equal and where a token is found, is tested in ``tests/unit/_server``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, NamedTuple

import pytest
from core_driver import turns
from hosts import HOSTS, Host, Uvicorn, UvicornH11
from raw_websocket import BINARY, CLOSE, PING, PONG, TEXT, RawPeer, ask, asking, build_frame, handshake, head_of
from served import LIMITS, echo_server, hosts, keeps_working, port_of
from waiting import until

from wsrpc import Handshake, HandshakeRejected, Peer, Server
from wsrpc.testing import connect

TOKEN = "hidden-5e3a"
"""Is in requests, and must be in no answer and in no line of the log."""
OFFER = ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",)
HINT = "wsrpc.resume"
"""The subprotocol that a web page offers to resume a session."""
HINTS = (f"Sec-WebSocket-Protocol: {HINT}",)
COOKIES = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
ODD = "/ws?tag=%C3%BC&tag=1+2&none&tag=&x=%26"

Gate = Callable[[Handshake], Any]


def lets_in(given: Handshake) -> None: ...


class Rule(NamedTuple):
    """A request, how the server decides, and what both sides then know."""

    gate: Gate = lets_in
    """The `on_handshake` function."""
    asks: tuple[str, ...] = ()
    """More header lines of the request; HOST is the value of ``Host``."""
    host: str | None = None
    """The header ``Host``; None for the address of the server."""
    target: str = "/ws"
    options: Mapping[str, Any] = {}
    """Of the server."""
    status: int = 101
    body: str | None = None
    answer: Mapping[str, list[str]] = {}
    """Headers of the response, by name, each with all its values."""
    seen: Mapping[str, object] = {}
    """Attributes of the `Handshake`, once it is decided."""
    headers: Mapping[str, str] = {}
    """Headers of the request, as the `Handshake` has them."""
    logged: str | None = None
    """The text of the only log record above INFO, or of its exception. None if nothing is logged above INFO."""
    compressed: bool = False
    """Whether the connection compresses messages."""
    too_large: bool = False
    """Whether a message of 10,000 bytes is."""
    needs: str = ""
    """The ability of the host without which this is not so."""


def rejects(*args: Any, **kwargs: Any) -> Gate:
    return lambda given: given.reject(*args, **kwargs)


def sets(**attributes: Any) -> Gate:
    def gate(given: Handshake) -> None:
        for name, value in attributes.items():
            setattr(given, name, value)

    return gate


def answers(*headers: tuple[Any, Any]) -> Gate:
    def gate(given: Handshake) -> None:
        for name, value in headers:
            given.response_headers[name] = value

    return gate


def raises(error: BaseException) -> Gate:
    def gate(given: Handshake) -> None:
        raise error

    return gate


def answers_and_rejects(given: Handshake) -> None:
    given.response_headers["X-Served-By"] = "me"
    given.response_headers["x-price"] = "5"  # that of the refusal is sent instead
    headers = [("CONTENT-TYPE", "text/x-bill"), ("Content-Length", "999"), ("X-Price", "7"), ("x-price", "8"), *COOKIES]
    given.reject(402, "päy first", headers)


def knows_the_user(given: Handshake) -> None:
    given.state["user"] = given.bearer_token
    given.principal = {TOKEN: "user/ada"}[given.bearer_token or ""]


def reads_the_query(given: Handshake) -> None:
    assert given.query.get_all("tag") == ["ü", "1 2", ""] and given.query["tag"] == ""
    assert given.query.get_all("x") == ["&"] and given.query.get_all("y") == []


def reads_headers(given: Handshake) -> None:
    assert given.headers.get_all("X-TEAM") == ["red", "blue"] and given.headers.get_all("x-no") == []


def small_messages(given: Handshake) -> None:
    given.limits = given.limits.replace(message_bytes=4096)


async def never_ends(given: Handshake) -> None:
    await asyncio.get_running_loop().create_future()


class Odd(BaseException):
    """Is no `Exception`."""


def failing(gate: Gate, logged: str, **fields: Any) -> Rule:
    answer = {"wsrpc-refused": ["1"], "content-type": ["text/plain; charset=utf-8"]}
    return Rule(gate, status=500, body="internal error\n", answer=answer, logged=logged, **fields)


def offers(*names: str, chosen: str | None, gate: Gate = lets_in, token: str | None = None, hint: bool = False) -> Rule:
    answered = HINT if hint else chosen
    said = {"sec-websocket-protocol": [] if answered is None else [answered]}
    shown = tuple(name for name in names if name != HINT)
    seen = {"subprotocols": shown, "subprotocol": chosen, "bearer_token": token, "asks_to_resume": shown != names}
    return Rule(gate, (f"Sec-WebSocket-Protocol: {', '.join(names)}",), answer=said, seen=seen)


LISTED = {"origins": ["https://app.example"]}
FROM_EVIL, BEARER = ("Origin: https://evil.example",), (f"Authorization: Bearer {TOKEN}",)
COMPRESSES = {"compression": True}
SHORT = {"limits": LIMITS.replace(open_timeout=0.5)}
IMPOLITE = LIMITS.replace(close_timeout=0.1)
"""For clients that do not answer a Close frame."""


def forbidden(origin: str) -> dict[str, Any]:
    return {"status": 403, "body": "this origin is not allowed\n", "logged": f"origins=['{origin}']"}


RULES: dict[str, Rule] = {
    # Origins.
    "own origin": Rule(asks=("Origin: http://HOST",)),
    "name that resolves to the server": Rule(
        lets_in, ("Origin: http://HOST",), "evil.example:8000", options=LISTED, **forbidden("http://evil.example:8000")
    ),
    "another origin": Rule(asks=FROM_EVIL, options=LISTED, **forbidden("https://evil.example")),
    # Tokens, and who the client is.
    "token in a header": Rule(knows_the_user, BEARER, seen={"state": {"user": TOKEN}, "principal": "user/ada"}),
    "token in a subprotocol": offers("json", f"bearer.{TOKEN}", chosen="json", token=TOKEN),
    "a trusted proxy": Rule(
        asks=("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 1.2.3.4:77"),
        options={"trusted_proxies": ["127.0.0.0/8"]},
        seen={"remote": ("1.2.3.4", 77)},
    ),
    # What is asked for.
    "target": Rule(reads_the_query, target=ODD, seen={"target": ODD, "path": "/ws"}),
    "names of headers in any case": Rule(
        reads_headers, asks=("X-Team: red", "x-team: blue", "X-EMPTY:"), headers={"X-Team": "red, blue", "x-empty": ""}
    ),
    "header of bytes": Rule(asks=("Cookie: a=\xff\xfe",), headers={"cookie": "a=\xff\xfe"}),
    # Subprotocols.
    "chosen subprotocol": offers("a", "b", chosen="b", gate=sets(subprotocol="b")),
    # The subprotocol with which web pages ask to resume.
    "hint alone": offers(HINT, chosen=None, hint=True),
    "hint after a subprotocol": offers("a", HINT, chosen="a"),
    "hint with a token": offers(f"bearer.{TOKEN}", HINT, chosen=None, token=TOKEN, hint=True),
    "hint that a function chooses": failing(sets(subprotocol=HINT), "offers the subprotocols", asks=HINTS),
    # Compression.
    "compression that nobody turned on": Rule(asks=OFFER),
    "compression": Rule(asks=OFFER, options=COMPRESSES, compressed=True),
    # Limits.
    "size of messages": Rule(small_messages, too_large=True, needs="limits per connection"),
    # The response of who may connect.
    "headers of the response": Rule(
        answers(("X-Served-By", "me"), ("x-served-by", "you"), ("X-Empty", "")),
        answer={"x-served-by": ["you"], "x-empty": [""]},
        needs="response headers",
    ),
    "header that is not ASCII": failing(answers(("X-A", "\xfc")), "it is not ASCII"),
    # The response of who may not.
    "refusal": Rule(
        answers_and_rejects,
        status=402,
        body="päy first",
        asks=BEARER,
        answer={"content-type": ["text/x-bill"], "x-price": ["7", "8"], "set-cookie": ["a=1", "b=2"]}
        | {"x-served-by": ["me"], "wsrpc-refused": ["1"]},  # and not by a proxy
        logged="402 päy first",
        needs="refusal body",
    ),
    # Functions that fail.
    "error": failing(raises(LookupError("why")), "why"),
    "error that is no Exception": failing(raises(Odd("why")), "why"),
    "header of the handshake in a refusal": failing(
        lambda given: (answers(("Connection", "close"))(given), given.reject(401)), "belongs to the handshake itself"
    ),
    "line break in a header": failing(answers(("X-A", f"{TOKEN}\r\nX-B: b")), "'X-A' has a character"),
    "subprotocol that is not offered": failing(sets(subprotocol="c"), "offers the subprotocols"),
    # Functions that never end.
    "function that never ends": Rule(
        never_ends, options=SHORT, status=503, body="the handshake timed out\n", logged="did not finish within 0.5 s"
    ),
}
"""By what is special about the request or the server."""


CELLS = [(host, name) for name, rule in RULES.items() for host in HOSTS if rule.needs not in host.cannot]


def compresses(host: Host, rule: Rule) -> bool:
    if "compression" not in host.cannot:
        return rule.compressed
    return OFFER[0] in rule.asks  # ASGI servers decide by themselves


def values(head: bytes, name: str) -> list[str]:
    """The values of a header in a response."""
    lines = [line.partition(":") for line in head.decode("latin-1").split("\r\n")]
    return [value.strip() for found, _, value in lines if found.lower() == name]


async def body_of(head: bytes, peer: RawPeer) -> str:
    length, body = values(head, "content-length"), b""
    while len(body) < int(length[0]) if length else not body.endswith(b"0\r\n\r\n"):
        body += await peer.read()
    return (body if length else body.split(b"\r\n")[1]).decode()  # hypercorn sends one chunk, and the last


@pytest.mark.parametrize(("host", "name"), CELLS, ids=str)
async def test_a_rule_of_the_handshake(host: Host, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "wsrpc")
    rule, asked = RULES[name], list[Handshake]()
    server = echo_server(**rule.options)

    def decides(given: Handshake) -> Any:
        asked.append(given)
        return rule.gate(given)

    async def waits(given: Handshake) -> None:
        await decides(given)

    server.on_handshake(waits if iscoroutinefunction(rule.gate) else decides)
    async with host.serving(server) as url:
        own = rule.host or f"127.0.0.1:{port_of(url)}"
        lines = "".join(f"{line.replace('HOST', own)}\r\n" for line in rule.asks)
        request = handshake(rule.target, host=own)[:-2] + lines.encode("latin-1") + b"\r\n"
        async with asking(port_of(url), request) as (head, peer):
            assert int(head.split()[1]) == rule.status
            assert {header: values(head, header) for header in rule.answer} == rule.answer
            body = "" if rule.status == 101 else await body_of(head, peer)
            assert rule.body is None or body == rule.body
            assert TOKEN not in head.decode("latin-1") + body + caplog.text
            if rule.status == 101:
                # A client that asks to resume has no peer before its first message.
                await peer.send(peer.frame(TEXT, '{"i":2,"a":["echo",1]}'))
                await peer.next_of(TEXT)
                expected = {"path": "/ws", "host": own, "secure": False, "remote": peer.sock.getsockname(), **rule.seen}
                assert {attribute: getattr(asked[0], attribute) for attribute in expected} == expected
                assert {header: asked[0].headers[header] for header in rule.headers} == rule.headers
                (only,) = server.peers
                check_peer(only, asked[0])
                await check_messages(peer, compresses(host, rule), rule.too_large)
            else:
                assert server.peers == ()
    records = [record for record in caplog.records if record.levelno > logging.INFO]
    said = [record for record in records if record.name == "wsrpc"]
    others = [record.getMessage() for record in records if record.name != "wsrpc"]
    incomplete = rule.status != 101 and "refusal log" in host.cannot
    assert others == ["ASGI callable returned without completing handshake."] * incomplete
    assert len(said) == (rule.logged is not None)
    assert rule.logged is None or rule.logged in f"{said[0].getMessage()} {said[0].exc_info}"


def check_peer(peer: Peer, given: Handshake) -> None:
    """What was settled in the handshake is known of the peer."""
    names = ("target", "path", "query", "origin", "subprotocol", "remote", "local", "headers")
    assert [getattr(peer.info, name) for name in names] == [getattr(given, name) for name in names]
    assert (peer.state, peer.principal, peer.limits) == (given.state, given.principal, given.limits)
    assert peer.info.underlying is not None


async def check_messages(peer: RawPeer, compressed: bool, too_large: bool) -> None:
    text = "x" * 10_000
    await peer.send(peer.frame(TEXT, json.dumps({"i": 1, "a": ["echo", text]})))
    if too_large:
        assert (await peer.next_of(CLOSE)).code == 1009
        return
    payload = (await peer.next_of(TEXT)).payload
    assert len(payload) < 1000 if compressed else json.loads(payload)["d"] == text


# ---------------------------------------------------------------- which pages may connect

NAMES = ("127.0.0.1:PORT", "localhost:PORT", "evil.example:PORT", "app.lan")
"""Values of the header ``Host``. The third name resolves to the server. `ALLOWED` lists pages of the last one."""
ALLOWED = ["http://app.lan", "https://page.example"]

SENT: dict[str, tuple[str, str]] = {
    "": ("+ + + +", "+ + - +"),
    "Origin: http://HOST": ("+ + - +", "+ + - +"),
    "Origin: https://page.example": ("+ + + +", "+ + + +"),
    "Origin: https://evil.example": ("- - - -", "- - - -"),
    "Origin: null": ("- - - -", "- - - -"),
    # Browsers send this one to 127.0.0.1, to localhost and with TLS, and then with `Origin`, unless by GET.
    "Sec-Fetch-Site: same-origin": ("+ + + +", "+ + + +"),
    "Sec-Fetch-Site: none": ("+ + + +", "+ + + +"),
    "Sec-Fetch-Site: same-site": ("+ + + +", "- - - -"),
    "Sec-Fetch-Site: cross-site": ("+ + + +", "- - - -"),
    # A page can add this one to a GET or a POST, and uvicorn believes it.
    "X-Forwarded-Proto: https": ("+ + + +", "+ + - +"),
}
"""Headers, with who may connect to each of the `NAMES`: by what has an origin if it is a browser's, and by GET."""

WAYS: dict[str, tuple[str, str, int]] = {
    "WebSocket": ("", "", 101),
    "HTTP": ("POST /ws", "Wsrpc-Transport: poll\r\nContent-Length: 0\r\n", 200),
    "POST": ("POST /api/call/echo", "Content-Type: application/json\r\nContent-Length: 1\r\n\r\n1", 200),
    "GET": ("GET /api/rooms/lobby?wait=0", "", 200),
}
"""Requests, with more headers, and the status of the response."""


def expected(way: str, status: int) -> dict[tuple[str, str], int]:
    return {
        (sent, name): status if sign == "+" else 403
        for sent, signs in SENT.items()
        for name, sign in zip(NAMES, signs[way == "GET"].split(), strict=True)
    }


def serving_pages() -> Server:
    server = echo_server(origins=ALLOWED, limits=IMPOLITE)
    server.room("lobby", keep=60, allow=lambda peer: True)
    return server


PLACES = [(HOSTS[0] if way == "WebSocket" else Uvicorn(), way) for way in WAYS]


@pytest.mark.parametrize(("host", "way"), PLACES, ids=str)
async def test_which_pages_may_connect(host: Host, way: str) -> None:
    """By GET, a page whose name resolves to the server (DNS rebinding) could open connections and read rooms."""
    line, more, status = WAYS[way]
    found = dict[tuple[str, str], int]()
    async with host.serving(serving_pages()) as url:
        port = port_of(url)
        for sent, name in expected(way, status):
            own = name.replace("PORT", str(port))
            head = f"{line} HTTP/1.1\r\nHost: {own}\r\n" if line else handshake("/ws", host=own)[:-2].decode()
            added = sent.replace("HOST", own) + "\r\n" if sent else ""
            end = "" if "\r\n\r\n" in more else "\r\n"
            answer = await head_of(port, f"{head}{added}{more}{end}".encode())
            found[sent, name] = int(answer.split()[1])
            if line:  # a page that is refused learns why
                origins = [added[8:].strip()] if added.startswith("Origin") else []
                assert values(answer, "access-control-allow-origin") == origins
    assert found == expected(way, status)


async def test_which_pages_may_connect_in_memory() -> None:
    found = dict[tuple[str, str], int]()
    for sent, name in expected("memory", 101):
        header, _, value = sent.replace("HOST", name.replace("PORT", "8000")).partition(": ")
        headers = {"Host": name.replace("PORT", "8000"), **({header: value} if header else {})}
        try:
            async with connect(serving_pages(), headers=headers):
                found[sent, name] = 101
        except HandshakeRejected as refused:
            found[sent, name] = refused.status
    assert found == expected("memory", 101)


# ---------------------------------------------------------------- what comes before the response

REQUEST = build_frame(TEXT, json.dumps({"i": 1, "a": ["echo", "x" * 5000]}).encode(), masked=True)
FORGED = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"
"""A pong has what its ping had: an attacker's bytes, where a proxy reads the response to the handshake."""
EARLY = build_frame(PING, FORGED, masked=True) + REQUEST

WITH_REQUEST, MEANWHILE = "with the request", "while the function waits"
MOMENTS = [(host, WITH_REQUEST) for host in HOSTS if "early" not in host.cannot]
MOMENTS += [(host, MEANWHILE) for host in HOSTS if "answers wait" not in host.cannot]
DECISIONS: dict[str, tuple[Gate, list[int]]] = {
    "in": (lets_in, [PONG, TEXT]),
    "in, within limits": (small_messages, [PONG, CLOSE]),
    "refused": (rejects(401, "no"), []),
}
"""With the frames that follow the response."""


@pytest.mark.parametrize("decision", DECISIONS)
@pytest.mark.parametrize(("host", "moment"), MOMENTS)
async def test_what_comes_before_the_response_waits_for_it(host: Host, moment: str, decision: str) -> None:
    server, asked, go = echo_server(), asyncio.Event(), asyncio.Event()
    gate, frames = DECISIONS[decision]

    async def waits(given: Handshake) -> None:
        asked.set()
        await go.wait()
        gate(given)

    async def send(sock: socket.socket) -> None:
        await asked.wait()
        for part in (EARLY[:1000], EARLY[1000:]):  # in two reads
            await asyncio.get_running_loop().sock_sendall(sock, part)
            await turns(10)
        go.set()

    server.on_handshake(gate if moment == WITH_REQUEST else waits)
    request = handshake("/ws") + (EARLY if moment == WITH_REQUEST else b"")
    async with host.serving(server) as url:
        async with asking(port_of(url), request, meanwhile=send if moment == MEANWHILE else None) as (head, peer):
            assert head.split()[1] == (b"101" if frames else b"401") and FORGED not in head
            if frames:
                seen = [await peer.next_frame() for _ in frames]
                assert sorted(frame.opcode for frame in seen) == sorted(frames)
                assert {frame.code for frame in seen if frame.opcode == CLOSE} <= {1009}
            else:
                assert FORGED not in await peer.read_to_end()


@pytest.mark.parametrize("host", [host for host in HOSTS if "early" in host.cannot], ids=repr)
async def test_what_comes_with_the_request_is_lost(host: Host) -> None:
    server = echo_server(limits=IMPOLITE)
    async with host.serving(server) as url, asking(port_of(url), handshake("/ws") + EARLY) as (head, peer):
        if "400" in host.cannot["early"]:
            assert head.split()[1] == b"400"
            return
        await peer.send(peer.frame(TEXT, '{"i":2,"a":["echo",1]}'))
        assert (await peer.next_frame()).payload == b'{"i":2,"d":1}'


# ---------------------------------------------------------------- what is no handshake


@pytest.mark.parametrize("host", [*HOSTS, UvicornH11()], ids=repr)
async def test_what_is_no_handshake_harms_nobody(host: Host) -> None:
    requests = [
        b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        handshake("/ws").replace(b"Version: 13", b"Version: 12\r\nConnection: close"),
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n",
    ]
    async with host.serving(echo_server()) as url, keeps_working(url):
        for request in requests:
            assert not (await ask(port_of(url), request)).startswith(b"HTTP/1.1 101"), request[:100]


@hosts
async def test_who_leaves_in_the_handshake_gets_no_peer(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp logged a traceback for each."""
    server, asked, go = echo_server(), asyncio.Event(), asyncio.Event()

    async def waits(given: Handshake) -> None:
        if "leaves" in given.query:
            asked.set()
            await go.wait()

    server.on_handshake(waits)
    async with host.serving(server) as url, keeps_working(url):
        for path, size in (("/ws", 1), ("/ws", 40), ("/ws?leaves", 10_000)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            writer.write(handshake(path)[:size])
            await writer.drain()
            if size == 10_000:
                await asked.wait()
            writer.transport.abort()
            with pytest.raises((OSError, EOFError)):
                await reader.readexactly(1)
        go.set()
        await until(lambda: len(server.peers) == 1)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("host", [host for host in HOSTS if "early" not in host.cannot], ids=repr)
async def test_what_comes_before_the_response_is_bounded(host: Host) -> None:
    server, asked = echo_server(limits=LIMITS.replace(open_timeout=1000.0)), asyncio.Event()

    @server.on_handshake
    async def gate(given: Handshake) -> None:
        asked.set()
        await never_ends(given)

    piece, most = build_frame(BINARY, bytes(1 << 16), masked=True), 64 << 20
    async with host.serving(server) as url:
        with socket.create_connection(("127.0.0.1", port_of(url))) as sock:
            sock.setblocking(False)
            sock.send(handshake("/ws"))
            await asked.wait()
            sent = stuck = 0
            while stuck < 200 and sent < most:
                try:
                    sent, stuck = sent + sock.send(piece), 0
                except BlockingIOError:
                    stuck += 1
                    await asyncio.sleep(0)
        assert sent < most

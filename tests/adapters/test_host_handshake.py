"""Every place where a server runs: who may connect, and as what."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket

import pytest
from hosts import Host
from raw_websocket import BINARY, CLOSE, PING, TEXT, ask, build_frame, handshake, head_of
from served import LIMITS, echo_server, hosts, keeps_working, port_of, raw

from wsrpc import Client, Handshake, HandshakeRejected, Server, current_peer, dial


def cannot(host: Host, ability: str) -> bool:
    return ability in host.cannot


@hosts
async def test_state_comes_from_on_handshake(host: Host) -> None:
    server = Server(limits=LIMITS)
    seen: list[Handshake] = []

    @server.on_handshake
    def gate(given: Handshake) -> None:
        seen.append(given)
        given.state["user"] = given.bearer_token

    server.on("who", lambda: current_peer().state["user"])
    async with host.serving(server) as url, Client(url + "?x=1&y=%C3%BC", auth="ada", limits=LIMITS) as client:
        assert await client.request("who") == "ada"
        [peer] = server.peers
        assert (peer.info.path, dict(peer.info.query)) == ("/ws", {"x": "1", "y": "ü"})
        assert peer.info.headers["authorization"] == "Bearer ada"
        assert peer.info.origin is None and peer.info.subprotocol is None
        assert peer.info.underlying is not None
        for address in (peer.info.remote, seen[0].remote):
            assert address is not None and address[0] == "127.0.0.1" and address[1] > 0
        assert client.peer.info.local == peer.info.remote
        assert seen[0].host == f"127.0.0.1:{port_of(url)}" and not seen[0].secure


@hosts
async def test_on_handshake_may_be_async(host: Host) -> None:
    server = echo_server()

    @server.on_handshake
    async def gate(given: Handshake) -> None:
        await asyncio.sleep(0.001)
        if given.bearer_token != "ada":
            given.reject(401, "who are you?")

    if cannot(host, "async handshake"):
        with pytest.raises(TypeError, match="plain function"):
            async with host.serving(server):
                pytest.fail("it listens")
        return
    async with host.serving(server) as url:
        with pytest.raises(HandshakeRejected) as caught:
            await dial(url, limits=LIMITS)
        assert caught.value.status == 401
        async with Client(url, auth="ada", limits=LIMITS) as client:
            assert await client.request("echo", 1) == 1


@hosts
async def test_what_arrives_while_on_handshake_waits_is_kept(host: Host) -> None:
    server = echo_server()
    go, asked = asyncio.Event(), asyncio.Event()

    @server.on_handshake
    async def gate(given: Handshake) -> None:
        asked.set()
        await go.wait()

    if cannot(host, "async handshake"):
        assert server.handshakes_wait
        return
    async with host.serving(server) as url, asyncio.TaskGroup() as group:

        async def impatient() -> None:
            frame = build_frame(TEXT, b'{"i":1,"a":["echo","x"]}', masked=True)
            async with raw(url, early=b"" if cannot(host, "early") else frame) as peer:
                if cannot(host, "early"):
                    await peer.send(frame)
                assert json.loads((await peer.next_of(TEXT)).payload) == {"i": 1, "d": "x"}

        group.create_task(impatient())
        await asked.wait()
        go.set()


@hosts
async def test_limits_of_a_connection_hold_for_what_came_before_the_answer(host: Host) -> None:
    server = Server(limits=LIMITS)
    ran: list[int] = []
    server.on("size", lambda text: ran.append(len(text)))

    @server.on_handshake
    def gate(given: Handshake) -> None:
        given.limits = given.limits.replace(message=4096)

    frame = build_frame(TEXT, b'{"i":1,"a":["size","%s"]}' % (b"x" * 50_000), masked=True)
    async with host.serving(server) as url:
        async with raw(url, early=b"" if cannot(host, "early") else frame) as peer:
            if cannot(host, "early"):
                await peer.send(frame)
            assert (await peer.next_frame()).code == 1009
        assert ran == []


@hosts
@pytest.mark.parametrize("together", [True, False])
async def test_nothing_is_said_before_the_answer(host: Host, together: bool) -> None:
    """A pong has what its ping had: an attacker's bytes, where a proxy reads the answer to the handshake."""
    server = Server(limits=LIMITS)
    asked, go = asyncio.Event(), asyncio.Event()

    def refuse(given: Handshake) -> None:
        given.reject(401, "no")

    @server.on_handshake
    async def gate(given: Handshake) -> None:
        asked.set()
        await go.wait()
        refuse(given)

    if cannot(host, "async handshake"):
        server.on_handshake(refuse)
        asked.set()
    ping = build_frame(PING, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", masked=True)
    async with host.serving(server) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        try:
            request = handshake("/ws")
            writer.write(request + ping if together else request)
            if not (together and "400" in host.cannot.get("early", "")):
                await asked.wait()
            if not together:
                writer.write(ping)
            go.set()
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 40") and b"200 OK" not in answer
            if not cannot(host, "early"):
                assert b"200 OK" not in await reader.read()
        except (asyncio.IncompleteReadError, OSError) as exc:  # uvicorn drops the connection
            if not cannot(host, "early") or (isinstance(exc, asyncio.IncompleteReadError) and exc.partial):
                raise
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@hosts
async def test_a_request_may_end_anywhere_in_a_read(host: Host) -> None:
    if cannot(host, "early"):
        return  # `test_what_comes_together_with_the_handshake` shows what it does instead
    frame = build_frame(TEXT, b'{"i":1,"a":["echo","x"]}', masked=True)
    async with host.serving(echo_server()) as url:
        request = handshake("/ws")
        for end in range(len(request) - 5, len(request) + 4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            whole = request + frame
            writer.write(whole[:end])
            for _ in range(5):
                await asyncio.sleep(0)
            writer.write(whole[end:])
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert await reader.readuntil(b"}") == build_frame(TEXT, b'{"i":1,"d":"x"}', masked=False)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@hosts
async def test_what_comes_before_the_answer_is_bounded(host: Host) -> None:
    server = Server(limits=LIMITS)
    asked, go = asyncio.Event(), asyncio.Event()

    @server.on_handshake
    async def gate(given: Handshake) -> None:
        asked.set()
        await go.wait()
        given.reject(401, "no")

    if cannot(host, "async handshake") or cannot(host, "early"):
        return  # there is no time between the two, or the library drops it
    piece = build_frame(BINARY, bytes(1 << 16), masked=True)
    async with host.serving(server) as url:
        with socket.create_connection(("127.0.0.1", port_of(url))) as sock:
            sock.setblocking(False)
            sock.send(handshake("/ws"))
            await asked.wait()
            sent = stuck = 0
            while stuck < 200 and sent < 64 << 20:
                try:
                    sent += sock.send(piece)
                    stuck = 0
                except BlockingIOError:
                    stuck += 1
                    await asyncio.sleep(0)
        assert sent < 64 << 20
        go.set()


@hosts
async def test_a_refusal_has_status_body_and_headers(host: Host) -> None:
    server = echo_server()

    @server.on_handshake
    def gate(given: Handshake) -> None:
        if "no" in given.query:
            given.reject(402, "päy first", {"X-Price": "7", "Content-Type": "text/x-bill"})

    async with host.serving(server) as url, keeps_working(url):
        with pytest.raises(HandshakeRejected) as caught:
            await dial(url + "?no", limits=LIMITS)
        if cannot(host, "refusal body"):
            assert caught.value.status == 403
        else:
            assert (caught.value.status, caught.value.body) == (402, "päy first")
            assert caught.value.headers["x-price"] == "7"
            assert caught.value.headers["content-type"] == "text/x-bill"
        assert len(server.peers) == 1


@hosts
async def test_a_refusal_is_no_error_in_the_log(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)
    server.on_handshake(lambda given: given.reject(401, "no"))
    async with host.serving(server) as url:
        for _ in range(3):
            with pytest.raises(HandshakeRejected):
                await dial(url, limits=LIMITS)
    logged = {(record.name, record.getMessage()) for record in caplog.records if record.levelno > logging.INFO}
    said = "ASGI callable returned without completing handshake."
    assert logged == ({("uvicorn.error", said)} if cannot(host, "refusal log") else set())


@hosts
async def test_names_of_headers_ignore_case(host: Host) -> None:
    server = echo_server()

    @server.on_handshake
    def gate(given: Handshake) -> None:
        assert given.headers.get("X-Team") == given.headers["x-team"] == "red, blue"
        assert "X-TEAM" in given.headers and "x-team" in list(given.headers)
        given.response_headers["X-Served-By"] = "me"
        given.response_headers["x-served-by"] = "you"
        if "no" in given.query:
            given.reject(402, "no", {"CONTENT-TYPE": "text/x-bill", "X-Price": "7", "x-price": "8"})

    team = ("X-Team: red", "x-team: blue")
    async with host.serving(server) as url:
        accepted = await head_of(port_of(url), handshake("/ws", *team))
        refused = await head_of(port_of(url), handshake("/ws?no", *team))
    assert values(accepted, b"x-served-by") == ([] if cannot(host, "response headers") else [b"you"])
    if not cannot(host, "refusal body"):
        assert values(refused, b"content-type") == [b"text/x-bill"]
        assert values(refused, b"x-price") == [b"7", b"8"]


def values(head: bytes, name: bytes) -> list[bytes]:
    """The values of a header in a response."""
    lines = [line.partition(b": ") for line in head.split(b"\r\n")]
    return [value for found, _, value in lines if found.lower() == name]


@hosts
async def test_a_header_of_a_response_may_be_repeated(host: Host) -> None:
    server = echo_server()
    cookies = [("Set-Cookie", "a=1; Expires=Thu, 01 Jan 2099 00:00:00 GMT"), ("Set-Cookie", "b=2")]

    @server.on_handshake
    def gate(given: Handshake) -> None:
        if "no" in given.query:
            given.reject(401, "no", [("X-Why", "age"), *cookies])
        for name, value in cookies:
            given.response_headers.add(name, value)

    async with host.serving(server) as url:
        accepted = await head_of(port_of(url), handshake("/ws"))
        refused = await head_of(port_of(url), handshake("/ws?no"))
        with pytest.raises(HandshakeRejected) as caught:
            await dial(url + "?no", limits=LIMITS)
    expected = [value.encode() for _, value in cookies]
    assert values(accepted, b"set-cookie") == ([] if cannot(host, "response headers") else expected)
    if not cannot(host, "refusal body"):
        assert values(refused, b"set-cookie") == expected and values(refused, b"x-why") == [b"age"]
        assert caught.value.headers.get_all("Set-Cookie") == [value for _, value in cookies]


@hosts
async def test_the_target_of_the_request(host: Host) -> None:
    server = echo_server()
    seen: list[Handshake] = []
    server.on_handshake(seen.append)
    target = "/ws?tag=%C3%BC&tag=1+2&none&tag=&x=%26"
    async with host.serving(server) as url, Client(url.replace("/ws", target), limits=LIMITS) as client:
        await client.request("echo", 1)
        for told in (seen[0], server.peers[0].info):
            assert (told.target, told.path) == (target, "/ws")
            assert told.query.get_all("tag") == ["ü", "1 2", ""] and told.query["tag"] == ""
            assert told.query.get_all("x") == ["&"] and told.query.get_all("y") == []


@hosts
async def test_a_target_with_other_characters_than_ascii_is_encoded(host: Host) -> None:
    server = echo_server()
    seen: list[Handshake] = []
    server.on_handshake(seen.append)
    request = handshake("/ws?x=caf~&y=~2").replace(b"caf~", "café".encode()).replace(b"~2", b"\xff")
    answer = b""
    async with host.serving(server) as url, keeps_working(url):
        with contextlib.suppress(EOFError):  # `Server.listen` drops the connection, as after anything that is not HTTP
            answer = await head_of(port_of(url), request)
    if b" 101 " not in answer:
        assert answer == b"" or b" 400 " in answer
        assert len(seen) == 1
        return
    assert seen[-1].target == "/ws?x=caf%C3%A9&y=%FF"
    assert dict(seen[-1].query) == {"x": "café", "y": "\ufffd"}


@hosts
async def test_a_failing_on_handshake_refuses_and_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)

    @server.on_handshake
    def gate(given: Handshake) -> None:
        raise LookupError("a secret")

    async with host.serving(server) as url:
        with pytest.raises(HandshakeRejected) as caught:
            await dial(url, limits=LIMITS)
        assert caught.value.status == (403 if cannot(host, "refusal body") else 500)
        assert "secret" not in caught.value.body
    errors = [record for record in caplog.records if (record.name, record.levelno) == ("wsrpc", logging.ERROR)]
    assert len(errors) == 1 and errors[0].exc_info is not None


@hosts
async def test_headers_of_the_response(host: Host) -> None:
    server = Server(limits=LIMITS)

    @server.on_handshake
    def gate(given: Handshake) -> None:
        given.response_headers["X-Served-By"] = "me"
        given.response_headers["Set-Cookie"] = "a=b"

    async with host.serving(server) as url, Client(url, limits=LIMITS) as client:
        said = client.peer.info.underlying.response.headers
        expected = [None, None] if cannot(host, "response headers") else ["me", "a=b"]
        assert [said.get(name) for name in ("X-Served-By", "Set-Cookie")] == expected


@hosts
@pytest.mark.parametrize(
    "value", ["中".encode(), b"\xff\xfe", "ü".encode("latin-1")], ids=["utf-8", "bytes", "latin-1"]
)
async def test_headers_with_other_characters_than_ascii(
    host: Host, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(limits=LIMITS)
    seen: list[Handshake] = []
    server.on_handshake(seen.append)
    request = handshake("/ws", "Authorization: Bearer VALUE", "X-User-Name: VALUE", "Cookie: a=VALUE")
    async with host.serving(server) as url:
        head = await head_of(port_of(url), request.replace(b"VALUE", value))
        assert head.startswith(b"HTTP/1.1 101 "), head
    text = value.decode("latin-1")  # the same text in every host
    assert seen[0].bearer_token == seen[0].headers["x-user-name"] == text
    assert seen[0].headers["cookie"] == f"a={text}"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@hosts
async def test_the_subprotocol(host: Host) -> None:
    server = echo_server()

    @server.on_handshake
    def gate(given: Handshake) -> None:
        given.state["offered"] = given.subprotocols
        if "b" in given.subprotocols:
            given.subprotocol = "b"
        elif "c" in given.subprotocols:
            given.subprotocol = None

    server.on("offered", lambda: current_peer().state["offered"])
    async with host.serving(server) as url:
        async with Client(url, subprotocols=["a", "b", "bearer.t"], limits=LIMITS) as client:
            assert await client.request("offered") == ["a", "b", "bearer.t"]
            chosen = None if cannot(host, "subprotocol") else "b"
            assert client.peer.info.subprotocol == server.peers[0].info.subprotocol == chosen
        for offered in (["bearer.t", "a"], ["c"]):  # the first one that is no token, unless the function says otherwise
            async with Client(url, subprotocols=offered, limits=LIMITS) as client:
                assert await client.request("offered") == offered
                chosen = "a" if "a" in offered and not cannot(host, "subprotocol") else None
                assert client.peer.info.subprotocol == server.peers[0].info.subprotocol == chosen


@hosts
async def test_another_origin_is_refused(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    server = echo_server(origins=["https://app.example"])
    async with host.serving(server) as url:
        own = f"http://127.0.0.1:{port_of(url)}"
        for origin in ("https://app.example", own):
            async with Client(url, headers={"Origin": origin}, limits=LIMITS) as client:
                assert await client.request("echo", 1) == 1
                assert server.peers[0].info.origin == origin
        with pytest.raises(HandshakeRejected) as caught:
            await dial(url, limits=LIMITS, headers={"Origin": "https://evil.example"})
        assert caught.value.status == 403
    assert "origins=['https://evil.example']" in caplog.text


@hosts
async def test_the_size_of_messages_may_differ_per_connection(host: Host) -> None:
    server = echo_server()

    @server.on_handshake
    def gate(given: Handshake) -> None:
        if "small" in given.query:
            given.limits = given.limits.replace(message=1024)

    async with host.serving(server) as url, keeps_working(url), raw(url + "?small") as small, raw(url) as large:
        for peer in (small, large):
            await peer.send(peer.frame(TEXT, '{"i":1,"a":["echo","%s"]}' % ("x" * 2000)))
        assert json.loads((await large.next_of(TEXT)).payload)["i"] == 1
        if not cannot(host, "limits per connection"):
            assert (await small.next_of(CLOSE)).code == 1009
        else:
            assert (await small.next_frame()).opcode in (TEXT, CLOSE)


@hosts
async def test_compression_is_off_unless_asked_for(host: Host) -> None:
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    text = "x" * 10_000
    for compression in (False, True):
        server = echo_server(compression=compression)
        async with host.serving(server) as url, raw(url, offer) as peer:
            await peer.send(peer.frame(TEXT, json.dumps({"i": 1, "a": ["echo", text]})))
            frame = await peer.next_of(TEXT)
            if cannot(host, "compression"):  # it may be on all the same
                assert frame.payload
            elif compression:
                assert len(frame.payload) < 1000
            else:
                assert json.loads(frame.payload)["d"] == text


@hosts
async def test_what_is_no_handshake_harms_nobody(host: Host) -> None:
    async with host.serving(echo_server()) as url, keeps_working(url):
        for request in (
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port_of(url)}\r\nConnection: close\r\n\r\n".encode(),
            b"POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            handshake("/ws").replace(b"Version: 13", b"Version: 12\r\nConnection: close"),
            b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200 + b"\r\n\r\n",
        ):
            answer = await ask(port_of(url), request)
            assert not answer.startswith(b"HTTP/1.1 101"), request[:100]


@hosts
async def test_somebody_who_leaves_in_the_handshake_harms_nobody(host: Host) -> None:
    async with host.serving(echo_server()) as url, keeps_working(url):
        for size in (1, 40, 10_000):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            writer.write(handshake("/ws")[:size])
            await writer.drain()
            writer.transport.abort()

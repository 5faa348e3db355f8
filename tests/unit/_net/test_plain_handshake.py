"""Plain opening handshakes give what the library gives, and whatever is not plain is left to the library."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from raw_websocket import accept_response, handshake
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request
from websockets.server import ServerProtocol

from wsrpc import Handshake, HandshakeRejected
from wsrpc._base.request_headers import HeadersView
from wsrpc._net.dialing.client_handshake import ClientRequest
from wsrpc._net.dialing.dial_request import DialRequest
from wsrpc._net.library_handshake import library_answer, plain_answer, serialized, serialized_head
from wsrpc._net.serving.port_connections import plain_request

KEY = "AAECAwQFBgcICQoLDA0ODw=="
PLAIN = {
    "Host": "127.0.0.1:8080",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
BROWSER = {
    **PLAIN,
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept-Language": "en-US,en;q=0.5",
    "Origin": "https://example.com",
    "Cookie": "a=b; c=d",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Extensions": "permessage-deflate",
}


def text_of(fields: dict[str, str], line: str = "GET /chat?room=1 HTTP/1.1") -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields.items()), "", ""]).encode("latin-1")


def by_the_library(data: bytes) -> Request | None:
    protocol = ServerProtocol()
    protocol.receive_data(data)
    events = protocol.events_received()
    assert len(events) <= 1
    return next((event for event in events if isinstance(event, Request)), None)


def same(ours: Request, theirs: Request | None) -> bool:
    return theirs is not None and theirs == ours and list(theirs.headers.raw_items()) == list(ours.headers.raw_items())


@pytest.mark.parametrize("fields", [PLAIN, BROWSER, {"a": "b"}], ids=["plain", "browser", "one"])
def test_a_plain_request_is_what_the_library_reads(fields: dict[str, str]) -> None:
    data = text_of(fields)
    ours = plain_request(data)
    assert ours is not None and same(ours, by_the_library(data))


NAMES = st.sampled_from(["Host", "Origin", "cookie", "Content-Length", "X", "", "a b", "a:", "\xe4"])
VALUES = st.text(st.sampled_from("ab \t:,\r\n\x00\x7f\xe4=;"), max_size=6) | st.sampled_from(list(PLAIN.values()))
FIELD = st.tuples(NAMES, st.sampled_from([": ", ":", " : ", ":  "]), VALUES, st.sampled_from(["\r\n", "\r\n", "\n"]))


@given(
    st.sampled_from(["GET / HTTP/1.1", "GET /?a=b HTTP/1.1", "GET  / HTTP/1.1", "get / HTTP/1.1", "GET x HTTP/1.1"]),
    st.lists(FIELD, max_size=6),
)
@example("GET / HTTP/1.1", [("X", ": ", "a", "\r\n"), ("X", ": ", "b", "\r\n")])
def test_a_request_is_plain_only_if_the_library_reads_the_same(
    line: str, fields: list[tuple[str, str, str, str]]
) -> None:
    data = "".join([line, "\r\n", *("".join(field) for field in fields), "\r\n"]).encode("latin-1")
    ours = plain_request(data)
    assert ours is None or same(ours, by_the_library(data))


def undated(answer: bytes) -> bytes:
    found, count = re.subn(rb"Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", b"Date: now", answer)
    assert count == 1
    return found


JUDGED: list[dict[str, str]] = [
    {**PLAIN, "Upgrade": "h2c"},
    {**PLAIN, "Connection": "close"},
    {**PLAIN, "Sec-WebSocket-Version": "8"},
    {**PLAIN, "Sec-WebSocket-Key": "short=="},
    {**PLAIN, "Sec-WebSocket-Key": KEY, "sec-websocket-key": KEY},
    {**PLAIN, "Origin": "http://a", "origin": "http://b"},
    {**PLAIN, "Sec-WebSocket-Protocol": "chat"},
    {name: value for name, value in PLAIN.items() if name != "Sec-WebSocket-Key"},
]
ANSWERED = [PLAIN, BROWSER, {**PLAIN, "Connection": "upgrade"}, {**PLAIN, "Sec-WebSocket-Key": "/+" * 11 + "=="}]


@pytest.mark.parametrize("fields", [*ANSWERED, *JUDGED])
def test_the_plain_answer_is_that_of_the_library_which_judges_all_else(fields: dict[str, str]) -> None:
    request = by_the_library(text_of(fields))
    assert request is not None
    plain = plain_answer(Handshake(request.path, HeadersView(request.headers)))
    assert (plain is None) is (fields in JUDGED)
    if plain is not None:
        ours = serialized_head(101, "Switching Protocols", plain)
        assert undated(ours) == undated(serialized(ServerProtocol().accept(request)))


OFFER = "Sec-WebSocket-Extensions: permessage-deflate; "


@pytest.mark.parametrize(("offer", "agreed"), [("server_max_window_bits=8", False), ("server_max_window_bits=9", True)])
def test_a_window_with_which_zlib_does_not_compress_is_declined(offer: str, agreed: bool) -> None:
    library = ServerProtocol()
    library.receive_data(handshake("/", OFFER + offer))
    [request] = library.events_received()
    assert isinstance(request, Request)
    asked = Handshake("/", HeadersView(request.headers), compression=True)
    response, compression = library_answer(request, asked)
    assert (response.status_code, compression is not None) == (101, agreed)


def asking() -> ClientRequest:
    return ClientRequest(DialRequest("ws://127.0.0.1/"), compression=True)


@pytest.mark.parametrize(("chosen", "opens"), [("client_max_window_bits=8", False), ("client_max_window_bits=9", True)])
def test_an_answer_with_such_a_window_is_refused(chosen: str, opens: bool) -> None:
    asked = asking()
    answer = accept_response(asked.request.serialize(), OFFER + chosen)
    if opens:
        assert asked.receive(answer) is not None
    else:
        with pytest.raises(InvalidHandshake, match="permessage-deflate"):
            asked.receive(answer)


def test_headers_of_a_refusal_are_latin_1() -> None:
    with pytest.raises(HandshakeRejected) as caught:
        asking().receive(b"HTTP/1.1 403 No\r\nX-Who: a\xff\xfe\r\nx-who: b\r\nContent-Length: 0\r\n\r\n")
    assert caught.value.headers.get_all("X-Who") == ["a\xff\xfe", "b"]

"""Requests and responses that not every version of the `websockets` library judges the same. wsrpc does."""

from __future__ import annotations

import pytest
from raw_websocket import accept_response, handshake
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request
from websockets.server import ServerProtocol

from wsrpc import Handshake, HandshakeRejected
from wsrpc._base.request_headers import HeadersView
from wsrpc._net.client_handshake import ClientRequest
from wsrpc._net.dial_request import DialRequest
from wsrpc._net.library_handshake import library_answer

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

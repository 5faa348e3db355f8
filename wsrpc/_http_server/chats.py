"""`ChatRoutes`: the URLs of chats, whose clients send the whole conversation, and learn from the server what goes on.

=======  ===============  =============================================================================
method   path             effect
=======  ===============  =============================================================================
POST     (none)           starts a run with the body, which has the id of the chat, or joins the one of its last message
GET      ``ID/stream``    responds with all items of the latest run while it goes on, or with 204
DELETE   ``ID/stream``    stops all runs that go on, for all their readers
=======  ===============  =============================================================================
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

from .._server.server import Server
from ..errors import HandshakeRejected, KeyReused, RemoteError, WsrpcError
from ..handshake import Handshake
from .answers import COMMENT, CUT, encode
from .chat_runs import Asked, ChatRun, ChatRuns
from .requests import HttpRequest, HttpResponse
from .routed_request import PULSE, RoutedRequest, event_stream, with_pauses
from .routes import Respond, Routes
from .runs import stream


class ChatWriter(Protocol):
    """Makes the events of a protocol from the items of one run, for one reader."""

    def start(self) -> list[dict[str, Any]]: ...

    def write(self, item: Any) -> list[dict[str, Any]]:
        """Return the events of an item.

        Raises:
            ValueError: clients of the protocol do not know it.
        """
        ...

    def end(self, error: WsrpcError | None) -> list[dict[str, Any]]: ...


class ChatProtocol(NamedTuple):
    """A protocol of chats.

    Attributes:
        name: a word.
        read: returns what a body says. Raises `LookupError` or `TypeError` if that is not all there.
        writer: gets the id of the chat and its run.
        headers: of a stream.
        done: the last bytes of a stream.
    """

    name: str
    read: Callable[[dict[str, Any]], Asked]
    writer: Callable[[str, ChatRun], ChatWriter]
    headers: list[tuple[str, str]]
    done: bytes


class ChatRequest(RoutedRequest):
    """A request to `ChatRoutes`. The body is the only argument."""

    def _by_name(self, found: dict[str, Any]) -> list[Any]:
        return [found]


class ChatRoutes(Routes):
    """The URLs of the chats that ``event`` answers.

    Raises:
        TypeError: the server has no handler for it yet, or one whose runs cannot answer chats.
    """

    request_class = ChatRequest

    def __init__(self, server: Server, event: str, protocol: ChatProtocol) -> None:
        super().__init__(server)
        self._event = event
        self._protocol = protocol
        self._runs = ChatRuns(server, event, protocol.name, protocol.read)

    def _find(self, request: HttpRequest, handshake: Handshake, path: str) -> tuple[Respond, str, str]:
        chat, slash, rest = path.rpartition("/")
        found: dict[tuple[str, str], Respond] = {
            ("POST", ""): self._post,
            ("GET", "/stream"): partial(self._get, chat),
            ("DELETE", "/stream"): partial(self._delete, chat),
        }
        respond = found.get((request.method, slash + rest))
        if respond is None or bool(chat) == (request.method == "POST"):
            raise HandshakeRejected(404, "a chat has POST, and GET and DELETE of ID/stream")
        return respond, self._event, "?"  # the key is known later

    async def _post(self, request: RoutedRequest) -> HttpResponse:
        asked = self._runs.asked(*request.args)
        run, items = await self._runs.ask(request.principal, asked)
        run = run._replace(before=())  # who has sent the message has it
        if items is None:
            with suppress(KeyReused):  # another tab has just asked this
                return await self._stream(request, asked.chat, run, None)
        return await self._stream(request, asked.chat, run, "0")

    async def _get(self, chat: str, request: RoutedRequest) -> HttpResponse:
        run, items = await self._runs.latest(request.principal, chat)
        return HttpResponse(204, []) if items is None else await self._stream(request, chat, run, "0")

    async def _delete(self, chat: str, request: RoutedRequest) -> HttpResponse:
        await self._runs.stop(request.principal, chat)
        return HttpResponse(204, [])

    async def _stream(self, request: RoutedRequest, chat: str, run: ChatRun, after: str | None) -> HttpResponse:
        request.options["key"] = run.key
        if after is not None:
            request.args = []  # who joins needs none
        response = await event_stream(request, self._events(request, chat, run, after))
        return response._replace(headers=[*response.headers, *self._protocol.headers])

    async def _events(
        self, request: RoutedRequest, chat: str, run: ChatRun, after: str | None
    ) -> AsyncGenerator[bytes]:
        writer = self._protocol.writer(chat, run)
        async with request.connect() as client, stream(request, client, after) as items:
            if after is None:
                await self._runs.stop_if_unwanted(request.principal, chat, run.key)
            yield b""  # it has begun
            error: WsrpcError | None = None
            yield b"".join(map(data_of, writer.start()))
            try:
                async with aclosing(with_pauses(request, items, PULSE)) as timed:
                    async for found in timed:
                        yield COMMENT if found is None else b"".join(map(data_of, writer.write(found[0])))
            except OSError:  # the server closes, or the reader has left
                yield CUT
                return
            except WsrpcError as exc:
                error = exc
            except ValueError as exc:
                request.log(
                    logging.ERROR, "the handler of %r has yielded what clients do not know: %s", self._event, exc
                )
                error = RemoteError(str(exc))
            yield b"".join(map(data_of, writer.end(error))) + self._protocol.done


def data_of(event: dict[str, Any]) -> bytes:
    return b"data: " + encode(event) + b"\n\n"

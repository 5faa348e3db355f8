"""`ChatRoutes`: the URLs of chats, whose clients send the whole conversation, and learn from the server what goes on.

=======  ===============  =============================================================================
method   path             effect
=======  ===============  =============================================================================
POST     (none)           starts a run with the body, which has the id of the chat, or joins the one of its last message
GET      ``ID/stream``    responds with all items of the run that goes on in the chat, or with 204
DELETE   ``ID/stream``    stops this run, for all its readers, and the chat has no run any more
=======  ===============  =============================================================================

The store has, for each chat of a principal, which run is the latest: all processes know it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, NamedTuple, Protocol

from .._base.logs import logger
from .._keyed.keeper import principal_text
from .._log.contract import NewLog, StoreFull
from .._log.kept import hash_of, read_kept
from .._log.position import LAST
from .._server.server import Server, runs_of
from ..errors import HandshakeRejected, ItemsGone, KeyReused, Overloaded, RemoteError, WsrpcError
from ..handshake import Handshake
from .answers import COMMENT, CUT, encode
from .requests import HttpRequest, HttpResponse
from .routed_request import PULSE, RoutedRequest, event_stream, with_pauses
from .routes import HttpRoutes, Respond
from .runs import PAST_ALL_ITEMS, stop_run, stream

KEPT = 24 * 3600.0
"""Seconds for which a chat knows its latest run."""


class ChatRun(NamedTuple):
    """A run of a chat.

    Attributes:
        key: the key of the run. Empty: the chat has none.
        message: a text that is equal for equal last messages.
        answer: the id of the message that the run writes.
        id: the id by which the client knows the run.
    """

    key: str
    message: str
    answer: str
    id: str


class Asked(NamedTuple):
    """What a client has sent.

    Attributes:
        chat: the id of the chat.
        last: the last message, as JSON has it.
        answer: the id of the message that the answer continues. None: a new one.
        run: the id by which the client knows the run.
        again: whether it wants another answer to the same message.
    """

    chat: str
    last: Any
    answer: str | None
    run: str
    again: bool


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
        read: returns what a body says. Raises `LookupError` or `TypeError` if that is not all there.
        writer: gets the id of the chat and its run.
        headers: of a stream.
        done: the last bytes of a stream.
    """

    read: Callable[[dict[str, Any]], Asked]
    writer: Callable[[str, ChatRun], ChatWriter]
    headers: list[tuple[str, str]]
    done: bytes


class ChatRequest(RoutedRequest):
    """A request to `ChatRoutes`. The body is the only argument."""

    def _by_name(self, found: dict[str, Any]) -> list[Any]:
        return [found]


class ChatRoutes(HttpRoutes):
    """The URLs of the chats that ``event`` answers."""

    request_class = ChatRequest

    def __init__(self, server: Server, event: str, protocol: ChatProtocol) -> None:
        super().__init__(server, (), (), ())
        self._event = event
        self._protocol = protocol
        self._link = runs_of(server).link

    def _find(self, request: HttpRequest, handshake: Handshake, path: str) -> tuple[Respond, str, str]:
        chat, slash, rest = path.strip("/").rpartition("/")
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
        try:
            asked = self._protocol.read(request.args[0])
        except (LookupError, TypeError, AttributeError) as exc:
            raise HandshakeRejected(400, f"this is not what a client of the protocol sends\n{exc!r}") from None
        before = await self._latest(request, asked.chat)
        message = hash_of(asked.last)
        if before.key and before.message == message and not asked.again and await self._is_running(request, before):
            return await self._stream(request, asked.chat, before._replace(id=asked.run), "0")
        key = hash_of([before.key or secrets.token_hex(8), message, secrets.token_hex(8) if asked.again else ""])
        run = ChatRun(key, message, asked.answer or key[:32], asked.run)
        await self._note(request, asked.chat, run)
        try:
            return await self._stream(request, asked.chat, run, None)
        except KeyReused:  # another tab has just asked this
            return await self._stream(request, asked.chat, run, "0")

    async def _get(self, chat: str, request: RoutedRequest) -> HttpResponse:
        run = await self._latest(request, chat)
        if not run.key or not await self._is_running(request, run):
            return HttpResponse(204, [])
        return await self._stream(request, chat, run, "0")

    async def _delete(self, chat: str, request: RoutedRequest) -> HttpResponse:
        run = await self._latest(request, chat)
        if run.key:
            request.options["key"] = run.key
            with suppress(ItemsGone):  # it has ended
                await stop_run(request)
            await self._note(request, chat, run._replace(key=""))
        return HttpResponse(204, [])

    async def _is_running(self, request: RoutedRequest, run: ChatRun) -> bool:
        request.options["key"] = run.key
        args, request.args = request.args, []
        try:
            async with request.connect() as client, stream(request, client, PAST_ALL_ITEMS):
                return True
        except ItemsGone:
            return False
        finally:
            request.args = args

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
                logger.error("the handler of %r has yielded what a client does not know: %s", self._event, exc)
                error = RemoteError(str(exc))
            yield b"".join(map(data_of, writer.end(error))) + self._protocol.done

    # ---------------------------------------------------------------- which run is the latest

    def _log(self, request: RoutedRequest, chat: str) -> tuple[str, NewLog]:
        owner = principal_text(request.principal)
        if owner is None:
            raise HandshakeRejected(403, "a chat needs a principal that is a string or an integer: see on_handshake")
        key = hash_of(["chat", owner, self._event, chat])
        return key, NewLog(id=secrets.token_hex(8), payer=f"chats of {owner}", keep=KEPT)

    async def _latest(self, request: RoutedRequest, chat: str) -> ChatRun:
        key, _ = self._log(request, chat)
        ask, store = self._link.ask, self._link.store
        page = await ask(partial(store.read, key, LAST))
        if page is not None and page.state.last:
            page = await ask(partial(store.read, key, page.state.last - 1))
        if page is None or not page.entries:
            return ChatRun("", "", "", "")
        return ChatRun(*read_kept(page.entries[-1], list[str]))

    async def _note(self, request: RoutedRequest, chat: str, run: ChatRun) -> None:
        key, log = self._log(request, chat)
        step = partial(self._link.store.append, key, log, log.id, 1, [encode(list(run))])
        try:
            await self._link.ask(step)
        except StoreFull:
            raise Overloaded("this user has too many chats") from None


def data_of(event: dict[str, Any]) -> bytes:
    return b"data: " + encode(event) + b"\n\n"

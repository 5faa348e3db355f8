"""`ChatRuns`: which run is the latest of each chat, for clients of HTTP, and for pages with a connection.

The store has, for each chat of a principal, which run is the latest: all processes know it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from .._core.api.peer import Peer
from .._core.handlers.compiled import Handler
from .._core.handlers.introspection import Kind
from .._keyed.keeper import key_of, principal_text
from .._keyed.run import End
from .._log.contract import NewLog, StoreFull
from .._log.kept import hash_of, read_kept
from .._log.position import LAST
from .._server.server import Server, runs_of
from ..errors import BadArguments, Overloaded, RemoteError, made_here
from .answers import encode
from .routed_request import handler_of

KEPT = 24 * 3600.0
"""Seconds for which a chat knows its latest run."""
MOST_STOPPED = 20
"""Number of runs of a chat that are stopped together: a message that was sent does not stop the answer to another."""
LONGEST_ID = 1000
"""Maximum characters of the ids that a client chooses: the store has them for each run."""


class ChatRun(NamedTuple):
    """A run of a chat.

    Attributes:
        key: the key of the run. Empty: the chat has had none.
        message: a text that is equal for equal last messages. Empty: the run was stopped.
        answer: the id of the message that the run writes.
        id: the id by which the client knows the run.
        before: events of what the message has already had.
    """

    key: str
    message: str
    answer: str
    id: str
    before: Sequence[dict[str, Any]] = ()


class Asked(NamedTuple):
    """What a client has sent.

    Attributes:
        chat: the id of the chat.
        last: the last message, as JSON has it.
        answer: the id of the message that the answer continues. None: a new one.
        run: the id by which the client knows the run.
        again: whether it wants another answer to the same message. None: if the one before is done.
        before: events of what the message that the answer continues has already.
    """

    chat: str
    last: Any
    answer: str | None
    run: str
    again: bool | None
    before: Sequence[dict[str, Any]] = ()


class ChatRuns:
    """The runs that answer chats, of one event. A page asks for them by the request ``EVENT.PROTOCOL``.

    Args:
        protocol: its name.
        read: as for `ChatProtocol`. (Also raises `AttributeError`.)
    """

    def __init__(self, server: Server, event: str, protocol: str, read: Callable[[Any], Asked]) -> None:
        channel, _, self._name = event.rpartition(":")
        self._event, self._channel = event, channel or None
        check_handler(handler_of(server, self._channel, self._name), event)
        self._runs = runs_of(server)
        self._read = read
        (server.of(channel) if channel else server).on(f"{self._name}.{protocol}", self._answer, hidden=True)

    async def _answer(
        self, peer: Peer, wants: Literal["ask", "join", "stop"], chat: str, body: Any = None
    ) -> dict[str, Any] | None:
        """Answer a page: with a run, and how many items it has, or None if it is to be started."""
        if wants == "stop":
            await self.stop(peer.principal, chat)
            return None
        if wants == "ask":
            run, items = await self.ask(peer.principal, self.asked(body))
            run = run._replace(before=())  # who has sent the message has it
        else:
            run, items = await self.latest(peer.principal, chat)
            if items is None:
                return None
        return {"key": run.key, "answer": run.answer, "items": items, "before": run.before}

    def asked(self, body: Any = None) -> Asked:
        """Read what a client has sent.

        Raises:
            BadArguments: it is not what a client of the protocol sends.
        """
        try:
            return self._read(body)
        except (LookupError, TypeError, AttributeError) as exc:
            raise made_here(BadArguments(f"this is not what a client of the protocol sends: {exc!r}")) from None

    async def ask(self, principal: object, asked: Asked) -> tuple[ChatRun, int | None]:
        """Return the run that answers, and how many items it has. None: it is to be started.

        Raises:
            BadArguments: an id is not valid.
        """
        ids: list[Any] = [asked.chat or None, asked.answer or "", asked.run]
        if not all(isinstance(id, str) and len(id) <= LONGEST_ID for id in ids):
            raise made_here(BadArguments(f"the ids of a chat are texts of at most {LONGEST_ID} characters"))
        before, items = await self.latest(principal, asked.chat)
        message = hash_of(asked.last)
        if before.message == message and not asked.again:
            state = await self._runs.find(self._key(principal, before))
            # Tabs that send the same message at once start one run, which the latest one may not have done yet.
            if items is not None or state is None:
                return before._replace(id=asked.run), items
            is_done = state.end is not None and not read_kept(state.end, End).failed
            if is_done and asked.again is not None:  # who was away gets the answer
                return before._replace(id=asked.run), state.last
        key = hash_of([before.key, message, secrets.token_hex(8) if asked.again else ""])
        run = ChatRun(key, message, asked.answer or key[:32], asked.run, asked.before)
        await self._note(principal, asked.chat, run)
        return run, None

    async def latest(self, principal: object, chat: str) -> tuple[ChatRun, int | None]:
        """Return the latest run, and how many items it has. None: it does not go on, and its end was reported."""
        runs = await self._all(principal, chat, 1)
        run = runs[-1] if runs else ChatRun("", "", "", "")
        state = await self._runs.find(own := self._key(principal, run))
        if not run.message or state is None:
            return run, None
        is_over = await self._runs.is_over(own, state.id) and not state.can_move
        return run, None if is_over else state.last

    async def _all(self, principal: object, chat: str, most: int) -> list[ChatRun]:
        """Return the latest runs, the oldest first."""
        key, _ = self._log(principal, chat)
        ask, store = self._runs.link.ask, self._runs.link.store
        page = await ask(partial(store.read, key, LAST))
        if page is not None and page.state.last:
            page = await ask(partial(store.read, key, max(0, page.state.first - 1, page.state.last - most)))
        return [] if page is None else [ChatRun(*read_kept(entry, list[Any])) for entry in page.entries]

    async def stop(self, principal: object, chat: str) -> None:
        """Stop all runs that go on. The chat has no run any more."""
        runs = await self._all(principal, chat, MOST_STOPPED)
        for own in {self._key(principal, run): None for run in runs if run.key}:
            if (state := await self._runs.find(own)) is not None:
                await self._runs.stop(own, state.id)
        if runs:
            await self._note(principal, chat, runs[-1]._replace(message=""))

    async def stop_if_unwanted(self, principal: object, chat: str, key: str) -> None:
        """Stop a run that has started if the chat was stopped before that."""
        run, _ = await self.latest(principal, chat)
        if run.key == key and not run.message:
            await self.stop(principal, chat)

    def _key(self, principal: object, run: ChatRun) -> str:
        return key_of(("owner", principal_text(principal) or "", ""), self._channel, self._name, run.key)

    def _log(self, principal: object, chat: str) -> tuple[str, NewLog]:
        owner = principal_text(principal)
        if owner is None:
            text = "a chat needs a principal that is a string or an integer: see on_handshake"
            raise made_here(RemoteError(text, "forbidden"))
        key = hash_of(["chat", owner, self._event, chat])
        return key, NewLog(id=secrets.token_hex(8), payer=f"chats of {owner}", keep=KEPT)

    async def _note(self, principal: object, chat: str, run: ChatRun) -> None:
        key, log = self._log(principal, chat)
        try:
            await self._runs.link.ask(partial(self._runs.link.store.append, key, log, log.id, 1, [encode(list(run))]))
        except StoreFull:
            raise made_here(Overloaded("this user has too many chats")) from None


def check_handler(handler: Handler | None, event: str) -> None:
    """Check that runs of a handler can answer chats.

    Raises:
        TypeError: they cannot.
    """
    if handler is None:
        raise TypeError(f"the server has no handler for {event!r}: register it before the routes of its chats")
    if handler.keep is None or handler.keep.scope is not None or handler.facts.kind is not Kind.STREAM:
        raise handler.facts.refusal(None, "a handler that answers chats yields items, and has keep=, without scope=")

"""`RunInbox`: the messages for a run, which any process adds, and the handler reads.

They are in a log of their own, because the numbers of the run's log are those of its items. The order of the entries
decides what happens to a message: the handler gets it if the log says "read" before it says "closed". So those who send
and the handler agree, whichever processes end in between.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, Self

from msgspec import Struct

from .._core.handlers.compiled import Handler
from .._core.handlers.invocation import InboxMessage
from .._log.contract import Appended, NewLog, StoreFull
from .._log.kept import Encode, hash_of, read_kept
from .._log.link import StoreLink, insist
from ..errors import ItemsGone, NotRead, Overloaded, made_here

Ask = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Calls the store, again if it does not answer."""


class Entry(Struct, array_like=True, omit_defaults=True):
    """An entry of the log of an inbox."""

    kind: Literal["message", "read", "closed"]
    number: int = 0
    """For "read": the number of the message."""
    id: str = ""
    principal: str | int | None = None
    value: Any = None


def inbox_of(link: StoreLink, encode: Encode, handler: Handler, id: str, payer: str) -> RunInbox | None:
    """Return the inbox of a run. None: its handler has none."""
    keep = handler.keep
    if keep is None or handler.to_message is None:
        return None
    return RunInbox(link, encode, id, payer, keep.seconds, handler.to_message)


class RunInbox:
    """The inbox of a run.

    Args:
        id: the id of the run.
        payer: pays for the log, if it begins now. It takes none of the places that the payer has for runs.
        keep: seconds for which the log is kept, unless `hold` prolongs it.
        convert: converts messages to the type that the handler declares.
    """

    def __init__(
        self, link: StoreLink, encode: Encode, id: str, payer: str, keep: float, convert: Callable[[Any], Any]
    ) -> None:
        self._link = link
        self._encode = encode
        self._log = NewLog(id=f"{id}inbox", payer=f"inboxes of {payer}", keep=keep)
        self._convert = convert
        self._lock = asyncio.Lock()
        """One task reads at a time."""
        self._writer = secrets.token_hex(8)
        self._recorded = 0
        """The number of messages of which this reader has noted that they are read."""
        self._asked = 0
        """The number of the last one."""
        self._last = 0
        """The number of the last entry that was read."""
        self._page = deque[Entry]()
        """Entries that were read from the store."""
        self._unread: dict[int, Entry] = {}
        """Messages of which the log does not say yet that they are read, by their numbers."""
        self._known = set[tuple[str | int | None, str]]()
        """The principals and ids of those that are read: who sends a message again may have added it twice."""

    # ------------------------------------------------------------ the log

    async def _add(self, ask: Ask, writer: str, *entries: Entry, sequence: int = 1) -> Appended:
        encoded = [self._encode(entry) for entry in entries]
        added: Appended = await ask(
            partial(self._link.store.append, self._log.id, self._log, writer, sequence, encoded)
        )
        return added

    async def _read(self, ask: Ask, after: int) -> list[Entry]:
        """Return entries after a number. Without any, wait up to half a lease.

        Raises:
            ItemsGone: the store has dropped them.
        """
        store = self._link.store
        page = await ask(partial(store.read, self._log.id, after, wait=store.lease / 2))
        if page is None or page.number != after + 1:
            raise made_here(ItemsGone("messages for this run are no longer kept: too many, or the store has lost them"))
        return [read_kept(entry, Entry) for entry in page.entries]

    async def hold(self) -> None:
        """Keep the log, until this is cancelled."""
        while True:
            with suppress(StoreFull):  # those who send are refused
                await self._add(insist, "", sequence=0)
            await asyncio.sleep(self._log.keep / 3)

    async def close(self, ask: Ask = insist) -> None:
        """Note that the run has ended. Messages of which the log does not say that they are read are not read."""
        await self._add(ask, secrets.token_hex(8), Entry("closed"))

    # ------------------------------------------------------------ sending

    async def send(
        self, id: str, principal: str | int | None, value: Any, is_over: Callable[[], Awaitable[bool]]
    ) -> None:
        """Add a message, and wait until the handler has read it. The same id is the same message.

        Args:
            is_over: returns whether the run has ended.

        Raises:
            NotRead: the run has ended before.
            Overloaded: the store has no room, or does not answer.
        """
        ask, named = self._link.ask, (principal, id)
        try:
            await self._add(ask, hash_of(named)[:40], Entry("message", 0, id, principal, value))
        except StoreFull:
            raise made_here(Overloaded("the store is full, or has too many messages of this caller")) from None
        numbers, last = set[int](), 0  # from the first entry, because it may be sent again long after it was read
        while True:
            for entry in (entries := await self._read(ask, last)):
                last += 1
                if entry.kind == "message" and (entry.principal, entry.id) == named:
                    numbers.add(last)
                elif entry.kind == "read" and entry.number in numbers:
                    return
                elif entry.kind == "closed" and numbers:
                    raise made_here(NotRead("the handler has ended, and has not read this message"))
            if not entries and await is_over():
                await self.close(ask)

    # ------------------------------------------------------------ reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> InboxMessage[Any]:
        """Return the next message. Cancelling is safe."""
        async with self._lock:
            while True:
                while self._page:
                    if (found := await self._next_in_page()) is not None:
                        return InboxMessage(self._convert(found.value), found.id, found.principal)
                if (oldest := next(iter(self._unread), 0)) > self._asked:
                    await self._add(insist, self._writer, Entry("read", oldest), sequence=self._recorded + 1)
                    self._recorded, self._asked = self._recorded + 1, oldest
                elif not self._last:
                    await self._add(insist, "", sequence=0)
                self._page.extend(await self._read(insist, self._last))

    async def _next_in_page(self) -> Entry | None:
        """Return the message that the next entry says is read, if it is a new one."""
        if self._page[0].kind == "closed":
            await asyncio.get_running_loop().create_future()  # the handler is being stopped
        entry = self._page.popleft()
        self._last += 1
        if entry.kind == "message":
            self._unread[self._last] = entry
            return None
        found = self._unread.pop(entry.number, None)
        if found is None or (found.principal, found.id) in self._known:
            return None
        self._known.add((found.principal, found.id))
        return found

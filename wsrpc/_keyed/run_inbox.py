"""`RunInbox`: the messages for a run, which any process adds, and the handler reads.

They are in a log of their own, because the numbers of the run's log are those of its items. The order of the entries
decides what happens to a message. The process of a handler claims it, hands it to the handler if the log was not closed
before the claim, and then notes that it was read. So who sends learns that it was read or, when the log is closed, that
it was not, whichever processes end in between. If a process ends after its claim, nobody knows.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, Self

import msgspec
from msgspec import Struct

from .._base.logs import logger
from .._core.handlers.compiled import Handler
from .._core.handlers.invocation import InboxMessage
from .._log.contract import NewLog, Page, StoreFull
from .._log.kept import Encode, hash_of, read_kept
from .._log.link import RETRY, StoreLink, insist
from ..errors import NotRead, Overloaded, RunLost, made_here

MOST_MESSAGES, MOST_BYTES = 500, 512 * 1024
"""How many messages a run takes, and how large they are together. With what the store needs for each, these are less
than the `log_bytes` of a store, so that an attempt can read all of them."""

Ask = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Calls the store, again if it does not answer."""


class Entry(Struct, array_like=True, omit_defaults=True):
    """An entry of the log of an inbox."""

    kind: Literal["message", "claimed", "read", "closed"]
    number: int = 0
    """For "claimed" and "read": the number of the message."""
    id: str = ""
    by: str = ""
    """The sender, for whom the same id is the same message; who has claimed it; or who has closed the inbox, where a
    process that does not run the handler has no name."""
    principal: str | int | None = None
    value: Any = None


def inbox_of(link: StoreLink, encode: Encode, handler: Handler, id: str, payer: str) -> RunInbox | None:
    """Return the inbox of a run. None: its handler has none."""
    keep = handler.keep
    return None if keep is None or keep.inbox is None else RunInbox(link, encode, id, payer, keep.seconds)


class RunInbox:
    """The inbox of a run, in one process.

    Args:
        id: the id of the run.
        payer: pays for the log, if it begins now. It takes none of the places that the payer has for runs.
        keep: seconds for which the run is kept.
    """

    def __init__(self, link: StoreLink, encode: Encode, id: str, payer: str, keep: float) -> None:
        self._link = link
        self._encode = encode
        # It is kept longer than the run, also if nobody has prolonged it since the lease of the run has lapsed.
        self._log = NewLog(id=f"{id}inbox", payer=f"inboxes of {payer}", keep=2 * keep + 10 * link.store.lease)
        self._keep = keep
        self.name = secrets.token_hex(8)
        """The name of this process as a reader."""
        self._noting = set[asyncio.Task[None]]()
        """Note that messages were read."""

    async def add(self, entry: Entry, *, ask: Ask = insist, writer: str = "", sequence: int = 1) -> None:
        """Add an entry. A writer that repeats itself adds it once."""
        entries = [self._encode(entry)]
        step = partial(self._link.store.append, self._log.id, self._log, writer or secrets.token_hex(8))
        await ask(partial(step, sequence, entries))

    async def read(self, after: int, *, ask: Ask = insist, waits: bool = True) -> Page | None:
        """Return entries after a number. Without any, wait up to half a lease, unless this is not wanted."""
        store = self._link.store
        page: Page | None = await ask(partial(store.read, self._log.id, after, wait=store.lease / 2 if waits else 0.0))
        return page

    async def prolong(self) -> None:
        """Keep the log from now on, or begin it."""
        with suppress(StoreFull):  # those who send are refused
            await insist(partial(self._link.store.append, self._log.id, self._log, "", 0, []))

    async def hold(self) -> None:
        """Keep the log, until this is cancelled."""
        while True:
            await self.prolong()
            await asyncio.sleep(self._keep / 3)

    def note_read(self, number: int) -> None:
        """Note that the handler has a message."""
        self._noting.add(task := self._link.spawn(self.add(Entry("read", number))))
        task.add_done_callback(self._noting.discard)

    async def close(self) -> None:
        """Note that the run has ended, after all messages that the handler has read here."""
        if self._noting:
            await asyncio.wait(self._noting)
        with suppress(StoreFull):  # those who wait note it themselves
            await self.add(Entry("closed", by=self.name))

    async def send(self, message: Entry, is_over: Callable[[], Awaitable[bool]], *, has_ended: bool) -> None:
        """Add a message, unless it is there, and wait until the handler has read it.

        Args:
            is_over: returns whether the run has ended.
            has_ended: whether it had ended before.

        Raises:
            NotRead: the run has ended before.
            Overloaded: there are too many messages, or the store has no room, or does not answer.
            RunLost: nobody knows whether it was read, or the store has lost messages.
        """
        ask, named = self._link.ask, (message.by, message.id)
        numbers, claimed, last, count, size = set[int](), set[str](), 0, 0, len(self._encode(message))
        while True:
            page = await self.read(last, ask=ask, waits=bool(numbers))
            if numbers if page is None else page.number != last + 1:
                raise made_here(RunLost("the store has lost messages for this run"))
            for kept in () if page is None else page.entries:
                last, entry = last + 1, read_kept(kept, Entry)
                count, size = count + (entry.kind == "message"), size + len(kept)
                if entry.kind == "message" and (entry.by, entry.id) == named:
                    numbers.add(last)
                elif entry.kind == "claimed" and entry.number in numbers:
                    claimed.add(entry.by)
                elif entry.kind == "read" and entry.number in numbers:
                    return
                elif entry.kind == "closed" and numbers:
                    if claimed - {entry.by}:
                        raise made_here(RunLost("perhaps a lost attempt has read this message"))
                    raise not_read()
            if page is not None and page.entries:
                continue
            if numbers:
                if await is_over():
                    await self.add(Entry("closed"), ask=ask)
                continue
            if has_ended:
                raise not_read()
            if count >= MOST_MESSAGES or size > MOST_BYTES:
                raise made_here(Overloaded("this run has too many messages"))
            try:
                await self.add(message, ask=ask, writer=hash_of(named)[:40])
            except StoreFull:
                raise made_here(Overloaded("the store has no room for a message")) from None


def not_read() -> NotRead:
    return made_here(NotRead("the handler has ended, and has not read this message"))


class InboxReader:
    """The messages for the handler of one attempt. Cancelling a read is safe.

    Args:
        handler: a handler with messages.
        run: the id of the run, for log lines.
    """

    def __init__(self, inbox: RunInbox, handler: Handler, run: str) -> None:
        assert handler.to_message is not None
        self._inbox = inbox
        self._convert = handler.to_message
        self._run = run
        self._lock = asyncio.Lock()
        """One task reads at a time."""
        self._page = deque[Entry]()
        """Entries that were read from the store."""
        self._last = 0
        """The number of the last entry before them."""
        self._unread: dict[int, tuple[str, InboxMessage[Any]]] = {}
        """The messages that this handler has not read, and their senders, by their numbers."""
        self._readable: dict[int, Literal["claimed", "read"]] = {}
        """Those of them which it may read: it has claimed them, or another attempt has read them. (What another one
        has only claimed may be a message of which the sender learns that it is not read.)"""
        self._known = set[tuple[str, str]]()
        """The senders and ids of those that it has read: who sends one again may have added it twice."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> InboxMessage[Any]:
        async with self._lock:
            while (found := self._pop()) is None:
                if not self._page:
                    if self._unread:
                        oldest = next(iter(self._unread))
                        entry = Entry("claimed", oldest, by=self._inbox.name)
                        await self._inbox.add(entry, writer=self._inbox.name, sequence=oldest)
                    await self._read_page()
                elif self._page[0].kind == "closed":
                    await asyncio.get_running_loop().create_future()  # the handler is being stopped
                else:
                    self._note(self._page.popleft())
            return found

    async def _read_page(self) -> None:
        if (page := await self._inbox.read(self._last)) is None:
            await self._inbox.prolong()
            if (page := await self._inbox.read(self._last)) is None:
                return await asyncio.sleep(RETRY)  # the store is full
        if page.number != self._last + 1:
            logger.warning("the store has dropped messages for the run %s: there are too many", self._run)
            self._last = page.number - 1
        self._page.extend(read_kept(entry, Entry) for entry in page.entries)

    def _note(self, entry: Entry) -> None:
        """Note what the next entry of the log says."""
        self._last += 1
        if entry.kind == "message":
            try:
                message = InboxMessage(self._convert(entry.value), entry.id, entry.principal)
                self._unread[self._last] = entry.by, message
            except msgspec.ValidationError as exc:  # of another version of the handler. Nobody reads it
                logger.warning("a message for the run %s does not fit: %s", self._run, exc)
        elif entry.number in self._unread and (entry.kind == "read" or entry.by == self._inbox.name):
            self._readable[entry.number] = "read" if entry.kind == "read" else "claimed"

    def _pop(self) -> InboxMessage[Any] | None:
        """Pop the oldest message that is a new one, if the handler may read it."""
        while (oldest := next(iter(self._unread), 0)) in self._readable:
            if self._readable.pop(oldest) == "claimed":
                self._inbox.note_read(oldest)
            sender, message = self._unread.pop(oldest)
            if (sender, message.id) not in self._known:
                self._known.add((sender, message.id))
                return message
        return None

"""`RunInbox`: the messages for a run, which any process adds, and the handler reads.

They are in a log of their own, because the numbers of the run's log are those of its items. The order of the entries
decides what happens to a message. The process of a handler claims it, hands it to the handler if the log was not closed
before the claim, and then notes that it was read. So who sends learns that it was read or, when the log is closed, that
it was not, whichever processes end in between. If a process ends after its claim, nobody knows.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
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
from ..errors import KeyReused, NotRead, Overloaded, RunLost, made_here

MOST_MESSAGES, MOST_BYTES = 500, 512 * 1024
"""How many messages a run takes, and how large they are together. With what the store needs for each, these are less
than the `log_bytes` of a store, so that an attempt can read all of them."""
OF_ONE_SENDER, BYTES_OF_ONE_SENDER = 200, 128 * 1024
"""How many of one sender, and how large they are together: who floods a run does not keep others from approving it."""

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
    """The message. For "closed": the numbers of those that were read, where no entry says so."""
    digest: str = ""
    """Of a message: it differs for different values."""


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
        self._unnoted = set[int]()
        """The numbers of the messages that were read, and of which this is not noted yet."""

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

    def sending(self, message: Entry) -> Sending:
        """Begin to send a message."""
        return Sending(self, message, self._encode, self._link.ask)

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

        async def note() -> None:
            with suppress(StoreFull):  # its end says it
                await self.add(Entry("read", number))
                self._unnoted.discard(number)

        self._unnoted.add(number)
        self._noting.add(task := self._link.spawn(note()))
        task.add_done_callback(self._noting.discard)

    async def close(self) -> None:
        """Note that the run has ended, after all messages that the handler has read here."""
        if self._noting:
            await asyncio.wait(self._noting)
        with suppress(StoreFull):  # those who wait note it themselves
            await self.add(Entry("closed", by=self.name, value=sorted(self._unnoted) or None))


class Sending:
    """A message on its way, and what the log says of it.

    Its methods raise `NotRead` if the run has ended before or takes no more messages, `KeyReused` if the id is that of
    another message, `Overloaded` if the store has no room or does not answer, and `RunLost` if nobody knows whether it
    was read, or the store has lost messages.
    """

    def __init__(self, inbox: RunInbox, message: Entry, encode: Encode, ask: Ask) -> None:
        self._inbox = inbox
        self._message = message
        self._ask = ask
        self._last = 0
        """The number of the last entry that was read."""
        self._numbers = set[int]()
        """Those of the message. It has two if it was sent in two processes at once."""
        self._claimed = set[str]()
        """Who has claimed it."""
        self._counts, self._sizes = Counter[str](), Counter[str | None]()
        """How many messages there are of each sender with this one, and how large they are. None: other entries."""
        self._count(message, len(encode(message)))
        self._is_read = False

    async def add(self, *, has_ended: bool) -> None:
        """Add it, unless it is there.

        Args:
            has_ended: whether the run has ended.
        """
        while not self._numbers:
            if await self._read(waits=False):
                continue
            if has_ended:
                raise not_read()
            sender = self._message.by
            if self._counts[sender] > OF_ONE_SENDER or self._sizes[sender] > BYTES_OF_ONE_SENDER:
                raise full(" of one sender", OF_ONE_SENDER, BYTES_OF_ONE_SENDER)
            if self._counts.total() > MOST_MESSAGES or self._sizes.total() > MOST_BYTES:
                raise full("", MOST_MESSAGES, MOST_BYTES)
            writer = hash_of([sender, self._message.id])[:40]
            try:
                await self._inbox.add(self._message, ask=self._ask, writer=writer)
            except StoreFull:
                raise made_here(Overloaded("the store has no room for a message")) from None

    async def wait(self, is_over: Callable[[], Awaitable[bool]]) -> None:
        """Wait until the handler has read it.

        Args:
            is_over: returns whether the run has ended.
        """
        while not self._is_read:
            if not await self._read(waits=True) and await is_over():
                await self._inbox.add(Entry("closed"), ask=self._ask)

    async def _read(self, *, waits: bool) -> bool:
        """Read what follows in the log. Return whether there was something."""
        page = await self._inbox.read(self._last, ask=self._ask, waits=waits)
        if self._numbers if page is None else page.number != self._last + 1:
            raise made_here(RunLost("the store has lost messages for this run"))
        entries: Sequence[bytes] = () if page is None else page.entries
        for entry in entries:
            self._note(read_kept(entry, Entry), len(entry))
        return bool(entries)

    def _count(self, entry: Entry, size: int) -> None:
        if entry.kind == "message":
            self._counts[entry.by] += 1
        self._sizes[entry.by if entry.kind == "message" else None] += size

    def _note(self, entry: Entry, size: int) -> None:
        self._last += 1
        if self._is_read:
            return
        self._count(entry, size)
        if entry.kind == "message" and (entry.by, entry.id) == (self._message.by, self._message.id):
            if entry.digest != self._message.digest:
                raise made_here(KeyReused("the id belongs to another message"))
            self._numbers.add(self._last)
        elif entry.kind == "claimed" and entry.number in self._numbers:
            self._claimed.add(entry.by)
        elif entry.kind == "read":
            self._is_read = entry.number in self._numbers
        elif entry.kind == "closed" and self._numbers:
            self._is_read = not self._numbers.isdisjoint(entry.value or ())
            if not self._is_read and self._claimed - {entry.by}:
                raise made_here(RunLost("perhaps a lost attempt has read this message"))
            if not self._is_read:
                raise not_read()


def not_read() -> NotRead:
    return made_here(NotRead("the handler has ended, and has not read this message"))


def full(whose: str, count: int, size: int) -> NotRead:
    return made_here(NotRead(f"a run takes at most {count} messages{whose}, of together {size // 1024} KiB"))


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

"""`Tails`: the last entries of the logs that a process reads, which it hears on one connection to Redis."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from redis.exceptions import RedisError

from wsrpc.cluster.engine import RESPONSE_TIMEOUT
from wsrpc.store import LogState, Page, StoreLost

from ._broker_connection import error_text

TAIL_BYTES = 64 * 1024
"""Bytes of the last entries of a log that a process has at hand for its readers."""
ENTRY_OVERHEAD = 192
"""Bytes for which an entry counts besides its own."""
LONGEST_PAGE = 256
"""Maximum number of entries in a page."""

STORE_CLOSED = "the store was closed"

WATCH_INTERVAL = 0.25
"""Seconds between the questions whether the processes live that own the logs for which readers wait."""
LISTEN_AGAIN_DELAY = 0.1
"""Seconds until a process with logs of its own listens again."""
FIRST_LISTEN_TIMEOUT = 1.0
"""Seconds for which the first log of a process waits until the process listens."""
OUTAGE_TIME = 3.0
"""Seconds after an outage was noticed in which the connections of others are not missed: perhaps Redis was away."""

ReadPage = Callable[[str, int], Awaitable[tuple[Page | None, str, float]]]


class Tail:
    """The last entries of a log, as far as this process knows them.

    Attributes:
        readers: the number of those who use it.
        is_own: whether only this process adds to the log, so nothing is published that it does not know.
        is_idle: whether nobody has used it for a while.
        process: the process that owns the log. Empty if there is none, or it is not known.
        due: when the log may be lost, because its process is absent. Until then, the store need not be asked again.
        subscribed: done when what is published arrives.
        changed: done with the next change, with a text that says why the store is lost, or an empty one.
        lock: for reading what it does not have.
    """

    def __init__(self) -> None:
        self.readers = 0
        self.is_own = self.is_idle = False
        self.process, self.due = "", 0.0
        loop = asyncio.get_running_loop()
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self.changed: asyncio.Future[str] = loop.create_future()
        self.lock = asyncio.Lock()
        self.state: LogState | None = None
        """The state of the log. None if there may be entries that are not known."""
        self._ids: deque[str] = deque()
        self._entries: deque[bytes] = deque()
        """The entries up to the last one, and their ids, after the id of the entry before them."""
        self._size = 0

    def page(self, after: int) -> Page | None:
        """Return what is known after a number. None: the store has to be asked."""
        if (state := self.state) is None:
            return None
        place = len(self._entries) + after - state.last
        if not 0 <= place <= len(self._entries):
            return None
        before, *ids = islice(self._ids, place, place + LONGEST_PAGE + 1)
        return Page(state, after + 1, before, [*islice(self._entries, place, place + LONGEST_PAGE)], ids)

    def _id_of(self, number: int, state: LogState) -> str | None:
        """Return the id of an entry. None if it is not known, because it is older than those at hand."""
        place = len(self._entries) + number - state.last
        return self._ids[place] if place >= 0 else None

    def start(self, page: Page) -> None:
        """Know what a page has, if that is the end of the log."""
        is_whole = page.state.last == page.number + len(page.entries) - 1
        self.state = page.state if is_whole else None
        self._ids, self._entries = deque([page.before, *page.ids]), deque(page.entries)
        self._size = sum(map(len, page.entries)) + ENTRY_OVERHEAD * len(page.entries)

    def learn(self, page: Page | None) -> None:
        """Add what was just added to the log. None: that is not known."""
        state = self.state
        is_same = page is not None and state is not None and page.state.id == state.id
        if page is None or page.state.last != page.number + len(page.entries) - 1:
            self.state = None
        elif state is None or not is_same:
            self.start(page)
        elif page.number == state.last + 1 and page.before == self._ids[-1]:
            self.state = page.state
            self._ids += page.ids
            self._entries += page.entries
            self._size += sum(map(len, page.entries)) + ENTRY_OVERHEAD * len(page.entries)
        elif page.state.last > state.last or page.state.end is not None:
            self.start(page)
        elif (id := self._id_of(page.state.last, state)) == [page.before, *page.ids][-1]:
            return
        elif id is None:  # it arrives late, or the log has lost some, and others have their numbers
            self.state = None
        else:
            self.start(page)
        while self._size > TAIL_BYTES and len(self._entries) > 1:
            self._ids.popleft()
            self._size -= len(self._entries.popleft()) + ENTRY_OVERHEAD
        self.wake("")

    def wake(self, lost: str) -> None:
        changed, self.changed = self.changed, asyncio.get_running_loop().create_future()
        changed.set_result(lost)

    def end(self, lost: str) -> None:
        """End the waiting of all readers, because the connection is lost."""
        if not self.subscribed.done():
            self.subscribed.set_result(None)
        self.state = None
        self.wake(lost)


class Tails:
    """The tails of the logs that a process reads, or that it alone writes, in one event loop.

    Args:
        client: of the library.
        channels: the beginning of the names of the channels on which the entries of logs are published.
        read_page: reads from Redis.
        listens: registers this process as one that listens.
    """

    def __init__(
        self, client: Any, name: str, lease: float, read_page: ReadPage, listens: Callable[[str], Awaitable[object]]
    ) -> None:
        self._client = client
        self._lease = lease
        self._absent = f"{name}:absent:"
        self._channels = f"{name}:changed:"
        self._processes = f"{name}:process:"
        self._read_page = read_page
        self._listens = listens
        self.process = secrets.token_hex(8)
        """The name of this process, in which one event loop runs."""
        self._stays = False
        """Whether others watch this process, so it always listens."""
        self._lost_at = -math.inf
        """When an outage was noticed last."""
        self._watching: asyncio.Task[None] | None = None
        self._tails: dict[str, Tail] = {}
        """By the keys of the logs."""
        self._listening: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None]
        """Done when it listens, or cannot for now."""
        self._pubsub: Any = None
        """The connection that is listened on. None while there is none."""

    async def announce(self) -> str:
        """Listen from now on, as a sign of life. Return the name of this process if it listens already."""
        self._stays = True
        self._start_listening()
        if not self._first.done():  # also of another log that has just begun to wait
            await asyncio.wait((self._first,), timeout=FIRST_LISTEN_TIMEOUT)
        return "" if self._pubsub is None else self.process

    def outage(self) -> None:
        """Note that Redis may have been away."""
        self._lost_at = asyncio.get_running_loop().time()

    @property
    def watches(self) -> bool:
        """Whether the connections of other processes count as signs of their lives."""
        return asyncio.get_running_loop().time() - self._lost_at > OUTAGE_TIME

    def own(self, key: str, state: LogState) -> None:
        """Know that nobody else adds to a log that has just begun."""
        self.drop(key)
        tail = self._tails[key] = Tail()
        tail.is_own = True
        tail.subscribed.set_result(None)
        tail.start(Page(state, 1, "", (), ()))

    def learn(self, key: str, page: Page | None) -> None:
        """Add what was just added to a log. None: that is not known."""
        if (tail := self._tails.get(key)) is not None and tail.subscribed.done():
            tail.learn(page)
            if tail.state.end is not None if tail.state else tail.is_own:
                del self._tails[key]  # readers that wait have it in hand. The key may soon have another log

    def drop(self, key: str, unless_id: str = "") -> None:
        """Let readers ask the store, unless the log that is known has this id."""
        tail = self._tails.get(key)
        if tail is not None and not (tail.state is not None and tail.state.id == unless_id):
            del self._tails[key]
            tail.end("")

    async def read(self, key: str, after: int, wait: float) -> Page | None:
        """Do what `Store.read` does, without a step of Redis if what is read is known here."""
        known, tail = None, await self._tail(key)
        try:
            async with asyncio.timeout(wait):
                while True:
                    tail.readers += 1
                    try:
                        changed = tail.changed
                        page = tail.page(after) or await self._next_page(tail, key, after)
                        if page is None or page.entries or page.state.end is not None or page.state.last != after:
                            return page
                        if page.state.owner_ended:
                            return page
                        if (end := (page.state.id, page.before)) != (known := known or end):
                            return page  # the log has begun anew, or has other entries instead of some that are lost
                        if self._watching is None or self._watching.done():
                            self._watching = asyncio.create_task(self._watch())
                        await asyncio.wait((changed,))
                    finally:
                        tail.readers -= 1
                    if lost := changed.result():
                        raise StoreLost(lost)
                    if tail.page(after) is None:
                        tail = await self._tail(key)
        except TimeoutError:
            return (await self._read_page(key, after))[0]

    async def _next_page(self, tail: Tail, key: str, after: int) -> Page | None:
        """Read what the tail does not have, one reader after another: what the first one reads, the others may need."""
        await asyncio.shield(tail.subscribed)
        async with tail.lock:
            changed, page = tail.changed, tail.page(after)
            if page is None:
                page, tail.process, left = await self._read_page(key, after)
                if left:
                    loop = asyncio.get_running_loop()
                    tail.due = loop.time() + left
                    loop.call_at(tail.due, tail.learn, None)
                if page is not None and changed is tail.changed:
                    tail.start(page)
        return page

    # ------------------------------------------------------------ listening

    async def _tail(self, key: str) -> Tail:
        """Return the tail of a log, and listen to what is published of it."""
        if (tail := self._tails.get(key)) is None:
            tail = self._tails[key] = Tail()
            if not self._start_listening() and self._pubsub is not None:
                with suppress(RedisError, OSError):  # which `_listen` notices, too
                    await self._pubsub.subscribe(self._channels + key)
        return tail

    @property
    def _wanted(self) -> set[str]:
        others = {self._channels + key for key, tail in self._tails.items() if not tail.is_own}
        return others | {self._processes + self.process}

    def _start_listening(self) -> bool:
        if starts := self._listening is None or self._listening.done():
            self._first = asyncio.get_running_loop().create_future()
            self._listening = asyncio.create_task(self._listen())
        return starts

    async def _listen(self) -> None:
        await self._listen_once()
        while self._stays:
            with suppress(RedisError, OSError):  # it may not listen again for long
                await self._client.set(self._absent + self.process, "lives", px=max(1, round(1000 * self._lease)))
            await asyncio.sleep(LISTEN_AGAIN_DELAY)
            await self._listen_once()

    async def _listen_once(self) -> None:
        """Pass on what is published of the logs that are read, until the connection is lost."""
        lost, here = STORE_CLOSED, asyncio.current_task()
        try:
            async with self._client.pubsub() as pubsub:
                try:
                    asked = set[str]()
                    while missing := self._wanted - asked:
                        await pubsub.subscribe(*missing)
                        asked |= missing
                    self._pubsub = pubsub
                    if not self._first.done():
                        self._first.set_result(None)
                    if self._lost_at > -math.inf:
                        self.outage()  # which ends now
                    await self._listen_on(pubsub)
                finally:
                    self._first.cancel()
                    self._pubsub = None if self._pubsub is pubsub else self._pubsub
        except StoreLost as exc:
            lost = str(exc)
        except (RedisError, OSError) as exc:  # a timeout is an `OSError`, too
            lost = f"Redis: {error_text(exc)}"
        except Exception as exc:
            lost = f"listening to Redis failed: {exc!r}"
            raise
        finally:
            if self._listening is here:  # not of an event loop that is over
                if not self._stays:
                    self._listening = None
                self.outage()
                self._end_all(lost)

    async def _listen_on(self, pubsub: Any) -> None:
        is_asked, due = False, 0.0
        while True:
            async with asyncio.timeout(3 * RESPONSE_TIMEOUT):  # the library may connect again, without a limit
                message = await pubsub.get_message(timeout=RESPONSE_TIMEOUT)
            if message is None and is_asked:
                raise OSError(f"no response within {RESPONSE_TIMEOUT:g} s")
            is_asked = message is None
            if message is None:
                await pubsub.subscribe(self._processes + self.process)  # which needs no right to PING
            else:
                self._received(message["type"], channel := message["channel"].decode(), message["data"])
                if channel == self._processes + self.process:  # it is connected, perhaps again
                    await self._report_listening()
            if (now := asyncio.get_running_loop().time()) > due:
                due = now + RESPONSE_TIMEOUT
                await self._report_listening()
                self._drop_idle()
                if unwanted := {*map(bytes.decode, pubsub.channels)} - self._wanted:
                    await pubsub.unsubscribe(*unwanted)

    async def _report_listening(self) -> None:
        if not await self._listens(self.process):  # after a failover, it may still listen to the old primary
            raise StoreLost("Redis: the primary has no connection of this process that listens")

    def _received(self, kind: str, channel: str, data: Any) -> None:
        key = channel.removeprefix(self._channels)
        if kind == "message":
            self.learn(key, _published(data))
        elif kind == "subscribe" and (tail := self._tails.get(key)) is not None:
            if tail.subscribed.done():  # again: what was published before has not arrived
                self.outage()
                tail.learn(None)
            else:
                tail.subscribed.set_result(None)

    # ------------------------------------------------------------ watching

    async def _watch(self) -> None:
        """Let readers ask for the state of their logs while the processes that own these are not connected."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            waiting = [tail for tail in self._tails.values() if tail.readers and tail.process not in ("", self.process)]
            if not waiting:
                return
            processes = {self._processes + tail.process for tail in waiting}
            try:
                async with asyncio.timeout(RESPONSE_TIMEOUT):
                    listeners = dict(await self._client.pubsub_numsub(*processes))
            except (RedisError, OSError):  # which readers notice, too
                continue
            now = asyncio.get_running_loop().time()
            for tail in waiting:
                if now >= tail.due and not listeners[(self._processes + tail.process).encode()]:
                    tail.learn(None)

    def _drop_idle(self) -> None:
        for key, tail in tuple(self._tails.items()):
            if tail.is_idle and not (tail.readers or tail.is_own):
                del self._tails[key]
            tail.is_idle = not tail.readers

    # ------------------------------------------------------------ the end

    def _end_all(self, lost: str) -> None:
        tails, self._tails = self._tails, {}
        for tail in tails.values():
            tail.end(lost)

    async def close(self) -> None:
        """End the waiting of all readers."""
        self._stays = False
        for task in (self._watching, self._listening):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        self._listening = self._watching = None
        self._end_all(STORE_CLOSED)


def state_of(*fields: Any) -> LogState:
    id, arguments, first, last, end, readers, lost, owner_ended, known_in, attempt, can_move, *behind = fields
    known = text_of(id), text_of(arguments), first, last, end, readers, bool(lost), bool(owner_ended)
    return LogState(*known, known_in / 1000, attempt, bool(can_move), *map(text_of, behind))


def text_of(stored: bytes) -> str:
    return stored.decode(errors="backslashreplace")  # another program may have written it


def _published(message: bytes) -> Page | None:
    """Return the entries that were added to a log. None if they were too many to be published."""
    try:
        number, before, id, arguments, first, last, end, *more, ended = islice(texts := _texts(message), 14)
        readers, *flags = map(int, more)
        entries = int(first), int(last), end if ended == b"1" else None
        state, added = state_of(id, arguments, *entries, readers, *flags), [*texts]
    except ValueError:  # also of a message of another program
        return None
    return Page(state, int(number), text_of(before), added[1::2], [*map(text_of, added[::2])])


def _texts(message: bytes) -> Iterator[bytes]:
    """Yield texts that have their lengths before them."""
    place = 0
    while place < len(message):
        colon = message.index(b":", place)
        end = colon + 1 + abs(int(message[place:colon]))  # otherwise a negative length would lead back again and again
        yield message[colon + 1 : end]
        place = end

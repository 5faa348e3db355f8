"""`SharedConnections`: counts the connections of users together with the other processes of a store."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from functools import partial

from msgspec import Struct

from ..._log.contract import LogState, NewLog
from ..._log.link import StoreLink
from .subject import Subject

ANSWER_TIMEOUT = 2.0
"""Seconds for which a new connection waits for the store. After that, each process counts for itself."""
READ_WAIT = 60.0
"""Seconds after which the log of this process is read again, if nothing has happened."""


class Tally(Struct, eq=False):
    """The connections of one subject in this process.

    Attributes:
        held: the number of those that count.
        known: the number that the store has.
        waiting: the others, and the answers that they wait for: seconds until the store knows more. 0: it knows all.
            None: it does not answer.
    """

    key: str
    most: int
    held: int = 0
    known: int = 0
    waiting: dict[Membership, asyncio.Future[float | None]] = {}
    notifying: asyncio.Task[None] | None = None


class Membership(Struct, eq=False):
    """A connection, as one subject counts it, from its handshake to the end of its session.

    Attributes:
        tally: where the processes of a store count it together.
    """

    subject: Subject
    tally: Tally | None = None


class SharedConnections:
    """Reports to the store how many connections each subject has in this process, and asks it for more.

    Changes during a step are reported together by the next one. The sign of life of this process, for all its numbers,
    is a log without entries. If the store may have lost a number, or may change one late, this process leaves its log,
    and reports all numbers again with another one.
    """

    def __init__(self, link: StoreLink) -> None:
        self._link = link
        self._tallies: dict[str, Tally] = {}
        """Those with connections, and those of which the store has yet to learn that they have none."""
        self._process = ""
        """The key and the id of the log. Empty before it begins."""
        self._left: dict[str, str] = {}
        """Other logs of this process, which perhaps count, too."""
        self._repeating: asyncio.Task[None] | None = None

    async def enter(self, membership: Membership) -> bool:
        """Count one more connection of a subject, if all processes together have less than its quota.

        If the store does not answer, count it, and return False.
        """
        missing: float | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT):
                while self._link.answers:
                    tally = self._tally(membership.subject)
                    tally.waiting[membership] = answer = asyncio.get_running_loop().create_future()
                    self._notify(tally)
                    try:
                        missing = await answer
                    finally:
                        tally.waiting.pop(membership, None)
                    if not missing:
                        break
                    await asyncio.sleep(missing)  # until it is known whether a process was killed
                    missing = None
        if is_unchecked := membership.tally is None and missing is None:
            membership.tally = self._tally(membership.subject)
            membership.tally.held += 1
            self._notify(membership.tally)
        return not is_unchecked

    def leave(self, membership: Membership) -> None:
        """Stop counting a connection. Idempotent."""
        tally, membership.tally = membership.tally, None
        if tally is not None:
            tally.held -= 1
            if self._tallies.get(tally.key) is tally:  # else it has counted before the server was closed
                self._notify(tally)

    def _tally(self, subject: Subject) -> Tally:
        (number, name), most = subject.key, subject.most
        assert most is not None
        key = f"{number}-{name}"
        return self._tallies.setdefault(key, Tally(key, most))

    def _notify(self, tally: Tally) -> asyncio.Task[None]:
        if tally.notifying is None or tally.notifying.done():
            tally.notifying = self._link.spawn(self._update(tally))
        return tally.notifying

    async def _update(self, tally: Tally) -> None:
        while tally.known != tally.held or tally.waiting:
            process = self._process
            try:
                process, asking = await self._started(), [*tally.waiting]
                wanted = tally.held + len(asking)
                acquired = await self._link.store.acquire(tally.key, process, tally.held, wanted, tally.most)
            except Exception:  # `WatchedStore` has logged it
                self._restart(process)
                for answer in tally.waiting.values():
                    if not answer.done():
                        answer.set_result(None)
                return
            tally.known = acquired.count if process == self._process else 0
            for membership in asking:
                if (asked := tally.waiting.pop(membership, None)) is not None and not asked.done():
                    if counts := tally.held < acquired.count:
                        tally.held, membership.tally = tally.held + 1, tally
                    asked.set_result(0.0 if counts else acquired.known_in)
        if not tally.held:
            self._tallies.pop(tally.key, None)

    async def _started(self) -> str:
        """Start the log of this process, if there is none. Return its key."""
        store = self._link.store
        if not self._process:
            process, left = secrets.token_hex(8), dict(self._left)
            if left:
                await store.release(left)
            await store.open(process, NewLog(id=process, payer=process, keep=1, owned=True))
            if not self._process:  # otherwise another task was faster
                self._process = process
                self._left = {key: id for key, id in self._left.items() if key not in left}
                self._link.lease.hold(process, process, partial(self._learn, process), store.lease / 3)
                self._link.spawn(self._notice_loss(process))
        return self._process

    def _learn(self, process: str, state: LogState | None) -> None:
        if state is None or state.end is not None:
            self._restart(process)

    async def _notice_loss(self, process: str) -> None:
        """Wait until the store has lost the log, or is away: perhaps it then has what it had some time ago."""
        with suppress(Exception):
            while process == self._process:
                page = await self._link.store.read(process, 0, wait=READ_WAIT)
                self._learn(process, None if page is None else page.state)
        self._restart(process)

    def _restart(self, process: str) -> None:
        """Report all numbers again, with another log than this one."""
        if process and process == self._process:
            self._link.lease.release(process)
            self._process, self._left[process] = "", process
            for tally in self._tallies.values():
                tally.known = 0
        if self._repeating is None or self._repeating.done():
            self._repeating = self._link.spawn(self._notify_all())

    async def _notify_all(self) -> None:
        while behind := [each for each in self._tallies.values() if each.known != each.held or not each.held]:
            for tally in behind if self._link.answers else ():
                await asyncio.wait((self._notify(tally),))
                if tally.known != tally.held:  # the store has not answered
                    break
            await asyncio.sleep(self._link.store.lease / 6)

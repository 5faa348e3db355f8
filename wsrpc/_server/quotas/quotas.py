"""`QuotaBook`: counts what each user does on all its connections, and refuses what exceeds `Quotas`."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from typing import Any
from weakref import WeakKeyDictionary, finalize

from ..._base.buckets import TokenBucket
from ..._base.logs import LogBudget, address_text
from ..._base.scheduler import LoopScheduler, Scheduler
from ..._core.handlers.compiled import Handler
from ..._core.handlers.lifecycle import ends_the_task
from ..._core.session.sessions import network_of
from ..._keyed.keeper import principal_text
from ..._log.link import StoreLink
from ..._net.serving.handshake_checks import Acceptance, reported
from ..._raw.raw_connection import RawConnection
from ...errors import ConnectionLost, HandshakeRejected, WsrpcError
from ...handshake import Handshake
from ...quotas import Quotas
from ...transport import Traffic
from ..peers import ServedPeer
from .shared_connections import ANSWER_TIMEOUT, Membership, SharedConnections
from .subject import BYTES, QuotaExceeded, Subject, SubjectKey

MOST_IDLE = 10_000
"""Number of subjects without a connection that are remembered. Each takes about 600 bytes."""
HASH = 24
"""Length of the hash of a name."""
LONGEST_PAUSE = 5.0
"""Seconds for which reading may pause. Remote peers take a connection for dead if nothing moves for 10 s."""
REPLACING = 0.2
"""Seconds until a connection is counted again in place of an older one, which soon counts no more. They double."""
ATTEMPTS = 3
"""Number of connections that a client may try at once: a WebSocket, and two over HTTP."""


class Meter:
    """Pauses reading from a peer, while it or another peer of its subjects has sent too many bytes."""

    def __init__(self, buckets: list[TokenBucket], loop: Scheduler) -> None:
        self._buckets, self._loop = buckets, loop
        self._seen = 0

    def __call__(self, transport: Any, traffic: Traffic | None) -> None:
        if traffic is None or traffic.bytes_in is None:  # the transport does not count
            return
        size, self._seen, now = traffic.bytes_in - self._seen, traffic.bytes_in, self._loop.time()
        pause = max([bucket.charge(now, size) for bucket in self._buckets])
        if pause > 0 and hasattr(transport, "pause_receiving"):
            transport.pause_receiving()
            self._loop.call_at(now + min(pause, LONGEST_PAUSE), transport.resume_receiving)


class QuotaBook:
    """Counts the connections of a server by the subjects of its `Quotas`.

    A connection is counted at its handshake, and until `leave`, or, from `bind` on, until `release`. If an adapter
    calls neither, it is counted for as long as the handshake exists. A connection on which a session may resume is
    counted by `resuming` until its client names the session, and then only if it gets a new one.

    Args:
        end_detached: does what `JoinedCluster.end_detached` does, and returns False if the cluster was not joined. None
            without a cluster, where an address has no effect.
    """

    def __init__(
        self,
        quotas: tuple[Quotas, ...],
        link: StoreLink,
        budget: LogBudget,
        end_detached: Callable[[str, str | None], Awaitable[bool]] | None,
    ) -> None:
        self._all = quotas
        self._end_detached = end_detached
        self._link = link
        self._budget = budget
        self._subjects: dict[SubjectKey, Subject] = {}
        self._idle: dict[SubjectKey, None] = {}
        """The subjects without a connection, the latest last."""
        self._loop = LoopScheduler()
        self._opening: WeakKeyDictionary[Handshake, list[Membership]] = WeakKeyDictionary()
        """The memberships of each connection that has not opened. What is left in such a list when Python collects the
        handshake is given up."""
        self._bound: dict[Any, list[Membership]] = {}
        """The memberships of each `Peer` and `RawConnection`."""
        self._resuming = defaultdict[SubjectKey, dict[asyncio.Timeout, None]](dict)
        """The connections of each subject whose clients have not named their session, the oldest first."""
        self._shared = SharedConnections(link)

    # ------------------------------------------------------------ connections

    def admit(
        self, handshake: Handshake, acceptance: Acceptance, waiting: Awaitable[None] | None
    ) -> Awaitable[None] | None:
        """Count a connection that is accepted when ``waiting`` is done. If that takes time, return an awaitable.

        Raises:
            HandshakeRejected: there are too many connections, or the user's function has failed.
        """
        if waiting is not None or self._link.is_shared:
            return self.admit_late(handshake, acceptance, waiting)
        try:
            self._enter(handshake)
        except Exception as exc:
            if isinstance(exc, QuotaExceeded) and handshake.address is not None:
                return self.admit_late(handshake, acceptance)
            raise self._refusal(exc, handshake, acceptance) from None
        return None

    async def admit_late(
        self, handshake: Handshake, acceptance: Acceptance, waiting: Awaitable[None] | None = None
    ) -> None:
        """Do what `admit` does. Cancelling is safe.

        Raises:
            HandshakeRejected: as for `admit`.
        """
        if waiting is not None:
            await waiting
        try:
            try:
                await self._count(handshake, acceptance)
            except QuotaExceeded:
                if not await self._count_in_place(handshake, acceptance):
                    raise
        except Exception as exc:
            raise self._refusal(exc, handshake, acceptance) from None

    @contextmanager
    def resuming(self, handshake: Handshake, acceptance: Acceptance, patience: asyncio.Timeout) -> Generator[None]:
        """Count a connection while its client has yet to name its session, for which ``patience`` waits.

        A subject may have `ATTEMPTS` of them for each connection of its quota. Older ones are dropped: their clients
        have probably dialed again, and must be able to resume.

        Raises:
            HandshakeRejected: the user's function has failed.
        """
        try:
            found = self._subjects_of(handshake)
            counted = [(key, ATTEMPTS * quotas.connections) for quotas, key, _ in found if quotas.connections]
        except Exception as exc:
            raise self._refusal(exc, handshake, acceptance) from None
        for key, most in counted:
            self._resuming[key][patience] = None
            for older in [*self._resuming[key]][:-most]:
                if not older.expired():
                    older.reschedule(asyncio.get_running_loop().time())
        try:
            with acceptance.deciding(patience):
                yield
        finally:
            for key, _ in counted:
                self._resuming[key].pop(patience, None)
                if not self._resuming[key]:
                    del self._resuming[key]

    def _subjects_of(self, handshake: Handshake) -> Iterator[tuple[Quotas, SubjectKey, str]]:
        """Yield each of the `Quotas` that apply to a connection, with the key and the name of the subject."""
        for number, quotas in enumerate(self._all):
            if (name := subject_of(quotas, handshake)) is not None:
                yield quotas, (number, sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:HASH]), name

    async def _count(self, handshake: Handshake, acceptance: Acceptance) -> None:
        try:
            for membership in self._enter(handshake):
                if membership.subject.most is not None and self._link.is_shared:
                    if not await self._shared.enter(membership):
                        acceptance.quotas_unchecked += 1
                    if membership.tally is None:
                        raise QuotaExceeded(membership.subject)
        except BaseException:
            self.leave(handshake)
            raise

    async def _count_in_place(self, handshake: Handshake, acceptance: Acceptance) -> bool:
        """Count a connection in place of a session of its user that has its address, and no connection.

        Otherwise a client that was killed could not connect again while its last session waits for it.
        """
        if handshake.address is None or self._end_detached is None:
            return False
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT / 2):
                is_free = await self._end_detached(handshake.address, principal_text(handshake.principal))
        except (ConnectionLost, TimeoutError):  # perhaps the store misses its process only now
            await self._count(handshake, acceptance)
            return True
        except WsrpcError:  # it is of an earlier version
            return False
        pause = REPLACING
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT / 2):
                while is_free:
                    with suppress(QuotaExceeded):
                        await self._count(handshake, acceptance)
                        return True
                    await asyncio.sleep(pause)
                    pause *= 2
        return False

    def _enter(self, handshake: Handshake) -> list[Membership]:
        memberships: list[Membership] = []
        self._loop.renew()
        try:
            for quotas, key, name in self._subjects_of(handshake):
                subject = self._subjects.get(key) or Subject(quotas, key)
                subject.text = name
                subject.enter()
                self._subjects[key] = subject
                self._idle.pop(key, None)
                memberships.append(Membership(subject=subject))
        except BaseException:
            self._give_up(memberships)
            raise
        finalize(handshake, self._forgotten, memberships).atexit = False
        self._opening[handshake] = memberships
        return memberships

    def leave(self, handshake: Handshake) -> None:
        """Stop counting a connection that does not open. No effect after `bind`. Idempotent."""
        self._forgotten(self._opening.pop(handshake, []))

    def _refusal(self, exc: Exception, handshake: Handshake, acceptance: Acceptance) -> HandshakeRejected:
        if isinstance(exc, QuotaExceeded):
            refusal = HandshakeRejected(429, f"{exc}\n")
            subject = self._subjects.get(exc.subject.key, exc.subject)  # another refusal may have remembered it
            is_new = subject.is_named("connections", asyncio.get_running_loop().time())
            if not subject.connections:  # all its connections are at other processes
                self._remember(subject)
            by = f"Quotas.connections of {exc.subject.name}"
            return reported(refusal, by, handshake, acceptance, self._budget, is_new=is_new)
        text, fields = "refused a connection because quotas= failed, for %s", {"remote": address_text(handshake.remote)}
        self._budget.log(logging.ERROR, text, handshake, exc_info=exc, fields=fields)
        return acceptance.refuse(HandshakeRejected(500, "internal error\n"))

    def bind(self, served: ServedPeer | RawConnection, handshake: Handshake | None) -> None:
        """Count a connection until `release`, and its calls. The connection has received nothing yet."""
        opening = [] if handshake is None else self._opening.pop(handshake, [])
        if not opening:
            return
        memberships, opening[:] = opening[:], []
        subjects = [each.subject for each in memberships]
        if isinstance(served, ServedPeer):
            core = served.core
            core.calls.totals = tuple(subjects)
            core.admission.limit([each for subject in subjects for each in subject.limiters])
            if counting := [subject.own[BYTES] for subject in subjects if BYTES in subject.own]:
                core.host.meter = Meter(counting, core.loop)
        self._bound[served.peer if isinstance(served, ServedPeer) else served] = memberships

    def release(self, connection: Any) -> None:
        """Stop counting a `Peer` or a `RawConnection`. Idempotent."""
        self._give_up(self._bound.pop(connection, []))

    def _forgotten(self, memberships: list[Membership]) -> None:
        """Give up those of a handshake that is answered, or that Python collects, in any thread."""
        if self._loop.is_here:
            self._give_up(memberships)
        elif memberships:
            self._loop.call_soon(partial(self._give_up, memberships))

    def _give_up(self, memberships: list[Membership]) -> None:
        for each in memberships:
            subject = each.subject
            subject.connections -= 1
            self._shared.leave(each)
            if not subject.connections:
                self._remember(subject)
        memberships.clear()

    def _remember(self, subject: Subject) -> None:
        """Remember a subject without a connection, if the next one must find it. Forget the oldest of too many."""
        self._subjects[subject.key] = subject
        self._idle.pop(subject.key, None)
        self._idle[subject.key] = None
        if not subject.remembers or len(self._idle) > MOST_IDLE:
            oldest = next(iter(self._idle)) if subject.remembers else subject.key
            del self._idle[oldest], self._subjects[oldest]

    @property
    def subjects(self) -> Iterable[Subject]:
        """All that are connected to this process, or remembered."""
        return self._subjects.values()

    def bucket_elsewhere(
        self, key: SubjectKey, label: str, amount: int, rated: Mapping[str, Handler]
    ) -> TokenBucket | None:
        """Return a bucket of a subject that spends in another process. It is remembered, so that it is not full here.

        None if no `Quotas` can have named it, or if it is not known here and has spent little: there may be many.
        """
        if (subject := self._subjects.get(key)) is None:
            if key[0] >= len(self._all) or len(key[1]) != HASH:
                return None
            subject = Subject(self._all[key[0]], key)
            bucket = subject.bucket(label, rated)
            if bucket is None or amount <= bucket.little:
                return None
        if not subject.connections:
            self._remember(subject)
        return subject.bucket(label, rated)

    def close(self) -> None:
        """Begin to count anew with other processes, because the store counts this one no more."""
        self._shared = SharedConnections(self._link)

    def abandon(self) -> None:
        """Forget all connections, because the event loop was closed."""
        for memberships in [*self._opening.values()]:
            memberships.clear()
        self._opening.clear()
        self._bound.clear()
        self._subjects.clear()
        self._resuming.clear()
        self._idle.clear()
        self.close()


def checked(quotas: Quotas | Iterable[Quotas]) -> tuple[Quotas, ...]:
    """Return the `Quotas` of the option ``quotas=``.

    Raises:
        TypeError: it is something else.
    """
    found: tuple[Any, ...] = tuple(quotas) if isinstance(quotas, Iterable) else (quotas,)
    if not all(isinstance(each, Quotas) for each in found):
        raise TypeError(f"quotas= is a wsrpc.Quotas or several of them, got {quotas!r}")
    return found


def subject_of(quotas: Quotas, handshake: Handshake) -> str | None:
    """Return the name of the subject that a connection counts for, or None if the quotas do not apply to it.

    Raises:
        TypeError: the principal is neither text nor an integer, or the user's function returns no text.
        Exception: raised by the user's function.
    """
    if quotas.by == "address":
        return str(network_of(handshake.remote)) or None
    try:
        found: Any = quotas.by(handshake) if callable(quotas.by) else handshake.principal
    except BaseException as exc:
        if isinstance(exc, Exception) or ends_the_task(exc):
            raise
        raise RuntimeError(f"Quotas(by=) raised {exc!r}") from exc
    name = found if callable(quotas.by) else principal_text(found)
    if found is not None and not isinstance(name, str):
        wanted = "Quotas.by returns a text" if callable(quotas.by) else "a principal with quotas is text or an integer"
        raise TypeError(f"{wanted}, got {found!r}")
    return name

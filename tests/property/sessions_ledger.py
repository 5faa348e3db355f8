"""Records of messages, calls and sessions for the model of `test_sessions_machine`, and what must be true of them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import Any

from wsrpc import ChannelClosed, ConnectionLost, QueueFull, RemoteError, RequestTimeout
from wsrpc._base.closing import CloseCode
from wsrpc._core.session.session import Session

__all__ = ["Lane", "SessionRecord", "Work"]


class Lane:
    """Events that are sent in one direction in one way, so that they have an order. Their numbers rise."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[int] = []
        self.got: defaultdict[int, list[int]] = defaultdict(list)
        """Those that have arrived, by session. One that the client has lost may go on for a while on the server, where
        its events are still handled: after those of a later session, but in order among themselves."""
        self.handed: set[int] = set()
        """Those that were given to a connection, and may be lost with its session."""
        self.may_be_lost: set[int] = set()
        self.refused: set[int] = set()
        """Messages whose senders got the outcome "not_sent"."""

    def open(self) -> None:
        """There is a connection: all that waited is given to it."""
        self.handed.update(self.sent)

    def lose(self, *, waiting: bool = False) -> None:
        """A session is lost, with what it was given, and with what waits if the user has closed."""
        self.may_be_lost.update(self.sent if waiting else self.handed)

    def arrived(self) -> list[int]:
        return list(chain.from_iterable(self.got[session] for session in sorted(self.got)))

    def check(self) -> None:
        got = self.arrived()
        assert got == sorted(set(got)), f"{self.name}: twice, or out of order: {self.got}"
        assert set(got) <= set(self.sent), f"{self.name}: {got} of {self.sent}"
        assert not self.refused & set(got), f"{self.name}: {got} arrived, not sent: {self.refused}"

    def check_complete(self) -> None:
        missing = set(self.sent) - set(self.arrived()) - self.may_be_lost - self.refused
        assert not missing, f"{self.name}: lost {sorted(missing)} of {self.sent}"


class SessionRecord:
    """One session, and the notifications of it on both sides."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.peer: Any = None
        """The server's."""
        self.inside_here: Session | None = None
        self.inside_there: Session | None = None
        """The sessions that the two peers had when it opened."""
        self.opened_here = self.opened_there = 0
        self.closed_here = self.closed_there = 0
        self.killed = False
        self.cut_short = False
        """Whether time has passed while its killed server closed: handlers may be cancelled before they begin."""
        self.busy: list[float] = []
        """Since when handlers on the server are being told of drops, resumes and the end."""
        self.overtaken = False
        """Whether one of them has taken more than `Limits.open_timeout`: then the others do not wait for it."""
        self.closing: Any = None
        """The transport with which the server has begun to close a connection."""
        self.notified_here: list[str] = []
        self.notified_there: list[str] = []
        """The notifications on each side, in order: "detach" and "resume", and "close" at the end."""
        self.detached_at: float | None = None
        """When the server's side was first seen without a connection, if it has none."""
        self.down = [Lane(f"down, emitted, {label}"), Lane(f"down, awaited, {label}"), Lane(f"down, broadcast {label}")]

    @property
    def over(self) -> bool:
        ended = self.inside_there is not None and self.inside_there.over  # `close` handlers may be called later
        return bool(self.closed_here or self.closed_there or self.killed or ended)

    def check(self) -> None:
        assert self.opened_here <= 1 and self.opened_there <= 1, f"{self.label} is opened twice"
        assert self.closed_here <= self.opened_here, f"{self.label} is closed on the client"
        assert self.closed_there <= self.opened_there, f"{self.label} is closed on the server"
        for notified in (self.notified_here, [] if self.overtaken else self.notified_there):
            drops = notified[:-1] if notified[-1:] == ["close"] else notified
            assert drops == (["detach", "resume"] * len(drops))[: len(drops)], f"{self.label}: out of order: {notified}"
        for lane in self.down:
            lane.check()


@dataclass
class Work:
    """Something that one side does in a task: a call, a stream, an upload or a conversation."""

    number: int
    task: asyncio.Task[Any]
    session: SessionRecord | None
    """Of a server's peer; None for the client."""
    losses: int
    """How many sessions the client had lost when it began."""
    deadline: float
    counted: bool
    """Whether its handler counts how often it runs."""
    cancelled: bool = False

    def check(self, runs: int, losses: int, now: float, *, idle: bool, overflows: bool) -> None:
        """See that it ended as docs/explanation/drops.md says.

        Args:
            runs: how often its handler has begun up to now.
            losses: how many sessions the client has lost.
            now: the time.
            idle: whether streams may have ended because nobody read them for long.
            overflows: whether a side may close because the other one reads too slowly. Calls fail before the end.
        """
        assert runs <= 1, f"{self.number} ran {runs} times"
        task = self.task
        if not task.done():
            return
        if task.cancelled():
            assert self.cancelled, f"{self.number}: only who cancelled it sees it cancelled"
            return
        error = task.exception()
        if error is None:
            assert runs == 1 or not self.counted, f"{self.number} is answered and ran {runs} times"
        elif isinstance(error, ConnectionLost | ChannelClosed):
            lost = losses > self.losses if self.session is None else self.session.over
            why = error.reason if isinstance(error, ChannelClosed) else error
            closing = isinstance(why, ConnectionLost) and why.code in (CloseCode.SLOW_CONSUMER, CloseCode.ABNORMAL)
            assert lost or (closing and overflows), f"{self.number} has failed, and no session was lost: {error!r}"
            if isinstance(error, ConnectionLost):
                assert error.outcome != "not_sent" or runs == 0, f"{self.number} ran, and is called not sent"
        elif isinstance(error, QueueFull):
            assert runs == 0
        elif isinstance(error, RequestTimeout):
            assert now >= self.deadline, error
        else:
            assert isinstance(error, RemoteError) and idle and "within 30 s" in str(error), repr(error)

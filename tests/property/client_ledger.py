"""What the model of `test_client_life` writes down of calls, events and connections, and what must be true of that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from wsrpc import CloseInfo, ConnectionLost, QueueFull, ReconnectInfo, RequestTimeout
from wsrpc._client.client_states import TABLE, Input
from wsrpc.types import ClientState

__all__ = ["Call", "Events", "Life"]


@dataclass
class Call:
    """One request, of the client or of a server."""

    number: int
    task: asyncio.Task[Any]
    timeout: float | None
    idempotent: bool = False
    cancelled: bool = False

    def check(self, runs: int) -> None:
        """The table of docs/explanation/drops.md, for a call of which ``runs`` handlers have begun up to now."""
        task = self.task
        assert runs <= 1 or self.idempotent, f"{self.number} ran {runs} times"
        if not task.done():
            return
        if task.cancelled():
            assert self.cancelled, "only who cancelled it sees it cancelled"
            return
        error = task.exception()
        if error is None:
            assert task.result() == self.number and runs >= 1, (self.number, task.result(), runs)
        elif isinstance(error, ConnectionLost):
            assert error.outcome == "unknown" or runs == 0, f"{self.number} ran {runs} times, and is called not sent"
        elif isinstance(error, QueueFull):
            assert runs == 0 or self.idempotent
        else:
            assert isinstance(error, RequestTimeout) and self.timeout is not None, error


class Events:
    """Events that one side has got, with the connection on which each came."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.not_sent: set[int] = set()

    def check(self) -> None:
        numbers = [number for _, number in self.seen]
        assert len(numbers) == len(set(numbers)), f"an event arrived twice: {self.seen}"
        assert not self.not_sent & set(numbers), "an event arrived that was said not to be sent"
        of: dict[str, list[int]] = {}
        for label, number in self.seen:
            of.setdefault(label, []).append(number)
        for label, those in of.items():
            assert those == sorted(those), f"out of order on connection {label}: {those}"

    def check_connections(self, labels: list[str]) -> None:
        """What came on a connection is older than what came on those after it."""
        numbers = {label: [number for seen, number in self.seen if seen == label] for label in labels}
        last = 0
        for label in labels:
            if numbers[label]:
                assert min(numbers[label]) > last, f"an event of an earlier time came on {label}: {self.seen}, {labels}"
                last = max(numbers[label])


class Life:
    """The states of a client, and the notifications of them."""

    def __init__(self) -> None:
        self.state: ClientState = "idle"
        self.moves: list[Input] = []
        self.labels: list[str] = []
        """Of the connections, in the order in which they were opened."""
        self.is_open = False
        self.closes: list[tuple[CloseInfo, ClientState]] = []
        self.closed_by_user = False
        """Whether `close` was called while the connection was there."""
        self.first = True
        """Whether the present or next connection is the first since `close`."""
        self.first_dialed_at: int | None = None
        """While it dials because of `connect`, and has not been connected or bound since: how many moves came before
        that. ``connect_timeout`` ends such dialing."""
        self.returns = False
        """Whether the present connection is another one than the first."""
        self.notified = 0
        """How often the first `on_reconnect` handler was called on the present connection."""

    def moved(self, before: ClientState, happened: Input, now: ClientState) -> None:
        assert before == self.state, f"it was {self.state}, and is {before} without a reason"
        assert now == TABLE[before][happened][0]
        self.state = now
        if happened is Input.CONNECT:
            self.first_dialed_at = len(self.moves)
        elif happened in (Input.BIND, Input.CLOSE, Input.CANCELLED, Input.OPENED, Input.GAVE_UP):
            self.first_dialed_at = None
        self.moves.append(happened)
        if happened is Input.CLOSE:
            self.closed_by_user = self.is_open
            self.first = True
        elif happened is Input.OPENED:
            assert self.notified == self.returns, f"on_reconnect: {self.notified}, due: {self.returns}, {self.moves}"

    def opened(self, label: str) -> None:
        assert not self.is_open, "open, and the one before is not closed"
        assert label not in self.labels, "one connection is opened twice"
        self.is_open = True
        self.closed_by_user = False
        self.returns, self.first = not self.first, False
        self.notified = 0
        self.labels.append(label)

    def came_back(self, info: ReconnectInfo) -> None:
        assert self.is_open and self.state == "opening", self.state
        assert self.returns and not self.notified, "on_reconnect is for each connection but the first, once"
        assert info.attempts >= 0 and info.downtime >= 0
        self.notified += 1

    def closed(self, info: CloseInfo) -> None:
        assert self.is_open, "closed, and it was not open"
        self.is_open = False
        assert info.user_closed == self.closed_by_user, (info, self.moves)
        # What comes is decided by now: it dials, or another connection has been bound.
        comes = self.state in ("connecting", "waiting", "opening")
        assert info.will_reconnect == comes, (info, self.state)
        self.closes.append((info, self.state))

    def check(self) -> None:
        assert len(self.labels) - len(self.closes) == self.is_open

"""`RoomUsers`: the users in one room, in all processes, and which of them have changed lately."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from ..._base.rooms import Present
from ..._base.scheduler import Timer, Timers
from .user_entries import BATCH, User, UserEntries, UserEntry

BATCHED = 0.05
"""Seconds for which changes are collected."""


class RoomUsers:
    """The users in one room, in all processes. Changes of `BATCHED` seconds are one batch.

    Args:
        all_entries: the entries of all nodes, in all rooms.
        end_batch: called with the users of a batch, and those of them whose state is not what it was before.
    """

    def __init__(
        self,
        name: str,
        all_entries: UserEntries,
        clock: Timers,
        end_batch: Callable[[list[User], list[User]], object],
    ) -> None:
        self.name = name
        self.all_entries = all_entries
        self.clock = clock
        self.recent_changes: dict[User, tuple[float, Present]] = {}
        """Users that have changed, each with the time of the first change and the state before. The oldest is first."""
        self._batch: Timer | None = None
        self._end_batch = end_batch

    def call_later(self, seconds: float, function: Callable[..., object], *args: object) -> Timer:
        """Call a function later."""
        return self.clock.call_at(self.clock.time() + seconds, partial(function, *args))

    def present(self) -> dict[User, Present]:
        """Return the users that are online or away."""
        return {user: self.state(user) for user in self.all_entries.users(self.name)}

    def state(self, user: User) -> Present:
        """Return the state of a user, which is the best one that a node reports."""
        entries = [entry for _, entry in sorted(self.entries(user).items())]
        online = any(entry.online for entry in entries)
        about = tuple(each for entry in entries if entry.online == online for each in entry.about)
        return Present(user, "online" if online else "away" if entries else "offline", about)

    def entries(self, user: User) -> dict[str, UserEntry]:
        """Return the entries of a user, by node."""
        return self.all_entries.entries(self.name, user)

    def last_state(self, user: User) -> Present:
        """Return the state of a user as of the last batch. Later changes are reported with the next one."""
        recent = self.recent_changes.get(user)
        return self.state(user) if recent is None else recent[1]

    def last_states(self) -> Iterator[Present]:
        """Return the states of all users as of the last batch."""
        return map(self.last_state, {**dict.fromkeys(self.all_entries.users(self.name)), **self.recent_changes})

    # ------------------------------------------------------------ batches of changes

    def record_change(self, user: User) -> None:
        """Report a user with the next batch."""
        if user not in self.recent_changes:
            self.recent_changes[user] = (self.clock.time(), self.state(user))
            self.start_batch()

    def start_batch(self, since: float | None = None) -> None:
        """End a batch `BATCHED` seconds after a time, or after now, unless one ends before."""
        if self._batch is None:
            self._batch = self.clock.call_at((self.clock.time() if since is None else since) + BATCHED, self._report)

    def _report(self) -> None:
        self._batch = None
        users: list[User] = []
        changes: list[User] = []
        ripe = self.clock.time() - BATCHED / 2
        for user, (since, before) in [*islice(self.recent_changes.items(), BATCH)]:
            if since > ripe:  # another node may have changed it at the same time
                self.start_batch(since)
                break
            del self.recent_changes[user]
            users.append(user)
            if self.state(user) != before:
                changes.append(user)
        if self.recent_changes:
            self.start_batch(ripe)
        self._end_batch(users, changes)

    def stop(self) -> None:
        """Stop the timer, because the server has ended."""
        if self._batch is not None:
            self._batch.cancel()

"""`PresenceReports`: calls the functions of `Server.on_presence`, so that the last call of all processes is true.

Whatever the order of messages, a process tracks each user of whom it has an entry, and then until nothing has changed
for `TRACKED` seconds in which it received messages; it calls the functions as long as they were not called with the
present state here. It calls them once more with the same state if other processes have perhaps taken it for ended, or
if a process with entries of the same users has ended, because theirs may be the last calls. The process that adopts
entries also does so for users who went offline shortly before.

A process that receives nothing calls no function until it receives messages again: others have perhaps taken it for
ended, and have made their last calls. If it ends meanwhile, too, nobody would make another one after its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ..._base.logs import logger
from ..._base.rooms import Present
from ..._base.scheduler import Tasks, Timer
from ..._core.handlers.lifecycle import ends_the_task
from .room_users import RoomUsers
from .user_entries import User

TRACKED = 10.0
"""Seconds for which a process tracks a user of whom it has no entry any more. Within this time, it receives what other
processes reported before, or notices that it receives nothing."""
HEARING = 2.0
"""Seconds for which a process must have received messages before it calls the functions. Within this time, it receives
what other processes report."""


class PresenceReports:
    """Calls the functions of `Server.on_presence` for the users that this node tracks in a room.

    Args:
        functions: the functions of `Server.on_presence`.
        calls: the tasks that call them.
        room: returns the room with a name.
    """

    def __init__(
        self,
        users: RoomUsers,
        functions: Sequence[Callable[[Any, Present], object]],
        calls: Tasks,
        room: Callable[[str], Any],
    ) -> None:
        self._leaving: dict[User, Timer] = {}
        """Timers. Until then, this node tracks users of whom it has no entry any more, and remembers others who have
        gone offline."""
        self._later: Timer | None = None
        """A timer. Until then, this node calls no function, because it receives nothing."""
        self._users = users
        self._functions = functions
        self._calls = calls
        self._room = room
        self._reported: dict[User, Present | None] = {}
        """The users that this node tracks, each with what the functions were last called with. None: the present state
        must be reported in any case."""
        self._unreported: dict[User, None] = {}
        """Those of them for which the functions are called next."""

    def stop(self) -> None:
        """Stop the timers, because the server has ended."""
        for timer in (self._later, *self._leaving.values()):
            if timer is not None:
                timer.cancel()

    def repeat(self, user: User) -> None:
        """Report the present state of a user with the next batch, even if it was reported before."""
        if self._functions:
            self._reported[user] = None
            self._users.record_change(user)

    def repeat_all(self) -> None:
        """Do this for all users, because other nodes have perhaps reported that they are away."""
        for user in self._reported:
            self.repeat(user)

    def repeat_offline(self) -> None:
        """Do this for the users who have gone offline lately, because the node that has ended has perhaps not."""
        for user in {**self._leaving, **self._users.recent_changes}:  # those of the next batch went offline just now
            if not self._users.entries(user):
                self.repeat(user)

    def check(self, user: User) -> None:
        """Report the state of a user, which may have changed, if this node tracks the user and has not reported it."""
        if user in self._leaving:
            self._leaving.pop(user).cancel()
        if not self._functions:
            return
        entries = self._users.entries(user)
        is_here = self._users.all_entries.me in entries
        if not is_here and (not entries or user in self._reported):
            self._wait(user)
        if (is_here or user in self._reported) and self._reported.setdefault(user, None) != self._users.last_state(
            user
        ):
            if not self._unreported:
                self._start_calls()
            self._unreported[user] = None

    def _wait(self, user: User) -> None:
        self._leaving[user] = self._users.call_later(TRACKED, self._drop, user)

    def _drop(self, user: User) -> None:
        """Stop tracking a user, unless changes are expected."""
        if self._was_deaf(TRACKED) or user in self._unreported or user in self._users.recent_changes:
            self._wait(user)
        else:
            del self._leaving[user]
            self._reported.pop(user, None)

    def _was_deaf(self, seconds: float) -> bool:
        """Whether this node received nothing at some time within the last ``seconds``."""
        return self._users.clock.time() < self._users.all_entries.deaf_at + seconds

    def _start_calls(self) -> None:
        """Call the functions of `Server.on_presence` once this node knows what other nodes report."""
        if self._was_deaf(HEARING):
            self._later = self._users.clock.call_at(self._users.all_entries.deaf_at + HEARING, self._start_calls)
        else:
            self._calls.spawn(self._call_functions())

    async def _call_functions(self) -> None:
        """Call the functions of `Server.on_presence`, one after another."""
        while self._unreported:
            if self._was_deaf(HEARING):
                self._start_calls()
                return
            user = next(iter(self._unreported))
            present = self._users.last_state(user)  # only the latest state counts
            if present != self._reported[user]:
                self._reported[user] = present
                await self._call_functions_with(present)
            del self._unreported[user]
            if self._reported[user] != self._users.last_state(user):
                self._unreported[user] = None

    async def _call_functions_with(self, present: Present) -> None:
        for function in self._functions:
            try:
                result = function(self._room(self._users.name), present)
                if inspect.isawaitable(result):
                    await result
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                logger.exception("on_presence failed for room %r", self._users.name)

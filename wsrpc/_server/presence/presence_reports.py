"""`PresenceReports`: calls the functions of `Server.on_presence`, so that the last call of all processes is true.

Whatever the order of messages, a process watches each user of whom it has an entry, and then until nothing has changed
for `WATCHED` seconds in which it received messages; it calls the functions as long as they were not called with the
present state here. It calls them once more with the same state if other processes have perhaps taken it for ended, or
if a process with entries of the same users has ended, because theirs may be the last calls. The process that adopts
entries also does so for users who went offline shortly before.

A process that receives nothing calls no function until it receives messages again: others have perhaps taken it for
ended, and have made their last calls. If it ends meanwhile, too, nobody would make another one after its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from ..._base.logs import logger
from ..._base.rooms import Present
from ..._base.scheduler import LoopScheduler, Scheduler, Tasks, Timer
from ..._core.handlers.lifecycle import ends_the_task
from .user_entries import RoomUsers, User, UserEntries

WATCHED = 10.0
"""Seconds for which a process watches a user of whom it has no entry any more. Within this time, it receives what other
processes reported before, or notices that it receives nothing."""
HEARING = 2.0
"""Seconds for which a process must have received messages before it calls the functions. Within this time, it receives
what other processes report."""


class PresenceContext:
    """What the rooms with presence of one server have in common.

    Args:
        room: returns the room with a name.
    """

    def __init__(self, room: Callable[[str], Any]) -> None:
        self.room = room
        self.functions: list[Callable[[Any, Present], object]] = []
        """The functions of `Server.on_presence`."""
        self.calls = Tasks()
        """The calls of these functions."""
        self.scheduler: Scheduler = LoopScheduler()
        """Of the present server core."""
        self.entries = UserEntries()
        """Of this server, or of the cluster that it has joined."""

    def call_later(self, seconds: float, function: Callable[[], object]) -> Timer:
        return self.scheduler.call_at(self.scheduler.time() + seconds, function)


class PresenceReports:
    """Calls the functions of `Server.on_presence` for the users that this node watches in a room.

    Attributes:
        leaving: timers. Until then, this node watches users of whom it has no entry any more, and remembers others who
            have gone offline.
        later: a timer. Until then, this node calls no function, because it receives nothing.
    """

    def __init__(self, presence: RoomUsers, context: PresenceContext) -> None:
        self.leaving: dict[User, Timer] = {}
        self.later: Timer | None = None
        self._presence = presence
        self._context = context
        self._last_state = presence.last_state
        self._reported: dict[User, Present | None] = {}
        """The users that this node watches, each with what the functions were last called with. None: the present state
        must be reported in any case."""
        self._unreported: dict[User, None] = {}
        """Those of them for which the functions are called next."""

    def stop(self) -> None:
        """Stop the timers, because the server has ended."""
        for timer in (self.later, *self.leaving.values()):
            if timer is not None:
                timer.cancel()

    def repeat(self, user: User) -> None:
        """Report the present state of a user with the next batch, even if it was reported before."""
        if self._context.functions:
            self._reported[user] = None
            self._presence.record_change(user)

    def repeat_all(self) -> None:
        """Do this for all users, because other nodes have perhaps reported that they are away."""
        for user in self._reported:
            self.repeat(user)

    def repeat_offline(self) -> None:
        """Do this for the users who have gone offline lately, because the node that has ended has perhaps not."""
        for user in {**self.leaving, **self._presence.recent_changes}:  # those of the next batch went offline just now
            if not self._presence.entries(user):
                self.repeat(user)

    def check(self, user: User) -> None:
        """Report the state of a user, which may have changed, if this node watches the user and has not reported it."""
        if user in self.leaving:
            self.leaving.pop(user).cancel()
        if not self._context.functions:
            return
        entries = self._presence.entries(user)
        is_here = self._context.entries.me in entries
        if not is_here and (not entries or user in self._reported):
            self._wait(user)
        if (is_here or user in self._reported) and self._reported.setdefault(user, None) != self._last_state(user):
            if not self._unreported:
                self._start_calls()
            self._unreported[user] = None

    def _wait(self, user: User) -> None:
        self.leaving[user] = self._context.call_later(WATCHED, partial(self._drop, user))

    def _drop(self, user: User) -> None:
        """Stop watching a user, unless changes are expected."""
        if self._was_deaf(WATCHED) or user in self._unreported or user in self._presence.recent_changes:
            self._wait(user)
        else:
            del self.leaving[user]
            self._reported.pop(user, None)

    def _was_deaf(self, seconds: float) -> bool:
        """Whether this node received nothing at some time within the last ``seconds``."""
        return self._context.scheduler.time() < self._context.entries.deaf_at + seconds

    def _start_calls(self) -> None:
        """Call the functions of `Server.on_presence` once this node knows what other nodes report."""
        if self._was_deaf(HEARING):
            self.later = self._context.scheduler.call_at(self._context.entries.deaf_at + HEARING, self._start_calls)
        else:
            self._context.calls.spawn(self._call_functions())

    async def _call_functions(self) -> None:
        """Call the functions of `Server.on_presence`, one after another."""
        while self._unreported:
            if self._was_deaf(HEARING):
                self._start_calls()
                return
            user = next(iter(self._unreported))
            present = self._last_state(user)  # only the latest state counts
            if present != self._reported[user]:
                self._reported[user] = present
                await self._call_functions_with(present)
            del self._unreported[user]
            if self._reported[user] != self._last_state(user):
                self._unreported[user] = None

    async def _call_functions_with(self, present: Present) -> None:
        for function in self._context.functions:
            try:
                result = function(self._context.room(self._presence.name), present)
                if inspect.isawaitable(result):
                    await result
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                logger.exception("on_presence failed for room %r", self._presence.name)

"""`CallThreads`: gives the calls of one session their threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from ..._base.threads import ThreadLimit, Worker, thread_limits
from ...errors import Overloaded, RemoteError, made_here
from ..channels.channel_table import TOO_MANY
from ..channels.source import close_and_log, iterate_in_thread
from ..handlers.invocation import Invocation
from ..sending.answers import Answers


class CallThreads:
    """Gives the calls of one session their threads, within `Limits.threads`.

    Streams have limits of their own, because each keeps its thread while its consumer reads nothing. So slow consumers
    take no thread from a call.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._settings = settings = answers.host.settings
        loop = asyncio.get_running_loop()
        ours = thread_limits(settings.limits.threads, "of this connection use or await", loop)
        # In this order, so that a call which waits for a thread of its connection holds none of the server's.
        self._limits = tuple(zip(ours, settings.threads.limits(loop), strict=True))
        """The limits for calls, and those for streams."""

    async def acquire(self, invocation: Invocation, *, streams: bool) -> Worker:
        """Return the thread for a call, once one is free and the call may start.

        Args:
            streams: the call is known to answer with a stream.

        Raises:
            Overloaded: the call is a request, and no thread was free in time; or the system has no more threads.
            asyncio.CancelledError: the session is over.
        """
        dispatcher = invocation.dispatcher
        until = dispatcher.loop.time() + self._settings.limits.thread_timeout
        with ExitStack() as acquired:
            for limit in self._limits[streams]:
                await limit.acquire(dispatcher.loop, until, partial(self._no_thread, invocation, limit))
                acquired.callback(limit.release)
            if dispatcher.paused is not None:
                await dispatcher.wait_while_paused(invocation)
            try:
                worker = self._settings.threads.acquire()
            except RuntimeError as exc:
                raise self._overloaded(str(exc)) from exc
            worker.on_release = acquired.pop_all()
            return worker

    def _no_thread(self, invocation: Invocation, limit: ThreadLimit, waiting: asyncio.Future[None]) -> None:
        """Reject a request that waits too long. An event waits on, because nobody would learn that it was dropped."""
        why = f"no thread was free for {self._settings.limits.thread_timeout:g} s: {limit.reached}"
        if not limit.reported:
            limit.reported = True
            self._answers.log(logging.WARNING, "%s waits: %s", invocation.label, why, call=invocation.log_fields)
        if invocation.id is not None and not waiting.done():
            waiting.set_exception(self._overloaded(f"{why}, ask again later"))

    def _overloaded(self, why: str) -> Overloaded:
        self._answers.ignored["no free thread"] += 1
        return made_here(Overloaded(why))

    def iterate(self, worker: Worker, counted: bool, items: Iterator[Any]) -> AsyncGenerator[Any]:
        """Iterate over what a call has returned, in its thread. From now on, the call counts as a stream.

        Args:
            counted: whether it counts as one already.

        Raises:
            RemoteError: there are too many streams, so the iterator is closed in its thread. The error does not say
                that the handler did not run.
        """
        if not counted:
            calls = worker.on_release.pop_all()
            for limit in self._limits[True]:
                if not limit.acquire_now():
                    worker.on_release.push(calls)
                    worker.call(close_and_log, items)
                    raise made_here(RemoteError(f"{limit.reached}, close some or ask again later", TOO_MANY))
                worker.on_release.callback(limit.release)
            calls.close()
        return iterate_in_thread(items, worker)

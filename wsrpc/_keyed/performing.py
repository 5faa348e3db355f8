"""`HandlerPerformer`: runs the handler of a call with a key."""

from __future__ import annotations

import asyncio
from typing import Any

from .._core.channels.source import as_source, close_source, iterate
from .._core.handlers.invocation import EXITED, Invocation
from .._core.handlers.layers import close_unawaited
from .._core.wire.rejections import error_to_wire
from .._log.contract import LogGone
from .._log.kept import Encode
from ..errors import RpcError
from .run import End, Performer, Run, failed


class HandlerPerformer(Performer):
    """Runs the handler of a keyed call.

    Args:
        invocation: the call as the handler sees it. It outlives the call that began the run.
        body: the coroutine or the iterator that the handler has returned. It has not started.
        lane: the lane of an ``ordered=True`` handler, whose runs may outlive their callers and sessions.
    """

    def __init__(self, invocation: Invocation, body: Any, encode: Encode, lane: asyncio.Lock | None) -> None:
        self._invocation = invocation
        self._body = body
        self._encode = encode
        self._lane = lane

    def drop(self) -> None:
        close_unawaited(self._body)

    def stopping(self, reason: RpcError) -> None:
        self._invocation.cancel_reason = reason

    async def perform(self, run: Run) -> bytes:
        invocation = self._invocation
        invocation.task = task = asyncio.current_task()
        assert task is not None
        if self._lane is not None:
            try:
                await self._lane.acquire()
            except BaseException:
                self.drop()
                raise
        self.has_started = True
        try:
            return self._encode(End(await self._perform(run)))
        except (LogGone, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as exc:
            if isinstance(exc, asyncio.CancelledError) and task.cancelling():
                raise
            end = self._failed(exc)
            if run.is_handed_over:  # it has failed because it was cancelled
                raise asyncio.CancelledError from exc
            return end
        finally:
            invocation.state = EXITED
            invocation.release()
            if self._lane is not None:
                self._lane.release()

    async def _perform(self, run: Run) -> Any:
        body = self._body
        try:
            if (source := as_source(body)) is None:
                result = await body
                if as_source(result) is not None:
                    raise TypeError("a handler with keep= that streams is itself a generator: it has a `yield`")
                return result
            async for item in iterate(source):
                await run.append(self._encode((item,)))
        finally:
            await close_source(body)

    def _failed(self, exc: BaseException) -> bytes:
        self.failed = True
        invocation = self._invocation
        answers = invocation.dispatcher.answers
        error = answers.sendable(answers.for_caller(exc, invocation), invocation)
        try:
            return self._encode(End(None, True, *error_to_wire(error)))
        except Exception as problem:  # only the peer's codec can encode the data of the error
            return failed(answers.for_caller(problem, invocation))

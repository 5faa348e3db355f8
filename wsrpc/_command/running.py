"""Runs a command in an event loop until it is done, is interrupted, or nobody reads its output any more.

The output is JSON Lines for programs, and readable JSON on a terminal. Characters that the encoding of a terminal does
not have are escaped. Programs get UTF-8, whatever the locale.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial, wraps
from typing import Any

import click
import msgspec

from .._base.signals import handle_signal
from ..errors import WsrpcError, printable
from .command_errors import OUTPUT_CLOSED, UNKNOWN, USAGE, UsageError, explained
from .command_options import Options

END_TIMEOUT = 0.7
"""Maximum seconds from an interruption to the end. The cancellation and the Close frame are sent in this time. The end
does not depend on the remote peer."""
PIPE = 4096
"""Bytes that a pipe that has room accepts without blocking. (PIPE_BUF of Linux; POSIX guarantees 512.)"""


def complain(text: str, details: str = "") -> None:
    """Write a line to stderr, if there is one.

    Args:
        details: further lines, such as a traceback.
    """
    line = printable(text).replace("\n", "\\n")  # a text of the server cannot look like two messages
    with suppress(OSError):  # there is nowhere else to report it
        click.echo("\n".join(filter(None, (f"wsrpc: {line}", printable(details)))), err=True)


class Job:
    """One run of a command, which a signal or the end of its output's reader can stop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.doing = "nothing was sent"
        """The text that an interruption at this moment would report."""
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._code: int | None = None
        """The exit code, once the job has been stopped."""
        self._cause = ""
        """The reason why the job was stopped. An empty reason is not reported."""

    def stop(self, code: int, cause: str) -> None:
        """Cancel the command, and end with ``code`` within `END_TIMEOUT` seconds. Do not report an empty ``cause``."""
        if self._code is not None:
            return
        self._code, self._cause = code, cause
        assert self._task is not None
        self._task.cancel("interrupted")
        self._loop.call_later(END_TIMEOUT, self._loop.stop)

    def run(self, command: Coroutine[Any, Any, None], verbose: bool) -> int:
        """Run ``command`` to its end and return the exit code. An error is reported on stderr."""
        self._task = self._loop.create_task(command)
        failure: BaseException | None = None
        try:
            self._loop.run_until_complete(self._task)
        except (Exception, asyncio.CancelledError) as exc:
            failure = exc
        if self._code is not None:
            if self._cause:
                # Now, because the command counts items until its cancellation has arrived.
                complain(f"{self._cause}: {self.doing}")
            return self._code
        if failure is None:
            return 0
        code, text = explained(failure)
        is_bug = code == UNKNOWN and not isinstance(failure, WsrpcError)
        if text:
            complain(text, "".join(traceback.format_exception(failure)).rstrip() if verbose and is_bug else "")
        return code


def in_event_loop(command: Callable[[Options, Job], Coroutine[Any, Any, None]]) -> Callable[..., int]:
    """Return a function for click that runs a command until it is done or a signal stops it, and returns the exit code.

    SIGINT, SIGTERM and SIGHUP cancel the command, and with it the handler on the remote peer. The event loop is not
    closed: its threads may wait for input or for the resolution of a name, and `leave` ends them.
    """

    @wraps(command)
    def run(**params: Any) -> int:
        options = Options(**params)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        job = Job(loop)

        def interrupted(number: int) -> None:
            name = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
            job.stop(128 + number, name)

        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                handle_signal(loop, number, partial(interrupted, number))
        return job.run(command(options, job), options.verbose)

    return run


# ---------------------------------------------------------------- the output


def print_text(text: str) -> None:
    """Write lines to stdout, in UTF-8 whatever the locale. Unsafe characters are escaped."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise UsageError("stdout is closed, so nothing can be written")
    click.echo(printable(text).encode(), nl=False)


class ValueWriter:
    """Writes values to stdout at once.

    A slow reader blocks only the task that writes. The event loop continues, so the connection still answers pings.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        # The file below the buffers. On Windows, it passes UTF-8 to the console.
        buffer: Any = getattr(sys.stdout, "buffer", None)
        self._file: Any = getattr(buffer, "raw", buffer)
        self.readable = self._file is not None and sys.stdout.isatty()
        """Whether values are indented."""
        self._encoding = sys.stdout.encoding if self.readable else "utf-8"
        if self._file is not None and stat.S_ISFIFO(os.fstat(self._file.fileno()).st_mode) and sys.platform != "win32":
            # The writing end of a pipe becomes readable when its reader has closed the other end.
            asyncio.get_running_loop().add_reader(self._file.fileno(), job.stop, OUTPUT_CLOSED, "")

    async def value(self, value: Any) -> None:
        """Write a value as JSON: on one line, or indented on a terminal."""
        text = msgspec.json.encode(value)
        await self.line((msgspec.json.format(text, indent=2) if self.readable else text).decode())

    async def line(self, text: str) -> None:
        """Write a line. Unsafe characters are escaped. Cancelling is safe."""
        data = f"{printable(text)}\n".encode(self._encoding, "backslashreplace")
        if self._file is None:
            raise UsageError("stdout is closed, so the output cannot be written")
        try:
            if len(data) <= PIPE and _has_room(self._file):
                _write(self._file, data)
            else:
                await asyncio.get_running_loop().run_in_executor(None, _write, self._file, data)
        except BrokenPipeError:
            self._job.stop(OUTPUT_CLOSED, "")
            await asyncio.sleep(0)  # here, the job can be cancelled
        except OSError as exc:
            raise UsageError(f"cannot write to stdout: {exc.strerror}") from exc


def _has_room(file: Any) -> bool:
    return sys.platform != "win32" and bool(select.select([], [file], [], 0)[1])


def _write(file: Any, data: bytes) -> None:
    while data:
        written = file.write(data)
        if written is None:  # the file does not block, and has no room
            select.select([], [file], [])
        else:
            data = data[written:]


class ItemCount:
    """Counts items, for the text that an interruption of the job reports.

    Args:
        text: the beginning of the text, before the number of items.
    """

    def __init__(self, job: Job, text: str) -> None:
        self.items = 0
        self._job = job
        self._text = text

    def add(self) -> None:
        """Count an item."""
        self.items += 1
        self._job.doing = f"{self._text} after {self.items:,} item{'' if self.items == 1 else 's'}"


def exit_process(code: int) -> None:
    """End the process with ``code``, without waiting for its threads."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # pyright: ignore[reportUnnecessaryComparison]
                stream.flush()
        except OSError:  # the failure to write was reported before
            code = code or USAGE
    os._exit(code)

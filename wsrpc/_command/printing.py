"""Output of the command: JSON Lines for programs, readable JSON on a terminal.

Characters that the encoding of a terminal does not have are escaped. Programs get UTF-8, whatever the locale.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
from typing import Any

import click
import msgspec

from ..errors import printable
from .command_errors import OUTPUT_CLOSED, UsageError
from .running import Job

PIPE = 4096
"""Bytes that a pipe that has room accepts without blocking. (PIPE_BUF of Linux; POSIX guarantees 512.)"""


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
        note: the beginning of the text, before the number of items.
    """

    def __init__(self, job: Job, text: str) -> None:
        self.items = 0
        self._job = job
        self._text = text

    def add(self) -> None:
        """Count an item."""
        self.items += 1
        self._job.doing = f"{self._text} after {self.items:,} item{'' if self.items == 1 else 's'}"

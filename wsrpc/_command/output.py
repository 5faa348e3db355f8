"""Output of the command: JSON Lines for programs, readable JSON on a terminal, progress on stderr.

A terminal shows what its encoding has, and the rest escaped. Programs get UTF-8, whatever the locale.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
import time
from typing import Any

import msgspec

from ..errors import printable
from .failures import OUTPUT_CLOSED, UsageError
from .running import Job

PIPE = 4096
"""Bytes that a pipe takes without blocking if it takes any. (Linux's PIPE_BUF; POSIX guarantees 512.)"""


def _is_terminal(stream: Any) -> bool:
    """Return whether ``stream`` is a terminal, and not closed."""
    return stream is not None and stream.isatty()


class Output:
    """Writes values to stdout at once.

    A slow reader blocks only the task that writes. The event loop goes on, so the connection still answers pings.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        # The file below the buffers, which on Windows gives text in UTF-8 to the console.
        buffer: Any = getattr(sys.stdout, "buffer", None)
        self._file: Any = getattr(buffer, "raw", buffer)
        self.readable = _is_terminal(sys.stdout)
        """Whether values are indented, and coloured if `rich` is installed."""
        self._encoding = sys.stdout.encoding if self.readable else "utf-8"
        self._colours = _colours() if self.readable else None
        if self._file is not None and stat.S_ISFIFO(os.fstat(self._file.fileno()).st_mode) and sys.platform != "win32":
            # The writing end of a pipe becomes readable when its reader has closed the other end.
            asyncio.get_running_loop().add_reader(self._file.fileno(), job.stop, OUTPUT_CLOSED, "")

    async def value(self, value: Any) -> None:
        """Write a value as JSON."""
        await self.line(values=self.as_json(value))

    def as_json(self, value: Any) -> str:
        """Return a value as JSON: on one line, or indented on a terminal."""
        text = msgspec.json.encode(value)
        return (msgspec.json.format(text, indent=2) if self.readable else text).decode()

    async def line(self, text: str = "", *, values: str = "") -> None:
        """Write a line. Unsafe characters are escaped. Cancelling is safe.

        Args:
            values: JSON for the end of the line, which a terminal shows in colours.
        """
        text, values = printable(text), printable(values)
        if values and self._colours is not None:
            values = self._colours(values)
        data = f"{text}{values}\n".encode(self._encoding, "backslashreplace")
        if self._file is None:
            raise UsageError("stdout is closed, so the output cannot be written")
        try:
            if len(data) <= PIPE and _has_room(self._file):
                _write(self._file, data)
            else:
                await asyncio.get_running_loop().run_in_executor(None, _write, self._file, data)
        except BrokenPipeError:
            self._job.stop(OUTPUT_CLOSED, "")
            await asyncio.sleep(0)  # where the job is cancelled
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


def _colours() -> Any:
    """Return a function that colours JSON, or None if `rich` is missing or the environment turns colours off."""
    if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return None
    try:
        from rich.console import Console
        from rich.highlighter import JSONHighlighter
    except ImportError:
        return None
    console = Console(file=sys.stdout, soft_wrap=True, highlighter=JSONHighlighter())

    def coloured(text: str) -> str:
        with console.capture() as capture:
            console.print(text, markup=False, emoji=False, end="")
        return capture.get()

    return coloured


class Progress:
    """Counts items and bytes, and shows the counts in a line on stderr if that is a terminal."""

    EVERY = 0.1
    """Seconds between two updates of the line."""

    def __init__(self, verb: str, job: Job, note: str, *, size: int | None = None, shown: bool = False) -> None:
        """
        Args:
            verb: "sent" or "received".
            note: the beginning of the text that an interruption of the job reports, before the number of items.
            size: the bytes in all, if that is known.
            shown: whether the line may be shown; it may not if the items themselves appear on the terminal.
        """
        self.items = 0
        self._bytes = 0
        self._verb = verb
        self._job = job
        self._note = note
        self._size = size
        self._shows = shown and _is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
        self._next = 0.0

    def add(self, size: int) -> None:
        """Count an item of so many bytes."""
        self.items += 1
        self._bytes += size
        self._job.doing = f"{self._note} after {_counted(self.items)}"
        if self._shows and (now := time.monotonic()) >= self._next:
            self._next = now + self.EVERY
            self._show("")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        """Show the last counts, and end the line."""
        if self._shows and self.items:
            self._show("\n")

    def _show(self, end: str) -> None:
        part = f" of {_size(self._size)}, {self._bytes * 100 // self._size} %" if self._size else ""
        text = f"{self._verb} {_counted(self.items)}, {_size(self._bytes)}{part}"
        # A line that the terminal has wrapped cannot be overwritten, and Ctrl-C appends "^C" to it.
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
        if columns > 0:  # 0 if the terminal has no size, as on some serial lines
            text = text[: max(0, columns - 3)]
        sys.stderr.write(f"\r\x1b[K{text}{end}")
        sys.stderr.flush()


def _counted(items: int) -> str:
    """Return a number of items in words."""
    return f"{items:,} item{'' if items == 1 else 's'}"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"

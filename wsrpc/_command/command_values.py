"""Arguments of the command line as values: JSON, the contents of files, and items from stdin."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal, NamedTuple

import msgspec

from ..errors import one_line
from .command_errors import UsageError

Form = Literal["json", "text", "bytes"]
"""Kinds of the items of an upload: the JSON of a line, the text of a line, or bytes as they are read."""

CHUNK_BYTES = 16 * 1024
"""Bytes read at once, and the most bytes in an item of ``bytes``. As base64 they fit into the 32 KiB that Go reads."""
LARGEST_FILE = LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of one value. By default, wsrpc accepts 4 MiB (`Limits.message_bytes`); other servers accept more."""
SHOWN = 60
"""Characters of a wrong argument that an error shows."""


def argument(text: str) -> Any:
    """Return the value that an argument stands for.

    ``@FILE`` is the JSON in a file, ``@text:FILE`` its text and ``@bytes:FILE`` its bytes. Everything else is JSON.

    Raises:
        UsageError: the argument is not JSON, or the file cannot be read.
    """
    if not text.startswith("@"):
        try:
            return msgspec.json.decode(text)
        except (ValueError, RecursionError) as exc:
            raise UsageError(
                f"{one_line(text, SHOWN) or 'an empty argument'} is not JSON: {_advice(text, exc)}"
            ) from exc
    form, _, path = text[1:].partition(":")
    if form not in ("text", "bytes"):
        form, path = "json", text[1:]
    if not path:
        raise UsageError(f"{text} names no file: write {text}FILE, or {_quoted(text)} for the text")
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    if len(content) > LARGEST_FILE:
        raise UsageError(
            f"{path} has more than {LARGEST_FILE:,} bytes: upload it with --send, if its handler reads items"
        )
    return _value(content, form, path, f"@text:{path} for its text, or @bytes:{path} for its bytes")


def _quoted(text: str) -> str:
    return one_line(shlex.quote(json.dumps(text, ensure_ascii=not text.isprintable())))


def _advice(text: str, error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "it is not text in UTF-8; give @bytes:FILE for the bytes in a file"
    if text[:1] in ("{", "[", '"'):
        return f"{_reason(error)}; the shell may have removed quotes, so put the argument into '…'"
    return f"arguments are JSON, so write {_quoted(text)} for the text"


def _reason(error: Exception) -> str:
    """Return a short description of an error in JSON."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return one_line(error).removeprefix("JSON is malformed: ").replace("Input data was truncated", "its end is missing")


def _value(data: bytes, form: str, name: str, instead: str) -> Any:
    """Return the value of a file or a line.

    Args:
        name: the name of the file or line, for errors.
        instead: the advice of an error for data that has another form.
    """
    if form == "bytes":
        return data
    try:
        return data.decode() if form == "text" else msgspec.json.decode(data)
    except (ValueError, RecursionError) as exc:
        why = "text in UTF-8" if form == "text" else f"JSON: {_reason(exc)}"
        raise UsageError(f"{name} is not {why}; give {instead}") from exc


class Items(NamedTuple):
    """Items of an upload, in a file or on stdin."""

    file: int
    """The file descriptor."""
    name: str
    form: Form

    async def read(self, count: Callable[[], None]) -> AsyncGenerator[Any]:
        """Yield the items. Call ``count`` for an item when the next item is requested. Cancelling is safe.

        A thread reads, because only threads can read files and pipes on all systems without blocking the event loop. A
        thread that still waits for input when the program ends cannot be joined, so the program ends without it.
        """
        number = 0
        rest: list[bytes] = []
        while chunk := await self._chunk():
            if self.form == "bytes":
                yield chunk
                count()
                continue
            lines = chunk.split(b"\n")
            for line in lines[:-1]:
                number += 1
                whole = b"".join((*rest, line))
                rest.clear()
                if self.form == "text" or whole.strip():
                    yield self._item(whole, number)
                    count()
            if lines[-1]:
                rest.append(lines[-1])
                if len(rest) * CHUNK_BYTES > LONGEST_LINE:
                    raise UsageError(f"line {number + 1:,} of {self.name} has more than {LONGEST_LINE:,} bytes")
        if rest:
            whole = b"".join(rest)
            yield self._item(whole, number + 1)
            count()

    async def _chunk(self) -> bytes:
        try:
            return await asyncio.get_running_loop().run_in_executor(None, os.read, self.file, CHUNK_BYTES)
        except OSError as exc:
            raise UsageError(f"cannot read {self.name}: {exc.strerror}") from exc

    def _item(self, line: bytes, number: int) -> Any:
        if self.form == "text":
            line = line.removesuffix(b"\r")
        return _value(line, self.form, f"line {number:,} of {self.name}", "--as text or --as bytes")


def items_of(path: str, form: Form) -> Items:
    """Return the items of a file, or of stdin if ``path`` is ``-``.

    Raises:
        UsageError: the file cannot be read, or stdin is closed.
    """
    if path == "-":
        if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise UsageError("stdin is closed: there is nothing to upload")
        return Items(sys.stdin.fileno(), "stdin", form)
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    return Items(file, path, form)
